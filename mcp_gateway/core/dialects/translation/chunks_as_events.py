"""A chat's stream as Anthropic's clients read one: chunks in OpenAI's form become the events of a message.

Whether a stream is whole, failed, and what it used, the reader of the chat says; this turns what it hands out.
"""

from collections.abc import Iterator
from typing import Any

import orjson

from mcp_gateway.core.dialects.openai_chunks import ProviderRelay
from mcp_gateway.core.dialects.translation.carried import carrying
from mcp_gateway.core.dialects.translation.chat_as_message import REASONING, REFUSED
from mcp_gateway.core.dialects.translation.message_blocks import MessageBlocks
from mcp_gateway.core.dialects.translation.words import ending_of
from mcp_gateway.core.surfaces.anthropic import event_of
from mcp_gateway.core.surfaces.chunks import objects_in, split_frames
from mcp_gateway.core.surfaces.message_usage import as_told
from mcp_gateway.core.surfaces.surface import Failure, Seen
from mcp_gateway.core.surfaces.usage import Usage

_TEXTS = {REASONING: "thinking", "content": "text", "refusal": "text"}
"""The blocks that a chat's texts become, in the order in which a delta may tell several."""


class MessageFromChat:
    """Reads a stream by the reader of a chat, which is told no usage, and says what the client is to be sent.

    `prompt` is about what the prompt has: a message tells it at its start, and a chat only at its end.
    """

    def __init__(self, chat: ProviderRelay, prompt: Usage, public_model: str, answer_id: str) -> None:
        self._chat = chat
        self._prompt = prompt
        self._head = {"id": answer_id, "type": "message", "role": "assistant", "model": public_model}
        self._blocks = MessageBlocks()
        self._has_begun = self._is_refused = False
        self._untold: list[bytes] = []
        """Events that are not handed out yet: what comes behind them may be refused, and they are told all the same."""

    def feed(self, piece: bytes) -> bytes:
        return self._events(self._chat.feed(piece))

    def feed_end(self) -> bytes:
        return self._events(self._chat.feed_end())

    def end(self, cost_usd: str | None = None, billed: Usage | None = None) -> bytes:
        """The ends of its blocks, why it ended, if it did, and what is billed, also of a message that never began."""
        events = self._events(self._chat.end()) + self._blocks.end()
        if billed is None or not (self._has_begun or billed.total_tokens):
            return events
        if not self._has_begun:
            events += self._start()
        told: dict[str, Any] = {"usage": as_told(billed) | ({} if cost_usd is None else {"cost_usd": cost_usd})}
        return events + event_of({"type": "message_delta", "delta": self._ending} | told)

    @property
    def first_frame(self) -> bytes:
        return self._chat.first_frame

    @property
    def has_started(self) -> bool:
        return self._chat.has_started

    @property
    def is_done(self) -> bool:
        return self._chat.is_done

    @property
    def is_whole(self) -> bool:
        return self._chat.is_whole

    @property
    def failure(self) -> Failure | None:
        return self._chat.failure

    @property
    def usage(self) -> Usage | None:
        return self._chat.usage

    @property
    def seen(self) -> Seen:
        return self._chat.seen

    @property
    def finish_reason(self) -> str | None:
        return self._ending["stop_reason"]

    @property
    def held_bytes(self) -> int:
        return self._chat.held_bytes + self._blocks.held_bytes

    @property
    def tells_usage(self) -> bool:
        return self._chat.tells_usage

    def has_told(self, frames: bytes) -> bool:
        return self.is_whole or self._blocks.has_begun

    @property
    def _ending(self) -> dict[str, str | None]:
        reason = self._chat.finish_reason
        if reason is None:
            return {"stop_reason": None, "stop_sequence": None}
        return REFUSED if self._is_refused else ending_of(reason, self._chat.stop)

    def _events(self, frames: bytes) -> bytes:
        for frame in split_frames(frames):
            self._note_chunk(orjson.loads(frame.removeprefix(b"data:")))
        events = b"".join(self._untold)
        self._untold.clear()
        return events

    def _note_chunk(self, chunk: dict[str, Any]) -> None:
        if not self._has_begun:
            self._untold.append(self._start())
        for choice in chunk["choices"]:
            self._untold.extend(self._of_delta(choice["delta"]))

    def _start(self) -> bytes:
        self._has_begun = True
        usage = as_told(self._prompt)
        message: dict[str, Any] = self._head | {
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        return event_of({"type": "message_start", "message": message})

    def _of_delta(self, delta: dict[str, Any]) -> Iterator[bytes]:
        self._is_refused |= bool(delta.get("refusal"))
        for name, kind in _TEXTS.items():
            if text := delta.get(name):
                yield self._blocks.text(kind, text)
        for call in objects_in(delta.get("tool_calls")):
            yield from self._of_call(call)

    def _of_call(self, call: dict[str, Any]) -> Iterator[bytes]:
        if call.get("extra_content"):
            yield self._blocks.whole(carrying(call["extra_content"]))
        function = call.get("function") or {}
        name, arguments = function.get("name") or "", function.get("arguments") or ""
        yield self._blocks.call(call["index"], call.get("id") or "", name, arguments)
