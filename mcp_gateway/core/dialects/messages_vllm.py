"""Messages to vLLM, which makes a chat of each at an endpoint of its own: bodies are sifted, renamed and bounded."""

from mcp_gateway.core.dialects.cache_salt import cache_salt
from mcp_gateway.core.dialects.dialect import Counting
from mcp_gateway.core.dialects.message_fields import MessageFields
from mcp_gateway.core.dialects.one_piece import OnePiece
from mcp_gateway.core.dialects.vllm_bodies import counting_with
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.surfaces import message_answer
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.message_events import MessageRelay
from mcp_gateway.core.surfaces.surface import Ask, Body, Terms, Whole

_COUNTED = ("messages", "system", "tools", "tool_choice", "chat_template_kwargs")
"""Fields that the prompt is made of."""


class MessagesToVllm(OnePiece):
    """What a message becomes for vLLM, and its answers for the client."""

    path = "/v1/messages"
    tells_running_usage = True
    with_usage = staticmethod(message_answer.with_usage)
    text_bytes = staticmethod(message_answer.text_bytes)

    def __init__(self, fields: MessageFields) -> None:
        self.sift = fields.sift

    def body(self, ask: Ask, terms: Terms, backend_model: str, account_id: str, *, is_stream: bool) -> bytes:
        """What was sifted of the caller's own, renamed. vLLM up to 0.33 has no use for the salt yet."""
        bounds = {"max_tokens": terms.needed_limit, "cache_salt": cache_salt(account_id)}
        return dump_json(ask.body | {"model": backend_model, "stream": is_stream} | bounds)

    def counting(self, ask: Ask, backend_model: str) -> Counting:
        return counting_with(ask.body, _COUNTED, backend_model, f"{self.path}/count_tokens")

    def reader(self, ask: Ask, public_model: str, bounds: UsageBounds) -> MessageRelay:
        return MessageRelay(public_model, bounds)

    async def read(self, body: Body, ask: Ask) -> Whole:
        return message_answer.read_message(body, ask.model)
