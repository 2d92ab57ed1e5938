"""The limiter alone, on a clock of ours."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_gateway.core.caller import GUEST_ACCOUNT_ID, Allowance, Caller
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.limits.limiter import DAY_S, MINUTE_S, GuestBounds, Limiter, Turn

START_S = 20_000 * DAY_S


class Clock:
    now_s: float = START_S

    def __call__(self) -> float:
        return self.now_s


def limiter(clock: Clock | None = None, guests: GuestBounds | None = None, listing: int = 3) -> Limiter:
    return Limiter(guests or GuestBounds(in_flight=3), listing, clock or Clock())


def caller(
    subject: str = "key_1",
    minute: int | None = None,
    day: int | None = None,
    tokens: int | None = None,
    in_flight: int | None = None,
) -> Caller:
    return Caller("acc_1", subject, subject, Allowance(minute, day, tokens, in_flight))


def guest(address: str, minute: int = 100, in_flight: int = 100) -> Caller:
    return Caller(GUEST_ACCOUNT_ID, None, f"guest:{address}", Allowance(minute, None, None, in_flight))


def refusal(limits: Limiter, who: Caller) -> GatewayError:
    with pytest.raises(GatewayError) as raised:
        limits.admit(who)
    return raised.value


def test_minutes_are_clock_minutes() -> None:
    clock = Clock()
    limits, who = limiter(clock), caller(minute=1)
    clock.now_s += 59.2
    limits.admit(who).release()
    assert refusal(limits, who).retry_after_s == 1
    clock.now_s += 0.8
    limits.admit(who).release()
    assert refusal(limits, who).retry_after_s == MINUTE_S


def test_callers_do_not_count_for_one_another() -> None:
    limits = limiter()
    for subject in ("key_1", "key_2"):
        limits.admit(caller(subject, minute=1)).release()


def test_the_day_is_told_before_the_minute_and_the_minute_before_what_is_in_flight() -> None:
    limits = limiter()
    limits.admit(caller(minute=1, day=1, in_flight=1))
    assert refusal(limits, caller(minute=1, day=1, in_flight=1)).code == "requests_per_day"
    assert refusal(limits, caller(minute=1, day=2, in_flight=1)).code == "requests_per_minute"
    assert refusal(limits, caller(minute=2, day=2, in_flight=1)).code == "in_flight"


def test_a_refused_request_is_not_counted() -> None:
    limits, who = limiter(), caller(minute=5, day=5, in_flight=1)
    turn = limits.admit(who)
    for _ in range(10):
        refusal(limits, who)
    standing = limits.standing(who)
    assert (standing.requests_remaining, standing.day_remaining) == (4, 4)
    turn.release()
    limits.admit(who).release()


def test_releasing_twice_gives_one_place_back() -> None:
    limits, who = limiter(), caller(in_flight=2)
    first, _ = limits.admit(who), limits.admit(who)
    first.release()
    first.release()
    assert limits.in_flight == 1
    with limits.admit(who):
        assert refusal(limits, who).code == "in_flight"
    assert limits.in_flight == 1


def test_a_restored_day_counts_until_midnight() -> None:
    clock = Clock()
    limits, who = limiter(clock), caller(day=3)
    limits.restore_day({"key_1": 2, "key_9": 7})
    limits.admit(who)
    assert refusal(limits, who).retry_after_s == DAY_S
    clock.now_s += DAY_S
    limits.admit(who)


def test_tokens_are_reserved_trued_up_and_forgotten_with_their_minute() -> None:
    clock = Clock()
    limits, who = limiter(clock), caller(tokens=100)
    turn = limits.admit(who)
    turn.reserve_tokens(80)
    with pytest.raises(GatewayError, match="tokens_per_minute"):
        limits.admit(who).reserve_tokens(21)
    turn.true_up(90)
    assert limits.standing(who).tokens_remaining == 10
    turn.true_up(5)
    assert limits.standing(who).tokens_remaining == 95
    clock.now_s += MINUTE_S
    limits.admit(who).reserve_tokens(100)
    turn.true_up(0)
    assert limits.standing(who).tokens_remaining == 0


def test_usage_beyond_the_reservation_leaves_nothing_and_not_less() -> None:
    limits, who = limiter(), caller(tokens=100)
    turn = limits.admit(who)
    turn.reserve_tokens(50)
    turn.true_up(500)
    assert limits.standing(who).tokens_remaining == 0


def test_a_request_above_the_whole_token_limit_is_not_told_to_wait() -> None:
    with pytest.raises(GatewayError) as raised:
        limiter().admit(caller(tokens=100)).reserve_tokens(101)
    assert (raised.value.code, raised.value.param, raised.value.retry_after_s) == ("invalid_value", "max_tokens", None)


def test_without_limits_nothing_is_refused_and_nothing_told() -> None:
    limits, who = limiter(), caller()
    for _ in range(1000):
        limits.admit(who).reserve_tokens(10**9)
    standing = limits.standing(who)
    assert (standing.requests_limit, standing.requests_remaining) == (None, None)
    assert (standing.tokens_limit, standing.tokens_remaining, standing.day_remaining) == (None, None, None)


def test_listing_is_counted_apart() -> None:
    limits, who = limiter(listing=2), caller(minute=1)
    limits.count_listing(who)
    limits.count_listing(who)
    with pytest.raises(GatewayError, match="requests_per_minute"):
        limits.count_listing(who)
    limits.admit(who)


def test_guests_share_their_places_in_flight_and_keys_have_their_own() -> None:
    limits = limiter(guests=GuestBounds(in_flight=2))
    turns = [limits.admit(guest(address)) for address in ("a", "b")]
    assert refusal(limits, guest("c")).code == "guest"
    limits.admit(caller())
    turns[0].release()
    limits.admit(guest("c"))


def test_a_flood_of_addresses_fills_no_table() -> None:
    clock = Clock()
    limits = limiter(clock, GuestBounds(in_flight=10, addresses_per_minute=3))
    for address in "abc":
        limits.admit(guest(address)).release()
        limits.count_listing(guest(address))
    assert refusal(limits, guest("d")).code == "guest"
    with pytest.raises(GatewayError, match="guest"):
        limits.count_listing(guest("d"))
    limits.admit(guest("a")).release()
    limits.count_listing(guest("a"))
    limits.admit(caller()).release()
    limits.count_listing(caller())
    clock.now_s += MINUTE_S
    limits.admit(guest("d")).release()


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 90)), max_size=60))
def test_what_the_standing_says_is_what_the_next_request_meets(steps: list[tuple[str, bool, int]]) -> None:
    clock = Clock()
    limits = limiter(clock)
    open_turns: list[Turn] = []
    for subject, is_leaving, wait_s in steps:
        clock.now_s += wait_s
        who = caller(subject, minute=2, day=5)
        if is_leaving and open_turns:
            open_turns.pop().release()
        standing = limits.standing(who)
        assert standing.reset_at_s - MINUTE_S <= clock.now_s < standing.reset_at_s
        if standing.requests_remaining and standing.day_remaining:
            open_turns.append(limits.admit(who))
        else:
            assert refusal(limits, who).code in ("requests_per_minute", "requests_per_day")
    assert limits.in_flight == len(open_turns)
