"""How good answers were found, by who says so, model and task: what is written and read of it. Knows no prompt."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from mcp_gateway.core.engine import Announcement, Read, Scan, Write
from mcp_gateway.core.prompt_tasks import PromptTask
from mcp_gateway.core.record import SCORE_WHOLE
from mcp_gateway.core.routing.quality import Outcomes

IMPORTED = ""
"""In an account's place: what the operator has imported."""
Cell = tuple[str, PromptTask]
"""A model's public id and a task."""


class CellCount(NamedTuple):
    """All outcomes of a model in a task that an account has told, or the operator; also told once it has changed."""

    account_id: str
    model_id: str
    task: PromptTask
    score: int
    """The sum, in parts of SCORE_WHOLE: whole numbers, so that no order of adding changes it."""
    trials: int

    @property
    def outcomes(self) -> Outcomes:
        return Outcomes(self.score / SCORE_WHOLE, self.trials)


@dataclass(frozen=True, slots=True)
class OutcomesMoved(Announcement):
    """What this account has told comes to something else."""

    word: ClassVar[str] = "outcomes"
    account_id: str


@dataclass(frozen=True, slots=True)
class ScoreRequest(Write[bool]):
    """Take a score, in parts of SCORE_WHOLE, in the place of any earlier one of this request; whether it counts.

    None counts of a request by a test key, which no model of the pool has answered; a test key's own (`is_of_test_key`)
    is kept of such requests alone. Raises GatewayError `not_found` where the request is gone.
    """

    account_id: str
    request_id: str
    score: int
    is_of_test_key: bool


@dataclass(frozen=True, slots=True)
class ImportOutcomes(Write[None]):
    """Add what the operator knows to what was imported before, or put it in that one's place."""

    counts: tuple[CellCount, ...]
    in_place: bool


@dataclass(frozen=True, slots=True)
class CountsOfAll(Scan[list[CellCount]]):
    """Of all who told any: what was imported first, then the `most` that stand for the most outcomes."""

    most: int


@dataclass(frozen=True, slots=True)
class CountsOf(Scan[list[CellCount]]):
    """Of one account, or what was imported."""

    account_id: str


@dataclass(frozen=True, slots=True)
class ImportsSoFar(Read[int]):
    """How many imports there were: another number says that there is more to read."""
