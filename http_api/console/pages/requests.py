"""Requests: what is kept of each that has ended, never what was asked or answered."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

from pydantic import Field

from http_api.console.addresses import older, pairs_in
from http_api.console.forms import Form
from http_api.console.pages_of import OWN_HOME, PagesOf, told_of
from http_api.console.serving import AskedPage, Console, Shown, asking
from http_api.console.view import minute
from http_api.keys import Keys
from http_api.limits import Limits
from http_api.operations import AnyOperation, Asked, Nothing, Streamed
from http_api.query import AnyQuery
from http_api.requests import RequestObject, RequestPage, Requests, RequestsQuery
from mcp_gateway.core.errors import TABLE, GatewayError

REQUESTS = "/requests"
REQUESTS_PATH = f"{OWN_HOME}{REQUESTS}"
_NAMED_IN_QUERY = ("model", "key", "status", "least_status", "error_code", "surface", "tag", "user", "since", "until")
_MOST_NEW = 50


class NewerQuery(RequestsQuery):
    """`at` is when the list was shown, in Unix milliseconds, `above` the first request in it."""

    at: Annotated[int, Field(ge=0)]
    above: str = ""


class RequestPages:
    def __init__(
        self, pages: PagesOf, requests: Requests, keys: Keys, limits: Limits, now_ms: Callable[[], int]
    ) -> None:
        self._pages = pages
        self._requests = requests
        self._keys = keys
        self._limits = limits
        self._now_ms = now_ms

    def rows(self, console: Console) -> list[AnyOperation]:
        row: dict[str, Any] = {"query": RequestsQuery, "scope": "read"}
        page = self._pages.page
        return [
            page(console, REQUESTS, self.list, **row),
            page(console, f"{REQUESTS}/export", self.export, **row),
            page(console, f"{REQUESTS}/live", self.live, query=NewerQuery, scope="read"),
            page(console, f"{REQUESTS}/{{request_id}}", self.show, scope="read"),
        ]

    async def list(self, asked: Asked[RequestsQuery, Form]) -> Shown:
        shown_at = self._now_ms()
        found = await self._page(asked, asked.query.model_copy(update={"format": "json"}))
        filters = pairs_in(asked, _NAMED_IN_QUERY)
        typed = dict(filters)
        above = found.data[0].id if found.data else ""
        values = {
            **await self._news(asked, filters, shown_at, above),
            "is_first": asked.query.cursor is None,
            "requests": found.data,
            "older": older(found.next_cursor, filters),
            "since": _field_of(asked.query.since),
            "until": _field_of(asked.query.until),
            "typed": {name: typed.get(name, "") for name in _NAMED_IN_QUERY},
            "models": asked.query.model,
            "chosen_keys": asked.query.key,
            "query": urlencode(filters),
            "keys": await self._keys.names(asked),
        }
        return Shown("requests.html", values, part="table")

    async def show(self, asked: AskedPage) -> Shown:
        request = await self._requests.get(asking(asked, Nothing()))
        advice = next((row.advice for code, row in TABLE.items() if code == request.error_code), None)
        return Shown("request.html", told_of(asked) | {"request": request, "advice": advice})

    async def live(self, asked: Asked[NewerQuery, Form]) -> Shown:
        """What has come since a list was shown: requests that began behind its first, or ended after."""
        query = asked.query
        found = await self._page(asked, query.model_copy(update={"format": "json", "limit": _MOST_NEW}))
        count = sum(one.id > query.above or _ended_ms(one) > query.at for one in found.data)
        filters = pairs_in(asked, _NAMED_IN_QUERY)
        return Shown("requests_newer.html", await self._news(asked, filters, query.at, query.above, count))

    async def export(self, asked: Asked[RequestsQuery, Form]) -> Streamed:
        if asked.query.format not in ("csv", "jsonl"):
            raise GatewayError("invalid_value", "`format` is csv or jsonl.", param="format")
        told = await self._requests.list(asking(asked, Nothing(), asked.query))
        assert isinstance(told, Streamed)
        return told

    async def _news(
        self, asked: AskedPage, filters: Sequence[tuple[str, str]], at_ms: int, above: str, count: int = 0
    ) -> dict[str, Any]:
        """How many have come, how many run of the reader's account, and where to ask for that again."""
        running = None
        if asked.of_account is None:
            limits = await self._limits.get(asking(asked, Nothing(), AnyQuery()))
            assert limits.account is not None
            running = limits.account.in_flight.running
        return {
            **told_of(asked),
            "count": count,
            "most": _MOST_NEW,
            "running": running,
            "here": urlencode(filters),
            "again": urlencode([*filters, ("at", str(at_ms)), ("above", above)]),
        }

    async def _page(self, asked: AskedPage, query: RequestsQuery) -> RequestPage:
        told = await self._requests.list(asking(asked, Nothing(), query))
        assert isinstance(told, RequestPage)
        return told


def _ended_ms(request: RequestObject) -> int:
    began = datetime.fromisoformat(request.time)
    return (began - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1) + request.latency_ms


def _field_of(moment_ms: int | None) -> str:
    return "" if moment_ms is None else minute(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=moment_ms))
