"""A backend's event stream turned into the client's: bytes in, bytes out, nothing parsed per frame.

What must change is spliced: the model's name, the usage that only the gateway asked for, and where the fingerprint
stands. What arrives together is searched and spliced together (`onward.py`): taken apart are only the frames at the
start and at the end.

    BEFORE   comments are dropped        -> AMID at the first chunk, OVER at an error or [DONE]
    AMID     frames pass                 -> WHOLE when every choice has finished, OVER at an error or [DONE]
    WHOLE    the last chunk is held back -> OVER at an error or [DONE]; a chunk that still comes releases it
    OVER     whatever comes is dropped

Beside these stand what is told: `is_whole` (every choice has finished) and `failure`. An answer that is whole stays so,
whatever follows; one that is not failed, however its stream ended. `end` hands out what was held back, in either case.
"""

import re
from enum import Enum
from typing import Any

import orjson

from mcp_gateway.core.surfaces.chunks import MAX_PARSED_BYTES, chunk_of, index_of, objects_in, split_frames
from mcp_gateway.core.surfaces.credible import UsageBounds, read_finish_reason
from mcp_gateway.core.surfaces.error_shapes import error_in, failure_in
from mcp_gateway.core.surfaces.events import EventReader
from mcp_gateway.core.surfaces.onward import Manner, Onward
from mcp_gateway.core.surfaces.running_usage import TEXT, RunningUsage
from mcp_gateway.core.surfaces.surface import Failure, Seen
from mcp_gateway.core.surfaces.usage import Usage, is_told, last_usage, told, with_cost

DONE = b"data: [DONE]\n\n"

_FINISH = re.compile(rb'"finish_reason":\s?("[^"\\]{1,64}")')
_INDEX = re.compile(rb'"choices":\s?\[\s?\{\s?"index":\s?(\d{1,4})\b')
_FINGERPRINT = re.compile(rb',\s?"system_fingerprint":\s?"[^"\\]*"')
_IS_DONE = re.compile(rb"data: ?\[DONE\]")
_OBJECT_BEGINS = (b"data: {", b"data:{")
_NO_CHOICES = re.compile(rb'"choices":\s?(?:\[\s?\]|null)')
_ERROR_KEY = re.compile(rb'"error"\s?:\s?[{"]')
_BROKEN_OFF: dict[str, dict[str, Any]] = {
    "abort": {"message": "aborted", "type": "InternalServerError", "code": 500},
    "error": {},
}
"""Reasons of vLLM, and of routers, for an answer that ends since something failed, as the error that they mean."""


class State(Enum):
    """How far a stream has come."""

    BEFORE = "before"
    AMID = "amid"
    WHOLE = "whole"
    OVER = "over"


class FrameRelay:
    """Reads a backend's stream of chunks, of chats or completions, and says what the client is to be sent.

    `feed` takes whatever arrived and returns whole frames. After the end, or when the client left, `usage` and
    `finish_reason` tell what the frames read so far amount to. Frames after `[DONE]` are dropped. A client is told no
    usage but within the `bounds`; without these, for who reads it himself, usage passes as the backend tells it.
    """

    def __init__(
        self,
        public_model: str | None,
        *,
        wants_usage: bool,
        wants_continuous_usage: bool = False,
        choices: int = 1,
        prompts: int = 1,
        bounds: UsageBounds | None = None,
    ) -> None:
        strips_usage = not (wants_usage and wants_continuous_usage)
        self._usage = RunningUsage(choices, prompts, bounds)
        self._manner = Manner(public_model)
        self._onward = Onward(
            self._manner, self._usage, strips_usage=strips_usage, is_spliced_singly=choices == 1 and strips_usage
        )
        self._last = _LastFrames(public_model, self._usage, wants_usage=wants_usage, strips_usage=strips_usage)
        self._choices = choices
        self._events = EventReader()
        self._tail = self._events.tail
        self._finished: dict[int, str] = {}
        self._state = State.BEFORE
        self.first_frame = b""
        self.finish_reason: str | None = None
        self.failure: Failure | None = None

    def feed(self, piece: bytes) -> bytes:
        """The whole frames so far, as the client is to see them. Raises GatewayError for a frame without an end."""
        if (
            piece.startswith(self._manner.head)
            and piece.find(b"\n") == len(piece) - 2
            and piece.endswith(b"\n\n")
            and piece.find(b'"finish_reason":"') < 0
            and self._state is State.AMID
            and not (self._tail or self._last.held)
        ):  # the usual: one whole frame that begins like the first and does not end the answer
            return self._onward.one(piece) or self._further(piece)
        end = piece.find(b"\n\n") if self._state is State.BEFORE and piece.startswith(b"data: {") else -1
        if end < 0:
            return self._feed(piece)
        return self._feed(piece[: end + 2]) + self._feed(piece[end + 2 :])  # by the first it is known how others begin

    def skip(self, usage: bytes, frames: int) -> None:
        """Note what frames tell that were read elsewhere, and only go on with the answer of one choice."""
        if usage:
            self._usage.source = usage
        else:
            self._usage.count(frames)

    def feed_end(self) -> bytes:
        """The last frame, where the stream ended without the blank line behind it."""
        return self._read(self._events.end())

    @property
    def is_amid(self) -> bool:
        """Whether the answer has begun and may go on, and nothing of it is held here."""
        return self._state is State.AMID and not (self._tail or self._last.held)

    @property
    def has_started(self) -> bool:
        return bool(self.first_frame)

    def has_told(self, frames: bytes) -> bool:
        """Whether the answer has any text, where these frames are all that has been handed out."""
        return self.is_whole or TEXT.search(frames + self._last.held) is not None

    @property
    def is_done(self) -> bool:
        """Whether the backend has told the end, or an error."""
        return self._state is State.OVER

    @property
    def is_whole(self) -> bool:
        """Whether every choice that was asked for has finished."""
        return len(self._finished) >= self._choices

    @property
    def held_bytes(self) -> int:
        """What has come of a frame that is not whole."""
        return len(self._tail)

    def end(self, cost_usd: str | None = None, billed: Usage | None = None) -> bytes:
        """What was held back, when the stream has ended: for the fingerprint, and to tell the cost within the usage."""
        return self._last.end(cost_usd, billed, self.first_frame)

    @property
    def tells_usage(self) -> bool:
        """Whether the first frame tells a usage that can be."""
        return self._usage.is_told

    @property
    def usage(self) -> Usage | None:
        """The usage of the last frame read that told any, and a token for each with text behind it; None without."""
        return self._usage.so_far

    @property
    def seen(self) -> Seen:
        """What the answer has at least, where its usage cannot be believed in the end."""
        return self._usage.seen(self.first_frame)

    def _feed(self, piece: bytes) -> bytes:
        if not piece or self._state is State.OVER:
            return b""
        many, rest = (b"", piece) if self._tail or self._last.held else self._onward.many(piece)
        return many + self._read(self._events.feed(rest))

    def _read(self, frames: bytes) -> bytes:
        if self._state is not State.BEFORE:
            return self._further(frames)
        end = _end_of_first_data(frames)
        begun = self._one_by_one(frames[:end])
        return begun + self._further(frames[end:])

    def _further(self, frames: bytes) -> bytes:
        """Frames after the first: nearly all only go on with the answer, and those are treated as one."""
        if not frames or self._state is State.OVER:
            return b""
        start = 0 if self._last.held else _first_frame_with(self._manner.marks, frames)
        rest = frames[:start] if start >= 0 else frames
        if min(rest.count(b'"choices"'), rest.count(b"}\n\n")) < rest.count(b"\n\n"):
            return self._one_by_one(frames)  # a comment, or what is no chunk
        return self._onward.all(rest) + (self._one_by_one(frames[start:]) if start >= 0 else b"")

    # Frames that are looked at: the first, those that end the answer, comments, errors

    def _one_by_one(self, frames: bytes) -> bytes:
        kept = []
        for frame in split_frames(frames):
            kept.append(self._looked_at(frame))
            if self._state is State.OVER:
                break
        return b"".join(kept)

    def _looked_at(self, frame: bytes) -> bytes:
        if frame.startswith(b":"):
            return frame if self.first_frame else b""
        if _IS_DONE.match(frame):
            self._state = State.OVER
            return b""
        reasons = _finish_reasons(frame)
        if (error := _error_of(frame, reasons)) is not None:
            self.failure = failure_in(error)
            self._state = State.OVER
            return b""
        if not self.first_frame:
            self.first_frame, self._state = frame, State.AMID
            self._onward.begin(frame)
        if _is_for_usage(frame):
            return self._last.take_usage(self._manner.renamed(frame))
        return self._chunk(frame, reasons)

    def _chunk(self, frame: bytes, reasons: list[str]) -> bytes:
        """A frame of the answer; the last is held back until it is known whether the fingerprint belongs into it."""
        self._manner.learn_head(frame)
        finished = _finished_in(frame, reasons, self._choices) if reasons else {}
        frame = self._onward.all(frame)
        if finished:
            self._finished |= finished
            self.finish_reason = list(finished.values())[-1]
        if self.is_whole:
            self._state = State.WHOLE
        return self._last.pass_on(frame, is_last=self._state is State.WHOLE)


class _LastFrames:
    """What is held back until the end is known: the last chunk, and the frame that tells the usage of all."""

    def __init__(self, public_model: str | None, usage: RunningUsage, *, wants_usage: bool, strips_usage: bool) -> None:
        self.held = b""
        self._usage_frame = b""
        self._public_model = public_model
        self._usage = usage
        self._wants_usage = wants_usage
        self._strips_usage = strips_usage

    def pass_on(self, frame: bytes, *, is_last: bool) -> bytes:
        """The chunk behind what was held; one that may be the last is held instead, if no usage is to follow it."""
        released, self.held = self.held, b""
        if is_last and not self._wants_usage:
            self.held = frame
            return released
        return released + frame

    def take_usage(self, frame: bytes) -> bytes:
        """Note the total that comes in a frame without choices; hold that frame back for a client that asked for it."""
        if (usage := last_usage(frame)) is not None or not self._usage_frame:
            if usage is not None:
                self._usage.end(frame, usage)
            superseded, self._usage_frame = self._usage_frame, frame if self._wants_usage else b""
            if not self._strips_usage and (self._usage.bounds is None or self._usage.can_be(superseded)):
                return superseded
        if self.held and (mark := _fingerprint_of(frame)):
            self.held = _with_fingerprint(self.held, mark)
        return b""

    def end(self, cost_usd: str | None, billed: Usage | None, first_frame: bytes) -> bytes:
        """All of it. A client that asked for usage is told what is `billed`, in a frame of ours where the backend told
        none or other. None is told where none is billed.
        """
        held, self.held = self.held, b""
        frame, self._usage_frame = self._usage_frame, b""
        if self._usage.bounds is not None:
            frame = self._billed_frame(frame, billed, first_frame) if self._wants_usage and billed is not None else b""
        return held + (with_cost(frame, cost_usd) if cost_usd is not None else frame)

    def _billed_frame(self, frame: bytes, billed: Usage, first_frame: bytes) -> bytes:
        """The backend's last frame, which tells its usage, or, where that is not what is billed, one that does."""
        if is_told(frame, billed):
            return frame
        first = chunk_of(first_frame)
        chunk = chunk_of(frame) or {name: first.get(name) for name in ("id", "object", "created")}
        chunk |= {"model": self._public_model, "choices": [], "usage": told(chunk.get("usage"), billed)}
        return b"data: %b\n\n" % orjson.dumps(chunk)


def _finished_in(frame: bytes, found: list[str], choices: int) -> dict[int, str]:
    """Why choices finish with this frame, by their index."""
    if choices == 1:
        return {0: found[-1]}
    listed = chunk_of(frame).get("choices")
    if isinstance(listed, list):
        reasons = {index_of(one): read_finish_reason(one.get("finish_reason")) for one in objects_in(listed)}
        return {index: reason for index, reason in reasons.items() if reason is not None}
    index = _INDEX.search(frame)  # of one too long to be parsed
    return {int(index[1]) if index is not None else 0: found[-1]}


def _end_of_first_data(frames: bytes) -> int:
    """Where the first frame that is no comment ends; the end of all where there is none."""
    start = 0 if frames.startswith(b"data:") else frames.find(b"\ndata:")
    end = frames.find(b"\n\n", start) if start >= 0 else -1
    return end + 2 if end >= 0 else len(frames)


def _first_frame_with(marks: tuple[bytes, ...], frames: bytes) -> int:
    """Where the first frame begins that has one of the marks; -1 where none has."""
    end = len(frames)
    for mark in marks:
        if (at := frames.find(mark, 0, end)) >= 0:
            end = at
    if end == len(frames):
        return -1
    before = frames.rfind(b"\n\n", 0, end)
    return before + 2 if before >= 0 else 0


def _is_for_usage(frame: bytes) -> bool:
    """Whether it is there to tell the usage: others may have no choices either, to tell what we do not know."""
    return frame.find(b'"usage"') >= 0 and (frame.find(b'"choices"') < 0 or _NO_CHOICES.search(frame) is not None)


def _fingerprint_of(frame: bytes) -> bytes:
    found = _FINGERPRINT.search(frame) if frame.find(b'"system_fingerprint"') >= 0 else None
    return found[0] if found is not None else b""


def _with_fingerprint(frame: bytes, mark: bytes) -> bytes:
    end = frame.rfind(b"}")
    if end < 0 or _fingerprint_of(frame):
        return frame
    return frame[:end] + mark + frame[end:]


def _finish_reasons(frame: bytes) -> list[str]:
    return [reason for text in _FINISH.findall(frame) if (reason := _reason_of(text)) is not None]


def _reason_of(text: bytes) -> str | None:
    try:
        return read_finish_reason(orjson.loads(text))
    except orjson.JSONDecodeError:  # no UTF-8
        return None


def _error_of(frame: bytes, finish_reasons: list[str]) -> dict[str, Any] | None:
    """The error that a frame tells: an error object, what is no chunk at all, or an answer that was broken off."""
    has_keys = frame.find(b'"choices"') >= 0 or frame.find(b'"usage"') >= 0
    is_chunk = has_keys and frame.startswith(_OBJECT_BEGINS) and frame.endswith(b"}\n\n")
    if not is_chunk or frame.find(b'"error"') >= 0:
        if len(frame) > MAX_PARSED_BYTES:
            return {} if not has_keys or _ERROR_KEY.search(frame) else None
        chunk = chunk_of(frame)
        if (error := error_in(chunk)) is not None:
            return error
        if not chunk and not is_chunk:
            return {}
    return next((_BROKEN_OFF[reason] for reason in finish_reasons if reason in _BROKEN_OFF), None)
