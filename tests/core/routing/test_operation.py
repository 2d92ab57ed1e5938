"""Simulated operation: what the table predicts is what comes, and without outcomes no more is given up than is said."""

from math import fsum
from random import Random
from typing import NamedTuple

import pytest

from mcp_gateway.core.catalog import VLLM, Model, Offer
from mcp_gateway.core.optimization import MODES, Mode
from mcp_gateway.core.prices import Price
from mcp_gateway.core.prompt_tasks import PromptTask
from mcp_gateway.core.routing.classifier.classifier import PromptReading
from mcp_gateway.core.routing.deciding import LEAST_QUALITY, decide
from mcp_gateway.core.routing.eligibility import Contender, Requirements
from mcp_gateway.core.routing.quality import DEFAULT_MODEL_LEAD, Outcomes, QualityTable
from tests.cases import each

MILLION = 1_000_000
TRUE_RATES: dict[str, dict[PromptTask, float]] = {
    "small": {"code": 0.55, "conversation": 0.9, "translation": 0.85, "math": 0.4},
    "large": {"code": 0.9, "conversation": 0.92, "translation": 0.9, "math": 0.9},
}
"""Of two models, the larger one of which costs twenty times as much."""
SHARES: dict[PromptTask, float] = {"code": 0.3, "conversation": 0.4, "translation": 0.2, "math": 0.1}


def contender(name: str, usd: float, window: int = 32_000) -> Contender:
    price = Price(int(usd * MILLION), int(usd * 4 * MILLION))
    return Contender(
        Model(
            id=name, offers=(Offer(VLLM, name, price),), name=name, description="", owned_by="", created_at_s=0,
            context_window=window, max_output_tokens=8_000, quantization=None, features=(), input_modalities=("text",),
            aliases=(), is_open_to_guests=True,
        )
    )  # fmt: skip


PLAIN = Requirements(prompt_tokens=300)
POOL = [contender("small", 0.1), contender("large", 2)]


class Operated(NamedTuple):
    quality: float
    """The share of answers that were right."""
    predicted_quality: float
    cost_nano: int
    """Of a request."""


def judged(number: int, random: Random) -> QualityTable:
    """A table of so many outcomes of each model in each task, as they fell."""
    cells = {
        (name, task): Outcomes(float(sum(random.random() < rate for _ in range(number))), number)
        for name, rates in TRUE_RATES.items()
        for task, rate in rates.items()
    }
    return QualityTable(cells, {}, "large")


def operated(table: QualityTable, mode: Mode, random: Random, requests: int = 2000) -> Operated:
    first_of = {
        task: decide(POOL, PLAIN, PromptReading(task, 0.9, "medium", 0.4), mode, table).candidates[0] for task in SHARES
    }
    tasks = random.choices([*SHARES], weights=[*SHARES.values()], k=requests)
    firsts = [(task, first_of[task]) for task in tasks]
    return Operated(
        sum(random.random() < TRUE_RATES[first.model_id][task] for task, first in firsts) / requests,
        fsum(first.rate for _, first in firsts) / requests,
        sum(first.cost_nano for _, first in firsts) // requests,
    )


def always(name: str) -> float:
    return fsum(share * TRUE_RATES[name][task] for task, share in SHARES.items())


@each("seed", range(5))
def test_with_outcomes_cost_reaches_the_quality_that_is_asked_for_at_the_cost_that_is_predicted(seed: int) -> None:
    random = Random(seed)
    table = judged(500, random)
    found = operated(table, "cost", random)
    assert found.quality == pytest.approx(found.predicted_quality, abs=0.04)
    assert found.quality >= LEAST_QUALITY * always("large") - 0.02
    whole = operated(table, "quality", random).cost_nano
    assert 0.3 * whole < found.cost_nano < 0.6 * whole, (
        "code and mathematics alone, 0.4 of the requests, go to the large"
    )


@each("seed", range(5))
def test_with_outcomes_quality_is_as_good_as_the_best_of_each_task(seed: int) -> None:
    random = Random(seed)
    assert operated(judged(500, random), "quality", random).quality >= always("large") - 0.03


@each("mode", MODES)
def test_without_outcomes_no_more_is_given_up_than_the_default_models_lead(mode: Mode) -> None:
    """By what is assumed of the models, which is all that is known then."""
    nothing = QualityTable({}, {}, "large")
    found = operated(nothing, mode, Random(1))
    by_default = operated(nothing, "quality", Random(1))
    assert by_default.predicted_quality - found.predicted_quality <= DEFAULT_MODEL_LEAD + 1e-9


def test_what_the_operator_says_keeps_a_poor_model_from_what_it_cannot_do() -> None:
    table = QualityTable({}, TRUE_RATES, "large")
    for mode in MODES:
        found = operated(table, mode, Random(2))
        assert found.quality >= LEAST_QUALITY * always("large") - 0.03
