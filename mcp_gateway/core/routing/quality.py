"""How well a model is expected to do a task: by outcomes that were judged, by what the operator says, else neutral.

Few outcomes say little: a rate is drawn to what was expected before, and no count moves anything until it has thirty.
"""

from collections.abc import Callable, Mapping
from math import fsum
from typing import Literal, NamedTuple

from mcp_gateway.core.prompt_tasks import PromptTask
from mcp_gateway.core.routing.classifier.classifier import PromptReading

NEUTRAL = 0.5
"""Of a model of which nobody knows anything."""
DEFAULT_MODEL_LEAD = 0.05
"""What the default model is taken to be better by than another of which nobody knows anything."""
LEAST_OUTCOMES = 30
_PSEUDO_OUTCOMES = 20
"""What was expected before weighs like so many outcomes."""
_UNSURE_BELOW = 0.4
"""A task that is less sure counts half."""
_COUNTED_WITH: dict[str, PromptTask] = {"reasoning": "math", "analysis": "question_answering"}
"""Tasks that cannot be told from another reliably have their outcomes counted with that one's."""


class Outcomes(NamedTuple):
    """The sum of scores, each from 0 to 1, and how many there are; parts of one where accounts share a cell."""

    score: float
    trials: float


NO_OUTCOMES = Outcomes(0.0, 0)


class Expected(NamedTuple):
    """A rate of success, and how many outcomes it rests on; none where it is what the operator says, or neutral."""

    rate: float
    outcomes: int


Basis = Literal["outcomes", "configuration", "outcomes of other tasks", "configuration of other tasks", "nothing"]
"""What stands behind a rate."""


class _ByModel(dict[str, Expected]):
    """Reckons what is expected of a model once, when it is asked for first."""

    def __init__(self, reckon: Callable[[str], Expected]) -> None:
        super().__init__()
        self._reckon = reckon

    def __missing__(self, model_id: str) -> Expected:
        found = self[model_id] = self._reckon(model_id)
        return found


class QualityTable:
    """Of some models, the outcomes by model and task, and the operator's rates by model and task."""

    def __init__(
        self,
        outcomes: Mapping[tuple[str, PromptTask], Outcomes],
        priors: Mapping[str, Mapping[PromptTask, float]],
        default_model: str | None,
    ) -> None:
        self._cells = _cells_of(outcomes)
        self._models = _models_of(outcomes)
        self._priors = priors
        self.default_model = default_model
        self._expected: dict[tuple[str, bool], _ByModel] = {}
        """What was reckoned before: of each model and task, twice at most."""

    def expected(self, reading: PromptReading) -> Mapping[str, Expected]:
        """By the id of any model, for the task that was read; of one that is not sure, half of it is what the model
        does whatever the task.
        """
        asked = reading.task, reading.confidence >= _UNSURE_BELOW
        found = self._expected.get(asked)
        if found is None:
            found = self._expected[asked] = _ByModel(lambda model_id: self._reckoned(model_id, *asked))
        return found

    @property
    def models(self) -> set[str]:
        """The ids of those that any outcome is known of."""
        return {model_id for model_id, _ in self._cells}

    def counted(self, model_id: str, task: PromptTask) -> int:
        """How many outcomes there are of the task, or of those that are counted with it, however few."""
        return int(self._cell(model_id, task).trials)

    def basis(self, model_id: str, task: PromptTask) -> Basis:
        """Of what is expected for a task that is sure."""
        rates = self._priors.get(model_id, {})
        if self._cell(model_id, task).trials >= LEAST_OUTCOMES:
            return "outcomes"
        if task in rates:
            return "configuration"
        if model_id in self._models:
            return "outcomes of other tasks"
        return "configuration of other tasks" if rates else "nothing"

    def _reckoned(self, model_id: str, task: PromptTask | Literal["unknown"], is_sure: bool) -> Expected:
        whole = self._whole(model_id)
        if task == "unknown":
            return whole
        of_task = self._of_task(model_id, task, whole)
        return of_task if is_sure else Expected((of_task.rate + whole.rate) / 2, of_task.outcomes)

    def _of_task(self, model_id: str, task: PromptTask, whole: Expected) -> Expected:
        prior = self._priors.get(model_id, {}).get(task)
        before = whole if prior is None else Expected(prior, 0)
        return _drawn_to(before, self._cell(model_id, task))

    def _cell(self, model_id: str, task: PromptTask) -> Outcomes:
        return self._cells.get((model_id, _COUNTED_WITH.get(task, task)), NO_OUTCOMES)

    def _whole(self, model_id: str) -> Expected:
        """Whatever the task."""
        rates = self._priors.get(model_id)
        neutral = NEUTRAL + DEFAULT_MODEL_LEAD * (model_id == self.default_model)
        before = Expected(fsum(rates.values()) / len(rates) if rates else neutral, 0)
        return _drawn_to(before, self._models.get(model_id, NO_OUTCOMES))


def _drawn_to(before: Expected, found: Outcomes) -> Expected:
    if found.trials < LEAST_OUTCOMES:
        return before
    rate = (found.score + _PSEUDO_OUTCOMES * before.rate) / (found.trials + _PSEUDO_OUTCOMES)
    return Expected(rate, int(found.trials))


def _cells_of(outcomes: Mapping[tuple[str, PromptTask], Outcomes]) -> dict[tuple[str, PromptTask], Outcomes]:
    cells: dict[tuple[str, PromptTask], Outcomes] = {}
    for (model_id, task), found in outcomes.items():
        cell = model_id, _COUNTED_WITH.get(task, task)
        cells[cell] = added(cells.get(cell, NO_OUTCOMES), found)
    return cells


def _models_of(outcomes: Mapping[tuple[str, PromptTask], Outcomes]) -> dict[str, Outcomes]:
    """Of each model the cells that have enough: those that may not move a choice may not do so together either."""
    models: dict[str, Outcomes] = {}
    for (model_id, _), found in _cells_of(outcomes).items():
        if found.trials >= LEAST_OUTCOMES:
            models[model_id] = added(models.get(model_id, NO_OUTCOMES), found)
    return models


def added(one: Outcomes, other: Outcomes) -> Outcomes:
    return Outcomes(one.score + other.score, one.trials + other.trials)
