"""What executors do with a database: a few verbs over one connection, and other writes within their own.

`sql/` is written for these verbs; what is hot takes the connection itself.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mcp_gateway.core.engine import Announcement, Read, Write
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.store.connection import EngineConnection
from mcp_gateway.core.store.connection import Parameters as Parameters
from mcp_gateway.core.store.connection import Row as Row
from mcp_gateway.core.store.names import Numbers

T = TypeVar("T")


class Rows:
    """A connection for reading."""

    def __init__(self, connection: EngineConnection) -> None:
        self.connection = connection

    def all(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        return self.connection.execute(sql, parameters).fetchall()

    def first(self, sql: str, parameters: Parameters = ()) -> Row | None:
        row: Row | None = self.connection.execute(sql, parameters).fetchone()
        return row


class Transaction(Rows):
    """The writer's connection, while its transaction is open."""

    def __init__(
        self,
        connection: EngineConnection,
        executors: "Executors",
        now_ms: Callable[[], int],
        *,
        can_be_heard: bool = False,
    ) -> None:
        """`can_be_heard` where other servers may be told what is announced."""
        super().__init__(connection)
        self.replica: int | None = None
        """Which of several servers of the database writes; None where it is the only one, or a command."""
        self.now_ms = now_ms
        """The time by which entries of the ledger are made: what has a later id is not older."""
        self.numbers = Numbers(connection)
        self._executors = executors
        self._told: list[object] = []
        self._announced: list[Announcement] = []
        self._can_be_heard = can_be_heard

    def tell(self, fact: object) -> None:
        """Have who listens for facts of its kind hear of it once this is committed."""
        self._told.append(fact)

    def announce(self, fact: Announcement) -> None:
        """Have the other servers of the database hear of it once this is committed."""
        if self._can_be_heard:
            self._announced.append(fact)

    @property
    def traces(self) -> tuple[int, int]:
        """Another value once anything has been changed or told."""
        return self.connection.total_changes, len(self._told) + len(self._announced)

    def take_told(self) -> list[object]:
        """What was told since the last time, which is forgotten with this."""
        told, self._told = self._told, []
        return told

    def take_announced(self) -> list[Announcement]:
        """The same of what was announced."""
        announced, self._announced = self._announced, []
        return announced

    def forget(self) -> None:
        """What was told, announced and numbered, once it is rolled back."""
        self._told.clear()
        self._announced.clear()
        self.numbers.clear()

    def execute(self, sql: str, parameters: Parameters = ()) -> int:
        """Returns how many rows it changed."""
        return self.connection.execute(sql, parameters).rowcount

    def execute_many(self, sql: str, rows: Iterable[Parameters]) -> None:
        self.connection.executemany(sql, rows)

    def run(self, write: Write[T]) -> T:
        """Carry out another write, one that needs no neighbours, as a part of this one. Raises its GatewayError."""
        outcome: T = self.whole(self._executors.alone[type(write)], write)
        return outcome

    def ask(self, read: Read[T]) -> T:
        """The answer as of now, with what this transaction has changed."""
        answer: T = self._executors.reads[type(read)](self, read)
        return answer

    def whole(self, run: "Run", write: Write[Any]) -> Any:
        """What comes of a write. Raises its GatewayError; nothing that it did or told before that is left then."""
        told, announced = len(self._told), len(self._announced)
        self.execute("SAVEPOINT whole")
        try:
            outcome = run(self, write)
        except GatewayError:
            self.execute("ROLLBACK TO whole")
            self.execute("RELEASE whole")
            del self._told[told:]
            del self._announced[announced:]
            self.numbers.clear()
            raise
        self.execute("RELEASE whole")
        return outcome


Run = Callable[[Transaction, Any], Any]
"""Carries out one write; what it raises as a GatewayError is the write's decision."""
RunTogether = Callable[[Transaction, Sequence[Any]], Sequence[Any]]
"""Carries out neighbours: an outcome for each of them, in order; a GatewayError is a refusal."""
RunRead = Callable[[Rows, Any], Any]


@dataclass(frozen=True, slots=True)
class Executors:
    """Who carries out which write, alone or together with its neighbours, and answers which read."""

    alone: dict[type[Write[Any]], Run] = field(default_factory=dict)
    together: dict[type[Write[Any]], RunTogether] = field(default_factory=dict)
    reads: dict[type[Read[Any]], RunRead] = field(default_factory=dict)

    def __or__(self, other: "Executors") -> "Executors":
        return Executors(self.alone | other.alone, self.together | other.together, self.reads | other.reads)
