"""Completions to vLLM, which has them as OpenAI does: bodies are sifted, renamed and bounded, frames spliced."""

from mcp_gateway.core.dialects.dialect import Counting
from mcp_gateway.core.dialects.flat_fields import FlatFields
from mcp_gateway.core.dialects.vllm_bodies import counting_of, generating, joined
from mcp_gateway.core.dialects.vllm_cuts import cut_frames
from mcp_gateway.core.record import EndedBy
from mcp_gateway.core.surfaces import whole_answer
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.splice import FrameRelay
from mcp_gateway.core.surfaces.surface import Ask, Body, Terms, Whole
from mcp_gateway.core.surfaces.text_collector import TextCollector
from mcp_gateway.core.surfaces.usage import Usage

_CAPS = ("max_tokens",)


class CompletionsToVllm:
    """What a completion becomes for vLLM, and its answers for the client."""

    path = "/v1/completions"
    tells_running_usage = True
    with_usage = staticmethod(whole_answer.with_usage)

    def __init__(self, fields: FlatFields) -> None:
        self.sift = fields.sift

    def body(self, ask: Ask, terms: Terms, backend_model: str, account_id: str, *, is_stream: bool) -> bytes:
        return generating(ask, terms, backend_model, account_id, _CAPS, is_stream=is_stream)

    def counting(self, ask: Ask, backend_model: str) -> Counting | None:
        """Several texts are counted as one, which has about as many tokens; ids need no counting."""
        return counting_of(joined(ask.body.get("prompt")), backend_model)

    def can_collect(self, ask: Ask) -> bool:
        """Not the best of several choices, which are known only in the end."""
        return ask.choices == ask.answer_size.choices

    def can_be_cut(self, ask: Ask) -> bool:
        return ask.choices == 1

    def cut(self, first_frame: bytes, usage: Usage | None, ended_by: EndedBy) -> bytes:
        return cut_frames(first_frame, usage, ended_by, {"text": "", "logprobs": None})

    def reader(self, ask: Ask, public_model: str, bounds: UsageBounds) -> FrameRelay:
        return FrameRelay(
            public_model,
            wants_usage=ask.usage_wishes.at_end,
            wants_continuous_usage=ask.usage_wishes.in_each,
            choices=ask.answer_size.choices,
            prompts=ask.prompt.number,
            bounds=bounds,
        )

    def collecting(self, ask: Ask, public_model: str, max_bytes: int) -> TextCollector:
        return TextCollector(
            public_model, choices=ask.answer_size.choices, prompts=ask.prompt.number, max_bytes=max_bytes
        )

    async def read(self, body: Body, ask: Ask) -> Whole:
        return await whole_answer.read_answer(body, ask, whole_answer.reason_of_text)

    async def text_bytes(self, body: Body) -> int:
        return await whole_answer.text_bytes(body, "text")
