"""Counts what each caller uses and refuses what exceeds any of its quotas.

All in memory and without awaits: a decision and its counts are one step, and a refusal counts nothing. Daily counts
are handed in at start, and handed out as they change.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import ceil
from types import TracebackType
from typing import NamedTuple

from mcp_gateway.core.caller import Caller, Quota, Whose
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.limits.refusals import (
    too_large,
    too_many_a_day,
    too_many_a_minute,
    too_many_listings,
    too_many_running,
    too_many_tokens,
)
from mcp_gateway.core.limits.use import MINUTE_S, Use, day_end_s, day_of, minute_end_s

logger = logging.getLogger(__name__)

_COUNTED_APART = frozenset[Whose](("address", "site"))
"""As long as the table of guests has room."""

Uses = Sequence[tuple[Use, Quota]]
"""Each quota of a caller with what has been used of it."""


class Standing(NamedTuple):
    """What is left now, in each window by the quota with the least left in it; None where there is no limit."""

    minute_limit: int | None
    minute_remaining: int | None
    minute_ends_at_s: int
    day_limit: int | None
    day_remaining: int | None
    day_ends_at_s: int
    tokens_limit: int | None
    """In this minute."""
    tokens_remaining: int | None

    @property
    def requests(self) -> tuple[int | None, int | None, int]:
        """Limit, remaining and end of the window that leaves fewer requests; of equals, of the longer one."""
        minute, day = self.minute_remaining, self.day_remaining
        if day is None or (minute is not None and minute < day):
            return self.minute_limit, minute, self.minute_ends_at_s
        return self.day_limit, day, self.day_ends_at_s


class Turn:
    """One admitted request: its place in flight until released, and its reservation of tokens."""

    __slots__ = ("_is_released", "_limiter", "_minute", "_tokens", "_uses")

    def __init__(self, limiter: "Limiter", uses: Uses) -> None:
        self._limiter = limiter
        self._uses = uses
        self._tokens = 0
        self._minute = -1
        """That the tokens are reserved in."""
        self._is_released = False

    def reserve_tokens(self, tokens: int) -> Awaitable[None] | None:
        """Count an estimate against tokens a minute, where it is not decided here once what is returned is awaited.

        Raises GatewayError `tokens_per_minute` or `invalid_value`.
        """
        self._minute = self._limiter.reserve_tokens(self._uses, tokens)
        self._tokens = tokens
        return None

    def true_up(self, tokens: int) -> None:
        """Replace the estimate by what was used; once its minute is over, what exceeds it counts where it ends."""
        difference, self._tokens = tokens - self._tokens, tokens
        if difference:
            self._limiter.correct_tokens(self._uses, self._minute, difference)

    def again(self) -> "Turn":
        """A further part of the same request: with a reservation of its own, and no further place."""
        turn = Turn(self._limiter, self._uses)
        turn._is_released = True
        return turn

    def release(self) -> None:
        if not self._is_released:
            self._is_released = True
            self._limiter.leave(self._uses)

    def __enter__(self) -> "Turn":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Limiter:
    """The one place that knows who has used how much.

    Whatever is used is counted by each quota, limited or not, so that a limit set later finds it.
    """

    def __init__(self, now_s: Callable[[], float], *, guest_addresses_per_minute: int) -> None:
        self._now_s = now_s
        self._guest_addresses_per_minute = guest_addresses_per_minute
        self._key_uses: dict[str, Use] = {}
        """By subject; dropped with the day."""
        self._guest_uses: dict[str, Use] = {}
        """By subject; dropped with the minute."""
        self._known: dict[str | None, tuple[Sequence[Quota], Uses]] = {}
        """Of keys, what `_uses_of` found in this minute, so that it looks once for all of a request's questions."""
        self._minute = self._minute_ends_at_s = self._day_ends_at_s = -1
        """That all were last looked into."""
        self._is_told_full = False
        """Whether the log has said in this minute that there is no room for further guests."""
        self._admitted: dict[str, Uses] = {}
        """Of the keys that were since `take_admitted` was called."""
        self._running = 0

    # The day over restarts

    @property
    def day(self) -> int:
        """Today's number since the Unix epoch."""
        return day_of(self._current_minute())

    def minute(self) -> int:
        """The present one's number since the Unix epoch."""
        return self._current_minute()

    def restore_day(self, counts: Mapping[str, int]) -> None:
        """Go on from what earlier runs counted today, so that a restart forgives nobody; of two counts the larger."""
        minute = self._current_minute()
        for subject, count in counts.items():
            use = self._key_uses.setdefault(subject, Use(is_kept=True))
            if use.minute != minute:
                use.begin(minute)
            use.requests_today = max(use.requests_today, count)

    def take_admitted(self) -> dict[str, int]:
        """Today's counts of the keys that were admitted since the last call, and of what their requests count for too.

        Whether they are limited or not: a limit may be set later.
        """
        admitted, self._admitted = self._admitted, {}
        day = self.day
        return {
            quota.subject: use.requests_today
            for uses in admitted.values()
            for use, quota in uses
            if day_of(use.minute) == day
        }

    # Requests for inference

    def check(self, caller: Caller) -> None:
        """Raise what `admit` would raise now; counts nothing."""
        self._check(self._uses_of(caller))

    def admit(self, caller: Caller) -> Turn:
        """Count one inference request and take a place in flight. Raises GatewayError (429) without counting."""
        uses = self._uses_of(caller)
        self._check(uses)
        for use, quota in uses:
            if not use.is_kept:
                self._keep(use, quota)
            use.requests += 1
            use.requests_today += 1
            use.running += 1
        if caller.credential_id is not None:
            self._admitted[caller.credential_id] = uses
        self._running += 1
        return Turn(self, uses)

    def leave(self, uses: Uses) -> None:
        """Give back a place in flight."""
        for use, _ in uses:
            use.running -= 1
        self._running -= 1

    @property
    def in_flight(self) -> int:
        """Answers open now, over all callers."""
        return self._running

    def running(self, quota: Quota) -> int:
        """How many requests of a quota's subject run now."""
        table = self._guest_uses if quota.is_of_guests else self._key_uses
        use = table.get(quota.subject)
        return 0 if use is None else use.running

    def last_minute(self, key_id: str) -> int:
        """The latest in which a key was used today; -1 where it was not."""
        use = self._key_uses.get(key_id)
        return -1 if use is None else use.minute

    def _check(self, uses: Uses) -> None:
        for use, quota in uses:  # written out, since every request pays for it
            most = quota.allowance
            if (
                (most.requests_per_minute is not None and use.requests >= most.requests_per_minute)
                or (most.requests_per_day is not None and use.requests_today >= most.requests_per_day)
                or (most.in_flight is not None and use.running >= most.in_flight)
            ):
                raise self._refusal(uses)

    def _refusal(self, uses: Uses) -> GatewayError:
        """By what has to be waited for the longest."""
        for use, quota in uses:
            if _is_full(use.requests_today, quota.allowance.requests_per_day):
                return too_many_a_day(quota, self._seconds_until(self._day_ends_at_s))
        for use, quota in uses:
            if _is_full(use.requests, quota.allowance.requests_per_minute):
                return too_many_a_minute(quota, self._seconds_until(self._minute_ends_at_s))
        return next(too_many_running(quota) for use, quota in uses if _is_full(use.running, quota.allowance.in_flight))

    # Listings

    def count_listing(self, caller: Caller) -> Awaitable[None] | None:
        """Count one call that asks about things rather than for inference, where it is not decided here once what is
        returned is awaited. Raises GatewayError (429).
        """
        uses = self._uses_of(caller)
        self._check_listings(uses)
        for use, quota in uses:
            if not use.is_kept:
                self._keep(use, quota)
            use.listings += 1
        return None

    def _check_listings(self, uses: Uses) -> None:
        for use, quota in uses:
            if _is_full(use.listings, quota.allowance.listings_per_minute):
                raise too_many_listings(quota, self._seconds_until(self._minute_ends_at_s))

    # Tokens

    def reserve_tokens(self, uses: Uses, tokens: int) -> int:
        """Reserve tokens in this minute; returns its number. See Turn.reserve_tokens."""
        minute = self._current_minute()
        full = None
        for use, quota in uses:
            if use.minute != minute:
                use.begin(minute)
            limit = quota.allowance.tokens_per_minute
            if limit is not None and use.tokens + tokens > limit:
                if tokens > limit:
                    raise too_large(quota, tokens)
                full = full or quota
        if full is not None:
            raise too_many_tokens(full, tokens, self._seconds_until(self._minute_ends_at_s))
        for use, _ in uses:
            use.tokens += tokens
        return minute

    def correct_tokens(self, uses: Uses, reserved_in: int, difference: int) -> None:
        """Count what a reservation of some minute was too small or too large by. See Turn.true_up."""
        minute = self._current_minute()
        if minute != reserved_in and difference < 0:
            return
        for use, _ in uses:
            if use.minute != minute:
                use.begin(minute)
            use.tokens += difference

    # What is left

    def standing(self, caller: Caller) -> Standing:
        """What the caller has left, as its next request would find it."""
        return self._standing_of(self._uses_of(caller))

    def standings(self, caller: Caller) -> list[tuple[Quota, Standing]]:
        """What each of the caller's quotas leaves by itself."""
        return [(quota, self._standing_of([(use, quota)])) for use, quota in self._uses_of(caller)]

    def _standing_of(self, uses: Uses) -> Standing:
        minute_limit = minute_left = day_limit = day_left = tokens_limit = tokens_left = None
        for use, quota in uses:  # written out, since every answer pays for it
            most = quota.allowance
            limit = most.requests_per_minute
            if limit is not None and (minute_left is None or limit - use.requests < minute_left):
                minute_limit, minute_left = limit, limit - use.requests if use.requests < limit else 0
            limit = most.requests_per_day
            if limit is not None and (day_left is None or limit - use.requests_today < day_left):
                day_limit, day_left = limit, limit - use.requests_today if use.requests_today < limit else 0
            limit = most.tokens_per_minute
            if limit is not None and (tokens_left is None or limit - use.tokens < tokens_left):
                tokens_limit, tokens_left = limit, limit - use.tokens if use.tokens < limit else 0
        minute_end_s, day_end_s = self._minute_ends_at_s, self._day_ends_at_s
        return Standing(
            minute_limit, minute_left, minute_end_s, day_limit, day_left, day_end_s, tokens_limit, tokens_left
        )

    # Tables

    def _current_minute(self) -> int:
        minute = int(self._now_s()) // MINUTE_S
        if minute != self._minute:
            self._turn_to(minute)
        return minute

    def _turn_to(self, minute: int) -> None:
        """Drop what was used in another minute or on another day."""
        if day_of(minute) != day_of(self._minute):
            self._key_uses = _running(self._key_uses)
        self._guest_uses = _running(self._guest_uses)
        self._known.clear()
        self._is_told_full = False
        self._minute, self._minute_ends_at_s, self._day_ends_at_s = minute, minute_end_s(minute), day_end_s(minute)

    def _uses_of(self, caller: Caller) -> Uses:
        """What was used of each quota in this minute; what was not used yet is not kept yet."""
        minute = self._current_minute()
        known = self._known.get(caller.credential_id)
        if known is not None and known[0] is caller.quotas:
            return known[1]
        table = self._guest_uses if caller.is_guest else self._key_uses
        uses: list[tuple[Use, Quota]] = []
        for quota in caller.quotas:
            use = table.get(quota.subject)
            if use is None:
                use = self._first_use(quota)
            if use.minute != minute:
                use.begin(minute)
            uses.append((use, quota))
        if caller.credential_id is not None and all(use.is_kept for use, _ in uses):
            self._known[caller.credential_id] = caller.quotas, uses
        return uses

    def _first_use(self, quota: Quota) -> Use:
        """Guests' addresses are whatever they like and the table of them has an end: those beyond it share one."""
        if quota.whose not in _COUNTED_APART or len(self._guest_uses) < self._guest_addresses_per_minute:
            return Use()
        if not self._is_told_full:
            self._is_told_full = True
            logger.warning(
                "guests came from %d addresses in this minute: further ones share the limits of one "
                "(guests.addresses_per_minute)",
                self._guest_addresses_per_minute,
            )
        return self._guest_uses.setdefault(f"any {quota.whose}", Use(is_kept=True))

    def _keep(self, use: Use, quota: Quota) -> None:
        use.is_kept = True
        table = self._guest_uses if quota.is_of_guests else self._key_uses
        table[quota.subject] = use

    def _seconds_until(self, end_s: int) -> int:
        return max(1, ceil(end_s - self._now_s()))


def _is_full(used: int, limit: int | None) -> bool:
    return limit is not None and used >= limit


def _running(uses: Mapping[str, Use]) -> dict[str, Use]:
    return {subject: use for subject, use in uses.items() if use.running}


async def counted(limiter: Limiter, caller: Caller) -> None:
    """Count one call that asks about things, wherever that is decided. Raises GatewayError (429)."""
    if (pending := limiter.count_listing(caller)) is not None:
        await pending
