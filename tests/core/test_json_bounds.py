"""What JSON holds is counted before it is parsed, exactly, and in slices."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.core.caller import GUEST, Caller, KeyHolder, Principal
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import (
    MAX_ESCAPES,
    MAX_NESTING,
    SLICE_BYTES,
    JsonBounds,
    holds_at_most,
    parse_json,
)
from tests.cases import each
from tests.turns import turns_during

MARKS = ',:[{]}"\\'
VALUES = st.recursive(
    st.none() | st.integers(-9, 9) | st.text(alphabet=MARKS + "aé\n", max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(MARKS, max_size=4), inner, max_size=4),
    max_leaves=40,
)


def marks_of(value: Any) -> int:
    """Commas, colons and opening brackets of a JSON text, strings left out."""
    if isinstance(value, list):
        return max(1, len(value)) + sum(map(marks_of, value))
    if isinstance(value, dict):
        return max(1, len(value)) + len(value) + sum(map(marks_of, value.values()))
    return 0


@given(VALUES, st.booleans())
async def test_it_is_counted_to_the_last_value_whatever_its_strings_say(value: Any, is_ascii: bool) -> None:
    text = json.dumps([value, MARKS * 50], ensure_ascii=is_ascii).encode()
    marks = marks_of([value, ""])
    assert await holds_at_most(text, marks)
    assert not await holds_at_most(text, marks - 1)


@each("offset", range(-6, 7))
@each("edge", [b"\\\\", b'\\"', b'\\\\\\"', b'\\\\","', b'\\n\\"', b'","'])
async def test_an_escape_or_a_quote_at_the_edge_of_a_slice_is_read_as_anywhere_else(offset: int, edge: bytes) -> None:
    padding = b"," * (SLICE_BYTES + offset)
    text = b'["' + padding + edge + b'[[[","' + b"[" * 100 + b'"]'
    assert isinstance(parsed := orjson.loads(text), list)
    assert await holds_at_most(text, marks_of(parsed))
    assert not await holds_at_most(text, marks_of(parsed) - 1)


@each("text", [b"a, [b], {c: d}. ", b'\\"x\\", ', b'{\\"a\\":[1,2]}', b"\\\\,"])
async def test_a_long_text_full_of_marks_is_one_value(text: bytes) -> None:
    assert await holds_at_most(b'{"content":"' + text * 100_000 + b'"}', 3)


async def test_what_is_no_json_is_counted_no_further_than_a_parser_goes() -> None:
    assert await holds_at_most(b'["a" "' + b"[" * 1000, 100)
    assert not await holds_at_most(b"[" * 1000, 100)
    assert not await holds_at_most(b"[],\\" * 1000, 100)


async def test_escapes_are_counted_too() -> None:
    assert await holds_at_most(b'"' + b"\\n" * MAX_ESCAPES + b'"', 200_000)
    assert not await holds_at_most(b'"' + b"\\n" * (MAX_ESCAPES + 1) + b'"', 200_000)


def caller(principal: Principal) -> Caller:
    return Caller("acc_1", principal, ())


@pytest.mark.parametrize(("who", "most"), [(caller(KeyHolder("key_1")), 4000), (caller(GUEST), 400), (None, 400)])
async def test_who_sends_it_and_how_long_it_is_decide_how_much_it_may_hold(who: Caller | None, most: int) -> None:
    bounds = JsonBounds(4000, 400)
    for size_bytes, allowed in ((10, most), (4_000_000, most), (5_000_000, most // 4)):
        text = b'["' + b"," * size_bytes + b'"' + b",1" * (allowed - 1) + b"]"
        await bounds.check(text, who)
        with pytest.raises(GatewayError, match="invalid_json") as raised:
            await bounds.check(text[:-1] + b",2]", who)
        assert f" {allowed} " in raised.value.message


@pytest.mark.parametrize("text", [b'"' + b"," * 3_000_000 + b'"', b'"' + b"a" * 3_000_000 + b'"'])
async def test_others_are_served_between_slices(text: bytes) -> None:
    assert await turns_during(holds_at_most(text, 1000)) >= len(text) // SLICE_BYTES


@each("padding", [b"", b" " * 10_000, b" " * 1_100_000])
@each(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
def test_so_many_levels_are_read_and_one_more_is_refused(opening: bytes, closing: bytes, padding: bytes) -> None:
    levels = MAX_NESTING // (opening.count(b"[") + opening.count(b"{"))
    text = opening * levels + b"1" + padding + closing * levels
    assert parse_json(text) == orjson.loads(text)
    with pytest.raises(GatewayError, match="invalid_json"):
        parse_json(b"[" + text + b"]")
