"""Requests: what is kept of each that has ended, never what was asked or answered."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from http_api.console.addresses import filters_in, older
from http_api.console.forms import Form
from http_api.console.pages.keys import names_of_keys
from http_api.console.serving import AskedPage, Console, Shown, asking
from http_api.console.view import minute
from http_api.keys import Keys
from http_api.operations import AnyOperation, Asked, Nothing, Streamed
from http_api.requests import RequestPage, Requests, RequestsQuery
from mcp_gateway.core.errors import GatewayError

REQUESTS_PATH = "/console/requests"
_NAMED_IN_QUERY = ("model", "key", "status", "error_code", "surface", "tag", "user", "since", "until")


class RequestPages:
    def __init__(self, requests: Requests, keys: Keys) -> None:
        self._requests = requests
        self._keys = keys

    def rows(self, console: Console) -> list[AnyOperation]:
        row: dict[str, Any] = {"query": RequestsQuery, "scope": "read"}
        return [
            console.page(REQUESTS_PATH, self.list, **row),
            console.page(f"{REQUESTS_PATH}/export", self.export, **row),
            console.page(f"{REQUESTS_PATH}/{{request_id}}", self.show, scope="read"),
        ]

    async def list(self, asked: Asked[RequestsQuery, Form]) -> Shown:
        found = await self._page(asked)
        typed = filters_in(asked, _NAMED_IN_QUERY)
        keys = await names_of_keys(self._keys, asked)
        values = {
            "requests": found.data,
            "older": older(found.next_cursor, typed),
            "since": _field_of(asked.query.since),
            "until": _field_of(asked.query.until),
            "typed": {name: typed.get(name, "") for name in _NAMED_IN_QUERY},
            "query": urlencode(typed),
            "keys": keys,
        }
        return Shown("requests.html", values, part="table")

    async def show(self, asked: AskedPage) -> Shown:
        request = await self._requests.get(asking(asked, Nothing()))
        return Shown("request.html", {"request": request})

    async def export(self, asked: Asked[RequestsQuery, Form]) -> Streamed:
        if asked.query.format not in ("csv", "jsonl"):
            raise GatewayError("invalid_value", "`format` is csv or jsonl.", param="format")
        told = await self._requests.list(asking(asked, Nothing(), asked.query))
        assert isinstance(told, Streamed)
        return told

    async def _page(self, asked: Asked[RequestsQuery, Form]) -> RequestPage:
        told = await self._requests.list(asking(asked, Nothing(), asked.query.model_copy(update={"format": "json"})))
        assert isinstance(told, RequestPage)
        return told


def _field_of(moment_ms: int | None) -> str:
    return "" if moment_ms is None else minute(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=moment_ms))
