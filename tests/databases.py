"""Databases whose schema is up to date, copied from one: migrating takes 10 ms, and few tests are about that."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import pytest

from mcp_gateway.core import ids
from mcp_gateway.core.config import Settings
from mcp_gateway.core.engine import Read, Report, Scan, Write
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.gateway import Gateway
from mcp_gateway.core.ledger.entries import Settle
from mcp_gateway.core.ledger.rules import Amount
from mcp_gateway.core.record import RequestRecord
from mcp_gateway.core.store.sql.requests import insert_records
from mcp_gateway.core.store.sqlite import migrations
from mcp_gateway.core.store.sqlite.database import DATABASE
from mcp_gateway.core.store.sqlite.executors import EXECUTORS
from mcp_gateway.core.store.sqlite.migrations import migrate
from mcp_gateway.core.store.sqlite.space import let_it_shrink
from mcp_gateway.core.store.sqlite.store import Store
from mcp_gateway.core.store.transaction import Executors, Parameters, Row, Rows, Transaction

if TYPE_CHECKING:
    from tests.postgres_server import Outside

T = TypeVar("T")
AnyOutside: TypeAlias = "OutsideFile | Outside"


@dataclass(frozen=True, slots=True)
class Work(Write[T]):
    """Whatever a test wants done in the writer's transaction."""

    work: Callable[[sqlite3.Connection], T]


@dataclass(frozen=True, slots=True)
class Together(Write[Any]):
    """One that is carried out together with its neighbours of this type, by the group of the first."""

    group: Callable[[sqlite3.Connection, Sequence[Any]], Sequence[Any]]
    argument: Any


class AlsoTogether(Together):
    """One that is no neighbour of those."""


@dataclass(frozen=True, slots=True)
class Query(Scan[Any]):
    """Whatever a test wants to see: a list of rows."""

    sql: str
    parameters: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class AskedBy(Report[Any]):
    """The same in an account's lane."""

    account_id: str
    sql: str
    parameters: Sequence[Any] | Mapping[str, Any] = ()


def changing(sql: str, parameters: Sequence[Any] = ()) -> Work[None]:
    """One statement of a test's own."""

    @Work
    def change(connection: sqlite3.Connection) -> None:
        connection.execute(sql, parameters)

    return change


FOR_TESTS = EXECUTORS | Executors(
    alone={Work: lambda transaction, write: write.work(_own(transaction))},
    together={
        Together: lambda transaction, writes: _in_group(transaction, writes),
        AlsoTogether: lambda transaction, writes: _in_group(transaction, writes),
    },
    reads=dict.fromkeys((Query, AskedBy), lambda rows, read: rows.all(read.sql, read.parameters)),
)


def _in_group(transaction: Transaction, writes: Sequence[Together]) -> Sequence[Any]:
    return writes[0].group(_own(transaction), [write.argument for write in writes])


def _own(transaction: Transaction) -> sqlite3.Connection:
    """The connection of its engine, which is SQLite."""
    return cast(sqlite3.Connection, transaction.connection)


is_on_postgres = False
"""Whether stores and gateways keep their database there that say nothing of it: `--engine postgres`."""


async def open_store(path: Path, *, now_ms: Callable[[], int] = ids.now_ms, **options: Any) -> Store:
    """A store that also does what tests alone want: of the file, or of what is in its place on the engine chosen.

    The options are SQLite's alone.
    """
    if is_on_postgres:
        from tests.postgres_stores import open_at, url_of  # noqa: PLC0415 - its server takes long to begin

        return cast(Store, await open_at(url_of(path), now_ms))
    return await Store.open(path, FOR_TESTS, now_ms=now_ms, **options)


def store_of(gateway: Gateway) -> Store:
    """The store of an open gateway, whose rooms know it as an engine alone."""
    return cast(Store, gateway.ledger._store)


class OutsideFile:
    """Somebody else's connection to a file of SQLite's; each statement is committed at once."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)

    def __enter__(self) -> "OutsideFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def rows(self, sql: str, *parameters: Any) -> list[Any]:
        return self._connection.execute(sql, parameters).fetchall()

    def records(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        cursor = self._connection.execute(sql, parameters)
        names = [name for name, *_ in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """It writes, as long as the block runs."""
        self._connection.execute("BEGIN IMMEDIATE")
        yield
        self._connection.execute("ROLLBACK")


def locked(database: Path) -> contextlib.AbstractAsyncContextManager[None]:
    """Another process's write transaction, as long as the block runs."""
    return _locked(outside_of(database))


@contextlib.asynccontextmanager
async def _locked(another: AnyOutside) -> AsyncIterator[None]:
    with another:
        async with in_thread(another.locked()):
            yield


@contextlib.contextmanager
def run_by(
    run: Callable[[Awaitable[Any]], Any], befalls: contextlib.AbstractAsyncContextManager[None]
) -> Iterator[None]:
    """For a test that runs its loop now and then, by `run`."""
    run(befalls.__aenter__())
    try:
        yield
    finally:
        run(befalls.__aexit__(None, None, None))


def outside_of(path: Path) -> AnyOutside:
    """Somebody else's connection to what `open_store` opens."""
    if not is_on_postgres:
        return OutsideFile(path)
    from tests.postgres_server import Outside  # noqa: PLC0415 - its server takes long to begin
    from tests.postgres_stores import url_of  # noqa: PLC0415 - the same

    return Outside(url_of(path))


def environ_at(path: Path) -> dict[str, str]:
    """By which a command works on what `open_store` opens, where its folder is named."""
    if not is_on_postgres:
        return {}
    from tests.postgres_stores import url_of  # noqa: PLC0415 - its server takes long to begin

    return {"GATEWAY_DATABASE_URL": url_of(path)}


def copied(path: Path, target: Path) -> Path:
    """`target`, where all is now that is committed there at this moment."""
    if is_on_postgres:
        from tests.postgres_stores import leave_copy, url_of  # noqa: PLC0415 - its server takes long to begin

        leave_copy(url_of(path), target)
        return target
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
    return target


def outside(settings: Settings) -> AnyOutside:
    """Somebody else's connection to the database of a gateway with these settings, whether it is open or not."""
    place = settings.database_place
    if place.url is None:
        return OutsideFile(place.folder / DATABASE)
    from tests.postgres_server import Outside  # noqa: PLC0415 - its server takes long to begin

    return Outside(place.url)


def kept_by(settings: Settings) -> bytes:
    """All that gateways and commands with these settings have written: their folder's files, and tables elsewhere."""
    files = b"".join(path.read_bytes() for path in sorted(settings.data_dir.rglob("*")) if path.is_file())
    if settings.database_url is None:
        return files
    from tests.postgres_server import Outside  # noqa: PLC0415 - its server takes long to begin

    with Outside(settings.database_url.get_secret_value()) as another:
        return files + another.kept()


@contextlib.asynccontextmanager
async def locked_out(gateway: Gateway, *, wait_s: float | None = None) -> AsyncIterator[None]:
    """Somebody else has what each write of an open gateway needs; on SQLite it is refused after `wait_s`, if given."""
    if wait_s is not None and gateway.settings.database_url is None:
        store_of(gateway)._writer._busy_timeout_s = wait_s
    async with _locked(outside(gateway.settings)):
        yield


@contextlib.asynccontextmanager
async def in_thread(befalls: contextlib.AbstractContextManager[None]) -> AsyncIterator[None]:
    """What has to wait for a writer begins beside the loop, which that writer may be on."""
    await asyncio.to_thread(befalls.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(befalls.__exit__, None, None, None)


@contextlib.asynccontextmanager
async def full_beneath(gateway: Gateway, account_id: str) -> AsyncIterator[None]:
    """The disk of an open gateway's database is full; SQLite's may be filled up by requests of that account."""
    if gateway.settings.database_url is None:
        async with full(store_of(gateway), account_id):
            yield
        return
    from tests.postgres_server import Outside  # noqa: PLC0415 - its server takes long to begin

    with Outside(gateway.settings.database_url.get_secret_value()) as another:
        async with in_thread(another.full()):
            yield


@contextlib.asynccontextmanager
async def full(store: Store, account_id: str) -> AsyncIterator[None]:
    """A disk that is full: the database may not grow, and no settlement finds room in the pages that there are."""
    (pages,) = store._writer._connection.execute("PRAGMA page_count").fetchone()
    store._writer._connection.execute(f"PRAGMA max_page_count = {pages}")
    with contextlib.suppress(GatewayError):
        for number in count():
            await store.write(Settle(f"ballast {number}", account_id, Amount(1), None), is_durable=False)
    try:
        yield
    finally:
        with contextlib.suppress(sqlite3.ProgrammingError):  # the store may have ended before the outage
            store._writer._connection.execute("PRAGMA max_page_count = 1000000")


def migrated(path: Path) -> Path:
    """`path`, where a database is now, if none was; all that are copied have one identity."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_template())
    return path


@cache
def of_version(number: int) -> bytes:
    """A database that a version of the gateway made whose last migration was this."""
    files = migrations._files()
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE schema_migrations (number INTEGER PRIMARY KEY) STRICT")
        for earlier in range(1, number + 1):
            migrations._apply(connection, earlier, files[earlier])
        return connection.serialize()


def record_in(connection: sqlite3.Connection, records: Sequence[RequestRecord]) -> None:
    """Rows of the request log, in a database of this version that no store has."""
    insert_records(Transaction(connection, EXECUTORS, ids.now_ms), records)


def record_before_names(connection: sqlite3.Connection, records: Sequence[RequestRecord]) -> None:
    """The same of chats in one of a version whose rows had the names themselves."""
    columns = RequestRecord._fields[: RequestRecord._fields.index("surface")]
    rows = [record[: len(columns)] for record in records]
    sql = f"INSERT INTO requests ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    connection.executemany(f"{sql} ON CONFLICT DO NOTHING", rows)


@cache
def _template() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "template.sqlite3"
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            let_it_shrink(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            migrate(connection)
            connection.execute("CREATE TABLE notes (text UNIQUE, size BLOB)")  # for tests of the store itself
        return path.read_bytes()


def explained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps of SQLite's plan for each query from now on, as they are read."""
    steps: list[str] = []
    all_rows = Rows.all

    def explain(rows: Rows, sql: str, parameters: Parameters = ()) -> list[Row]:
        steps.extend(row[3] for row in all_rows(rows, f"EXPLAIN QUERY PLAN {sql}", parameters))
        return all_rows(rows, sql, parameters)

    monkeypatch.setattr(Rows, "all", explain)
    return steps


def reads_of(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[Read[Any]]:
    """What is read from now on."""
    asked: list[Read[Any]] = []
    read = store.read

    async def noted(one: Read[Any]) -> object:
        asked.append(one)
        return await read(one)

    monkeypatch.setattr(store, "read", noted)
    return asked
