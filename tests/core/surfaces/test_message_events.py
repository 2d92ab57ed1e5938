"""A message's events as a client gets them: however they arrive, and whatever goes wrong amid them."""

from typing import Any

import orjson
import pytest

from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.message_events import MessageRelay
from mcp_gateway.core.surfaces.surface import Seen
from mcp_gateway.core.surfaces.usage import Usage
from tests.captured import captured
from tests.cases import each
from tests.replaying import split_events
from tests.surfaces import message_ending as ending
from tests.surfaces import message_event as event
from tests.surfaces import message_text as text

STREAMS = ["541_messages_stream", "550_messages_tool_stream"]
START = split_events(captured("541_messages_stream").body)[0]


def delta(**fields: Any) -> bytes:
    return event("content_block_delta", index=0, delta=fields)


def relay() -> MessageRelay:
    return MessageRelay("public/tiny", UsageBounds(2048, 100))


def begun(*events: bytes) -> MessageRelay:
    reader = relay()
    for one in (START, *events):
        reader.feed(one)
    return reader


def told(stream: bytes) -> list[dict[str, Any]]:
    """The data of each event, whose name is its type."""
    found = []
    for one in split_events(stream):
        name, data = one.removeprefix(b"event: ").split(b"\ndata: ")
        found.append(orjson.loads(data))
        assert found[-1]["type"] == name.decode()
    return found


@each("case", STREAMS)
def test_a_captured_stream_passes_but_for_the_names_and_its_end(case: str) -> None:
    stream = captured(case).body
    reader = relay()
    events, sent = told(reader.feed(stream)), told(stream)
    assert events[1:] == sent[1:-2]
    assert events[0]["message"]["model"] == "public/tiny"
    assert events[0]["message"]["id"] == sent[0]["message"]["id"].replace("chatcmpl-", "msg_")
    assert events[0]["message"]["usage"]["input_tokens"] == sent[0]["message"]["usage"]["input_tokens"]
    usage = sent[-2]["usage"]
    assert reader.usage == Usage(usage["input_tokens"], usage["output_tokens"])
    assert (reader.is_whole, reader.is_done, reader.finish_reason) == (True, True, sent[-2]["delta"]["stop_reason"])
    (last,) = told(reader.end("0.01", reader.usage))
    assert last["delta"] == sent[-2]["delta"]
    assert last["usage"] == usage | {
        "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "cost_usd": "0.01",
    }  # fmt: skip


@each("case", STREAMS)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_it_passes_alike_wherever_it_is_cut(case: str, line_end: bytes) -> None:
    stream = captured(case).body.replace(b"\n", line_end)
    whole = relay().feed(captured(case).body)
    for cut in range(len(stream) + 1):
        reader = relay()
        assert reader.feed(stream[:cut]) + reader.feed(stream[cut:]) == whole, cut
        assert reader.is_whole


@each("case", STREAMS)
def test_it_passes_alike_byte_by_byte_and_event_by_event(case: str) -> None:
    stream = captured(case).body
    whole = relay().feed(stream)
    for pieces in ([stream[at : at + 1] for at in range(len(stream))], split_events(stream)):
        reader = relay()
        assert b"".join(map(reader.feed, pieces)) == whole
        assert reader.usage is not None


@each("pieces", [
    [text("a"), text("b"), text("c")],
    [text("a") + text("b") + text("c")],
    [text("a"), text("")[:9], text("")[9:], text("b") + text("c")],
    [text("a").replace(b"event: content_block_delta\n", b""), text("b"), text("c")],
    [event("ping"), text("a"), b": note\n\n", text("b"), delta(type="signature_delta", signature="x"), text("c")],
    [delta(type="thinking_delta", thinking="a"), delta(type="input_json_delta", partial_json="{"), text('"error"')],
    [event("content_block_start", index=1, content_block={"type": "tool_use", "id": "t", "name": "n", "input": {}}),
     delta(type="input_json_delta", partial_json=""), delta(type="input_json_delta", partial_json="{}"), text("c")],
])  # fmt: skip
def test_who_leaves_pays_the_prompt_and_a_token_for_each_event_that_brought_any(pieces: list[bytes]) -> None:
    assert begun(*pieces).usage == Usage(14, 3)


def test_a_running_count_stands_for_the_events_before_it() -> None:
    reader = begun(text("a"), ending(None, output_tokens=7), text("b"))
    assert (reader.usage, reader.is_whole) == (Usage(14, 8), False)
    reader.feed(ending(output_tokens=9))
    assert (reader.usage, reader.is_whole) == (Usage(14, 9), True)


def test_cached_tokens_are_part_of_the_prompt_that_is_billed_and_told_apart() -> None:
    reader = begun(ending(input_tokens=4, cache_read_input_tokens=8, cache_creation_input_tokens=2, output_tokens=1))
    assert reader.usage == Usage(14, 1, 8, 2)
    (last,) = told(reader.end(None, reader.usage))
    assert last["usage"] == {
        "input_tokens": 4, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 8, "output_tokens": 1,
    }  # fmt: skip


@each(
    ("fields", "usage"),
    [
        ({}, Usage(14, 3, 8, 2)),
        ({"input_tokens": 4}, Usage(14, 3, 8, 2)),
        ({"input_tokens": 9}, Usage(19, 3, 8, 2)),
        ({"cache_read_input_tokens": 1}, Usage(7, 3, 1, 2)),
        ({"input_tokens": 13, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 1}, Usage(14, 3, 0, 1)),
        ({"input_tokens": None, "cache_read_input_tokens": -1, "cache_creation_input_tokens": "x"}, Usage(14, 3, 8, 2)),
    ],
)
def test_each_count_of_a_prompt_that_the_end_does_not_tell_stays_as_it_began(
    fields: dict[str, Any], usage: Usage
) -> None:
    reader = relay()
    counts = b'"input_tokens":4,"cache_read_input_tokens":8,"cache_creation_input_tokens":2'
    reader.feed(START.replace(b'"input_tokens":14', counts))
    reader.feed(ending(output_tokens=3, **fields))
    assert reader.usage == usage


def test_what_cannot_be_of_a_beginning_is_not_added_to_what_the_end_tells() -> None:
    reader = relay()
    reader.feed(START.replace(b'"input_tokens":14', b'"input_tokens":4,"cache_read_input_tokens":140000'))
    reader.feed(ending(input_tokens=14, output_tokens=3))
    assert reader.usage == Usage(14, 3)


@each("fields", [{"input_tokens": 2**62}, {"cache_read_input_tokens": 10**7}, {"input_tokens": 1e30}])
def test_what_cannot_be_of_an_end_leaves_what_was_seen_of_the_beginning(fields: dict[str, Any]) -> None:
    reader = begun(text("a"), text("b"))
    reader.feed(event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 2} | fields))
    assert reader.usage is not None
    assert (UsageBounds(2048, 100).allow(reader.usage), reader.seen) == (False, Seen(14, 2))


def test_a_prompt_that_cannot_be_is_not_told() -> None:
    start = START.replace(b'"input_tokens":14', b'"input_tokens":140000')
    reader = relay()
    assert told(reader.feed(start))[0]["message"]["usage"]["input_tokens"] == 0
    reader.feed(text("a"))
    assert (reader.tells_usage, reader.seen) == (False, Seen(None, 1))


def test_an_answer_whose_length_is_not_told_is_counted_by_its_events() -> None:
    reader = begun(text("a"), text("b"), ending())
    assert (reader.usage, reader.seen, reader.is_whole) == (None, Seen(14, 2), True)


@each("wrong", [
    event("error", error={"type": "internal_error", "message": "EngineCore died"}),
    b'data: {"error":{"message":"EngineCore died","code":500}}\n\n',
    b"event: error\ndata: EngineCore died\n\n",
    b'data: {"type":"error","error":{"message":"EngineCore died"}}\n\n',
    b"data: not JSON\n\n",
    b'data: {"type":"message_start","message":{"deep":' + b"[" * 300 + b"]" * 300 + b"}}\n\n",
    b"data: []\n\n",
])  # fmt: skip
@each("before", [[], [START], [START, text("a")]])
def test_an_error_ends_the_stream(wrong: bytes, before: list[bytes]) -> None:
    reader = relay()
    for one in before:
        reader.feed(one)
    assert reader.feed(wrong + text("b")) == b""
    assert reader.failure is not None
    assert (reader.is_done, reader.is_whole) == (True, False)
    assert reader.feed(text("c")) == b""


def test_a_block_that_is_left_open_ends_before_the_answer_does() -> None:
    opened = event("content_block_start", index=3, content_block={"type": "text", "text": ""})
    for behind, billed, kinds in (
        ([text("a"), event("error", error={"message": "died"})], Usage(14, 1), ["content_block_stop", "message_delta"]),
        ([text("a")], None, ["content_block_stop"]),
        ([text("a"), ending(output_tokens=1)], Usage(14, 1), ["content_block_stop", "message_delta"]),
        ([event("content_block_stop", index=3), ending(output_tokens=1)], Usage(14, 1), ["message_delta"]),
        ([event("content_block_stop", index=3)], None, []),
    ):
        last = told(begun(opened, *behind).end(None, billed))
        assert [one["type"] for one in last] == kinds
        assert [one["index"] for one in last if "index" in one] == [3] * (len(kinds) - ("message_delta" in kinds))


def test_an_end_without_a_reason_is_none() -> None:
    reader = begun(text("a"), ending(None, output_tokens=1), event("message_stop"))
    assert (reader.is_done, reader.is_whole, reader.failure) == (True, False, None)


@each("early", [event("ping"), text("a"), ending(output_tokens=1), b": note\n\n", event("content_block_stop", index=0)])
def test_nothing_passes_before_the_message_begins(early: bytes) -> None:
    reader = relay()
    assert reader.feed(early) == b""
    assert (reader.has_started, reader.is_whole, reader.end("0", Usage(1, 1))) == (False, False, b"")


def test_a_second_beginning_and_names_of_events_that_are_none_are_dropped() -> None:
    reader = begun(text("a"))
    assert reader.feed(START) == b""
    assert reader.feed(b'data: {"type":"x\\nevent: error"}\n\n') == b""
    assert told(reader.feed(event("content_block_later", index=0))) == [{"type": "content_block_later", "index": 0}]


def test_thinking_begins_with_a_signature_that_clients_can_add_to() -> None:
    started = event("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""})
    (passed,) = told(begun().feed(started))
    assert passed["content_block"] == {"signature": "", "type": "thinking", "thinking": ""}


def block(index: int, kind: str, *deltas: dict[str, Any]) -> list[bytes]:
    further = [event("content_block_delta", index=index, delta=one) for one in deltas]
    started = event("content_block_start", index=index, content_block={"type": kind})
    return [started, *further, event("content_block_stop", index=index)]


def says(*texts: str) -> list[dict[str, Any]]:
    return [{"type": "text_delta", "text": one} for one in texts]


TOGETHER = [
    START,
    *block(
        0, "thinking", {"type": "thinking_delta", "thinking": "Well"}, {"type": "signature_delta", "signature": "x"}
    ),
    *block(1, "text", *says("a", "", "event: content_block_stop", 'data: {"error": 1}', "\n\nevent: error\ndata: {}")),
    *block(2, "text", *says("b", "c")),
    event("ping"),
    text("behind a ping"),
    *block(3, "tool_use", {"type": "input_json_delta", "partial_json": "{}"}),
]


@each("pieces", [1, 2, 3, 7])
@each("further", [ending(), event("error", error={"type": "overloaded_error", "message": "full"}), b": waits\n\n"])
def test_events_that_come_together_are_told_and_counted_as_one_by_one(further: bytes, pieces: int) -> None:
    sent = [*TOGETHER, further, event("message_stop")]
    singly, together = relay(), relay()
    told_singly = [singly.feed(one) for one in sent]
    size = -(-len(sent) // pieces)
    told_together = [together.feed(b"".join(sent[at : at + size])) for at in range(0, len(sent), size)]
    assert b"".join(told_together) == b"".join(told_singly)
    assert (together.seen, together.usage, together.failure) == (singly.seen, singly.usage, singly.failure)
    assert together.seen == Seen(14, 10)


def test_events_that_go_on_with_a_block_pass_as_the_bytes_that_they_are() -> None:
    reader = begun(event("content_block_start", index=0, content_block={"type": "text", "text": ""}))
    together = text("a") + text("b")
    assert reader.feed(together) is together
    assert reader.feed(together + event("content_block_stop", index=0)).startswith(together)
    assert reader.seen == Seen(14, 4)
