"""The request log of one account for its owner to read: single records, pages of them, totals by what they share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mcp_gateway.core.clock import HOUR_MS
from mcp_gateway.core.engine import Engine, Read, Report, Scan
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.record import Door, RequestRecord, SurfaceName
from mcp_gateway.core.text import shown

Group = Literal["day", "model", "key", "surface"]


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Which requests; None is any. Times in Unix milliseconds, `since_ms` inclusive, `until_ms` exclusive."""

    model: str | None = None
    key_id: str | None = None
    http_status: int | None = None
    error_code: str | None = None
    door: Door | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    client_request_id: str | None = None
    surface: SurfaceName | None = None


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


Groups = dict[str | None, Totals]


@dataclass(frozen=True, slots=True)
class RequestById(Read[RequestRecord | None]):
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
    """Sums over the requests of a window, the greatest name first."""

    account_id: str
    since_ms: int
    until_ms: int
    group: Group


@dataclass(frozen=True, slots=True)
class TotalsOfHours(Report[Groups]):
    """The same from the sums of whole hours since the Unix epoch, `until_hour` exclusive, in any order."""

    account_id: str
    since_hour: int
    until_hour: int
    group: Group


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


_MOST_FOUND = 20


class History:
    """Reads what `Records` wrote."""

    def __init__(self, store: Engine) -> None:
        self._store = store

    async def get(self, account_id: str, request_id: str) -> RequestRecord:
        """One request that has ended. Raises GatewayError `not_found`, for another account's too."""
        asked = RequestById(account_id, request_id)
        record = await self._store.read(asked)
        if record is None:
            # a record that nobody waited for may still stand in the writer's queue: everything before this is through
            await self._store.flushed()
            record = await self._store.read(asked)
        if record is None:
            raise GatewayError("not_found", f"There is no request '{shown(request_id)}' that has ended.")
        return record

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

    async def repeats(self, account_id: str, records: Sequence[RequestRecord]) -> dict[str, str]:
        """Of those that were sent again under an Idempotency-Key: the first request that bore it, by id."""
        return await self._store.read(RepeatsOf(account_id, *_ends_of(records))) if records else {}

    async def missing_usages(self, account_id: str, records: Sequence[RequestRecord]) -> dict[str, str]:
        """Of those whose backend told no usage: the policy by which they were billed, by id."""
        return await self._store.read(MissingUsagesOf(account_id, *_ends_of(records))) if records else {}

    async def totals(self, account_id: str, since_ms: int, until_ms: int, group: Group) -> Groups:
        """Sums by UTC day (as `2026-01-31`), public model, key id or surface, the greatest first; None where none is.

        Whole hours are read from the sums that are kept of each; requests, only of the parts of hours at both ends.
        """
        hours = range(-(-since_ms // HOUR_MS), until_ms // HOUR_MS)
        if not hours:
            return await self._store.read(TotalsOfRequests(account_id, since_ms, until_ms, group))
        found = await self._store.read(TotalsOfHours(account_id, hours.start, hours.stop, group))
        for from_ms, to_ms in ((since_ms, hours.start * HOUR_MS), (hours.stop * HOUR_MS, until_ms)):
            if from_ms < to_ms:
                ends = await self._store.read(TotalsOfRequests(account_id, from_ms, to_ms, group))
                for name, totals in ends.items():
                    found[name] = found.get(name, Totals()) + totals
        return dict(sorted(found.items(), key=lambda item: item[0] or "", reverse=True))


def _ends_of(records: Sequence[RequestRecord]) -> tuple[str, str]:
    """The first and the last id of those that there are."""
    ids = [record.id for record in records]
    return min(ids), max(ids)
