"""Frames in, frames out: the captured streams of a real vLLM, cut everywhere, come out as the client is to see them."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.events import MAX_FRAME_BYTES
from mcp_gateway.core.surfaces.splice import DONE, FrameRelay
from mcp_gateway.core.surfaces.surface import Failure
from mcp_gateway.core.surfaces.usage import Usage, read_usage
from tests.captured import Capture, captured, captures
from tests.cases import each

STREAMS = [capture for capture in captures() if capture.is_chat and capture.is_stream]
BACKEND_NAME = re.compile(rb'"model":"tiny(?:-alias)?"')
BOUNDS = UsageBounds(100, 16)
CONTINUOUS = "103_chat_stream_continuous_usage"


def relayed(body: bytes, relay: FrameRelay, cuts: list[int] | None = None) -> bytes:
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts or []), len(body)]
    out = b"".join(relay.feed(body[start:end]) for start, end in pairwise(edges))
    return out + relay.end() + (DONE if relay.is_done else b"")


def chunks_of(stream: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(frame[6:]) for frame in stream.split(b"\n\n") if frame.startswith(b"data: {")]


def chunk(index: int, text: str, finish: str | None = None, **more: object) -> bytes:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": [choice]}
    return b"data: " + orjson.dumps(body | more) + b"\n\n"


def without_comments(stream: bytes) -> bytes:
    return stream[stream.index(b"data:") :]


@each("capture", STREAMS)
def test_a_client_that_asked_for_all_usage_gets_the_captured_stream_with_the_public_name(capture: Capture) -> None:
    relay = FrameRelay("public/name", wants_usage=True, wants_continuous_usage=True)
    expected = BACKEND_NAME.sub(b'"model":"public/name"', without_comments(capture.body))
    assert relayed(capture.body, relay) == expected


@each("capture", STREAMS)
def test_a_client_that_did_not_ask_sees_no_usage_and_all_else_unchanged(capture: Capture) -> None:
    got = chunks_of(relayed(capture.body, FrameRelay("p", wants_usage=False)))
    expected = [chunk | {"model": "p"} for chunk in chunks_of(capture.body) if chunk["choices"]]
    for chunk in (*got, *expected):
        chunk.pop("usage", None)
        chunk.pop("system_fingerprint", None)
    assert got == expected


@pytest.mark.parametrize("case", ["102_chat_stream_usage", CONTINUOUS, "650_force_usage_stream"])
def test_the_fingerprint_moves_to_the_last_chunk_where_vllm_puts_it_without_usage(case: str) -> None:
    chunks = chunks_of(relayed(captured(case).body, FrameRelay("p", wants_usage=False)))
    assert chunks[-1]["system_fingerprint"].startswith("vllm-0.32.0-")
    assert list(chunks[-1])[-1] == "system_fingerprint"
    assert all("system_fingerprint" not in chunk for chunk in chunks[:-1])


def test_usage_in_every_chunk_becomes_usage_in_the_last_for_a_client_that_asked_for_that() -> None:
    chunks = chunks_of(relayed(captured(CONTINUOUS).body, FrameRelay("p", wants_usage=True)))
    assert [("usage" in chunk) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1]["choices"] == []


@each("capture", STREAMS)
def test_the_cost_is_told_within_the_usage_of_the_last_frame_and_nowhere_else(capture: Capture) -> None:
    relay = FrameRelay("p", wants_usage=True)
    sent = relay.feed(capture.body)
    assert b"cost_usd" not in sent
    last = chunks_of(relay.end("0.000001"))
    told = [piece for piece in chunks_of(capture.body) if not piece["choices"]]
    assert last == [piece | {"model": "p", "usage": piece["usage"] | {"cost_usd": "0.000001"}} for piece in told]


def test_no_cost_is_told_to_a_client_that_did_not_ask_for_usage() -> None:
    relay = FrameRelay("p", wants_usage=False)
    relay.feed(captured(CONTINUOUS).body)
    assert b"cost_usd" not in relay.end("0.000001")


@given(st.lists(st.integers(min_value=0), max_size=12), st.sampled_from(STREAMS), st.booleans())
def test_where_the_network_cuts_the_stream_makes_no_difference(cuts: list[int], capture: Capture, asked: bool) -> None:
    whole = FrameRelay("p", wants_usage=asked)
    pieces = FrameRelay("p", wants_usage=asked)
    assert relayed(capture.body, pieces, cuts) == relayed(capture.body, whole)
    assert (pieces.usage, pieces.finish_reason) == (whole.usage, whole.finish_reason)


@pytest.mark.parametrize("asked", [True, False])
@given(cuts=st.lists(st.integers(min_value=0), max_size=12))
def test_a_backend_that_writes_its_json_with_spaces_is_understood_as_well(asked: bool, cuts: list[int]) -> None:
    stream = captured(CONTINUOUS).body
    tight, spaced = FrameRelay("p", wants_usage=asked), FrameRelay("p", wants_usage=asked)
    loose = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in chunks_of(stream)) + DONE
    assert chunks_of(relayed(loose, spaced, cuts)) == chunks_of(relayed(stream, tight))
    assert (spaced.usage, spaced.finish_reason) == (tight.usage, tight.finish_reason)


ODD_USAGES = [
    {"prompt_tokens_details": {"cached_tokens": 1}, "completion_tokens": 2},
    {"completion_tokens": 2, "by": "{a|b~c}"},
    {"completion_tokens": 2, "by": "|~\xe9"},
    None,
]


@each("usage", ODD_USAGES)
@each("write", [orjson.dumps, lambda value: json.dumps(value, ensure_ascii=False).encode()])
def test_usage_of_any_shape_is_taken_out_whole(usage: object, write: Callable[[object], bytes]) -> None:
    body = {"model": "p", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
    stream = b"".join(b"data: " + write(one) + b"\n\n" for one in [body | {"usage": usage}, body | {"usage": usage}])
    assert chunks_of(FrameRelay("p", wants_usage=False).feed(stream)) == [body, body]


@pytest.mark.parametrize("last", [DONE, b'data: {"error":{"code":500}}\n\n', chunk(0, "z", "abort")])
def test_what_ends_a_stream_is_found_among_frames_that_go_on(last: bytes) -> None:
    relay = FrameRelay("tiny", wants_usage=False)
    answer = b"".join(chunk(0, letter) for letter in "abc")
    assert relay.feed(answer + last + chunk(0, "late")) == answer
    assert relay.is_done


@each("between", [b": keep-alive\n\n", b"\n\n"])
@each("is_one_piece", [True, False])
def test_what_says_nothing_may_stand_between_the_last_frames(between: bytes, is_one_piece: bool) -> None:
    relay = FrameRelay("tiny", wants_usage=False)
    answer = chunk(0, "a") + chunk(0, "b", "stop")
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":0},"system_fingerprint":"f"}\n\n'
    pieces = [answer + between + usage] if is_one_piece else [answer, between, usage]
    told = b"".join(relay.feed(piece) for piece in pieces) + relay.end()
    assert [one["choices"] for one in chunks_of(told)] == [one["choices"] for one in chunks_of(answer)]
    assert relay.usage == Usage(1, 0)


def test_a_frame_without_choices_or_usage_passes() -> None:
    relay = FrameRelay("tiny", wants_usage=True)
    flagged = b'data: {"choices":[],"prompt_filter_results":[]}\n\n'
    assert relay.feed(flagged + chunk(0, "a")) + relay.feed(flagged) == flagged + chunk(0, "a") + flagged


def test_nothing_passes_after_the_end_however_early_it_comes() -> None:
    relay = FrameRelay("tiny", wants_usage=False)
    assert relay.feed(DONE) == b""
    assert relay.feed(chunk(0, "late")) == b""


def test_empty_lines_before_the_first_token_are_not_a_start() -> None:
    relay = FrameRelay("p", wants_usage=False)
    assert relay.feed(b"\n\n") == b""
    assert not relay.has_started


@each("asked", [True, False])
@each("capture", STREAMS)
def test_frames_that_come_one_by_one_become_the_same_as_all_at_once(capture: Capture, asked: bool) -> None:
    single, whole = FrameRelay("p", wants_usage=asked), FrameRelay("p", wants_usage=asked)
    ends = [found.end() for found in re.finditer(rb"\n\n", capture.body)]
    assert relayed(capture.body, single, ends) == relayed(capture.body, whole)
    assert (single.usage, single.finish_reason) == (whole.usage, whole.finish_reason)


def test_the_usage_of_the_last_frame_read_is_known_at_every_point() -> None:
    frames = captured(CONTINUOUS).body.split(b"\n\n")
    relay = FrameRelay("p", wants_usage=False)
    assert relay.usage is None
    seen: list[Usage | None] = []
    for frame in frames[:4]:
        relay.feed(frame + b"\n\n")
        seen.append(relay.usage)
    assert seen == [Usage(19, 0), Usage(19, 1), Usage(19, 2), Usage(19, 8)]


def counted(prompt: int, completion: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


def test_the_usage_of_several_choices_left_early_is_summed_over_them() -> None:
    relay = FrameRelay("p", wants_usage=False, choices=2)
    relay.feed(chunk(0, "a", usage=counted(10, 1)) + chunk(1, "b", usage=counted(10, 1)))
    relay.feed(chunk(0, "c", usage=counted(10, 3)))
    assert relay.usage == Usage(10, 4)


def test_the_total_at_the_end_beats_the_sum() -> None:
    relay = FrameRelay("p", wants_usage=False, choices=2)
    relayed(captured("121_n2_stream").body, relay)
    assert relay.usage == Usage(19, 8)


HOSTILE = [
    "data: [DONE]",
    "\n\ndata: [DONE]\n\n",
    '"usage":{"prompt_tokens":9}',
    '"model":"tiny"',
    '{"error":{"message":1}}',
    ',"usage":{"a":1}',
    '"finish_reason":"abort"',
    '"choices":[]',
    "\r\n\r\n",
    '\\"model":"tiny"',
]


@given(st.lists(st.sampled_from(HOSTILE) | st.text(), min_size=1, max_size=6))
def test_words_that_look_like_the_wire_pass_as_content(words: list[str]) -> None:
    stream = b"".join(chunk(0, word, usage=counted(1, 1)) for word in words) + chunk(0, "", "stop") + DONE
    relay = FrameRelay("p", wants_usage=False)
    got = chunks_of(relayed(stream, relay))
    assert [one["choices"][0]["delta"]["content"] for one in got] == [*words, ""]
    assert {one["model"] for one in got} == {"p"}
    assert all("usage" not in one for one in got)
    assert relay.failure is None
    assert relay.is_done


def test_comments_before_the_first_token_are_not_a_start() -> None:
    relay = FrameRelay("p", wants_usage=False)
    assert relay.feed(b": keep-alive\n\n: keep-alive\n\n") == b""
    assert not relay.has_started
    assert relay.feed(b": keep-alive\n\n" + chunk(0, "a")) == chunk(0, "a").replace(b"tiny", b"p")
    assert relay.has_started


@each("name", ['"model":"",', '"model":null,', '"model": "",', ""])
@each("is_one_piece", [True, False])
def test_the_model_s_name_is_learned_from_the_first_frame_that_tells_any(name: str, is_one_piece: bool) -> None:
    relay = FrameRelay("p", wants_usage=False)
    first = chunk(0, "").replace(b'"model":"tiny",', name.encode())
    rest = [chunk(0, "a"), chunk(0, "b"), chunk(0, "c", "stop"), DONE]
    told = b"".join(map(relay.feed, [b"".join([first, *rest])] if is_one_piece else [first, *rest])) + relay.end()
    assert b"tiny" not in told
    assert told.count(b'"model":"p"') == (4 if name == '"model":"",' else 3)


def test_comments_later_are_passed_on() -> None:
    relay = FrameRelay("p", wants_usage=False)
    relay.feed(chunk(0, "a"))
    assert relay.feed(b": keep-alive\n\n") == b": keep-alive\n\n"


def test_an_error_in_the_stream_is_told_and_ends_it() -> None:
    relay = FrameRelay("p", wants_usage=False)
    error = b'data: {"error":{"message":"m","type":"InternalServerError","param":null,"code":500}}\n\n'
    assert relay.feed(chunk(0, "a") + error + DONE) == chunk(0, "a").replace(b"tiny", b"p")
    assert relay.failure is not None
    assert relay.failure.status == 500
    assert relay.feed(chunk(0, "late")) == b""


def test_an_answer_that_the_backend_aborts_is_an_error() -> None:
    relay = FrameRelay("p", wants_usage=False)
    assert relay.feed(chunk(0, "a") + chunk(0, "b", "abort") + DONE) == chunk(0, "a").replace(b"tiny", b"p")
    assert relay.failure is not None


def test_a_frame_without_an_end_is_refused_before_it_fills_the_memory() -> None:
    relay = FrameRelay("p", wants_usage=False)
    for _ in range(16):
        assert relay.feed(b"x" * (MAX_FRAME_BYTES // 16)) == b""
    with pytest.raises(GatewayError) as raised:
        relay.feed(b"x")
    assert raised.value.code == "backend_error"


@each(
    ("value", "usage"),
    [
        (None, None),
        ({}, None),
        ({"prompt_tokens": 3}, None),
        ({"completion_tokens": 3}, None),
        ({"total_tokens": 3}, None),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Usage(0, 0)),
        ({"prompt_tokens": 12.0, "completion_tokens": "8"}, Usage(12, 8)),
        ({"prompt_tokens": -3}, None),
        ({"prompt_tokens": 3, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 2}}, Usage(3, 0, 2)),
    ],
)
def test_usage_is_counts_or_nothing_and_zero_is_not_nothing(value: object, usage: Usage | None) -> None:
    assert read_usage(value) == usage


LONG_TEXT = "x" * (MAX_FRAME_BYTES // 2)


@each("end", [b"\n\n", b"\r\n\r\n"])
@each("size", [1000, 65_536])
def test_a_long_frame_that_comes_in_many_pieces_is_one_frame(end: bytes, size: int) -> None:
    stream = b"".join(frame.strip() + end for frame in (chunk(0, "a"), chunk(0, LONG_TEXT), chunk(0, "b", "stop")))
    relay = FrameRelay("p", wants_usage=False)
    cuts = list(range(0, len(stream), size))
    got = chunks_of(relayed(stream, relay, cuts))
    assert [one["choices"][0]["delta"]["content"] for one in got] == ["a", LONG_TEXT, "b"]
    assert relay.finish_reason == "stop"


@each("split", range(1, 5))
def test_an_end_of_a_frame_that_is_cut_in_two_is_found(split: int) -> None:
    relay = FrameRelay("tiny", wants_usage=False)
    relay.feed(chunk(0, "a"))
    whole = chunk(0, "b").strip() + b"\r\n\r\n"
    assert relay.feed(whole[:-split]) + relay.feed(whole[-split:]) == chunk(0, "b")


def test_an_error_too_long_to_be_read_still_ends_the_stream() -> None:
    relay = FrameRelay("p", wants_usage=False)
    relay.feed(chunk(0, "a"))
    assert relay.feed(b'data: {"error":{"message":"' + LONG_TEXT.encode() + b'"}}\n\n') == b""
    assert (relay.failure, relay.is_done) == (Failure(500, ""), True)


def test_a_long_frame_with_many_choices_is_passed_on_and_not_parsed() -> None:
    relay = FrameRelay("tiny", wants_usage=True, wants_continuous_usage=True, choices=2)
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    frames = chunk(0, "a", usage=usage) + chunk(0, LONG_TEXT, usage=usage | {"completion_tokens": 9})
    assert relay.feed(frames) == frames
    assert relay.usage == Usage(1, 1)


@each("usage", [b"{,", b'{"prompt_tokens":}', b'{"a":"' + b"x" * 9000 + b'"}', b'{"prompt_tokens":1e}'])
def test_usage_that_is_no_json_is_none(usage: bytes) -> None:
    relay = FrameRelay("p", wants_usage=False)
    relay.feed(chunk(0, "a")[:-3] + b',"usage":' + usage + b"}}\n\n")
    assert relay.usage is None


def event(**fields: object) -> bytes:
    return b"data: " + orjson.dumps(fields) + b"\n\n"


ERRORS = {
    "an object": event(error={"message": "m", "code": 500}),
    "an event of that name": b'event: error\ndata: {"error":{"message":"m"}}\n\n',
    "an event of that name, text": b"event: error\ndata: it fell over\n\n",
    "an event of that name, any object": b'event: error\ndata: {"message":"m"}\n\n',
    "a field of that name": b'error: {"message":"m","code":500}\n\n',
    "spaces": b'data: { "error" : {"message": "m"}}\n\n',
    "not the first key": event(id="x", choices=[], error={"message": "m"}),
    "beside choices": chunk(0, "", error={"message": "m"}),
    "before choices": event(error={"message": "m"}, choices=[{"index": 0, "delta": {}}]),
    "between choices and usage": chunk(0, "", error={"message": "m"}, usage={"prompt_tokens": 1}),
    "behind usage": chunk(0, "", usage={"prompt_tokens": 1}, error={"message": "m"}),
    "in a choice": event(choices=[{"index": 0, "delta": {}, "finish_reason": None, "error": {"message": "m"}}]),
    "in a second choice": event(choices=[{"index": 0, "delta": {}}, {"index": 1, "delta": {}, "error": "m"}]),
    "text": event(error="m"),
    "text beside choices": chunk(0, "", error="m"),
    "a list": event(error=["m"]),
    "empty": event(error={}),
    "vLLM before 0.10": event(object="error", message="m", type="X", param=None, code=500),
    "spaces and vLLM before 0.10": b'data: {"object": "error", "message": "m"}\n\n',
    "a type": event(type="error", message="m"),
    "a detail": event(detail="m"),
    "details": event(detail=[{"loc": [], "msg": "m"}]),
    "a message": event(message="m", status=500),
    "a finish reason": chunk(0, "", "error"),
    "no JSON": b"data: {oops\n\n",
    "a chunk that was cut": chunk(0, "b")[:-6] + b"\n\n",
    "a chunk that was cut within its text": chunk(0, "b").partition(b'b"')[0] + b"\n\n",
    "words about a chunk": b'data: no "choices" here\n\n',
    "words about usage": b'data: "usage" {oops}\n\n',
    "a page": b"data: <html>502</html>\n\n",
}


@each("is_one_piece", [True, False])
@each("asked", [True, False])
@each("error", ERRORS.values())
def test_an_error_is_known_in_any_shape_and_none_of_it_is_passed_on(
    error: bytes, asked: bool, is_one_piece: bool
) -> None:
    relay = FrameRelay("tiny", wants_usage=asked)
    answer = chunk(0, "a", usage=counted(1, 1)) + chunk(0, "b", usage=counted(1, 2))
    pieces = (
        [answer + error + DONE]
        if is_one_piece
        else [*(chunk(0, "a", usage=counted(1, 1)), answer[-len(answer) // 2 :]), error]
    )
    told = b"".join(relay.feed(piece) for piece in pieces)
    assert told == chunk(0, "a") + chunk(0, "b")
    assert relay.failure is not None
    assert (relay.is_done, relay.is_whole) == (True, False)
    assert relay.usage == Usage(1, 2)


@each("error", ERRORS.values())
def test_an_error_is_known_cut_at_every_byte(error: bytes) -> None:
    for cut in range(len(error) + 1):
        relay = FrameRelay("tiny", wants_usage=False)
        relay.feed(chunk(0, "a"))
        assert relay.feed(error[:cut]) + relay.feed(error[cut:]) == b""
        assert relay.failure is not None


@each("error", [error for name, error in ERRORS.items() if "event" not in name and "field" not in name])
def test_text_that_quotes_an_error_is_text(error: bytes) -> None:
    relay = FrameRelay("tiny", wants_usage=False)
    words = [error.decode(), "error", '"error"', '{"error":{"message":"m"}}', "data: [DONE]", "event: error\n\n"]
    stream = b"".join(chunk(0, word, usage=counted(1, 1)) for word in words)
    pieces = [chunk(0, word, usage=counted(1, 1)) for word in words]
    assert relay.feed(stream) + b"".join(map(relay.feed, pieces)) == b"".join(chunk(0, word) for word in words * 2)
    assert relay.failure is None


def test_an_error_that_is_null_is_none() -> None:
    relay = FrameRelay("tiny", wants_usage=False)
    frame = chunk(0, "a", error=None)
    assert relay.feed(frame) + relay.feed(frame) == frame * 2
    assert relay.failure is None


def test_several_choices_are_whole_when_each_has_finished_and_none_is_late() -> None:
    relay = FrameRelay("tiny", wants_usage=False, choices=3)
    first = [chunk(index, "a") for index in range(3)]
    rest = [chunk(0, "b", "stop"), chunk(2, "c"), chunk(1, "d", "length"), chunk(2, "e")]
    for frame in (*first, *rest):
        assert relay.feed(frame) == frame
        assert not relay.is_whole
    last = chunk(2, "f", "stop")
    assert relay.feed(last) == b""
    assert relay.is_whole
    assert relay.end() == last


def test_a_choice_that_finishes_twice_stands_for_no_other() -> None:
    relay = FrameRelay("tiny", wants_usage=True, choices=2)
    relay.feed(chunk(0, "a", "stop") + chunk(0, "b", "stop") + DONE)
    assert (relay.is_done, relay.is_whole) == (True, False)


def test_choices_that_finish_in_one_frame_are_each_finished() -> None:
    relay = FrameRelay("tiny", wants_usage=True, choices=2)
    both: list[dict[str, Any]] = [{"index": index, "delta": {}, "finish_reason": "stop"} for index in (1, 0)]
    relay.feed(event(id="c", choices=both) + DONE)
    assert relay.is_whole


def test_choices_too_long_to_be_parsed_finish_too() -> None:
    relay = FrameRelay("tiny", wants_usage=True, choices=2)
    relay.feed(chunk(0, "a") + chunk(0, LONG_TEXT, "stop"))
    assert not relay.is_whole
    relay.feed(chunk(1, LONG_TEXT, "stop"))
    assert relay.is_whole


@each("reason", [None, "", 5, ["stop"], {"type": "stop"}, True, "a\nb"])
def test_what_is_no_finish_reason_finishes_nothing(reason: Any) -> None:
    relay = FrameRelay("tiny", wants_usage=False)
    assert relay.feed(chunk(0, "a") + chunk(0, "b", reason) + DONE) == chunk(0, "a") + chunk(0, "b", reason)
    assert not relay.is_whole


@each("capture", STREAMS)
@each("asked", [True, False])
def test_every_captured_stream_is_whole_unless_it_told_an_error(capture: Capture, asked: bool) -> None:
    relay = FrameRelay("p", wants_usage=asked, choices=max(1, len(choices_of(capture.body))))
    relay.feed(capture.body)
    assert relay.is_whole is (relay.failure is None)


def choices_of(stream: bytes) -> set[int]:
    return {choice["index"] for one in chunks_of(stream) for choice in one.get("choices", ())}


@pytest.mark.parametrize("choices", [1, 2])
def test_usage_that_comes_with_the_last_chunk_alone_counts_all_choices(choices: int) -> None:
    relay = FrameRelay("tiny", wants_usage=True, choices=choices, bounds=BOUNDS)
    for index in range(choices):
        relay.feed(chunk(index, "a"))
    for index in range(choices):
        relay.feed(chunk(index, "b", "stop", usage=counted(5, 4)))
    relay.feed(DONE)
    assert relay.usage == Usage(5, 4)
    (told,) = chunks_of(relay.end("0.01", relay.usage))
    assert (told["id"], told["model"], told["choices"]) == ("c", "tiny", [])
    assert told["usage"] == counted(5, 4) | {"cost_usd": "0.01"}


@each("usage", [{}, None, {"prompt_tokens": "x"}, {"prompt_tokens": 2**62, "completion_tokens": 1}])
def test_a_client_is_told_the_usage_that_is_billed(usage: object) -> None:
    relay = FrameRelay("tiny", wants_usage=True, bounds=BOUNDS)
    relay.feed(chunk(0, "a", "stop") + event(model="tiny", choices=[], usage=usage) + DONE)
    (told,) = chunks_of(relay.end("0.01", Usage(3, 2, 1)))
    assert told["usage"] == counted(3, 2) | {"prompt_tokens_details": {"cached_tokens": 1}, "cost_usd": "0.01"}


@each("usage", [b'{"prompt_tokens":5', b'{"a":"' + b"x" * 20_000 + b'"}', b"[" * 3000, b'{"a":"b', b""])
@each(("asked", "is_continuous"), [(False, False), (True, False), (True, True)])
@each("is_one_piece", [True, False])
def test_usage_without_an_end_fails_the_stream(
    usage: bytes, asked: bool, is_continuous: bool, is_one_piece: bool
) -> None:
    relay = FrameRelay("tiny", wants_usage=asked, wants_continuous_usage=is_continuous, bounds=BOUNDS)
    broken = chunk(0, "b")[:-3] + b',"usage":' + usage + b"\n\n"
    before = chunk(0, "a") if is_one_piece else b""
    relay.feed(before or chunk(0, "a"))
    with suppress(GatewayError):
        assert b'"b"' not in relay.feed(before + broken)
        assert relay.failure is not None


@each("told", [b'"usage":null,', b'"usage":{},', b'"usage":{"a":', b'"usage":"x",', b'"usage",'])
def test_a_frame_that_tells_usage_without_end_fails_the_stream_at_once(told: bytes) -> None:
    relay = FrameRelay("tiny", wants_usage=False, bounds=BOUNDS)
    relay.feed(chunk(0, "a"))
    with pytest.raises(GatewayError, match="backend_error"):
        relay.feed(chunk(0, "b")[:-3] + b',"z":[' + told * 100_000 + b"1]}\n\n")


@each("asked", [False, True])
def test_many_frames_at_once_that_tell_no_usage_pass_and_are_counted(asked: bool) -> None:
    relay = FrameRelay("tiny", wants_usage=asked, bounds=BOUNDS)
    frames = [chunk(0, "a", usage=None) for _ in range(2000)]
    out = relay.feed(b"".join(frames) + chunk(0, "", "stop") + DONE) + relay.end()
    assert len(chunks_of(out)) == 2001
    assert b'"usage"' not in out
    assert relay.seen == (None, 2000)


def test_usage_without_choices_is_usage() -> None:
    for told in (event(usage=counted(5, 2)), event(choices=None, usage=counted(5, 2))):
        relay = FrameRelay("tiny", wants_usage=False)
        assert relay.feed(chunk(0, "a") + told + chunk(0, "b", "stop") + told + DONE) + relay.end() == (
            chunk(0, "a") + chunk(0, "b", "stop")
        )
        assert relay.usage == Usage(5, 2)


def test_frames_with_text_are_counted_where_no_usage_is_told() -> None:
    relay = FrameRelay("tiny", wants_usage=False, bounds=BOUNDS)
    quoted = '"content":"x"'
    for frame in (chunk(0, ""), chunk(0, "a"), chunk(0, quoted) + chunk(0, "b"), chunk(0, "", "stop")):
        relay.feed(frame)
    assert relay.seen == (None, 3)


@each(
    "more",
    [
        {"usage": {"prompt_tokens": 1, "completion_tokens": 2, "note": "a}b}}"}},
        {"usage": {"prompt_tokens": 1, "completion_tokens": 2, "more": {"a": {}}}},
        {"usage": {"prompt_tokens": 1, "completion_tokens": 2}, "x": {"y": 1}},
        {"usage": {"prompt_tokens": 1, "completion_tokens": 2}, "x": "}}"},
        {"usage": {"prompt_tokens": 1, "completion_tokens": 2}, "x": {"y": {}}},
    ],
)
def test_a_frame_that_comes_alone_loses_its_usage_and_nothing_else(more: dict[str, Any]) -> None:
    relay = FrameRelay("tiny", wants_usage=False)
    relay.feed(chunk(0, "a", usage=counted(1, 1)))
    rest = {name: value for name, value in more.items() if name != "usage"}
    assert chunks_of(relay.feed(chunk(0, "b", **more))) == chunks_of(chunk(0, "b", **rest))
    assert relay.usage == Usage(1, 2)


GOES_ON: dict[str, Callable[[int], bytes]] = {
    "as vLLM writes it": lambda number: chunk(0, "a", usage=counted(1, number)),
    "without usage": lambda _: chunk(0, "b"),
    "usage amid it": lambda number: chunk(0, "c", usage=counted(1, number), x={"y": 1}),
    "nested usage": lambda number: chunk(0, "d", usage=counted(1, number) | {"prompt_tokens_details": {"x": 1}}),
    "usage of text": lambda number: chunk(0, "e", usage=counted(1, number) | {"note": "}}"}),
    "usage twice": lambda number: chunk(0, "f", usage=counted(1, number)).replace(b'{"index"', b'{"usage":{},"index"'),
    "words of the wire": lambda number: chunk(0, '"usage":{"choices":[{ "error"', usage=counted(1, number)),
    "a comment": lambda _: b": working\n\n",
    "another event": lambda number: b"event: x\n" + chunk(0, "g", usage=counted(1, number)),
    "a carriage return": lambda number: chunk(0, "h", usage=counted(1, number)).replace(b"\n\n", b"\r\n\r\n"),
    "no choices": lambda _: event(x=1, usage=None),
    "an error": lambda number: chunk(0, "i", usage=counted(1, number), error={"message": "m"}),
    "an error before": lambda number: chunk(0, "j", usage=counted(1, number)).replace(b'"id"', b'"error":{},"id"'),
    "an end": lambda number: chunk(0, "k", "stop", usage=counted(1, number)),
}  # fmt: skip


@pytest.mark.parametrize("public_model", ["tiny", "public/name"])
@given(kinds=st.lists(st.sampled_from(sorted(GOES_ON)), max_size=8), usual=st.integers(0, 3))
def test_frames_that_come_together_become_what_each_becomes_alone(
    public_model: str, kinds: list[str], usual: int
) -> None:
    kinds = ["as vLLM writes it"] * (usual + 1) + kinds
    frames = [GOES_ON[kind](number) for number, kind in enumerate(kinds, 1)]
    together, alone = (FrameRelay(public_model, wants_usage=False, bounds=BOUNDS) for _ in range(2))
    told = together.feed(b"".join(frames))
    assert told == b"".join(map(alone.feed, frames))
    assert (together.usage, together.seen, together.failure) == (alone.usage, alone.seen, alone.failure)
    assert (together.finish_reason, together.end()) == (alone.finish_reason, alone.end())
    assert chunks_of(told) == [chunk for chunk in chunks_of(told) if "usage" not in chunk]


@each("blank", ["", " ", "\t"])
@each("size", [1, 300_000])
def test_a_frame_with_blanks_around_its_object_is_a_frame_however_long(blank: str, size: int) -> None:
    relay = FrameRelay("tiny", wants_usage=False)
    answer = [chunk(0, letter * size) for letter in "ab"]
    for frame in answer:
        told = relay.feed(
            frame.replace(b"data: {", f"data: {blank}{{".encode()).replace(b"}\n\n", f"}}{blank}\n\n".encode())
        )
        assert orjson.loads(told[5:]) == orjson.loads(frame[5:])
    assert relay.failure is None
