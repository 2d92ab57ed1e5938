"""Reads a prompt: its task, how sure that is, and how much work it asks for. Knows no model and no request.

Takes about a tenth of a millisecond, however long the prompt is. It never raises: what cannot be read is unknown.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from mcp_gateway.core.prompt_tasks import TASKS, PromptTask
from mcp_gateway.core.routing.classifier.complexity import Complexity, work_of
from mcp_gateway.core.routing.classifier.features import Features, begins_as_code, features_of
from mcp_gateway.core.routing.classifier.weights import LinearSums, TaskWeights, shipped

_CODE = TASKS.index("code")
_SURE_OF_CODE = 0.92
_FEW_WORDS = 4
_MOST_OF_FEW = 0.3
"""How sure a task is at most that is read from fewer known words: an empty prompt looks like no other."""


class PromptReading(NamedTuple):
    """`work` is the score behind `complexity`; a task that the caller names has the confidence 1."""

    task: PromptTask | Literal["unknown"]
    confidence: float
    complexity: Complexity
    work: float


UNKNOWN = PromptReading("unknown", 0.0, "medium", 0.5)


class PromptClassifier:
    """Reads the user's latest message."""

    def __init__(self, weights: TaskWeights | None = None) -> None:
        self._weights = shipped() if weights is None else weights

    def read(self, text: str, task: PromptTask | None = None) -> PromptReading:
        """With the task that the caller names, if it does. UNKNOWN where that fails, which is never a request's end."""
        try:
            return self._read(text, task)
        except Exception:  # noqa: BLE001 - whatever fails here, the request is served by the default model
            return UNKNOWN

    def probabilities(self, text: str) -> list[float]:
        """How likely each task is, in the order of TASKS."""
        return self._probabilities(text, features_of(text))

    def _read(self, text: str, task: PromptTask | None) -> PromptReading:
        features = features_of(text)
        likely = self._probabilities(text, features) if task is None else [float(task == one) for one in TASKS]
        best = max(likely)
        work = work_of(text, features.tokens, likely)
        return PromptReading(TASKS[likely.index(best)], best, *work)

    def _probabilities(self, text: str, features: Features) -> list[float]:
        if begins_as_code(text):
            rest = (1 - _SURE_OF_CODE) / (len(TASKS) - 1)
            return [_SURE_OF_CODE if place == _CODE else rest for place in range(len(TASKS))]
        weights = self._weights
        of_words = weights.sums(features.words)
        likely = _softmax(weights, of_words, weights.sums(features.form))
        if of_words.known < _FEW_WORDS:
            return _less_sure(likely)
        return likely


def _softmax(weights: TaskWeights, words: LinearSums, form: LinearSums) -> list[float]:
    factor = weights.scale / math.sqrt(words.known + form.known or 1)
    values = [
        ((of_words + of_form) * factor + bias) / weights.temperature
        for of_words, of_form, bias in zip(words.by_task, form.by_task, weights.bias, strict=True)
    ]
    most = max(values)
    powers = [math.exp(value - most) for value in values]
    whole = sum(powers)
    return [power / whole for power in powers]


def _less_sure(likely: Sequence[float]) -> list[float]:
    """The same order, and none above the bound: mixed with every task alike."""
    even, most = 1 / len(likely), max(likely)
    share = min(1.0, (_MOST_OF_FEW - even) / (most - even)) if most > even else 1.0
    return [even + share * (one - even) for one in likely]
