"""How often requests may be sent again, all of them together."""

from mcp_gateway.core.upstream.budget import RESERVE, RetryBudget
from tests.core.upstream.clock import Clock


def spent(budget: RetryBudget) -> int:
    """Take all that there is, and say how much that was."""
    count = 0
    while budget.withdraw():
        count += 1
    return count


def test_a_quiet_gateway_has_a_reserve() -> None:
    assert spent(RetryBudget(0.2, Clock())) == RESERVE


def test_each_request_adds_its_share() -> None:
    budget = RetryBudget(0.2, Clock())
    for _ in range(1000):
        budget.deposit()
    assert abs(spent(budget) - (RESERVE + 200)) <= 1
    assert repr(RetryBudget(0.2, Clock())) == "<RetryBudget 100.0>"


def test_a_fleet_that_only_fails_is_asked_little_more_than_the_share_above_what_clients_ask() -> None:
    clock = Clock()
    budget = RetryBudget(0.2, clock)
    retries = 0
    for _ in range(100_000):  # ten minutes of 167 requests a second
        clock.now_s += 0.006
        budget.deposit()
        retries += budget.withdraw()
    assert 0.2 < retries / 100_000 < 0.28


def test_what_was_spent_comes_back_and_what_was_saved_is_forgotten() -> None:
    clock = Clock()
    budget = RetryBudget(0.2, clock)
    spent(budget)
    assert not budget.withdraw()
    clock.now_s += 60
    assert spent(budget) == RESERVE - 1  # all but the last tenth
    for _ in range(10_000):
        budget.deposit()
    clock.now_s += 120
    assert RESERVE - 1 <= spent(budget) <= RESERVE
