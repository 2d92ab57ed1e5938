"""When a backend is left alone, and how it comes back."""

import pytest

from mcp_gateway.core.upstream.breaker import Breaker
from tests.core.upstream.clock import Clock

REST_S = 5.0


@pytest.fixture
def clock_s() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock_s: Clock) -> Breaker:
    return Breaker(3, REST_S, clock_s)


def fail(breaker: Breaker, times: int = 3) -> None:
    for _ in range(times):
        breaker.failed(breaker.enter(), "it failed")


def test_it_opens_after_failures_in_a_row_and_says_why(breaker: Breaker) -> None:
    fail(breaker, 2)
    assert breaker.is_closed
    fail(breaker, 1)
    assert (breaker.is_closed, breaker.lets_in, breaker.reason) == (False, False, "it failed")
    assert repr(breaker) == "<Breaker open failures=3>"


def test_a_success_in_between_begins_a_new_row(breaker: Breaker) -> None:
    for _ in range(10):
        fail(breaker, 2)
        breaker.succeeded(breaker.enter())
    assert breaker.is_closed


def test_what_only_began_well_is_no_success(breaker: Breaker) -> None:
    for _ in range(3):
        number = breaker.enter()
        breaker.proved(number)
        breaker.failed(number, "it broke off")
    assert not breaker.is_closed


def test_a_client_that_leaves_says_nothing(breaker: Breaker) -> None:
    fail(breaker, 2)
    for _ in range(10):
        breaker.left(breaker.enter())
    assert breaker.is_closed
    fail(breaker, 1)
    assert not breaker.is_closed


def test_after_its_rest_it_lets_one_in_on_trial(breaker: Breaker, clock_s: Clock) -> None:
    fail(breaker)
    clock_s.now_s += REST_S
    assert breaker.lets_in
    assert repr(breaker) == "<Breaker half-open failures=3>"
    breaker.enter()
    assert not breaker.lets_in


def test_a_trial_that_begins_to_be_answered_closes_it(breaker: Breaker, clock_s: Clock) -> None:
    fail(breaker)
    clock_s.now_s += REST_S
    breaker.proved(breaker.enter())
    assert breaker.is_closed
    assert breaker.reason == ""
    fail(breaker, 2)
    assert breaker.is_closed


def test_a_trial_that_fails_begins_another_rest(breaker: Breaker, clock_s: Clock) -> None:
    fail(breaker)
    clock_s.now_s += REST_S
    fail(breaker, 1)
    clock_s.now_s += 0.9 * REST_S
    assert not breaker.lets_in
    clock_s.now_s += 0.1 * REST_S
    assert breaker.lets_in


def test_a_trial_whose_client_leaves_makes_room_for_another(breaker: Breaker, clock_s: Clock) -> None:
    fail(breaker)
    clock_s.now_s += REST_S
    breaker.left(breaker.enter())
    assert breaker.lets_in


def test_a_trial_that_takes_long_does_not_keep_the_next_one_out_for_ever(breaker: Breaker, clock_s: Clock) -> None:
    fail(breaker)
    clock_s.now_s += REST_S
    first = breaker.enter()
    clock_s.now_s += REST_S
    assert breaker.lets_in
    breaker.enter()
    breaker.succeeded(first)
    assert breaker.is_closed


def test_what_began_before_it_opened_says_nothing_after(breaker: Breaker, clock_s: Clock) -> None:
    early = [breaker.enter() for _ in range(5)]
    fail(breaker)
    clock_s.now_s += 0.9 * REST_S
    breaker.succeeded(early[0])
    breaker.failed(early[1], "late")
    breaker.left(early[2])
    assert (breaker.is_closed, breaker.lets_in, breaker.reason) == (False, False, "it failed")
    clock_s.now_s += 0.1 * REST_S
    breaker.succeeded(breaker.enter())
    breaker.failed(early[3], "late", is_certain=True)
    assert breaker.is_closed


def test_a_backend_that_says_that_it_will_fail_is_believed_at_once(breaker: Breaker) -> None:
    breaker.failed(breaker.enter(), "it is shutting down", is_certain=True)
    assert (breaker.lets_in, breaker.reason) == (False, "it is shutting down")
