"""A backend's event stream turned into the client's: bytes in, bytes out, nothing parsed per frame.

What must change is spliced: the model's name, the usage that only the gateway asked for, and where the fingerprint
stands. A quote inside a JSON string is always escaped, so `"usage":{` or `"model":"x"` as raw bytes is never content.
What arrives together is searched and spliced together: taken apart are only the frames at the start and at the end.
"""

import re
from typing import Any, NamedTuple

import orjson

from mcp_gateway.core.errors import GatewayError

DONE = b"data: [DONE]\n\n"
MAX_FRAME_BYTES = 2 * 1024 * 1024
_MAX_PARSED_BYTES = 256 * 1024
"""Of one frame; a longer one is passed on and no more."""
_MAX_USAGE_BYTES = 4 * 1024

_OBJECT = rb"\{[^{}]*(?:\{[^{}]*\}[^{}]*){0,32}\}"
_PLAIN_OBJECT = rb"\{[\0-z]*(?:\{[\0-z]*\}[\0-z]*){0,32}\}"
_USAGE = re.compile(rb'"usage":\s?(' + _OBJECT + rb")")
_SPLICED_USAGE = re.compile(rb',"usage":(?:' + _PLAIN_OBJECT + rb"|null)")
"""As vLLM writes it, once in every frame: a literal start and ranges that end below the braces are found sooner."""
_LOOSE_SPLICED_USAGE = re.compile(rb',\s?"usage":\s?(?:' + _OBJECT + rb"|null)")
_FINISH = re.compile(rb'"finish_reason":\s?"([a-z_]{1,64})"')
_FINGERPRINT = re.compile(rb',\s?"system_fingerprint":\s?"[^"\\]*"')
_DONE = re.compile(rb"data:(?<![^\n]data:) ?\[DONE\]")
_NO_CHOICES = re.compile(rb'"choices":\s?\[\]')
FIRST_MODEL = re.compile(rb'"model":(?<!\\"model":)\s?("[^"\\]*(?:\\.[^"\\]*){0,256}")')
"""The first of a chat completion is its own: no key before `choices` holds an object."""
_LONGEST_END_BYTES = 3
_BEGUN_ERROR = re.compile(rb'data: ?\{"error":')
_FIRST_CHOICE = b'"choices":[{'
_NO_HEAD = b"\n\n\n"
"""What no frame begins with."""
_MARKS: tuple[bytes, ...] = (b'"finish_reason":"', b'"choices":[]', b"[DONE]", b'{"error":')
"""One of these stands in each frame that is not merely the next piece of the answer."""
_LOOSE_MARKS = (*_MARKS, b'"finish_reason": "', b'"choices": []')


class Usage(NamedTuple):
    """Token counts as the backend reports them; `cached_tokens` is a part of `prompt_tokens`, None where unknown."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


def read_usage(value: Any) -> Usage | None:
    """The usage of a backend's `usage` object; None where it is absent or not one."""
    if not isinstance(value, dict):
        return None
    prompt, completion = _count(value.get("prompt_tokens")), _count(value.get("completion_tokens", 0))
    if prompt is None or completion is None:
        return None
    details = value.get("prompt_tokens_details")
    return Usage(prompt, completion, _count(details.get("cached_tokens")) if isinstance(details, dict) else None)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def usage_at(text: bytes | bytearray, start: int) -> Usage | None:
    """The usage that `"usage":` there begins to tell; None where it tells none, or more than counts."""
    found = _USAGE.match(text, start, start + _MAX_USAGE_BYTES)
    try:
        return read_usage(orjson.loads(found[1])) if found is not None else None
    except orjson.JSONDecodeError:
        return None


class FrameRelay:
    """Reads a backend's stream of chat chunks and says what the client is to be sent.

    `feed` takes whatever arrived and returns whole frames. After the end, or when the client left, `usage` and
    `finish_reason` tell what the frames read so far amount to. Frames after `[DONE]` are dropped.
    """

    def __init__(
        self, public_model: str, *, wants_usage: bool, wants_continuous_usage: bool = False, choices: int = 1
    ) -> None:
        self._public_model = orjson.dumps(public_model)
        self._rename: tuple[bytes, bytes] | None = None
        self._wants_usage = wants_usage
        self._strips_usage = not (wants_usage and wants_continuous_usage)
        self._choices = choices
        self._tail = bytearray()
        self._head = _NO_HEAD
        self._marks = _MARKS
        self._held = b""
        self._usage_frame = b""
        self._usage_source = b""
        self._usage_by_choice: dict[int, Usage] = {}
        self._total_usage: Usage | None = None
        self.is_done = False
        self.has_started = False
        self.finish_reason: str | None = None
        self.error: dict[str, Any] | None = None

    def feed(self, piece: bytes) -> bytes:
        """The whole frames so far, as the client is to see them. Raises GatewayError for a frame without an end."""
        if self._is_one_more(piece):
            return self._amid(piece)
        frames = self._whole_frames(piece)
        if not frames or self.is_done:
            return b""
        if self.has_started:
            return self._further(frames)
        end = _end_of_first_data(frames)
        begun = self._ending(frames[:end])
        return begun + self._further(frames[end:]) if self.has_started else b""

    @property
    def held_bytes(self) -> int:
        """What has come of a frame that is not whole."""
        return len(self._tail)

    def end(self, cost_usd: str | None = None) -> bytes:
        """What was held back, when the stream has ended: for the fingerprint, and to tell the cost within the usage."""
        held, self._held = self._held + _with_cost(self._usage_frame, cost_usd), b""
        self._usage_frame = b""
        return held

    @property
    def usage(self) -> Usage | None:
        """The usage of the last frame read; None where no frame told any."""
        if self._total_usage is not None:
            return self._total_usage
        if self._choices > 1:
            return self._summed_usage()
        start = max(self._usage_source.rfind(b'"usage":{'), self._usage_source.rfind(b'"usage": {'))
        return usage_at(self._usage_source, start) if start >= 0 else None

    def _is_one_more(self, piece: bytes) -> bool:
        """Whether this is the usual: one whole frame that begins like the first and does not end the answer."""
        return (
            piece.startswith(self._head)
            and piece.find(b"\n") == len(piece) - 2
            and piece.endswith(b"\n\n")
            and b'"finish_reason":"' not in piece
            and not (self._tail or self._held or self.is_done)
        )

    def _whole_frames(self, piece: bytes) -> bytes:
        if self._tail and not self._has_end(piece):
            self._keep(piece)
            return b""
        data = b"".join((self._tail, piece)) if self._tail else piece
        self._tail.clear()
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        if data.endswith(b"\n\n"):
            return data
        cut = data.rfind(b"\n\n") + 2
        if cut == 1:
            cut = 0
        self._keep(data[cut:])
        return data[:cut]

    def _has_end(self, piece: bytes) -> bool:
        """Whether a frame can end within what came, so that a long frame is not searched anew with each piece of it."""
        came = self._tail[-_LONGEST_END_BYTES:] + piece
        return b"\n\n" in came or b"\n\r\n" in came

    def _keep(self, piece: bytes) -> None:
        self._tail += piece
        if len(self._tail) > MAX_FRAME_BYTES:
            raise GatewayError("backend_error", "The backend sent a frame without an end.")

    def _further(self, frames: bytes) -> bytes:
        """Frames after the first: nearly all only go on with the answer, and those are treated as one."""
        if not frames or self.is_done:
            return b""
        start = 0 if self._held else _first_frame_with(self._marks, frames)
        if start < 0:
            return self._amid(frames)
        return self._amid(frames[:start]) + self._ending(frames[start:])

    def _amid(self, frames: bytes) -> bytes:
        """Frames that do nothing but go on with the answer."""
        frames = self._renamed(frames)
        if b'"usage":' not in frames:
            return frames
        if self._choices > 1:
            self._note_usage_by_choice(frames)
        elif b'"usage":{' in frames or b'"usage": {' in frames:
            self._usage_source = frames
        if not self._strips_usage:
            return frames
        stripped, count = _SPLICED_USAGE.subn(b"", frames)
        return stripped if count else _LOOSE_SPLICED_USAGE.sub(b"", frames)

    def _ending(self, frames: bytes) -> bytes:
        """Frames that are looked at one by one: the first, those that end the answer, an error."""
        if b"[DONE]" in frames and (end := _DONE.search(frames)) is not None:
            frames = frames[: end.start()]
            self.is_done = True
        if b'{"error":' in frames or b'"finish_reason":"abort"' in frames:
            frames = self._before_error(frames)
        if not self.has_started:
            frames = self._from_first_data(frames)
        if not frames:
            return b""
        frames = self._without_usage_frame(frames) if _is_for_usage(frames) else self._amid(frames)
        if self._held or _FINISH.search(frames) is not None:
            frames = self._settled_end(frames)
        return frames

    def _before_error(self, frames: bytes) -> bytes:
        kept = []
        for frame in _split(frames):
            if (error := _error_of(frame)) is not None:
                self.error = error
                self.is_done = True
                break
            kept.append(frame)
        return b"".join(kept)

    def _from_first_data(self, frames: bytes) -> bytes:
        """Drop comments before the first data frame, and learn from it how this backend writes."""
        start = 0 if frames.startswith(b"data:") else frames.find(b"\ndata:") + 1
        if not start and not frames.startswith(b"data:"):
            return b""
        frames = frames[start:]
        self.has_started = True
        if b'"choices": ' in frames:
            self._marks = _LOOSE_MARKS
        elif (at := frames.find(_FIRST_CHOICE)) >= 0:
            self._head = frames[: at + len(_FIRST_CHOICE)]
        found = FIRST_MODEL.search(frames)
        if found is not None and found[1] != self._public_model:
            old = found[0]
            self._rename = (old, old[: -len(found[1])] + self._public_model)
        return frames

    def _renamed(self, frames: bytes) -> bytes:
        return frames.replace(*self._rename) if self._rename is not None else frames

    def _without_usage_frame(self, frames: bytes) -> bytes:
        """Note the total that comes in a frame without choices; hold that frame back for a client that asked for it."""
        kept = [self._held] if self._held else []
        self._held = b""
        for frame in _split(frames):
            if not _is_for_usage(frame):
                kept.append(self._amid(frame))
                continue
            frame = self._renamed(frame)
            if (found := _USAGE.search(frame)) is not None:
                self._total_usage = usage_at(frame, found.start())
            if self._wants_usage:
                kept += [self._usage_frame] if self._usage_frame else []
                self._usage_frame = frame
            elif kept and (mark := _fingerprint_of(frame)):
                kept[-1] = _with_fingerprint(kept[-1], mark)
        return b"".join(kept)

    def _settled_end(self, frames: bytes) -> bytes:
        """Note how it ended; hold the last frame back until it is known whether the fingerprint belongs into it."""
        if not frames:
            return b""
        released, self._held = self._held, b""
        for found in _FINISH.finditer(frames):
            self.finish_reason = found[1].decode()
        if self._wants_usage or not self.finish_reason:
            return released + frames
        whole = _split(frames)
        self._held = whole.pop() if whole else b""
        return released + b"".join(whole)

    def _note_usage_by_choice(self, frames: bytes) -> None:
        for frame in _split(frames):
            chunk = _chunk_of(frame)
            usage = read_usage(chunk.get("usage"))
            choices = chunk.get("choices")
            if usage is None or not isinstance(choices, list):
                continue
            for choice in choices:
                self._usage_by_choice[choice.get("index", 0)] = usage

    def _summed_usage(self) -> Usage | None:
        seen = list(self._usage_by_choice.values())
        if not seen:
            return None
        return Usage(seen[0].prompt_tokens, sum(usage.completion_tokens for usage in seen), seen[0].cached_tokens)


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
    return b'"usage":' in frame and _NO_CHOICES.search(frame) is not None


def _fingerprint_of(frame: bytes) -> bytes:
    found = _FINGERPRINT.search(frame) if b'"system_fingerprint"' in frame else None
    return found[0] if found is not None else b""


def _with_fingerprint(frame: bytes, mark: bytes) -> bytes:
    end = frame.rfind(b"}")
    if end < 0 or _fingerprint_of(frame):  # without an object it is a comment
        return frame
    return frame[:end] + mark + frame[end:]


def _with_cost(frame: bytes, cost_usd: str | None) -> bytes:
    """A usage frame with `cost_usd` as the last field of its usage."""
    found = _USAGE.search(frame)
    if found is None or cost_usd is None:
        return frame
    end = found.end() - 1
    return frame[:end] + b',"cost_usd":"' + cost_usd.encode() + b'"' + frame[end:]


def _split(frames: bytes) -> list[bytes]:
    return [frame + b"\n\n" for frame in frames.split(b"\n\n") if frame.strip()]


def _chunk_of(frame: bytes) -> dict[str, Any]:
    try:
        chunk = orjson.loads(frame.removeprefix(b"data:")) if len(frame) <= _MAX_PARSED_BYTES else None
    except orjson.JSONDecodeError:
        return {}
    return chunk if isinstance(chunk, dict) else {}


def _error_of(frame: bytes) -> dict[str, Any] | None:
    """The error that a frame tells: an error object, or an answer that the backend broke off as it shut down."""
    if b'{"error":' in frame and isinstance(error := _chunk_of(frame).get("error"), dict):
        return error
    if len(frame) > _MAX_PARSED_BYTES and _BEGUN_ERROR.match(frame):
        return {}
    if b'"finish_reason":"abort"' in frame:
        return {"message": "aborted", "type": "InternalServerError", "code": 500}
    return None
