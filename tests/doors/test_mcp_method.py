"""The method of a message, found without parsing it."""

import asyncio

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_gateway.mcp_door import method as method_module
from mcp_gateway.mcp_door.method import Unfinished, method_of
from tests.cases import each

LONG = b"x" * 200_000
ESCAPES = b'\\"' * 100_000


@each(
    ("raw", "method"),
    [
        (b'{"method":"ping"}', "ping"),
        (b' \t\r\n{ "id" : 1 , "method" : "ping" } ', "ping"),
        (b'{"params":{"method":"tools/call"},"method":"ping"}', "ping"),
        (b'{"params":[{"method":"tools/call"}],"id":1}', None),
        (b'{"params":"\\"method\\":\\"tools/call\\"","method":"ping"}', "ping"),
        (b'{"params":"}{][","method":"ping"}', "ping"),
        (b'{"params":"\\\\","method":"ping"}', "ping"),
        (b'{"method":"tools/call","method":"ping"}', "ping"),
        (b'{"method":"ping","method":"tools/call"}', "tools/call"),
        (b'{"method":"ping","method":{"method":"tools/call"}}', None),
        (b'{"m\\u0065thod":"ping"}', "ping"),
        (b'{"method":"tools\\/call"}', "tools/call"),
        (b'{"method":"tools/call","m\\u0065thod":"ping"}', "ping"),
        (b'{"Method":"ping"," method":"ping","method ":"ping"}', None),
        (b'{"method":1}', None),
        (b'{"method":null,"id":-1.5e3,"a":true,"b":[]}', None),
        (b'{"id":1,"result":{}}', None),
        (b'[{"method":"ping"}]', None),
        (b'"method"', None),
        (b'{"params":"' + LONG + b'","method":"ping"}', "ping"),
        (b'{"params":"' + ESCAPES + b'","method":"ping"}', "ping"),
        (b'{"params":["' + ESCAPES + b'","' + LONG + b'"],"method":"ping"}', "ping"),
        (b" " * 70_000 + b'{"a":' + b"1" * 70_000 + b" " * 70_000 + b',"method":"ping"}', "ping"),
        (b'{"params":[' + b"1," * 100_000 + b'1],"method":"ping"}', "ping"),
        (b'{"params":' + b"[" * 50_000 + b"]" * 50_000 + b',"method":"ping"}', "ping"),
        (b'{"' + LONG + b'":1,"method":"ping"}', "ping"),
        (b'{"method":"' + LONG + b'"}', None),
    ],
)
async def test_the_method_is_that_of_the_top_level_and_the_last_one(raw: bytes, method: str | None) -> None:
    assert await method_of(raw) == method


@each(
    "raw",
    [
        b"",
        b"{",
        b'{"method"',
        b'{"method":',
        b'{"method":"ping',
        b'{"method":"ping"',
        b'{"method" "ping"}',
        b'{"a":"\\',
        b'{"a":{"b":[1,2',
        b'{"a":}',
        b'{"m\\u006":1}',
        b"[" * 10_000,
        b'{"method":"ping","params":{"a":' + LONG,
    ],
)
async def test_a_text_that_ends_too_early_is_told_from_one_without_a_method(raw: bytes) -> None:
    with pytest.raises(Unfinished):
        await method_of(raw)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(["method", "tools/call", '"', "\\", "{", "}", "[", "]", ":", ","]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("method"), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.text() | st.just("method"), values), max_size=6), st.integers(2, 9), st.booleans())
def test_it_is_what_a_parser_finds_however_the_slices_fall(
    members: list[tuple[str, object]], slice_bytes: int, is_spaced: bool
) -> None:
    space = b" \n" if is_spaced else b""
    raw = (
        b"{"
        + b",".join(
            space + orjson.dumps(name) + space + b":" + space + orjson.dumps(value) + space for name, value in members
        )
        + b"}"
    )
    expected = orjson.loads(raw).get("method")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method_module, "_SLICE_BYTES", slice_bytes)
        found = asyncio.run(method_of(raw))
    assert found == (expected if isinstance(expected, str) else None)


@pytest.mark.parametrize("raw", [b'{"a":[' + b"[]," * 600, b"{" + b'"a":1,' * 600 + b'"b":['])
async def test_it_gives_up_on_what_has_more_brackets_or_members_than_anything_that_is_served(
    raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method_module, "_MAX_STEPS", 500)
    assert await method_of(raw + b'1],"method":"ping"}') is None


@each(
    "raw",
    [
        b'{"a":[' + b"[]," * 10_000 + b'1],"method":"ping"}',
        b'{"a":"' + b"\\n" * 500_000 + b'","method":"ping"}',
        b'{"a":[' + b'"b",' * 400_000 + b'1],"method":"ping"}',
        b'{"a":[' + b'"%b",' % (b"b" * 330) * 4000 + b'1],"method":"ping"}',
    ],
)
async def test_others_have_the_loop_while_it_looks(raw: bytes) -> None:
    looking = asyncio.ensure_future(method_of(raw))
    turns = 0
    while not looking.done():
        await asyncio.sleep(0)
        turns += 1
    assert await looking == "ping"
    assert turns > 3
