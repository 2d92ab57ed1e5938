"""Frames that differ in nothing but a text and the digits of their usage: nearly all of an answer, so read together.

To parse each would cost more than all else that is done for it. What stands around the text is compared, byte by byte,
with a frame that was parsed; the texts are parsed as JSON. A quote within a text is escaped, so no text holds a mark.
"""

from typing import NamedTuple

import orjson

_DIGITS = b"0123456789"
_USAGE = b',"usage":{'


class PlainRun(NamedTuple):
    """Frames of one form: what stands for their texts, what the last tells of usage, and where they end."""

    texts: list[bytes]
    usage: bytes
    end: int

    def text(self) -> str:
        """All texts together. ValueError where one is more than a string, or is none."""
        texts: list[str] = orjson.loads(b"[%b]" % b",".join(self.texts))
        if len(texts) != len(self.texts):
            raise ValueError
        return "".join(texts)


class PlainForm(NamedTuple):
    """What a frame has before its text, between that and its usage (each with the quote), and there beside digits."""

    name: str
    choice: int
    before: bytes
    after: bytes
    usage: bytes

    def run_at(self, frames: bytes, start: int) -> PlainRun | None:
        """The whole frames of this form that begin there; None where the first is of another."""
        before, after, form = self.before, self.after, self.usage
        texts: list[bytes] = []
        usage = b""
        while frames.startswith(before, start):
            begin = start + len(before)
            stop = frames.find(b"\n\n", begin)
            end = frames.find(after, begin, stop)
            told = frames[end + len(after) : stop]
            if stop < 0 or end < 0 or told.translate(None, _DIGITS) != form:
                break
            texts.append(frames[begin - 1 : end + 1])
            start, usage = stop + 2, told
        return PlainRun(texts, usage, start) if texts else None


def form_of(frame: bytes, name: str, text: str, choice: int) -> PlainForm | None:
    """The form of a frame that was parsed, and adds nothing but this text to this choice; None where it is unusual."""
    key, told = b'"%b":' % name.encode(), orjson.dumps(text)
    start = frame.find(key, frame.find(b'"delta":')) + len(key)
    if not frame.startswith(told, start):
        return None
    end = start + len(told)
    usage_at = frame.rfind(_USAGE, end)
    if usage_at < 0:
        usage_at = len(frame)
    usage = frame[usage_at:].translate(None, _DIGITS)
    return PlainForm(name, choice, frame[: start + 1], frame[end - 1 : usage_at], usage)
