"""A database of PostgreSQL's: opened as a whole; to copy and replace it has PostgreSQL's own tools."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import asyncpg

from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.store.database import Contents, NotRestorable, Restored, SchemaNumbers, ServedByOlder
from mcp_gateway.core.store.postgres.executors import EXECUTORS
from mcp_gateway.core.store.postgres.faults import TakenOver, as_database_error
from mcp_gateway.core.store.postgres.filling import faults_in, fill
from mcp_gateway.core.store.postgres.link import PostgresLink, ThreadedPostgresLink, Where
from mcp_gateway.core.store.postgres.migrations import may_be_served_meanwhile, migrate_database, schema_numbers
from mcp_gateway.core.store.postgres.session import ANY_MAY_LIVE, END_ALL, LOCKS, SERVING, WriterSession
from mcp_gateway.core.store.postgres.store import PostgresStore
from mcp_gateway.core.store.sole import AlreadyServed, alone, sole_server

_PATIENCE_S = 10.0
"""A server that was killed has its session for a moment, and a command that changes the schema."""
_POLL_S = 0.05
_EXCLUSIVE, _TOGETHER = "pg_try_advisory_lock", "pg_try_advisory_lock_shared"
_LOCK_TIMEOUT_MS = 200
"""For what is changed beside others: who waits for a table holds up all who come after."""
_SERVED = "another gateway already serves from this database; end it, or set GATEWAY_DATABASE_URL to another"
_SERVED_AND_ALONE = (
    "another gateway already serves from this database, and beside it limits would be counted twice: set "
    "GATEWAY_VALKEY_URL for both, which then count them together, or end the other"
)
_SERVED_BY_ONE_ALONE = (
    "a gateway without GATEWAY_VALKEY_URL already serves from this database, and beside it limits would be counted "
    "twice: set it there, too, or end that one"
)
_LOCKED = (
    "somebody keeps locked what this version changes of the database, as who copies it does: begin again after that"
)
_SERVED_BY_OLDER = (
    "gateways of an earlier version serve from this database, and this version changes what they know of it: end all "
    "of them first"
)
_UNREACHABLE = "the PostgreSQL that database_url names cannot be reached: "
_TOOLS = "is PostgreSQL's: copy it with pg_dump, and replace it with pg_restore while no gateway serves"


class PostgresDatabase:
    """The one at `url`; `folder` has what else a gateway keeps. One that `is_shared` is served by several at once."""

    engine_version = f"asyncpg {asyncpg.__version__}"

    def __init__(self, folder: Path, url: str, patience_s: float = _PATIENCE_S, *, is_shared: bool = False) -> None:
        self._folder = folder
        self._url = url
        self._is_shared = is_shared
        self._patience_s = patience_s

    def check(self) -> None:
        """Nothing of it is in the folder."""

    def schema(self) -> SchemaNumbers:
        with self._link() as link:
            return schema_numbers(link)

    def faults(self) -> list[str]:
        with self._link() as link:
            return faults_in(link)

    def upgrade_unless_served(self) -> None:
        with self._link() as link:
            numbers = schema_numbers(link)
            numbers.check()
            if numbers.applied < numbers.latest and not self._within_patience(self._migrated_beside_others, link):
                raise ServedByOlder(
                    f"a server of an earlier version works on this database, with schema {numbers.applied}; this "
                    f"version needs {numbers.latest}: restart the server with this version first, or use the command "
                    "of that one"
                )

    async def open(
        self,
        *,
        now_ms: Callable[[], int],
        report_timeout_s: float,
        fsynced: Callable[[float], None] | None = None,
        is_server: bool = False,
    ) -> PostgresStore:
        if is_server:
            await asyncio.to_thread(self._migrate_beside_others if self._is_shared else self._migrate_alone)
        session = WriterSession(self._url, is_server=is_server, is_shared=self._is_shared, fsynced=fsynced)
        try:
            return await PostgresStore.open(
                self._url, EXECUTORS, session=session, now_ms=now_ms, report_timeout_s=report_timeout_s
            )
        except TakenOver:
            raise AlreadyServed(_SERVED_BY_ONE_ALONE if self._is_shared else _SERVED_AND_ALONE) from None

    @contextlib.contextmanager
    def sole_server(self) -> Iterator[None]:
        """Of the folder; of the database it is the one whose session has its lock."""
        with sole_server(self._folder):
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        with alone(self._folder) as is_alone:
            if not is_alone:
                yield False
                return
            with self._link() as link:
                is_alone = _has_locked(link) and link.execute(ANY_MAY_LIVE).fetchone() is None
                if is_alone:
                    link.script(END_ALL)
                yield is_alone

    def back_up(self, target: Path) -> None:
        raise DatabaseError(f"the database {_TOOLS}")

    def restore(self, backup: Path, aside: Path, others: Iterable[Path]) -> Restored:
        raise NotRestorable(f"the database {_TOOLS}")

    def contents(self) -> AbstractContextManager[Contents]:
        raise DatabaseError(f"the database {_TOOLS}")

    def fill(self, contents: Contents) -> Mapping[str, int]:
        with self._link() as link:
            if not self._within_patience(_has_locked, link):
                raise AlreadyServed(_SERVED)
            migrate_database(link)
            return fill(link, contents)

    def _migrate_alone(self) -> None:
        """Once no other server works on it, which would know only its own schema."""
        with self._link() as link:
            if not self._within_patience(_has_locked, link):
                raise AlreadyServed(_SERVED_AND_ALONE)
            migrate_database(link)
            link.script(END_ALL)

    def _migrate_beside_others(self) -> None:
        """While servers serve that share it, of an earlier version too; where those could not, once none does."""
        with self._link() as link:
            if not self._within_patience(self._migrated_beside_others, link):
                is_beside = may_be_served_meanwhile(link)
                if _has_locked(link, _TOGETHER if is_beside else _EXCLUSIVE):
                    raise DatabaseError(_LOCKED)
                raise AlreadyServed(_SERVED_BY_ONE_ALONE if is_beside else _SERVED_BY_OLDER)

    def _migrated_beside_others(self, link: PostgresLink) -> bool:
        """Not where others serve that may not meanwhile, or have locked what is to be changed."""
        is_beside = may_be_served_meanwhile(link)
        if not _has_locked(link, _TOGETHER if is_beside else _EXCLUSIVE):
            return False
        try:
            migrate_database(link, _LOCK_TIMEOUT_MS if is_beside else None)
        except asyncpg.LockNotAvailableError:
            link.connect()
            return False
        return True

    def _within_patience(self, is_done: Callable[[PostgresLink], bool], link: PostgresLink) -> bool:
        deadline_s = time.monotonic() + self._patience_s
        while not is_done(link):
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(_POLL_S)
        return True

    @contextlib.contextmanager
    def _link(self) -> Iterator[PostgresLink]:
        """A patient one. Raises DatabaseError."""
        link = ThreadedPostgresLink(Where(self._url, 3600.0, {"lock_timeout": "60s"}))
        try:
            with as_database_error(_UNREACHABLE):
                link.connect()
            with as_database_error():
                yield link
        finally:
            link.close()


def _has_locked(link: PostgresLink, lock: str = _EXCLUSIVE) -> bool:
    (is_ours,) = link.execute(f"SELECT {lock}({LOCKS}, {SERVING})").fetchone()
    return bool(is_ours)
