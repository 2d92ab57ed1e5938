"""A backend's events of a message turned into the client's: bytes in, bytes out, nothing parsed for most of them.

The events that go on with a block's text pass as they are, however many come together; those around them are parsed.
What must change stands in two: `message_start` (the id, the model's name, the prompt's usage) and the last
`message_delta`, which is held back to tell the usage that is billed. A quote inside a JSON string is always escaped, so
`"error"` as bytes is never content.

    BEFORE   nothing passes        -> AMID at message_start
    AMID     events pass           -> WHOLE at a message_delta with a stop_reason
    WHOLE    that event is held    -> OVER at message_stop
    OVER     whatever comes is dropped; an error leads here from each of the others
"""

import re
from typing import Any

import orjson

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import parse_json
from mcp_gateway.core.surfaces.anthropic import event, event_of
from mcp_gateway.core.surfaces.credible import UsageBounds, read_finish_reason
from mcp_gateway.core.surfaces.error_shapes import error_in, failure_in
from mcp_gateway.core.surfaces.event_relay import EventRelay, end_of_events
from mcp_gateway.core.surfaces.message_answer import message_id
from mcp_gateway.core.surfaces.message_usage import as_told, counts_in, details_in, output_in, prompt_in
from mcp_gateway.core.surfaces.splice import State
from mcp_gateway.core.surfaces.surface import Failure, Seen
from mcp_gateway.core.surfaces.usage import Usage

_GOES_ON = b"event: content_block_delta\ndata: {"
_BLOCK_CHANGES = b"\nevent: content_block_st"
"""As one ends or the next one starts."""
_NO_TEXT, _SIGNATURE = b'":""', b'"signature_delta"'
_DONE = b"[DONE]"
_EDITS = "context_management"
_KIND = re.compile(r"[a-z_]{1,64}")
_UNTOLD = Usage(0, 0)


class MessageRelay(EventRelay):
    """Reads a backend's stream of a message and says what the client is to be sent."""

    def __init__(self, public_model: str, bounds: UsageBounds, answer_id: str | None = None) -> None:
        """The message bears that id, or else the backend's."""
        super().__init__()
        self._names = {"model": public_model}
        if answer_id is not None:
            self._names["id"] = answer_id
        self._bounds = bounds
        self._state = State.BEFORE
        self._first: Usage | None = None
        self._prompt: Usage | None = None
        self._output_tokens: int | None = None
        self._texts = self._texts_told = 0
        """Events that brought text: all, and those before the count of the answer's tokens was told last."""
        self._ending: dict[str, Any] = {}
        """The event that told why the answer ended."""
        self._details: dict[str, dict[str, int]] = {}
        self._open: dict[str, Any] = {}
        """The event that began the block that goes on."""
        self.first_frame = b""
        self.finish_reason: str | None = None
        self.failure: Failure | None = None

    def end(self, cost_usd: str | None = None, billed: Usage | None = None) -> bytes:
        """The event that tells why the answer ended, if it did, and what is billed; none before a message has begun.

        A block that its backend left open ends before it: a message has none of these events in another order.
        """
        stop = {"type": "content_block_stop", "index": self._open.get("index")}
        closed = event_of(stop) if self._open else b""
        if not self.first_frame or billed is None:
            return closed
        usage: dict[str, Any] = as_told(billed)
        if self._details and billed == self.usage:
            usage |= self._details
        if cost_usd is not None:
            usage["cost_usd"] = cost_usd
        delta = {"stop_reason": None, "stop_sequence": None} | _object(self._ending, "delta")
        told = {"type": "message_delta", "delta": delta, "usage": usage}
        return closed + event_of(told if _EDITS not in self._ending else told | {_EDITS: self._ending[_EDITS]})

    @property
    def tells_usage(self) -> bool:
        return self._first is not None

    @property
    def has_started(self) -> bool:
        return bool(self.first_frame)

    @property
    def is_done(self) -> bool:
        return self._state is State.OVER

    @property
    def is_whole(self) -> bool:
        return self.finish_reason is not None

    @property
    def held_bytes(self) -> int:
        return len(self._tail)

    def has_told(self, _frames: bytes) -> bool:
        return self.is_whole or self._texts > 0

    @property
    def usage(self) -> Usage | None:
        """What was told last, with a token for each event with text since; None where that leaves anything open."""
        if self._prompt is None or not self._prompt.prompt_tokens:
            return None
        if self._output_tokens is None and self.is_whole:
            return None
        texts = self._texts - self._texts_told
        return self._prompt._replace(completion_tokens=(self._output_tokens or 0) + texts)

    @property
    def seen(self) -> Seen:
        """With the prompt of the first event, as what is told later may be what cannot be believed."""
        return Seen(None if self._first is None else self._first.prompt_tokens, self._texts)

    def _more(self, piece: bytes) -> bytes:
        if self._state is not State.AMID or self._tail or not (events := _deltas_in(piece)):
            return b""
        self._texts += events - piece.count(_NO_TEXT) - piece.count(_SIGNATURE)
        return piece

    def _start_of_run(self, piece: bytes, start: int) -> int:
        return piece.find(_GOES_ON, start)

    def _end_of_run(self, piece: bytes, start: int) -> int:
        """Where the block changes."""
        at = piece.find(_BLOCK_CHANGES, start)
        return at + 1 if at >= 0 else end_of_events(piece, start)

    def _read(self, frames: bytes) -> bytes:
        kept = []
        for frame in frames.split(b"\n\n"):
            if self._state is State.OVER:
                break
            if frame.startswith(b":"):
                kept.append(frame + b"\n\n" if self.first_frame else b"")
            elif frame:
                kept.append(self._event(frame.removeprefix(b"data:").strip()))
        return b"".join(kept)

    def _event(self, data: bytes) -> bytes:
        if data == _DONE:
            self._state = State.OVER
            return b""
        told = _parsed(data)
        kind = told.get("type")
        if told.get("error") or "error" in (kind, told.get("object")) or not isinstance(kind, str):
            self.failure = failure_in(error_in(told) or {})
            self._state = State.OVER
            return b""
        return self._further(kind, data, told) if self.first_frame else self._begin(data, told)

    def _further(self, kind: str, data: bytes, told: dict[str, Any]) -> bytes:
        match kind:
            case "message_delta":
                self._note_ending(told)
            case "message_stop":
                self._state = State.OVER
            case _ if kind != "message_start" and _KIND.fullmatch(kind):
                return self._passed(kind, data, told)
        return b""

    def _begin(self, data: bytes, told: dict[str, Any]) -> bytes:
        if told["type"] != "message_start":
            return b""
        self.first_frame, self._state = data, State.AMID
        message = _object(told, "message")
        counts = counts_in(message.get("usage"))
        self._details, self._prompt = details_in(counts), prompt_in(counts)
        self._first = self._prompt if self._can_be(self._prompt) else None
        usage = as_told(self._first or _UNTOLD)
        names = {"id": message_id(message.get("id")), **self._names}
        ending = {"stop_reason": None, "stop_sequence": None}
        return event_of({"type": "message_start", "message": {**message, **names, **ending, "usage": usage}})

    def _can_be(self, prompt: Usage | None) -> bool:
        return prompt is not None and prompt.prompt_tokens > 0 and self._bounds.allow(prompt)

    def _note_ending(self, told: dict[str, Any]) -> None:
        """Counts are told for all that came before, and a count that is not told stays as it was."""
        counts = counts_in(told.get("usage"))
        if details := details_in(counts):
            self._details |= details
        self._prompt = prompt_in(counts, self._prompt if self.tells_usage else None) or self._prompt
        if (output := output_in(counts)) is not None:
            self._output_tokens, self._texts_told = output, self._texts
        delta = _object(told, "delta")
        if (reason := read_finish_reason(delta.get("stop_reason"))) is not None:
            self.finish_reason, self._state, self._ending = reason, State.WHOLE, told

    def _passed(self, kind: str, data: bytes, told: dict[str, Any]) -> bytes:
        """An event that goes out with its data as they came, or as Anthropic's clients need them."""
        if kind == "content_block_delta":
            self._texts += _has_text(_object(told, "delta"))
        elif kind == "content_block_stop":
            self._open = {}
        elif kind == "content_block_start":
            self._open, block = told, _object(told, "content_block")
            self._texts += block.get("type") == "tool_use"
            if block.get("type") == "thinking":
                return event_of(told | {"content_block": {"signature": ""} | block})
        return event(kind, data)


def _deltas_in(piece: bytes) -> int:
    """How many events there are, where these are whole ones, as vLLM writes them, that go on with a block; else 0."""
    if not piece.startswith(_GOES_ON) or not piece.endswith(b"}\n\n") or piece.find(b'"error"') >= 0:
        return 0
    events = piece.count(_GOES_ON)
    is_usual = piece.count(b"\n") == 3 * events and piece.count(b"}\n\nevent: ") == events - 1
    return events if is_usual and piece.find(b"\r") < 0 else 0


def _has_text(delta: dict[str, Any]) -> bool:
    return any(value for name, value in delta.items() if name not in ("type", "signature"))


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        told = parse_json(data)
    except (orjson.JSONDecodeError, GatewayError):  # its nesting
        return {}
    return told if isinstance(told, dict) else {}


def _object(told: dict[str, Any], name: str) -> dict[str, Any]:
    value = told.get(name)
    return value if isinstance(value, dict) else {}
