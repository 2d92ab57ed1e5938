"""What the gateway reads out of a chat request, and how strictly."""

import contextlib
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.json_fields import parse_json_object
from mcp_gateway.core.surfaces.chat import MAX_MESSAGES, MAX_PARTS, MAX_TOOLS, parse_chat
from mcp_gateway.core.surfaces.surface import Ask
from tests.captured import Capture, captures
from tests.cases import each

PIXEL = "data:image/png;base64,AAAA"


def parse(**fields: Any) -> Ask:
    body = {"model": "m", "messages": [{"role": "user", "content": "hé"}]} | fields
    return parse_chat(orjson.dumps(body))


def test_the_few_fields_are_read_and_the_body_is_kept_whole() -> None:
    fields = {"stream": True, "stream_options": {"include_usage": True, "x": 1}, "n": 2, "max_tokens": 9, "seed": 4}
    request = parse(**fields)
    assert (request.model, request.prompt.parts, request.choices, request.output_limit) == ("m", 1, 2, 9)
    assert (request.is_stream, request.usage_wishes.at_end, request.usage_wishes.in_each) == (True, True, False)
    assert request.body == {"model": "m", "messages": [{"role": "user", "content": "hé"}]} | fields


def test_absent_and_null_fields_are_the_same() -> None:
    nothing = {"stream": None, "stream_options": None, "n": None, "max_tokens": None, "max_completion_tokens": None}
    for request in (parse(), parse(**nothing)):
        assert (request.is_stream, request.usage_wishes.at_end, request.choices, request.output_limit) == (
            False,
            False,
            1,
            None,
        )


def test_of_two_caps_the_one_that_vllm_prefers_counts() -> None:
    assert parse(max_tokens=5, max_completion_tokens=9).output_limit == 9
    assert parse(max_tokens=5).output_limit == 5


def test_the_size_is_that_of_the_bytes_less_the_images() -> None:
    parts = [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": PIXEL * 100}}, "plain"]
    messages = [{"role": "user", "content": parts}, {"role": "user", "content": [
        {"type": "image_url", "image_url": PIXEL}]}]  # fmt: skip
    request = parse(messages=messages)
    assert request.prompt.images == (PIXEL * 100, PIXEL)
    size_bytes = len(orjson.dumps({"model": "m", "messages": messages}))
    assert request.prompt.text_bytes == size_bytes - len(PIXEL) * 101


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_names = st.sampled_from(["model", "messages", "stream", "stream_options", "max_tokens", "min_tokens", "n", "x"])
_parts = st.fixed_dictionaries({}, optional={"type": _json | st.just("image_url"), "image_url": _json})
_messages = st.lists(
    st.fixed_dictionaries({"role": _json | st.just("user")}, optional={"content": _json | st.lists(_parts)}),
    max_size=3,
)


@given(st.dictionaries(_names, _json), _messages)
def test_whatever_json_comes_it_is_read_or_refused(fields: dict[str, Any], messages: list[Any]) -> None:
    for body in (fields, {"model": "m", "messages": messages} | fields, {"model": "m", "messages": messages}):
        with contextlib.suppress(GatewayError):
            request = parse_chat(orjson.dumps(body))
            assert request.choices >= 1
            assert request.prompt.text_bytes >= 0


@given(st.binary(max_size=40))
def test_whatever_bytes_come_they_are_an_object_or_refused(raw: bytes) -> None:
    with contextlib.suppress(GatewayError):
        assert isinstance(parse_json_object(raw), dict)


GUESSED = {"332_stream_str"}
SERVED = [
    capture
    for capture in captures()
    if capture.is_chat and capture.status == 200 and capture.is_request_whole and b'"tiny' in capture.request_body
]


@each("capture", SERVED)
def test_what_vllm_serves_is_read_unless_it_had_to_guess(capture: Capture) -> None:
    if capture.case in GUESSED:
        with pytest.raises(GatewayError, match="invalid_type"):
            parse_chat(capture.request_body)
    else:
        assert parse_chat(capture.request_body).model in ("tiny", "tiny-alias")


def bounded(fields: dict[str, Any]) -> tuple[str, str | None]:
    with pytest.raises(GatewayError) as raised:
        parse(**fields)
    return raised.value.code, raised.value.param


USER = {"role": "user", "content": "a"}


def test_messages_parts_and_tools_are_bounded_in_number() -> None:
    most = [{"role": "user", "content": ["a"] * (MAX_PARTS // 2)}] * 2
    assert parse(messages=most, tools=[{}] * MAX_TOOLS).prompt.parts == 2
    assert parse(messages=[USER] * MAX_MESSAGES).prompt.parts == MAX_MESSAGES
    assert bounded({"messages": [USER] * (MAX_MESSAGES + 1)}) == ("invalid_value", "messages")
    assert bounded({"messages": [*most, {"role": "user", "content": [""]}]}) == ("invalid_value", "messages[2]")
    assert bounded({"tools": [{}] * (MAX_TOOLS + 1)}) == ("invalid_value", "tools")


@each("tools", [{}, "f", 1, True])
def test_tools_that_are_no_list_are_refused(tools: object) -> None:
    assert bounded({"tools": tools}) == ("invalid_type", "tools")


WHOLE = ["max_tokens", "max_completion_tokens", "n", "seed", "top_k", "top_logprobs", "min_tokens"]


@each("name", WHOLE)
@each("written", [5.0, "5", 5])
def test_a_whole_number_is_one_however_it_is_written(name: str, written: Any) -> None:
    body = parse(**{name: written}).body
    assert body[name] == 5
    assert type(body[name]) is int


@each("name", ["max_tokens", "max_completion_tokens", "n", "min_tokens"])
@each("written", [50.5, "50.5", "5 0", "", "five", True, [5], {"a": 1}, "٥"])
def test_what_is_no_whole_number_is_refused_where_the_gateway_reads_it(name: str, written: Any) -> None:
    assert bounded({name: written}) == ("invalid_type", name)


@each("number", [2**64, 2**64 - 1, 2**70, -(2**63), -(2**63) - 1, -(2**80), 10**300])
def test_an_integer_of_any_size_stays_what_it_was_anywhere(number: int) -> None:
    message = b'{"role":"user","content":"12345678901234567890"}'
    raw = b'{"model":"m","messages":[' + message + b'],"seed":%d,"metadata":{"a":[%d, 1.5]}}'
    body = parse_chat(raw % (number, number)).body
    assert (body["seed"], body["metadata"]) == (number, {"a": [number, 1.5]})
    assert orjson.loads(dump_json({"seed": 1, "é": "\u20ac"})) == {"seed": 1, "é": "€"}
    assert json.loads(dump_json(body)) == body


def test_a_number_of_thousands_of_digits_is_no_bug() -> None:
    raw = b'{"model":"m","messages":[{"role":"user","content":"a"}],"metadata":%b}' % (b"9" * 5000)
    with contextlib.suppress(GatewayError):
        parse_chat(raw)


@each(
    ("sent", "expected"),
    [
        (PIXEL, PIXEL),
        ("data:image/jpg;base64,AAAA", "data:image/jpeg;base64,AAAA"),
        ("DATA:image/JPG;BASE64,AAAA", "data:image/jpeg;base64,AAAA"),
        ("data:image/png;charset=utf-8;name=a.png;base64,AAAA", PIXEL),
        ("data:image/png;base64,AA\r\nAA\n", PIXEL),
        ("data:image/png;base64, AA\tAA", PIXEL),
        ("data:image/svg+xml;base64,AAAA", "data:image/svg+xml;base64,AAAA"),
        ("data:image/png,AAAA", "data:image/png,AAAA"),
    ],
)
@each("is_object", [True, False])
def test_an_image_has_one_form(sent: str, expected: str, is_object: bool) -> None:
    image = {"url": sent, "detail": "low"} if is_object else sent
    request = parse(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": image}]}])
    left = request.body["messages"][0]["content"][0]["image_url"]
    assert left == ({"url": expected, "detail": "low"} if is_object else expected)
    assert request.prompt.images == (expected,)


def test_what_was_put_away_comes_back_as_it_was_sent_once() -> None:
    request = parse_chat(b'{"model":"m","messages":[{"role":"user","content":"x"}],"seed":%d,"top_p":0.1}' % 2**70)
    body = dict(request.body)
    request.take_out()
    assert request.body == body
    request.put_away(dump_json(body))
    assert (request.body, request.prompt.images) == ({}, ())
    request.take_out()
    assert request.body == body
    request.forget_body()
    request.take_out()
    assert request.body == {}
