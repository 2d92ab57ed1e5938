"""What the contract has engines write and read: notes, each with a number; their statements are any engine's."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from mcp_gateway.core.engine import Lane, Read, Report, Scan, Write
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction

TABLE = "CREATE TABLE noted (number INTEGER PRIMARY KEY, text TEXT NOT NULL, padding BLOB NOT NULL)"
"""With a number that grows; the same text may stand in it twice, so that what happened twice is seen."""


class Noted(NamedTuple):
    """A fact."""

    text: str


class Counted(NamedTuple):
    """Another: how many neighbours one call has carried out."""

    number: int


def nothing() -> None:
    pass


def fail() -> None:
    """A bug."""
    raise ZeroDivisionError("secret")


def refuse() -> None:
    """A decision."""
    raise GatewayError("insufficient_balance", "No.")


@dataclass(frozen=True, slots=True)
class Note(Write[str]):
    """Notes a text and tells of it, then does something else, which may fail."""

    text: str
    then: Callable[[], object] = nothing
    is_noted: bool = True
    padding_bytes: int = 0
    instead: "Note | None" = None

    def stand_in(self) -> "Note | None":
        return self.instead


class NoteTogether(Note):
    """One that is carried out together with its neighbours."""


class AlsoTogether(Note):
    """One that is no neighbour of those."""


@dataclass(frozen=True, slots=True)
class AllOf(Write[list[str]]):
    """Several as one."""

    parts: tuple[Note, ...]


@dataclass(frozen=True, slots=True)
class Trying(Write[str]):
    """Tells, goes on where its part is refused, and tells again."""

    part: Note


@dataclass(frozen=True, slots=True)
class Look(Write[list[str]]):
    """Changes nothing, and brings all texts as of its turn."""


@dataclass(frozen=True, slots=True)
class Notes(Read[list[str]]):
    """All texts, in the order in which they were noted."""


@dataclass(frozen=True, slots=True)
class NotesTwice(Read[tuple[list[str], list[str]]]):
    """The same twice, and what happens in between, in a thread of the engine's."""

    meanwhile: Callable[[], object]


class NotesTwiceScanned(NotesTwice):
    """In the lane of those that may read much."""

    lane: ClassVar[Lane] = Scan.lane


@dataclass(frozen=True, slots=True)
class NotesTwiceReported(Report[tuple[list[str], list[str]]]):
    """In an account's lane."""

    account_id: str
    meanwhile: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Sneak(Read[None]):
    """A read that would change something."""


def _note(transaction: Transaction, write: Note) -> str:
    if write.is_noted:
        padding = bytes(write.padding_bytes)
        transaction.execute("INSERT INTO noted (text, padding) VALUES (?, ?)", (write.text, padding))
    transaction.tell(Noted(write.text))
    write.then()
    return write.text


def _note_together(transaction: Transaction, writes: Sequence[Note]) -> list[str | GatewayError]:
    outcomes = [_decided(transaction, write) for write in writes]
    transaction.tell(Counted(len(writes)))
    return outcomes


def _also_together(transaction: Transaction, writes: Sequence[Note]) -> list[str | GatewayError]:
    return _note_together(transaction, writes)


def _decided(transaction: Transaction, write: Note) -> str | GatewayError:
    """A group decides before it changes anything."""
    if write.then is refuse:
        return GatewayError("insufficient_balance", "No.")
    return _note(transaction, write)


def _all_of(transaction: Transaction, write: AllOf) -> list[str]:
    return [transaction.run(part) for part in write.parts]


def _try(transaction: Transaction, write: Trying) -> str:
    transaction.tell(Noted("before"))
    with contextlib.suppress(GatewayError):
        transaction.run(write.part)
    transaction.tell(Noted("after"))
    return "tried"


def _texts(rows: Rows) -> list[str]:
    return [text for (text,) in rows.all("SELECT text FROM noted ORDER BY number")]


def _twice(rows: Rows, read: NotesTwice | NotesTwiceReported) -> tuple[list[str], list[str]]:
    first = _texts(rows)
    read.meanwhile()
    return first, _texts(rows)


def _sneak(rows: Rows, _: Sneak) -> None:
    rows.all("INSERT INTO noted (text, padding) VALUES ('sneaked in', '')")


NOTING = Executors(
    alone={Note: _note, AllOf: _all_of, Trying: _try, Look: lambda transaction, _: transaction.ask(Notes())},
    together={NoteTogether: _note_together, AlsoTogether: _also_together},
    reads={
        Notes: lambda rows, _: _texts(rows),
        Sneak: _sneak,
        NotesTwice: _twice,
        NotesTwiceScanned: _twice,
        NotesTwiceReported: _twice,
    },
)
