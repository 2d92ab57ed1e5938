"""The method of a JSON-RPC message that is too large to be parsed before it is known what it asks for.

Reads JSON no further than it must: strings and brackets. In slices, since the event loop waits meanwhile.
"""

import asyncio
import re

import orjson

_SLICE_BYTES = 64 * 1024
_BYTES_AT_ONCE = 256 * 1024
_STEPS_AT_ONCE = 2000
_MAX_STEPS = 200_000
"""Brackets, and members of the message, that are looked at; nothing that is served has as many."""
_LONGEST_NAME_BYTES = 200
_QUOTE, _COLON, _BRACE, _BRACKET = b'":{['

_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_WITHIN_STRING = re.compile(rb"(?:[^\"\\]++|\\.)*+", re.DOTALL)
_WITHOUT_BRACKETS = re.compile(rb"(?:[^\"{}\[\]]++|" + _STRING + rb")*+", re.DOTALL)
_BETWEEN_MEMBERS = re.compile(rb"[ \t\r\n,]*+")
_SPACE = re.compile(rb"[ \t\r\n]*+")
_SCALAR = re.compile(rb"[^ \t\r\n,}\]]++")


class Unfinished(ValueError):
    """The text ends before the message does, or is no JSON in a way that shows without parsing it."""


class _TooMany(Exception):
    pass


async def method_of(raw: bytes) -> str | None:
    """The value of the top level's `method`, the last where there are several, as parsers have it; None for none.

    None too for what has too many parts to be looked at. Raises Unfinished.
    """
    scan = _Scan(raw)
    try:
        await scan.read_message()
    except _TooMany:
        return None
    return scan.method


class _Scan:
    def __init__(self, raw: bytes) -> None:
        self.method: str | None = None
        self._raw = raw
        self._at = 0
        self._steps = 0
        self._pause_at = _BYTES_AT_ONCE

    async def read_message(self) -> None:
        await self._skip_all(_SPACE)
        if self._take() == _BRACE:
            while await self._has_member():
                pass
        else:
            self._at -= 1
            await self._value()

    async def _has_member(self) -> bool:
        """Read one; False at the end of them."""
        await self._skip_all(_BETWEEN_MEMBERS)
        if self._take() != _QUOTE:
            return False
        name = await self._string()
        await self._skip_all(_SPACE)
        if self._take() != _COLON:
            raise Unfinished
        await self._skip_all(_SPACE)
        value = await self._value()
        if name == "method":
            self.method = value
        return True

    async def _value(self) -> str | None:
        """Go behind a value; a string is returned."""
        await self._step()
        first = self._take()
        if first == _QUOTE:
            return await self._string()
        self._at -= 1
        if first in (_BRACE, _BRACKET):
            await self._skip_container()
        elif not await self._skip_all(_SCALAR):
            raise Unfinished
        return None

    async def _string(self) -> str | None:
        """Go behind a string whose quote was taken; None for one that is longer than any name."""
        start = self._at - 1
        await self._skip_string()
        if self._at - start > _LONGEST_NAME_BYTES:
            return None
        try:
            text: str = orjson.loads(self._raw[start : self._at])
        except orjson.JSONDecodeError:
            raise Unfinished from None
        return text

    async def _skip_string(self) -> None:
        while True:
            before = self._at
            self._skip(_WITHIN_STRING)
            if self._raw[self._at : self._at + 1] == b'"':
                self._at += 1
                return
            if self._at == before:  # nothing but half of an escape is left
                raise Unfinished
            await self._step()

    async def _skip_container(self) -> None:
        depth = 0
        while True:
            self._skip(_WITHOUT_BRACKETS)
            if (found := self._take()) == _QUOTE:  # a string that does not end in this slice
                await self._skip_string()
                await self._step()
                continue
            if found in b"{[":
                depth += 1
            elif found in b"}]":
                depth -= 1
            if not depth:
                return
            await self._step()

    async def _skip_all(self, pattern: re.Pattern[bytes]) -> bool:
        """Go behind what matches; whether there was any."""
        before = self._at
        while self._skip(pattern):
            await self._step()
        return self._at > before

    def _skip(self, pattern: re.Pattern[bytes]) -> bool:
        """The same, of a slice at most."""
        before = self._at
        found = pattern.match(self._raw, before, before + _SLICE_BYTES)
        if found is not None:
            self._at = found.end()
        return self._at > before

    def _take(self) -> int:
        """The next byte. Raises Unfinished at the end."""
        if self._at >= len(self._raw):
            raise Unfinished
        self._at += 1
        return self._raw[self._at - 1]

    async def _step(self) -> None:
        """Count one, and let others have the loop now and then."""
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise _TooMany
        if self._at >= self._pause_at or not self._steps % _STEPS_AT_ONCE:
            self._pause_at = self._at + _BYTES_AT_ONCE
            await asyncio.sleep(0)
