"""Responses to vLLM, which has them as OpenAI does: bodies are sifted and bounded, and nothing is stored anywhere."""

from typing import Any

from mcp_gateway.core.dialects.cache_salt import cache_salt
from mcp_gateway.core.dialects.dialect import Counting
from mcp_gateway.core.dialects.responses_fields import ResponsesFields
from mcp_gateway.core.dialects.vllm_bodies import TOKENIZE_PATH, bound
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.record import EndedBy
from mcp_gateway.core.surfaces import response_answer
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.response_object import in_our_form, response_id
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
    with_usage = staticmethod(response_answer.with_usage)
    text_bytes = staticmethod(response_answer.text_bytes)

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
        return await response_answer.read_response(body, lambda response: in_our_form(response, ask.model))
