"""Messages to vLLM, which makes a chat of each at an endpoint of its own: bodies are sifted, renamed and bounded."""

from mcp_gateway.core.dialects.cache_salt import cache_salt
from mcp_gateway.core.dialects.dialect import Counting
from mcp_gateway.core.dialects.message_fields import MessageFields
from mcp_gateway.core.dialects.vllm_bodies import counting_with
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.record import EndedBy
from mcp_gateway.core.surfaces import message_answer
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.message_events import MessageRelay
from mcp_gateway.core.surfaces.surface import Ask, Body, Collecting, Terms, Whole
from mcp_gateway.core.surfaces.usage import Usage

_COUNTED = ("messages", "system", "tools", "tool_choice", "chat_template_kwargs")
"""Fields that the prompt is made of."""


class MessagesToVllm:
    """What a message becomes for vLLM, and its answers for the client."""

    path = "/v1/messages"
    tells_running_usage = True

    def __init__(self, fields: MessageFields) -> None:
        self.sift = fields.sift

    def body(self, ask: Ask, terms: Terms, backend_model: str, account_id: str, *, is_stream: bool) -> bytes:
        """What was sifted of the caller's own, renamed. vLLM up to 0.33 has no use for the salt yet."""
        limit = terms.ceiling if terms.output_limit is None else terms.output_limit
        bounds = {"max_tokens": limit, "cache_salt": cache_salt(account_id)}
        return dump_json(ask.body | {"model": backend_model, "stream": is_stream} | bounds)

    def counting(self, ask: Ask, backend_model: str) -> Counting:
        return counting_with(ask.body, _COUNTED, backend_model, f"{self.path}/count_tokens")

    def can_collect(self, _ask: Ask) -> bool:
        return False

    def can_be_cut(self, _ask: Ask) -> bool:
        return False

    def cut(self, first_frame: bytes, usage: Usage | None, ended_by: EndedBy) -> bytes:
        raise NotImplementedError  # see `can_be_cut`

    def reader(self, _ask: Ask, public_model: str, bounds: UsageBounds) -> MessageRelay:
        return MessageRelay(public_model, bounds)

    def collecting(self, ask: Ask, public_model: str, max_bytes: int) -> Collecting:
        raise NotImplementedError  # see `can_collect`

    async def read(self, body: Body, ask: Ask) -> Whole:
        return message_answer.read_message(body, ask.model)

    async def with_usage(self, body: Body, usage: Usage) -> Body:
        return message_answer.with_usage(body, usage)

    async def text_bytes(self, body: Body) -> int:
        return message_answer.text_bytes(body)
