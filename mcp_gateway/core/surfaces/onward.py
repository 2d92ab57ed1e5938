"""Frames that do nothing but go on with an answer, and what a client is to see of them: searched and spliced as bytes.

A quote inside a JSON string is always escaped, so `"usage":{` or `"model":"x"` as raw bytes is never content. Searched
is by `find`: `in` tries first whether the bytes are a number, which costs more than the search of a frame.
"""

import re

import orjson

from mcp_gateway.core.surfaces.chunks import split_frames
from mcp_gateway.core.surfaces.running_usage import RunningUsage
from mcp_gateway.core.surfaces.usage import source_of_usage, without_closing_usage, without_usage

FIRST_MODEL = re.compile(rb'"model":(?<!\\"model":)\s?("[^"\\]*(?:\\.[^"\\]*){0,256}")')
"""The first of a chat completion is its own: no key before `choices` holds an object."""
_FIRST_CHOICE = b'"choices":[{'
_TO_COUNTS = len(b',"usage":{')
_NO_HEAD = b"\n\n\n"
"""What no frame begins with."""
_MARKS: tuple[bytes, ...] = (b'"finish_reason":"', b'"choices":[]', b'"choices":null', b"[DONE]", b'"error"')
"""One of these stands in each frame that is not merely the next piece of the answer."""
_LOOSE_MARKS = (*_MARKS, b'"finish_reason": "', b'"choices": []', b'"choices": null')


class Manner:
    """How a backend writes its frames, learnt from the first ones: how they begin, and what it calls its model."""

    def __init__(self, public_model: str | None) -> None:
        self.head = _NO_HEAD
        """What each frame begins with that brings a piece of the first choice."""
        self.marks = _MARKS
        self._public_model = None if public_model is None else orjson.dumps(public_model)
        self._rename: tuple[bytes, bytes] | None = None
        self._is_unnamed = False

    def learn(self, frame: bytes) -> None:
        """From the first frame."""
        if frame.find(b'"choices": ') >= 0:
            self.marks = _LOOSE_MARKS
        self._learn_name(frame)

    def learn_head(self, chunk: bytes) -> None:
        """From the first that has a choice."""
        if self.head is _NO_HEAD and (at := chunk.find(_FIRST_CHOICE)) >= 0:
            self.head = chunk[: at + len(_FIRST_CHOICE)]

    def renamed(self, frames: bytes) -> bytes:
        """With the public name of the model, from the first frame on that names any."""
        if self._is_unnamed:
            self._learn_name(frames)
        return frames.replace(*self._rename) if self._rename is not None else frames

    def _learn_name(self, frame: bytes) -> None:
        found = FIRST_MODEL.search(frame)
        self._is_unnamed = found is None or found[1] == b'""'
        if found is not None and self._public_model is not None and found[1] != self._public_model:
            old = found[0]
            self._rename = (old, old[: -len(found[1])] + self._public_model)


class Onward:
    """What such frames become. `is_spliced_singly` is whether each tells one usage, which is taken out of it."""

    def __init__(self, manner: Manner, usage: RunningUsage, *, strips_usage: bool, is_spliced_singly: bool) -> None:
        self._manner = manner
        self._usage = usage
        self._strips_usage = strips_usage
        self._is_spliced_singly = is_spliced_singly

    def begin(self, frame: bytes) -> None:
        """Learn from the first frame how this backend writes, and whether it tells a usage that can be."""
        if self._usage.bounds is not None and not self._usage.can_be(frame):
            self._usage.is_told = self._is_spliced_singly = False
        self._manner.learn(frame)

    def one(self, frame: bytes) -> bytes:
        """A frame that begins like the others: its usage is found from its end, where vLLM writes it; else b"".

        The usage is the last key and holds no object, where nothing behind its brace opens another one. An error could
        only stand before.
        """
        at = frame.rfind(b',"usage":{"') if self._is_spliced_singly else -1
        if at < 0 or not frame.endswith(b"}}\n\n") or frame.find(b"{", at + _TO_COUNTS) >= 0:
            return b""
        start = len(self._manner.head)
        if frame.find(b'"error"', start, at) >= 0 or frame.find(b'"usage"', start, at) >= 0:
            return b""
        self._usage.source = frame
        return self._manner.renamed(frame[:at]) + b"}\n\n"

    def many(self, piece: bytes) -> tuple[bytes, bytes]:
        """What such frames at the start of a piece become, and the rest of it, which has to be looked at.

        They are one line of data each, which tells its usage last, where every second line end closes a usage; and each
        is a chunk, where as many have choices.
        """
        if not (self._is_spliced_singly and piece.startswith(self._manner.head)):
            return b"", piece
        frames = _whole_frames_before(piece, b'"finish_reason":"')
        spliced, count = without_closing_usage(frames)
        line_ends = len(spliced) - len(spliced.replace(b"\n", b""))  # `count` would take three times as long
        is_usual = 0 < 2 * count == line_ends and spliced.count(_FIRST_CHOICE) == count
        if not is_usual or max(spliced.find(b'"error"'), spliced.find(b'"usage"'), spliced.find(b"\r")) >= 0:
            return b"", piece
        self._usage.source = frames
        return self._manner.renamed(spliced), piece[len(frames) :]

    def all(self, frames: bytes) -> bytes:
        """Frames of which that is known."""
        if not frames:
            return b""
        frames = self._manner.renamed(frames)
        if frames.find(b'"usage"') < 0:
            self._usage.count_text(frames)
            return frames
        if self._is_spliced_singly:
            rest, found = without_closing_usage(frames)
            if found and frames.endswith(b"}}\n\n") and rest.find(b'"usage"') < 0:  # no frame is behind the last usage
                self._usage.source = source_of_usage(frames)
                return rest
        if self._usage.bounds is None and not self._strips_usage:
            self._usage.note(frames)
            return frames
        return b"".join([self._with_usage_looked_at(frame) for frame in split_frames(frames)])

    def _with_usage_looked_at(self, frame: bytes) -> bytes:
        """A frame as the client is to see it; one that tells no usage to believe counts by its text."""
        if not (self._usage.note(frame) and self._usage.is_told):
            self._usage.count_text(frame)
        return frame if not self._strips_usage and self._usage.can_be(frame) else without_usage(frame)


def _whole_frames_before(piece: bytes, mark: bytes) -> bytes:
    """The frames at the start of a piece that are whole, up to the one with the mark."""
    at = piece.find(mark)
    end = piece.rfind(b"\n\n", 0, at if at >= 0 else len(piece))
    return piece[: end + 2] if end >= 0 else b""
