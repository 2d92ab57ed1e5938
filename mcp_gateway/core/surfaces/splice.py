"""A backend's event stream turned into the client's: bytes in, bytes out, nothing parsed per frame.

What must change is spliced: the model's name, the usage that only the gateway asked for, and where the fingerprint
stands. A quote inside a JSON string is always escaped, so `"usage":{` or `"model":"x"` as raw bytes is never content.
What arrives together is searched and spliced together: taken apart are only the frames at the start and at the end.
Searched is by `find`: `in` tries first whether the bytes are a number, which costs more than the search of a frame.

    BEFORE   comments are dropped        -> AMID at the first chunk, OVER at an error or [DONE]
    AMID     frames pass                 -> WHOLE when every choice has finished, OVER at an error or [DONE]
    WHOLE    the last chunk is held back -> OVER at an error or [DONE]; a chunk that still comes releases it
    OVER     whatever comes is dropped

Beside these stand what is told: `is_whole` (every choice has finished) and `failure`. An answer that is whole stays so,
whatever follows; one that is not failed, however its stream ended. `end` hands out what was held back, in either case.
"""

import re
from collections.abc import Iterable
from enum import Enum
from typing import Any

import orjson

from mcp_gateway.core.surfaces.credible import UsageBounds, read_finish_reason
from mcp_gateway.core.surfaces.error_shapes import error_in, failure_in
from mcp_gateway.core.surfaces.events import EventReader
from mcp_gateway.core.surfaces.surface import Failure, Seen
from mcp_gateway.core.surfaces.usage import (
    Usage,
    is_told,
    last_usage,
    read_usage,
    source_of_usage,
    told,
    usual_usage,
    with_cost,
    without_closing_usage,
    without_usage,
)

DONE = b"data: [DONE]\n\n"
_MAX_PARSED_BYTES = 256 * 1024
"""Of one frame; of a longer one is read what can be searched for."""

_FINISH = re.compile(rb'"finish_reason":\s?("[^"\\]{1,64}")')
_INDEX = re.compile(rb'"choices":\s?\[\s?\{\s?"index":\s?(\d{1,4})\b')
_FINGERPRINT = re.compile(rb',\s?"system_fingerprint":\s?"[^"\\]*"')
_IS_DONE = re.compile(rb"data: ?\[DONE\]")
_NO_CHOICES = re.compile(rb'"choices":\s?(?:\[\s?\]|null)')
FIRST_MODEL = re.compile(rb'"model":(?<!\\"model":)\s?("[^"\\]*(?:\\.[^"\\]*){0,256}")')
"""The first of a chat completion is its own: no key before `choices` holds an object."""
_ERROR_KEY = re.compile(rb'"error"\s?:\s?[{"]')
_TEXT = re.compile(rb'"(?:content|reasoning|reasoning_content|refusal|arguments|text|thinking)":\s?"(?!")[^\n]*+')
"""Found once in each frame that brings any."""
_FIRST_CHOICE = b'"choices":[{'
_TO_COUNTS = len(b',"usage":{')
_NO_HEAD = b"\n\n\n"
"""What no frame begins with."""
_MARKS: tuple[bytes, ...] = (b'"finish_reason":"', b'"choices":[]', b'"choices":null', b"[DONE]", b'"error"')
"""One of these stands in each frame that is not merely the next piece of the answer."""
_LOOSE_MARKS = (*_MARKS, b'"finish_reason": "', b'"choices": []', b'"choices": null')
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
        self._public_model = None if public_model is None else orjson.dumps(public_model)
        self._rename: tuple[bytes, bytes] | None = None
        self._is_unnamed = False
        self._wants_usage = wants_usage
        self._strips_usage = not (wants_usage and wants_continuous_usage)
        self._is_spliced_singly = choices == 1 and self._strips_usage
        self._choices = choices
        self._prompts = prompts
        self._bounds = bounds
        self._events = EventReader()
        self._tail = self._events.tail
        self._head = _NO_HEAD
        self._marks = _MARKS
        self._held = b""
        self._usage_frame = b""
        self._usage_source = b""
        self._usage_by_choice: dict[int, Usage] = {}
        self._is_usage_continuous = False
        self._total_usage: Usage | None = None
        self._finished: dict[int, str] = {}
        self._state = State.BEFORE
        self.first_frame = b""
        self.finish_reason: str | None = None
        self.failure: Failure | None = None
        self.tells_usage = True
        """Whether the first frame tells a usage that can be; where it does not, frames with text are counted."""
        self._text_frames = 0
        self._counted_behind = b""

    def feed(self, piece: bytes) -> bytes:
        """The whole frames so far, as the client is to see them. Raises GatewayError for a frame without an end."""
        if self._is_one_more(piece):
            return self._one_more(piece)
        end = piece.find(b"\n\n") if self._state is State.BEFORE and piece.startswith(b"data: {") else -1
        if end < 0:
            return self._feed(piece)
        return self._feed(piece[: end + 2]) + self._feed(piece[end + 2 :])  # by the first it is known how others begin

    def skip(self, usage: bytes, frames: int) -> None:
        """Note what frames tell that were read elsewhere, and only go on with the answer of one choice."""
        if usage:
            self._usage_source = usage
        else:
            self._count(frames)

    def feed_end(self) -> bytes:
        """The last frame, where the stream ended without the blank line behind it."""
        return self._read(self._events.end())

    @property
    def is_amid(self) -> bool:
        """Whether the answer has begun and may go on, and nothing of it is held here."""
        return self._state is State.AMID and not (self._tail or self._held)

    @property
    def has_started(self) -> bool:
        return bool(self.first_frame)

    def has_told(self, frames: bytes) -> bool:
        """Whether the answer has any text, where these frames are all that has been handed out."""
        return self.is_whole or _TEXT.search(frames + self._held) is not None

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
        """What was held back, when the stream has ended: for the fingerprint, and to tell the cost within the usage.

        A client that asked for usage is told what is `billed`, in a frame of ours where the backend told none or other.
        None is told where none is billed.
        """
        held, self._held = self._held, b""
        frame, self._usage_frame = self._usage_frame, b""
        if self._bounds is not None:
            frame = self._billed_frame(frame, billed) if self._wants_usage and billed is not None else b""
        return held + (with_cost(frame, cost_usd) if cost_usd is not None else frame)

    @property
    def usage(self) -> Usage | None:
        """The usage of the last frame read that told any, and a token for each with text behind it; None without."""
        usage = self._running_usage if self._total_usage is None else self._total_usage
        if usage is None or self._usage_source is not self._counted_behind:
            return usage
        return usage._replace(completion_tokens=usage.completion_tokens + self._text_frames)

    @property
    def seen(self) -> Seen:
        """What the answer has at least, where its usage cannot be believed in the end."""
        first = last_usage(self.first_frame) if self.tells_usage else None
        if first is None:
            return Seen(None, self._text_frames)
        usage = self._running_usage or first
        return Seen(first.prompt_tokens, usage.completion_tokens)

    @property
    def _running_usage(self) -> Usage | None:
        return self._summed_usage() if self._choices > 1 else last_usage(self._usage_source)

    def _feed(self, piece: bytes) -> bytes:
        if not piece or self.is_done:
            return b""
        many, rest = self._many_more(piece)
        return many + self._read(self._events.feed(rest))

    # Frames that only go on with the answer

    def _is_one_more(self, piece: bytes) -> bool:
        """Whether this is the usual: one whole frame that begins like the first and does not end the answer."""
        return (
            piece.startswith(self._head)
            and piece.find(b"\n") == len(piece) - 2
            and piece.endswith(b"\n\n")
            and piece.find(b'"finish_reason":"') < 0
            and not (self._tail or self._held)
            and self._state is State.AMID
        )

    def _one_more(self, frame: bytes) -> bytes:
        """Such a frame: its usage is found from its end, where vLLM writes it, and an error could only stand before.

        The usage is the last key and holds no object, where nothing behind its brace opens another one.
        """
        at = frame.rfind(b',"usage":{"') if self._is_spliced_singly else -1
        if at < 0 or not frame.endswith(b"}}\n\n") or frame.find(b"{", at + _TO_COUNTS) >= 0:
            return self._further(frame)
        start = len(self._head)
        if frame.find(b'"error"', start, at) >= 0 or frame.find(b'"usage"', start, at) >= 0:
            return self._one_by_one(frame)
        self._usage_source = frame
        return self._renamed(frame[:at]) + b"}\n\n"

    def _many_more(self, piece: bytes) -> tuple[bytes, bytes]:
        """What such frames at the start of a piece become, and the rest of it, which has to be looked at.

        They are one line of data each, which tells its usage last, where every second line end closes a usage; and each
        is a chunk, where as many have choices.
        """
        if not (self._is_spliced_singly and piece.startswith(self._head)) or self._tail or self._held:
            return b"", piece
        frames = _whole_frames_before(piece, b'"finish_reason":"')
        spliced, count = without_closing_usage(frames)
        line_ends = len(spliced) - len(spliced.replace(b"\n", b""))  # `count` would take three times as long
        is_usual = 0 < 2 * count == line_ends and spliced.count(_FIRST_CHOICE) == count
        if not is_usual or max(spliced.find(b'"error"'), spliced.find(b'"usage"'), spliced.find(b"\r")) >= 0:
            return b"", piece
        self._usage_source = frames
        return self._renamed(spliced), piece[len(frames) :]

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
        start = 0 if self._held else _first_frame_with(self._marks, frames)
        rest = frames[:start] if start >= 0 else frames
        if rest.count(b'"choices"') < rest.count(b"\n\n"):
            return self._one_by_one(frames)  # a comment, or what is no chunk
        return self._amid(rest) + (self._one_by_one(frames[start:]) if start >= 0 else b"")

    def _amid(self, frames: bytes) -> bytes:
        """Frames that do nothing but go on with the answer."""
        if not frames:
            return b""
        frames = self._renamed(frames)
        if frames.find(b'"usage"') < 0:
            self._count_text(frames)
            return frames
        if self._is_spliced_singly:
            rest, found = without_closing_usage(frames)
            if found and frames.endswith(b"}}\n\n") and rest.find(b'"usage"') < 0:  # no frame is behind the last usage
                self._usage_source = source_of_usage(frames)
                return rest
        if self._bounds is None and not self._strips_usage:
            self._note_usage(frames)
            return frames
        return b"".join([self._with_usage_looked_at(frame) for frame in _split(frames)])

    def _with_usage_looked_at(self, frame: bytes) -> bytes:
        """A frame as the client is to see it; one that tells no usage to believe counts by its text."""
        if not (self._note_usage(frame) and self.tells_usage):
            self._count_text(frame)
        return frame if not self._strips_usage and self._can_be(frame) else without_usage(frame)

    def _note_usage(self, frames: bytes) -> bool:
        """Remember what frames tell of usage; whether they tell any."""
        has_any = self._note_usage_by_choice(frames) if self._choices > 1 else last_usage(frames) is not None
        if has_any:
            self._usage_source = source_of_usage(frames)
        return has_any

    def _can_be(self, frame: bytes) -> bool:
        """Whether a frame tells a usage that can be, in numbers that a client can read."""
        usual = usual_usage(frame)
        usage = last_usage(frame) if usual is None else usual
        if usage is None or not (self._bounds is None or self._bounds.allow(usage)):
            return False
        return usual is not None or is_told(frame, usage)

    def _count_text(self, frames: bytes) -> None:
        """Count the frames that bring text."""
        self._count(sum(1 for _ in _TEXT.finditer(frames)))

    def _count(self, text_frames: int) -> None:
        """All are counted, or those since usage was told last, where one that can be was."""
        if self.tells_usage and self._counted_behind is not self._usage_source:
            self._counted_behind, self._text_frames = self._usage_source, 0
        self._text_frames += text_frames

    def _renamed(self, frames: bytes) -> bytes:
        if self._is_unnamed:
            self._learn_name(frames)
        return frames.replace(*self._rename) if self._rename is not None else frames

    # Frames that are looked at: the first, those that end the answer, comments, errors

    def _one_by_one(self, frames: bytes) -> bytes:
        kept = []
        for frame in _split(frames):
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
            self._begin(frame)
        if _is_for_usage(frame):
            return self._without_usage_frame(frame)
        return self._chunk(frame, reasons)

    def _begin(self, frame: bytes) -> None:
        """Learn from the first frame how this backend writes."""
        self.first_frame = frame
        self._state = State.AMID
        if self._bounds is not None and not self._can_be(frame):
            self.tells_usage = self._is_spliced_singly = False
        if frame.find(b'"choices": ') >= 0:
            self._marks = _LOOSE_MARKS
        self._learn_name(frame)

    def _learn_name(self, frame: bytes) -> None:
        """Learn what the backend calls its model, from the first frame that names any."""
        found = FIRST_MODEL.search(frame)
        self._is_unnamed = found is None or found[1] == b'""'
        if found is not None and self._public_model is not None and found[1] != self._public_model:
            old = found[0]
            self._rename = (old, old[: -len(found[1])] + self._public_model)

    def _chunk(self, frame: bytes, reasons: list[str]) -> bytes:
        """A frame of the answer; the last is held back until it is known whether the fingerprint belongs into it."""
        if self._head is _NO_HEAD and (at := frame.find(_FIRST_CHOICE)) >= 0:
            self._head = frame[: at + len(_FIRST_CHOICE)]
        released, self._held = self._held, b""
        finished = self._finished_in(frame, reasons) if reasons else {}
        frame = self._amid(frame)
        if finished:
            self._finished |= finished
            self.finish_reason = list(finished.values())[-1]
        if self.is_whole:
            self._state = State.WHOLE
        if self._state is State.WHOLE and not self._wants_usage:
            self._held = frame
            return released
        return released + frame

    def _finished_in(self, frame: bytes, found: list[str]) -> dict[int, str]:
        """Why choices finish with this frame, by their index."""
        if self._choices == 1:
            return {0: found[-1]}
        choices = _chunk_of(frame).get("choices")
        if isinstance(choices, list):
            reasons = {_index_of(one): read_finish_reason(one.get("finish_reason")) for one in _objects(choices)}
            return {index: reason for index, reason in reasons.items() if reason is not None}
        index = _INDEX.search(frame)  # of one too long to be parsed
        return {int(index[1]) if index is not None else 0: found[-1]}

    def _without_usage_frame(self, frame: bytes) -> bytes:
        """Note the total that comes in a frame without choices; hold that frame back for a client that asked for it."""
        frame = self._renamed(frame)
        if (usage := last_usage(frame)) is not None or not self._usage_frame:
            if usage is not None:
                self._total_usage, self._usage_source = usage, frame
            superseded, self._usage_frame = self._usage_frame, frame if self._wants_usage else b""
            if not self._strips_usage and (self._bounds is None or self._can_be(superseded)):
                return superseded
        if self._held and (mark := _fingerprint_of(frame)):
            self._held = _with_fingerprint(self._held, mark)
        return b""

    def _billed_frame(self, frame: bytes, billed: Usage) -> bytes:
        """The backend's last frame, which tells its usage, or, where that is not what is billed, one that does."""
        if is_told(frame, billed) and b'"cost_usd"' not in frame:
            return frame
        first = _chunk_of(self.first_frame)
        chunk = _chunk_of(frame) or {name: first.get(name) for name in ("id", "object", "created")}
        usage = told(chunk.get("usage"), billed)
        usage.pop("cost_usd", None)
        chunk |= {"model": orjson.loads(self._public_model or b"null"), "choices": [], "usage": usage}
        return b"data: %b\n\n" % orjson.dumps(chunk)

    def _note_usage_by_choice(self, frames: bytes) -> bool:
        """Who tells usage before a choice ends counts each choice by itself; who only then does counts them all."""
        has_any = False
        for frame in _split(frames):
            chunk = _chunk_of(frame)
            usage = read_usage(chunk.get("usage"))
            if usage is None:
                continue
            has_any = True
            for choice in _objects(chunk.get("choices")):
                if choice.get("finish_reason") is None:
                    self._is_usage_continuous = True
                elif not self._is_usage_continuous:
                    self._usage_by_choice.clear()
                self._usage_by_choice[_index_of(choice)] = usage
        return has_any

    def _summed_usage(self) -> Usage | None:
        """A choice tells the tokens of its own prompt, which other choices of that prompt tell too."""
        if not self._usage_by_choice:
            return None
        each, last = self._choices // self._prompts, self._prompts - 1
        by_prompt = {min(index // each, last): usage for index, usage in self._usage_by_choice.items()}
        return Usage(
            sum(usage.prompt_tokens for usage in by_prompt.values()),
            sum(usage.completion_tokens for usage in self._usage_by_choice.values()),
            _sum_of_known(usage.cached_tokens for usage in by_prompt.values()),
            _sum_of_known(usage.cache_write_tokens for usage in by_prompt.values()),
        )


def _sum_of_known(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _end_of_first_data(frames: bytes) -> int:
    """Where the first frame that is no comment ends; the end of all where there is none."""
    start = 0 if frames.startswith(b"data:") else frames.find(b"\ndata:")
    end = frames.find(b"\n\n", start) if start >= 0 else -1
    return end + 2 if end >= 0 else len(frames)


def _whole_frames_before(piece: bytes, mark: bytes) -> bytes:
    """The frames at the start of a piece that are whole, up to the one with the mark."""
    at = piece.find(mark)
    end = piece.rfind(b"\n\n", 0, at if at >= 0 else len(piece))
    return piece[: end + 2] if end >= 0 else b""


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


def _split(frames: bytes) -> list[bytes]:
    return [frame + b"\n\n" for frame in frames.split(b"\n\n") if frame]


def _chunk_of(frame: bytes) -> dict[str, Any]:
    try:
        chunk = orjson.loads(frame.removeprefix(b"data:")) if len(frame) <= _MAX_PARSED_BYTES else None
    except orjson.JSONDecodeError:
        return {}
    return chunk if isinstance(chunk, dict) else {}


def _objects(choices: Any) -> list[dict[str, Any]]:
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _index_of(choice: dict[str, Any]) -> int:
    index = choice.get("index", 0)
    return index if isinstance(index, int) else 0


def _finish_reasons(frame: bytes) -> list[str]:
    return [reason for text in _FINISH.findall(frame) if (reason := _reason_of(text)) is not None]


def _reason_of(text: bytes) -> str | None:
    try:
        return read_finish_reason(orjson.loads(text))
    except orjson.JSONDecodeError:  # no UTF-8
        return None


def _error_of(frame: bytes, finish_reasons: list[str]) -> dict[str, Any] | None:
    """The error that a frame tells: an error object, what is no chunk at all, or an answer that was broken off."""
    is_chunk = frame.find(b'"choices"') >= 0 or frame.find(b'"usage"') >= 0
    if not is_chunk or frame.find(b'"error"') >= 0:
        if len(frame) > _MAX_PARSED_BYTES:
            return {} if not is_chunk or _ERROR_KEY.search(frame) else None
        chunk = _chunk_of(frame)
        if (error := error_in(chunk)) is not None:
            return error
        if not chunk and not is_chunk:
            return {}
    return next((_BROKEN_OFF[reason] for reason in finish_reasons if reason in _BROKEN_OFF), None)
