"""GET /usage: an account's requests, tokens and cost in a window of time, by one thing or two that they share."""

from collections.abc import Callable
from datetime import UTC
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from http_api.exports import Format, at_once, export, format_of
from http_api.operations import About, Absent, Asked, Nothing, Streamed, Told
from http_api.query import Moment, Query, Several, whole_day
from mcp_gateway.core.clock import DAY_MS, HOUR_MS
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger.months import ModelUse
from mcp_gateway.core.moments import date_in
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.observe.history import Among, Group, Groups, History, Latencies, Names, Totals
from mcp_gateway.core.record import AskedAs
from mcp_gateway.core.zones import day_begins_ms, zone_of

_DEFAULT_WINDOW_MS = 30 * DAY_MS
_GROUPS: tuple[Group, ...] = get_args(Group)
_MOST_AT_ONCE = 2


def _groups_in(group_by: str) -> tuple[Group, ...]:
    """Those that stand there, with commas between. Raises ValueError that says what there is."""
    named = group_by.split(",")
    found = tuple(group for name in named for group in _GROUPS if group == name)
    if len(named) > _MOST_AT_ONCE or len(set(found)) < len(named):
        groups = f"{', '.join(map(repr, _GROUPS[:-1]))} or {_GROUPS[-1]!r}"
        raise ValueError(f"must be {groups}, or two that differ with a comma between, such as 'day,model'")
    return found


def _checked(group_by: str) -> str:
    _groups_in(group_by)
    return group_by


_ONE_GROUP = f"({'|'.join(_GROUPS)})"
_GROUP_BY: dict[str, Any] = {
    "type": "string",
    "pattern": f"^{_ONE_GROUP}(,{_ONE_GROUP})?$",
    "description": "What each row is of, or two such things with a comma between. Hours are UTC, days and months "
    "those of `zone`; a status is that of "
    "HTTP which the caller was told, a task is of requests that named no model. Users and tags are those of an account "
    "whose requests are attributed; one of several tags counts in the row of each.",
    "examples": [*_GROUPS, "day,model"],
}
GroupBy = Annotated[str, AfterValidator(_checked), WithJsonSchema(_GROUP_BY)]


_ZONE: dict[str, Any] = {
    "type": "string",
    "maxLength": 100,
    "default": "UTC",
    "description": "Whose days and months are summed up, and by which dates of `since` and `until` begin. Sums are "
    "kept by the hour of UTC: an hour is of the day in which it begins.",
    "examples": ["UTC", "Europe/Berlin"],
}


def _known(name: str) -> str:
    zone_of(name)
    return name


Zone = Annotated[str, Field(max_length=100), AfterValidator(_known), WithJsonSchema(_ZONE)]


def _dates(given: dict[str, Any]) -> dict[str, Any]:
    """A query whose dates are moments: a date until itself is that day, and days begin where its zone has them."""
    whole = whole_day(given)
    try:
        zone = zone_of(whole.get("zone", "UTC"))
    except ValueError:
        return whole  # which the field tells
    if zone is UTC:
        return whole
    days = {name: date_in(whole.get(name, "")) for name in ("since", "until")}
    return whole | {name: str(day_begins_ms(day, zone) // 1000) for name, day in days.items() if day is not None}


class UsageQuery(Query):
    """`since` is inclusive, `until` exclusive; by default the 30 days until now, from a full hour on.

    A date until itself is that day.
    """

    _read_dates = model_validator(mode="before")(_dates)
    since: Moment | None = None
    until: Moment | None = None
    group_by: GroupBy = "day"
    zone: Zone = "UTC"
    model: Several = ()
    key: Several = ()
    latency: bool = False
    """Whether to tell how long answers took, too."""
    format: Format | None = None


class UsageTotals(Told):
    """Sums over requests; the cost is a decimal string."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    cost_usd: str


class UsageRow(UsageTotals):
    """Of what was asked for, with a field for each of two; null for requests that had none."""

    hour: str | None = None
    day: str | None = None
    month: str | None = None
    model: str | None = None
    key: str | None = None
    surface: AskedAs | None = None
    status: int | None = None
    task: str | None = None
    user: str | None = None
    tag: str | None = None


class LatencyQuantiles(Told):
    """In milliseconds: half of the answers were as quick, or quicker; 95 of 100 were."""

    p50: int
    p95: int


class LatencyReport(Told):
    """By so many requests that were answered with 200 and whose records are kept: all of few, 5,000 at most of many,
    spread over the time as all are. Null where there was none."""

    requests: int
    first_token_ms: LatencyQuantiles | None
    total_ms: LatencyQuantiles | None


class UsageReport(Told):
    """The window is told in Unix seconds; `totals` has each request once, as many tags as it may have."""

    object: Literal["list"]
    data: list[UsageRow]
    next_cursor: None
    since: int
    until: int
    group_by: GroupBy
    zone: str
    totals: UsageTotals
    latency: LatencyReport | Absent = None


class UsageReports:
    def __init__(self, history: History, now_ms: Callable[[], int]) -> None:
        self._history = history
        self._now_ms = now_ms

    async def get(self, asked: Asked[UsageQuery, Nothing]) -> UsageReport | Streamed:
        query, form, by = asked.query, format_of(asked), _groups_in(asked.query.group_by)
        with_each_once = form == "json" and "tag" in by  # whose rows have a request of several tags several times
        groups, *once = await self.sums(asked.about, query, by, *([("month",)] if with_each_once else ()))
        rows = [_row(by, names, totals) for names, totals in groups.items()]
        if form != "json":
            return export("usage", form, UsageRow, at_once(rows))
        since_ms, until_ms = self._window(query)
        timed = {"latency": latency_of(await self.latencies(asked.about, query))} if query.latency else {}
        return UsageReport(
            object="list",
            data=rows,
            next_cursor=None,
            since=since_ms // 1000,
            until=until_ms // 1000,
            group_by=query.group_by,
            zone=query.zone,
            totals=UsageTotals(**totals_fields(added_up((once or [groups])[0]))),
            **timed,
        )

    async def sums(self, about: About, query: UsageQuery, *groupings: tuple[Group, ...]) -> list[Groups]:
        """What a query is answered by, by each of these instead of what it names. Raises GatewayError."""
        window, among, zone = self._hours(query), _among(about, query), zone_of(query.zone)
        return await self._history.totals_of_each(about.account_id, *window, *groupings, among=among, zone=zone)

    async def latencies(self, about: About, query: UsageQuery) -> Latencies:
        """How long the answers took that a query asks for."""
        return await self._history.latencies(about.account_id, *self._hours(query), _among(about, query))

    def _window(self, query: UsageQuery) -> tuple[int, int]:
        """As it is told. Raises GatewayError."""
        until_ms = self._now_ms() if query.until is None else query.until
        since_ms = recent_since_ms(until_ms) if query.since is None else query.since
        if since_ms > until_ms:
            raise GatewayError("invalid_value", "`since` must not be later than `until`.", param="since")
        return since_ms, until_ms

    def _hours(self, query: UsageQuery) -> tuple[int, int]:
        """As it is read: until now is until the end of this hour. Raises GatewayError."""
        since_ms, until_ms = self._window(query)
        whole_until_ms = end_of_hour_ms(until_ms) if query.until is None else until_ms
        if zone_of(query.zone) is not UTC:  # whose clocks are looked at in all this time; nothing begins after now
            whole_until_ms = max(since_ms, min(whole_until_ms, end_of_hour_ms(self._now_ms())))
        return since_ms, whole_until_ms


def _among(about: About, query: UsageQuery) -> Among:
    return Among(query.model, query.key, about.within)


def added_up(groups: Groups) -> Totals:
    """What all of them come to."""
    return sum(groups.values(), Totals())


def latency_of(latencies: Latencies) -> LatencyReport:
    quantiles = (latencies.first_token_ms, latencies.total_ms)
    first, total = (None if one is None else LatencyQuantiles(p50=one.p50, p95=one.p95) for one in quantiles)
    return LatencyReport(requests=latencies.requests, first_token_ms=first, total_ms=total)


def _row(by: tuple[Group, ...], names: Names, totals: Totals) -> UsageRow:
    of: dict[str, Any] = dict(zip(by, names, strict=True))
    return UsageRow(**of, **totals_fields(totals))


def recent_since_ms(until_ms: int) -> int:
    """Where the last 30 days begin: with a full hour, so that sums of hours tell them."""
    return max(0, until_ms - _DEFAULT_WINDOW_MS) // HOUR_MS * HOUR_MS


def end_of_hour_ms(at_ms: int) -> int:
    """Nothing starts after now, so that the sum of its whole hour tells what there was until now."""
    return -(-at_ms // HOUR_MS) * HOUR_MS


def totals_fields(totals: Totals | ModelUse) -> dict[str, Any]:
    return {
        "requests": totals.requests,
        "prompt_tokens": totals.prompt_tokens,
        "completion_tokens": totals.completion_tokens,
        "total_tokens": totals.prompt_tokens + totals.completion_tokens,
        "cached_tokens": totals.cached_tokens,
        "cost_usd": format_usd(totals.cost_nano),
    }
