"""How Anthropic's API words a refusal. Source: its error types, and the classes that its SDKs make of statuses."""

from typing import Any

from http_api.rendering import openai_error
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError

_VERSION = b"anthropic-version"
"""The header that every client of that API sends."""
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


def anthropic_error(error: GatewayError, context: RequestContext) -> dict[str, Any]:
    """Its clients look for the request's id in the body, and in a header that has another name than ours."""
    context.headers.append((b"request-id", context.request_id.encode()))
    told = {"type": _type_of(error), "message": error.message}
    return {"type": "error", "error": told, "request_id": context.request_id}


def by_its_client(error: GatewayError, context: RequestContext) -> dict[str, Any]:
    """For paths that both APIs have, or neither."""
    wording = anthropic_error if _VERSION in context.sent else openai_error
    return wording(error, context)


def _type_of(error: GatewayError) -> str:
    if error.code == _FULL:
        return _TYPES[503]
    return _TYPES.get(error.status, _SERVER_FAULT if error.status >= _FIRST_SERVER_FAULT else _CLIENT_FAULT)
