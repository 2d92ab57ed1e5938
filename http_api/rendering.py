"""How answers and errors are written as HTTP: one JSON writer, one error shape, one way to set the headers."""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict
from starlette.types import Scope, Send

from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.limits.limiter import Standing
from mcp_gateway.wire.whole_answers import JSON_TYPE, Headers, retry_after, send_bytes

HTML = "text/html; charset=utf-8"
Wording = Callable[[GatewayError, RequestContext], dict[str, Any]]
"""The body of a refusal."""
Stamps = Callable[[RequestContext, Standing | None], Headers]
"""Headers of an answer, whatever it says, by what is left of its caller's limits."""
RefusalPage = Callable[[Scope, Send, GatewayError], Awaitable[bool]]
"""Sends a refusal to a person; False where it was a program that asked, which is told in the API's words."""


class Shape(NamedTuple):
    """How some API words its refusals (`body` is what OpenAPI says of it), and headers that its clients look for.

    Where people look at answers, a `page` tells them instead.
    """

    wording: Wording
    body: type[BaseModel]
    stamps: Stamps | None = None
    page: RefusalPage | None = None


def asks_for_page(sent: Mapping[bytes, bytes]) -> bool:
    """Whether a browser asks, which says that it would rather have HTML; programs take JSON or anything."""
    weights = dict(map(_weighed, sent.get(b"accept", b"").lower().split(b",")))
    return weights.get(b"text/html", 0.0) > weights.get(b"application/json", 0.0)


def _weighed(kind: bytes) -> tuple[bytes, float]:
    """A media type that is accepted, and how gladly."""
    name, *parameters = (part.strip() for part in kind.split(b";"))
    told = next((part[2:] for part in parameters if part.startswith(b"q=")), b"1")
    try:
        return name, float(told)
    except ValueError:
        return name, 0.0


async def send_json(send: Send, value: Any, status: int = 200, headers: Headers | None = None) -> None:
    await send_bytes(send, orjson.dumps(value), [JSON_TYPE, *(headers or ())], status)


def _openai_error(error: GatewayError, _context: RequestContext) -> dict[str, Any]:
    return {"error": error.as_object()}


class ErrorObject(BaseModel):
    """What is wrong, and what to change; some codes tell more beside it."""

    model_config = ConfigDict(extra="allow")

    message: str
    type: str
    code: Code
    param: str | None


class ErrorBody(BaseModel):
    """A refusal."""

    error: ErrorObject


OPENAI_SHAPE = Shape(_openai_error, ErrorBody)


async def send_error(send: Send, error: GatewayError, body: dict[str, Any], challenge: Headers) -> None:
    """A refusal, with the headers that OpenAI's SDKs and other clients obey."""
    await send_json(send, body, error.status, [*challenge, *error_headers(error)])


def error_headers(error: GatewayError) -> Headers:
    headers: Headers = []
    if error.status in (409, 429, 503):
        headers += retry_after(error.retry_after_s)
    if error.status == HTTPStatus.PAYMENT_REQUIRED or error.code == "requests_per_day":
        headers.append((b"x-should-retry", b"false"))  # what no second try within seconds changes
    if "allow" in error.details:
        headers.append((b"allow", error.details["allow"].encode()))
    return headers
