"""Counts what each caller uses and refuses what exceeds any of its quotas.

All in memory and without awaits: a decision and its counts are one step, and a refusal counts nothing. Daily counts
are handed in at start.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from types import TracebackType
from typing import NamedTuple

from mcp_gateway.core.caller import Allowance, Caller, Quota
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.limits.refusals import (
    too_large,
    too_many_a_day,
    too_many_a_minute,
    too_many_listings,
    too_many_running,
    too_many_tokens,
)
from mcp_gateway.core.limits.window import DAY_S, MINUTE_S, Counts, Window

logger = logging.getLogger(__name__)


class Left(NamedTuple):
    """What a window leaves, by the quota with the least left in it."""

    limit: int
    remaining: int
    resets_at_s: int


class Standing(NamedTuple):
    """What is left now; None where there is no limit."""

    minute: Left | None
    day: Left | None
    tokens: Left | None
    """In this minute."""
    minute_ends_at_s: int

    @property
    def requests(self) -> Left | None:
        """The minute or the day: whichever leaves fewer requests, and of equals the one that lasts longer."""
        minute, day = self.minute, self.day
        if minute is None or (day is not None and day.remaining <= minute.remaining):
            return day
        return minute


@dataclass(slots=True)
class Turn:
    """One admitted request: its place in flight until released, and its reservation of tokens."""

    _limiter: "Limiter"
    _caller: Caller
    _quotas: tuple[Quota, ...]
    """Those that it was counted by."""
    _tokens: int = 0
    _minute: int = field(default=-1)
    _is_released: bool = False

    def reserve_tokens(self, tokens: int) -> None:
        """Count an estimate against tokens a minute. Raises GatewayError `tokens_per_minute` or `invalid_value`."""
        self._minute = self._limiter.reserve_tokens(self._caller, tokens)
        self._tokens = tokens

    def true_up(self, tokens: int) -> None:
        """Replace the estimate by what was used."""
        self._limiter.adjust_tokens(self._caller, self._minute, tokens - self._tokens)
        self._tokens = tokens

    def release(self) -> None:
        if not self._is_released:
            self._is_released = True
            self._limiter.leave(self._quotas)

    def __enter__(self) -> "Turn":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Limiter:
    """The one place that knows who has used how much.

    What a key uses is counted by each of its quotas, limited or not, so that a limit set later finds it. Guests have
    limits of minutes and places alone, and are counted by nothing else.
    """

    def __init__(self, now_s: Callable[[], float], *, guest_addresses_per_minute: int) -> None:
        self._now_s = now_s
        self._guest_addresses_per_minute = guest_addresses_per_minute
        self._requests = Window(MINUTE_S)
        self._listings = Window(MINUTE_S)
        self._tokens = Window(MINUTE_S)
        self._days = Window(DAY_S)
        self._in_flight: Counts = defaultdict(int)
        self._running = 0

    def restore_day(self, counts: Mapping[str, int]) -> None:
        """Set today's counts from the request log, so that a restart forgives nobody."""
        self._days.at(self._now_s()).update(counts)

    # Requests for inference

    def check(self, caller: Caller) -> None:
        """Raise what `admit` would raise now; counts nothing."""
        self._admissible(caller)

    def admit(self, caller: Caller) -> Turn:
        """Count one inference request and take a place in flight. Raises GatewayError (429) without counting."""
        quotas = self._admissible(caller)
        _add(self._requests.counts, quotas, 1)
        if not caller.is_guest:
            _add(self._days.counts, quotas, 1)
        _add(self._in_flight, quotas, 1)
        self._running += 1
        return Turn(self, caller, quotas)

    def leave(self, quotas: Iterable[Quota]) -> None:
        """Give back a place in flight."""
        for quota in quotas:
            left = self._in_flight[quota.subject] - 1
            if left:
                self._in_flight[quota.subject] = left
            else:
                del self._in_flight[quota.subject]
        self._running -= 1

    @property
    def in_flight(self) -> int:
        """Answers open now, over all callers."""
        return self._running

    def _admissible(self, caller: Caller) -> tuple[Quota, ...]:
        """The quotas to count a request by, each with room for it. Raises GatewayError (429)."""
        now_s = self._now_s()
        requests, days, in_flight = self._requests.at(now_s), self._days.at(now_s), self._in_flight
        quotas = self._seated(caller, self._requests)
        for quota in quotas:
            subject, most = quota.subject, quota.allowance
            if (
                _is_full(requests, subject, most.requests_per_minute)
                or _is_full(days, subject, most.requests_per_day)
                or _is_full(in_flight, subject, most.in_flight)
            ):
                raise self._refusal(quotas, now_s)
        return quotas

    def _refusal(self, quotas: Iterable[Quota], now_s: float) -> GatewayError:
        """By what has to be waited for the longest."""
        for quota in quotas:
            if _is_full(self._days.counts, quota.subject, quota.allowance.requests_per_day):
                return too_many_a_day(quota, self._days.seconds_left(now_s))
        for quota in quotas:
            if _is_full(self._requests.counts, quota.subject, quota.allowance.requests_per_minute):
                return too_many_a_minute(quota, self._requests.seconds_left(now_s))
        return next(
            too_many_running(quota)
            for quota in quotas
            if _is_full(self._in_flight, quota.subject, quota.allowance.in_flight)
        )

    # Listings

    def count_listing(self, caller: Caller) -> None:
        """Count one call that asks about things rather than for inference. Raises GatewayError (429)."""
        now_s = self._now_s()
        listings = self._listings.at(now_s)
        quotas = self._seated(caller, self._listings)
        for quota in quotas:
            if _is_full(listings, quota.subject, quota.allowance.listings_per_minute):
                raise too_many_listings(quota, self._listings.seconds_left(now_s))
        _add(listings, quotas, 1)

    # Tokens

    def reserve_tokens(self, caller: Caller, tokens: int) -> int:
        """Reserve tokens in this minute; returns when that began. See Turn.reserve_tokens."""
        now_s = self._now_s()
        counts = self._tokens.at(now_s)
        if not caller.is_guest:
            self._check_tokens(caller.quotas, tokens, now_s)
            _add(counts, caller.quotas, tokens)
        return self._tokens.begins_at_s

    def adjust_tokens(self, caller: Caller, minute: int, difference: int) -> None:
        """Correct a reservation, if its minute is still running."""
        counts = self._tokens.at(self._now_s())
        if minute == self._tokens.begins_at_s and not caller.is_guest:
            _add(counts, caller.quotas, difference)

    def _check_tokens(self, quotas: Iterable[Quota], tokens: int, now_s: float) -> None:
        full = None
        for quota in quotas:
            limit = quota.allowance.tokens_per_minute
            if limit is None:
                continue
            if tokens > limit:
                raise too_large(quota, tokens)
            if full is None and self._tokens.counts.get(quota.subject, 0) + tokens > limit:
                full = quota
        if full is not None:
            raise too_many_tokens(full, tokens, self._tokens.seconds_left(now_s))

    # What is left

    def standing(self, caller: Caller) -> Standing:
        """What the caller has left, as its next request would find it."""
        return self.standing_by(self.counted_by(caller))

    def counted_by(self, caller: Caller) -> tuple[Quota, ...]:
        """The quotas that the caller's next request would be counted by."""
        self._requests.at(self._now_s())
        return self._seated(caller, self._requests)

    def standing_by(self, quotas: Sequence[Quota]) -> Standing:
        """What these quotas leave."""
        now_s = self._now_s()
        for window in (self._requests, self._days, self._tokens):
            window.at(now_s)
        return Standing(
            _left(self._requests, quotas, _requests_per_minute),
            _left(self._days, quotas, _requests_per_day),
            _left(self._tokens, quotas, _tokens_per_minute),
            self._requests.ends_at_s,
        )

    # Addresses

    def _seated(self, caller: Caller, window: Window) -> tuple[Quota, ...]:
        """The quotas that `window` counts a caller by.

        A guest's address can be any and the table of them has an end: addresses that it has no room for share one.
        """
        if caller.key_id is not None or len(window.counts) < self._guest_addresses_per_minute:
            return caller.quotas
        quotas = tuple(quota if quota.subject in window.counts else _shared(quota) for quota in caller.quotas)
        if quotas != caller.quotas and not window.is_told_full:
            window.is_told_full = True
            logger.warning(
                "more than %d callers in this minute: further guest addresses share the limits of one "
                "(guests.addresses_per_minute)",
                self._guest_addresses_per_minute,
            )
        return quotas


_requests_per_minute = attrgetter("requests_per_minute")
_requests_per_day = attrgetter("requests_per_day")
_tokens_per_minute = attrgetter("tokens_per_minute")


def _is_full(counts: Counts, subject: str, limit: int | None) -> bool:
    return limit is not None and counts.get(subject, 0) >= limit


def _add(counts: Counts, quotas: Iterable[Quota], amount: int) -> None:
    for quota in quotas:
        counts[quota.subject] += amount


def _left(window: Window, quotas: Iterable[Quota], limit_of: Callable[[Allowance], int | None]) -> Left | None:
    nearest = least = None
    for quota in quotas:
        limit = limit_of(quota.allowance)
        if limit is not None:
            left = limit - window.counts.get(quota.subject, 0)
            if least is None or left < least:
                nearest, least = limit, left
    return None if nearest is None or least is None else Left(nearest, max(0, least), window.ends_at_s)


def _shared(quota: Quota) -> Quota:
    return quota if quota.whose == "guests" else replace(quota, subject=f"guest:any {quota.whose}")
