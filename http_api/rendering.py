"""How answers and errors are written as HTTP: one JSON writer, one error shape, one way to set the headers."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict
from starlette.types import Send

from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.limits.limiter import Standing

JSON_TYPE = (b"content-type", b"application/json")
Headers = list[tuple[bytes, bytes]]
Wording = Callable[[GatewayError, RequestContext], dict[str, Any]]
"""The body of a refusal."""
Stamps = Callable[[RequestContext, Standing | None], Headers]
"""Headers of an answer, whatever it says, by what is left of its caller's limits."""


class Shape(NamedTuple):
    """How some API words its refusals (`body` is what OpenAPI says of it), and headers that its clients look for."""

    wording: Wording
    body: type[BaseModel]
    stamps: Stamps | None = None


async def send_bytes(send: Send, body: bytes | bytearray, headers: Headers, status: int = 200) -> None:
    """A whole answer; head and body leave together."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


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


async def send_error(send: Send, error: GatewayError, body: dict[str, Any]) -> None:
    """A refusal, with the headers that OpenAI's SDKs and other clients obey."""
    await send_json(send, body, error.status, error_headers(error))


def error_headers(error: GatewayError) -> Headers:
    headers: Headers = []
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b'Bearer realm="mcp-gateway"'))
    if error.retry_after_s is not None and error.status in (409, 429, 503):
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    if error.code == "requests_per_day":
        headers.append((b"x-should-retry", b"false"))  # OpenAI's SDKs would try again within seconds
    if "allow" in error.details:
        headers.append((b"allow", error.details["allow"].encode()))
    return headers
