"""What is expected of a model: judged outcomes, drawn to what the operator says, and neutral where nobody says any."""

import pytest

from mcp_gateway.core.prompt_tasks import PromptTask
from mcp_gateway.core.routing.classifier.classifier import UNKNOWN, PromptReading
from mcp_gateway.core.routing.quality import DEFAULT_MODEL_LEAD, NEUTRAL, Outcomes, QualityTable
from tests.cases import each


def of(table: QualityTable, task: PromptTask, model_id: str = "m", confidence: float = 0.9) -> tuple[float, int]:
    rate, outcomes = table.expected(PromptReading(task, confidence, "medium", 0.5))[model_id]
    return round(rate, 4), outcomes


def test_without_anything_a_model_is_neutral_and_the_default_one_a_little_better() -> None:
    table = QualityTable({}, {}, "default")
    assert of(table, "code") == (NEUTRAL, 0)
    assert of(table, "code", "default") == (NEUTRAL + DEFAULT_MODEL_LEAD, 0)


@each(
    ("trials", "score", "rate"),
    [(29, 29.0, 0.5), (30, 30.0, 0.92), (30, 0.0, 0.08), (180, 180.0, 0.995), (10_000, 7_000.0, 0.7)],
)
def test_a_rate_is_drawn_to_what_was_expected_before(trials: int, score: float, rate: float) -> None:
    """By twenty outcomes of the model's rate in all tasks, which is drawn to the neutral one in the same way."""
    table = QualityTable({("m", "code"): Outcomes(score, trials)}, {}, None)
    assert of(table, "code")[0] == pytest.approx(rate, abs=0.003)


def test_what_the_operator_says_stands_until_there_are_outcomes() -> None:
    priors: dict[str, dict[PromptTask, float]] = {"m": {"code": 0.9, "math": 0.7}}
    assert of(QualityTable({}, priors, None), "code") == (0.9, 0)
    assert of(QualityTable({}, priors, None), "translation") == (0.8, 0)
    table = QualityTable({("m", "code"): Outcomes(20.0, 80)}, priors, None)
    assert of(table, "code") == ((20 + 20 * 0.9) / 100, 80)
    assert of(table, "math") == (0.7, 0)


def test_outcomes_in_one_task_tell_something_of_the_others() -> None:
    table = QualityTable({("m", "code"): Outcomes(100.0, 100)}, {}, None)
    assert of(table, "translation") == (round((100 + 10) / 120, 4), 100)


def test_tasks_that_cannot_be_told_apart_are_counted_together() -> None:
    table = QualityTable({("m", "math"): Outcomes(15.0, 15), ("m", "reasoning"): Outcomes(15.0, 15)}, {}, None)
    assert of(table, "math") == of(table, "reasoning")
    assert of(table, "math")[1] == 30
    table = QualityTable({("m", "analysis"): Outcomes(40.0, 40)}, {}, None)
    assert of(table, "question_answering") == of(table, "analysis")


def test_an_unsure_task_and_an_unknown_one_go_by_the_model_alone() -> None:
    table = QualityTable({("m", "code"): Outcomes(100.0, 100), ("m", "math"): Outcomes(0.0, 100)}, {}, None)
    whole = table.expected(UNKNOWN)["m"].rate
    sure, unsure = of(table, "code")[0], of(table, "code", confidence=0.39)[0]
    assert whole == pytest.approx(0.5)
    assert unsure == pytest.approx((sure + whole) / 2, abs=1e-4)


def test_nothing_but_the_models_own_outcomes_moves_it() -> None:
    table = QualityTable({("other", "code"): Outcomes(100.0, 100)}, {}, None)
    assert of(table, "code") == (NEUTRAL, 0)


def test_what_stands_behind_a_rate_is_told() -> None:
    priors: dict[str, dict[PromptTask, float]] = {"a": {"code": 0.9}, "b": {"code": 0.9}}
    outcomes: dict[tuple[str, PromptTask], Outcomes] = {
        ("a", "code"): Outcomes(20, 29), ("b", "code"): Outcomes(20, 30), ("c", "reasoning"): Outcomes(9, 20),
        ("c", "math"): Outcomes(9, 10),
    }  # fmt: skip
    table = QualityTable(outcomes, priors, "d")
    assert table.models == {"a", "b", "c"}
    told: list[tuple[str, PromptTask, int, str]] = [
        ("a", "code", 29, "configuration"),
        ("a", "math", 0, "configuration of other tasks"),
        ("b", "code", 30, "outcomes"),
        ("b", "math", 0, "outcomes of other tasks"),
        ("c", "math", 30, "outcomes"),
        ("c", "reasoning", 30, "outcomes"),
        ("c", "code", 0, "outcomes of other tasks"),
        ("d", "code", 0, "nothing"),
    ]
    for model_id, task, counted, basis in told:
        assert (table.counted(model_id, task), table.basis(model_id, task)) == (counted, basis)
