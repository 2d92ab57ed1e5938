"""Chat completions to vLLM, which has them as OpenAI does: bodies are sifted, renamed and bounded, frames spliced."""

from typing import Any

from mcp_gateway.core.dialects.cache_salt import cache_salt
from mcp_gateway.core.dialects.dialect import Counting
from mcp_gateway.core.dialects.vllm_fields import ChatFields
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.surfaces import answer
from mcp_gateway.core.surfaces.chat import OUTPUT_CAPS
from mcp_gateway.core.surfaces.collected import can_carry
from mcp_gateway.core.surfaces.collector import Collector
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.splice import FrameRelay
from mcp_gateway.core.surfaces.surface import Ask, Terms

TOKENIZE_PATH = "/tokenize"
_COUNTED = ("messages", "tools", "chat_template_kwargs")
"""Fields that the prompt is made of."""


class ChatToVllm:
    """What a chat becomes for vLLM, and its answers for the client."""

    path = "/v1/chat/completions"
    read = staticmethod(answer.read_answer)
    with_usage = staticmethod(answer.with_usage)
    text_bytes = staticmethod(answer.text_bytes)

    def __init__(self, fields: ChatFields) -> None:
        self.sift = fields.sift

    def body(self, ask: Ask, terms: Terms, backend_model: str, account_id: str, *, is_stream: bool) -> bytes:
        """What was sifted of the caller's own, renamed, with usage asked for in every frame of a stream."""
        body = ask.body | {"model": backend_model, "cache_salt": cache_salt(account_id)}
        _bound(body, terms)
        if is_stream:
            body["stream"] = True
            body["stream_options"] = {
                **(body.get("stream_options") or {}),
                "include_usage": True,
                "continuous_usage_stats": True,
            }
        return dump_json(body)

    def counting(self, ask: Ask, backend_model: str) -> Counting:
        kept = {name: ask.body[name] for name in _COUNTED if name in ask.body}
        return Counting(TOKENIZE_PATH, dump_json({"model": backend_model, **kept}))

    def can_collect(self, ask: Ask) -> bool:
        return can_carry(ask.body)

    def reader(self, ask: Ask, public_model: str, bounds: UsageBounds) -> FrameRelay:
        return FrameRelay(
            public_model,
            wants_usage=ask.wants_usage,
            wants_continuous_usage=ask.wants_continuous_usage,
            choices=ask.choices,
            bounds=bounds,
        )

    def collecting(self, ask: Ask, public_model: str, max_bytes: int) -> Collector:
        return Collector(public_model, choices=ask.choices, max_bytes=max_bytes)


def _bound(body: dict[str, Any], terms: Terms) -> None:
    """Lower every field that governs the answer's length to what the terms allow; without a limit none is named."""
    limit = terms.output_limit
    named = [name for name in OUTPUT_CAPS if body.get(name) is not None]
    for name in named:
        if limit is None:
            del body[name]
        elif body[name] > limit:
            body[name] = limit
    if limit is not None and not named:
        body["max_tokens"] = limit
    most = terms.ceiling if limit is None else limit
    if (least := body.get("min_tokens")) is not None and least > most:
        body["min_tokens"] = most
