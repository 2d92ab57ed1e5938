"""What a message becomes as a chat's answer, in one piece and as a stream, cut wherever it may be."""

from itertools import pairwise
from typing import Any

import orjson
import pytest

from mcp_gateway.core.dialects.translation.events_as_chunks import EventsAsChunks
from mcp_gateway.core.dialects.translation.message_as_chat import chat_of
from mcp_gateway.core.errors import GatewayError
from tests.cases import each
from tests.providers.anthropic_double import (
    CALL_ID,
    FRESH,
    HIDDEN,
    SIGNATURE,
    THOUGHTS,
    UPSTREAM_ID,
    Messages,
    error_event,
)
from tests.providers.doubles import ARGUMENTS, CACHED, OUTPUT, PROMPT, TEXT

NAMES = ("reasoning",)
HEAD = {"id": "chatcmpl-req_1", "object": "chat.completion.chunk", "created": 7, "model": "sold/model"}
BODY: dict[str, Any] = {"tools": [{"name": "weather"}], "thinking": {"type": "adaptive"}}
DETAILS = [
    {
        "type": "reasoning.text", "text": "".join(THOUGHTS), "signature": SIGNATURE,
        "format": "anthropic-claude-v1", "index": 0,
    },
    {"type": "reasoning.encrypted", "data": HIDDEN, "format": "anthropic-claude-v1", "index": 1},
]  # fmt: skip
CALL = {"id": CALL_ID, "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}}


def chunks_of(stream: bytes, *cuts: int) -> list[dict[str, Any]]:
    """What a stream becomes that comes in pieces, without its end."""
    made = EventsAsChunks(HEAD, NAMES)
    places = (0, *cuts, len(stream))
    frames = b"".join(made.feed(stream[start:end]) for start, end in pairwise(places))
    frames += made.end()
    parts = [frame.removeprefix(b"data: ") for frame in frames.split(b"\n\n") if frame]
    assert parts.count(b"[DONE]") == (b"message_stop" in stream)
    return [orjson.loads(part) for part in parts if part != b"[DONE]"]


def deltas_of(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


def whole(message: dict[str, Any]) -> dict[str, Any]:
    (choice,) = chat_of(message, NAMES)["choices"]
    return dict(choice)


def test_a_message_is_the_choice_of_a_chat_with_its_thoughts_and_calls() -> None:
    choice = whole(orjson.loads(Messages().unary(BODY)))
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": "".join(TEXT),
        "reasoning": "".join(THOUGHTS),
        "reasoning_details": DETAILS,
        "tool_calls": [CALL],
    }


def test_a_stream_is_the_same_in_chunks() -> None:
    chunks = chunks_of(b"".join(Messages().stream(BODY)))
    deltas = deltas_of(chunks)
    assert deltas[0]["role"] == "assistant"
    assert [delta for delta in deltas[1:] if "role" in delta] == []
    assert "".join(delta.get("reasoning", "") for delta in deltas) == "".join(THOUGHTS)
    assert [detail for delta in deltas for detail in delta.get("reasoning_details", ())] == DETAILS
    assert "".join(delta.get("content", "") for delta in deltas) == "".join(TEXT)
    first, *rest = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert first == CALL | {"index": 0, "function": {"name": "weather", "arguments": ""}}
    assert [call["function"]["arguments"] for call in rest] == [*ARGUMENTS]
    finishes = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert finishes == [None] * (len(finishes) - 1) + ["tool_calls"]
    assert all(chunk.items() >= HEAD.items() for chunk in chunks)
    assert UPSTREAM_ID not in str(chunks)


def test_each_chunk_tells_the_usage_so_far_and_the_last_one_all_of_it() -> None:
    *parts, last = chunks_of(b"".join(Messages().stream(BODY)))
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": PROMPT,
        "completion_tokens": OUTPUT,
        "total_tokens": PROMPT + OUTPUT,
        "prompt_tokens_details": {"cached_tokens": CACHED, "cache_write_tokens": PROMPT - CACHED - FRESH},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    counts = [chunk["usage"]["completion_tokens"] for chunk in parts]
    assert counts == sorted(counts)
    assert counts[0] == 0


def test_a_stream_is_the_same_wherever_it_is_cut() -> None:
    stream = b"".join(Messages().stream(BODY))
    expected = chunks_of(stream)
    for cut in range(1, len(stream)):
        assert chunks_of(stream, cut) == expected
    assert chunks_of(stream, *range(1, len(stream))) == expected


def test_a_stream_that_does_not_tell_its_end_finishes_nowhere_it_is_cut() -> None:
    events = Messages().stream(BODY)
    stream = b"".join(events[:-2])
    for end in range(0, len(stream), 7):
        finishes = [choice["finish_reason"] for chunk in chunks_of(stream[:end]) for choice in chunk["choices"]]
        assert set(finishes) <= {None}


@each(
    ("reason", "finish"),
    [
        ("end_turn", "stop"), ("stop_sequence", "stop"), ("pause_turn", "stop"), ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"), ("tool_use", "tool_calls"), ("refusal", "content_filter"),
        ("invented", "stop"),
    ],
)  # fmt: skip
def test_why_a_message_ended_is_why_a_chat_finished(reason: str, finish: str) -> None:
    manner = Messages(stop_reason=reason)
    assert whole(orjson.loads(manner.unary({})))["finish_reason"] == finish
    assert chunks_of(b"".join(manner.stream({})))[-2]["choices"][0]["finish_reason"] == finish


def test_a_refusal_without_a_block_is_told_in_its_words() -> None:
    chunks = chunks_of(b"".join(Messages(stop_reason="refusal", blocks=[]).stream({})))
    deltas = deltas_of(chunks)
    assert deltas == [{"role": "assistant", "content": ""}, {"refusal": "no"}, {}]
    told = {"content": [], "stop_reason": "refusal", "stop_details": {"explanation": "no"}}
    assert whole(told)["message"] == {"role": "assistant", "content": None, "refusal": "no"}


@each("given", [{}, {"city": "Rome"}])
def test_a_call_without_pieces_has_the_input_that_its_block_began_with(given: dict[str, Any]) -> None:
    block = {"type": "tool_use", "id": "toolu_1", "name": "now", "input": given}
    start = {"type": "content_block_start", "index": 0, "content_block": block}
    empty = {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": ""}}
    events = [start, empty, {"type": "content_block_stop", "index": 0}]
    stream = b"".join(b"event: x\ndata: %b\n\n" % orjson.dumps(event) for event in events)
    calls = [call for delta in deltas_of(chunks_of(stream)) for call in delta.get("tool_calls", ())]
    assert orjson.loads("".join(call["function"]["arguments"] for call in calls)) == given


def test_several_calls_are_numbered_from_zero() -> None:
    blocks = [{"type": "tool_use", "id": f"toolu_{n}", "name": "now", "input": {"n": n}} for n in (1, 2)]
    manner = Messages(blocks=[{"type": "text", "text": "x"}, *blocks])
    calls = [
        call for delta in deltas_of(chunks_of(b"".join(manner.stream({})))) for call in delta.get("tool_calls", ())
    ]
    assert {call["index"] for call in calls} == {0, 1}
    assert [call["id"] for call in whole(orjson.loads(manner.unary({})))["message"]["tool_calls"]] == [
        "toolu_1", "toolu_2",
    ]  # fmt: skip


def test_an_unsigned_thought_is_told_and_does_not_come_back() -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": ""}
    choice = whole({"content": [thought], "stop_reason": "end_turn"})
    assert choice["message"] == {"role": "assistant", "content": None, "reasoning": "Hm."}


def test_an_error_ends_a_stream_as_one() -> None:
    events = Messages(fails_amid=error_event("overloaded_error", "Overloaded")).stream({})
    (chunk,) = chunks_of(b"".join(events))
    assert chunk["error"]["message"] == "Overloaded"
    assert "overloaded_error" in chunk["error"]["type"]


@each(
    "data",
    [
        b"{", b"[]", b"7", b"{}", b'{"type":"message_start"}', b'{"type":"message_start","message":7}',
        b'{"type":"content_block_start"}', b'{"type":"content_block_start","content_block":"text"}',
        b'{"type":"content_block_start","content_block":{"type":"tool_use"}}',
        b'{"type":"content_block_delta","delta":[]}', b'{"type":"content_block_delta","delta":{"type":"text_delta"}}',
        b'{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":null}}',
        b'{"type":"message_delta"}', b'{"type":"message_delta","delta":7}',
        b'{"type":"content_block_delta","delta":{"type":"text_delta","text":7}}',
    ],
)  # fmt: skip
def test_what_is_no_event_is_refused(data: bytes) -> None:
    with pytest.raises(GatewayError) as refused:
        EventsAsChunks(HEAD, NAMES).feed(b"event: x\ndata: %b\n\n" % data)
    assert refused.value.code == "backend_error"


@each("event", [b": hello\n\n", b'event: ping\ndata: {"type": "ping"}\n\n', b'data: {"type":"invented"}\n\n'])
def test_what_tells_nothing_of_the_answer_is_passed_over(event: bytes) -> None:
    assert EventsAsChunks(HEAD, NAMES).feed(event) == b""


def test_usage_that_only_the_end_tells_is_taken_as_it_is() -> None:
    """Some who bridge to this API tell the prompt's tokens nowhere, or only at the end."""
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}}
    for usage, told in ((end["usage"], None), ({"output_tokens": 4, "input_tokens": 9}, 9)):
        events = [
            {"type": "message_start", "message": {}},
            {"type": "content_block_start", "content_block": {"type": "text", "text": "hey"}},
            end | {"usage": usage},
            {"type": "message_stop"},
        ]
        chunks = chunks_of(b"".join(b"data: %b\n\n" % orjson.dumps(event) for event in events))
        last = chunks[-1].get("usage")
        assert (last and last["prompt_tokens"]) == told
        assert deltas_of(chunks)[0]["content"] == "hey"
