"""Holds each answer that a test gets against its operation's row: no status or code that the table does not tell."""

from collections.abc import Awaitable, Callable, Sequence
from functools import cache

import httpx2
import orjson

from http_api.bodies import BodyBounds
from http_api.openapi import refusals_of
from http_api.operations import AnyOperation, Nothing
from http_api.routes import Routes
from mcp_gateway.core.json_bounds import JsonBounds

_APART = {"unknown_url", "method_not_allowed"}
"""Told where there is no operation."""


def declared_by(operations: Sequence[AnyOperation]) -> Callable[[httpx2.Response], Awaitable[None]]:
    """A hook for a client; it reads the body of a refusal."""
    routes = cache(lambda: Routes(operations, BodyBounds(0, JsonBounds(0, 0))))

    async def check(response: httpx2.Response) -> None:
        request = response.request
        row = routes().find({"path": request.url.path, "method": request.method}).operation
        if row.answer is Nothing or response.headers.get("content-type") != "application/json":
            return
        if response.is_success or response.status_code in row.statuses:
            assert response.status_code in row.statuses, (row.name, response.status_code)
        elif request.method != "HEAD":
            code = orjson.loads(await response.aread())["error"].get("code")  # which Anthropic's shape does not have
            assert code is None or code in refusals_of(row) | _APART, f"{row.name} does not tell of {code}"

    return check
