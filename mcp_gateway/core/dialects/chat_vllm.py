"""Chat completions to vLLM, which has them as OpenAI does: bodies are sifted, renamed and bounded, frames spliced."""

from mcp_gateway.core.dialects.dialect import Counting
from mcp_gateway.core.dialects.vllm_bodies import counting_with, generating
from mcp_gateway.core.dialects.vllm_cuts import cut_frames
from mcp_gateway.core.dialects.vllm_fields import ChatFields
from mcp_gateway.core.record import EndedBy
from mcp_gateway.core.surfaces import whole_answer
from mcp_gateway.core.surfaces.chat import OUTPUT_CAPS
from mcp_gateway.core.surfaces.collected import can_carry
from mcp_gateway.core.surfaces.collector import Collector
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.splice import FrameRelay
from mcp_gateway.core.surfaces.surface import Ask, Terms
from mcp_gateway.core.surfaces.usage import Usage

_COUNTED = ("messages", "tools", "chat_template_kwargs")
"""Fields that the prompt is made of."""


class ChatToVllm:
    """What a chat becomes for vLLM, and its answers for the client."""

    path = "/v1/chat/completions"
    tells_running_usage = True
    read = staticmethod(whole_answer.read_answer)
    with_usage = staticmethod(whole_answer.with_usage)
    text_bytes = staticmethod(whole_answer.text_bytes)

    def __init__(self, fields: ChatFields) -> None:
        self.sift = fields.sift

    def body(self, ask: Ask, terms: Terms, backend_model: str, account_id: str, *, is_stream: bool) -> bytes:
        return generating(ask, terms, backend_model, account_id, OUTPUT_CAPS, is_stream=is_stream)

    def counting(self, ask: Ask, backend_model: str) -> Counting:
        return counting_with(ask.body, _COUNTED, backend_model)

    def can_collect(self, ask: Ask) -> bool:
        return can_carry(ask.body)

    def can_be_cut(self, ask: Ask) -> bool:
        """Of a call that is forced, nothing is streamed before its end."""
        return ask.choices == 1 and can_carry(ask.body)

    def cut(self, first_frame: bytes, usage: Usage | None, ended_by: EndedBy) -> bytes:
        return cut_frames(first_frame, usage, ended_by, {"delta": {}, "logprobs": None})

    def reader(self, ask: Ask, public_model: str, bounds: UsageBounds) -> FrameRelay:
        return FrameRelay(
            public_model,
            wants_usage=ask.usage_wishes.at_end,
            wants_continuous_usage=ask.usage_wishes.in_each,
            choices=ask.choices,
            bounds=bounds,
        )

    def collecting(self, ask: Ask, public_model: str, max_bytes: int) -> Collector:
        return Collector(public_model, choices=ask.choices, max_bytes=max_bytes)
