"""A stream of a message as the chunks of a chat: bytes in, bytes out, each event parsed.

What a chunk has no place for and a next turn needs, thoughts with their signatures, stands in `reasoning_details`, as
OpenRouter has it: told whole once the thinking is over. Each chunk tells the usage so far.
"""

from collections.abc import Sequence
from typing import Any

from mcp_gateway.core.dialects.openai_chunks import error_frame
from mcp_gateway.core.dialects.openai_refusals import error_object
from mcp_gateway.core.dialects.translation.message_as_chat import chat_usage_of, refusal_in
from mcp_gateway.core.dialects.translation.thoughts import detail_of
from mcp_gateway.core.dialects.translation.words import finish_reason_of
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.surfaces.chunks import split_frames
from mcp_gateway.core.surfaces.credible import not_understood, understood
from mcp_gateway.core.surfaces.error_shapes import error_alone
from mcp_gateway.core.surfaces.events import EventReader
from mcp_gateway.core.surfaces.message_usage import counts_in, details_in, output_in, prompt_in
from mcp_gateway.core.surfaces.splice import DONE
from mcp_gateway.core.surfaces.usage import Usage

_THOUGHTS = ("thinking", "redacted_thinking")


class EventsAsChunks:
    """Fed with what arrives; returns whole frames. `head` is what each has."""

    def __init__(self, head: dict[str, Any], reasoning_names: Sequence[str]) -> None:
        self._head = head
        self._names = tuple(reasoning_names)
        self._events = EventReader()
        self._usage = _UsageSoFar()
        self._block: dict[str, Any] = {}
        """The one that goes on."""
        self._pieces: list[str] = []
        """What has come of its thinking, which is put together once: there are as many as tokens."""
        self._held_chars = 0
        self._calls = self._thoughts = self._told = 0
        self._ending: dict[str, Any] = {}
        self._is_over = False

    @property
    def held_bytes(self) -> int:
        """What has come of an event that is not whole, and of thoughts that are not over."""
        return len(self._events.tail) + self._held_chars

    @property
    def stop(self) -> str | None:
        stop = self._ending.get("stop_sequence")
        return stop if isinstance(stop, str) else None

    def feed(self, piece: bytes) -> bytes:
        """Raises GatewayError for an event without an end, or one that cannot be understood."""
        return self._read(self._events.feed(piece))

    def end(self) -> bytes:
        """The last frames, once nothing more comes."""
        if not self._is_over and (error := error_alone(bytes(self._events.tail))) is not None:
            self._is_over = True
            return error_frame(error)
        return self._read(self._events.end()) + self._ended(b"")

    def _read(self, events: bytes) -> bytes:
        return b"".join([self._one(event) for event in split_frames(events) if not self._is_over])

    def _one(self, event: bytes) -> bytes:
        if not event.startswith(b"data:"):
            return b""  # a comment
        data = event.removeprefix(b"data:").strip()
        if data.startswith(b"[DONE]"):
            return self._ended(DONE)
        told = understood(data)
        try:
            if told.get("error") or told["type"] == "error":
                self._is_over = True
                return error_frame(error_object(told) or {})
            return self._event(told)
        except (LookupError, TypeError, AttributeError):
            raise not_understood() from None

    def _event(self, told: dict[str, Any]) -> bytes:
        """Raises LookupError, TypeError or AttributeError for what is none."""
        match told["type"]:
            case "message_start":
                self._usage.begin(counts_in(told["message"].get("usage")))
            case "content_block_start":
                return self._begin(told["content_block"])
            case "content_block_delta":
                return self._go_on(told["delta"])
            case "content_block_stop":
                return self._stop()
            case "message_delta":
                self._usage.end(counts_in(told.get("usage")))
                self._ending |= {name: value for name, value in told["delta"].items() if value is not None}
            case "message_stop":
                return self._ended(DONE)
        return b""

    # Blocks

    def _begin(self, block: dict[str, Any]) -> bytes:
        self._block, self._pieces, self._held_chars = {**block}, [], 0
        match block["type"]:
            case "tool_use":
                self._calls += 1
                function = {"name": block["name"], "arguments": ""}
                return self._tell(self._call({"id": block["id"], "type": "function", "function": function}))
            case "text" if block.get("text"):
                return self._tell({"content": block["text"]})
        return b"" if self._told or block["type"] == "text" else self._tell({})

    def _go_on(self, delta: dict[str, Any]) -> bytes:
        """More of the block; citations have no place in a chat."""
        match delta["type"]:
            case "text_delta":
                return self._tell({"content": _text(delta, "text")})
            case "thinking_delta":
                piece = _text(delta, "thinking")
                self._pieces.append(piece)
                self._held_chars += len(piece)
                return self._tell(dict.fromkeys(self._names, piece))
            case "signature_delta":
                self._block["signature"] = delta["signature"]
            case "input_json_delta" if piece := _text(delta, "partial_json"):
                self._block["has_arguments"] = True
                return self._tell(self._call({"function": {"arguments": piece}}))
        return b""

    def _stop(self) -> bytes:
        block, self._block = self._block, {}
        pieces, self._pieces, self._held_chars = self._pieces, [], 0
        if block.get("type") in _THOUGHTS:
            block["thinking"] = "".join([block.get("thinking") or "", *pieces])
            self._thoughts += 1
            detail = detail_of(block, self._thoughts - 1)
            return self._frame({"reasoning_details": [detail]}) if detail is not None else b""
        if block.get("type") == "tool_use" and not block.get("has_arguments"):
            text = dump_json(block.get("input") or {}).decode()
            return self._tell(self._call({"function": {"arguments": text}}))
        return b""

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        return {"tool_calls": [{"index": self._calls - 1, **call}]}

    # Frames

    def _tell(self, delta: dict[str, Any]) -> bytes:
        """What is of the answer, and counted as a token until the usage is told."""
        self._usage.output_tokens += any(delta.values())
        return self._frame(delta)

    def _frame(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        first = {} if self._told else {"role": "assistant", "content": ""}
        self._told += 1
        choice = {"index": 0, "delta": first | delta, "finish_reason": finish_reason}
        usage = self._usage.so_far
        return self._written({"choices": [choice]} | ({"usage": usage.as_object()} if usage is not None else {}))

    def _written(self, told: dict[str, Any]) -> bytes:
        return b"data: %b\n\n" % dump_json(self._head | told)

    def _ended(self, end: bytes) -> bytes:
        """What a stream ends with that told why, once; nothing of one that did not."""
        if self._is_over:
            return b""
        self._is_over = True
        reason = self._ending.get("stop_reason")
        if not isinstance(reason, str):
            return end
        frames = [] if self._told else [self._frame({})]
        if (refusal := refusal_in(self._ending)) is not None:
            frames.append(self._frame({"refusal": refusal}))
        frames.append(self._frame({}, finish_reason_of(reason)))
        if (usage := self._usage.total) is not None:
            frames.append(self._written({"choices": [], "usage": usage}))
        return b"".join((*frames, end))


def _text(delta: dict[str, Any], name: str) -> str:
    text = delta[name]
    if not isinstance(text, str):
        raise TypeError
    return text


class _UsageSoFar:
    """Of a message's events: counts are told for all that came before, each for itself."""

    def __init__(self) -> None:
        self.output_tokens = 0
        """Events that brought something of the answer."""
        self._prompt: Usage | None = None
        self._output: int | None = None
        self._details: dict[str, dict[str, int]] = {}

    def begin(self, told: dict[str, Any]) -> None:
        self._prompt, self._details = prompt_in(told), details_in(told)

    def end(self, told: dict[str, Any]) -> None:
        self._prompt = prompt_in(told, self._prompt) or self._prompt
        self._details |= details_in(told)
        self._output = output_in(told)

    @property
    def so_far(self) -> Usage | None:
        if self._prompt is None or not self._prompt.prompt_tokens:
            return None
        return self._prompt._replace(completion_tokens=max(self.output_tokens, self._output or 0))

    @property
    def total(self) -> dict[str, Any] | None:
        """In OpenAI's words, once all is told."""
        if self._prompt is None or self._output is None:
            return None
        return chat_usage_of(self._prompt._replace(completion_tokens=self._output), self._details)
