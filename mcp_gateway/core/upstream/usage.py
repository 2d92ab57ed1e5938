"""The usage that a backend reports: read in one place, parsed or as bytes, however deep it is nested.

A quote inside a JSON string is always escaped, so `"usage":` as raw bytes is a key, and never content.
"""

import re
from typing import Any, NamedTuple

import orjson

_MAX_USAGE_BYTES = 16 * 1024
_MAX_DIGITS = 20
_KEY = b'"usage"'
_COLON = re.compile(rb"\s{0,8}:\s{0,8}")
_COMMA_BEFORE = re.compile(rb",\s{0,8}")
_COMMA_AFTER = re.compile(rb"\s{0,8},\s{0,8}")
_FLAT = rb'\{(?:"[^"\\]{0,64}+":[^"{}\[]{0,64}+){0,16}+\}'
_PLAIN = rb'\{(?:"[^"\\]{0,64}+":(?:' + _FLAT + rb',?+|[^"{}\[]{0,64}+)){0,16}+\}'
_SPLICED_KEY = b',"usage":'
_USUAL = re.compile(rb',"usage":\{"prompt_tokens":\d{1,20},"total_tokens":\d{1,20},"completion_tokens":\d{1,20}\}')
"""Of vLLM's frames, to the letter: taken out of many of them in one go."""
SPLICED_USAGE = re.compile(rb',"usage":(?:' + _PLAIN + rb"|null)")
"""As vLLM writes it, once in every frame: numbers, and objects of numbers; no text, which could hold a brace."""
_TEXT_OR_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+"?+|[{}\[\]]', re.DOTALL)
"""A text without its end is taken too: else each quote that is escaped in it would be tried as a beginning."""
_DEEPER = {b"{": 1, b"[": 1, b"}": -1, b"]": -1}


class Usage(NamedTuple):
    """Token counts as the backend reports them; `cached_tokens` is a part of `prompt_tokens`, None where unknown."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def as_object(self) -> dict[str, Any]:
        """The usage as it is told to a client."""
        told: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.total_tokens,
            "completion_tokens": self.completion_tokens,
        }
        return (
            told
            if self.cached_tokens is None
            else told | {"prompt_tokens_details": {"cached_tokens": self.cached_tokens}}
        )


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
    """A whole number from zero, which some servers write as a decimal (`12.0`) or as text (`"12"`)."""
    is_digits = isinstance(value, str) and len(value) <= _MAX_DIGITS and value.isascii() and value.isdigit()
    if is_digits or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def usage_at(text: bytes | bytearray, start: int) -> Usage | None:
    """The usage that the key there begins to tell; None where it tells none, or more than counts."""
    span = _object_after(text, start + len(_KEY))
    return _parsed(text, span) if span is not None else None


def last_usage(text: bytes | bytearray) -> Usage | None:
    """The last usage that can be read; None where none can."""
    at = text.rfind(_KEY)
    while at >= 0:
        if (usage := usage_at(text, at)) is not None:
            return usage
        at = text.rfind(_KEY, 0, at)
    return None


def without_usage(frames: bytes) -> bytes:
    """The frames without what they tell of usage, whatever shape it has."""
    stripped = _USUAL.sub(b"", frames)
    if _KEY not in stripped:
        return stripped
    kept, begin, at = [], 0, stripped.find(_SPLICED_KEY)
    while at >= 0:
        found = SPLICED_USAGE.match(stripped, at)
        if found is not None:
            kept.append(stripped[begin:at])
            begin = found.end()
        at = stripped.find(_SPLICED_KEY, max(begin, at + len(_SPLICED_KEY)))
    stripped = b"".join((*kept, stripped[begin:]))
    return _without_odd_usage(stripped) if _KEY in stripped else stripped


def _without_odd_usage(frames: bytes) -> bytes:
    kept, begin, at = [], 0, frames.find(_KEY)
    while at >= 0:
        end = _end_of_member(frames, at)
        if end is not None:
            start, end = _with_its_comma(frames, at, end)
            kept.append(frames[begin:start])
            begin = end
        at = frames.find(_KEY, max(begin, at + len(_KEY)))
    kept.append(frames[begin:])
    return b"".join(kept)


def with_cost(frame: bytes, cost_usd: str) -> bytes:
    """A frame with `cost_usd` as the last field of the usage that it tells."""
    at = frame.find(_KEY)
    span = _object_after(frame, at + len(_KEY)) if at >= 0 else None
    if span is None:
        return frame
    end = span[1] - 1
    comma = b"" if frame[span[0] : end].strip() == b"{" else b","
    return b'%b%b"cost_usd":"%b"%b' % (frame[:end], comma, cost_usd.encode(), frame[end:])


def _end_of_member(frames: bytes, at: int) -> int | None:
    """Behind the value of the key there; None where it is no key of an object or null."""
    colon = _COLON.match(frames, at + len(_KEY))
    if colon is None:
        return None
    if frames.startswith(b"null", colon.end()):
        return colon.end() + len(b"null")
    span = _object_after(frames, at + len(_KEY))
    return span[1] if span is not None else None


def _with_its_comma(frames: bytes, start: int, end: int) -> tuple[int, int]:
    """The same member with the comma before it, or, where it is the first, the one behind it."""
    before = frames.rfind(b",", max(0, start - 9), start)
    if before >= 0 and _COMMA_BEFORE.fullmatch(frames, before, start):
        return before, end
    after = _COMMA_AFTER.match(frames, end)
    return start, after.end() if after is not None else end


def _parsed(text: bytes | bytearray, span: tuple[int, int]) -> Usage | None:
    try:
        return read_usage(orjson.loads(text[span[0] : span[1]]))
    except orjson.JSONDecodeError:
        return None


def _object_after(text: bytes | bytearray, at: int) -> tuple[int, int] | None:
    """Where the object begins and ends that follows a key; None where none does, or too long a one."""
    colon = _COLON.match(text, at)
    start = colon.end() if colon is not None else -1
    if start < 0 or text[start : start + 1] != b"{":
        return None
    depth = 0
    for found in _TEXT_OR_BRACKET.finditer(text, start, start + _MAX_USAGE_BYTES):
        depth += _DEEPER.get(bytes(found[0]), 0)
        if not depth:
            return start, found.end()
    return None
