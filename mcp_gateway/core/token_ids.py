"""Token ids of a request, kept as the JSON text that they came in: counted and checked in slices, and never parsed.

Parsed, two million of them hold the event loop for a quarter of a second, in a thread too, and take 70 MB. Whatever is
not plainly a list of ids, or of lists of them, is left to the parser, within the bounds of all JSON.
"""

import asyncio
import re
from itertools import islice
from secrets import token_hex
from typing import Any, NamedTuple

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.json_bounds import DIGITS_AS_ZEROS, JsonBounds, JsonText, parse_exactly
from mcp_gateway.core.json_fields import parse_json_object

MAX_IDS = 2_000_000
"""Of one request; they are not counted as values of its JSON."""
MAX_TOKEN_ID = 2**31 - 1
"""Larger than any; beyond 32 bits a tokenizer fails, and not the request that is at fault."""
_LEAST_BYTES = 16 * 1024
"""A shorter body is parsed: it holds too few ids to be worth more than that."""
_SLICE_BYTES = 64 * 1024
"""What takes about a millisecond."""
_MOST_KEYS = 8
"""How often the field's name is looked for; a body has it once."""
_WHITE = rb"[ \t\r\n]*+"
_OPENING = re.compile(rb"[ \t\r\n]{0,64}+:[ \t\r\n]{0,64}+(?=\[)")
_INNER = re.compile(rb"%b\[" % _WHITE)
_RUN = re.compile(rb"(?:%b(?:0|[1-9][0-9]*+)%b,)*+" % (_WHITE, _WHITE))
_LAST = re.compile(rb"%b(0|[1-9][0-9]*+)%b\]" % (_WHITE, _WHITE))
_BETWEEN = re.compile(rb"%b([,\]])" % _WHITE)
_NUMBER = re.compile(rb"%b(-?)[0-9]++(\.|[eE])?" % _WHITE)
_ID = re.compile(rb"[0-9]++")
_TEN_DIGITS = re.compile(rb"[0-9]{10,}+")
_TEN_ZEROS = b"0" * 10


class IdsField(NamedTuple):
    """The member of a body that may hold token ids, and how many lists of them."""

    name: str
    most_lists: int


class TokenIds(JsonText):
    """One list of ids, or several; `prompts` is how many, `ids` how many they have."""

    __slots__ = ("ids", "is_nested", "prompts")

    def __init__(self, text: bytes, prompts: int, ids: int, *, is_nested: bool) -> None:
        super().__init__(text)
        self.prompts = prompts
        self.ids = ids
        self.is_nested = is_nested

    def beginning(self, most: int) -> list[int]:
        """The first ids of the first list."""
        found = _ID.finditer(self.text, 0, self.text.index(b"]"))
        return [int(one[0]) for one in islice(found, most)]

    def within(self, sent: bytes, name: str) -> "PlacedIds":
        """Where they stand in a body that was written with them as the member of that name."""
        key = b'"%b":' % name.encode()
        at = sent.index(key) + len(key)
        while not sent.startswith(self.text, at):
            at = sent.index(key, at) + len(key)
        return PlacedIds(at, at + len(self.text), self.prompts, self.ids, self.is_nested)


class PlacedIds(NamedTuple):
    """The same as part of a longer text, which alone is kept."""

    start: int
    end: int
    prompts: int
    ids: int
    is_nested: bool

    def taken_out(self, sent: bytes, name: str) -> dict[str, Any]:
        """The body that was sent, with its ids as they were."""
        body: dict[str, Any] = parse_exactly(sent[: self.start] + b"null" + sent[self.end :])
        if body[name] is not None:  # those found were another member's, of the same name further down
            return dict(parse_exactly(sent))
        text = sent[self.start : self.end]
        return body | {name: TokenIds(text, self.prompts, self.ids, is_nested=self.is_nested)}


async def read_json_body(raw: bytes, ids_in: IdsField, bounds: JsonBounds, caller: Caller) -> dict[str, Any]:
    """A request's body, whose many token ids in that field are TokenIds. Raises GatewayError (400)."""
    fault = None
    if len(raw) >= _LEAST_BYTES and (start := _start_of(raw, ids_in.name)) is not None:
        reader = _IdsReader(raw, ids_in)
        ids, fault = await reader.read(start), reader.fault
        if ids is not None:
            mark = token_hex()
            rest = b'%b"%b"%b' % (raw[:start], mark.encode(), raw[start + len(ids.text) :])
            await bounds.check(rest, caller)
            body = parse_json_object(rest)
            if body.get(ids_in.name) == mark:  # and not a field of that name elsewhere
                return body | {ids_in.name: ids}
    try:
        await bounds.check(raw, caller)
    except GatewayError:
        if fault is None:
            raise
        raise GatewayError(fault.code, fault.message, param=fault.param) from None
    return parse_json_object(raw)


def _start_of(raw: bytes, name: str) -> int | None:
    """Where the list begins that is the value of that name, if there is one."""
    key, at = b'"%b"' % name.encode(), -1
    for _ in range(_MOST_KEYS):
        at = raw.find(key, at + 1)
        if at < 0:
            return None
        if (found := _OPENING.match(raw, at + len(key))) is not None:
            return found.end()
    return None


class _Fault(NamedTuple):
    """What is wrong with ids: what is to be raised of them, which is no error yet, as that would keep its frames."""

    code: Code
    message: str
    param: str


class _IdsReader:
    """Goes through a list; what is not plain ends it, with a `fault` where that is a number, or too many."""

    fault: _Fault | None = None

    def __init__(self, raw: bytes, field: IdsField) -> None:
        self._raw = raw
        self._field = field
        self._at = 0
        self._count = 0
        self._turn_at = 0

    async def read(self, start: int) -> TokenIds | None:
        """What stands there, if it is nothing but ids."""
        self._at = self._turn_at = start + 1
        is_nested = self._go_behind(_INNER.match(*self._window)) is not None
        prompts = await (self._read_lists() if is_nested else self._read_list(self._field.name))
        if not prompts:
            return None
        return TokenIds(self._raw[start : self._at], prompts, self._count, is_nested=is_nested)

    async def _read_lists(self) -> int:
        """How many there are; 0 where something else is among them."""
        prompts = 0
        while await self._read_list(f"{self._field.name}[{prompts}]"):
            prompts += 1
            between = self._go_behind(_BETWEEN.match(*self._window))
            if between is None or between[1] == b"]":
                return 0 if between is None else prompts
            if prompts == self._field.most_lists:
                self._blame("invalid_value", f"`{self._field.name}` may have at most {prompts} entries.")
                return 0
            if self._go_behind(_INNER.match(*self._window)) is None:
                return 0
        return 0

    async def _read_list(self, where: str) -> int:
        """1 once it is read to its end."""
        while (run := self._go_behind(_RUN.match(*self._window))) is not None and run[0]:
            if not self._take(run[0], run[0].count(b","), where):
                return 0
            if self._at - self._turn_at >= _SLICE_BYTES:
                self._turn_at = self._at
                await asyncio.sleep(0)
        if (last := self._go_behind(_LAST.match(*self._window))) is not None:
            return int(self._take(last[0], 1, where))
        self._look_at_odd_one(where)
        return 0

    @property
    def _window(self) -> tuple[bytes, int, int]:
        """What is looked at next."""
        return self._raw, self._at, self._at + _SLICE_BYTES

    def _go_behind(self, found: re.Match[bytes] | None) -> re.Match[bytes] | None:
        if found is not None:
            self._at = found.end()
        return found

    def _take(self, ids: bytes, count: int, where: str) -> bool:
        """Count them, if none is too large and there are not too many."""
        self._count += count
        if self._count > MAX_IDS:
            self._blame("invalid_value", too_many(self._field.name))
        elif _TEN_ZEROS in ids.translate(DIGITS_AS_ZEROS) and any(map(_is_too_large, _TEN_DIGITS.findall(ids))):
            self._blame("invalid_value", out_of_range(where), where)
        return self.fault is None

    def _look_at_odd_one(self, where: str) -> None:
        """Of what is no number, the parser tells."""
        number = _NUMBER.match(*self._window)
        if number is not None and number[2]:
            self._blame("invalid_type", not_whole(where), where)
        elif number is not None and number[1]:
            self._blame("invalid_value", out_of_range(where), where)

    def _blame(self, code: Code, message: str, param: str | None = None) -> None:
        self.fault = _Fault(code, message, param or self._field.name)


def _is_too_large(digits: bytes) -> bool:
    return len(digits) > len(_TEN_ZEROS) or int(digits) > MAX_TOKEN_ID


def too_many(name: str) -> str:
    """In words, as are the next two."""
    return f"`{name}` may hold at most {MAX_IDS} token ids."


def out_of_range(name: str) -> str:
    return f"`{name}` must hold token ids, from 0 to {MAX_TOKEN_ID}."


def not_whole(name: str) -> str:
    return f"`{name}` must hold token ids, whole numbers."
