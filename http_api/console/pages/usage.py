"""Usage: requests, tokens, cost and errors of an account, by day or hour, and by what they share."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from itertools import islice
from typing import Literal, NamedTuple, get_args
from urllib.parse import urlencode

from http_api.console.chart import Stacked, stacked_bars
from http_api.console.forms import Form
from http_api.console.pages.requests import REQUESTS
from http_api.console.pages_of import OWN_HOME, PagesOf, home_of, told_of
from http_api.console.serving import Console, Shown, asking
from http_api.console.view import counted, dollars, minute, usd
from http_api.exports import Format
from http_api.keys import Keys
from http_api.operations import AnyOperation, Asked, Nothing, Streamed
from http_api.people import PeopleDoor
from http_api.query import Query, Several, read_query
from http_api.usage import UsageQuery, UsageReports, UsageTotals, added_up, latency_of, totals_fields
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.observe.history import Groups, Names, Totals
from mcp_gateway.core.zones import day_begins_ms, zone_or_utc

_USAGE = "/usage"
USAGE_PATH = f"{OWN_HOME}{_USAGE}"
Range = Literal["24h", "7d", "30d", "90d", "month"]
Metric = Literal["cost", "requests", "tokens", "errors"]
By = Literal["model", "key", "surface", "status", "task", "tag"]
_DAYS: dict[Range, int] = {"24h": 1, "7d": 7, "30d": 30, "90d": 90}
_RANGE_LABELS: dict[Range, str] = {
    "24h": "24 hours", "7d": "7 days", "30d": "30 days", "90d": "90 days", "month": "this month",
}  # fmt: skip
_METRIC_LABELS: dict[Metric, str] = {"cost": "Cost", "requests": "Requests", "tokens": "Tokens", "errors": "Errors"}
_LEADING: tuple[By, ...] = ("model", "key", "surface", "status", "tag")
"""By which requests are listed, too."""
_MOST_SERIES = 6
"""Colours that are told apart; what is behind the first ones stands together."""
_MOST_BARS = 24 * 14
_ERROR = 400
_DAYS_BY_HOUR = 2
_MOST_OFFERED = 40
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class UsageFilter(Query):
    """`since` and `until` are dates of the reader's zone, both of them shown; without them `range` counts."""

    range: Range = "30d"
    since: str | None = None
    until: str | None = None
    show: Metric = "cost"
    by: By = "model"
    model: Several = ()
    key: Several = ()
    format: Format | None = None


class _Bar(NamedTuple):
    """An hour or a day: as the API names it, as the table and the chart do, and from when until when it is."""

    name: str
    shown: str
    label: str
    begin: datetime
    end: datetime


class _Window:
    """Which bars there are, and the query of the API that has their sums."""

    def __init__(self, asked: UsageFilter, now: datetime, zone: tzinfo) -> None:
        self.chosen = {"model": asked.model, "key": asked.key}
        self.zone = zone
        today = now.astimezone(zone).date()
        first, last = today, today
        if asked.since is not None or asked.until is not None:
            first, last = _day(asked.since or asked.until, "since"), _day(asked.until or asked.since, "until")
        elif asked.range == "month":
            first = today.replace(day=1)
        else:
            first = today - timedelta(days=_DAYS[asked.range] - 1)
        if first > last:
            raise GatewayError("invalid_value", "`since` must not be later than `until`.", param="since")
        if (last - first).days >= _MOST_BARS:
            raise GatewayError("invalid_value", f"Choose {_MOST_BARS} days or fewer.", param="since")
        self.begin, self.end = _begin(first, zone), _begin(last + timedelta(days=1), zone)
        if asked.range == "24h" and asked.since is None and asked.until is None:
            self.end = now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
            self.begin = self.end - timedelta(hours=24)
        self.unit: Literal["hour", "day"] = "hour" if (last - first).days < _DAYS_BY_HOUR else "day"
        self.bars = self._hours() if self.unit == "hour" else self._days(first, last)

    def query(self, group_by: str, **more: object) -> UsageQuery:
        window = {"since": self.begin.isoformat(), "until": self.end.isoformat()}
        given = window | self.chosen | {"group_by": group_by, "zone": str(self.zone)} | more
        return read_query({"query_string": urlencode(given, doseq=True).encode()}, UsageQuery)

    @property
    def begins_within_days(self) -> str | None:
        """The time at which days begin that do not at midnight, since sums are of hours of UTC."""
        begins = f"{self.begin.astimezone(self.zone):%H:%M}"
        return None if self.unit == "hour" or begins == "00:00" else begins

    def _hours(self) -> list[_Bar]:
        hour, bars = timedelta(hours=1), []
        for number in range((self.end - self.begin) // hour):
            begin = self.begin + hour * number
            local = begin.astimezone(self.zone)
            name = begin.strftime("%Y-%m-%dT%H:00:00Z")
            bars.append(_Bar(name, f"{local:%Y-%m-%d %H:%M}", f"{local:%H:%M}", begin, begin + hour))
        return bars

    def _days(self, first: date, last: date) -> list[_Bar]:
        days = [first + timedelta(days=number) for number in range((last - first).days + 2)]
        begins = [_begin(day, self.zone) for day in days]
        return [
            _Bar(day.isoformat(), day.isoformat(), f"{day:%b %d}", begin, end)
            for day, begin, end in zip(days, begins, begins[1:], strict=False)
        ]


class UsagePages:
    """`at` says as what a browser asks for a path."""

    def __init__(
        self,
        pages: PagesOf,
        usage: UsageReports,
        keys: Keys,
        people: PeopleDoor,
        now_ms: Callable[[], int],
        *,
        at: Callable[[str], str],
    ) -> None:
        self._pages = pages
        self._people = people
        self._at = at
        self._usage = usage
        self._keys = keys
        self._now_ms = now_ms

    def rows(self, console: Console) -> list[AnyOperation]:
        return [
            self._pages.page(console, _USAGE, self.show, query=UsageFilter, scope="read"),
            self._pages.page(console, f"{_USAGE}/export", self.export, query=UsageFilter, scope="read"),
        ]

    async def show(self, asked: Asked[UsageFilter, Form]) -> Shown:
        query, window = asked.query, await self._window(asked)
        wanted, about, unit = window.query(window.unit), asked.about, window.unit
        by, statuses, models = await self._usage.sums(about, wanted, (unit, query.by), (unit, "status"), ("model",))
        if query.model:  # of which others may be chosen, too
            (models,) = await self._usage.sums(about, window.query(unit, model=()), ("model",))
        latency = latency_of(await self._usage.latencies(about, wanted))
        errors = {names: totals for names, totals in statuses.items() if int(names[1] or 0) >= _ERROR}
        shared: By = "status" if query.show == "errors" else query.by
        groups = errors if query.show == "errors" else by
        names = await self._keys.names(asked)
        path, chosen = self._at(home_of(asked) + REQUESTS), {name: one for name, one in window.chosen.items() if one}
        if query.show == "errors":
            chosen["least_status"] = (str(_ERROR),)
        links = _links(path, window, chosen)
        series = _series(groups, window, query.show, names)
        await asyncio.sleep(0)  # since others wait for their turns
        picture = _picture(window, series, query.show, links)
        await asyncio.sleep(0)
        values = {
            **told_of(asked),
            "filter": query,
            "ranges": _RANGE_LABELS.items(),
            "metrics": _METRIC_LABELS.items(),
            "groups": get_args(By),
            "totals": UsageTotals(**totals_fields(added_up(statuses))),
            "errors": added_up(errors).requests,
            "title": f"{_METRIC_LABELS[query.show]} by {shared} and {window.unit}",
            "unit": window.unit,
            "begin": window.bars[0].shown,
            "end": window.bars[-1].shown,
            "zone": str(window.zone),
            "begins_within_days": window.begins_within_days,
            "window": {**chosen, "since": minute(window.begin), "until": minute(window.end)},
            "latency": latency,
            "models": [model for (model,) in models if model is not None],
            "keys": _offered(names, query.key),
            "picture": picture,
            "links": links,
            "leads": _leads(series, shared),
            "series": series,
            "bars": [bar.shown for bar in window.bars],
            "value": dollars if query.show == "cost" else counted,
            "groups_shown": _found(groups, names),
            "shared": shared,
            "leading": _LEADING,
            "query": _text_of(query),
        }
        return Shown("usage.html", values, part="usage")

    async def export(self, asked: Asked[UsageFilter, Form]) -> Streamed:
        window = await self._window(asked)
        form: Format = "csv" if asked.query.format == "csv" else "jsonl"
        told = await self._usage.get(
            asking(asked, Nothing(), window.query(f"{window.unit},{asked.query.by}", format=form))
        )
        assert isinstance(told, Streamed)
        return told

    async def _window(self, asked: Asked[UsageFilter, Form]) -> _Window:
        me = await self._people.me(asking(asked, Nothing()))
        return _Window(asked.query, datetime.fromtimestamp(self._now_ms() / 1000, UTC), zone_or_utc(me.zone))


def _day(text: str | None, param: str) -> date:
    """One that a further day is behind of."""
    try:
        day = date.fromisoformat(text or "")
        _begin(day + timedelta(days=1), UTC)
    except (ValueError, OverflowError):
        raise GatewayError("invalid_value", f"`{param}` takes a date such as 2026-01-31.", param=param) from None
    return day


def _begin(day: date, zone: tzinfo) -> datetime:
    return _EPOCH + timedelta(milliseconds=day_begins_ms(day, zone))


def _group_of(names: Names) -> str:
    """What a bar's part is of, behind the time of the bar."""
    return "none" if names[1] is None else str(names[1])


def _value_of(totals: Totals, metric: Metric) -> int:
    """Of a cost in billionths of a dollar."""
    if metric == "cost":
        return totals.cost_nano
    return totals.prompt_tokens + totals.completion_tokens if metric == "tokens" else totals.requests


def _series(groups: Groups, window: _Window, metric: Metric, shown_as: dict[str, str]) -> Sequence[Stacked]:
    """The largest groups, each with a value for every bar; all others together as the last."""
    by_group: dict[str, dict[str | int | None, int]] = {}
    for names, totals in groups.items():
        bars = by_group.setdefault(_group_of(names), {})
        bars[names[0]] = bars.get(names[0], 0) + _value_of(totals, metric)
    largest = sorted(by_group, key=lambda group: -sum(by_group[group].values()))
    shown = largest if len(largest) <= _MOST_SERIES else largest[: _MOST_SERIES - 1]
    exact = usd if metric == "cost" else Decimal

    def stacked(name: str, some: Sequence[str], group: str = "") -> Stacked:
        values = [exact(sum(by_group[one].get(bar.name, 0) for one in some)) for bar in window.bars]
        return Stacked(name, values, group)

    series = [stacked(shown_as.get(group, group), [group], group) for group in shown]
    others = largest[len(shown) :]
    return [*series, stacked(f"{len(others)} others", others)] if others else series


def _found(groups: Groups, shown_as: dict[str, str]) -> list[tuple[str, str]]:
    """The groups that there are, each with its name: what leads to their requests."""
    return [(group, shown_as.get(group, group)) for group in sorted(set(map(_group_of, groups)))]


def _offered(names: dict[str, str], chosen: Collection[str]) -> dict[str, str]:
    """The keys to choose from: those that were made last, and the chosen."""
    newest = dict(islice(names.items(), _MOST_OFFERED))
    return newest | {key_id: names.get(key_id, key_id) for key_id in chosen}


def _links(path: str, window: _Window, chosen: Mapping[str, Sequence[str]]) -> list[str]:
    """Where the requests are that each bar sums up."""
    more = f"&{urlencode(chosen, doseq=True)}" if chosen else ""
    spans = ({"since": minute(bar.begin), "until": minute(bar.end)} for bar in window.bars)
    return [f"{path}?{urlencode(span)}{more}" for span in spans]


def _leads(series: Sequence[Stacked], by: By) -> dict[int, str]:
    """What a part of a bar adds to where its bar leads, by its place in the legend."""
    if by not in _LEADING:
        return {}
    leading = ((place, one.group) for place, one in enumerate(series))
    return {place: urlencode([(str(by), group)]) for place, group in leading if group not in ("", "none")}


def _picture(window: _Window, series: Sequence[Stacked], metric: Metric, links: Sequence[str]) -> str:
    labels = [bar.label for bar in window.bars]
    title = f"{_METRIC_LABELS[metric]} from {window.bars[0].shown}, in {window.zone}"
    return stacked_bars(title, labels, series, dollars if metric == "cost" else counted, links)


def _text_of(query: UsageFilter) -> str:
    return urlencode(query.model_dump(exclude_none=True, exclude={"format"}), doseq=True)
