"""PostgreSQL behind three verbs: write, read, close. Knows nothing of what is stored."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from mcp_gateway.core.engine import Fact, InOutage, Read, Write
from mcp_gateway.core.store.jobs import Job
from mcp_gateway.core.store.postgres.faults import as_database_error
from mcp_gateway.core.store.postgres.readers import LinkedReaders
from mcp_gateway.core.store.postgres.session import WriterSession
from mcp_gateway.core.store.postgres.writer import BatchWriter
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _NoChange(Write[None]):
    """Changes nothing: once it is committed, so is what was written before."""


@dataclass(frozen=True, slots=True)
class _IdentityRead(Read[str]):
    pass


def _identity(rows: Rows, _: _IdentityRead) -> str:
    row = rows.first("SELECT id FROM database_identity")
    assert row is not None
    return str(row[0])


_OWN = Executors(alone={_NoChange: lambda _, __: None}, reads={_IdentityRead: _identity})


class PostgresStore:
    """An open database."""

    def __init__(
        self, session: WriterSession, url: str, executors: Executors, now_ms: Callable[[], int], report_timeout_s: float
    ) -> None:
        self.now_ms = now_ms
        self._writer = BatchWriter(session, Transaction(session.link, executors, now_ms))
        self._readers = LinkedReaders(url, executors.reads, report_timeout_s)
        self._alone, self._together = executors.alone, executors.together
        self._new_future = asyncio.get_running_loop().create_future

    @classmethod
    async def open(
        cls,
        url: str,
        executors: Executors,
        *,
        session: WriterSession,
        now_ms: Callable[[], int],
        report_timeout_s: float = 30.0,
    ) -> "PostgresStore":
        """The database at `url`, whose schema is up to date. Raises DatabaseError, TakenOver."""
        with as_database_error():
            await asyncio.to_thread(_opened, session)
        return cls(session, url, executors | _OWN, now_ms, report_timeout_s)

    def write(self, write: Write[T], *, is_durable: bool = True, in_outage: InOutage = "refuse") -> "asyncio.Future[T]":
        """Carry out `write` in the next batch; the result comes once that is committed, and on the disk.

        A GatewayError that its executor raises is the write's decision, and takes back what it changed before that; so
        does any other error, and then its `stand_in` is written. An executor may run more than once for a
        write, since a batch in which a write failed is run again without it; one that takes neighbours together is
        called for each by itself then, so that a bug costs only that one. Where the answer to a commit was lost, a
        durable write that does not wait fails with `ledger_unavailable`, and may be committed.
        """
        kind = type(write)
        alone = self._alone.get(kind)
        together = None if alone is not None else self._together[kind]
        return self._writer.submit(Job(write, alone, together, is_durable, in_outage, self._new_future()))

    def withdraw(self, written: "asyncio.Future[Any]") -> bool:
        """Take back a write that still waits, so that it never happens; False where it may have happened."""
        return self._writer.withdraw(written)

    def listen(self, kind: type[Fact], hear: Callable[[Fact], None]) -> None:
        """Have `hear` told of what commits have changed, of this kind: after each, before the results of its writes."""
        self._writer.listen(kind, hear)

    async def read(self, read: Read[T]) -> T:
        """The answer as of the last commit. Raises DatabaseError; GatewayError `overloaded` at a report's deadline."""
        return await self._readers.read(read)

    async def flushed(self) -> None:
        """Wait until what was written before this call is committed. Raises GatewayError `ledger_unavailable`."""
        await self.write(_NoChange(), is_durable=False)

    async def identity(self) -> str:
        """What tells this database from every other, its own copies apart."""
        return await self.read(_IdentityRead())

    @property
    def waiting(self) -> int:
        """How many writes wait for their commit."""
        return self._writer.waiting

    @property
    def log_bytes(self) -> int:
        """None of its own: PostgreSQL looks after its log."""
        return 0

    @property
    def is_available(self) -> bool:
        """Whether what was written last went through; during an outage it is tried again until something does."""
        return self._writer.is_available

    async def close(self) -> list[Any]:
        """Commit what is queued, then close. Returns the writes to keep that could not be committed."""
        if self._writer.is_closing:
            return []
        kept = await self._writer.close()
        await self._readers.close()
        return kept


def _opened(session: WriterSession) -> None:
    try:
        session.open()
    except BaseException:
        session.link.close()
        raise
