"""How much work a prompt asks for: simple, medium or complex. It is an amount, and never says how hard the work is.

A model fails more often where there is more to do, and a dear one may then fail as often as a cheap one, so that this
says of no prompt that it needs the dearest (docs/routing.md).
"""

import math
from collections.abc import Sequence
from itertools import compress
from operator import mul
from typing import Literal, NamedTuple

from mcp_gateway.core.prompt_tasks import TASKS, PromptTask
from mcp_gateway.core.routing.classifier.excerpt import MOST_CHARS

Complexity = Literal["simple", "medium", "complex"]
_MEDIUM_FROM, _COMPLEX_FROM = 0.34, 0.62
_USUAL_WORK: dict[PromptTask, float] = {
    "code": 0.50, "math": 0.38, "reasoning": 0.50, "question_answering": 0.30, "summarization": 0.25,
    "translation": 0.20, "extraction": 0.25, "classification": 0.20, "creative_writing": 0.35, "rewriting": 0.20,
    "conversation": 0.05, "analysis": 0.50,
}  # fmt: skip
_USUAL_BY_TASK = tuple(_USUAL_WORK[task] for task in TASKS)
_GROWS_WITH_LENGTH = tuple(task in ("code", "math", "reasoning", "analysis") for task in TASKS)
"""Where a longer instruction is more to do, and not only more to read."""
_ASKS = frozenset((
    "?", "must", "should", "least", "most", "exactly", "without", "ensure", "optimize", "optimise", "constraint",
    "constraints", "requirement", "requirements", "words", "prove", "step", "steps", "include", "avoid", "following",
))  # fmt: skip
_ITEMS = ("\n- ", "\n1", "\n2", "\n3")
_MARKS = (
    "\\frac", "\\sqrt", "\\[", "\\(", "\\begin", "$", "^2", "^{", "Prove", "prove ", "integral", "theorem",
    "polynomial", "derivative", "asymptotic", "complexity", "concurren", "distributed", "optimi",
)  # fmt: skip
_MARKED = 0.22
"""What a mark of mathematics or systems adds."""
_LEAST_SIZE, _MOST_SIZE = -0.4, 1.2
_SHORT_QUESTION, _TO_LONG_ONE = 3.2, 5.0
"""Sizes are told from 0, a short question, to 1, a long instruction of many parts."""


class Work(NamedTuple):
    """`score` is about 0 for a greeting, and 1 and more for a long instruction of many parts."""

    complexity: Complexity
    score: float


def work_of(text: str, tokens: Sequence[str], probabilities: Sequence[float]) -> Work:
    """Of a prompt, the tokens of what was read of it, and how likely each task is."""
    usual = sum(map(mul, _USUAL_BY_TASK, probabilities))
    growing = sum(compress(probabilities, _GROWS_WITH_LENGTH))
    size = max(_LEAST_SIZE, min(_MOST_SIZE, (_size_of(text, tokens) - _SHORT_QUESTION) / _TO_LONG_ONE))
    score = usual + (0.35 * growing + 0.15) * size
    head = text[:MOST_CHARS]
    if any(map(head.__contains__, _MARKS)):
        score += _MARKED
    return Work(_level_of(score), score)


def _size_of(text: str, tokens: Sequence[str]) -> float:
    """By length, numbers, and what is asked or demanded, each of which counts less the more there is."""
    numbers = sum(map(str.isdigit, tokens))
    asks = sum(map(_ASKS.__contains__, tokens)) + sum([text.count(item, 0, MOST_CHARS) for item in _ITEMS])
    return 0.5 * math.log2(len(text) + 1) + 0.5 * math.log2(1 + numbers) + 0.4 * math.log2(1 + asks)


def _level_of(score: float) -> Complexity:
    if score < _MEDIUM_FROM:
        return "simple"
    return "medium" if score < _COMPLEX_FROM else "complex"
