"""No account moves what others are served by with more than a tenth of the weight, however much it scores."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.core.routing.pooling import pooled
from mcp_gateway.core.routing.quality import NO_OUTCOMES, Outcomes

TRIALS = st.lists(st.integers(0, 10_000), max_size=40)


def of(trials: float, score: float | None = None) -> Outcomes:
    return Outcomes(float(trials if score is None else score), float(trials))


def test_equal_accounts_count_whole_from_ten_on() -> None:
    assert pooled(NO_OUTCOMES, [of(30)] * 10) == of(300)
    assert pooled(NO_OUTCOMES, [of(30)] * 9) == NO_OUTCOMES
    assert pooled(of(100), [of(5)] * 3) == of(115)


def test_an_account_that_scores_without_end_has_a_tenth_of_what_counts() -> None:
    found = pooled(NO_OUTCOMES, [of(1_000_000, 0), *[of(30)] * 18])
    assert found.trials == pytest.approx(540 / 0.9)
    assert found.score == pytest.approx(540)
    assert pooled(of(900), [of(1_000_000, 0)]).trials == pytest.approx(1000)


def test_nothing_comes_of_nothing() -> None:
    assert pooled(NO_OUTCOMES, []) == pooled(NO_OUTCOMES, [NO_OUTCOMES] * 20) == NO_OUTCOMES
    assert pooled(of(40, 10), []) == of(40, 10)


@given(st.integers(0, 10_000), TRIALS)
def test_no_account_has_more_than_a_tenth_and_none_counts_for_more_than_it_said(
    imported: int, trials: list[int]
) -> None:
    whole = pooled(of(imported), [of(one) for one in trials])
    assert imported <= whole.trials + 1e-6
    assert whole.trials <= imported + sum(trials) + 1e-6
    for place, one in enumerate(trials):
        others = [of(other) for other in [*trials[:place], *trials[place + 1 :]]]
        marked = pooled(of(imported, 0), [of(other.trials, 0) for other in others] + [of(one)])
        assert marked.score <= marked.trials / 10 + 1e-6


@given(st.integers(0, 10_000), TRIALS)
def test_as_much_counts_as_may(imported: int, trials: list[int]) -> None:
    """Either everything, or some accounts are at their tenth."""
    whole = pooled(of(imported), [of(one) for one in trials])
    if whole.trials < imported + sum(trials) - 1e-6:
        assert max(trials) > whole.trials / 10 - 1e-6
