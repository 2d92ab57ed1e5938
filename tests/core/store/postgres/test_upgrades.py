"""A database that a later version changes: what is only added comes while servers of the version before serve."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.store.database import SchemaTooNew, ServedByOlder
from mcp_gateway.core.store.postgres import migrations
from mcp_gateway.core.store.postgres.database import PostgresDatabase
from mcp_gateway.core.store.postgres.migrations import _Step, _step, _steps
from mcp_gateway.core.store.postgres.store import PostgresStore
from mcp_gateway.core.store.postgres.words import statement_of
from mcp_gateway.core.store.sole import AlreadyServed
from tests.clocks import MsClock
from tests.core.ledger.replicas import account_in
from tests.core.store.postgres.test_statements import STATEMENTS
from tests.postgres_server import Outside, postgres_server

pytestmark = pytest.mark.engines

NEXT = max(_steps()) + 1
NEEDED = max(number for number, step in _steps().items() if not step.only_adds)
ADDS = "-- Only adds: what the next version keeps.\nALTER TABLE names ADD COLUMN of_next bigint;"
CHANGES = "ALTER TABLE names ADD COLUMN of_next bigint;"
HEADER = re.compile(r"-- Only adds: \S")


@pytest.fixture
def url() -> str:
    return postgres_server().make_empty()


@pytest.fixture
def next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "NextVersion":
    return NextVersion(tmp_path, monkeypatch)


class NextVersion:
    """This process is of the version that follows ours, with one more step, or of ours again."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file = folder / "step.sql"
        self._monkeypatch = monkeypatch
        self._ours = _steps()

    def begins(self, sql: str) -> None:
        self._file.write_text(sql)
        self._know({NEXT: _step(self._file)})

    def ends(self) -> None:
        self._know({})

    def _know(self, more: dict[int, _Step]) -> None:
        self._monkeypatch.setattr(migrations, "_steps", lambda: self._ours | more)


def shared(url: str, folder: Path, patience_s: float = 0.0) -> PostgresDatabase:
    return PostgresDatabase(folder, url, patience_s, is_shared=True)


async def opened(database: PostgresDatabase) -> PostgresStore:
    return await database.open(now_ms=MsClock(), report_timeout_s=1, is_server=True)


async def test_what_only_adds_comes_while_servers_of_the_version_before_serve_and_begin_again(
    url: str, tmp_path: Path, next_version: NextVersion
) -> None:
    database = shared(url, tmp_path)
    ours = await opened(database)
    await account_in(ours, MsClock())
    next_version.begins(ADDS)
    theirs = await opened(database)
    assert database.schema() == (NEXT, NEXT, NEEDED)
    assert await account_in(theirs, MsClock()) != await account_in(ours, MsClock())
    await ours.close()
    next_version.ends()
    again = await opened(database)  # as one that dies meanwhile, or where the next version is taken back
    database.upgrade_unless_served()
    await account_in(again, MsClock())
    await again.close()
    await theirs.close()
    sole = await opened(PostgresDatabase(tmp_path, url, patience_s=0))
    await sole.close()


async def test_what_changes_more_waits_until_none_serves_and_is_not_for_the_version_before(
    url: str, tmp_path: Path, next_version: NextVersion
) -> None:
    database = shared(url, tmp_path)
    ours = await opened(database)
    next_version.begins(CHANGES)
    with pytest.raises(AlreadyServed, match="end all of them first"):
        await opened(database)
    with pytest.raises(ServedByOlder):
        database.upgrade_unless_served()
    await ours.close()
    theirs = await opened(database)
    next_version.ends()
    with pytest.raises(SchemaTooNew, match=f"schema {NEXT}"):
        await opened(database)
    with pytest.raises(SchemaTooNew):
        database.upgrade_unless_served()
    await theirs.close()


async def test_a_command_of_the_next_version_adds_too(url: str, tmp_path: Path, next_version: NextVersion) -> None:
    database = shared(url, tmp_path)
    ours = await opened(database)
    next_version.begins(ADDS)
    PostgresDatabase(tmp_path, url, patience_s=0).upgrade_unless_served()
    assert database.schema().applied == NEXT
    await account_in(ours, MsClock())
    await ours.close()
    sole = await opened(PostgresDatabase(tmp_path, url, patience_s=0))
    with pytest.raises(AlreadyServed, match="set it there, too"):
        await opened(database)
    await sole.close()


async def test_nobody_is_held_up_by_a_change_that_waits_for_a_lock(
    url: str, tmp_path: Path, next_version: NextVersion
) -> None:
    database = shared(url, tmp_path)
    ours = await opened(database)
    next_version.begins(ADDS)
    with Outside(url) as outside:
        outside.run("BEGIN; LOCK TABLE names IN ACCESS SHARE MODE")
        with pytest.raises(DatabaseError, match="keeps locked"):
            await opened(database)
        outside.run("COMMIT")
    theirs = await opened(database)
    await theirs.close()
    await ours.close()


def test_of_five_that_share_a_new_database_all_begin(url: str, tmp_path: Path) -> None:
    def begin(_: int) -> None:
        shared(url, tmp_path, patience_s=60)._migrate_beside_others()

    with ThreadPoolExecutor(5) as starters:
        assert list(starters.map(begin, range(5))) == [None] * 5


def test_a_database_of_before_any_step_that_only_adds_is_read_and_goes_on(
    url: str, tmp_path: Path, next_version: NextVersion
) -> None:
    database = shared(url, tmp_path)
    database.upgrade_unless_served()
    with Outside(url) as outside:
        outside.run("ALTER TABLE schema_migrations DROP COLUMN only_adds")
    assert database.schema() == (NEXT - 1, NEXT - 1, NEXT - 1)
    next_version.begins(ADDS)
    database.upgrade_unless_served()
    assert database.schema() == (NEXT, NEXT, NEXT - 1)


def test_no_server_minds_a_column_more(url: str, tmp_path: Path) -> None:
    """PostgreSQL refuses what was prepared, where its rows are of other columns all of a sudden."""

    def columns() -> dict[str, object]:
        with Outside(url) as outside:
            for number, text in enumerate(STATEMENTS.values()):
                outside.run(f"PREPARE statement_{number} AS {statement_of(text).text}")
            return dict(outside.rows("SELECT name, CAST(result_types AS text) FROM pg_prepared_statements"))

    PostgresDatabase(tmp_path, url).upgrade_unless_served()
    before = columns()
    with Outside(url) as outside:
        for (table,) in outside.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
            outside.run(f"ALTER TABLE {table} ADD COLUMN of_next bigint")
    after = columns()
    named = dict(zip((f"statement_{number}" for number in range(len(STATEMENTS))), STATEMENTS, strict=True))
    assert [named[name] for name in before if name in named and before[name] != after[name]] == []


def said(sql: str) -> Iterator[str]:
    """The statements of a step, without comments and what functions do, each on one line."""
    text = re.sub(r"\$\$.*?\$\$", "''", re.sub(r"--[^\n]*", "", sql), flags=re.S)
    return (" ".join(one.split()) for one in text.split(";") if one.strip())


def is_only_added(sql: str) -> bool:
    """What servers do that know none of it stays right, and none of them waits for long."""
    own = set(re.findall(r"CREATE TABLE (\w+)", sql))
    known = "|".join(own) or "(?!)"
    functions = "|".join(re.findall(r"CREATE FUNCTION (\w+)", sql)) or "(?!)"
    may = re.compile(
        rf"CREATE TABLE \w+ .*|CREATE FUNCTION .*|CREATE TYPE .*|CREATE SEQUENCE .*|CREATE VIEW .*"
        rf"|CREATE (UNIQUE )?INDEX \w+ ON ({known})\b.*|CREATE TRIGGER \w+ .* ON ({known}) .*"
        rf"|CREATE TRIGGER \w+ AFTER .* EXECUTE FUNCTION ({functions})\(\)"
        rf"|ALTER TABLE ({known}) .*|INSERT INTO ({known})\b.*"
        rf"|ALTER TABLE \w+ (ADD COLUMN \w+ \w+( COLLATE \"C\")?( (NOT NULL )?DEFAULT [^,()]+)?(, |$))+"
    )
    return all(may.fullmatch(one) for one in said(sql))


def test_what_only_adds_says_nothing_else() -> None:
    files = sorted(Path(migrations.__file__).parent.glob("*.sql"))
    assert not is_only_added(files[0].read_text().replace("CREATE TABLE", "DROP TABLE"))
    for file in files:
        sql = file.read_text()
        if sql.startswith("-- Only adds"):
            assert HEADER.match(sql), f"{file.name} does not say what it adds"
            assert is_only_added(sql), f"{file.name} says that it only adds"


@pytest.mark.parametrize(
    ("sql", "is_so"),
    [
        (ADDS, True),
        ("CREATE TABLE more (id bigint); CREATE UNIQUE INDEX by_id ON more (id); INSERT INTO more VALUES (1)", True),
        ("CREATE FUNCTION more_v2() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN DELETE FROM names; END $$;", True),
        ("ALTER TABLE names ADD COLUMN a bigint, ADD COLUMN b text NOT NULL DEFAULT 'x'", True),
        (
            "CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; "
            "CREATE TRIGGER more AFTER INSERT ON names FOR EACH STATEMENT EXECUTE FUNCTION more()",
            True,
        ),
        ("CREATE TRIGGER more AFTER INSERT ON names FOR EACH ROW EXECUTE FUNCTION json_each()", False),
        ("ALTER TABLE names ADD COLUMN a bigint NOT NULL", False),
        ("ALTER TABLE names ADD COLUMN a bigint, DROP COLUMN number", False),
        ("ALTER TABLE names ADD COLUMN a bigint REFERENCES names (number)", False),
        ("ALTER TABLE names ADD CHECK (number > 0)", False),
        ("CREATE OR REPLACE FUNCTION settle_batch_v1() RETURNS bigint LANGUAGE sql AS $$ SELECT 1 $$", False),
        ("CREATE INDEX names_by_name ON names (name)", False),
        ("DROP TRIGGER requests_are_summed ON request_rows", False),
        ("UPDATE names SET name = ''", False),
    ],
)
def test_what_only_adds_is_told_from_what_does_not(sql: str, is_so: bool) -> None:
    assert is_only_added(sql) == is_so
