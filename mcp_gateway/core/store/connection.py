"""What executors need of a connection: SQLite's has it, and a second engine wraps its own in it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

Row = tuple[Any, ...]
Parameters = Sequence[Any] | Mapping[str, Any]


class Executed(Protocol):
    """What has come of a statement."""

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""

    @property
    def lastrowid(self) -> int | None:
        """The number of the row that it inserted."""

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class EngineConnection(Protocol):
    """One connection, of readers or of the writer."""

    @property
    def total_changes(self) -> int:
        """How many rows were changed by it so far."""

    def execute(self, sql: str, parameters: Parameters = ..., /) -> Executed: ...

    def executemany(self, sql: str, rows: Iterable[Parameters], /) -> object: ...
