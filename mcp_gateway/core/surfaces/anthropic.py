"""How Anthropic's API words events and errors. Source: its error types, and what its SDKs make of statuses."""

from typing import Any

import orjson

from mcp_gateway.core.errors import GatewayError

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_CLIENT_FAULT, _SERVER_FAULT = "invalid_request_error", "api_error"
_FIRST_SERVER_FAULT = 500
_FULL = "backend_busy"


def error_body(error: GatewayError, request_id: str) -> dict[str, Any]:
    """The body of a refusal, and the data of an event that ends a stream by a failure."""
    return {"type": "error", "error": {"type": _type_of(error), "message": error.message}, "request_id": request_id}


def event(kind: str, data: bytes) -> bytes:
    """An event of a stream: its SDKs tell events apart by the name."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def event_of(data: dict[str, Any]) -> bytes:
    """The same of data that is not written yet, whose `type` is the name."""
    return event(data["type"], orjson.dumps(data))


def _type_of(error: GatewayError) -> str:
    if error.code == _FULL:
        return _TYPES[503]
    return _TYPES.get(error.status, _SERVER_FAULT if error.status >= _FIRST_SERVER_FAULT else _CLIENT_FAULT)
