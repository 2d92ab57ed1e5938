"""Decisions for a pool of five models with made-up prices, speeds and outcomes, as a person would expect them."""

from dataclasses import replace
from typing import Any

import pytest

from mcp_gateway.core.catalog import VLLM, Model, Offer
from mcp_gateway.core.optimization import MODES, Mode
from mcp_gateway.core.prices import Price
from mcp_gateway.core.prompt_tasks import TASKS, PromptTask
from mcp_gateway.core.routing.classifier.classifier import UNKNOWN, PromptReading
from mcp_gateway.core.routing.classifier.complexity import Complexity
from mcp_gateway.core.routing.conversations import Remembered
from mcp_gateway.core.routing.deciding import Decision, decide
from mcp_gateway.core.routing.eligibility import (
    IN_WORDS,
    Contender,
    Eligibility,
    Obstacle,
    Requirements,
    nothing_eligible,
)
from mcp_gateway.core.routing.quality import DEFAULT_MODEL_LEAD, LEAST_OUTCOMES, Outcomes, QualityTable
from tests.cases import each

MILLION = 1_000_000
"""Pico-USD for a token, of a USD for a million of them."""
DEFAULT = "large"


def model(model_id: str, prompt_usd: float, completion_usd: float, **fields: Any) -> Model:
    price = Price(int(prompt_usd * MILLION), int(completion_usd * MILLION))
    told: dict[str, Any] = {
        "name": model_id, "description": "", "owned_by": "", "created_at_s": 0, "context_window": 32_000,
        "max_output_tokens": 8_000, "quantization": None, "features": ("tools", "json_mode", "structured_outputs"),
        "input_modalities": ("text",), "aliases": (), "is_open_to_guests": True,
    }  # fmt: skip
    return Model(id=model_id, offers=(Offer(VLLM, model_id, price),), **told | fields)


POOL = {
    "tiny": Contender(model("tiny", 0.02, 0.06, context_window=8_000, features=()), True, 0.1, 250),
    "small": Contender(model("small", 0.1, 0.3), True, 0.2, 160),
    "coder": Contender(model("coder", 0.2, 0.8), True, 0.3, 120),
    "seeing": Contender(model("seeing", 0.6, 1.8, input_modalities=("text", "image")), True, 0.4, 90),
    "large": Contender(model("large", 3, 12, context_window=128_000), True, 0.8, 60),
}
RATES: dict[str, dict[PromptTask, float]] = {
    "tiny": {"conversation": 0.80, "code": 0.20, "math": 0.20, "translation": 0.60, "question_answering": 0.40},
    "small": {"conversation": 0.86, "code": 0.50, "math": 0.45, "translation": 0.85, "question_answering": 0.65},
    "coder": {"conversation": 0.60, "code": 0.88, "math": 0.60, "translation": 0.50, "question_answering": 0.60},
    "seeing": {"conversation": 0.85, "code": 0.65, "math": 0.60, "translation": 0.88, "question_answering": 0.80},
    "large": {"conversation": 0.90, "code": 0.90, "math": 0.92, "translation": 0.92, "question_answering": 0.90},
}
JUDGED = QualityTable(
    {(name, task): Outcomes(rate * 1000, 1000) for name, rates in RATES.items() for task, rate in rates.items()},
    {},
    DEFAULT,
)
NOTHING_JUDGED = QualityTable({}, {}, DEFAULT)
PLAIN = Requirements(prompt_tokens=200)
WORK: dict[Complexity, float] = {"simple": 0.2, "medium": 0.5, "complex": 0.8}


def reading(task: PromptTask, complexity: Complexity = "medium", confidence: float = 0.9) -> PromptReading:
    return PromptReading(task, confidence, complexity, WORK[complexity])


def decided(
    read: PromptReading,
    mode: Mode = "balanced",
    quality: QualityTable = JUDGED,
    required: Requirements = PLAIN,
    **rest: Any,
) -> Decision:
    pool = rest.pop("pool", POOL)
    return decide([*pool.values()], required, read, mode, quality, **rest)


def order(decision: Decision) -> list[str]:
    return [one.model_id for one in decision.candidates]


@each(
    ("task", "complexity", "mode", "first"),
    [
        ("conversation", "simple", "quality", "large"),
        ("conversation", "simple", "balanced", "small"),
        ("conversation", "simple", "cost", "small"),
        ("conversation", "simple", "latency", "small"),
        ("code", "medium", "quality", "large"),
        ("code", "medium", "balanced", "coder"),
        ("code", "medium", "cost", "coder"),
        ("code", "medium", "latency", "coder"),
        ("code", "complex", "cost", "coder"),
        ("math", "medium", "balanced", "large"),
        ("math", "medium", "cost", "large"),
        ("math", "complex", "latency", "large"),
        ("translation", "medium", "quality", "large"),
        ("translation", "medium", "balanced", "seeing"),
        ("translation", "simple", "balanced", "small"),
        ("translation", "medium", "cost", "small"),
        ("translation", "complex", "cost", "seeing"),
        ("question_answering", "simple", "quality", "large"),
        ("question_answering", "complex", "balanced", "large"),
    ],
)
def test_the_mode_changes_who_wins(task: PromptTask, complexity: Complexity, mode: Mode, first: str) -> None:
    assert order(decided(reading(task, complexity), mode))[0] == first


@each(
    ("complexity", "mode", "first"),
    [
        ("simple", "quality", "large"),
        ("complex", "quality", "large"),
        ("simple", "balanced", "tiny"),
        ("complex", "balanced", "large"),
        ("simple", "cost", "tiny"),
        ("medium", "cost", "tiny"),
        ("complex", "cost", "large"),
        ("medium", "latency", "tiny"),
    ],
)
def test_without_outcomes_only_much_work_or_the_wish_for_quality_brings_the_default_model(
    complexity: Complexity, mode: Mode, first: str
) -> None:
    found = decided(reading("code", complexity), mode, NOTHING_JUDGED)
    assert order(found)[0] == first
    rates = {one.model_id: one.rate for one in found.candidates}
    assert rates[DEFAULT] - rates[first] <= DEFAULT_MODEL_LEAD + 1e-9, "that much is given up at most"


@each("mode", MODES)
def test_every_model_that_may_serve_is_a_candidate_once(mode: Mode) -> None:
    for quality in (JUDGED, NOTHING_JUDGED):
        assert sorted(order(decided(reading("code"), mode, quality))) == sorted(POOL)


def test_the_next_candidates_are_those_that_would_win_without_the_first() -> None:
    whole = order(decided(reading("translation"), "cost"))
    for place, first in enumerate(whole):
        left = {name: one for name, one in POOL.items() if name not in whole[:place]}
        assert order(decided(reading("translation"), "cost", pool=left))[0] == first or place > 0
    assert whole[0] == "small"


@each(
    ("required", "removed"),
    [
        (PLAIN, {}),
        (replace(PLAIN, pool=frozenset({"tiny", "large"})), {"small": "pool", "coder": "pool", "seeing": "pool"}),
        (replace(PLAIN, pool=frozenset({"gone", *POOL})), {}),
        (replace(PLAIN, prompt_tokens=7_900), {"tiny": "context"}),
        (replace(PLAIN, prompt_tokens=31_900, output_limit=50), {"tiny": "context"}),
        (
            replace(PLAIN, prompt_tokens=31_900, output_limit=5_000),
            {"tiny": "context", "small": "context", "coder": "context", "seeing": "context"},
        ),
        (replace(PLAIN, needs=frozenset({"tools"})), {"tiny": "tools"}),
        (replace(PLAIN, needs=frozenset({"structured_outputs", "tools"})), {"tiny": "structured_outputs"}),
        (replace(PLAIN, needs=frozenset({"reasoning"})), dict.fromkeys(POOL, "reasoning")),
        (replace(PLAIN, images=1), {"tiny": "image", "small": "image", "coder": "image", "large": "image"}),
        (replace(PLAIN, max_price_pico=2 * MILLION), {"large": "price"}),
        (replace(PLAIN, max_price_pico=1_800_000), {"large": "price"}),
        (replace(PLAIN, max_price_pico=1_799_999), {"large": "price", "seeing": "price"}),
        (
            replace(PLAIN, images=1, pool=frozenset({"large", "tiny"})),
            {"small": "pool", "coder": "pool", "seeing": "pool", "tiny": "image", "large": "image"},
        ),
    ],
)
def test_each_filter_removes_exactly_whom_it_should(required: Requirements, removed: dict[str, Obstacle]) -> None:
    found = decided(reading("code"), required=required)
    assert found.eligibility.removed == removed
    assert sorted(order(found)) == sorted(POOL.keys() - removed.keys())


@each(
    ("prompt_tokens", "fits"),
    [(31_000, ["coder", "large", "seeing", "small"]), (127_400, ["large"]), (127_999, ["large"]), (128_000, [])],
)
def test_a_window_without_room_for_the_usual_answer_serves_where_no_other_has_it(
    prompt_tokens: int, fits: list[str]
) -> None:
    assert sorted(order(decided(reading("code"), required=replace(PLAIN, prompt_tokens=prompt_tokens)))) == fits


def test_who_is_down_or_has_no_such_endpoint_or_makes_no_text_is_passed_over() -> None:
    embedding = Contender(model("embedding", 0.01, 0, task="embed"))
    pool = POOL | {
        "large": POOL["large"]._replace(is_up=False),
        "coder": POOL["coder"]._replace(has_surface=False),
        "embedding": embedding,
    }
    found = decided(reading("code"), pool=pool)
    assert found.eligibility.removed == {"large": "down", "coder": "surface", "embedding": "generation"}
    assert sorted(order(found)) == ["seeing", "small", "tiny"]


def test_a_margin_of_the_account_counts_in_the_price_cap() -> None:
    pool = {name: one._replace(model=one.model.with_margin(1_000)) for name, one in POOL.items()}
    assert decided(
        reading("code"), pool=pool, required=replace(PLAIN, max_price_pico=1_900_000)
    ).eligibility.removed == {
        "seeing": "price",
        "large": "price",
    }


def refused(required: Requirements, changed: dict[str, Contender]) -> tuple[str, str]:
    found = decided(reading("code"), required=required, pool=POOL | changed)
    assert found.candidates == []
    error = nothing_eligible(found.eligibility)
    return error.code, error.message


def test_where_nobody_is_left_it_is_told_what_stood_in_whose_way() -> None:
    code, message = refused(replace(PLAIN, images=1, pool=frozenset({"tiny", "large"})), {})
    assert code == "model_not_found"
    assert "Takes no images: tiny, large." in message
    assert "small" not in message, "who is not in the pool was not asked about"


def test_who_would_serve_if_it_were_up_makes_it_a_failure_of_the_moment() -> None:
    down = {"seeing": POOL["seeing"]._replace(is_up=False)}
    code, message = refused(replace(PLAIN, images=1), down)
    assert code == "model_unavailable"
    assert "Down: seeing." in message
    assert refused(replace(PLAIN, images=1, needs=frozenset({"reasoning"})), down)[0] == "model_not_found"


def test_a_model_that_is_not_in_the_pool_is_never_named() -> None:
    down = {name: one._replace(is_up=False) for name, one in POOL.items()}
    code, message = refused(replace(PLAIN, pool=frozenset()), down)
    assert code == "model_not_found"
    assert not any(name in message for name in POOL)


@each("obstacle", [one for one in IN_WORDS if one not in ("pool", "generation")])
def test_what_stands_in_the_way_is_told_in_its_own_words(obstacle: Obstacle) -> None:
    message, words = nothing_eligible(Eligibility([], {"m": obstacle}, [])).message, IN_WORDS[obstacle]
    assert f" {words[0].upper()}{words[1:]}: m." in message


def test_a_long_list_of_models_is_cut_and_odd_names_are_shown_in_one_line() -> None:
    pool = {str(number): Contender(model(f"m\n{number}", 1, 1), is_up=False) for number in range(500)}
    found = decided(reading("code"), pool=pool)
    message = nothing_eligible(found.eligibility).message
    assert len(message) < 400
    assert "\n" not in message
    assert "490 more" in message


@each(
    ("before", "read", "first", "reason"),
    [
        (Remembered("large", "code"), reading("code"), "large", "conversation"),
        (Remembered("large", "math"), reading("code", confidence=0.5), "large", "conversation"),
        (Remembered("large", "math"), reading("code", confidence=0.7), "coder", "score"),
        (Remembered("large", "math"), UNKNOWN, "large", "conversation"),
        (Remembered("gone", "code"), reading("code"), "coder", "score"),
        (None, reading("code"), "coder", "score"),
    ],
)
def test_a_conversation_keeps_its_model_until_another_task_is_sure(
    before: Remembered | None, read: PromptReading, first: str, reason: str
) -> None:
    found = decided(read, before=before)
    assert (order(found)[0], found.reason) == (first, reason)
    assert sorted(order(found)) == sorted(POOL)


def test_a_conversation_does_not_keep_a_model_that_cannot_serve_it() -> None:
    found = decided(
        reading("code"), required=replace(PLAIN, max_price_pico=MILLION), before=Remembered("large", "code")
    )
    assert (order(found)[0], found.reason) == ("coder", "score")


@each("mode", MODES)
def test_no_cell_moves_a_choice_before_it_has_thirty_outcomes(mode: Mode) -> None:
    nothing = decided(reading("code"), mode, NOTHING_JUDGED)
    for task in TASKS:
        few = {("coder", task): Outcomes(29.0, LEAST_OUTCOMES - 1), ("tiny", task): Outcomes(0.0, LEAST_OUTCOMES - 1)}
        assert decided(reading("code"), mode, QualityTable(few, {}, DEFAULT)) == nothing
    few = {
        ("coder", task): Outcomes(29.0, LEAST_OUTCOMES - 1) for task in TASKS if task not in ("reasoning", "analysis")
    }
    assert decided(reading("code"), mode, QualityTable(few, {}, DEFAULT)) == nothing


def test_thirty_outcomes_move_one() -> None:
    enough = QualityTable({("coder", "code"): Outcomes(27.0, LEAST_OUTCOMES)}, {}, DEFAULT)
    assert order(decided(reading("code"), "quality", enough))[0] == "coder"
    bad = QualityTable({("tiny", "code"): Outcomes(0.0, LEAST_OUTCOMES)}, {}, DEFAULT)
    assert order(decided(reading("code"), "cost", NOTHING_JUDGED))[0] == "tiny"
    assert order(decided(reading("code"), "cost", bad))[0] == "small"


def test_cost_keeps_to_the_quality_that_is_asked_for() -> None:
    for least, first in [(0.5, "tiny"), (0.7, "small"), (0.95, "seeing"), (0.97, "large")]:
        found = decided(reading("translation", "simple"), "cost", least_quality=least)
        best = max(one.rate for one in found.candidates)
        assert order(found)[0] == first
        assert found.candidates[0].rate >= least * best


def test_what_answers_have_had_of_tokens_counts_in_their_cost() -> None:
    wordy = {("small", task): 20_000.0 for task in TASKS}
    assert order(decided(reading("translation"), "cost"))[0] == "small"
    assert order(decided(reading("translation"), "cost", lengths=wordy))[0] == "seeing"
    limited = replace(PLAIN, output_limit=50)
    assert order(decided(reading("translation"), "cost", lengths=wordy, required=limited))[0] == "small"


def test_who_has_not_been_timed_is_taken_to_be_as_quick_as_the_others() -> None:
    pool = POOL | {"small": POOL["small"]._replace(first_token_s=None, tokens_per_s=None)}
    found = {one.model_id: one.latency_s for one in decided(reading("code"), pool=pool).candidates}
    assert found["tiny"] < found["small"] < found["large"]
    nobody = {name: one._replace(first_token_s=None, tokens_per_s=None) for name, one in POOL.items()}
    assert len({one.latency_s for one in decided(reading("code"), pool=nobody).candidates}) == 1


def test_free_models_and_a_pool_of_one_are_decided_too() -> None:
    free = {name: one._replace(model=model(name, 0, 0)) for name, one in POOL.items()}
    for mode in MODES:
        assert len(order(decided(reading("code"), mode, pool=free))) == len(POOL)
        assert order(decided(UNKNOWN, mode, pool={"tiny": POOL["tiny"]})) == ["tiny"]
        assert order(decided(UNKNOWN, mode, pool={})) == []


def test_models_that_are_equal_are_always_in_one_order() -> None:
    equal = [Contender(model(name, 1, 1)) for name in ("b", "c", "a")]
    for mode in MODES:
        ids = [
            one.model_id for one in decide(equal, PLAIN, reading("code"), mode, QualityTable({}, {}, None)).candidates
        ]
        assert ids == ["a", "b", "c"]


def test_work_lowers_what_is_expected_of_every_model_and_most_of_the_weakest() -> None:
    easy, hard = (
        {one.model_id: one.quality for one in decided(reading("code", complexity)).candidates}
        for complexity in ("simple", "complex")
    )
    falls = {name: easy[name] - hard[name] for name in ("large", "seeing", "small")}
    assert 0 < falls["large"] < falls["seeing"] < falls["small"]


def test_the_default_model_leads_at_any_amount_of_work_where_quality_is_wanted() -> None:
    for work in (-0.2, 0.0, 0.5, 1.0, 1.4, 5.0):
        read = PromptReading("code", 0.9, "complex", work)
        found = decided(read, "quality", NOTHING_JUDGED)
        assert order(found)[0] == DEFAULT
        assert all(0 <= one.quality <= 1 for one in found.candidates)


def test_an_unsure_task_counts_half() -> None:
    sure = decided(reading("math")).candidates
    unsure = decided(reading("math", confidence=0.3)).candidates
    rates = [{one.model_id: one.rate for one in found} for found in (sure, unsure)]
    assert rates[0]["large"] == pytest.approx(0.92, abs=0.01)
    assert rates[0]["coder"] < rates[1]["coder"]
