"""The limits of several replicas together: Valkey counts and decides, and each replica alone while that is away.

What Valkey has told of a subject stands in the limiter's own tables, from which callers are told what they have left,
and words are found for a refusal. Apart from it the replica counts what it has admitted itself. While Valkey is away it
decides by these counts, at its share of each limit; what it admits then is told once Valkey is back. Nobody waits for
that.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import count
from math import inf
from secrets import token_bytes
from struct import Struct
from typing import Any, NamedTuple

from mcp_gateway.core.caller import Allowance, Caller, Quota
from mcp_gateway.core.clock import MINUTE_MS
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.limits.limiter import Limiter, Standing, Turn, Uses
from mcp_gateway.core.limits.refusals import too_large, too_many_tokens
from mcp_gateway.core.limits.scripts import ADMIT, RELEASE, RENEW
from mcp_gateway.core.limits.server_time import ServerTime
from mcp_gateway.core.limits.use import day_of
from mcp_gateway.core.valkey.client import Valkey, bulk
from mcp_gateway.core.valkey.link import ValkeyDown

LEASE_S = 30.0
"""How long the places of a replica that has died stay taken."""
_RENEWALS = 3
"""In the time that a lease lasts."""
_TOLD_AT_ONCE = 500
"""Of leases and debts; then others have their turn."""
_MOST_OWED = 10_000
_GUESTS_LAST_MS = 120_000.0
"""Their counts are of a minute; those of keys are of a day."""
_UNTIL_THE_DAY_IS_OVER = 0.0
_ALL = b"{limits}:replicas"
_COUNTS, _PLACES = b"{limits}:n:", b"{limits}:l:"
"""Before the name of a subject. Braces keep all of them together where keys are spread over servers."""
_AMOUNTS, _OF_SUBJECT, _TOKENS = Struct(">7d"), Struct(">8d"), Struct(">5d")
"""What is said to ADMIT before that of each subject, and of each; and to RELEASE."""
_LEASE = Struct(">6sQ")
"""The replica that it is of, and its number there."""
_BEFORE_LEASE = b"$%d\r\n" % _LEASE.size
_BEFORE_TOKENS = b"\r\n$%d\r\n" % _TOKENS.size
_AFTER_LEASE = b"\r\n$0\r\n\r\n"
"""Without tokens."""
_TOLD_FIRST, _TOLD_OF_SUBJECT = Struct(">2q"), Struct(">5q")
"""What ADMIT returns."""
_END = b"\r\n"
_NO_LEASE = b""
_NO_MINUTE = -1


class _Question(NamedTuple):
    """What of a caller is the same in all that is asked of it within a minute, on one connection.

    It does not have the caller, of whom nothing is to be left once nothing goes on for it.
    """

    quotas: tuple[Quota, ...]
    uses: Uses
    """As Valkey told them."""
    keys: tuple[bytes, ...]
    own_uses: Uses
    """As this replica has counted them itself."""
    subjects: bytes
    """Their limits, and what is known of them now: Valkey may have forgotten it."""
    counting: bytes
    """What is sent to have something counted, up to the amounts; a request, up to its lease; and at its end."""
    request: bytes
    release: bytes
    lasts_ms: float
    has_tokens: bool
    """Whether tokens a minute are limited: else nobody waits for a reservation."""

    @property
    def places(self) -> tuple[bytes, ...]:
        return self.keys[len(self.uses) :]


class SharedTurn(Turn):
    """One admitted request, by Valkey or while that was away.

    By how much its tokens were estimated wrongly is told with the end of its place, or at once where that is over.
    """

    __slots__ = ("asked", "caller", "counted_in", "difference", "lease", "shared")

    def __init__(self, shared: "SharedLimiter", caller: Caller, asked: _Question, lease: bytes, minute: int) -> None:
        self._limiter = self.shared = shared  # written out, since every request pays for a further call
        self._uses = asked.uses
        self._tokens = 0
        self._minute = _NO_MINUTE
        self._is_released = False
        self.caller = caller
        self.asked = asked
        self.lease = lease
        """Empty for what has no place, or none that Valkey knows or will know of."""
        self.counted_in = minute
        self.difference = 0
        """Of tokens: what Valkey does not know of yet."""

    @property
    def is_released(self) -> bool:
        return self._is_released

    @property
    def reserved_in(self) -> int:
        """The minute of its tokens."""
        return self._minute

    def reserve_tokens(self, tokens: int) -> Awaitable[None] | None:
        """See Turn.reserve_tokens. Where tokens have no limit, those that were used are counted in the end."""
        return self.shared.reserve(self, tokens) if self.asked.has_tokens else None

    def true_up(self, tokens: int) -> None:
        difference, self._tokens = tokens - self._tokens, tokens
        if difference:
            self.difference += difference
            self.shared.corrected(self, difference)

    def again(self) -> "SharedTurn":
        turn = SharedTurn(self.shared, self.caller, self.asked, _NO_LEASE, self.counted_in)
        turn._is_released = True
        return turn

    def release(self) -> None:
        if not self._is_released:
            self._is_released = True
            self.shared.give_back(self)

    def reserved(self, tokens: int, minute: int) -> None:
        self._tokens, self._minute = tokens, minute


class _OwnLimiter(Limiter):
    """What this replica has admitted itself."""

    def uses_of(self, caller: Caller) -> Uses:
        return self._uses_of(caller)

    def take(self, uses: Uses) -> None:
        """Count a request, and its place, whatever the limits are."""
        for use, quota in uses:
            if not use.is_kept:
                self._keep(use, quota)
            use.requests += 1
            use.requests_today += 1
            use.running += 1
        self._running += 1

    def take_tokens(self, uses: Uses, quotas: Sequence[Quota], tokens: int) -> int:
        """Reserve them by these quotas, and return the minute; more than one of them has takes all that it has."""
        limits = [quota.allowance.tokens_per_minute for quota in quotas]
        fitting = min([tokens, *(limit for limit in limits if limit is not None)])
        minute = self.reserve_tokens([(use, quota) for (use, _), quota in zip(uses, quotas, strict=True)], fitting)
        self.correct_tokens(uses, minute, tokens - fitting)
        return minute


class SharedLimiter(Limiter):
    """Its decisions are Valkey's; `admitted` stands in the place of `admit`, since it has to be awaited."""

    def __init__(
        self,
        valkey: Valkey,
        clock: Callable[[], float],
        *,
        guest_addresses_per_minute: int,
        now_s: Callable[[], float] | None = None,
        lease_s: float = LEASE_S,
    ) -> None:
        """`clock` tells the time until Valkey does; `now_s` is one in the place of Valkey's own."""
        self._given_now_s = now_s
        self._arguments = 2 if now_s is None else 3
        """Of each script: the last is the time."""
        self._server_time = ServerTime(clock)
        time_s = now_s or self._server_time
        super().__init__(time_s, guest_addresses_per_minute=guest_addresses_per_minute)
        self._own = _OwnLimiter(time_s, guest_addresses_per_minute=guest_addresses_per_minute)
        self._valkey = valkey
        self._lease_s = lease_s
        self._lease_ms = int(lease_s * 1000)
        self._id = token_bytes(6)
        self._numbers = count(1)
        self._asked: dict[str | None, _Question] = {}
        """By what is shown."""
        self._turns: dict[bytes, SharedTurn] = {}
        """That run, by their leases."""
        self._untold: dict[bytes, SharedTurn] = {}
        """Those that Valkey does not know of."""
        self._unanswered: list[bytes] = []
        """Ends of places that it may not have heard of."""
        self._is_back = asyncio.Event()
        self._heard_at_ms = 0
        self.replicas = 1
        """That were there when Valkey last was."""
        self._on_change: Callable[[], None] = lambda: None
        valkey.on_change(self._changed)
        valkey.try_with(lambda: self._renewal((_ALL,), self._id))

    def on_change(self, on_change: Callable[[], None]) -> None:
        """Have it called now, and when `is_alone`, `replicas` or `owed` may have changed."""
        self._on_change = on_change
        on_change()

    @property
    def is_alone(self) -> bool:
        """Whether each replica counts for itself, since Valkey is away."""
        return not self._valkey.is_up

    @property
    def owed(self) -> int:
        """How much Valkey has to be told once it is back."""
        return len(self._untold) + len(self._unanswered)

    # Requests for inference

    def check(self, caller: Caller) -> None:
        """Raise what is certain to be refused now; counts nothing and asks nobody."""
        if self.is_alone:
            self._own.check(self._sharer(caller))
        else:
            self._refuse_if_certain(self._asked_of(caller))

    async def admitted(self, caller: Caller) -> Turn:
        """Count one inference request and take a place in flight. Raises GatewayError (429) without counting."""
        asked = self._asked_of(caller)
        lease = _LEASE.pack(self._id, next(self._numbers))
        if self._valkey.is_up:
            self._refuse_if_certain(asked)
        try:
            answering = self._valkey.ask(self._request(asked, lease))
        except ValkeyDown:
            self._own.check(self._sharer(caller))
            return self._begun_alone(caller, asked, lease)
        try:
            answer = await answering
        except ValkeyDown:  # by now, and it may have counted: under the same lease it does so once
            try:
                self._own.check(self._sharer(caller))
            except GatewayError:
                self._owe(self._ending(asked, lease, _NO_MINUTE, 0))
                raise
            return self._begun_alone(caller, asked, lease)
        except BaseException:
            self._tell_end(asked, lease, _NO_MINUTE, 0)
            raise
        if not self._heard(asked, answer):
            raise self._refusal(asked.uses)
        if caller.credential_id is not None:
            self._admitted[caller.credential_id] = asked.uses
        return self._begun(caller, asked, lease)

    def give_back(self, turn: SharedTurn) -> None:
        """See Turn.release."""
        self._own.leave(turn.asked.own_uses)
        self._turns.pop(turn.lease, None)
        if turn.lease and turn.lease not in self._untold:
            difference, turn.difference = turn.difference, 0
            self._tell_end(turn.asked, turn.lease, turn.reserved_in, difference)

    @property
    def in_flight(self) -> int:
        return self._own.in_flight

    def _begun(self, caller: Caller, asked: _Question, lease: bytes) -> SharedTurn:
        self._own.take(asked.own_uses)
        turn = SharedTurn(self, caller, asked, lease, self._minute)
        self._turns[lease] = turn
        return turn

    def _begun_alone(self, caller: Caller, asked: _Question, lease: bytes) -> SharedTurn:
        turn = self._begun(caller, asked, lease)
        if len(self._untold) < _MOST_OWED:
            self._untold[lease] = turn
        return turn

    def _refuse_if_certain(self, asked: _Question) -> None:
        """What is used up stays so until the minute or the day is over; whoever asks again asks nobody else."""
        for use, quota in asked.uses:
            most = quota.allowance
            if (most.requests_per_minute is not None and use.requests >= most.requests_per_minute) or (
                most.requests_per_day is not None and use.requests_today >= most.requests_per_day
            ):
                raise self._refusal(asked.uses)

    # Listings

    def count_listing(self, caller: Caller) -> Awaitable[None] | None:
        if self.is_alone:
            return self._own.count_listing(self._sharer(caller))
        return self._listed(caller)

    async def _listed(self, caller: Caller) -> None:
        asked = self._asked_of(caller)
        self._check_listings(asked.uses)
        try:
            answer = await self._valkey.ask(self._counting(asked, _NO_LEASE, self._amounts(listings=1)))
        except ValkeyDown:
            self._own.count_listing(self._sharer(caller))
            return
        if not self._heard(asked, answer):
            self._check_listings(asked.uses)

    # Tokens

    async def reserve(self, turn: SharedTurn, tokens: int) -> None:
        """Reserve tokens for a turn. See Turn.reserve_tokens."""
        for quota in turn.asked.quotas:
            limit = quota.allowance.tokens_per_minute
            if limit is not None and tokens > limit:
                raise too_large(quota, tokens)
        self._tell_tokens(turn)
        asked = self._asked_of(turn.caller)
        try:
            answer = await self._valkey.ask(self._counting(asked, _NO_LEASE, self._amounts(tokens=tokens)))
        except ValkeyDown:
            minute = self._own.take_tokens(turn.asked.own_uses, self._sharer(turn.caller).quotas, tokens)
            turn.difference += tokens
            return turn.reserved(tokens, minute)
        except BaseException:
            self._tell_end(asked, _NO_LEASE, self._minute, -tokens)
            raise
        if not self._heard(asked, answer):
            raise self._lack_of(tokens, asked.uses)
        self._own.correct_tokens(turn.asked.own_uses, self._minute, tokens)
        return turn.reserved(tokens, self._minute)

    def corrected(self, turn: SharedTurn, difference: int) -> None:
        """See Turn.true_up."""
        self._own.correct_tokens(turn.asked.own_uses, turn.reserved_in, difference)
        if turn.asked.has_tokens:  # the caller is told at once
            self.correct_tokens(self._uses_of(turn.caller), turn.reserved_in, difference)
        if not turn.is_released or turn.lease in self._untold:
            return  # it is told with the end of its place
        if self.is_alone:
            left, turn.difference = turn.difference, 0
            self._owe(self._ending(turn.asked, _NO_LEASE, turn.reserved_in, left))
        else:
            self._tell_tokens(turn)

    def _lack_of(self, tokens: int, uses: Uses) -> GatewayError:
        """The refusal of tokens that some quota does not leave."""
        limits = [(quota, quota.allowance.tokens_per_minute, use.tokens) for use, quota in uses]
        full = next(quota for quota, limit, used in limits if limit is not None and used + tokens > limit)
        return too_many_tokens(full, tokens, self._seconds_until(self._minute_ends_at_s))

    def _tell_tokens(self, turn: SharedTurn) -> None:
        if turn.difference and not self.is_alone:
            difference, turn.difference = turn.difference, 0
            self._tell_end(turn.asked, _NO_LEASE, turn.reserved_in, difference)

    # What is left

    def standing(self, caller: Caller) -> Standing:
        """As Valkey last told it to this caller; its share here while that is away."""
        return self._own.standing(self._sharer(caller)) if self.is_alone else super().standing(caller)

    def standings(self, caller: Caller) -> list[tuple[Quota, Standing]]:
        return self._own.standings(self._sharer(caller)) if self.is_alone else super().standings(caller)

    def running(self, quota: Quota) -> int:
        return self._own.running(quota) if self.is_alone else super().running(quota)

    def last_minute(self, key_id: str) -> int:
        return max(super().last_minute(key_id), self._own.last_minute(key_id))

    def restore_day(self, counts: Mapping[str, int]) -> None:
        super().restore_day(counts)
        self._own.restore_day(counts)
        self._asked.clear()

    # What goes on beside the requests

    async def watch(self) -> None:
        """Have leases last, and tell Valkey what it has missed once it is back; until cancelled."""
        try:
            while True:
                is_back = self._is_back.is_set()
                self._is_back.clear()
                with suppress(ValkeyDown):  # it comes back
                    await self.renew(is_back=is_back)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._lease_s / _RENEWALS):
                        await self._is_back.wait()
        finally:
            self._valkey.tell(b"*3\r\n" + b"".join(map(bulk, (b"ZREM", _ALL, self._id))))

    async def renew(self, *, is_back: bool = False) -> None:
        """Have leases last on, and tell what is owed; `is_back` is whether Valkey was away. Raises ValkeyDown."""
        told = await self._valkey.ask(self._renewal((_ALL,), self._id))
        replicas = int(str(told))
        self.replicas = max(replicas, self.replicas) if is_back else replicas  # others may take a moment to be back
        self._on_change()
        for number, turn in enumerate([*self._untold.values(), *self._turns.values()], start=1):
            if turn.lease in self._untold:
                self._tell_of(turn)
            elif not turn.is_released:
                self._valkey.tell(self._renewal(turn.asked.places, turn.lease))
                self._tell_tokens(turn)
            if number % _TOLD_AT_ONCE == 0:
                await self._valkey.ask(("PING",))
        unanswered, self._unanswered = self._unanswered, []
        for command in unanswered:
            self._valkey.tell(command, self._owe)
        self._on_change()

    def _tell_of(self, turn: SharedTurn) -> None:
        """Have Valkey count what was admitted without it, in its minute and on its day; and what has ended since."""
        lease, minute = turn.lease, self._current_minute()
        in_minute, on_day = turn.counted_in == minute, day_of(turn.counted_in) == day_of(minute)
        amounts = self._amounts(requests=int(in_minute), today=int(on_day), is_forced=True)
        del self._untold[lease]
        self._valkey.tell(
            self._counting(self._asked_of(turn.caller), lease, amounts),
            lambda _: self._untold.__setitem__(lease, turn),
        )
        if turn.is_released:
            difference, turn.difference = turn.difference, 0
            self._tell_end(turn.asked, lease, turn.reserved_in, difference)
        else:
            self._tell_tokens(turn)

    def _changed(self, is_up: bool) -> None:
        if is_up:
            self._asked.clear()  # it may have forgotten what is known
            self._is_back.set()
        self._on_change()

    def _owe(self, command: bytes) -> None:
        if len(self._unanswered) < _MOST_OWED:
            self._unanswered.append(command)

    # What is said to Valkey

    def _asked_of(self, caller: Caller) -> _Question:
        self._current_minute()
        known = self._asked.get(caller.credential_id)
        if known is not None and known.quotas is caller.quotas:
            return known
        uses = self._uses_of(caller)
        names = [self._name_of(use, quota) for use, quota in uses]
        keys = (*(_COUNTS + name for name in names), *(_PLACES + name for name in names))
        lasts_ms = _GUESTS_LAST_MS if caller.is_guest else _UNTIL_THE_DAY_IS_OVER
        subjects = b"".join(
            _OF_SUBJECT.pack(*_limits_of(quota.allowance), lasts_ms, use.requests, use.requests_today)
            for use, quota in uses
        )
        counting = ADMIT.call(keys, self._arguments) + b"$%d\r\n" % (_AMOUNTS.size + len(subjects))
        asked = _Question(
            caller.quotas,
            uses,
            keys,
            self._own.uses_of(caller),
            subjects,
            counting,
            b"".join((counting, self._amounts(requests=1, today=1), subjects, _END, _BEFORE_LEASE)),
            RELEASE.call(keys, self._arguments) + _BEFORE_LEASE,
            lasts_ms,
            any(quota.allowance.tokens_per_minute is not None for quota in caller.quotas),
        )
        if caller.credential_id is not None:
            self._asked[caller.credential_id] = asked
        return asked

    def _name_of(self, use: object, quota: Quota) -> bytes:
        """Guests beyond those that are counted apart are counted as one."""
        shared = f"any {quota.whose}"
        is_shared = quota.is_of_guests and self._guest_uses.get(shared) is use
        return (shared if is_shared else quota.subject).encode()

    def _request(self, asked: _Question, lease: bytes) -> bytes:
        """To have a request admitted; see ADMIT."""
        return b"".join((asked.request, lease, _END, self._now()))

    def _counting(self, asked: _Question, lease: bytes, amounts: bytes) -> bytes:
        """To have something else counted; see ADMIT."""
        return b"".join((asked.counting, amounts, asked.subjects, _END, bulk(lease), self._now()))

    def _amounts(
        self, *, requests: int = 0, today: int = 0, listings: int = 0, tokens: int = 0, is_forced: bool = False
    ) -> bytes:
        return _AMOUNTS.pack(self._lease_ms, is_forced, requests, today, listings, tokens, self._minute)

    def _heard(self, asked: _Question, answer: Any) -> bool:
        """Take over what Valkey tells of its counts; returns whether it has counted."""
        fits, time_ms = _TOLD_FIRST.unpack_from(answer)
        if time_ms != self._heard_at_ms:  # as answers do that come together
            self._heard_at_ms = time_ms
            self._server_time.heard(time_ms / 1000)
            self._current_minute()
        minute, at = time_ms // MINUTE_MS, _TOLD_FIRST.size
        for use, quota in asked.uses:
            if use.minute != minute or not use.is_kept:
                use.minute = minute
                self._keep(use, quota)
            told = _TOLD_OF_SUBJECT.unpack_from(answer, at)
            use.requests, use.listings, use.tokens, use.requests_today, use.running = told
            at += _TOLD_OF_SUBJECT.size
        return bool(fits)

    def _tell_end(self, asked: _Question, lease: bytes, minute: int, difference: int) -> None:
        """Of a place, once, and how many tokens were not or too much reserved in the minute; of tokens alone."""
        self._valkey.tell(self._ending(asked, lease, minute, difference), self._owe if lease else None)

    def _ending(self, asked: _Question, lease: bytes, minute: int, difference: int) -> bytes:
        """See RELEASE."""
        tokens = _AFTER_LEASE
        if difference:
            told = _TOKENS.pack(difference, minute, self._current_minute(), asked.lasts_ms, self._lease_ms)
            tokens = b"".join((_BEFORE_TOKENS, told, _END))
        if lease:
            return b"".join((asked.release, lease, tokens, self._now()))
        return b"".join((RELEASE.call(asked.keys, self._arguments), b"$0\r\n", tokens, self._now()))

    def _renewal(self, places: tuple[bytes, ...], lease: bytes) -> bytes:
        """See RENEW."""
        return b"".join((RENEW.call(places, self._arguments), bulk(lease), bulk(self._lease_ms), self._now()))

    def _now(self) -> bytes:
        return b"" if self._given_now_s is None else bulk(int(self._given_now_s() * 1000))

    # Tables

    def _turn_to(self, minute: int) -> None:
        """What Valkey told is of a minute; nothing of it has to be kept for longer but what was counted today."""
        if day_of(minute) != day_of(self._minute):
            self._key_uses = {}
        self._guest_uses = {}
        super()._turn_to(minute)
        self._asked.clear()

    def _sharer(self, caller: Caller) -> Caller:
        """The caller with this replica's share of its limits."""
        return caller if self.replicas == 1 else replace(caller, quotas=_shares(caller.quotas, self.replicas))


def _limits_of(allowance: Allowance) -> tuple[float, ...]:
    limits = (
        allowance.requests_per_minute,
        allowance.requests_per_day,
        allowance.tokens_per_minute,
        allowance.in_flight,
        allowance.listings_per_minute,
    )
    return tuple(inf if limit is None else limit for limit in limits)


@lru_cache(maxsize=10_000)
def _shares(quotas: tuple[Quota, ...], replicas: int) -> tuple[Quota, ...]:
    """At least one of each."""

    def part(limit: int | None) -> int | None:
        return None if limit is None else max(1, limit // replicas)

    return tuple(
        replace(
            quota,
            allowance=Allowance(
                part(quota.allowance.requests_per_minute),
                part(quota.allowance.requests_per_day),
                part(quota.allowance.tokens_per_minute),
                part(quota.allowance.in_flight),
                part(quota.allowance.listings_per_minute),
            ),
        )
        for quota in quotas
    )
