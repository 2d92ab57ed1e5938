"""Chat completions to providers, which have them as OpenAI does, each with differences that its row names."""

from functools import partial
from typing import Any

from mcp_gateway.core.dialects.chat_openai_fields import ProviderFields
from mcp_gateway.core.dialects.one_piece import OnePiece
from mcp_gateway.core.dialects.openai_answer import AnswerForm, read_answer
from mcp_gateway.core.dialects.openai_chunks import (
    ChatChoice,
    ChunkForm,
    ChunkNormalizer,
    ProviderRelay,
    finish_told,
    message_told,
    numbered_whole,
    stop_named,
    stop_told,
)
from mcp_gateway.core.dialects.stream_usage import StreamUsage
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.provider_settings import Preset
from mcp_gateway.core.surfaces import whole_answer
from mcp_gateway.core.surfaces.chat import OUTPUT_CAPS
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.surface import Ask, Body, Terms, Whole


class ChatToOpenAi(OnePiece):
    """What a chat becomes for a provider, and its answers for the client."""

    with_usage = staticmethod(whole_answer.with_usage)
    text_bytes = staticmethod(whole_answer.text_bytes)

    def __init__(self, row: Preset, reasoning_names: tuple[str, ...] = ()) -> None:
        fields = ProviderFields(row)
        self.path = row.chat_path
        self.sift = fields.sift
        self._written = fields.written
        self._stream_usage = StreamUsage(row)
        self.adapts_to = self._stream_usage.adapts_to
        self._output_limit = row.output_limit
        self._reasoning_names = reasoning_names
        self._chunks = ChunkForm("chat.completion.chunk", partial(ChatChoice, reasoning_names))
        self._answer = AnswerForm("chatcmpl", "chat.completion", self._choice, _has_text)

    def body(self, ask: Ask, terms: Terms, backend_model: str, account_id: str, *, is_stream: bool) -> bytes:
        body = {name: value for name, value in ask.body.items() if name not in (*OUTPUT_CAPS, "stream_options")}
        body["model"] = backend_model
        if terms.output_limit is not None:
            body[self._output_limit] = terms.output_limit
        if is_stream:
            body |= self._stream_usage.asked()
        return dump_json(self._written(body))

    def reader(self, ask: Ask, public_model: str, bounds: UsageBounds) -> ProviderRelay:
        chunks = ChunkNormalizer(f"chatcmpl-{ask.request_id}", public_model, self._chunks)
        return ProviderRelay(chunks, ask, choices=ask.choices, bounds=bounds)

    async def read(self, body: Body, ask: Ask) -> Whole:
        return read_answer(body, ask, self._answer)

    def _choice(self, choice: dict[str, Any], number: int) -> dict[str, Any]:
        message = {"role": "assistant", "content": None, **message_told(choice["message"], self._reasoning_names)}
        calls = numbered_whole(message.pop("tool_calls", None))
        if calls:
            message["tool_calls"] = calls
        reason = finish_told(choice.get("finish_reason") or None, has_calls=bool(calls))
        if reason is None:
            raise LookupError
        logprobs = choice.get("logprobs")
        index = choice.get("index", number)
        told = {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}
        return told | stop_named(stop_told(choice))


def _has_text(choice: dict[str, Any]) -> bool:
    return any(choice["message"].get(name) for name in ("content", "tool_calls", "reasoning", "reasoning_content"))
