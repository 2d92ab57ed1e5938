"""Chat completions to providers, which have them as OpenAI does, each with differences that its row names."""

from typing import Any

import orjson

from mcp_gateway.core.blame import AnswerTooLarge
from mcp_gateway.core.dialects.chat_openai_chunks import CallNumbers, ChunkNormalizer, finish_told, message_told
from mcp_gateway.core.dialects.chat_openai_fields import ProviderFields
from mcp_gateway.core.dialects.dialect import Counting
from mcp_gateway.core.dialects.openai_refusals import error_object
from mcp_gateway.core.dialects.openai_usage import usages_in
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import dump_json, parse_json
from mcp_gateway.core.provider_settings import Preset
from mcp_gateway.core.record import EndedBy
from mcp_gateway.core.surfaces import whole_answer
from mcp_gateway.core.surfaces.chat import OUTPUT_CAPS
from mcp_gateway.core.surfaces.collector import Collector
from mcp_gateway.core.surfaces.credible import UsageBounds, failed_amid, not_understood
from mcp_gateway.core.surfaces.splice import FrameRelay
from mcp_gateway.core.surfaces.surface import Ask, Body, Terms, Whole
from mcp_gateway.core.surfaces.usage import Usage, read_usage

_MOST_PARSED_BYTES = 4 * 1024 * 1024
"""Of an answer in one piece: it is parsed at once, while nobody else is served."""


class ProviderRelay(FrameRelay):
    """Reads a provider's stream for a client."""

    def __init__(self, chunks: ChunkNormalizer, ask: Ask, public_model: str, bounds: UsageBounds) -> None:
        super().__init__(public_model, wants_usage=ask.usage_wishes.at_end, choices=ask.choices, bounds=bounds)
        self._chunks = chunks

    def feed(self, piece: bytes) -> bytes:
        return super().feed(self._chunks.feed(piece))

    def feed_end(self) -> bytes:
        return super().feed(self._chunks.end()) + super().feed_end()

    @property
    def held_bytes(self) -> int:
        return self._chunks.held_bytes

    @property
    def tells_usage(self) -> bool:
        """Its prompt is never counted afterwards: providers do not count."""
        return True


class ChatToOpenAi:
    """What a chat becomes for a provider, and its answers for the client."""

    tells_running_usage = False
    with_usage = staticmethod(whole_answer.with_usage)
    text_bytes = staticmethod(whole_answer.text_bytes)

    def __init__(self, row: Preset, reasoning_names: tuple[str, ...] = ()) -> None:
        fields = ProviderFields(row)
        self.path = row.chat_path
        self.sift = fields.sift
        self._written = fields.written
        self.asks_for_usage = row.stream_usage == "ask"
        """Of a stream, which may be refused."""
        self._row = row
        self._reasoning_names = reasoning_names

    def body(self, ask: Ask, terms: Terms, backend_model: str, account_id: str, *, is_stream: bool) -> bytes:
        body = {name: value for name, value in ask.body.items() if name not in (*OUTPUT_CAPS, "stream_options")}
        body["model"] = backend_model
        if terms.output_limit is not None:
            body[self._row.output_limit] = terms.output_limit
        if is_stream:
            body["stream"] = True
            if self.asks_for_usage:
                body["stream_options"] = {"include_usage": True}
        return dump_json(self._written(body))

    def adapts_to(self, refusal: GatewayError) -> bool:
        """A server that refuses to be asked for the usage of a stream is asked no more."""
        is_meant = "stream_options" in refusal.message or refusal.param == "stream_options"
        is_new = is_meant and self.asks_for_usage
        if is_new:
            self.asks_for_usage = False
        return is_new

    def counting(self, ask: Ask, backend_model: str) -> Counting | None:
        return None

    def can_collect(self, ask: Ask) -> bool:
        """Its usage comes last, so that a stream tells no more of who leaves."""
        return False

    def can_be_cut(self, ask: Ask) -> bool:
        return False

    def cut(self, first_frame: bytes, usage: Usage | None, ended_by: EndedBy) -> bytes:
        raise NotImplementedError  # none can be

    def reader(self, ask: Ask, public_model: str, bounds: UsageBounds) -> ProviderRelay:
        chunks = ChunkNormalizer(f"chatcmpl-{ask.request_id}", public_model, self._reasoning_names)
        return ProviderRelay(chunks, ask, public_model, bounds)

    def collecting(self, ask: Ask, public_model: str, max_bytes: int) -> Collector:
        raise NotImplementedError  # none is

    async def read(self, body: Body, ask: Ask) -> Whole:
        if len(body) > _MOST_PARSED_BYTES:
            raise AnswerTooLarge
        try:
            told = parse_json(body)
        except (orjson.JSONDecodeError, GatewayError):  # its nesting
            raise not_understood() from None
        if error_object(told) is not None:
            raise failed_amid()
        try:
            choices = [self._choice(choice, number) for number, choice in enumerate(told["choices"])]
        except (LookupError, TypeError, AttributeError):
            raise not_understood() from None
        if any(choice["finish_reason"] == "error" for choice in choices):
            raise failed_amid()
        return self._whole(told, choices, ask)

    def _whole(self, told: dict[str, Any], choices: list[dict[str, Any]], ask: Ask) -> Whole:
        if not choices:
            raise not_understood()
        usage = next(reversed([*usages_in(told)]), None)
        if usage is not None and not usage["completion_tokens"] and any(map(_has_text, choices)):
            usage = None
        created = told.get("created")
        answer = {
            "id": f"chatcmpl-{ask.request_id}",
            "object": "chat.completion",
            "created": created if isinstance(created, int) else 0,
            "model": ask.model,
            "choices": choices,
        }
        body = orjson.dumps(answer | ({"usage": usage} if usage is not None else {}))
        return Whole(body, choices[0]["finish_reason"], read_usage(usage), is_usage_exact=usage is not None)

    def _choice(self, choice: dict[str, Any], number: int) -> dict[str, Any]:
        """Raises LookupError, TypeError or AttributeError for what is none."""
        message = {"role": "assistant", "content": None, **message_told(choice["message"], self._reasoning_names)}
        calls = CallNumbers().numbered(message.pop("tool_calls", None))
        if calls:
            message["tool_calls"] = [{name: value for name, value in call.items() if name != "index"} for call in calls]
        reason = finish_told(choice.get("finish_reason") or None, has_calls=bool(calls))
        if reason is None:
            raise LookupError
        logprobs = choice.get("logprobs")
        index = choice.get("index", number)
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def _has_text(choice: dict[str, Any]) -> bool:
    return any(choice["message"].get(name) for name in ("content", "tool_calls", "reasoning", "reasoning_content"))
