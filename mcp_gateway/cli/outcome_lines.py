"""Reads outcomes from lines of JSON and sums them up: `task` or `prompt`, `model` and `score`.

A prompt is read for its task and dropped: it is in no message, count or log. Memory holds one line, and a sum for each
model and task.
"""

from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

import orjson

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.prompt_tasks import TASKS, PromptTask, task_named
from mcp_gateway.core.record import SCORE_WHOLE
from mcp_gateway.core.routing.classifier.classifier import PromptClassifier
from mcp_gateway.core.routing.outcomes import IMPORTED, CellCount
from mcp_gateway.core.text import is_one_line

_MOST_LINE_BYTES = 4 * 1024 * 1024
_MOST_MODELS = 1000
_MAX_NAME_CHARS = 200
_MOST_TOLD = 20
"""Lines that cannot be read, of which each is told."""


class BadLine(NamedTuple):
    """A line that cannot be read, and why: nothing of what stands in it."""

    number: int
    reason: str


class OutcomeLines:
    """What some lines say; `names` are the ids of models by each name that they have in the settings."""

    def __init__(self, names: Mapping[str, str], classifier: PromptClassifier | None = None) -> None:
        self.bad: list[BadLine] = []
        """The first of them."""
        self.bad_lines = 0
        self.outcomes = 0
        self._names = names
        self._classifier = classifier or PromptClassifier()
        self._sums: dict[str, dict[PromptTask, tuple[int, int]]] = {}
        """Of each model, its scores and how many they are, by task."""

    def read(self, lines: BinaryIO) -> None:
        """Take each line; raises OSError."""
        for number, line in enumerate(_lines(lines), 1):
            try:
                if line is None:
                    raise ValueError(f"is longer than {_MOST_LINE_BYTES} bytes")
                if line.strip():
                    self._take(*self._outcome(line))
            except ValueError as fault:
                self.bad_lines += 1
                if len(self.bad) < _MOST_TOLD:
                    self.bad.append(BadLine(number, str(fault)))

    @property
    def counts(self) -> list[CellCount]:
        cells = ((model, task) for model in self.models for task in sorted(self._sums[model]))
        return [CellCount(IMPORTED, model, task, *self._sums[model][task]) for model, task in cells]

    @property
    def models(self) -> list[str]:
        return sorted(self._sums)

    def _take(self, model: str, task: PromptTask, score: int) -> None:
        if model not in self._sums and len(self._sums) >= _MOST_MODELS:
            raise ValueError(f"names one model more than the {_MOST_MODELS} that a file may")
        sums = self._sums.setdefault(model, {})
        total, trials = sums.get(task, (0, 0))
        sums[task] = total + score, trials + 1
        self.outcomes += 1

    def _outcome(self, line: bytes) -> tuple[str, PromptTask, int]:
        """Raises ValueError that says what is wrong with the line, and nothing of what it holds."""
        try:
            told = orjson.loads(line)
        except orjson.JSONDecodeError:
            raise ValueError("is no JSON") from None
        if not isinstance(told, dict):
            raise ValueError("is no JSON object")
        model, score = self._model(told.get("model")), _score(told.get("score"))
        return model, self._task(told), score

    def _model(self, name: object) -> str:
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_CHARS or not is_one_line(name):
            raise ValueError("has no `model` that is a model's name")
        return self._names.get(name, name)

    def _task(self, told: Mapping[str, object]) -> PromptTask:
        """As it is named, or else as the prompt is read."""
        task, prompt = told.get("task"), told.get("prompt")
        if task is not None:
            return _task_named(task)
        if not isinstance(prompt, str):
            raise ValueError("has neither a `task` nor a `prompt` that is text")
        read = self._classifier.read(prompt).task
        if read == "unknown":
            raise ValueError("has a `prompt` whose task cannot be told")
        return read


def _task_named(name: object) -> PromptTask:
    if isinstance(name, str):
        try:
            return task_named(name, "task")
        except GatewayError:
            pass  # whose message quotes the name
    raise ValueError(f"has a `task` that is none of {', '.join(TASKS)}")


def _score(score: object) -> int:
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise ValueError("has no `score` that is a number from 0 to 1")
    return round(score * SCORE_WHOLE)


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Each line; None for one that is too long, which is passed over piece by piece."""
    mark = b"\xef\xbb\xbf"
    while line := file.readline(_MOST_LINE_BYTES + 1):
        is_whole = len(line) <= _MOST_LINE_BYTES or line.endswith(b"\n")
        yield line.removeprefix(mark) if is_whole else None
        mark = b""
        while not is_whole and (line := file.readline(_MOST_LINE_BYTES)):
            is_whole = line.endswith(b"\n")
