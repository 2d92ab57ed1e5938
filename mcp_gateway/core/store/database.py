"""The database of a data folder as a whole, whatever engine it is on: how it is opened, copied and replaced.

What is written into it and read from it goes by `core/engine.py`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mcp_gateway.core.engine import Engine
from mcp_gateway.core.store.connection import Row


class SchemaTooNew(Exception):
    """The database was written by a newer version of the gateway."""


class ServedByOlder(Exception):
    """A server of an earlier version works on the database."""


class ForeignLog(Exception):
    """A log stands beside a database that was never written with one, as no backup is."""


class NotRestorable(Exception):
    """The file is no backup that can be put in place."""


class Restored(NamedTuple):
    """What is in place now, and what is not any more."""

    last_at_ms: int | None
    """When the last entry of its books was made; None where there is none."""
    lost: int | None
    """How many entries the books had beyond that; None where they cannot be read."""


class SchemaNumbers(NamedTuple):
    """Of a database that was made, above 0."""

    applied: int
    latest: int
    """That this version knows."""
    needed: int
    """That a version has to know: what came later only adds, and is nothing to one that does not know it."""

    def check(self) -> None:
        """Raises SchemaTooNew."""
        if self.needed > self.latest:
            raise SchemaTooNew(
                f"the database has schema {self.needed}, and this version knows none after {self.latest}: "
                "use the version that wrote it, or a later one"
            )


class Contents(Protocol):
    """All that a database has, as of one moment, but for what its engine keeps for itself."""

    @property
    def columns(self) -> Mapping[str, Sequence[str]]:
        """By table."""

    def rows(self, table: str) -> Iterator[Row]:
        """One by one, in the order in which they were made where that counts."""

    def count(self, table: str) -> int:
        """How many they are."""

    def highest(self, table: str, column: str) -> int:
        """The number that the database gave a row last, which no other may get; 0 where it gave none."""

    def discrepancies(self) -> list[str]:
        """In its books, all entries read."""


class OpenDatabase(Engine, Protocol):
    """An engine, and the end of it."""

    @property
    def replica(self) -> int | None:
        """Which of several servers of the database this is; None where it is the only one, or a command."""

    @property
    def hears_others(self) -> bool:
        """Whether what others change is heard at once, where there is a way to: not a second later."""

    async def identity(self) -> str:
        """What tells this database from every other, its own copies apart."""

    async def close(self) -> list[Any]:
        """Commit what is queued, then close. Returns the writes to keep that could not be committed."""


class GatewayDatabase(Protocol):
    """Of one data folder."""

    @property
    def engine_version(self) -> str:
        """Of what runs it."""

    def check(self) -> None:
        """Before a process opens it, and never once it has. Raises ForeignLog, OSError."""

    def schema(self) -> SchemaNumbers:
        """Which it has, and which it would get. Changes nothing. Raises DatabaseError."""

    def faults(self) -> list[str]:
        """What is wrong with it beneath the schema, in words. Changes nothing. Raises DatabaseError."""

    def upgrade_unless_served(self) -> None:
        """Bring its schema up to date, as a command may. Raises ServedByOlder, SchemaTooNew, DatabaseError."""

    async def open(
        self,
        *,
        now_ms: Callable[[], int],
        report_timeout_s: float,
        fsynced: Callable[[float], None] | None = None,
        is_server: bool = False,
    ) -> OpenDatabase:
        """Open or make it, with its schema up to date; `fsynced` is told by one thread how long each took, in seconds.

        Raises SchemaTooNew, DatabaseError, OSError; AlreadyServed for a second server.
        """

    def sole_server(self) -> AbstractContextManager[None]:
        """What only one server has at a time, while it lasts. Raises AlreadyServed."""

    def alone(self) -> AbstractContextManager[bool]:
        """Whether no server works on it; then none begins to, for as long as this lasts."""

    def back_up(self, target: Path) -> None:
        """Write a copy as of now to a new file. Raises FileExistsError, FileNotFoundError, DatabaseError."""

    def restore(self, backup: Path, aside: Path, others: Iterable[Path]) -> Restored:
        """Put a copy of `backup` in its place, and what was there, with `others`, into the new folder `aside`.

        The caller holds the folder's lock. Raises NotRestorable, SchemaTooNew, DatabaseError, OSError.
        """

    def contents(self) -> AbstractContextManager[Contents]:
        """For another engine, while nobody serves.

        Raises AlreadyServed, FileNotFoundError, DatabaseError, SchemaTooNew.
        """

    def fill(self, contents: Contents) -> Mapping[str, int]:
        """Take them over whole or not at all, where nothing was kept yet; how many rows each table got.

        Raises AlreadyServed, DatabaseError, SchemaTooNew.
        """
