"""Server-sent events in every form that the format allows come out in one, wherever the network cuts them."""

from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.surfaces.events import EventReader
from tests.cases import each

PLAIN = b'data: {"a":1}\n\ndata: {"b":"x y"}\n\ndata: [DONE]\n\n'
FORMS = {
    "line feeds": PLAIN,
    "CR LF": PLAIN.replace(b"\n", b"\r\n"),
    "CR alone": PLAIN.replace(b"\n", b"\r"),
    "a byte order mark": b"\xef\xbb\xbf" + PLAIN,
    "a byte order mark and CR": b"\xef\xbb\xbf" + PLAIN.replace(b"\n", b"\r"),
    "names, ids and times to wait": PLAIN.replace(b"data:", b"event: message\nid: 7\nretry: 1\ndata:"),
    "names behind the data": PLAIN.replace(b"\n\n", b"\nevent: x\n\n"),
    "blank lines between": b"\n\n" + PLAIN.replace(b"\n\n", b"\n\n\n\n\n"),
    "events without data": PLAIN.replace(b"data: {", b"event: ping\n\ndata:\n\ndata: \n\nid: 3\n\ndata: {"),
    "unknown fields": PLAIN.replace(b"data: {", b"what: is this\nor\ndata: {"),
    "data in two lines": PLAIN.replace(b'{"b":"x y"}', b'{"b":\ndata: "x y"}'),
    "line ends of all kinds": b'data: {"a":1}\r\rdata: {"b":"x y"}\r\n\ndata: [DONE]\n\r\n',
}


def read(stream: bytes, cuts: list[int]) -> bytes:
    reader = EventReader()
    edges = [0, *sorted(cuts), len(stream)]
    return b"".join(reader.feed(stream[start:end]) for start, end in pairwise(edges)) + reader.end()


def values(stream: bytes) -> list[object]:
    data = [event.removeprefix(b"data:").strip() for event in stream.split(b"\n\n") if event]
    return [one if one == b"[DONE]" else orjson.loads(one) for one in data]


@each("stream", FORMS.values())
def test_every_form_says_the_same_cut_at_every_byte(stream: bytes) -> None:
    for cut in range(len(stream) + 1):
        assert values(read(stream, [cut])) == values(PLAIN)


@given(st.sampled_from(list(FORMS.values())), st.lists(st.integers(min_value=0, max_value=99), max_size=99))
def test_every_form_says_the_same_cut_anywhere(stream: bytes, cuts: list[int]) -> None:
    assert values(read(stream, [min(cut, len(stream)) for cut in cuts])) == values(PLAIN)


def test_a_stream_that_comes_byte_by_byte_is_the_same_stream() -> None:
    for stream in FORMS.values():
        assert values(read(stream, list(range(len(stream))))) == values(PLAIN)


def test_a_comment_is_an_event_of_its_own_even_within_another() -> None:
    assert EventReader().feed(b": one\n\n:\ndata: 1\n: two\n\n") == b": one\n\n:\n\n: two\n\ndata: 1\n\n"


@each(
    ("event", "told"),
    [
        (b'event: error\ndata: {"message":"m"}', {"error": {"message": "m"}}),
        (b'data: {"message":"m"}\nevent: error', {"error": {"message": "m"}}),
        (b'event:error\ndata:{"error":{"code":500}}', {"error": {"error": {"code": 500}}}),
        (b"event: error\ndata: it broke", {"error": "it broke"}),
        (b"event: error\ndata: \xff", {"error": "\ufffd"}),
        (b"event: error\ndata: null", {"error": "an error"}),
        (b'error: {"code":500,"message":"m"}', {"error": {"code": 500, "message": "m"}}),
        (b'event: message\ndata: {"a":1}', {"a": 1}),
        (b'event: errors\ndata: {"a":1}', {"a": 1}),
    ],
)
def test_an_event_named_error_is_an_error_by_its_data(event: bytes, told: object) -> None:
    assert values(EventReader().feed(event + b"\n\n")) == [told]


@each("last", [b"data: [DONE]", b"data: [DONE]\n", b'data: {"a":1}', b"id: 1\ndata:[DONE]\r"])
def test_the_last_event_needs_no_blank_line_where_it_is_whole(last: bytes) -> None:
    reader = EventReader()
    assert reader.feed(last) == b""
    assert reader.end() == b"data: " + last.split(b"data:")[1].strip() + b"\n\n" or reader.end() == b""
    assert reader.tail == b""


@each("cut", [b'data: {"a":', b"data: [DON", b"data:", b"da", b": comment", b'event: x\ndata: {"a', b"\n"])
def test_a_last_event_that_was_cut_is_none(cut: bytes) -> None:
    reader = EventReader()
    reader.feed(cut)
    assert reader.end() == b""


@each("line", [b":\n\n", b"\nid\n", b"data:\n\n", b"x\n"])
def test_a_flood_of_lines_that_say_nothing_is_refused(line: bytes) -> None:
    with pytest.raises(GatewayError, match="backend_error"):
        EventReader().feed(line * 20_000 + b"\n\n")


def test_a_flood_of_blank_lines_is_nothing() -> None:
    assert EventReader().feed(b"\n" * 200_000) == b""
