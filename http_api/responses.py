"""POST /responses at the door: what OpenAPI says of it, and how refusals are told to those who ask."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from http_api.operations import Count
from http_api.rendering import ErrorBody, Shape
from http_api.routing import RequestedRouting
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.surfaces.responses import in_openais_words, is_final

_ORIGINATOR, _CODEX = b"originator", b"codex"


class ResponsesBody(BaseModel):
    """What the gateway reads of a request, whose images are data: URIs or, where they are fetched, https addresses;
    what else there may be is told in docs/clients.md.
    """

    model_config = ConfigDict(extra="allow")

    model: str
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: Count | None = None
    tools: list[dict[str, Any]] | None = None
    routing: RequestedRouting | None = None


class ResponsesAnswer(BaseModel):
    """The backend's own, with the model under its public name; nothing is stored."""

    model_config = ConfigDict(extra="allow")

    id: str
    model: str
    status: str
    store: bool
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None


def _error(error: GatewayError, _context: RequestContext) -> dict[str, Any]:
    return {"error": in_openais_words(error)}


RESPONSES_SHAPE = Shape(_error, ErrorBody)


def is_told_in_stream(error: GatewayError, context: RequestContext) -> bool:
    """Codex tries a 402 six times, and the end of a stream that says the same once."""
    return is_final(error) and context.sent.get(_ORIGINATOR, b"").lower().startswith(_CODEX)
