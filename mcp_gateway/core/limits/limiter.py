"""Counts what each caller uses and refuses what exceeds its allowance.

All in memory and without awaits: a decision and its count are one step. A table lives for one window and is then
dropped whole, so none grows without bound; daily counts are handed in at start.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil
from types import TracebackType
from typing import NamedTuple

from mcp_gateway.core.caller import Allowance, Caller
from mcp_gateway.core.errors import GatewayError

MINUTE_S = 60
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class GuestBounds:
    """What all guests share: answers in flight together, and addresses remembered in one minute."""

    in_flight: int
    addresses_per_minute: int = 100_000


class Window:
    """Counts by subject within one span of the wall clock; starts empty at the next."""

    __slots__ = ("begins_at_s", "counts", "ends_at_s", "span_s")

    def __init__(self, span_s: int) -> None:
        self.span_s = span_s
        self.begins_at_s = self.ends_at_s = -1
        """Unix time of the span that is counted: from the first, up to and without the second."""
        self.counts: defaultdict[str, int] = defaultdict(int)

    def at(self, now_s: float) -> defaultdict[str, int]:
        if not self.begins_at_s <= now_s < self.ends_at_s:
            self.begins_at_s = int(now_s) // self.span_s * self.span_s
            self.ends_at_s = self.begins_at_s + self.span_s
            self.counts = defaultdict(int)
        return self.counts


class Standing(NamedTuple):
    """What a caller has left in this minute; None where it has no such limit."""

    requests_limit: int | None
    requests_remaining: int | None
    tokens_limit: int | None
    tokens_remaining: int | None
    reset_at_s: int
    day_limit: int | None = None
    day_remaining: int | None = None


@dataclass(slots=True)
class Turn:
    """One admitted request: its place in flight until released, and its reservation of tokens."""

    _limiter: "Limiter"
    _caller: Caller
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
            self._limiter.leave(self._caller)

    def __enter__(self) -> "Turn":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Limiter:
    """The one place that knows who has used how much."""

    def __init__(self, guests: GuestBounds, listing_per_minute: int, now_s: Callable[[], float]) -> None:
        self._guests = guests
        self._listing_per_minute = listing_per_minute
        self._now_s = now_s
        self._requests = Window(MINUTE_S)
        self._listings = Window(MINUTE_S)
        self._tokens = Window(MINUTE_S)
        self._days = Window(DAY_S)
        self._in_flight: defaultdict[str, int] = defaultdict(int)
        self._guests_in_flight = 0

    def restore_day(self, counts: Mapping[str, int]) -> None:
        """Set today's counts from the request log, so that a restart forgives nobody."""
        today = self._days.at(self._now_s())
        for subject, count in counts.items():
            today[subject] = count

    def admit(self, caller: Caller) -> Turn:
        """Count one inference request and take a place in flight. Raises GatewayError (429) without counting."""
        now_s = self._now_s()
        requests, day = self._requests.at(now_s), self._days.at(now_s)
        subject, allowance = caller.subject, caller.allowance
        self._check_day(day.get(subject, 0), allowance, now_s)
        self._check_minute(requests, caller, now_s)
        self._check_in_flight(caller)
        requests[subject] += 1
        if allowance.requests_per_day is not None:
            day[subject] += 1
        self._in_flight[subject] += 1
        self._guests_in_flight += caller.is_guest
        return Turn(self, caller)

    def leave(self, caller: Caller) -> None:
        """Give back a place in flight."""
        left = self._in_flight[caller.subject] - 1
        if left:
            self._in_flight[caller.subject] = left
        else:
            del self._in_flight[caller.subject]
        self._guests_in_flight -= caller.is_guest

    def count_listing(self, caller: Caller) -> None:
        """Count one call that asks about things rather than for inference. Raises GatewayError (429)."""
        now_s = self._now_s()
        listings = self._listings.at(now_s)
        if listings.get(caller.subject, 0) >= self._listing_per_minute:
            raise _too_many(
                "guest" if caller.is_guest else "requests_per_minute",
                f"More than {self._listing_per_minute} listing requests in this minute.",
                self._seconds_left(self._listings, now_s),
            )
        self._check_room(self._listings, caller, now_s)
        listings[caller.subject] += 1

    def reserve_tokens(self, caller: Caller, tokens: int) -> int:
        """Reserve tokens in this minute; returns when that began. See Turn.reserve_tokens."""
        now_s = self._now_s()
        counts = self._tokens.at(now_s)
        limit = caller.allowance.tokens_per_minute
        if limit is not None:
            if tokens > limit:
                raise GatewayError(
                    "invalid_value",
                    f"This request may use {tokens} tokens, more than the whole limit of {limit} tokens a minute; "
                    "lower max_tokens or shorten the messages.",
                    param="max_tokens",
                )
            if counts[caller.subject] + tokens > limit:
                raise _too_many(
                    "tokens_per_minute",
                    f"The limit of {limit} tokens a minute does not leave {tokens} for this request.",
                    self._seconds_left(self._tokens, now_s),
                )
            counts[caller.subject] += tokens
        return self._tokens.begins_at_s

    def adjust_tokens(self, caller: Caller, minute: int, difference: int) -> None:
        """Correct a reservation, if its minute is still running."""
        if caller.allowance.tokens_per_minute is not None:
            counts = self._tokens.at(self._now_s())
            if minute == self._tokens.begins_at_s:
                counts[caller.subject] = max(0, counts[caller.subject] + difference)

    def standing(self, caller: Caller) -> Standing:
        """What the caller has left now, as the next request would find it."""
        now_s = self._now_s()
        subject, allowance = caller.subject, caller.allowance
        requests, tokens, days = self._requests.at(now_s), self._tokens.at(now_s), self._days.at(now_s)
        return Standing(
            allowance.requests_per_minute,
            _left(allowance.requests_per_minute, requests.get(subject, 0)),
            allowance.tokens_per_minute,
            _left(allowance.tokens_per_minute, tokens.get(subject, 0)),
            self._requests.ends_at_s,
            allowance.requests_per_day,
            _left(allowance.requests_per_day, days.get(subject, 0)),
        )

    @property
    def in_flight(self) -> int:
        """Answers open now, over all callers."""
        return sum(self._in_flight.values())

    def _check_day(self, used: int, allowance: Allowance, now_s: float) -> None:
        limit = allowance.requests_per_day
        if limit is not None and used >= limit:
            raise _too_many(
                "requests_per_day",
                f"The limit of {limit} requests a day is used up; it starts anew at midnight UTC.",
                self._seconds_left(self._days, now_s),
            )

    def _check_minute(self, requests: Mapping[str, int], caller: Caller, now_s: float) -> None:
        limit = caller.allowance.requests_per_minute
        used = requests.get(caller.subject, 0)
        if limit is not None and used >= limit:
            raise _too_many(
                "guest" if caller.is_guest else "requests_per_minute",
                f"The limit of {limit} requests a minute is used up."
                + (" An API key has a higher one." if caller.is_guest else ""),
                self._seconds_left(self._requests, now_s),
            )
        self._check_room(self._requests, caller, now_s)

    def _check_room(self, window: Window, caller: Caller, now_s: float) -> None:
        """Guests' addresses are whatever they like; a table of them has an end."""
        is_full = len(window.counts) >= self._guests.addresses_per_minute
        if is_full and caller.is_guest and caller.subject not in window.counts:
            raise _too_many("guest", "Too many guests in this minute.", self._seconds_left(window, now_s))

    def _check_in_flight(self, caller: Caller) -> None:
        limit = caller.allowance.in_flight
        if limit is not None and self._in_flight.get(caller.subject, 0) >= limit:
            raise GatewayError(
                "guest" if caller.is_guest else "in_flight",
                f"{limit} requests of yours are running; wait until one has ended.",
                retry_after_s=1,
            )
        if caller.is_guest and self._guests_in_flight >= self._guests.in_flight:
            raise GatewayError("guest", "Too many guest requests are running; try again soon.", retry_after_s=1)

    @staticmethod
    def _seconds_left(window: Window, now_s: float) -> int:
        return max(1, ceil(window.ends_at_s - now_s))


def _left(limit: int | None, used: int) -> int | None:
    if limit is None:
        return None
    return limit - used if used < limit else 0


def _too_many(code: str, message: str, retry_after_s: int) -> GatewayError:
    return GatewayError(code, message, retry_after_s=retry_after_s)
