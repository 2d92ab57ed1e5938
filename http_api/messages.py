"""POST /messages/count_tokens, and what OpenAPI says of it and of POST /messages."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

from http_api.bodies import read_bytes
from http_api.inference import InferenceQuery
from http_api.operations import AnswerHeader, Count
from http_api.query import read_query
from http_api.rendering import send_json
from http_api.routing import RequestedRouting
from mcp_gateway.core.context import CLIENT, CONTEXT
from mcp_gateway.core.dialects.message_fields import BETAS
from mcp_gateway.core.inference.exchange import Inference
from mcp_gateway.core.json_bounds import JsonBounds
from mcp_gateway.core.json_fields import parse_json_object
from mcp_gateway.core.surfaces.messages import COUNTED_MESSAGES
from mcp_gateway.core.surfaces.routed import read_ask
from mcp_gateway.wire.bodies import BodyLimits

_BETA_HEADER = b"anthropic-beta"
ESTIMATED = AnswerHeader(
    "X-Tokens-Estimated", "string", "`true` where nobody who serves the model counts: the number is about."
)
_ABOUT = (ESTIMATED.name.lower().encode(), b"true")


class CountedRequestBody(BaseModel):
    """What a prompt is made of, whose images are data: URIs or, where they are fetched, https addresses;
    what else there may be is told in docs/clients.md.
    """

    model_config = ConfigDict(extra="allow")

    model: str
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    routing: RequestedRouting | None = None


class MessageRequestBody(CountedRequestBody):
    """What the gateway reads of a message."""

    max_tokens: Count
    stream: bool | None = None


class MessageAnswer(BaseModel):
    """The backend's own, with the model under its public name, as Anthropic writes it."""

    model_config = ConfigDict(extra="allow")

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str
    stop_sequence: str | None
    usage: dict[str, Any]


class TokenCount(BaseModel):
    """How many tokens the prompt has, by the model's own count, or about."""

    input_tokens: int


class TokenCounts:
    """An ASGI endpoint, since a prompt may be as long as for an answer."""

    def __init__(self, inference: Inference, *, body_limits: BodyLimits, json_bounds: JsonBounds) -> None:
        self._inference = inference
        self._body_limits = body_limits
        self._json_bounds = json_bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = scope[CONTEXT].caller
        raw = await read_bytes(scope, receive, self._body_limits.of(caller))
        scope[CLIENT].is_cancelled_on_departure = True
        await self._json_bounds.check(raw, caller)
        ask = read_ask(COUNTED_MESSAGES, parse_json_object(raw) | betas_in(scope), len(raw))
        provider = read_query(scope, InferenceQuery).provider if scope["query_string"] else None
        count = await self._inference.count(caller, ask, provider)
        headers = [_ABOUT] if count.is_estimated else None
        await send_json(send, {"input_tokens": count.tokens}, headers=headers)


def betas_in(scope: Scope) -> dict[str, list[str]]:
    """The features of Anthropic's API that a request's headers ask for, as a field of its body."""
    if _BETA_HEADER not in scope[CONTEXT].sent:
        return {}
    lines = [value.decode("latin-1") for name, value in scope["headers"] if name == _BETA_HEADER]
    return {BETAS: [name.strip() for line in lines for name in line.split(",") if name.strip()]}
