"""The limiter alone, on a clock of ours."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.core.caller import GUEST, GUEST_ACCOUNT_ID, Allowance, Caller, KeyHolder, Quota
from mcp_gateway.core.clock import DAY_S
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.limits.limiter import Limiter, Turn
from mcp_gateway.core.limits.use import MINUTE_S
from tests.cases import each

START_S = 20_000 * DAY_S


class Clock:
    now_s: float = START_S

    def __call__(self) -> float:
        return self.now_s


NO_LIMIT = Allowance(None, None, None, None)


def limiter(clock: Clock | None = None, addresses: int = 1000) -> Limiter:
    return Limiter(clock or Clock(), guest_addresses_per_minute=addresses)


def allowance(
    minute: int | None = None,
    day: int | None = None,
    tokens: int | None = None,
    in_flight: int | None = None,
    listings: int | None = None,
) -> Allowance:
    return Allowance(minute, day, tokens, in_flight, listings)


def key_of(account: Allowance, key: str = "key_1", own: Allowance = NO_LIMIT) -> Caller:
    return Caller("acc_1", KeyHolder(key), (Quota("key", key, own), Quota("account", "acc_1", account)))


def caller(subject: str = "key_1", **limits: int | None) -> Caller:
    """A key whose account has no limits."""
    return key_of(NO_LIMIT, subject, allowance(**limits))


def guest(address: str, site: str | None = None, together: int = 100, **limits: int | None) -> Caller:
    """`limits` are an address's; a site has twice of each."""
    own = Quota("address", f"guest:{address}", allowance(**limits))
    doubled = allowance(**{name: None if limit is None else 2 * limit for name, limit in limits.items()})
    shared = [Quota("site", f"guest:{site}", doubled)] if site is not None else []
    everybody = Quota("guests", "guests", allowance(in_flight=together))
    return Caller(GUEST_ACCOUNT_ID, GUEST, (own, *shared, everybody))


def refusal(limits: Limiter, who: Caller) -> GatewayError:
    """What asking and trying agree on."""
    with pytest.raises(GatewayError) as raised:
        limits.admit(who)
    with pytest.raises(GatewayError) as told:
        limits.check(who)
    assert told.value.as_object() == raised.value.as_object()
    return raised.value


def listing_refusal(limits: Limiter, who: Caller) -> GatewayError:
    with pytest.raises(GatewayError) as raised:
        limits.count_listing(who)
    return raised.value


def nothing_runs(limits: Limiter) -> bool:
    uses = limits._key_uses | limits._guest_uses
    return not limits.in_flight and not any(use.running for use in uses.values())


def remaining(limits: Limiter, who: Caller) -> tuple[int | None, int | None, int | None]:
    """Requests of this minute, of today, tokens of this minute."""
    standing = limits.standing(who)
    return standing.minute_remaining, standing.day_remaining, standing.tokens_remaining


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
    assert remaining(limits, who) == (4, 4, None)
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
    assert remaining(limits, who)[2] == 10
    turn.true_up(5)
    assert remaining(limits, who)[2] == 95
    clock.now_s += MINUTE_S
    limits.admit(who).reserve_tokens(100)
    turn.true_up(0)
    assert remaining(limits, who)[2] == 0


@pytest.mark.parametrize("minutes", [1, 2, 24 * 60])
def test_what_exceeds_a_reservation_counts_where_the_answer_ends_though_its_minute_is_over(minutes: int) -> None:
    clock = Clock()
    limits, who = limiter(clock), caller(tokens=100)
    turn = limits.admit(who)
    turn.reserve_tokens(30)
    clock.now_s += minutes * MINUTE_S
    turn.true_up(90)
    assert remaining(limits, who)[2] == 100 - 60
    limits.admit(who).reserve_tokens(40)
    with pytest.raises(GatewayError, match="tokens_per_minute"):
        limits.admit(who).reserve_tokens(1)
    turn.true_up(20)  # less after all: what was reserved in a minute that is over is forgotten with it
    assert remaining(limits, who)[2] == 0


def test_usage_beyond_the_reservation_leaves_nothing_and_not_less() -> None:
    limits, who = limiter(), caller(tokens=100)
    turn = limits.admit(who)
    turn.reserve_tokens(50)
    turn.true_up(500)
    assert remaining(limits, who)[2] == 0


def test_a_request_above_the_whole_token_limit_is_not_told_to_wait() -> None:
    with pytest.raises(GatewayError) as raised:
        limiter().admit(caller(tokens=100)).reserve_tokens(101)
    assert (raised.value.code, raised.value.param, raised.value.retry_after_s) == ("invalid_value", "max_tokens", None)


def test_without_limits_nothing_is_refused_and_nothing_told() -> None:
    limits, who = limiter(), caller()
    for _ in range(1000):
        limits.admit(who).reserve_tokens(10**9)
    standing = limits.standing(who)
    assert standing.requests[0] is None
    assert standing == (None, None, START_S + MINUTE_S, None, None, START_S + DAY_S, None, None)


def test_listing_is_counted_apart() -> None:
    limits, who = limiter(), caller(minute=1, listings=2)
    limits.count_listing(who)
    limits.count_listing(who)
    error = listing_refusal(limits, who)
    assert (error.code, error.retry_after_s) == ("requests_per_minute", MINUTE_S)
    assert "listing requests" in error.message
    limits.admit(who)


# Quotas that are shared


ACCOUNT_LIMITS = [
    ("minute", "requests_per_minute"),
    ("day", "requests_per_day"),
    ("in_flight", "in_flight"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "code"), ACCOUNT_LIMITS)
def test_an_account_s_limit_bounds_all_of_its_keys_together_and_says_so(name: str, code: str) -> None:
    limits, account = limiter(), allowance(**{name: 3})
    for number in range(3):
        limits.admit(key_of(account, f"key_{number}", account))
    error = refusal(limits, key_of(account, "key_3", account))
    assert error.code == code
    assert "account" in error.message
    assert "3 re" in error.message or "3 running" in error.message


@pytest.mark.parametrize(("name", "code"), ACCOUNT_LIMITS)
def test_a_key_s_own_limit_is_told_as_the_key_s(name: str, code: str) -> None:
    limits, who = limiter(), key_of(allowance(**{name: 5}), own=allowance(**{name: 1}))
    limits.admit(who)
    error = refusal(limits, who)
    assert error.code == code
    assert "this key" in error.message
    assert "account" not in error.message


def test_what_an_account_refuses_is_counted_for_no_key_of_it() -> None:
    limits, account = limiter(), allowance(minute=1)
    limits.admit(key_of(account, "key_1")).release()
    for _ in range(5):
        refusal(limits, key_of(account, "key_2", allowance(minute=2)))
    assert remaining(limits, key_of(NO_LIMIT, "key_2", allowance(minute=2)))[0] == 2
    assert limits.in_flight == 0


def test_what_a_key_refuses_is_not_counted_for_its_account() -> None:
    limits, account = limiter(), allowance(minute=5, tokens=100, listings=5)
    who = key_of(account, own=allowance(minute=1, tokens=10, listings=1))
    turn = limits.admit(who)
    limits.count_listing(who)
    for _ in range(5):
        refusal(limits, who)
        listing_refusal(limits, who)
        with pytest.raises(GatewayError):
            turn.reserve_tokens(11)
    other = key_of(account, "key_2")
    assert remaining(limits, other) == (4, None, 100)
    for _ in range(4):
        limits.count_listing(other)


def test_listings_are_counted_by_key_and_by_account() -> None:
    limits, account = limiter(), allowance(listings=3)
    for number in range(3):
        limits.count_listing(key_of(account, f"key_{number}", account))
    assert "account" in listing_refusal(limits, key_of(account, "key_9", account)).message


def test_tokens_are_reserved_and_trued_up_by_key_and_by_account() -> None:
    limits, account = limiter(), allowance(tokens=100)
    first, second = (key_of(account, key, allowance(tokens=80)) for key in ("key_1", "key_2"))
    turn = limits.admit(first)
    turn.reserve_tokens(70)
    other = limits.admit(second)
    with pytest.raises(GatewayError) as raised:
        other.reserve_tokens(31)
    assert raised.value.code == "tokens_per_minute"
    assert "account" in raised.value.message
    turn.true_up(20)
    assert remaining(limits, first)[2] == 60  # the key's
    assert remaining(limits, second)[2] == 80  # both
    other.reserve_tokens(80)
    assert remaining(limits, first)[2] == 0  # the account's


def test_tokens_beyond_the_account_s_whole_limit_are_not_told_to_wait() -> None:
    limits = limiter()
    turn = limits.admit(key_of(allowance(tokens=50), own=allowance(tokens=100)))
    with pytest.raises(GatewayError) as raised:
        turn.reserve_tokens(51)
    assert raised.value.code == "invalid_value"
    assert "account" in raised.value.message


def test_the_standing_is_of_what_is_nearest_in_each_window() -> None:
    clock = Clock()
    limits = limiter(clock)
    who = key_of(allowance(5, 50, 300), own=allowance(4, 100, 200))
    limits.admit(key_of(allowance(5, 50, 300), "key_2")).reserve_tokens(250)
    limits.admit(key_of(allowance(5, 50, 300), "key_2"))
    standing = limits.standing(who)
    minute_ends_at_s, day_ends_at_s = START_S + MINUTE_S, START_S + DAY_S
    assert standing.requests == (5, 3, minute_ends_at_s)
    assert standing == (5, 3, minute_ends_at_s, 50, 48, day_ends_at_s, 300, 50)
    own, account = limits.standings(who)
    assert own == (who.quotas[0], (4, 4, minute_ends_at_s, 100, 100, day_ends_at_s, 200, 200))
    assert account == (who.quotas[1], (*standing[:6], 300, 50))


@each(("minute", "day", "is_day"), [(3, 4, False), (4, 3, True), (3, 3, True), (None, 3, True), (3, None, False)])
def test_requests_left_are_those_of_the_window_that_ends_them(
    minute: int | None, day: int | None, is_day: bool
) -> None:
    standing = limiter().standing(caller(minute=minute, day=day))
    assert standing.requests == ((day, day, START_S + DAY_S) if is_day else (minute, minute, START_S + MINUTE_S))


def test_a_restored_day_counts_for_the_account_too() -> None:
    limits = limiter()
    limits.restore_day({"acc_1": 9, "key_1": 2})
    limits.admit(key_of(allowance(day=10), "key_2"))
    assert refusal(limits, key_of(allowance(day=10), "key_3")).code == "requests_per_day"


def test_a_limit_that_is_set_later_finds_what_was_used_before() -> None:
    limits = limiter()
    for _ in range(5):
        limits.admit(key_of(NO_LIMIT)).reserve_tokens(10)
    who = key_of(allowance(6, 6, 60, 6))
    assert remaining(limits, who) == (1, 1, 10)
    limits.admit(who)
    assert refusal(limits, key_of(allowance(in_flight=6))).code == "in_flight"


def test_a_place_is_given_back_to_those_that_it_was_taken_from_though_limits_have_changed() -> None:
    limits = limiter()
    turns = [limits.admit(key_of(account)) for account in (NO_LIMIT, allowance(in_flight=9), allowance(3, 9, 9, 9))]
    for turn in turns:
        turn.release()
    assert limits.in_flight == 0
    assert nothing_runs(limits)


# Guests


def test_guests_share_their_places_in_flight_and_keys_have_their_own() -> None:
    limits = limiter()
    turns = [limits.admit(guest(address, together=2)) for address in ("a", "b")]
    error = refusal(limits, guest("c", together=2))
    assert (error.code, error.retry_after_s) == ("guest", 1)
    limits.admit(caller())
    turns[0].release()
    limits.admit(guest("c", together=2))


@pytest.mark.parametrize("name", ["minute", "in_flight"])
def test_guests_of_one_site_have_more_than_one_of_them_and_less_than_all(name: str) -> None:
    limits = limiter()
    two: dict[str, Any] = {name: 2}
    for address in ("a", "a", "b", "b"):
        limits.admit(guest(address, "site", **two))
    for address in "ac":
        error = refusal(limits, guest(address, "site", **two))
        assert error.code == "guest"
        assert ("your address" if address == "a" else "/48") in error.message
        assert "API key" in error.message
    limits.admit(guest("d", "elsewhere", **two))
    limits.admit(guest("e", **two))


def test_listings_of_a_site_are_bounded_too() -> None:
    limits = limiter()
    for address in "abcd":
        limits.count_listing(guest(address, "site", listings=2))
    assert listing_refusal(limits, guest("e", "site", listings=2)).code == "guest"


def test_addresses_beyond_the_table_s_size_share_what_one_has_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    limits = limiter(clock, addresses=4)  # all guests are one
    for address in "abc":
        limits.admit(guest(address, minute=2)).release()
    with caplog.at_level(logging.WARNING):
        for address in "de":
            limits.admit(guest(address, minute=2)).release()
            assert remaining(limits, guest("f", minute=2))[0] == "ed".index(address)
        assert refusal(limits, guest("f", minute=2)).code == "guest"
    assert len(caplog.records) == 1
    assert "addresses_per_minute" in caplog.text
    limits.admit(guest("a", minute=2)).release()  # it has its seat
    for _ in range(9):
        limits.admit(caller()).release()
    assert len(limits._guest_uses) < 10
    clock.now_s += MINUTE_S
    limits.admit(guest("f", minute=2)).release()
    assert remaining(limits, guest("e", minute=2))[0] == 2


def test_addresses_without_a_seat_share_their_places_in_flight_and_give_them_back() -> None:
    clock = Clock()
    limits = limiter(clock, addresses=0)
    turns = [limits.admit(guest(address, "site", in_flight=2)) for address in "ab"]
    assert refusal(limits, guest("c", "elsewhere", in_flight=2)).code == "guest"
    clock.now_s += MINUTE_S
    for turn in turns:
        turn.release()
    assert nothing_runs(limits)


def test_places_of_all_guests_are_counted_as_one_whether_the_table_is_full_or_not() -> None:
    limits = limiter(addresses=3)
    for address in "abcde":
        limits.admit(guest(address, together=5))
    assert "all guests" in refusal(limits, guest("f", together=5)).message


def test_a_flood_of_addresses_fills_no_table() -> None:
    limits = limiter(addresses=10)
    for number in range(1000):
        who = guest(f"{number}:64", f"{number}:48", minute=10_000, listings=10_000)
        with limits.admit(who) as turn:
            turn.reserve_tokens(1)
        limits.count_listing(who)
    assert len(limits._guest_uses) < 20
    assert not limits._key_uses


def test_what_ran_over_midnight_is_counted_until_it_ends_and_nothing_else_is_kept() -> None:
    clock = Clock()
    limits, account = limiter(clock), allowance(day=2, in_flight=2)
    turn = limits.admit(key_of(account, "key_1"))
    limits.admit(key_of(account, "key_2")).release()
    assert refusal(limits, key_of(account, "key_1")).code == "requests_per_day"
    clock.now_s += DAY_S
    limits.admit(key_of(account, "key_1")).release()
    assert sorted(limits._key_uses) == ["acc_1", "key_1"]
    limits.admit(key_of(account, "key_3"))
    assert refusal(limits, key_of(allowance(in_flight=2), "key_4")).code == "in_flight"
    turn.release()
    limits.check(key_of(allowance(in_flight=2), "key_4"))


@each("back_s", [1, MINUTE_S, 3600, 2 * DAY_S])
def test_a_clock_that_is_set_back_locks_nobody_out(back_s: int) -> None:
    clock = Clock()
    clock.now_s += 30
    limits, who = limiter(clock), key_of(allowance(minute=1))
    limits.admit(who).release()
    clock.now_s -= back_s
    if back_s == 1:
        assert refusal(limits, who).code == "requests_per_minute"
    else:
        limits.admit(who).release()
    clock.now_s += MINUTE_S
    limits.admit(who).release()


def test_the_minute_of_a_key_s_last_use_is_known_for_its_day() -> None:
    clock = Clock()
    limits = limiter(clock)
    assert limits.last_minute("key_1") == -1
    for _ in range(2):
        with limits.admit(caller()):
            assert limits.last_minute("key_1") == clock.now_s // MINUTE_S
        clock.now_s += 5 * MINUTE_S
    assert limits.last_minute("key_1") == clock.now_s // MINUTE_S - 5
    clock.now_s += DAY_S
    limits.check(caller())
    assert limits.last_minute("key_1") == -1


def test_asking_what_is_left_keeps_nothing() -> None:
    limits = limiter()
    for number in range(10):
        limits.standing(guest(f"a{number}", "site", minute=1))
        limits.check(guest(f"a{number}", "site", minute=1))
    assert not limits._guest_uses


def test_an_address_that_is_refused_takes_no_seat() -> None:
    limits = limiter()
    for number in range(9):
        if number < 2:
            limits.admit(guest(f"a{number}", "site", minute=1)).release()
        else:
            assert "/48" in refusal(limits, guest(f"a{number}", "site", minute=1)).message
    assert len(limits._guest_uses) == 4


# Whatever happens


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 90)), max_size=60))
def test_what_the_standing_says_is_what_the_next_request_meets(steps: list[tuple[str, bool, int]]) -> None:
    clock = Clock()
    limits = limiter(clock)
    open_turns: list[Turn] = []
    for subject, is_leaving, wait_s in steps:
        clock.now_s += wait_s
        who = key_of(allowance(3, 9), subject, allowance(2, 5))
        if is_leaving and open_turns:
            open_turns.pop().release()
        _, remaining, resets_at_s = limits.standing(who).requests
        assert resets_at_s - DAY_S <= clock.now_s < resets_at_s
        if remaining:
            open_turns.append(limits.admit(who))
        else:
            assert refusal(limits, who).code in ("requests_per_minute", "requests_per_day")
    assert limits.in_flight == len(open_turns)


def refused(act: Callable[[], object]) -> str | None:
    """What a refusal says, None where there is none."""
    try:
        act()
    except GatewayError as error:
        return error.message
    return None


@dataclass
class Audited:
    """A limiter, and beside it one account's uses as they happened; what it may is for the tests to change."""

    clock: Clock = field(default_factory=Clock)
    may: Allowance = NO_LIMIT
    admitted_at_s: list[int] = field(default_factory=list)
    tokens: Counter[int] = field(default_factory=Counter)
    """By the beginning of the minute: reserved for what runs, used by what has ended."""
    running: list[tuple[Turn, int, int]] = field(default_factory=list)
    """Each with its minute and its reservation."""

    def __post_init__(self) -> None:
        self.limits = limiter(self.clock)

    @property
    def minute(self) -> int:
        return int(self.clock.now_s) // MINUTE_S

    def has_room(self) -> bool:
        spans = (MINUTE_S, self.may.requests_per_minute), (DAY_S, self.may.requests_per_day)
        now_s = int(self.clock.now_s)
        used = [(sum(at_s // span_s == now_s // span_s for at_s in self.admitted_at_s), most) for span_s, most in spans]
        return all(most is None or count < most for count, most in [*used, (len(self.running), self.may.in_flight)])

    def has_tokens(self, tokens: int) -> bool:
        most = self.may.tokens_per_minute
        return most is None or self.tokens[self.minute] + tokens <= most

    def ask(self, number: int, own: Allowance, tokens: int) -> None:
        who = key_of(self.may, f"key_{number}", own)
        if (why := refused(lambda: self.limits.check(who))) is not None:
            assert "this key" in why or not self.has_room()
            return
        assert self.has_room()
        turn = self.limits.admit(who)
        self.admitted_at_s.append(int(self.clock.now_s))
        if (why := refused(lambda: turn.reserve_tokens(tokens))) is not None:
            assert "this key" in why or not self.has_tokens(tokens)
            turn.release()
            return
        assert self.has_tokens(tokens)
        self.tokens[self.minute] += tokens
        self.running.append((turn, self.minute, tokens))

    def end(self, number: int, tokens: int) -> None:
        turn, minute, reserved = self.running.pop(number % len(self.running))
        turn.true_up(tokens)
        turn.release()
        if minute == self.minute or tokens > reserved:  # what exceeds the estimate counts where it ends
            self.tokens[self.minute] += tokens - reserved


LIMIT = st.one_of(st.none(), st.integers(1, 4))
LIMITS = st.builds(Allowance, LIMIT, LIMIT, st.one_of(st.none(), st.integers(1, 40)), LIMIT)
ACTS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "end", "change", "wait"]),
        st.integers(0, 5),  # which key
        LIMITS,  # of the key, or the new ones of the account
        st.integers(1, 30),  # tokens
    ),
    max_size=60,
)


@given(LIMITS, ACTS)
def test_whatever_the_keys_of_an_account_do_it_has_what_it_may_and_no_more(
    may: Allowance, acts: list[tuple[str, int, Allowance, int]]
) -> None:
    audited = Audited(may=may)
    for act, number, most, tokens in acts:
        if act == "ask":
            audited.ask(number, most, tokens)
        elif act == "end" and audited.running:
            audited.end(number, tokens)
        elif act == "change":
            audited.may = most
        elif act == "wait":
            audited.clock.now_s += 30 if number < 4 else 40_000
        assert audited.limits.in_flight == len(audited.running)
    while audited.running:
        audited.end(0, 1)
    assert audited.limits.in_flight == 0
    assert nothing_runs(audited.limits)
