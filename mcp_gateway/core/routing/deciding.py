"""Which models a request that names none goes to, in order, and why: a pure function of what is known of both.

Knows no connection and no clock. How good, dear and quick a model is expected to be is weighed by the mode;
docs/routing.md has the formula.
"""

from collections.abc import Sequence
from statistics import median
from typing import Literal, NamedTuple

from mcp_gateway.core.catalog import Model
from mcp_gateway.core.optimization import Mode
from mcp_gateway.core.routing.classifier.classifier import PromptReading
from mcp_gateway.core.routing.classifier.complexity import Complexity
from mcp_gateway.core.routing.conversations import Remembered
from mcp_gateway.core.routing.eligibility import Contender, Eligibility, Requirements, eligible
from mcp_gateway.core.routing.emphasis import EMPHASIS, Emphasis
from mcp_gateway.core.routing.lengths import USUAL_OUTPUT_TOKENS, OutputLengths
from mcp_gateway.core.routing.quality import Expected, QualityTable

_UNKNOWN_OUTPUT_TOKENS = 400
_MORE_OUTPUT: dict[Complexity, float] = {"simple": 0.7, "medium": 1.0, "complex": 1.6}
_USUAL_FIRST_TOKEN_S, _USUAL_TOKENS_PER_S = 0.5, 50.0
"""Where nobody has been timed."""
_FAILS_MORE = 1.2
"""How much more often a model fails at the most work than at none."""
LEAST_QUALITY = 0.9
"""Of the best one's: what a model must have to be chosen for its price or its speed."""
_SURE_ABOVE = 0.6
"""A conversation leaves its model for a task that is as sure."""

Reason = Literal["score", "conversation"]


class Scored(NamedTuple):
    """A model that may serve the request. `rate` is the success expected of the task, `quality` that of the prompt."""

    model_id: str
    score: float
    rate: float
    outcomes: int
    quality: float
    cost_nano: int
    latency_s: float
    is_near_best: bool


class Decision(NamedTuple):
    """`candidates` are in the order in which they are asked: none where nobody is eligible."""

    reading: PromptReading
    mode: Mode
    candidates: list[Scored]
    reason: Reason
    eligibility: Eligibility


def decide(
    contenders: Sequence[Contender],
    required: Requirements,
    reading: PromptReading,
    mode: Mode,
    quality: QualityTable,
    *,
    lengths: OutputLengths | None = None,
    least_quality: float = LEAST_QUALITY,
    before: Remembered | None = None,
) -> Decision:
    usual = _usual_output(reading)
    found = eligible(contenders, required, usual)
    models = [one.model for one in found.able]
    outputs = _output_tokens(models, required, reading, usual, {} if lengths is None else lengths)
    scored = _scored(models, found.able, outputs, required, reading, quality, EMPHASIS[mode], least_quality)
    scored.sort(key=_place)
    kept = _kept(scored, reading, before)
    return Decision(reading, mode, kept or scored, "conversation" if kept else "score", found)


def _usual_output(reading: PromptReading) -> int:
    usual = _UNKNOWN_OUTPUT_TOKENS if reading.task == "unknown" else USUAL_OUTPUT_TOKENS[reading.task]
    return int(usual * _MORE_OUTPUT[reading.complexity])


def _output_tokens(
    models: Sequence[Model], required: Requirements, reading: PromptReading, usual: int, lengths: OutputLengths
) -> list[int]:
    """Of the answer of each model: what its own answers to such a task have had, or else what is usual."""
    task, limit = reading.task, required.output_limit
    if task == "unknown" or not lengths:
        tokens = [usual] * len(models)
    else:
        tokens = [int(lengths.get((model.id, task), usual)) for model in models]
    if limit is not None:
        tokens = [min(limit, one) for one in tokens]
    most = [model.max_output_tokens for model in models]
    return [*map(min, tokens, most)]


def _scored(
    models: Sequence[Model],
    able: Sequence[Contender],
    outputs: Sequence[int],
    required: Requirements,
    reading: PromptReading,
    quality: QualityTable,
    emphasis: Emphasis,
    least_quality: float,
) -> list[Scored]:
    if not able:
        return []
    rates = quality.expected(reading)
    expected = [rates[model.id] for model in models]
    qualities = _qualities(expected, reading)
    costs = _costs_nano(models, outputs, required)
    latencies_s = _latencies_s(able, outputs)
    of_quality = emphasis.quality
    of_cost, of_latency = _of_each(emphasis, reading, max(costs), max(latencies_s))
    best = max([one.rate for one in expected])
    least_rate = best * _least_share(reading, least_quality) if emphasis.holds_quality else 0.0
    return [
        Scored(
            model.id,
            of_quality * its_quality - of_cost * cost_nano - of_latency * latency_s,
            rate,
            outcomes,
            its_quality if its_quality > 0 else 0.0,
            cost_nano,
            latency_s,
            rate >= least_rate,
        )
        for model, (rate, outcomes), its_quality, cost_nano, latency_s in zip(
            models, expected, qualities, costs, latencies_s, strict=True
        )
    ]


def _qualities(expected: Sequence[Expected], reading: PromptReading) -> list[float]:
    """Who fails often fails still more often where there is more to do.

    It falls below 0 where failure is all but sure, so that the better one of two is still the better one.
    """
    fails_more = 1 + _FAILS_MORE * max(0.0, reading.work)
    return [1 - (1 - one.rate) * fails_more for one in expected]


def _costs_nano(models: Sequence[Model], outputs: Sequence[int], required: Requirements) -> list[int]:
    prompt_tokens, images = required.prompt_tokens, required.images
    return [model.price.most_nano(prompt_tokens, tokens, images) for model, tokens in zip(models, outputs, strict=True)]


def _latencies_s(able: Sequence[Contender], outputs: Sequence[int]) -> list[float]:
    """Who has not been timed is taken to be as quick as the others."""
    first_s = _filled([one.first_token_s for one in able], _USUAL_FIRST_TOKEN_S)
    tokens_per_s = _filled([one.tokens_per_s or None for one in able], _USUAL_TOKENS_PER_S)
    return [first + tokens / pace for first, tokens, pace in zip(first_s, outputs, tokens_per_s, strict=True)]


def _filled(values: list[float | None], usual: float) -> list[float]:
    """With the median of those that are known in the place of each that is not, or what is usual where none is."""
    known = [value for value in values if value is not None]
    if len(known) == len(values):
        return known
    between = median(known or [usual])
    return [between if value is None else value for value in values]


def _of_each(emphasis: Emphasis, reading: PromptReading, dearest_nano: int, slowest_s: float) -> tuple[float, float]:
    """What a nano-USD and a second are worth: both are told as parts of the dearest and the slowest that may serve."""
    eased = max(0.0, 1 - reading.work) if emphasis.eases_with_work else 1.0
    return eased * emphasis.cost / (dearest_nano or 1), eased * emphasis.latency / (slowest_s or 1)


def _place(one: Scored) -> tuple[bool, float, int, str]:
    """Of equals the cheapest comes first, and then by name, so that the order is always the same."""
    return not one.is_near_best, -one.score, one.cost_nano, one.model_id


def _least_share(reading: PromptReading, least_quality: float) -> float:
    """Of the best one's rate; where there is much to do, half as much of it may be given up."""
    return (1 + least_quality) / 2 if reading.complexity == "complex" else least_quality


def _kept(in_order: Sequence[Scored], reading: PromptReading, before: Remembered | None) -> list[Scored] | None:
    """The same with the conversation's model first, whose prefix cache has it; None where there is no reason to."""
    if before is None or (reading.confidence > _SURE_ABOVE and reading.task != before.task):
        return None
    same = [one for one in in_order if one.model_id == before.model_id]
    return [*same, *(one for one in in_order if one.model_id != before.model_id)] if same else None
