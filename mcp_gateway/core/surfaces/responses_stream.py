"""A backend's stream of response events turned into the client's: deltas pass as bytes, response objects are read.

The events before the first of the output are held back, since until then the request may go to another backend. So is
the last, until the bill is written. What a client is told is numbered without a gap, whatever was told in between.
"""

import re
from typing import Any

import orjson

from mcp_gateway.core.surfaces.credible import understood
from mcp_gateway.core.surfaces.error_shapes import error_in, failure_in
from mcp_gateway.core.surfaces.event_relay import EventRelay, end_of_events
from mcp_gateway.core.surfaces.response_object import (
    checked,
    failure_of_response,
    finish_reason_of,
    in_our_form,
    response_id,
    told_usage,
    usage_of,
)
from mcp_gateway.core.surfaces.responses import ResponsesAsk
from mcp_gateway.core.surfaces.surface import Failure, Seen
from mcp_gateway.core.surfaces.usage import Usage

_MAX_FRAME_BYTES = 32 * 1024 * 1024
"""The last event holds the whole answer, with all its log probabilities."""
_FIRST_BYTES = 4096
"""Of the first event, at whose start the answer's id stands."""
_OPENING = frozenset({"response.created", "response.queued", "response.in_progress"})
_TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})
_TYPE_LAST = re.compile(rb'"type":\s?"([a-z_.]{1,64})"\s?\}\n\n\Z')
_TYPE_FIRST = re.compile(rb'data: ?\{\s?"type":\s?"([a-z_.]{1,64})"')
_TYPE_KEY, _NUMBER_KEY = b'"type":', b'"sequence_number":'
_NUMBER = re.compile(rb"\s?(\d{1,9})")
_EMPTY = re.compile(rb'"delta":\s?""')
_HEAD, _GOES_ON, _END = b"event: response.", b".delta\ndata: {", b'.delta"}\n\n'
"""Of an event that goes on with the answer: its beginning, the middle where its data begins, and its end."""
_NEXT = _END + _HEAD
_PART_ENDS = b".done\ndata: "
_DONE = b"data: [DONE]"


class ResponsesReader(EventRelay):
    """Reads one answer's stream. A usage is told at its end alone."""

    tells_usage = False
    is_done = False

    def __init__(self, ask: ResponsesAsk, public_model: str) -> None:
        super().__init__(_MAX_FRAME_BYTES)
        self._ask = ask
        self._public_model = public_model
        self._opening: list[dict[str, Any]] = []
        self._opening_bytes = 0
        self._last: dict[str, Any] | None = None
        self._text_events = 0
        self.first_frame = b""
        self.has_started = False
        self.is_whole = False
        self.failure: Failure | None = None
        self.usage: Usage | None = None
        self.finish_reason: str | None = None

    @property
    def seen(self) -> Seen:
        """An event that brings text, reasoning or arguments is a token at least."""
        return Seen(None, self._text_events)

    @property
    def held_bytes(self) -> int:
        return len(self._tail) + self._opening_bytes

    def has_told(self, frames: bytes) -> bool:
        return self.is_whole or self._text_events > 0

    def end(self, cost_usd: str | None = None, billed: Usage | None = None) -> bytes:
        """The event that ends the answer, with the usage that is billed; of one that was broken off, none yet."""
        self._ask.has_ended = True
        response, self._last = self._last, None
        if response is None:
            self._ask.usage_told = None if billed is None else told_usage({}, billed, cost_usd)
            return b""
        told = billed or (self.usage if cost_usd is None else None)
        usage = None if told is None else told_usage(response, told, cost_usd)
        kind = "response.incomplete" if response.get("status") == "incomplete" else "response.completed"
        return self._ask.event({"type": kind, "response": response | {"usage": usage}})

    @property
    def response(self) -> dict[str, Any]:
        """The whole answer, once it has come."""
        assert self._last is not None
        return self._last

    def _more(self, piece: bytes) -> bytes:
        """They are numbered rightly too."""
        is_amid = self.has_started and not (self._tail or self.is_done)
        if not is_amid or not (events := _deltas_in(piece)) or not _are_numbered(piece, self._ask.number, events):
            return b""
        self._text_events += events - piece.count(b'"delta":""') - piece.count(b'"delta": ""')
        self._ask.number += events
        return piece

    def _start_of_run(self, piece: bytes, start: int) -> int:
        at = piece.find(_GOES_ON, start)
        return piece.rfind(_HEAD, start, at) if at >= 0 else -1

    def _end_of_run(self, piece: bytes, start: int) -> int:
        """Where the part ends."""
        at = piece.find(_PART_ENDS, start)
        return piece.rfind(_HEAD, start, at) if at >= 0 else end_of_events(piece, start)

    def _read(self, frames: bytes) -> bytes:
        """Frames behind the last event are dropped."""
        whole = [frame + b"\n\n" for frame in frames.split(b"\n\n") if frame]
        return b"".join([self._looked_at(frame) for frame in whole if not self.is_done])

    def _looked_at(self, frame: bytes) -> bytes:
        if frame.startswith(b":"):
            return b""  # what a client's timer needs are events, and they are ours
        if frame.startswith(_DONE):
            self.is_done = True
            return b""
        kind = str(_type_of(frame) or _parsed(frame).get("type", ""))
        if not kind.startswith("response.") and (error := _error_of(frame)) is not None:
            self.failure, self.is_done = self._failure_in(error), True
            return b""
        if kind in _OPENING or kind in _TERMINAL:
            return self._response_event(kind, _parsed(frame), frame)
        return self._begun() + self._numbered(kind, frame)

    def _response_event(self, kind: str, event: dict[str, Any], frame: bytes) -> bytes:
        if not self.first_frame:
            self.first_frame = frame[:_FIRST_BYTES]
        response = checked(event.get("response"))
        ours = self._in_our_form(response) | {"id": response_id(self._ask.request_id)}
        if kind in _TERMINAL:
            return self._ended(response, ours)
        event["response"] = ours | {"usage": None}
        if not self.has_started:
            self._opening.append(event)
            self._opening_bytes += len(frame)
            return b""
        return self._ask.event(event)

    def _in_our_form(self, response: dict[str, Any]) -> dict[str, Any]:
        return in_our_form(response, self._public_model)

    def _failure_in(self, error: dict[str, Any]) -> Failure:
        return failure_in(error)

    def _ended(self, response: dict[str, Any], ours: dict[str, Any]) -> bytes:
        """Note what the last event tells, and hold it back."""
        self.is_done = True
        self.failure = failure_of_response(response, self._failure_in)
        if self.failure is not None:
            return b""
        self.is_whole, self._last = True, ours
        self.usage, self.finish_reason = usage_of(response), finish_reason_of(response)
        return self._begun()

    def _begun(self) -> bytes:
        """The events that were held back until the output began; none where the client was told ours meanwhile."""
        if self.has_started:
            return b""
        self.has_started = True
        if not self.first_frame:
            self.first_frame = b"\n"
        opening, self._opening, self._opening_bytes = self._opening, [], 0
        if self._ask.number:
            return b""
        return b"".join([self._ask.event(event) for event in opening])

    def _numbered(self, kind: str, frame: bytes) -> bytes:
        """An event as it is, under its number."""
        self._text_events += kind.endswith(".delta") and _EMPTY.search(frame) is None
        number, self._ask.number = self._ask.number, self._ask.number + 1
        at = frame.rfind(_NUMBER_KEY)
        found = _NUMBER.match(frame, at + len(_NUMBER_KEY)) if at >= 0 else None
        if found is not None and int(found[1]) != number:
            frame = b"%b%d%b" % (frame[: found.start(1)], number, frame[found.end(1) :])
        return b"event: %b\n%b" % (kind.encode(), frame)


class ResponsesCollecting(ResponsesReader):
    """Puts a stream together to the answer in one piece, which its last event holds."""

    is_full = False
    latest_words = ""

    @property
    def has_any(self) -> bool:
        return self._text_events > 0

    def body(self, billed: Usage) -> bytes:
        return orjson.dumps(self.response | {"usage": told_usage(self.response, billed)})


def _deltas_in(piece: bytes) -> int:
    """How many events there are, where these are whole ones and each goes on with the answer; else 0."""
    if not (piece.startswith(_HEAD) and piece.endswith(_END)):
        return 0
    events = piece.count(_GOES_ON)
    is_usual = piece.count(b"\n") == 3 * events and piece.count(_NEXT) == events - 1
    return events if is_usual and piece.find(b"\r") < 0 else 0


def _are_numbered(piece: bytes, first: int, events: int) -> bool:
    """Whether the first and the last of them have the numbers that are due."""
    if events == 1:
        return _has_number(piece, first)
    last = piece[piece.rfind(_HEAD) :]
    return _has_number(piece[: piece.find(b"\n\n")], first) and _has_number(last, first + events - 1)


def _has_number(event: bytes, number: int) -> bool:
    return event.find(b'"sequence_number":%d,"type":"' % number) >= 0


def _type_of(frame: bytes) -> str | None:
    """The type of an event that tells it first or last, as servers do; nothing is parsed."""
    found = _TYPE_FIRST.match(frame) or _TYPE_LAST.search(frame, max(0, frame.rfind(_TYPE_KEY)))
    return found[1].decode() if found is not None else None


def _error_of(frame: bytes) -> dict[str, Any] | None:
    """The error that an event tells; an empty one of what is no event."""
    event = _parsed(frame)
    return error_in(event) or (None if isinstance(event.get("type"), str) else {})


def _parsed(frame: bytes) -> dict[str, Any]:
    event = understood(frame.removeprefix(b"data:"))
    return event if isinstance(event, dict) else {}
