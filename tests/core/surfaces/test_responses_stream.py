"""A stream of response events as its client sees it: ours by name, numbered without a gap, and ended rightly."""

from typing import Any

import orjson
import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.surfaces.responses import RESPONSES, ResponsesAsk
from mcp_gateway.core.surfaces.responses_stream import ResponsesCollecting, ResponsesReader
from mcp_gateway.core.surfaces.surface import Seen
from mcp_gateway.core.surfaces.usage import Usage
from tests.captured import captured
from tests.cases import each
from tests.replaying import split_events

STREAM = split_events(captured("521_responses_stream").body)
BOUND = 9


def asked() -> ResponsesAsk:
    body = {"model": "m", "input": "Hi", "stream": True}
    ask = RESPONSES.read(body, 40)
    ask.request_id = "req_1"
    return ask


def told_in(frames: bytes) -> list[dict[str, Any]]:
    lines = frames.split(b"\n")
    return [orjson.loads(line.removeprefix(b"data:")) for line in lines if line.startswith(b"data:")]


def rewritten(frame: bytes, **members: Any) -> bytes:
    """An event of another server: its type first, no spaces, and what else is named."""
    event = told_in(frame)[0] | members
    return b"data:" + orjson.dumps({"type": event.pop("type"), **event}) + b"\r\n\r\n"


def test_nothing_is_told_before_the_output_begins() -> None:
    reader = ResponsesReader(asked(), "m")
    assert b"".join(reader.feed(frame) for frame in STREAM[:2]) == b""
    assert not reader.has_started
    assert reader.held_bytes > 0
    begun = told_in(reader.feed(STREAM[2]))
    assert [event["type"] for event in begun] == [
        "response.created", "response.in_progress", "response.output_item.added",
    ]  # fmt: skip
    assert reader.has_started
    assert reader.held_bytes == 0


def test_deltas_pass_as_the_bytes_that_they_are() -> None:
    reader = ResponsesReader(asked(), "m")
    reader.feed(b"".join(STREAM[:4]))
    assert reader.feed(STREAM[4]) is STREAM[4]
    assert reader.feed(STREAM[4] + STREAM[5]) == STREAM[4].replace(b":4,", b":5,") + STREAM[5].replace(b":5,", b":6,")
    assert reader.seen == Seen(None, 3)


@each("is_other", [False, True])
@each("at", range(len(STREAM)))
def test_events_of_ours_leave_no_gap_in_the_numbers_wherever_they_come(is_other: bool, at: int) -> None:
    ask = asked()
    reader = ResponsesReader(ask, "m")
    came = b""
    for number, frame in enumerate(STREAM):
        if number == at:
            came += ask.waiting_frames() + ask.waiting_frames()
        came += reader.feed(rewritten(frame) if is_other else frame)
    told = told_in(came + reader.end("0.00", Usage(14, 4)))
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert [event["type"] for event in told].count("response.created") == 1
    assert (told[0]["type"], told[-1]["type"]) == ("response.created", "response.incomplete")
    assert {event["response"]["id"] for event in told if "response" in event} == {"resp_req_1"}


def test_nothing_is_told_behind_the_end() -> None:
    ask = asked()
    reader = ResponsesReader(ask, "m")
    reader.feed(b"".join(STREAM))
    reader.end("0.00", Usage(14, 4))
    assert ask.waiting_frames() == RESPONSES.comment
    assert reader.feed(STREAM[4]) == b""


@each("kind", ["response.completed", "response.incomplete"])
@each("status", ["completed", "incomplete"])
def test_the_last_event_is_named_by_the_status_of_the_answer(kind: str, status: str) -> None:
    reader = ResponsesReader(asked(), "m")
    reader.feed(b"".join(STREAM[:-1]))
    response = told_in(STREAM[-1])[0]["response"] | {"status": status}
    reader.feed(rewritten(STREAM[-1], type=kind, response=response))
    assert reader.is_whole
    (last,) = told_in(reader.end("0.01", Usage(14, 4)))
    assert last["type"] == f"response.{status}"
    assert last["response"]["usage"]["cost_usd"] == "0.01"


@each("usage", [{}, {"input_tokens": 7}, None, {"input_tokens": -1, "output_tokens": 1}, 7, "x"])
def test_a_usage_that_is_none_is_replaced_by_what_is_billed(usage: Any) -> None:
    reader = ResponsesReader(asked(), "m")
    response = told_in(STREAM[-1])[0]["response"] | {"usage": usage}
    reader.feed(rewritten(STREAM[-1], response=response))
    assert reader.usage is None
    (last,) = told_in(reader.end("0.00", Usage(10, 2)))
    assert last["response"]["usage"] == {
        "input_tokens": 10, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 12, "cost_usd": "0.00",
    }  # fmt: skip


@each("delta", [
    b'event: response.reasoning_text.delta\ndata: '
    b'{"delta":"x","sequence_number":4,"type":"response.reasoning_text.delta"}',
    b'event: response.function_call_arguments.delta\ndata: '
    b'{"delta":"{","sequence_number":4,"type":"response.function_call_arguments.delta"}',
    b'event: response.custom_tool_call_input.delta\ndata: '
    b'{"type":"response.custom_tool_call_input.delta","delta":"x","sequence_number":4}',
    b'event: response.something_new.delta\ndata: {"type":"response.something_new.delta","delta":"x"}',
])  # fmt: skip
def test_whatever_brings_text_is_counted(delta: bytes) -> None:
    reader = ResponsesReader(asked(), "m")
    reader.feed(b"".join(STREAM[:4]))
    assert told_in(reader.feed(delta + b"\n\n"))[0]["delta"]
    assert reader.seen.output_tokens == 1


def test_an_empty_delta_and_a_text_that_speaks_of_one_are_told_apart() -> None:
    reader = ResponsesReader(asked(), "m")
    reader.feed(b"".join(STREAM[:4]))
    empty = orjson.dumps({"delta": "", "sequence_number": 4, "type": "response.output_text.delta"})
    text = orjson.dumps({"delta": '"delta":""', "sequence_number": 5, "type": "response.output_text.delta"})
    for data in (empty, text):
        reader.feed(b"event: response.output_text.delta\ndata: %b\n\n" % data)
    assert reader.seen.output_tokens == 1


def test_a_text_that_speaks_of_the_protocol_is_a_text() -> None:
    reader = ResponsesReader(asked(), "m")
    reader.feed(b"".join(STREAM[:4]))
    said = '"type":"response.failed"} "sequence_number":99 data: [DONE]\n\nevent: error'
    data = orjson.dumps({"delta": said, "sequence_number": 7, "type": "response.output_text.delta"})
    (told,) = told_in(reader.feed(b"event: response.output_text.delta\ndata: %b\n\n" % data))
    assert told["delta"] == said
    assert reader.failure is None
    assert not reader.is_done


@each("frame", [
    b'event: error\ndata: {"type":"error","error":{"message":"boom","code":"server_error"}}\n\n',
    b'data: {"error":{"message":"boom","type":"InternalServerError","code":500}}\n\n',
    b'data: {"type":"response.failed","response":{"status":"failed","output":[],"error":{"message":"boom"}}}\n\n',
    b'data: {"type":"response.completed","response":{"status":"failed","output":[],"error":{"message":"boom"}}}\n\n',
])  # fmt: skip
@each("begun", [0, 2, 6])
def test_a_failure_is_known_wherever_it_comes(frame: bytes, begun: int) -> None:
    reader = ResponsesReader(asked(), "m")
    reader.feed(b"".join(STREAM[:begun]))
    assert reader.feed(frame) == b""
    assert reader.failure is not None
    assert reader.failure.message == "boom"
    assert (reader.is_done, reader.is_whole) == (True, False)


@each("frame", [b"data: nonsense\n\n",
                b'data: {"type":"response.created","response":{"output":[],"x":%b1%b}}\n\n' % (b"[" * 500, b"]" * 500),
                b'data: {"type":"response.completed","response":7}\n\n',
                b'data: {"type":"response.completed","response":{"output":{}}}\n\n'])  # fmt: skip
def test_what_cannot_be_understood_is_the_backends_error(frame: bytes) -> None:
    reader = ResponsesReader(asked(), "m")
    with pytest.raises(GatewayError, match="backend_error"):
        reader.feed(frame)


@each("odd", [[], {}, 7, None, True, [[]], "x"])
@each("name", ["status", "error", "usage", "incomplete_details", "id", "model", "output"])
def test_a_response_of_odd_values_is_read_as_far_as_it_goes(name: str, odd: Any) -> None:
    reader = ResponsesReader(asked(), "m")
    response = told_in(STREAM[-1])[0]["response"] | {name: odd if name != "output" else [odd, {"type": odd}]}
    reader.feed(rewritten(STREAM[-1], response=response))
    assert reader.is_done
    reader.end("0.00", Usage(1, 1))


def test_a_stream_that_only_stops_is_not_whole() -> None:
    reader = ResponsesReader(asked(), "m")
    reader.feed(b"".join(STREAM[:-1]) + b"data: [DONE]\n\n")
    reader.feed_end()
    assert not reader.is_whole


@each("size", range(1, BOUND))
def test_a_stream_put_together_is_the_answer_of_its_last_event(size: int) -> None:
    collecting = ResponsesCollecting(asked(), "public")
    stream = b"".join(STREAM)
    for start in range(0, len(stream), size * 97):
        collecting.feed(stream[start : start + size * 97])
    answer = orjson.loads(collecting.body(Usage(14, 4)))
    assert (answer["model"], answer["store"], answer["id"]) == ("public", False, "resp_req_1")
    assert answer["output"][0]["content"][0]["text"] == 'ationher exist"'
    assert answer["usage"]["output_tokens"] == 4


def delta(number: int, said: str, kind: str = "output_text") -> bytes:
    return written_last(f"response.{kind}.delta", number, delta=said)


def written_last(kind: str, number: int, **members: Any) -> bytes:
    """An event as vLLM writes it, its type last."""
    data = orjson.dumps(members | {"sequence_number": number, "type": kind})
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def parted(*numbers: int) -> list[bytes]:
    """A stream of two parts, whose deltas have these numbers."""
    texts = ["a", "", ".delta\ndata: {", '.delta"}\n\nevent: response.', ".done\ndata: ", "\n\n", "b"]
    first, second = [delta(*one) for one in zip(numbers[:7], texts, strict=True)], delta(numbers[7], "{}", "reasoning")
    ended = written_last("response.output_text.done", numbers[6] + 1, text="all")
    return [*STREAM[:4], *first, ended, second, *STREAM[-2:]]


@each("pieces", [1, 2, 3, 7])
@each("numbers", [(4, 5, 6, 7, 8, 9, 10, 12), (4, 4, 4, 4, 4, 4, 4, 4), (0,) * 8, (10, 9, 8, 7, 6, 5, 4, 12)])
def test_deltas_that_come_together_are_told_numbered_and_counted_as_one_by_one(
    numbers: tuple[int, ...], pieces: int
) -> None:
    sent = parted(*numbers)
    singly, together = ResponsesReader(asked(), "m"), ResponsesReader(asked(), "m")
    told_singly = b"".join([singly.feed(one) for one in sent])
    size = -(-len(sent) // pieces)
    told_together = [together.feed(b"".join(sent[at : at + size])) for at in range(0, len(sent), size)]
    assert b"".join(told_together) == told_singly
    assert [event["sequence_number"] for event in told_in(told_singly)] == list(range(len(sent) - 1))
    assert together.seen == singly.seen == Seen(None, 7)
    assert together.is_whole


def test_deltas_that_come_together_pass_as_the_bytes_that_they_are() -> None:
    reader = ResponsesReader(asked(), "m")
    reader.feed(b"".join(STREAM[:4]))
    together = delta(4, "a") + delta(5, "b") + delta(6, "c", "reasoning_text")
    assert reader.feed(together) is together
    assert reader.seen == Seen(None, 3)
