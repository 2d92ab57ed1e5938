"""One connection, as executors need it, which are no coroutines: it waits on the loop that runs, or on its own."""

import asyncio
import contextlib
import re
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, TypeVar

import asyncpg

from mcp_gateway.core.store.connection import Parameters, Row
from mcp_gateway.core.store.postgres.calls import may_wait, wait_for
from mcp_gateway.core.store.postgres.words import Ordered, statement_of

T = TypeVar("T")

CONNECT_S = 2.0
"""However long a server that is there takes to answer: one that takes longer is not there."""
WHICH: Literal["primary"] = "primary"
"""A standby, where an address still leads just after another took over, would be read for as long as it is there."""
_MOST_PREPARED = 500
_ESCAPE = re.compile(r"\\(?:u0000|.)", re.DOTALL)
"""Of JSON, as far as it tells U+0000 from a backslash that is escaped."""
_Convert = Callable[[Any], Any]


class Where(NamedTuple):
    """Where the database is, and for how long a connection waits for its answers."""

    url: str
    answer_s: float
    settings: Mapping[str, str]
    """Of the session."""


class Done:
    """What has come of a statement."""

    def __init__(self, link: "PostgresLink", rows: list[Row], status: str) -> None:
        self._link = link
        self._rows = rows
        self._next = 0
        last = status.rpartition(" ")[2]
        self.rowcount = int(last) if last.isdigit() else 0

    @property
    def lastrowid(self) -> int | None:
        """The number that the last row got which was inserted by this connection, or that the statement brings."""
        if self._rows:
            return int(self._rows[0][0])
        return int(self._link.execute("SELECT lastval()").fetchone()[0])

    def fetchone(self) -> Any:
        if self._next >= len(self._rows):
            return None
        self._next += 1
        return self._rows[self._next - 1]

    def fetchall(self) -> list[Any]:
        return self._rows[self._next :]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())


class _Prepared(NamedTuple):
    statement: "asyncpg.prepared_stmt.PreparedStatement[asyncpg.Record]"
    ordered: Ordered
    converts: Sequence[tuple[int, _Convert]]
    """By the places of the parameters that need it."""


class PostgresLink:
    """Used by one thread at a time, and either always within `carried_out` or never."""

    def __init__(self, where: Where) -> None:
        self._where = where
        self._loop = asyncio.new_event_loop()
        """Its own, for where none runs that could be waited on."""
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._prepared = OrderedDict[str, _Prepared]()
        self._answer_s = where.answer_s
        self.total_changes = 0
        self.in_transaction = False
        self.ended: Callable[[], None] = _ignore
        """Called on the loop once a connection has ended, for whatever reason."""

    @property
    def is_open(self) -> bool:
        """As far as is known."""
        return self._connection is not None and not self._connection.is_closed()

    @property
    def process_id(self) -> int:
        """Of the server's process for this connection."""
        assert self._connection is not None
        return int(self._connection.get_server_pid())

    @property
    def version(self) -> str:
        assert self._connection is not None
        server = self._connection.get_server_version()
        return f"{server.major}.{server.minor}"

    def connect(self) -> None:
        """Raises what `faults.py` names."""
        self.drop()
        settings = {"application_name": "mcp-gateway", "TimeZone": "UTC", **self._where.settings}
        self._connection = self._run(
            asyncpg.connect(
                self._where.url,
                timeout=CONNECT_S,
                command_timeout=None,
                server_settings=settings,
                target_session_attrs=WHICH,
            )
        )
        self._connection.add_termination_listener(lambda _: self.ended())
        self._run(
            self._connection.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=_number, format="text")
        )

    def patient(self, answer_s: float | None) -> None:
        """From now on wait so long for an answer; None for as long as at first."""
        self._answer_s = self._where.answer_s if answer_s is None else answer_s

    def script(self, sql: str) -> None:
        """Several statements, without parameters, in one go."""
        assert self._connection is not None
        self._run(self._connection.execute(sql, timeout=self._answer_s))

    def execute(self, sql: str, parameters: Parameters = (), /) -> Done:
        prepared = self._prepare(sql)
        records = self._run(prepared.statement.fetch(*_given(prepared, parameters), timeout=self._answer_s))
        done = Done(self, [tuple(record) for record in records], prepared.statement.get_statusmsg())
        if not prepared.statement.get_statusmsg().startswith("SELECT"):
            self.total_changes += done.rowcount
        return done

    def executemany(self, sql: str, rows: Iterable[Parameters], /) -> None:
        many = list(rows)
        if not many:
            return
        prepared = self._prepare(sql)
        given = [_given(prepared, parameters) for parameters in many]
        self._run(prepared.statement.executemany(given, timeout=self._answer_s))
        self.total_changes += len(many)

    def copy(self, table: str, columns: Mapping[str, str], rows: Iterable[Row]) -> None:
        """Rows of these columns, by the types of these, as they come: however many, few are in memory."""
        assert self._connection is not None
        converts = [_CONVERTS.get(kind) for kind in columns.values()]
        given = (
            [
                one if convert is None or one is None else convert(one)
                for one, convert in zip(row, converts, strict=True)
            ]
            for row in rows
        )
        self._run(
            self._connection.copy_records_to_table(table, records=given, columns=list(columns), timeout=self._answer_s)
        )

    def cancel(self) -> None:
        """From another thread: give up what is asked now."""
        self._loop.call_soon_threadsafe(self._cancel_all)

    def pause(self, seconds: float) -> None:
        self._run(asyncio.sleep(seconds))

    def rest(self) -> None:
        """Forget what was to be given up and has ended by itself."""
        with contextlib.suppress(asyncio.CancelledError):
            self.pause(0)

    def drop(self) -> None:
        """Without asking whoever may not answer any more."""
        self._prepared.clear()
        self.in_transaction = False
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.terminate()
            self.pause(0)

    def close(self) -> None:
        """The connection, and what it needs of this process."""
        if self.is_open and self._connection is not None:
            try:
                self._run(self._connection.close(timeout=1))
            except Exception:  # noqa: BLE001 - it ends in any case
                self.drop()
        self.drop()
        self._run(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _prepare(self, sql: str) -> _Prepared:
        found = self._prepared.get(sql)
        if found is not None:
            self._prepared.move_to_end(sql)
            return found
        assert self._connection is not None
        text, ordered = statement_of(sql)
        statement = self._run(self._connection.prepare(text, timeout=self._answer_s))
        kinds = enumerate(one.name for one in statement.get_parameters())
        converts = [(place, _CONVERTS[kind]) for place, kind in kinds if kind in _CONVERTS]
        found = self._prepared[sql] = _Prepared(statement, ordered, converts)
        if len(self._prepared) > _MOST_PREPARED:
            self._prepared.popitem(last=False)
        return found

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return wait_for(work) if may_wait() else self._loop.run_until_complete(work)

    def _cancel_all(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()


class ThreadedPostgresLink(PostgresLink):
    """For whoever has a loop that runs: its own is in a thread that is its own, too."""

    def __init__(self, where: Where) -> None:
        super().__init__(where)
        self._thread = ThreadPoolExecutor(1, "postgres-link")

    def close(self) -> None:
        super().close()
        self._thread.shutdown()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._thread.submit(self._loop.run_until_complete, work).result()


def _ignore() -> None:
    """What nobody waits for."""


def _given(prepared: _Prepared, parameters: Parameters) -> Sequence[Any]:
    given = list(prepared.ordered(parameters))
    for place, convert in prepared.converts:
        if given[place] is not None:
            given[place] = convert(given[place])
    return given


def _text(value: Any) -> Any:
    """Without the one character that PostgreSQL takes in no text, nor in JSON, where it is escaped.

    What is neither text nor a number is given on as it is, and refused by the driver.
    """
    if not isinstance(value, str | int | float):
        return value
    text = value if isinstance(value, str) else str(value)
    if "\\u0000" in text and text.startswith(("[", "{")):
        text = _ESCAPE.sub(lambda one: "\\ufffd" if one[0] == "\\u0000" else one[0], text)
    return text.replace("\x00", "\ufffd") if "\x00" in text else text


def _texts(values: Iterable[Any]) -> list[Any]:
    return [None if one is None else _text(one) for one in values]


def _number(text: str) -> int | float:
    """What sums of numbers are read as."""
    return int(text) if text.lstrip("-").isdigit() else float(text)


_CONVERTS: Mapping[str, _Convert] = {"bool": bool, "text": _text, "text[]": _texts, "numeric": str}
