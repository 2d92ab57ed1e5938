"""How Anthropic's API words a refusal over HTTP, and the headers that its clients look for."""

from typing import Any, Literal

from pydantic import BaseModel, RootModel

from http_api.moments import rfc_3339
from http_api.rendering import OPENAI_SHAPE, ErrorBody, Shape
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.limits.limiter import Standing
from mcp_gateway.core.surfaces.anthropic import error_body
from mcp_gateway.wire.whole_answers import Headers

VERSION = b"anthropic-version"
"""The header that every client of that API sends."""


class AnthropicErrorObject(BaseModel):
    """What is wrong, and what to change."""

    type: str
    message: str


class AnthropicErrorBody(BaseModel):
    """A refusal in the words of Anthropic's API."""

    type: Literal["error"]
    error: AnthropicErrorObject
    request_id: str


def _error(error: GatewayError, context: RequestContext) -> dict[str, Any]:
    return error_body(error, context.request_id)


def _stamps(context: RequestContext, standing: Standing | None) -> Headers:
    """The request's id has another name than ours there, and limits end at a time of day."""
    stamps = [(b"request-id", context.request_id.encode())]
    if standing is not None:
        stamps += _limit("requests", *standing.requests)
        stamps += _limit("tokens", standing.tokens_limit, standing.tokens_remaining, standing.minute_ends_at_s)
    return stamps


def _limit(of: str, limit: int | None, remaining: int | None, resets_at_s: int) -> Headers:
    if limit is None or remaining is None:
        return []
    told = {"limit": str(limit), "remaining": str(remaining), "reset": rfc_3339(resets_at_s)}
    return [(f"anthropic-ratelimit-{of}-{name}".encode(), value.encode()) for name, value in told.items()]


ANTHROPIC_SHAPE = Shape(_error, AnthropicErrorBody, _stamps)


def _error_by_client(error: GatewayError, context: RequestContext) -> dict[str, Any]:
    return (ANTHROPIC_SHAPE if VERSION in context.sent else OPENAI_SHAPE).wording(error, context)


def _stamps_by_client(context: RequestContext, standing: Standing | None) -> Headers:
    return _stamps(context, standing) if VERSION in context.sent else []


class EitherErrorBody(RootModel[ErrorBody | AnthropicErrorBody]):
    """A refusal in the words of the API whose client asks: `anthropic-version` says that it is Anthropic's."""


BY_ITS_CLIENT = Shape(_error_by_client, EitherErrorBody, _stamps_by_client)
"""For paths that both APIs have, or neither."""
