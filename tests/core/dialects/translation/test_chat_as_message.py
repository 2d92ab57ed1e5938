"""A chat's answer in one piece as a message: its texts, its calls, why it ended."""

from typing import Any

from mcp_gateway.core.dialects.translation.carried import carried_by
from mcp_gateway.core.dialects.translation.chat_as_message import input_of, message_of
from tests.cases import each

DEEP = '{"a":' + "[" * 1000 + "]" * 1000 + "}"
CALL = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}


def told(message: dict[str, Any], finish_reason: str = "stop") -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant"} | message, "finish_reason": finish_reason}
    return message_of({"id": "chatcmpl-req_1", "model": "m", "choices": [choice]})


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


@each(
    ("message", "content"),
    [
        ({"content": "a"}, [text("a")]),
        ({"content": None}, []),
        ({"content": ""}, []),
        ({"content": "a", "reasoning": "Hm."}, [{"type": "thinking", "thinking": "Hm.", "signature": ""}, text("a")]),
        (
            {"content": "a", "tool_calls": [CALL]},
            [text("a"), {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}],
        ),
        ({"content": None, "refusal": "no"}, [text("no")]),
    ],
)
def test_a_message_has_a_block_for_each_thing_that_is_told(message: dict[str, Any], content: Any) -> None:
    answer = told(message)
    assert answer["content"] == content
    assert (answer["id"], answer["type"], answer["role"], answer["model"]) == ("msg_req_1", "message", "assistant", "m")


@each(
    ("message", "finish_reason", "expected"),
    [
        ({"content": "a"}, "stop", "end_turn"),
        ({"content": "a"}, "length", "max_tokens"),
        ({"tool_calls": [CALL]}, "tool_calls", "tool_use"),
        ({"content": ""}, "content_filter", "refusal"),
        ({"refusal": "no"}, "stop", "refusal"),
    ],
)
def test_why_it_ended_is_said_in_anthropics_words(message: dict[str, Any], finish_reason: str, expected: str) -> None:
    answer = told(message, finish_reason)
    assert (answer["stop_reason"], answer["stop_sequence"]) == (expected, None)


def test_what_a_call_brings_for_the_next_turn_stands_before_it() -> None:
    carrier, call = told({"tool_calls": [CALL | {"extra_content": {"google": {"thought_signature": "s"}}}]})["content"]
    assert carried_by(carrier) == {"google": {"thought_signature": "s"}}
    assert call["type"] == "tool_use"


@each(
    ("arguments", "expected"),
    [
        ("", {}),
        ("{}", {}),
        ('{"a":1}', {"a": 1}),
        ('{"a":', {"arguments": '{"a":'}),
        ("[1]", {"arguments": [1]}),
        ("null", {"arguments": None}),
        (DEEP, {"arguments": DEEP}),
    ],
)
def test_an_input_is_an_object_and_one_that_was_cut_is_not_taken_for_none(arguments: str, expected: Any) -> None:
    assert input_of(arguments) == expected
