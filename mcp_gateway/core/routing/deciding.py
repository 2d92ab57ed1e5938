"""Which models a request that names none goes to, in order, and why: a pure function of what is known of both.

Knows no connection and no clock. How good, dear and quick a model is expected to be is weighed by the mode;
docs/routing.md has the formula.
"""

from collections.abc import Sequence
from statistics import median
from typing import Literal, NamedTuple

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
    speeds = _speeds_of(found.able)
    # who fails often fails still more often where there is more to do; a quality falls below 0 where failure is all but
    # sure, so that the better one of two is still the better one
    fails_more = 1 + _FAILS_MORE * max(0.0, reading.work)
    known = {} if lengths is None else lengths
    estimates = [_estimate(one, required, reading, quality, known, speeds, usual, fails_more) for one in found.able]
    scored = _scored(estimates, EMPHASIS[mode], reading, least_quality)
    scored.sort(key=_place)
    kept = _kept(scored, reading, before)
    return Decision(reading, mode, kept or scored, "conversation" if kept else "score", found)


class _Estimate(NamedTuple):
    model_id: str
    expected: Expected
    quality: float
    cost_nano: int
    latency_s: float


class _Speeds(NamedTuple):
    """Of those that are known, for those that are not."""

    first_token_s: float
    tokens_per_s: float


def _speeds_of(able: Sequence[Contender]) -> _Speeds:
    return _Speeds(
        median([one.first_token_s for one in able if one.first_token_s is not None] or [_USUAL_FIRST_TOKEN_S]),
        median([one.tokens_per_s for one in able if one.tokens_per_s] or [_USUAL_TOKENS_PER_S]),
    )


def _usual_output(reading: PromptReading) -> int:
    usual = _UNKNOWN_OUTPUT_TOKENS if reading.task == "unknown" else USUAL_OUTPUT_TOKENS[reading.task]
    return int(usual * _MORE_OUTPUT[reading.complexity])


def _estimate(
    contender: Contender,
    required: Requirements,
    reading: PromptReading,
    quality: QualityTable,
    lengths: OutputLengths,
    speeds: _Speeds,
    usual_output: int,
    fails_more: float,
) -> _Estimate:
    model = contender.model
    own = None if reading.task == "unknown" else lengths.get((model.id, reading.task))
    output_tokens = min(usual_output if own is None else int(own), model.max_output_tokens)
    if required.output_limit is not None:
        output_tokens = min(output_tokens, required.output_limit)
    first_token_s = speeds.first_token_s if contender.first_token_s is None else contender.first_token_s
    expected = quality.expected(model.id, reading)
    return _Estimate(
        model.id,
        expected,
        1 - (1 - expected.rate) * fails_more,
        model.price.most_nano(required.prompt_tokens, output_tokens, required.images),
        first_token_s + output_tokens / (contender.tokens_per_s or speeds.tokens_per_s),
    )


def _scored(
    estimates: Sequence[_Estimate], emphasis: Emphasis, reading: PromptReading, least_quality: float
) -> list[Scored]:
    """Cost and time are told as parts of the dearest and the slowest of those that may serve."""
    if not estimates:
        return []
    eased = max(0.0, 1 - reading.work) if emphasis.eases_with_work else 1.0
    of_cost = eased * emphasis.cost / (max([one.cost_nano for one in estimates]) or 1)
    of_latency = eased * emphasis.latency / (max([one.latency_s for one in estimates]) or 1)
    best = max([one.expected.rate for one in estimates])
    least_rate = best * _least_share(reading, least_quality) if emphasis.holds_quality else 0.0
    return [
        Scored(
            model_id,
            emphasis.quality * quality - of_cost * cost_nano - of_latency * latency_s,
            expected.rate,
            expected.outcomes,
            max(0.0, quality),
            cost_nano,
            latency_s,
            expected.rate >= least_rate,
        )
        for model_id, expected, quality, cost_nano, latency_s in estimates
    ]


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
