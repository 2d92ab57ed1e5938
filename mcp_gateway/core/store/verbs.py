"""An open database behind three verbs: write, read, close. Knows no engine, and nothing of what is stored."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from mcp_gateway.core.engine import Fact, InOutage, Read, Write
from mcp_gateway.core.store.jobs import Job
from mcp_gateway.core.store.transaction import Executors, Rows

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Nothing(Write[None]):
    """Changes nothing: once it is committed, so is what was written before."""


@dataclass(frozen=True, slots=True)
class _Identity(Read[str]):
    pass


def _identity(rows: Rows, _: _Identity) -> str:
    row = rows.first("SELECT id FROM database_identity")
    assert row is not None
    return str(row[0])


OWN = Executors(alone={_Nothing: lambda _, __: None}, reads={_Identity: _identity})
"""Of what is written and read here."""


class QueuedWriter(Protocol):
    """Who alone changes an open database."""

    is_closing: bool
    is_available: bool

    @property
    def waiting(self) -> int: ...

    def submit(self, job: Job) -> "asyncio.Future[Any]": ...

    def withdraw(self, written: "asyncio.Future[Any]") -> bool: ...

    def listen(self, kind: type[Fact], hear: Callable[[Fact], None]) -> None: ...


class LanedReaders(Protocol):
    """Who reads beside the writer."""

    async def read(self, read: Read[T]) -> T: ...


W = TypeVar("W", bound=QueuedWriter)
R = TypeVar("R", bound=LanedReaders)


class OpenStore(Generic[W, R]):
    """What is the same of every engine; an engine adds how it is opened and closed, and tells of its log."""

    @property
    def replica(self) -> int | None:
        """Which of several servers of the database this is; None where it is the only one, or a command."""
        return None

    def __init__(self, writer: W, readers: R, executors: Executors, now_ms: Callable[[], int]) -> None:
        self.now_ms = now_ms
        self._writer = writer
        self._readers = readers
        self._by_kind = {kind: (None, together) for kind, together in executors.together.items()} | {
            kind: (alone, None) for kind, alone in executors.alone.items()
        }
        self._new_future = asyncio.get_running_loop().create_future
        self._submit = writer.submit
        self._on_unheard: list[Callable[[], None]] = []

    def write(self, write: Write[T], *, is_durable: bool = True, in_outage: InOutage = "refuse") -> "asyncio.Future[T]":
        """Carry out `write` in the next transaction; the result comes once that is committed.

        A GatewayError that its executor raises is the write's decision, and takes back what it changed before that; so
        does any other error, and then its `stand_in` is written. An executor may run more than once for a
        write, since a transaction in which a write failed is run again without it; one that takes neighbours together
        is called for each by itself then, so that a bug costs only that one. Where the disk failed to take what was
        committed already, or the answer to a commit was lost, a durable write that does not wait fails with
        `ledger_unavailable` too, and is or may be committed.
        """
        alone, together = self._by_kind[type(write)]
        return self._submit(Job(write, alone, together, is_durable, in_outage, self._new_future()))

    def withdraw(self, written: "asyncio.Future[Any]") -> bool:
        """Take back a write that still waits, so that it never happens; False where it may have happened."""
        return self._writer.withdraw(written)

    def listen(self, kind: type[Fact], hear: Callable[[Fact], None]) -> None:
        """Have `hear` told of what commits have changed, of this kind: after each, before the results of its writes."""
        self._writer.listen(kind, hear)

    def on_unheard(self, hear: Callable[[], None]) -> None:
        """Have `hear` called where other servers may have told what this one did not hear: all is to be read again."""
        self._on_unheard.append(hear)

    async def read(self, read: Read[T]) -> T:
        """The answer as of the last commit. Raises DatabaseError; GatewayError `overloaded` at a report's deadline."""
        return await self._readers.read(read)

    async def flushed(self) -> None:
        """Wait until what was written before this call is committed. Raises GatewayError `ledger_unavailable`."""
        await self.write(_Nothing(), is_durable=False)

    async def identity(self) -> str:
        """What tells this database from every other, its own copies apart."""
        return await self.read(_Identity())

    @property
    def hears_others(self) -> bool:
        """Whether what others change is heard at once, where there is a way to: not a second later."""
        return True

    @property
    def is_elected(self) -> bool:
        """Whether this server is the one that does what falls due by the clock: always, where it is alone."""
        return True

    @property
    def waiting(self) -> int:
        """How many writes wait for their commit, or for the disk to take it again after it failed."""
        return self._writer.waiting

    @property
    def is_available(self) -> bool:
        """Whether what was written last went through; during an outage it is tried again until something does."""
        return self._writer.is_available
