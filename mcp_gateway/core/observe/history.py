"""The request log of one account for its owner to read: single records, pages of them, totals by what they share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Any, Literal, NamedTuple

from mcp_gateway.core.clock import HOUR_MS
from mcp_gateway.core.engine import Engine, Read, Report, Scan
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.record import AskedAs, Door, RequestRecord
from mcp_gateway.core.text import shown
from mcp_gateway.core.zones import ZoneOffset, offsets_in

Group = Literal["hour", "day", "month", "model", "key", "surface", "status", "task", "user", "tag"]
"""What requests are summed up by, hours in UTC; `status` is that of HTTP which the caller was told, `task` what was
read of those that named no model. `user` and `tag` are what they are attributed to, each of several tags counting."""


@dataclass(frozen=True, slots=True)
class Among:
    """Which of an account's requests are looked at: those of any of these models and keys, of all where none is named.

    `within` a key are those that it asked for, or one that it made, or one that such a key made.
    """

    models: tuple[str, ...] = ()
    key_ids: tuple[str, ...] = ()
    within: str | None = None


ALL = Among()


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Which requests; None is any. Times in Unix milliseconds, `since_ms` inclusive, `until_ms` exclusive."""

    among: Among = ALL
    http_status: int | None = None
    least_status: int | None = None
    """Of HTTP; 400: those that failed."""
    error_code: str | None = None
    door: Door | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    client_request_id: str | None = None
    surface: AskedAs | None = None
    user: str | None = None
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over requests; `cached_tokens` are a part of `prompt_tokens`."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost_nano: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.cost_nano + other.cost_nano,
        )


class TwoQuantiles(NamedTuple):
    """In milliseconds: half of what was looked at was as quick, or quicker; 95 of 100 were."""

    p50: int
    p95: int


class Latencies(NamedTuple):
    """Of so many requests that were answered with 200; None where there was none to tell by."""

    requests: int
    first_token_ms: TwoQuantiles | None
    total_ms: TwoQuantiles | None


Names = tuple[str | int | None, ...]
"""Of a group, one for each thing that it is of; None where its requests had none."""
Groups = dict[Names, Totals]


@dataclass(frozen=True, slots=True)
class RequestById(Read[RequestRecord | None]):
    account_id: str
    request_id: str
    within: str | None = None
    """As in Among."""


@dataclass(frozen=True, slots=True)
class RoundsOf(Report[list[RequestRecord]]):
    """The further rounds of a request that used tools of other servers, in their order."""

    account_id: str
    request_id: str


@dataclass(frozen=True, slots=True)
class RequestsByAnyId(Scan[list[RequestRecord]]):
    """The request that has this id, or else up to `most` that their clients called so, the newest first."""

    any_id: str
    most: int


@dataclass(frozen=True, slots=True)
class RequestsPage(Report[list[RequestRecord]]):
    """Up to `limit` requests older than `before_id`, the newest first."""

    account_id: str
    wanted: RequestFilter
    before_id: str | None
    limit: int


@dataclass(frozen=True, slots=True)
class TotalsOfRequests(Report[Groups]):
    """Sums over the requests of a window, by what they share, in any order."""

    account_id: str
    since_ms: int
    until_ms: int
    by: tuple[Group, ...]
    among: Among = ALL
    offsets: tuple[ZoneOffset, ...] = ()
    """Of the zone whose days and months these are, each hour being of the day in which it begins; UTC for none."""


class Grouping(NamedTuple):
    """What groups share, and how many are told of at most."""

    by: tuple[Group, ...]
    most: int


@dataclass(frozen=True, slots=True)
class TotalsOfHours(Report[list[Groups]]):
    """The same from the sums of whole hours since the Unix epoch, `until_hour` exclusive, as of one moment.

    One answer for each grouping.
    """

    account_id: str
    since_hour: int
    until_hour: int
    groupings: tuple[Grouping, ...]
    among: Among = ALL
    offsets: tuple[ZoneOffset, ...] = ()
    """As in TotalsOfRequests."""


@dataclass(frozen=True, slots=True)
class RequestsByHour(Report[list[tuple[int, int]]]):
    """Hours since the Unix epoch, each with how many requests began in it, where any did."""

    account_id: str
    since_hour: int
    until_hour: int
    among: Among = ALL


@dataclass(frozen=True, slots=True)
class LatencySample(Report[list[tuple[int | None, int]]]):
    """How long requests took that were answered with 200, until the first token where they had one, and in all, in ms.

    `most` are looked at from each of these moments on, up to the next one, or to `until_ms`.
    """

    account_id: str
    from_ms: tuple[int, ...]
    until_ms: int
    most: int
    among: Among = ALL


class KeyUse(NamedTuple):
    """What a key has asked for itself: the hour of its last request, and what all of them cost."""

    last_hour: int | None = None
    cost_nano: int = 0

    def as_object(self) -> dict[str, Any]:
        """What callers are told of it; the time is in Unix seconds, and that hour's beginning."""
        last_ms = None if self.last_hour is None else self.last_hour * HOUR_MS
        return {"last_used_at": None if last_ms is None else last_ms // 1000, "spent_usd": format_usd(self.cost_nano)}


UNUSED = KeyUse()


@dataclass(frozen=True, slots=True)
class UsesOfKeys(Report[dict[str, KeyUse]]):
    """Of those of an account's keys that were used, by id."""

    account_id: str
    key_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UseOfKey(Read[KeyUse]):
    """The same of one, which no report of others keeps waiting."""

    account_id: str
    key_id: str


@dataclass(frozen=True, slots=True)
class RepeatsOf(Report[dict[str, str]]):
    """The first request that bore its Idempotency-Key, of each repetition between two ids, both included."""

    account_id: str
    first_id: str
    last_id: str


@dataclass(frozen=True, slots=True)
class MissingUsagesOf(Report[dict[str, str]]):
    """The policy by which each request was billed that came without usage, between two ids, both included."""

    account_id: str
    first_id: str
    last_id: str


@dataclass(frozen=True, slots=True)
class FurtherRefusalsOf(Report[dict[str, int]]):
    """Of each request that a limit refused: how many like it followed in its minute, between two ids, both included."""

    account_id: str
    first_id: str
    last_id: str


FailedAttempts = dict[str, list[tuple[str, str]]]
"""By a request's id, who failed before the backend that its row names, and with which code, in order of their turns."""


@dataclass(frozen=True, slots=True)
class FailedAttemptsOf(Report[FailedAttempts]):
    """Of each request that had any, between two ids, both included."""

    account_id: str
    first_id: str
    last_id: str


_MOST_FOUND = 20
_MOST_GROUPS = 2000
"""Of a report by the hour or by two things at once, for which nobody else should wait long."""
_MOST_NAMES = 10_000
"""Of one by users or by tags alone."""
_ANY_NUMBER = 2**62
_MOST_TIMED = 5000
"""Requests that quantiles of latencies are told by; of more, those are taken that began at so many moments."""
_MOMENTS = 50
_MOST_PASSED = 4
"""Of requests that a filter leaves out, for each that it may leave."""


class History:
    """Reads what `Records` wrote."""

    def __init__(self, store: Engine) -> None:
        self._store = store

    async def get(self, account_id: str, request_id: str, *, within: str | None = None) -> RequestRecord:
        """One request that has ended. Raises GatewayError `not_found`, for another account's too.

        And, where it is to be `within` a key, for one of another key that this one has not made.
        """
        asked = RequestById(account_id, request_id, within)
        record = await self._store.read(asked)
        if record is None:
            # a record that nobody waited for may still stand in the writer's queue: everything before this is through
            await self._store.flushed()
            record = await self._store.read(asked)
        if record is None:
            raise GatewayError("not_found", f"There is no request '{shown(request_id)}' that has ended.")
        return record

    async def rounds(self, record: RequestRecord) -> list[RequestRecord]:
        """The further rounds of a request; none of one that is such a round itself."""
        return await self._store.read(RoundsOf(record.account_id, record.id))

    async def find(self, any_id: str) -> list[RequestRecord]:
        """For the operator: the request of any account that has this id, or the latest whose client called them so.

        Nothing is sorted by clients' ids: all requests are read for them.
        """
        return await self._store.read(RequestsByAnyId(any_id, _MOST_FOUND))

    async def page(
        self, account_id: str, wanted: RequestFilter, *, before_id: str | None, limit: int
    ) -> list[RequestRecord]:
        """Up to `limit` requests older than `before_id` (the newest for None), the newest first."""
        return await self._store.read(RequestsPage(account_id, wanted, before_id, limit))

    async def uses(self, account_id: str, key_ids: Iterable[str]) -> dict[str, KeyUse]:
        """Of each of these keys of an account, by id."""
        ids = tuple(key_ids)
        found = await self._store.read(UsesOfKeys(account_id, ids)) if ids else {}
        return {key_id: found.get(key_id, UNUSED) for key_id in ids}

    async def use(self, account_id: str, key_id: str) -> KeyUse:
        """Of one key of an account."""
        return await self._store.read(UseOfKey(account_id, key_id))

    async def repeats(self, account_id: str, records: Sequence[RequestRecord]) -> dict[str, str]:
        """Of those that were sent again under an Idempotency-Key: the first request that bore it, by id."""
        return await self._store.read(RepeatsOf(account_id, *_ends_of(records))) if records else {}

    async def missing_usages(self, account_id: str, records: Sequence[RequestRecord]) -> dict[str, str]:
        """Of those whose backend told no usage: the policy by which they were billed, by id."""
        return await self._store.read(MissingUsagesOf(account_id, *_ends_of(records))) if records else {}

    async def failed_attempts(self, account_id: str, records: Sequence[RequestRecord]) -> FailedAttempts:
        """Of those that had any: who failed before the backend that the record names, and with which code."""
        return await self._store.read(FailedAttemptsOf(account_id, *_ends_of(records))) if records else {}

    async def further_refusals(self, account_id: str, records: Sequence[RequestRecord]) -> dict[str, int]:
        """Of those that a limit refused: how many like it followed in that minute and have no record, by id."""
        return await self._store.read(FurtherRefusalsOf(account_id, *_ends_of(records))) if records else {}

    async def totals(
        self, account_id: str, since_ms: int, until_ms: int, *by: Group, among: Among = ALL, zone: tzinfo = UTC
    ) -> Groups:
        """Sums of an account's requests by one thing or more; see `totals_of_each`."""
        (found,) = await self.totals_of_each(account_id, since_ms, until_ms, by, among=among, zone=zone)
        return found

    async def totals_of_each(
        self,
        account_id: str,
        since_ms: int,
        until_ms: int,
        *groupings: tuple[Group, ...],
        among: Among = ALL,
        zone: tzinfo = UTC,
    ) -> list[Groups]:
        """Sums of each grouping, the greatest first; raises GatewayError `invalid_value` where there are too many.

        Times are told as `2026-01-31T13:00:00Z`, `2026-01-31` and `2026-01`, models by their public ids. Days and
        months are those of the zone, each from the first full hour of UTC that begins in it.
        """
        offsets = offsets_in(zone, since_ms // HOUR_MS, -(-until_ms // HOUR_MS))
        each = await self._summed(account_id, since_ms, until_ms, groupings, among, offsets)
        for by, found in zip(groupings, each, strict=True):
            if len(found) > _most_by(by):
                problem = f"There are more than {_most_by(by)} rows by {' and '.join(by)} between `since` and `until`"
                message = f"{problem}: ask for a shorter time, or by fewer."
                raise GatewayError("invalid_value", message, param="group_by")
        return [dict(sorted(found.items(), key=_in_order, reverse=True)) for found in each]

    async def _summed(
        self,
        account_id: str,
        since_ms: int,
        until_ms: int,
        groupings: tuple[tuple[Group, ...], ...],
        among: Among,
        offsets: tuple[ZoneOffset, ...],
    ) -> list[Groups]:
        """Whole hours are read from the sums kept of each; requests, only of the parts of hours at both ends."""
        hours = range(-(-since_ms // HOUR_MS), until_ms // HOUR_MS)
        each: list[Groups] = [{} for _ in groupings]
        ends = [(since_ms, until_ms)]
        if hours:
            wanted = tuple(Grouping(by, _most_by(by) + 1) for by in groupings)
            each = await self._store.read(TotalsOfHours(account_id, hours.start, hours.stop, wanted, among, offsets))
            ends = [(since_ms, hours.start * HOUR_MS), (hours.stop * HOUR_MS, until_ms)]
        for from_ms, to_ms in ends:
            for by, found in zip(groupings, each, strict=True):
                if from_ms < to_ms:
                    end = await self._store.read(TotalsOfRequests(account_id, from_ms, to_ms, by, among, offsets))
                    for names, totals in end.items():
                        found[names] = found.get(names, Totals()) + totals
        return each

    async def latencies(self, account_id: str, since_ms: int, until_ms: int, among: Among = ALL) -> Latencies:
        """How long answers took, by the records that are kept of them.

        By all of few requests; of many by some that are spread over the time as all are: from moments on before which
        equal shares of them began, as the sums of hours tell.
        """
        hours = since_ms // HOUR_MS, -(-until_ms // HOUR_MS)
        counts = await self._store.read(RequestsByHour(account_id, *hours, among))
        is_filtered = among != ALL
        if not is_filtered and sum(count for _, count in counts) <= _MOST_TIMED:
            moments, most = [since_ms], _MOST_TIMED
        else:
            moments = _spread(counts, since_ms)
            most = _MOST_TIMED // _MOMENTS * (_MOST_PASSED if is_filtered else 1)
        timed = await self._store.read(LatencySample(account_id, tuple(moments), until_ms, most, among))
        first_ms, total_ms = zip(*timed, strict=True) if timed else ((), ())
        first = sorted(one for one in first_ms if one is not None)
        return Latencies(len(timed), _quantiles(first), _quantiles(sorted(total_ms)))


def _spread(counts: Sequence[tuple[int, int]], since_ms: int) -> list[int]:
    """Moments before which equal shares of all requests began, from how many did in each hour."""
    total = sum(count for _, count in counts)
    moments, passed, number = dict[int, None](), 0, 0
    for hour, count in counts:
        while number < _MOMENTS and number * total < (passed + count) * _MOMENTS:
            into = (number * total / _MOMENTS - passed) / count
            moments[max(since_ms, int((hour + into) * HOUR_MS))] = None
            number += 1
        passed += count
    return list(moments)


def _quantiles(in_order: Sequence[int]) -> TwoQuantiles | None:
    """By the nearest rank."""
    if not in_order:
        return None
    p50, p95 = (in_order[-(-len(in_order) * part // 100) - 1] for part in (50, 95))
    return TwoQuantiles(p50, p95)


def _most_by(by: Sequence[Group]) -> int:
    if "hour" in by or len(by) > 1:
        return _MOST_GROUPS
    return _MOST_NAMES if "user" in by or "tag" in by else _ANY_NUMBER


def _in_order(group: tuple[Names, Totals]) -> list[tuple[bool, str | int | None]]:
    """None stands below every name."""
    return [(name is not None, name) for name in group[0]]


def _ends_of(records: Sequence[RequestRecord]) -> tuple[str, str]:
    """The first and the last id of those that there are."""
    ids = [record.id for record in records]
    return min(ids), max(ids)
