"""What a chat's request becomes as a message's, and what cannot be said as one."""

from typing import Any

import pytest

from mcp_gateway.core.dialects.translation.chat_as_messages import ChatAsMessages
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.provider_settings import presets
from tests.cases import each

AS_MESSAGES = ChatAsMessages(presets()["anthropic"])
MARK = {"cache_control": {"type": "ephemeral"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "weather", "parameters": {"properties": {"city": {}}}}}
SCHEMA = {"type": "json_schema", "json_schema": {"schema": {}}}
DEEP = '{"a":' * 500 + "1" + "}" * 500
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}}
USE = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Paris"}}


def message_of(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return AS_MESSAGES.message_of({"messages": list(messages) or [user("hi")]} | fields)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def refusal(*messages: dict[str, Any], **fields: Any) -> GatewayError:
    with pytest.raises(GatewayError) as refused:
        message_of(*messages, **fields)
    assert refused.value.status == 400
    return refused.value


def test_what_the_system_says_stands_in_front_with_its_marks() -> None:
    message = message_of(
        {"role": "system", "content": [text("Be brief.") | MARK]},
        user("hi"),
        {"role": "developer", "content": "In French."},
    )
    assert message["system"] == [text("Be brief.") | MARK, text("In French.")]
    assert message["messages"] == [user([text("hi")])]


def test_the_mark_of_a_whole_message_stands_at_its_end() -> None:
    result = {"role": "tool", "tool_call_id": "call_1", "content": [text("a"), text("b")]} | MARK
    said = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    message = message_of({"role": "system", "content": "s"} | MARK, user(["a", "b"]) | MARK, said, result, tools=[TOOL])
    assert message["system"] == [text("s") | MARK]
    assert message["messages"][0]["content"] == [text("a"), text("b") | MARK]
    (block,) = message["messages"][2]["content"]
    assert (block["cache_control"], block["content"]) == ({"type": "ephemeral"}, [text("a"), text("b")])
    assert message_of(user("") | MARK, {"role": "assistant", "content": "x"})["messages"][0]["role"] == "assistant"


def test_what_only_the_system_said_is_what_the_user_says() -> None:
    assert message_of({"role": "system", "content": "Count."}) == {"messages": [user([text("Count.")])]}


def test_one_side_says_in_one_turn_what_it_said_in_several() -> None:
    assert message_of(user("a"), user(["b", text("c") | MARK]))["messages"] == [
        user([text("a"), text("b"), text("c") | MARK])
    ]


def test_an_image_is_a_block_of_its_data() -> None:
    (turn,) = message_of(user([text("look"), IMAGE | MARK]))["messages"]
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    assert turn["content"] == [text("look"), {"type": "image", "source": source} | MARK]


def test_calls_and_their_results_are_turns_of_blocks() -> None:
    second = {"id": "functions.weather:1", "function": {"name": "weather", "arguments": ""}}
    message = message_of(
        user("hi"),
        {"role": "assistant", "content": "", "tool_calls": [CALL, second]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "functions.weather:1", "content": [text("rain")]},
        user("and now?"),
        tools=[TOOL],
    )
    assert message["messages"][1:] == [
        {"role": "assistant", "content": [USE, USE | {"id": "functions_weather_1", "input": {}}]},
        user([
            {"type": "tool_result", "tool_use_id": "call_1", "content": [text("sunny")]},
            {"type": "tool_result", "tool_use_id": "functions_weather_1", "content": [text("rain")]},
            text("and now?"),
        ]),
    ]  # fmt: skip


def test_results_come_first_whatever_the_user_said_meanwhile() -> None:
    said = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}
    *_, turn = message_of(user("hi"), said, user("wait"), result, tools=[TOOL])["messages"]
    assert [block["type"] for block in turn["content"]] == ["tool_result", "text"]


def test_tools_that_were_called_are_there_even_where_none_may_be_called_any_more() -> None:
    said = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": ""}
    message = message_of(user("hi"), said, result)
    assert message["tools"] == [{"name": "weather", "input_schema": {"type": "object"}}]
    assert message["tool_choice"] == {"type": "none"}
    assert message["messages"][2] == user([{"type": "tool_result", "tool_use_id": "call_1", "content": []}])


def test_thoughts_come_back_as_they_were_signed_whole_or_in_pieces() -> None:
    about = {"format": "anthropic-claude-v1", "index": 0}
    whole = [{"type": "reasoning.text", "text": "Hm.", "signature": "s"} | about]
    pieces = [
        {"type": "reasoning.text", "text": "H"} | about,
        {"type": "reasoning.text", "text": "m.", "signature": None} | about,
        {"type": "reasoning.text", "signature": "s"} | about,
    ]
    hidden = {"type": "reasoning.encrypted", "data": "d"} | about | {"index": 1}
    for details in (whole, pieces):
        said = {"role": "assistant", "content": "a", "reasoning_details": [*details, hidden]}
        assert message_of(user("hi"), said)["messages"][1]["content"] == [
            {"type": "thinking", "thinking": "Hm.", "signature": "s"},
            {"type": "redacted_thinking", "data": "d"},
            text("a"),
        ]


def test_thoughts_among_the_parts_of_another_provider_s_answer_stay_away() -> None:
    said = {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}, text("a"), "b"]}
    assert message_of(user("hi"), said)["messages"][1]["content"] == [text("a"), text("b")]


@each(
    "details",
    [
        "x", 7, [None], [{}], [{"type": ["reasoning.text"]}], [{"type": {}, "index": []}],
        [{"type": "reasoning.text", "text": "unsigned"}], [{"type": "reasoning.summary"}],
        [{"type": "reasoning.text", "text": "other's", "signature": "s", "format": "openai-responses-v1"}],
        [{"type": "reasoning.encrypted", "data": 7}], [{"type": "reasoning.text", "text": 7, "signature": ""}],
    ],
)  # fmt: skip
def test_thoughts_that_nobody_there_signed_stay_away(details: Any) -> None:
    said = {"role": "assistant", "content": "a", "reasoning_details": details}
    assert message_of(user("hi"), said)["messages"][1]["content"] == [text("a")]


class Piece(str):
    """A text that nothing may be put together with one by one: so many would take all day."""

    def __radd__(self, before: str) -> str:
        raise AssertionError(f"copies the {len(before)} characters that came before")


def test_thoughts_in_many_pieces_are_put_together_once() -> None:
    about = {"type": "reasoning.text", "index": 0, "signature": "s"}
    details = [about | {"text": Piece("ab")} for _ in range(100)]
    message = message_of(user("hi"), {"role": "assistant", "content": "a", "reasoning_details": details}, user("go on"))
    assert message["messages"][1]["content"][0] == {"type": "thinking", "thinking": "ab" * 100, "signature": "s"}


def test_a_tool_is_told_by_its_schema_and_with_its_mark() -> None:
    tool = {"type": "function", "function": TOOL["function"] | {"description": "d", "strict": True}} | MARK
    bare = {"type": "function", "function": {"name": "now"}}
    assert message_of(tools=[tool, bare])["tools"] == [
        {
            "name": "weather", "description": "d", "strict": True,
            "input_schema": {"type": "object", "properties": {"city": {}}},
        } | MARK,
        {"name": "now", "input_schema": {"type": "object"}},
    ]  # fmt: skip


@each(
    ("fields", "expected"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, {"type": "tool", "name": "weather"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"parallel_tool_calls": True}, None),
        (
            {"tool_choice": "required", "parallel_tool_calls": False},
            {"type": "any", "disable_parallel_tool_use": True},
        ),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
    ],
)
def test_a_choice_of_tools_has_anthropics_words(fields: dict[str, Any], expected: Any) -> None:
    assert message_of(tools=[TOOL], **fields).get("tool_choice") == expected


def test_fields_have_anthropics_names() -> None:
    schema = {"type": "object", "properties": {}}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
    message = message_of(
        temperature=0.5, top_p=0.9, stop="###", response_format=wanted, reasoning_effort="minimal", top_k=5,
        cache_control={"type": "ephemeral"}, seed=1, user="u", n=1,
    )  # fmt: skip
    assert message == {
        "messages": [user([text("hi")])],
        "temperature": 0.5,
        "top_p": 0.9,
        "stop_sequences": ["###"],
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": schema}},
        "top_k": 5,
        "cache_control": {"type": "ephemeral"},
    }


@each(
    ("fields", "expected"),
    [
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"reasoning_effort": "xhigh"}, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}),
        (
            {"reasoning_effort": "high", "thinking": {"type": "enabled", "budget_tokens": 1024}},
            {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        ),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": None, "stop": [], "tools": [], "tool_choice": None}, {}),
    ],
)
def test_a_model_thinks_as_much_as_it_is_asked_to(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    message = message_of(**fields)
    del message["messages"]
    assert message == expected


@each(
    ("messages", "fields", "param"),
    [
        ([{"role": "function", "name": "f", "content": "x"}], {}, "messages[0].role"),
        ([{"role": "system", "content": [IMAGE]}], {}, "messages[0].content[0]"),
        ([{"role": "assistant", "content": None, "tool_calls": "x"}], {}, "messages[0].tool_calls"),
        ([{"role": "assistant", "tool_calls": [{"id": "a"}]}], {}, "messages[0].tool_calls[0]"),
        (
            [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{"}}]}],
            {}, "messages[0].tool_calls[0].function.arguments",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": DEEP}}]}],
            {}, "messages[0].tool_calls[0].function.arguments",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "[]"}}]}],
            {}, "messages[0].tool_calls[0].function.arguments",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {}}}]}],
            {}, "messages[0].tool_calls[0].function.arguments",
        ),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}], {}, "messages[0].tool_calls[0].id"),
        ([{"role": "tool", "content": "x"}], {}, "messages[0].tool_call_id"),
        ([{"role": "user", "content": [{"type": "text", "text": 7}]}], {}, "messages[0].content[0].text"),
        ([], {"stop": ["ok", "\n\n"]}, "stop"),
        ([], {"stop": 7}, "stop"),
        ([], {"tools": [{"type": "custom", "custom": {"name": "c"}}]}, "tools[0]"),
        ([], {"tools": [{"type": "function", "function": {"name": 7}}]}, "tools[0].function.name"),
        ([], {"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ([], {"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
        ([], {"response_format": {"type": "json_object"}}, "response_format"),
        ([], {"response_format": {"type": "json_schema"}}, "response_format"),
        ([], {"response_format": "json"}, "response_format"),
        ([], {"response_format": SCHEMA, "output_config": "high"}, "output_config"),
        ([], {"reasoning_effort": "low", "output_config": ["high"]}, "output_config"),
        ([], {"reasoning_effort": "much"}, "reasoning_effort"),
        ([], {"reasoning_effort": ["low"]}, "reasoning_effort"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_as_a_message_is_refused_by_its_place(
    messages: list[dict[str, Any]], fields: dict[str, Any], param: str
) -> None:
    assert refusal(*messages, **fields).param == param
