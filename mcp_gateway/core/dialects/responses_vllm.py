"""Responses to vLLM, which has them as OpenAI does: bodies are sifted and bounded, and nothing is stored anywhere."""

from typing import Any

import orjson

from mcp_gateway.core.dialects.cache_salt import cache_salt
from mcp_gateway.core.dialects.dialect import Counting
from mcp_gateway.core.dialects.responses_fields import ResponsesFields
from mcp_gateway.core.dialects.vllm_bodies import TOKENIZE_PATH, bound
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import dump_json, parse_in_turns
from mcp_gateway.core.record import EndedBy
from mcp_gateway.core.surfaces.credible import UsageBounds, failed_amid, not_understood
from mcp_gateway.core.surfaces.error_shapes import error_in
from mcp_gateway.core.surfaces.response_object import (
    checked,
    failure_of_response,
    finish_reason_of,
    in_our_form,
    response_id,
    text_bytes_of,
    told_usage,
    usage_of,
)
from mcp_gateway.core.surfaces.responses import ResponsesAsk
from mcp_gateway.core.surfaces.responses_as_chat import functions_of, messages_of
from mcp_gateway.core.surfaces.responses_stream import ResponsesCollecting, ResponsesReader
from mcp_gateway.core.surfaces.surface import Ask, Body, Terms, Whole
from mcp_gateway.core.surfaces.usage import Usage

_CAPS = ("max_output_tokens",)


class ResponsesToVllm:
    """What a Responses request becomes for vLLM, and its answers for the client."""

    path = "/v1/responses"
    tells_running_usage = False

    def __init__(self, fields: ResponsesFields) -> None:
        self.sift = fields.sift

    def body(self, ask: Ask, terms: Terms, backend_model: str, account_id: str, *, is_stream: bool) -> bytes:
        """What was sifted of the caller's own, renamed. `request_id` is what the answer is called by."""
        body: dict[str, Any] = ask.body | {
            "model": backend_model,
            "store": False,
            "request_id": response_id(ask.request_id),
            "cache_salt": cache_salt(account_id),
        }
        bound(body, terms, _CAPS, preferred="max_output_tokens")
        if is_stream:
            body["stream"] = True
        return dump_json(body)

    def counting(self, ask: Ask, backend_model: str) -> Counting:
        """The conversation as a chat: /tokenize knows no other."""
        chat: dict[str, Any] = {"model": backend_model, "messages": messages_of(ask.body)}
        if tools := functions_of(ask.body):
            chat["tools"] = tools
        return Counting(TOKENIZE_PATH, dump_json(chat))

    def can_collect(self, ask: Ask) -> bool:
        return True

    def can_be_cut(self, _ask: Ask) -> bool:
        return False

    def cut(self, first_frame: bytes, usage: Usage | None, ended_by: EndedBy) -> bytes:
        raise NotImplementedError  # see `can_be_cut`

    def reader(self, ask: Ask, public_model: str, bounds: UsageBounds) -> ResponsesReader:
        assert isinstance(ask, ResponsesAsk)
        return ResponsesReader(ask, public_model)

    def collecting(self, ask: Ask, public_model: str, max_bytes: int) -> ResponsesCollecting:
        assert isinstance(ask, ResponsesAsk)
        return ResponsesCollecting(ask, public_model)

    async def read(self, body: Body, ask: Ask) -> Whole:
        response = await _parsed(body)
        if failure_of_response(response) is not None:
            raise failed_amid()
        usage = usage_of(response)
        told = None if usage is None else told_usage(response, usage)
        written = dump_json(in_our_form(response, ask.model) | {"usage": told})
        return Whole(written, finish_reason_of(response), usage, is_usage_exact=usage is not None)

    async def with_usage(self, body: Body, usage: Usage) -> Body:
        response = await _parsed(body)
        return dump_json(response | {"usage": told_usage(response, usage)})

    async def text_bytes(self, body: Body) -> int:
        return text_bytes_of(await _parsed(body))


async def _parsed(body: Body) -> dict[str, Any]:
    """Raises GatewayError `backend_error`."""
    try:
        response = await parse_in_turns(body)
    except (orjson.JSONDecodeError, GatewayError):
        raise not_understood() from None
    if isinstance(response, dict) and "output" not in response and error_in(response) is not None:
        raise failed_amid()
    return checked(response)
