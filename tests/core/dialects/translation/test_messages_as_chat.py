"""What Anthropic's clients ask becomes what OpenAI's would: each field, each block; what has no place is refused."""

from base64 import urlsafe_b64encode
from typing import Any

import orjson
import pytest

from mcp_gateway.core.dialects.translation.carried import carried_by, carrying, without_thoughts_of_others
from mcp_gateway.core.dialects.translation.messages_as_chat import MessagesAsChat
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.provider_settings import Preset, presets
from tests.cases import each

PLAIN = Preset(base_url="https://x/v1", evidence="of a test")
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
URI = "data:image/png;base64,iVBORw0KGgo="
IMAGE, IMAGE_PART = {"type": "image", "source": PNG}, {"type": "image_url", "image_url": {"url": URI}}
CALL = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
CALLED = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
ASKED = {"role": "user", "content": "go on"}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words} | more


def result(content: Any = "done", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t1", "content": content} | more


def tool(content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "t1", "content": content}


def chat_of(row: Preset = PLAIN, **body: Any) -> dict[str, Any]:
    return MessagesAsChat(row).chat_of({"model": "m", "max_tokens": 9, "messages": [ASKED]} | body)


@each(
    ("content", "expected"),
    [
        ("hello", [{"role": "user", "content": "hello"}]),
        ([], [{"role": "user", "content": ""}]),
        ([text("a"), text("b")], [{"role": "user", "content": "a\n\nb"}]),
        ([text("a"), IMAGE], [{"role": "user", "content": [text("a"), IMAGE_PART]}]),
        ([{"type": "image", "source": {"type": "url", "url": URI}}], [{"role": "user", "content": [IMAGE_PART]}]),
        ([result()], [tool("done")]),
        (
            [text("and"), result("1"), result([text("2"), text("3")])],
            [tool("1"), tool("2\n\n3"), {"role": "user", "content": "and"}],
        ),
        ([result(None), result([])], [tool(""), tool("")]),
        ([result("no", is_error=True)], [tool("Error: no")]),
        (
            [result([text("see"), IMAGE]), text("?")],
            [tool("see"), {"role": "user", "content": [IMAGE_PART, text("?")]}],
        ),
        ([result([{"type": "tool_reference", "tool_name": "g"}])], [tool("g")]),
        (
            [{"type": "document", "title": "T", "source": {"type": "text", "data": "x"}}],
            [{"role": "user", "content": "T\n\nx"}],
        ),
        (
            [text("a"), {"type": "mid_conv_system", "content": [text("s")]}],
            [{"role": "user", "content": "a"}, {"role": "system", "content": "s"}],
        ),
    ],
)
def test_what_the_user_says_becomes_a_text_parts_or_results_of_tools(content: Any, expected: Any) -> None:
    assert chat_of(messages=[{"role": "user", "content": content}])["messages"] == expected


@each(
    ("content", "expected"),
    [
        ("hello", {"content": "hello"}),
        ([text("a"), text("b")], {"content": "a\n\nb"}),
        ([CALL], {"content": None, "tool_calls": [CALLED]}),
        ([text("a"), CALL], {"content": "a", "tool_calls": [CALLED]}),
        ([{"type": "thinking", "thinking": "Hm.", "signature": "x"}, text("a")], {"content": "a"}),
        ([{"type": "redacted_thinking", "data": "of another"}, text("a")], {"content": "a"}),
        ([carrying({"google": 1}), CALL], {"content": None, "tool_calls": [CALLED]}),
        ([], {"content": ""}),
    ],
)
def test_what_the_assistant_said_becomes_a_text_and_calls(content: Any, expected: dict[str, Any]) -> None:
    messages = [{"role": "assistant", "content": content}, ASKED]
    assert chat_of(messages=messages)["messages"] == [{"role": "assistant"} | expected, ASKED]


@each(
    ("kind", "content", "expected"),
    [
        ("deepseek", [{"type": "thinking", "thinking": "Hm."}, CALL], {"reasoning_content": "Hm."}),
        ("deepseek", [CALL], {"reasoning_content": " "}),
        ("deepseek", [text("a")], {}),
        ("moonshot", [CALL], {"reasoning_content": " "}),
        ("groq", [{"type": "thinking", "thinking": "Hm."}, CALL], {"reasoning": "Hm."}),
        ("groq", [CALL], {}),
        ("openai", [{"type": "thinking", "thinking": "Hm."}, CALL], {}),
    ],
)
def test_reasoning_goes_back_to_who_wants_it(kind: str, content: Any, expected: dict[str, Any]) -> None:
    messages = [{"role": "assistant", "content": content}, ASKED]
    message = chat_of(presets()[kind], messages=messages)["messages"][0]
    assert {name: value for name, value in message.items() if name.startswith("reasoning")} == expected


def test_what_a_call_carries_goes_back_with_it_to_who_wants_it() -> None:
    signed = {"google": {"thought_signature": "c2ln"}}
    other = CALL | {"id": "t2"}
    messages = [{"role": "assistant", "content": [text("a"), carrying(signed), CALL, other]}, ASKED]
    first, second = chat_of(presets()["google"], messages=messages)["messages"][0]["tool_calls"]
    assert (first, "extra_content" in second) == (CALLED | {"extra_content": signed}, False)
    assert "extra_content" not in str(chat_of(presets()["mistral"], messages=messages))


DEEP = "gateway." + urlsafe_b64encode(b'{"a":' + b"[" * 1000 + b"]" * 1000 + b"}").decode()


@each(
    "data",
    ["", "x", "gateway.", "gateway.%%%", "gateway.\xe4", "gateway.e30", "gateway.WzFd", "gateway.bnVsbA==", DEEP, None],
)
def test_what_nothing_of_ours_carries_is_nothing(data: Any) -> None:
    assert carried_by({"type": "redacted_thinking", "data": data}) is None


@each(
    ("system", "expected"),
    [
        (None, []),
        ("", []),
        ([], []),
        ("be", [{"role": "system", "content": "be"}]),
        ([text("be"), text("kind", cache_control={})], [{"role": "system", "content": "be\n\nkind"}]),
    ],
)
def test_the_system_prompt_is_the_first_message(system: Any, expected: Any) -> None:
    assert chat_of(system=system)["messages"] == [*expected, ASKED]


def test_a_message_of_the_system_stays_where_it_stands() -> None:
    messages = [ASKED, {"role": "system", "content": [text("now"), text("this")]}, ASKED]
    assert chat_of(messages=messages)["messages"] == [ASKED, {"role": "system", "content": "now\n\nthis"}, ASKED]


TOOL = {"name": "f", "description": "does", "input_schema": {"type": "object", "properties": {"a": {}}}}
FUNCTION = {"name": "f", "description": "does", "parameters": TOOL["input_schema"]}
OFFERED = {"tools": [{"type": "function", "function": FUNCTION}]}
ONE = {"type": "function", "function": {"name": "f"}}
SCHEMA = {"type": "object", "properties": {}}


@each(
    ("fields", "expected"),
    [
        ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
        ({"stop_sequences": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"stop_sequences": []}, {}),
        ({"tools": [TOOL]}, OFFERED),
        (
            {"tools": [{"name": "f"}]},
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]},
        ),
        ({"tools": [TOOL], "tool_choice": {"type": "auto"}}, OFFERED | {"tool_choice": "auto"}),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}}, OFFERED | {"tool_choice": "required"}),
        ({"tools": [TOOL], "tool_choice": {"type": "none"}}, OFFERED | {"tool_choice": "none"}),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f"}}, OFFERED | {"tool_choice": ONE}),
        (
            {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            OFFERED | {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
        ({"tool_choice": {"type": "auto"}}, {}),
        ({"tool_choice": {"type": "any"}}, {"tool_choice": "required"}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
                }
            },
        ),
        ({"thinking": {"type": "adaptive"}}, {}),
        ({"thinking": {"type": "disabled"}}, {}),
        ({"thinking": {"type": "enabled", "budget_tokens": 10_000}}, {"reasoning_effort": "medium"}),
        ({"output_config": {"effort": "max"}}, {"reasoning_effort": "high"}),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, {}),
        ({"thinking": None, "output_config": None, "tools": None, "tool_choice": None}, {}),
    ],
)
def test_each_field_has_its_counterpart(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert chat_of(**fields) == {"messages": [ASKED]} | expected


@each(
    ("kind", "fields", "expected"),
    [
        ("deepseek", {"output_config": {"effort": "medium"}}, {"reasoning_effort": "high"}),
        ("deepseek", {"output_config": {"effort": "xhigh"}}, {"reasoning_effort": "max"}),
        ("deepseek", {"thinking": {"type": "disabled"}}, {"thinking": {"type": "disabled"}}),
        (
            "moonshot",
            {"thinking": {"type": "enabled", "budget_tokens": 2000}},
            {"reasoning_effort": "low", "thinking": {"type": "enabled"}},
        ),
        ("cohere", {"output_config": {"effort": "low"}}, {"reasoning_effort": "high"}),
        ("mistral", {"thinking": {"type": "disabled"}}, {"reasoning_effort": "none"}),
        ("ollama", {"output_config": {"effort": "xhigh"}}, {"reasoning_effort": "max"}),
        ("anthropic", {"output_config": {"effort": "xhigh"}}, {"reasoning_effort": "max"}),
        ("openai", {"output_config": {"effort": "minimal"}}, {"reasoning_effort": "low"}),
    ],
)
def test_how_much_to_think_is_said_in_the_nearest_words_of_the_provider(
    kind: str, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    told = chat_of(presets()[kind], **fields)
    assert {name: told[name] for name in told if name in ("reasoning_effort", "thinking")} == expected


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [*blocks]}]}


def assistant(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "assistant", "content": [*blocks]}, ASKED]}


@each(
    ("fields", "place"),
    [
        ({"messages": [ASKED, {"role": "assistant", "content": "I say"}]}, "messages[1]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        (user({"type": "text"}), "messages[0].content[0].text"),
        (user(CALL), "messages[0].content[0]"),
        (user({"type": "thinking", "thinking": "x"}), "messages[0].content[0]"),
        (user(text("a"), {"type": "tool_result"}), "messages[0].content[1].tool_use_id"),
        (user(result([CALL])), "messages[0].content[0].content[0]"),
        (user({"type": "mid_conv_system", "content": [IMAGE]}), "messages[0].content[0].content[0]"),
        (assistant(result()), "messages[0].content[0]"),
        (assistant(IMAGE), "messages[0].content[0]"),
        (assistant(CALL | {"input": "{}"}), "messages[0].content[0].input"),
        (assistant(CALL | {"id": None}), "messages[0].content[0].id"),
        (assistant(CALL | {"name": 1}), "messages[0].content[0].name"),
        ({"system": [IMAGE]}, "system[0]"),
        ({"tools": ["f"]}, "tools[0]"),
        ({"tools": [{"description": "x"}]}, "tools[0].name"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "some"}}, "tool_choice"),
        ({"tool_choice": {"type": ["auto"]}}, "tool_choice"),
        ({"thinking": "much"}, "thinking"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": True}}, "thinking.budget_tokens"),
        ({"output_config": {"effort": "ultra"}}, "output_config.effort"),
        ({"output_config": {"effort": ["low"]}}, "output_config.effort"),
        ({"output_config": ["low"]}, "output_config"),
        ({"output_config": {"format": {"type": "json_object"}}}, "output_config.format"),
        ({"output_config": {"format": "json"}}, "output_config.format"),
    ],
)
def test_what_cannot_be_said_as_a_chat_is_refused_where_it_stands(fields: dict[str, Any], place: str) -> None:
    with pytest.raises(GatewayError) as caught:
        chat_of(**fields)
    assert (caught.value.status, caught.value.param) == (400, place)
    assert place in caught.value.message


def test_a_body_that_was_given_stays_as_it_was() -> None:
    body: dict[str, Any] = {
        "messages": [ASKED, {"role": "assistant", "content": [CALL]}, *user(result([text("a"), IMAGE]))["messages"]]
    }
    body |= {"tools": [TOOL], "system": "s", "output_config": {"effort": "low"}}
    before = orjson.dumps(body)
    MessagesAsChat(PLAIN).chat_of(body)
    assert orjson.dumps(body) == before


@each(
    ("content", "expected"),
    [
        ("hello", "hello"),
        ([text("a"), {"type": "thinking", "thinking": "x", "signature": "s"}], None),
        ([{"type": "redacted_thinking", "data": "Em"}], None),
        ([{"type": "thinking", "thinking": "x", "signature": ""}, text("a")], [text("a")]),
        ([{"type": "thinking", "thinking": "x"}, carrying({"a": 1}), CALL], [CALL]),
        ([carrying({"a": 1})], []),
        ([], None),
    ],
)
def test_thoughts_that_another_told_are_not_told_to_who_did_not_sign_them(content: Any, expected: Any) -> None:
    said = [ASKED, {"role": "assistant", "content": content}, ASKED]
    kept = [ASKED, {"role": "assistant", "content": content if expected is None else expected}, ASKED]
    assert without_thoughts_of_others(said) == ([ASKED, ASKED] if expected == [] else kept)
