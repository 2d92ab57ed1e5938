"""JSON that others send, bounded in what it holds before it is parsed, and in its nesting.

A parser holds the event loop until it is done, in a thread too, and one byte can cost it a hundred times another. What
is long is counted in slices, between which others are served.
"""

import asyncio
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

import orjson

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.config import Settings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.text import shown

MAX_NESTING = 240
MAX_ESCAPES = 2_000_000
"""Backslashes of one body: each costs a parser several times another byte."""
SLICE_BYTES = 256 * 1024
"""What takes about a millisecond, however it is looked at."""
_MARKS = b",:[{"
"""One stands before each value and after each name, and one more in an empty list or object."""
_WRITTEN_LEVELS = 254
"""So deep can orjson write what it has read; it reads deeper."""
_SHORT_BYTES = 8 * 1024
LONG_BYTES = 1024 * 1024
"""From here on the steps of a request's way are taken in turns of their own."""
DIGITS_AS_ZEROS = bytes(ord("0") if chr(byte).isdigit() and chr(byte).isascii() else byte for byte in range(256))
_HALF = re.compile("[\ud800-\udfff]")
_SEARCHED_BYTES = 64 * 1024
_BEYOND_64_BITS = b"0" * 19
_HUGE_BYTES, _HUGE_PART = 4 * 1024 * 1024, 4


@dataclass(frozen=True, slots=True)
class JsonBounds:
    """The most values and names in a request's JSON, by who sends it."""

    max_values: int
    max_guest_values: int

    @classmethod
    def of(cls, settings: Settings) -> "JsonBounds":
        return cls(settings.limits.max_json_values, settings.guests.max_json_values)

    async def check(self, raw: bytes, caller: Caller | None) -> None:
        """Raises GatewayError `invalid_json` for more values, names or escapes than the sender may send."""
        most = self.max_guest_values if caller is None or caller.is_guest else self.max_values
        if len(raw) > _HUGE_BYTES:
            most //= _HUGE_PART  # it takes a parser long enough without them
        if len(raw) > most and not await holds_at_most(raw, most):
            told = f"The body may hold at most {most} values and names, and {MAX_ESCAPES} backslashes."
            raise GatewayError("invalid_json", told)


async def holds_at_most(raw: bytes | bytearray, max_values: int) -> bool:
    """Whether JSON has at most so many values and names, and no more than MAX_ESCAPES; nothing is parsed.

    Most texts are told by their length, or by their commas, colons and brackets, those within strings included. Only
    for what has too many of these the strings are told from the rest.
    """
    if len(raw) <= max_values:
        return True
    marks = escapes = 0
    for start in range(0, len(raw), SLICE_BYTES):
        piece = raw[start : start + SLICE_BYTES]
        marks += marks_in(piece)
        escapes += piece.count(b"\\")
        if len(raw) > SLICE_BYTES:
            await asyncio.sleep(0)
    return escapes <= MAX_ESCAPES and (marks <= max_values or await _holds_at_most(raw, max_values))


async def _holds_at_most(raw: bytes | bytearray, max_values: int) -> bool:
    """The same for certain: counted outside strings, up to where the text is no JSON, which no parser gets beyond."""
    marks = start = 0
    is_in_string = False
    while start < len(raw) and marks <= max_values:
        piece = raw[start : start + SLICE_BYTES]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # an escape that the next byte belongs to
            piece = raw[start : start + SLICE_BYTES + 1]
        start += len(piece)
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        marks += marks_in(b"".join(parts[is_in_string::2]))
        is_in_string ^= len(parts) % 2 == 0
        await asyncio.sleep(0)
    return marks <= max_values


def marks_in(text: bytes | bytearray) -> int:
    """No fewer than the values and names in a JSON text, and as many more as its strings look like."""
    return len(text) - len(text.translate(None, _MARKS))


def parse_json(raw: bytes | bytearray) -> Any:
    """The value of a JSON text. Raises JSONDecodeError, or GatewayError `invalid_json` where it is nested too deep."""
    value = orjson.loads(raw)
    if len(raw) > LONG_BYTES:
        is_deep = _is_deep_by_level(value)
    else:
        is_deep = len(raw) > 2 * MAX_NESTING and _may_be_deep(raw) and _is_deep(value)
    if is_deep:
        raise _too_deep()
    return value


async def parse_in_turns(raw: bytes | bytearray) -> Any:
    """The same of a long text, with a turn for others before its nesting is looked at."""
    value = orjson.loads(raw)
    await asyncio.sleep(0)
    if _is_deep_by_level(value):
        raise _too_deep()
    return value


def _too_deep() -> GatewayError:
    return GatewayError("invalid_json", f"The body is nested too deeply: more than {MAX_NESTING} levels.")


def parse_exactly(raw: bytes) -> Any:
    """The same with every integer as it was written: beyond 64 bits orjson makes decimals of them.

    Only a text with so many digits in a row is read again, by a parser that takes several times as long.
    """
    value = parse_json(raw)
    if _BEYOND_64_BITS in raw.translate(DIGITS_AS_ZEROS):
        with suppress(ValueError):  # thousands of digits: no backend reads such a number
            value = json.loads(raw)
    return value


def half_character(raw: bytes, error: orjson.JSONDecodeError) -> str | None:
    """Where a text holds half of a surrogate pair, such as `messages[0].content`, if that is why it was not parsed.

    JSON allows it by its grammar, but it is no character, and UTF-8 has no bytes for it. A long text is not searched.
    """
    if not error.msg.endswith("surrogate in string") or len(raw) > _SEARCHED_BYTES:
        return None
    with suppress(ValueError, RecursionError):
        return _first_half(json.loads(raw))
    return None


def told_of_half(place: str) -> str:
    """What is wrong with it, in words."""
    return f"`{shown(place)}` holds half of a surrogate pair, which is no character: send both halves, or neither."


def _first_half(value: Any) -> str | None:
    waiting = [("", value)]
    while waiting:
        place, one = waiting.pop()
        if isinstance(one, str) and _HALF.search(one):
            return place or "the body"
        if isinstance(one, dict):
            if any(_HALF.search(name) for name in one):
                return place or "the body"
            waiting.extend((f"{place}.{name}".removeprefix("."), member) for name, member in reversed(one.items()))
        elif isinstance(one, list):
            waiting.extend((f"{place}[{index}]", one[index]) for index in reversed(range(len(one))))
    return None


class JsonText:
    """A value as JSON text, which is written as it is."""

    __slots__ = ("text",)

    def __init__(self, text: bytes) -> None:
        self.text = text


def dump_json(value: Any) -> bytes:
    """The JSON text of a value that may hold integers beyond 64 bits, and JsonText."""
    try:
        return orjson.dumps(value, default=_fragment)
    except orjson.JSONEncodeError:
        return _dump_exactly(value)


def _fragment(value: JsonText) -> orjson.Fragment:
    return orjson.Fragment(value.text)


def _dump_exactly(value: Any) -> bytes:
    """The same by a parser that writes any integer; a mark stands for each text until the rest is there."""
    texts: dict[bytes, bytes] = {}

    def marked(one: JsonText) -> str:
        mark = token_hex()
        texts[b'"%b"' % mark.encode()] = one.text
        return mark

    told = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=marked).encode()
    for mark, text in texts.items():
        told = told.replace(mark, text)
    return told


def _may_be_deep(raw: bytes | bytearray) -> bool:
    """False for few brackets in a short text; in a long one it costs more to count them than to ask `_is_deep`."""
    return len(raw) > _SHORT_BYTES or raw.count(b"[") + raw.count(b"{") > MAX_NESTING


def _is_deep(value: Any) -> bool:
    """Whether it is too deep to be written within as many levels as are left above MAX_NESTING: cheap by the value."""
    for _ in range(_WRITTEN_LEVELS - MAX_NESTING):
        value = [value]
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return True
    return False


def _is_deep_by_level(value: Any) -> bool:
    """The same by going down level by level: cheap by the byte, for a long text holds few values for its length."""
    level: list[Any] = [[value]]
    for _ in range(MAX_NESTING + 1):
        members = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for values in members for one in values if isinstance(one, dict | list)]
    return bool(level)
