"""The request log of one account for its owner to read: single records, pages of them, totals by day, model or key."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from mcp_gateway.core.clock import HOUR_MS
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ids import first_id_at
from mcp_gateway.core.record import COLUMNS, Door, RequestRecord, sum_of
from mcp_gateway.core.store.store import Row, Store
from mcp_gateway.core.text import shown

Group = Literal["day", "model", "key"]

_ARRIVAL_MS = HOUR_MS
"""More than ever passes between the making of a request's id and its `started_at_ms`, which is never the earlier."""
_GROUPS: dict[Group, str] = {"day": "DATE(started_at_ms / 1000, 'unixepoch')", "model": "model", "key": "key_id"}
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM requests"
_SUMMED = ("prompt_tokens", "completion_tokens", "cached_tokens", "cost_nano")
_SUMS = ", ".join(("COUNT(*)", *map(sum_of, _SUMMED)))
_GROUPS_OF_HOURS: dict[Group, str] = {
    "day": "DATE(hour * 3600, 'unixepoch')", "model": "NULLIF(model, '')", "key": "NULLIF(key_id, '')",
}  # fmt: skip
_SUMS_OF_HOURS = ", ".join(f"SUM({column})" for column in ("requests", *_SUMMED))
Groups = dict[str | None, "Totals"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which requests; None is any. Times in Unix milliseconds, `since_ms` inclusive, `until_ms` exclusive."""

    model: str | None = None
    key_id: str | None = None
    http_status: int | None = None
    error_code: str | None = None
    door: Door | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    client_request_id: str | None = None


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


_OF_ANY_ACCOUNT = f"""
SELECT {", ".join(f"requests.{column}" for column in COLUMNS)}
FROM accounts CROSS JOIN requests ON account_id = accounts.id WHERE requests.id = ?
"""
_MOST_FOUND = 20


class History:
    """Reads what `Records` wrote."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, account_id: str, request_id: str) -> RequestRecord:
        """One request that has ended. Raises GatewayError `not_found`, for another account's too."""
        record = await self._find(account_id, request_id)
        if record is None:
            # a record that nobody waited for may still stand in the writer's queue: everything before this is through
            await self._store.write(lambda _: None, is_durable=False)
            record = await self._find(account_id, request_id)
        if record is None:
            raise GatewayError("not_found", f"There is no request '{shown(request_id)}' that has ended.")
        return record

    async def find(self, any_id: str) -> list[RequestRecord]:
        """For the operator: the request of any account that has this id, or the latest whose client called them so.

        Nothing is sorted by clients' ids: all requests are read for them.
        """
        rows = await self._store.fetch_all(_OF_ANY_ACCOUNT, (any_id,))
        if not rows:
            sql = f"{_SELECT} WHERE client_request_id = ? ORDER BY id DESC LIMIT ?"
            rows = await self._store.fetch_all(sql, (any_id, _MOST_FOUND))
        return [_record(row) for row in rows]

    async def page(self, account_id: str, wanted: Wanted, *, before_id: str | None, limit: int) -> list[RequestRecord]:
        """Up to `limit` requests older than `before_id` (the newest for None), the newest first."""
        conditions = dict(_conditions(account_id, wanted))
        if before_id is not None:
            conditions["id < ?"] = before_id
        sql = f"{_SELECT} WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?"
        rows = await self._store.fetch_report(account_id, sql, (*conditions.values(), limit))
        return [_record(row) for row in rows]

    async def repeats(self, account_id: str, records: Sequence[RequestRecord]) -> dict[str, str]:
        """Of those that were sent again under an Idempotency-Key: the first request that bore it, by id."""
        return await self._beside("SELECT id, first_id FROM request_repeats", account_id, records)

    async def missing_usages(self, account_id: str, records: Sequence[RequestRecord]) -> dict[str, str]:
        """Of those whose backend told no usage: the policy by which they were billed, by id."""
        return await self._beside("SELECT id, policy FROM missing_usages", account_id, records)

    async def totals(self, account_id: str, since_ms: int, until_ms: int, group: Group) -> Groups:
        """Sums by UTC day (as `2026-01-31`), public model or key id, the greatest first; None where there was none.

        Whole hours are read from the sums that are kept of each; requests, only of the parts of hours at both ends.
        """
        hours = range(-(-since_ms // HOUR_MS), until_ms // HOUR_MS)
        if not hours:
            return await self._totals_of_requests(account_id, since_ms, until_ms, group)
        found = await self._totals_of_hours(account_id, hours, group)
        for from_ms, to_ms in ((since_ms, hours.start * HOUR_MS), (hours.stop * HOUR_MS, until_ms)):
            if from_ms < to_ms:
                for name, totals in (await self._totals_of_requests(account_id, from_ms, to_ms, group)).items():
                    found[name] = found.get(name, Totals()) + totals
        return dict(sorted(found.items(), key=lambda item: item[0] or "", reverse=True))

    async def _totals_of_hours(self, account_id: str, hours: range, group: Group) -> Groups:
        sql = (
            f"SELECT {_GROUPS_OF_HOURS[group]}, {_SUMS_OF_HOURS} FROM hourly_usage "
            "WHERE account_id = ? AND hour >= ? AND hour < ? GROUP BY 1"
        )
        rows = await self._store.fetch_report(account_id, sql, (account_id, hours.start, hours.stop))
        return {name: Totals(*sums) for name, *sums in rows}

    async def _totals_of_requests(self, account_id: str, since_ms: int, until_ms: int, group: Group) -> Groups:
        conditions = dict(_conditions(account_id, Wanted(since_ms=since_ms, until_ms=until_ms)))
        where = " AND ".join(conditions)
        sql = f"SELECT {_GROUPS[group]}, {_SUMS} FROM requests WHERE {where} GROUP BY 1 ORDER BY 1 DESC"
        rows = await self._store.fetch_report(account_id, sql, tuple(conditions.values()))
        return {name: Totals(*(number or 0 for number in sums)) for name, *sums in rows}

    async def _beside(self, select: str, account_id: str, records: Sequence[RequestRecord]) -> dict[str, str]:
        if not records:
            return {}
        ids = [record.id for record in records]
        sql = f"{select} WHERE account_id = ? AND id >= ? AND id <= ?"
        return dict(await self._store.fetch_report(account_id, sql, (account_id, min(ids), max(ids))))

    async def _find(self, account_id: str, request_id: str) -> RequestRecord | None:
        row = await self._store.fetch_one(f"{_SELECT} WHERE id = ? AND account_id = ?", (request_id, account_id))
        return _record(row) if row else None


def _record(row: Row) -> RequestRecord:
    """SQLite has no booleans."""
    record = RequestRecord(*row)
    return record._replace(is_stream=bool(record.is_stream))


def _conditions(account_id: str, wanted: Wanted) -> Iterator[tuple[str, object]]:
    """SQL conditions with the value of each; ids sort by time, so that they find the window by the index."""
    yield "account_id = ?", account_id
    for column in ("model", "key_id", "http_status", "error_code", "door", "client_request_id"):
        if (value := getattr(wanted, column)) is not None:
            yield f"{column} = ?", value
    if wanted.since_ms is not None:
        yield "id >= ?", first_id_at("req", max(0, wanted.since_ms - _ARRIVAL_MS))
        yield "started_at_ms >= ?", wanted.since_ms
    if wanted.until_ms is not None:
        yield "id <= ?", first_id_at("req", wanted.until_ms)
        yield "started_at_ms < ?", wanted.until_ms
