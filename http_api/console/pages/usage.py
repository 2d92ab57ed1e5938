"""Usage: requests, tokens, cost and errors of an account, by day or hour, and by what they share."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Literal, get_args
from urllib.parse import urlencode

from http_api.console.chart import Stacked, stacked_bars
from http_api.console.forms import Form
from http_api.console.pages.requests import REQUESTS_PATH
from http_api.console.serving import Console, Shown, asking
from http_api.console.view import counted, dollars, minute
from http_api.exports import Format
from http_api.keys import Keys
from http_api.operations import AnyOperation, Asked, Nothing, Streamed
from http_api.query import Query, read_query
from http_api.usage import UsageQuery, UsageReport, UsageReports, UsageRow
from mcp_gateway.core.errors import GatewayError

USAGE_PATH = "/console/usage"
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


class UsageFilter(Query):
    """`since` and `until` are dates of UTC, both of them shown; without them `range` counts."""

    range: Range = "30d"
    since: str | None = None
    until: str | None = None
    show: Metric = "cost"
    by: By = "model"
    format: Format | None = None


class _Window:
    """Which bars there are, and the query of the API that has their sums."""

    def __init__(self, asked: UsageFilter, now: datetime) -> None:
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        if asked.since is not None or asked.until is not None:
            begin, _ = _day(asked.since or asked.until, "since")
            _, end = _day(asked.until or asked.since, "until")
        elif asked.range == "month":
            begin, end = today.replace(day=1), today + timedelta(days=1)
        elif asked.range == "24h":
            end = now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
            begin = end - timedelta(hours=24)
        else:
            end = today + timedelta(days=1)
            begin = end - timedelta(days=_DAYS[asked.range])
        if begin >= end:
            raise GatewayError("invalid_value", "`since` must not be later than `until`.", param="since")
        self.begin, self.end = begin, end
        self.unit: Literal["hour", "day"] = "hour" if end - begin <= timedelta(days=2) else "day"
        self._step = step = timedelta(hours=1) if self.unit == "hour" else timedelta(days=1)
        if (end - begin) / step > _MOST_BARS:
            raise GatewayError("invalid_value", f"Choose {_MOST_BARS} days or fewer.", param="since")
        self.bars = [begin + step * number for number in range(int((end - begin) / step))]

    def query(self, group_by: str, form: Format | None = None) -> UsageQuery:
        given = {"since": self.begin.isoformat(), "until": self.end.isoformat(), "group_by": group_by}
        text = urlencode(given | ({"format": form} if form else {}))
        return read_query({"query_string": text.encode()}, UsageQuery)

    def within(self, bar: datetime) -> dict[str, str]:
        """The filter of the requests that a bar sums up."""
        return {"since": minute(bar), "until": minute(bar + self._step)}

    def name_of(self, bar: datetime) -> str:
        """As the API names an hour or a day."""
        return bar.strftime("%Y-%m-%dT%H:00:00Z" if self.unit == "hour" else "%Y-%m-%d")

    def label_of(self, bar: datetime) -> str:
        return bar.strftime("%H:00" if self.unit == "hour" else "%b %d")


class UsagePages:
    """`at` says as what a browser asks for a path."""

    def __init__(self, usage: UsageReports, keys: Keys, now_ms: Callable[[], int], *, at: Callable[[str], str]) -> None:
        self._at = at
        self._usage = usage
        self._keys = keys
        self._now_ms = now_ms

    def rows(self, console: Console) -> list[AnyOperation]:
        return [
            console.page(USAGE_PATH, self.show, query=UsageFilter, scope="read"),
            console.page(f"{USAGE_PATH}/export", self.export, query=UsageFilter, scope="read"),
        ]

    async def show(self, asked: Asked[UsageFilter, Form]) -> Shown:
        query, window = asked.query, self._window(asked.query)
        by = await self._report(asked, window, f"{window.unit},{query.by}")
        statuses = await self._report(asked, window, f"{window.unit},status")
        errors = [row for row in statuses.data if (row.status or 0) >= _ERROR]
        rows = [row for row in by.data if query.by == "status" and row in errors] if query.show == "errors" else by.data
        if query.show == "errors" and query.by != "status":
            rows = errors
        shared: By = "status" if query.show == "errors" else query.by
        names = await self._keys.names(asked) if shared == "key" else {}
        links = [f"{self._at(REQUESTS_PATH)}?{urlencode(window.within(bar))}" for bar in window.bars]
        series = _series(rows, window, shared, query.show, names)
        values = {
            "filter": query,
            "ranges": _RANGE_LABELS.items(),
            "metrics": _METRIC_LABELS.items(),
            "groups": get_args(By),
            "totals": by.totals,
            "errors": sum(row.requests for row in errors),
            "title": f"{_METRIC_LABELS[query.show]} by {shared} and {window.unit}",
            "unit": window.unit,
            "begin": window.begin.strftime("%Y-%m-%d"),
            "end": (window.end - timedelta(seconds=1)).strftime("%Y-%m-%d"),
            "window": {"since": minute(window.begin), "until": minute(window.end)},
            "picture": _picture(window, series, query.show, links),
            "links": links,
            "leads": _leads(series, shared),
            "series": series,
            "bars": [window.name_of(bar) for bar in window.bars],
            "value": dollars if query.show == "cost" else counted,
            "groups_shown": _found(rows, shared, names),
            "shared": shared,
            "leading": _LEADING,
            "query": _text_of(query),
        }
        return Shown("usage.html", values, part="usage")

    async def export(self, asked: Asked[UsageFilter, Form]) -> Streamed:
        window = self._window(asked.query)
        form: Format = "csv" if asked.query.format == "csv" else "jsonl"
        told = await self._usage.get(asking(asked, Nothing(), window.query(f"{window.unit},{asked.query.by}", form)))
        assert isinstance(told, Streamed)
        return told

    def _window(self, query: UsageFilter) -> _Window:
        return _Window(query, datetime.fromtimestamp(self._now_ms() / 1000, UTC))

    async def _report(self, asked: Asked[UsageFilter, Form], window: _Window, group_by: str) -> UsageReport:
        told = await self._usage.get(asking(asked, Nothing(), window.query(group_by, "json")))
        assert isinstance(told, UsageReport)
        return told


def _day(text: str | None, param: str) -> tuple[datetime, datetime]:
    """Where a date begins and ends."""
    try:
        begin = datetime.strptime(text or "", "%Y-%m-%d").replace(tzinfo=UTC)
        return begin, begin + timedelta(days=1)
    except (ValueError, OverflowError):
        raise GatewayError("invalid_value", f"`{param}` takes a date such as 2026-01-31.", param=param) from None


def _group_of(row: UsageRow, by: By) -> str:
    name = getattr(row, by)
    return "none" if name is None else str(name)


def _value_of(row: UsageRow, metric: Metric) -> Decimal:
    if metric == "cost":
        return Decimal(row.cost_usd)
    return Decimal(row.total_tokens if metric == "tokens" else row.requests)


def _series(
    rows: Iterable[UsageRow], window: _Window, by: By, metric: Metric, names: dict[str, str]
) -> Sequence[Stacked]:
    """The largest groups, each with a value for every bar; all others together as the last."""
    by_group: dict[str, dict[str, Decimal]] = {}
    for row in rows:
        at = (row.hour if window.unit == "hour" else row.day) or ""
        bars = by_group.setdefault(_group_of(row, by), {})
        bars[at] = bars.get(at, Decimal(0)) + _value_of(row, metric)
    largest = sorted(by_group, key=lambda group: -sum(by_group[group].values()))
    shown = largest if len(largest) <= _MOST_SERIES else largest[: _MOST_SERIES - 1]
    at_bars = [window.name_of(bar) for bar in window.bars]
    series = [
        Stacked(names.get(group, group), [by_group[group].get(at, Decimal(0)) for at in at_bars], group)
        for group in shown
    ]
    if others := largest[len(shown) :]:
        sums = [sum((by_group[group].get(at, Decimal(0)) for group in others), Decimal(0)) for at in at_bars]
        series.append(Stacked(f"{len(others)} others", sums))
    return series


def _found(rows: Iterable[UsageRow], by: By, names: dict[str, str]) -> list[tuple[str, str]]:
    """The groups that there are, each with its name: what leads to their requests."""
    groups = sorted({_group_of(row, by) for row in rows})
    return [(group, names.get(group, group)) for group in groups]


def _leads(series: Sequence[Stacked], by: By) -> dict[int, str]:
    """What a part of a bar adds to where its bar leads, by its place in the legend."""
    if by not in _LEADING:
        return {}
    leading = ((place, one.group) for place, one in enumerate(series))
    return {place: urlencode([(str(by), group)]) for place, group in leading if group not in ("", "none")}


def _picture(window: _Window, series: Sequence[Stacked], metric: Metric, links: Sequence[str]) -> str:
    labels = [window.label_of(bar) for bar in window.bars]
    title = f"{_METRIC_LABELS[metric]} from {window.begin:%Y-%m-%d}, in UTC"
    return stacked_bars(title, labels, series, dollars if metric == "cost" else counted, links)


def _text_of(query: UsageFilter) -> str:
    return urlencode(query.model_dump(exclude_none=True, exclude={"format"}))
