"""POST /tokenize and POST /detokenize, and what OpenAPI says of them."""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict
from starlette.types import Receive, Scope, Send

from http_api.bodies import read_bytes
from http_api.inference import ignored_parameters
from http_api.operations import Absent
from mcp_gateway.core.context import CLIENT, CONTEXT, RequestContext
from mcp_gateway.core.inference.exchange import Inference
from mcp_gateway.core.json_bounds import JsonBounds
from mcp_gateway.core.surfaces.tokens import IDS_IN, TokenQuestion
from mcp_gateway.core.token_ids import read_json_body
from mcp_gateway.wire.bodies import BodyLimits
from mcp_gateway.wire.whole_answers import JSON_TYPE, send_bytes


class TokenizeRequestBody(BaseModel):
    """What the gateway reads of a question for tokens: `prompt`, or `messages`."""

    model_config = ConfigDict(extra="allow")

    model: str
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class TokenizeAnswer(BaseModel):
    """The backend's own."""

    model_config = ConfigDict(extra="allow")

    count: int
    max_model_len: int | Absent = None
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequestBody(BaseModel):
    """What the gateway reads of a question for a text."""

    model_config = ConfigDict(extra="allow")

    model: str
    tokens: list[int]


class DetokenizeAnswer(BaseModel):
    """The backend's own."""

    model_config = ConfigDict(extra="allow")

    prompt: str


class TokenEndpoint:
    """An ASGI endpoint, since a prompt may be as long as for an answer, and the answer longer."""

    def __init__(
        self,
        read: Callable[[dict[str, Any], int], TokenQuestion],
        inference: Inference,
        *,
        body_limits: BodyLimits,
        json_bounds: JsonBounds,
    ) -> None:
        self._read = read
        self._inference = inference
        self._body_limits = body_limits
        self._json_bounds = json_bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: RequestContext = scope[CONTEXT]
        caller = context.caller
        assert caller is not None
        raw = await read_bytes(scope, receive, self._body_limits.of(caller))
        scope[CLIENT].is_cancelled_on_departure = True
        question = self._read(await read_json_body(raw, IDS_IN, self._json_bounds, caller), len(raw))
        del raw
        answer = await self._inference.answer(caller, question, context)
        await send_bytes(send, answer.body, [JSON_TYPE, *ignored_parameters(answer.ignored)])
