"""Completions to providers, which have them as OpenAI does, each with differences that its row names."""

from typing import Any

from mcp_gateway.core.dialects.flat_openai_fields import COMPLETION_FIELDS, ProviderFlatFields
from mcp_gateway.core.dialects.one_piece import OnePiece
from mcp_gateway.core.dialects.openai_answer import AnswerForm, read_answer
from mcp_gateway.core.dialects.openai_chunks import (
    ChunkForm,
    ChunkNormalizer,
    ProviderRelay,
    TextChoice,
    finish_told,
    stop_named,
    stop_told,
)
from mcp_gateway.core.dialects.stream_usage import StreamUsage
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.provider_settings import Preset
from mcp_gateway.core.surfaces import whole_answer
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.surface import Ask, Body, Terms, Whole

_CHUNKS = ChunkForm("text_completion", TextChoice)


class CompletionsToOpenAi(OnePiece):
    """What a completion becomes for a provider, and its answers for the client."""

    with_usage = staticmethod(whole_answer.with_usage)

    def __init__(self, row: Preset) -> None:
        fields = ProviderFlatFields(COMPLETION_FIELDS, "prompt", row.completions)
        self.path = row.completions_path
        self.sift = fields.sift
        self._written = fields.written
        self._stream_usage = StreamUsage(row)
        self.adapts_to = self._stream_usage.adapts_to
        self._answer = AnswerForm("cmpl", "text_completion", _choice, _has_text)

    def body(self, ask: Ask, terms: Terms, backend_model: str, account_id: str, *, is_stream: bool) -> bytes:
        body = {name: value for name, value in ask.body.items() if name != "stream_options"}
        body["model"] = backend_model
        if terms.output_limit is not None:
            body["max_tokens"] = terms.output_limit
        if is_stream:
            body |= self._stream_usage.asked()
        return dump_json(self._written(body))

    def reader(self, ask: Ask, public_model: str, bounds: UsageBounds) -> ProviderRelay:
        chunks = ChunkNormalizer(f"cmpl-{ask.request_id}", public_model, _CHUNKS)
        return ProviderRelay(chunks, ask, choices=ask.answer_size.choices, bounds=bounds)

    async def read(self, body: Body, ask: Ask) -> Whole:
        return read_answer(body, ask, self._answer)

    async def text_bytes(self, body: Body) -> int:
        return await whole_answer.text_bytes(body, "text")


def _choice(choice: dict[str, Any], number: int) -> dict[str, Any]:
    text, reason = choice["text"], finish_told(choice.get("finish_reason") or None, has_calls=False)
    if not isinstance(text, str) or reason is None:
        raise TypeError
    index, logprobs = choice.get("index", number), choice.get("logprobs")
    told = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
    return told | stop_named(stop_told(choice))


def _has_text(choice: dict[str, Any]) -> bool:
    return bool(choice["text"])
