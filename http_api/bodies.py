"""Reading a request's body, within bounds."""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope

from mcp_gateway.core.chat import CallerLeft
from mcp_gateway.core.context import CONTEXT
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import JsonBounds
from mcp_gateway.core.request import parse_json_object
from mcp_gateway.core.text import shown

Asked = TypeVar("Asked", bound=BaseModel)


async def read_json_bytes(scope: Scope, receive: Receive, max_bytes: int, bounds: JsonBounds) -> bytes:
    """The whole body of a JSON request. Raises GatewayError (`body_too_large`, `invalid_type`) or CallerLeft."""
    raw = await _read(scope, receive, max_bytes)
    await bounds.check(raw, scope[CONTEXT].caller)
    return raw


async def _read(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    _check_head(scope[CONTEXT].sent, max_bytes)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        _check_size(len(body), max_bytes)
        return body
    pieces, size_bytes = [], 0
    while message["type"] == "http.request":
        pieces.append(message.get("body", b""))
        size_bytes += len(pieces[-1])
        _check_size(size_bytes, max_bytes)
        if not message.get("more_body"):
            return b"".join(pieces)
        message = await receive()
    raise CallerLeft


def parsed_as(raw: bytes, kind: type[Asked]) -> Asked:
    """A JSON body as a value. Raises GatewayError (400) for what is no JSON object, unknown, missing or malformed."""
    try:
        return kind.model_validate(parse_json_object(raw))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = shown(str(fault["loc"][0]))
        if fault["type"] == "extra_forbidden":
            raise GatewayError("unsupported_parameter", f"`{name}` is not known here.", param=name) from None
        if fault["type"] == "missing":
            raise GatewayError("missing_parameter", f"`{name}` is missing.", param=name) from None
        code = "invalid_value" if fault["type"] == "literal_error" else "invalid_type"
        raise GatewayError(code, f"`{name}`: {fault['msg']}.", param=name) from None


def _check_head(sent: Mapping[bytes, bytes], max_bytes: int) -> None:
    """JSON only: a browser sends other types across sites without asking first."""
    declared = sent.get(b"content-length", b"")
    if declared.isdigit():
        _check_size(int(declared), max_bytes)
    if sent.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
        raise GatewayError("invalid_type", "Send JSON, with the header Content-Type: application/json.")


def _check_size(size_bytes: int, max_bytes: int) -> None:
    if size_bytes > max_bytes:
        raise GatewayError("body_too_large", f"The request body may have at most {max_bytes} bytes.")
