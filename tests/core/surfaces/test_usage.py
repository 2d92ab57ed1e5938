"""Usage of any shape: read where it can be, taken out whole, and told with its cost as JSON."""

import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from mcp_gateway.core.surfaces.usage import (
    Usage,
    is_as_told,
    last_usage,
    read_usage,
    source_of_usage,
    told,
    with_cost,
    without_usage,
)
from tests.cases import each

COUNTS: dict[str, Any] = {"prompt_tokens": 12, "completion_tokens": 8}
READABLE = [
    COUNTS,
    {"total_tokens": 20, **COUNTS},
    {"prompt_tokens": 12.0, "completion_tokens": "8"},
    {"prompt_tokens": "12", "completion_tokens": 8.0},
    {**COUNTS, "prompt_tokens_details": {"multimodal_tokens": {"image": 3, "more": {"deep": [{"x": 1}]}}}},
    {**COUNTS, "note": "a}b"},
    {**COUNTS, "note": "{[", "more": {"say": 'an escaped " and }'}},
    {"note": '},"usage":{', **COUNTS},
    {**COUNTS, "prompt_tokens_details": None, "list": [1, [2, "]"], {}]},
    {**COUNTS, "é}": "日本}"},
]
UNREADABLE = [
    {},
    None,
    {"prompt_tokens": None, "completion_tokens": 8},
    {"prompt_tokens": 12, "completion_tokens": 1.5},
    {"prompt_tokens": -1, "completion_tokens": 1},
    {"prompt_tokens": True, "completion_tokens": 1},
]
WRITERS = [
    orjson.dumps,
    lambda value: json.dumps(value).encode(),
    lambda value: json.dumps(value, ensure_ascii=False).encode(),
]
Write = Callable[[Any], bytes]


def frame(write: Write, usage: Any, *, is_first: bool = False) -> bytes:
    body: dict[str, Any] = {"choices": [{"index": 0, "delta": {"content": 'say "usage": {'}}], "x": 1}
    return b"data: " + write({"usage": usage} | body if is_first else body | {"usage": usage}) + b"\n\n"


def parsed(frame: bytes) -> Any:
    return orjson.loads(frame[5:])


@each("is_first", [True, False])
@each("write", WRITERS)
@each("usage", READABLE + UNREADABLE)
def test_usage_is_taken_out_whole_wherever_it_stands(usage: Any, write: Write, is_first: bool) -> None:
    told = frame(write, usage, is_first=is_first)
    rest = parsed(told)
    del rest["usage"]
    assert parsed(without_usage(told)) == rest
    assert without_usage(told * 3) == without_usage(told) * 3


@each("write", WRITERS)
@each("usage", READABLE)
def test_usage_is_read_however_deep_it_is_nested(usage: Any, write: Write) -> None:
    assert last_usage(frame(write, usage)) == Usage(12, 8) == read_usage(usage)


@each("usage", UNREADABLE)
def test_the_last_usage_that_can_be_read_wins(usage: Any) -> None:
    assert last_usage(frame(orjson.dumps, usage)) is None
    assert last_usage(frame(orjson.dumps, COUNTS) + frame(orjson.dumps, usage)) == Usage(12, 8)
    newer = frame(orjson.dumps, {"prompt_tokens": 1, "completion_tokens": 2})
    assert last_usage(frame(orjson.dumps, COUNTS) + newer) == Usage(1, 2)


@each("write", WRITERS)
@each("usage", [*READABLE, {}, {"prompt_tokens": 5}])
def test_the_cost_is_the_last_field_of_the_usage(usage: Any, write: Write) -> None:
    told = parsed(with_cost(frame(write, usage), "0.01"))["usage"]
    assert told == usage | {"cost_usd": "0.01"}
    assert list(told)[-1] == "cost_usd"


@each("usage", [None, [], "x", 5])
def test_no_cost_is_told_where_usage_is_no_object(usage: Any) -> None:
    told = frame(orjson.dumps, usage)
    assert with_cost(told, "0.01") == told


def test_text_that_says_usage_is_left_as_it_is() -> None:
    for content in ["usage", '"usage":{"a":1}', ',"usage":null', '{"usage": {}}']:
        told = b"data: " + orjson.dumps({"choices": [{"delta": {"content": content}}]}) + b"\n\n"
        assert without_usage(told) == told
        assert last_usage(told) is None


def test_a_number_for_usage_is_taken_out_and_a_token_of_that_name_keeps_its_score() -> None:
    scores = b'"choices":[{"text":"a","logprobs":{"top_logprobs":[{"usage":-0.5,"b":-1}]}}]'
    for number in (b"5", b"-5", b"1e999"):
        assert without_usage(b'data: {%b,"usage":%b}\n\n' % (scores, number)) == b"data: {%b}\n\n" % scores
        assert without_usage(b'data: {"usage":%b,%b}\n\n' % (number, scores)) == b"data: {%b}\n\n" % scores


def test_usage_told_to_a_client_is_usage() -> None:
    for usage in (Usage(3, 4), Usage(3, 4, 2)):
        assert read_usage(usage.as_object()) == usage


@pytest.mark.parametrize("length", [0, 100_000])
def test_what_is_kept_of_long_frames_tells_the_same_usage_and_is_short_where_the_last_can_be_read(length: int) -> None:
    for usage in [*READABLE, *UNREADABLE]:
        frames = frame(orjson.dumps, COUNTS) + b": " + b"x" * length + b"\n\n" + frame(orjson.dumps, usage)
        source = source_of_usage(frames)
        assert last_usage(source) == last_usage(frames) is not None
        assert len(source) < 20_000 or usage in UNREADABLE


@each("name", ["prompt_tokens_details", "completion_tokens_details"])
@each(
    ("details", "expected"),
    [
        *((odd, None) for odd in ("", "x", 0, -0.0, False, [], [1])),
        ({}, {}),
        ({"reasoning_tokens": "many", "audio_tokens": -1, "x_tokens": True, "kind": "a"}, {"kind": "a"}),
        ({"reasoning_tokens": 3.0, "audio_tokens": "2"}, {"reasoning_tokens": 3, "audio_tokens": 2}),
        ({"cached_tokens": None, "x_tokens": None}, {"cached_tokens": None, "x_tokens": None}),
        ({"multimodal_tokens": {"image": 3}, "by_tokens": [1]}, {"multimodal_tokens": {"image": 3}, "by_tokens": [1]}),
    ],
)  # fmt: skip
def test_details_of_a_count_are_told_as_an_object_without_counts_that_are_none(
    name: str, details: Any, expected: Any
) -> None:
    usage = {**COUNTS, "total_tokens": 20, name: details}
    assert told(usage, Usage(12, 8)) == {**usage, name: expected}
    assert is_as_told(usage, Usage(12, 8)) is (orjson.dumps(details) == orjson.dumps(expected))
