"""What rooms ask of a database: writes and reads that are values, and the engine that carries them out.

Each room defines its own; the statements stand with the engine (`store/`), which knows the rooms' values. So no room
knows an engine, a connection or SQL.
"""

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from mcp_gateway.core.errors import GatewayError

T = TypeVar("T")
Fact = TypeVar("Fact")

InOutage = Literal["refuse", "keep", "wait"]
"""What becomes of a write while the database is full, locked or broken.

`refuse`: it fails with `ledger_unavailable`. `keep`: so it does, but is carried out all the same once that is possible.
`wait`: it neither fails nor is forgotten; whoever has waited long enough can `withdraw` it.
"""

Lane = Literal["point", "scan", "report"]
"""Who waits for whom: `point` reads a few rows, `scan` may read whole tables, `report` what an account asks for."""


class DatabaseError(Exception):
    """The database cannot be opened or read, or is none of ours; the text is for the operator."""


def unavailable() -> GatewayError:
    """What whoever writes is told during an outage."""
    message = "The gateway cannot write its ledger at the moment; try again shortly."
    return GatewayError("ledger_unavailable", message)


class Write(Generic[T]):
    """One change, to be carried out in one transaction: a frozen dataclass of its room. T is what comes of it."""

    __slots__ = ()

    def stand_in(self) -> "Write[Any] | None":
        """What is written in its place where it fails for an unknown reason; None for nothing."""
        return None


class Announcement:
    """What the other servers of a database are told once a commit has changed something: a frozen dataclass of ids.

    It says what to read again, and nothing else: one that is lost with a connection costs how soon they know, as who
    was away is told (`on_unheard`). Its fields are texts, integers and None; it is a row of `store/announcements.py`.
    """

    __slots__ = ()
    word: ClassVar[str]
    """Its name on the way."""


class Read(Generic[T]):
    """One question, answered as of one commit, the last: a frozen dataclass of its room. T is the answer."""

    __slots__ = ()
    lane: ClassVar[Lane] = "point"


class Scan(Read[T]):
    """One that may read whole tables, for the operator or at start."""

    __slots__ = ()
    lane: ClassVar[Lane] = "scan"


class Report(Read[T]):
    """One that an account asks for and that may read much: `account_id` has one at a time, with a deadline."""

    __slots__ = ()
    lane: ClassVar[Lane] = "report"
    account_id: str


class Engine(Protocol):
    """An open database. What each of them does is in `tests/core/store/contract`, and passes on all."""

    @property
    def now_ms(self) -> Callable[[], int]:
        """The clock that what is written goes by where it says no time of its own: the ledger's entries, and grants."""

    def write(self, write: Write[T], *, is_durable: bool = True, in_outage: InOutage = "refuse") -> "asyncio.Future[T]":
        """Carry out `write` in the next transaction; the result comes once that is committed.

        Submitted at once, awaited or not; in the order of the calls. A GatewayError is the write's decision, and fails
        the future. One that is not durable may be lost by a power failure, but not by a crash of the process.
        """

    def withdraw(self, written: "asyncio.Future[Any]") -> bool:
        """Take back a write that still waits, so that it never happens; False where it is committed already."""

    def listen(self, kind: type[Fact], hear: Callable[[Fact], None]) -> None:
        """Have `hear` told of what commits have changed, of this kind: after each, before the results of its writes.

        Once for an engine and a kind: who listens later is told in place of whoever did. An Announcement is told by
        other servers alone, and never by this one.
        """

    def on_unheard(self, hear: Callable[[], None]) -> None:
        """Have `hear` called where other servers may have told what this one did not hear: all is to be read again.

        Listen first, and read then: what is told in between is heard.
        """

    async def read(self, read: Read[T]) -> T:
        """The answer as of the last commit. Raises DatabaseError; GatewayError `overloaded` at a report's deadline."""

    async def flushed(self) -> None:
        """Wait until what was written before this call is committed. Raises GatewayError `ledger_unavailable`."""

    @property
    def waiting(self) -> int:
        """How many writes wait for their commit, or for the disk to take it again after it failed."""

    @property
    def log_bytes(self) -> int:
        """Of the write-ahead log. Raises OSError."""

    @property
    def is_elected(self) -> bool:
        """Whether this server is the one that does what falls due by the clock: always, where it is alone."""

    @property
    def is_available(self) -> bool:
        """Whether what was written last went through; during an outage it is tried again until something does."""
