"""Token ids that are never parsed: a body is read as the parser would read it, and its ids are written as they came."""

import asyncio
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcp_gateway.core.caller import Caller, KeyHolder
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import JsonBounds, dump_json
from mcp_gateway.core.json_fields import parse_json_object
from mcp_gateway.core.surfaces.embeddings import EMBEDDINGS, IDS_IN
from mcp_gateway.core.surfaces.prompt_sizes import opening_of
from mcp_gateway.core.surfaces.surface import Ask
from mcp_gateway.core.token_ids import MAX_IDS, MAX_TOKEN_ID, TokenIds, read_json_body
from tests.cases import each
from tests.turns import turns_during

CALLER = Caller("acc_1", KeyHolder("key_1"), ())
WIDE, NARROW = JsonBounds(10_000_000, 10_000_000), JsonBounds(100, 100)
LONG = b" " * 16 * 1024
"""Makes a body long enough not to be parsed at once."""
BIG = b"9" * 30


def body_of(ids: bytes) -> bytes:
    return b'{"model":"m","input":%b,"user":"u"}' % ids


async def asked(raw: bytes, bounds: JsonBounds = WIDE) -> Ask:
    return EMBEDDINGS.read(await read_json_body(raw, IDS_IN, bounds, CALLER), len(raw))


def told_of(read: Any) -> tuple[Any, ...]:
    """What a body is read as, or refused with."""
    try:
        ask = read()
    except GatewayError as error:
        return error.code, error.param
    return ask.prompt.number, ask.prompt.token_ids, orjson.loads(dump_json(ask.body)), [*ask.surface.opening(ask.body)]


def is_read_alike(raw: bytes) -> None:
    """By the parser, and with its ids left as they are."""
    plain = told_of(lambda: EMBEDDINGS.read(parse_json_object(raw), len(raw)))
    assert told_of(lambda: asyncio.run(asked(raw))) == plain


ODD = [
    b"-1", b"-0", b"1.0", b"1e3", b"01", b"007", b"2147483648", BIG, b"null", b"true", b'"x"', b"{}", b"[]", b"",
    b"[1]", b"[[1]]", b"0x1", b"+1", b"1 2", b"NaN", b"\xff", b'"\\u005d"',
]  # fmt: skip
SPACE = st.sampled_from([b"", b"", b"", b" ", b"\n\t", b"\r\n  "])
ID = st.one_of(st.integers(0, MAX_TOKEN_ID).map(b"%d".__mod__), st.sampled_from([b"0", b"2147483647"]))
ITEM = st.one_of(ID, ID, ID, ID, ID, st.sampled_from(ODD))


@st.composite
def lists(draw: st.DrawFn, items: st.SearchStrategy[bytes]) -> bytes:
    told = [draw(SPACE) + item + draw(SPACE) for item in draw(st.lists(items, max_size=6))]
    return b"[%b]" % (b",".join(told) or draw(SPACE))


IDS = st.one_of(lists(ID), lists(ITEM), lists(lists(ID)), lists(lists(ITEM)), lists(st.one_of(lists(ID), ITEM)))


@given(IDS, SPACE, st.booleans())
@example(b"[" + b",".join([b"7"] * 100_000) + b"]", b"", False)
@example(b"[1" + b" " * 200_000 + b",2]", b"", False)
@example(b"[1," + b" " * 200_000 + b"2]", b"", False)
@example(b"[" + b"1" * 100_000 + b"]", b"", False)
def test_a_list_is_read_as_the_parser_reads_it(ids: bytes, space: bytes, is_last: bool) -> None:
    field = b'"input"%b:%b%b' % (space, space, ids)
    rest = b'"model":"m","user":"%b"' % (b"u" * len(LONG))
    is_read_alike(b"{%b,%b}" % ((rest, field) if is_last else (field, rest)))


@given(IDS, st.integers(0, 400), st.sampled_from([b"", b",", b"]", b"[", b'"', b"-", b"1", b".", b"\\", b" "]))
def test_so_is_a_list_that_is_broken_somewhere(ids: bytes, at: int, put: bytes) -> None:
    raw = body_of(ids)
    at = min(at, len(raw))
    is_read_alike(raw[:at] + put + raw[at + 1 :] + LONG)


@each(
    "raw",
    [
        b'{"model":"m","user":"\\"input\\":[1,2]","input":"x"}',
        b'{"model":"m","my\\"input":[1,2],"input":[3]}',
        b'{"model":"m","metadata":{"input":[1,2]},"input":"x"}',
        b'{"model":"m","metadata":{"input":[1,2]}}',
        b'{"model":"m","input":[1,2],"input":[3]}',
        b'{"model":"m","input":[1,2],"input":"x"}',
        b'{"model":"m","input":"x","input":[1,2]}',
        b'{"model":"m","input":[1,2],"messages":[{"role":"user","content":"x"}]}',
        b'{"model":"m","input":[1,2]',
        b'{"model":"m","input":[1,2',
        b'{"model":"m","input":[1,2]]}',
        b'{"model":"m","input":[[1],[2]}',
        b'["input",[1,2]]',
        b'"input":[1,2]',
        b'{"model":"m","input":[1,2],"seed":%b}' % BIG,
        b'\xef\xbb\xbf{"model":"m","input":[1,2]}',
        b'{"in\\u0070ut":[1,2],"model":"m"}',
        b'{"model":"m","input":"input","user":[1,2]}',
        b'{"model":"m","a":["input",[1,2]],"input":[[1],[2,3]]}',
    ],
)
def test_wherever_the_name_stands_the_body_is_read_as_the_parser_reads_it(raw: bytes) -> None:
    is_read_alike(raw + LONG)


async def test_ids_are_kept_as_they_came_also_while_they_are_put_away() -> None:
    ids = b"[[" + b"1, 2,3" * 3000 + b"],\n[7]]"
    raw = body_of(ids.replace(b"31", b"3,1"))
    ask = await asked(raw, NARROW)
    kept = ask.body["input"]
    assert isinstance(kept, TokenIds)
    assert kept.text in raw
    sent = dump_json({"user": kept.text[:40].decode(), **ask.body, "big": 10**30})
    assert kept.text in sent
    ask.put_away(sent)
    assert ask.body == {}
    ask.take_out()
    assert dump_json(ask.body) == sent
    assert (ask.body["input"].text, ask.body["big"]) == (kept.text, 10**30)
    ask.put_away(sent)
    ask.forget_body()
    ask.take_out()
    assert ask.body == {}


@each("other", [{"user": "%b"}, {"user": '"input":%b'}, {"metadata": {"input": None}}, {"metadata": {"input": [1]}}])
async def test_they_are_told_from_what_looks_like_them(other: dict[str, Any]) -> None:
    ids = b"[" + b"7," * 10_000 + b"7]"
    ask = await asked(body_of(ids))
    other = orjson.loads(orjson.dumps(other).replace(b"%b", ids))
    if other.get("metadata") == {"input": None}:
        other = {"metadata": {"input": orjson.loads(ids)}}
    sent = dump_json(other | ask.body)
    ask.put_away(sent)
    ask.take_out()
    assert dump_json(ask.body) == dump_json(orjson.loads(sent))


def test_a_short_list_and_a_long_one_with_the_same_beginning_have_the_same_opening() -> None:
    ids = [*range(3000)]
    for one, other in ((ids, ids[:1024]), ([ids, [1]], [ids[:2000]])):
        text = orjson.dumps(one)
        assert opening_of(TokenIds(text, 1, 3000, is_nested=isinstance(one[0], list))) == opening_of(other)


MANY = b",".join([b"5"] * 20_000)


@each(
    ("ids", "code", "param"),
    [
        (b"[%b,-5]" % MANY, "invalid_value", "input"),
        (b"[-5,%b]" % MANY, "invalid_value", "input"),
        (b"[%b,2147483648]" % MANY, "invalid_value", "input"),
        (b"[%b,%b,5]" % (MANY, BIG), "invalid_value", "input"),
        (b"[%b,5.0]" % MANY, "invalid_type", "input"),
        (b"[%b,5e0,%b]" % (MANY, MANY), "invalid_type", "input"),
        (b"[[1],[%b,-5]]" % MANY, "invalid_value", "input[1]"),
        (b"[[%b],[0.5]]" % MANY, "invalid_type", "input[1]"),
        (b"[%b[5]]" % (b"[5]," * 5000), "invalid_value", "input"),
        (b'[%b,"x"]' % MANY, "invalid_json", None),
        (b"[%b,[5]]" % MANY, "invalid_json", None),
        (b"[[%b],[[5]]]" % MANY, "invalid_json", None),
        (b"[[%b],5]" % MANY, "invalid_json", None),
    ],
)
async def test_what_is_wrong_with_more_ids_than_json_may_hold_is_told(ids: bytes, code: str, param: str | None) -> None:
    with pytest.raises(GatewayError) as refused:
        await asked(body_of(ids), NARROW)
    assert (refused.value.code, refused.value.param) == (code, param)


async def test_there_may_be_two_million_and_no_more() -> None:
    most = b"[" + b"7," * (MAX_IDS - 1) + b"7"
    ask = await asked(body_of(most + b"]"), NARROW)
    assert (ask.prompt.number, ask.prompt.token_ids) == (1, MAX_IDS)
    for ids in (most + b",7]", b"[%b],[7]]" % most):
        with pytest.raises(GatewayError) as refused:
            await asked(body_of(ids), NARROW)
        assert (refused.value.code, refused.value.param) == ("invalid_value", "input")


async def test_others_have_their_turns_all_along() -> None:
    """Between any two of them less is looked at than holds them up: so many turns for so many slices."""
    turns = await turns_during(asked(body_of(b"[" + b"1234567," * 200_000 + b"7]"), NARROW))
    assert turns >= 200_000 * 8 // (64 * 1024)
