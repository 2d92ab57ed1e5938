"""The demo backend against what a real vLLM answered, and in its own behaviour."""

import asyncio
import json
import re
from typing import Any

import jsonschema
import pytest

from mcp_gateway.core.upstream.demo import DemoBackend
from mcp_gateway.core.upstream.demo.instance import SchemaError, instance_of
from tests.captured import Capture, captured, captures
from tests.cases import each

WINDOW = 2048  # as the captured server's
JSON_TYPE = (b"content-type", b"application/json")

NOT_IMITATED = {
    "115_prompt_logprobs": "no logprobs of the prompt",
    "209_tools_auto_forced_text_and_hermes": "no text before calls",
    "209_tools_auto_forced_text_and_hermes_stream": "no text before calls",
    "230_vision_on_text": "the demo sees images",
    "231_vision_stream": "the demo sees images",
    "366_return_token_ids": "no token ids",
    "367_return_token_ids_stream": "no token ids",
    "368_echo": "no logprobs of the prompt",
    "369_add_gen_false": "the role is always the assistant's",
    "374_chat_template": "ignored",
    "380_use_beam_search": "no beams",
    "384_mm_kwargs": "ignored",
}
NOT_WHOLE = {
    "152_prompt_too_long",
    "153_prompt_too_long_stream",
    "154_prompt_too_long_no_max",
    "155_truncate_prompt_tokens",
    "347_bad_utf8",
}
"""Stored without their whole request; their behaviour is tested by itself."""
OTHER_WORDS = {
    "113_top_logprobs_too_many",
    "124_n_huge",
    "163_json_schema_bad",
    "165_response_format_unknown",
    "167_response_format_str",
    "233_audio",
    "234_part_unknown",
    "235_file_part",
    "313_message_no_role",
    "315_content_null",
    "317_content_int",
    "336_logit_bias_bad",
}
"""Refused with the same status and type, with a text of the demo's own."""
OTHER_PARAM = {"234_part_unknown"}


def cases_of(*ranges: tuple[str, str]) -> list[str]:
    cases = [capture.case for capture in captures()]
    return [case for case in cases if any(low <= case[:3] <= high for low, high in ranges)]


CHATS = [
    case
    for case in cases_of(("100", "172"), ("200", "235"), ("300", "386"))
    if case not in NOT_IMITATED and case not in NOT_WHOLE
]


class Sleeper:
    """A sleep that takes no time and remembers what was asked of it, in seconds."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []

    async def __call__(self, delay_s: float) -> None:
        self.slept_s.append(delay_s)
        await asyncio.sleep(0)


@pytest.fixture
def sleeper() -> Sleeper:
    return Sleeper()


@pytest.fixture
def demo(sleeper: Sleeper) -> DemoBackend:
    return DemoBackend(now_s=lambda: 1_800_000_000.9, sleep=sleeper, context_window=WINDOW)


async def ask(demo: DemoBackend, *headers: tuple[bytes, bytes], **body: Any) -> tuple[int, Any]:
    body = {"model": "demo/echo", "messages": [{"role": "user", "content": "hello there"}], **body}
    response = await demo.request("POST", "/v1/chat/completions", [JSON_TYPE, *headers], json.dumps(body).encode())
    return response.status, json.loads(await response.read())


async def answer(demo: DemoBackend, **body: Any) -> dict[str, Any]:
    status, found = await ask(demo, **body)
    assert status == 200, found
    return dict(found)


async def refusal(demo: DemoBackend, **body: Any) -> dict[str, Any]:
    status, found = await ask(demo, **body)
    assert status == found["error"]["code"]
    return dict(found["error"])


async def events(demo: DemoBackend, **body: Any) -> list[bytes]:
    body = {"model": "demo/echo", "messages": [{"role": "user", "content": "hello there"}], "stream": True, **body}
    raw = json.dumps(body).encode()
    response = await demo.request("POST", "/v1/chat/completions", [JSON_TYPE], raw, is_stream=True)
    assert response.status == 200
    found = []
    while event := await response.next_chunk():
        found.append(event)
    return found


def chunk_of(event: bytes) -> dict[str, Any]:
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    return dict(json.loads(event[6:]))


async def chunks(demo: DemoBackend, **body: Any) -> list[dict[str, Any]]:
    *data, done = await events(demo, **body)
    assert done == b"data: [DONE]\n\n"
    return [chunk_of(event) for event in data]


def content_of(found: list[dict[str, Any]], index: int = 0) -> str:
    deltas = [choice["delta"] for chunk in found for choice in chunk["choices"] if choice["index"] == index]
    return "".join(delta.get("content") or "" for delta in deltas)


def shape_of(value: Any) -> Any:
    """Keys in their order and the types of the values; what stands in a list, once per different shape."""
    if isinstance(value, dict):
        return [(key, shape_of(item)) for key, item in value.items()]
    if isinstance(value, list):
        shapes: list[Any] = []
        for item in value:
            if (shape := shape_of(item)) not in shapes:
                shapes.append(shape)
        return shapes
    return type(value).__name__


def without_ends(chat: dict[str, Any]) -> dict[str, Any]:
    """A whole answer without what follows from its text: how it ended, and what it says where it calls a tool."""
    for choice in chat["choices"]:
        assert choice.pop("finish_reason") in ("stop", "length", "tool_calls")
        assert isinstance(choice.pop("stop_reason"), str | None)
    return chat


def stream_shape(body: bytes) -> tuple[Any, ...]:
    """The different shapes of a stream's chunks in their order, wherever they break the text."""
    *data, done = [event for event in re.split(rb"\n\n+", body.strip()) if event]
    assert done == b"data: [DONE]"
    found = [json.loads(event.removeprefix(b"data: ")) for event in data]
    shapes = []
    for chunk in found:
        for choice in chunk["choices"]:
            if choice["finish_reason"] is not None:
                choice["finish_reason"] = "some"
                choice["stop_reason"] = None
                choice["delta"] = {}
        if (shape := shape_of(chunk)) not in shapes:
            shapes.append(shape)
    return tuple(shapes)


async def replay(demo: DemoBackend, capture: Capture) -> tuple[int, bytes]:
    """What the demo answers to the captured request with its own model's name; tools forced by a grammar by name."""
    body = re.sub(rb'("model":\s?)"tiny"(?!,"messages":\[})', rb'\1"demo/echo"', capture.request_body)
    if b"<tool_call>" in body:
        body = body.replace(b"Say something", b"get_weather")
    response = await demo.request(capture.method, capture.path, capture.request_headers, body)
    return response.status, await response.read()


@each("name", CHATS)
async def test_a_captured_chat_gets_an_answer_of_the_captured_shape(name: str, demo: DemoBackend) -> None:
    capture = captured(name)
    status, body = await replay(demo, capture)
    assert status == capture.status
    if status != 200:
        assert_same_refusal(name, json.loads(body), json.loads(capture.body))
    elif capture.body.startswith(b"data:"):
        assert stream_shape(body) == stream_shape(capture.body)
    else:
        ours, theirs = json.loads(body), json.loads(capture.body)
        assert shape_of(without_ends(ours)) == shape_of(without_ends(theirs))


def assert_same_refusal(name: str, ours: Any, theirs: Any) -> None:
    assert shape_of(ours) == shape_of(theirs) or name in OTHER_PARAM
    if "error" not in theirs:
        assert ours == theirs
        return
    ours, theirs = ours["error"], theirs["error"]
    assert (ours["type"], ours["code"]) == (theirs["type"], theirs["code"])
    assert ours["param"] == theirs["param"] or name in OTHER_PARAM
    if name not in OTHER_WORDS:
        assert ours["message"] == theirs["message"].replace("aliases: tiny", "aliases: demo/echo, demo/paced")


@each("name", cases_of(("010", "012"), ("017", "022"), ("560", "564"), ("566", "566")))
async def test_a_captured_request_for_another_route_gets_an_answer_of_the_captured_shape(
    name: str, demo: DemoBackend
) -> None:
    capture = captured(name)
    status, body = await replay(demo, capture)
    assert status == capture.status
    if capture.method != "HEAD":
        assert shape_of(json.loads(body)) == shape_of(json.loads(capture.body))


def test_every_exception_names_a_capture() -> None:
    names = {capture.case for capture in captures()}
    assert (NOT_IMITATED.keys() | NOT_WHOLE | OTHER_WORDS | OTHER_PARAM) <= names


async def test_it_says_that_it_is_a_demo_and_echoes_the_last_user_message(demo: DemoBackend) -> None:
    conversation = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "second"},
        {"role": "user", "content": [{"type": "text", "text": "naïve 日本 🎉"}]},
    ]
    found = await answer(demo, messages=conversation)
    said = found["choices"][0]["message"]["content"]
    assert said == "This is the demo backend of the gateway, not a model. You said: naïve 日本 🎉"
    assert found["choices"][0]["finish_reason"] == "stop"
    assert found["created"] == 1_800_000_000


async def test_the_same_request_gets_the_same_answer(demo: DemoBackend) -> None:
    first = await answer(demo, logprobs=True, top_logprobs=3)
    second = await answer(demo, logprobs=True, top_logprobs=3)
    assert first.pop("id") != second.pop("id")
    assert first == second


async def test_the_models_say_that_they_are_demos_and_never_change(demo: DemoBackend) -> None:
    response = await demo.request("GET", "/v1/models", [])
    rows = json.loads(await response.read())["data"]
    assert rows == demo.models() == DemoBackend(context_window=WINDOW).models()
    assert [row["id"] for row in rows] == ["demo/echo", "demo/paced"]
    assert {row["owned_by"] for row in rows} == {"demo"}
    assert {row["max_model_len"] for row in rows} == {WINDOW}


async def test_the_request_id_becomes_the_id_of_the_answer(demo: DemoBackend) -> None:
    _, found = await ask(demo, (b"X-Request-Id", b"req_1"), request_id="other")
    assert found["id"] == "chatcmpl-req_1"


async def test_it_counts_the_images_that_it_saw(demo: DemoBackend) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    text_only = await answer(demo, messages=[{"role": "user", "content": [{"type": "text", "text": "what"}]}])
    found = await answer(demo, messages=[{"role": "user", "content": [{"type": "text", "text": "what"}, image, image]}])
    assert "It saw 2 images." in found["choices"][0]["message"]["content"]
    assert found["usage"]["prompt_tokens"] - text_only["usage"]["prompt_tokens"] == 512


async def test_a_stream_says_what_the_whole_answer_says(demo: DemoBackend) -> None:
    whole = await answer(demo)
    found = await chunks(demo, stream_options={"include_usage": True})
    assert content_of(found) == whole["choices"][0]["message"]["content"]
    assert found[-1]["usage"] == {key: whole["usage"][key] for key in found[-1]["usage"]}
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert found[-2]["choices"][0]["delta"] == {}


async def test_a_stream_names_its_fingerprint_only_in_the_last_chunk_and_usage_only_when_asked(
    demo: DemoBackend,
) -> None:
    for options in (None, {"include_usage": False}, {"include_usage": True}):
        found = await chunks(demo, n=2, stream_options=options)
        assert ["system_fingerprint" in chunk for chunk in found] == [False] * (len(found) - 1) + [True]
        assert any("usage" in chunk for chunk in found) == (options == {"include_usage": True})


async def test_continuous_usage_counts_up_to_the_total(demo: DemoBackend) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *middle, last = await chunks(demo, stream_options=options, max_tokens=6)
    assert [chunk["usage"]["completion_tokens"] for chunk in middle] == [0, 1, 2, 3, 4, 5, 6]
    assert last["usage"]["completion_tokens"] == 6
    assert all(chunk["usage"]["total_tokens"] > chunk["usage"]["prompt_tokens"] for chunk in middle[1:])


async def test_max_tokens_cuts_and_max_completion_tokens_wins(demo: DemoBackend) -> None:
    found = await answer(demo, max_tokens=3, max_completion_tokens="6")
    assert found["usage"]["completion_tokens"] == 6
    assert found["choices"][0]["finish_reason"] == "length"
    cut = await chunks(demo, max_tokens=6)
    assert content_of(cut) == found["choices"][0]["message"]["content"]
    assert cut[-1]["choices"][0]["finish_reason"] == "length"
    assert cut[-1]["choices"][0]["delta"]["content"]


async def test_an_answer_that_just_fits_ends_by_length_without_room_for_its_end(demo: DemoBackend) -> None:
    spent = (await answer(demo))["usage"]["completion_tokens"]
    assert (await answer(demo, max_tokens=spent))["choices"][0]["finish_reason"] == "stop"
    assert (await answer(demo, max_tokens=spent - 1))["choices"][0]["finish_reason"] == "length"


async def test_ignore_eos_and_min_tokens_lengthen_the_answer(demo: DemoBackend) -> None:
    assert (await answer(demo, ignore_eos=True, max_tokens=300))["usage"]["completion_tokens"] == 300
    assert (await answer(demo, min_tokens=200, max_tokens=300))["usage"]["completion_tokens"] == 201


async def test_the_room_left_clamps_quietly_and_a_prompt_beyond_the_window_is_refused(demo: DemoBackend) -> None:
    found = await answer(DemoBackend(context_window=512), max_tokens=512, ignore_eos=True)
    assert found["usage"]["total_tokens"] == 512
    error = await refusal(demo, max_tokens=WINDOW + 1, stream=True)
    assert (error["type"], error["param"]) == ("BadRequestError", "max_tokens")
    long = [{"role": "user", "content": "word " * WINDOW}]
    _, found = await ask(demo, messages=long, stream=True)
    assert found == json.loads(captured("152_prompt_too_long").body)
    assert (await answer(demo, messages=long, truncate_prompt_tokens=100))["usage"]["prompt_tokens"] == 100


@each(
    ("stop", "includes", "said"),
    [
        ("not a", False, "This is the demo backend of the gateway, "),
        (["zzz", "eway"], False, "This is the demo backend of the gat"),
        (["zzz", "eway"], True, "This is the demo backend of the gateway"),
        ("This", False, ""),
    ],
)
async def test_a_stop_string_ends_the_answer_and_never_leaks_into_a_stream(
    stop: str | list[str], includes: bool, said: str, demo: DemoBackend
) -> None:
    asked = {"stop": stop, "include_stop_str_in_output": includes}
    whole = (await answer(demo, **asked))["choices"][0]
    found = await chunks(demo, **asked)
    assert whole["message"]["content"] == content_of(found) == said
    assert whole["stop_reason"] == found[-1]["choices"][0]["stop_reason"] == (stop if isinstance(stop, str) else "eway")
    assert whole["finish_reason"] == found[-1]["choices"][0]["finish_reason"] == "stop"


async def test_several_choices_differ_and_their_usage_adds_up(demo: DemoBackend) -> None:
    found = await answer(demo, n=3)
    said = [choice["message"]["content"] for choice in found["choices"]]
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    assert len(set(said)) == 3
    streamed = await chunks(demo, n=3, stream_options={"include_usage": True})
    assert [content_of(streamed, index) for index in range(3)] == said
    assert streamed[-1]["usage"]["completion_tokens"] == found["usage"]["completion_tokens"]


async def test_logprobs_carry_the_bytes_of_every_token(demo: DemoBackend) -> None:
    asked = {"logprobs": True, "top_logprobs": 20, "max_tokens": 15}
    asked["messages"] = [{"role": "user", "content": "日本 🎉"}]  # type: ignore[assignment]
    whole = (await answer(demo, **asked))["choices"][0]
    entries = whole["logprobs"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == whole["message"]["content"]
    assert len(entries) == 15
    for entry in entries:
        top = entry["top_logprobs"]
        assert len({other["token"] for other in top}) == 20
        assert top[0]["token"] == entry["token"]
        assert [other["logprob"] for other in top] == sorted((other["logprob"] for other in top), reverse=True)
    streamed = await chunks(demo, **asked)
    parts = [chunk["choices"][0]["logprobs"] for chunk in streamed[1:]]
    assert [entry for part in parts for entry in part["content"]] == entries


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Oslo"]}, "days": {"type": "integer", "minimum": 2}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}


def calls_of(found: dict[str, Any]) -> list[tuple[str, Any]]:
    calls = found["choices"][0]["message"].get("tool_calls", [])
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


def streamed_calls(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The calls put together as a client does it."""
    calls: list[dict[str, Any]] = []
    for delta in (choice["delta"] for chunk in found for choice in chunk["choices"]):
        for part in delta.get("tool_calls", ()):
            assert delta["content"] is None
            if "id" in part:
                assert "arguments" not in part["function"]
                begun = {"id": part["id"], "type": part["type"]}
                calls.append({**begun, "function": {"name": part["function"]["name"], "arguments": ""}})
                assert part["index"] == len(calls) - 1
            else:
                calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
    return calls


@each(
    ("choice", "text", "called", "finish", "content"),
    [
        ("auto", "please get_weather.", ["get_weather"], "tool_calls", None),
        (None, "now, get_weather", ["get_weather", "now"], "tool_calls", None),
        ("required", "hello", ["get_weather"], "tool_calls", ""),
        ("required", "the time now", ["now"], "tool_calls", ""),
        ({"type": "function", "function": {"name": "now"}}, "get_weather", ["now"], "stop", ""),
    ],
)
async def test_tools_are_called_when_chosen_or_named_by_the_user(
    choice: Any, text: str, called: list[str], finish: str, content: str | None, demo: DemoBackend
) -> None:
    asked: dict[str, Any] = {"tools": [WEATHER, NOW], "messages": [{"role": "user", "content": text}]}
    if choice is not None:
        asked["tool_choice"] = choice
    found = await answer(demo, **asked)
    arguments = {"get_weather": {"city": "Paris", "days": 2}, "now": {}}
    assert calls_of(found) == [(name, arguments[name]) for name in called]
    assert found["choices"][0]["finish_reason"] == finish
    assert found["choices"][0]["message"]["content"] == content
    streamed = await chunks(demo, **asked)
    expected = found["choices"][0]["message"]["tool_calls"]
    assert [call["function"] for call in streamed_calls(streamed)] == [call["function"] for call in expected]
    assert streamed[-1]["choices"][0]["delta"] == {}
    assert streamed[-1]["choices"][0]["finish_reason"] == finish


async def test_calls_have_ids_of_their_own(demo: DemoBackend) -> None:
    asked = {"tools": [WEATHER, NOW], "messages": [{"role": "user", "content": "now get_weather"}], "n": 2}
    found = [await answer(demo, **asked), await answer(demo, **asked)]
    ids = [call["id"] for each in found for choice in each["choices"] for call in choice["message"]["tool_calls"]]
    assert len(set(ids)) == 8
    assert all(re.fullmatch(r"chatcmpl-tool-[0-9a-f]{16}", call_id) for call_id in ids)


async def test_no_tool_is_called_unasked_or_after_its_result(demo: DemoBackend) -> None:
    assert calls_of(await answer(demo, tools=[WEATHER])) == []
    named = [{"role": "user", "content": "get_weather now"}]
    assert calls_of(await answer(demo, tools=[WEATHER], tool_choice="none", messages=named)) == []
    assert len(calls_of(await answer(demo, tools=[WEATHER, NOW], parallel_tool_calls=False, messages=named))) == 1
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    results = [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "sunny"}]
    found = await answer(demo, tools=[WEATHER], messages=[*named, *results])
    assert found["choices"][0]["message"]["content"].endswith("The tool answered: sunny")


async def test_a_call_that_is_cut_is_text_as_a_whole_and_partial_in_a_stream(demo: DemoBackend) -> None:
    asked = {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 5}
    choice = (await answer(demo, **asked))["choices"][0]
    assert choice["message"]["content"].startswith("<tool_call>")
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "length"
    streamed = await chunks(demo, **asked)
    assert streamed_calls(streamed) == []
    assert streamed[-1]["choices"][0]["finish_reason"] == "length"


SCHEMAS: list[Any] = [
    {"type": "object", "properties": {"a": {"type": "string", "maxLength": 2}, "b": {"type": "boolean"}}},
    {"type": "object", "required": ["free"], "properties": {"n": {"type": ["null", "integer"]}}},
    {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5}, "minItems": 2},
    {"type": "array", "prefixItems": [{"const": 1}, {"enum": ["x"]}], "maxItems": 2},
    {"type": "integer", "minimum": 7, "maximum": 20, "multipleOf": 5},
    {"type": "integer", "exclusiveMaximum": -3},
    {"type": "number", "minimum": 2.25},
    {"type": "string", "minLength": 9},
    {"type": "string", "format": "date-time"},
    {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    {"type": "object", "properties": {"a": {}, "b": {}}, "oneOf": [{"required": ["a"]}]},
    {"allOf": [{"properties": {"a": {"type": "null"}}}, {"required": ["a"], "type": "object"}]},
    {"$ref": "#/$defs/x~1y", "$defs": {"x/y": {"type": "integer", "minimum": 3}}},
    {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["next", "children"],
            }
        },
        "$ref": "#/$defs/node",
    },
    True,
]


@each("schema", SCHEMAS)
def test_an_instance_is_valid_against_its_schema(schema: Any) -> None:
    made = instance_of(schema)
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(made)


@each(
    "schema",
    [
        {"type": "objekt"},
        {"type": {"a": 1}},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#/$defs/absent"},
        {"$ref": "#"},
        {"type": "object", "required": ["me"], "properties": {"me": {"$ref": "#"}}},
        {"type": "array", "minItems": 10**9},
        {"type": "string", "minLength": 10**9},
        {"type": "integer", "minimum": 2, "maximum": 1},
        {"type": "number", "minimum": 10**400},
        {"properties": 5},
        {"properties": {"x": False}},
        5,
    ],
)
def test_a_schema_without_an_instance_is_refused(schema: Any) -> None:
    with pytest.raises(SchemaError):
        instance_of(schema)


async def test_json_mode_says_json_and_a_schema_is_fitted(demo: DemoBackend) -> None:
    found = await answer(demo, response_format={"type": "json_object"})
    assert json.loads(found["choices"][0]["message"]["content"]) == {"demo": True, "you_said": "hello there"}
    schema = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 18}}}
    asked = {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": schema}}}
    assert json.loads(content_of(await chunks(demo, **asked))) == {"age": 18}


async def test_structured_outputs_choose_and_fit(demo: DemoBackend) -> None:
    found = await answer(demo, structured_outputs={"choice": ["yes", "no"]})
    assert found["choices"][0]["message"]["content"] == "yes"
    found = await answer(demo, structured_outputs={"json": '{"type": "integer", "minimum": 4}'})
    assert found["choices"][0]["message"]["content"] == "4"


@each(
    "field",
    [
        {"messages": [{"role": "user", "content": [5]}]},
        {"messages": [{"role": "user", "content": [{"type": []}]}]},
        {"messages": ["hello"]},
        {"tool_choice": ["auto"], "tools": [NOW]},
        {"tool_choice": {"function": {"name": 1}}, "tools": [NOW]},
        {"temperature": float("inf")},
        {"temperature": 0, "n": 2},
        {"top_logprobs": -2, "logprobs": True},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": {"type": "x"}}}},
        {"structured_outputs": {"json": "{"}},
        {"logit_bias": {"a": 1}},
        {"model": "\ud800"},
    ],
)
async def test_odd_values_are_refused_and_nothing_breaks(field: dict[str, Any], demo: DemoBackend) -> None:
    error = await refusal(demo, **field)
    assert error["code"] == 400
    assert error["message"]


@each("raw", [b'{"seed":' + b"9" * 5000 + b"}", b'{"messages":' + b"[" * 60_000, b"\xff"])
async def test_a_body_beyond_the_parser_is_refused(raw: bytes, demo: DemoBackend) -> None:
    response = await demo.request("POST", "/v1/chat/completions", [JSON_TYPE], raw)
    assert response.status == 400
    assert json.loads(await response.read()) == json.loads(captured("347_bad_utf8").body)


async def test_tokenize_counts_what_a_chat_is_billed_for(demo: DemoBackend) -> None:
    asked = {"messages": [{"role": "user", "content": "hello, wörld!\n"}], "tools": [WEATHER]}
    response = await demo.request("POST", "/tokenize", [JSON_TYPE], json.dumps(asked).encode())
    counted = json.loads(await response.read())
    found = await answer(demo, **asked)
    assert counted["count"] == len(counted["tokens"]) == found["usage"]["prompt_tokens"]


async def test_a_token_is_at_least_one_byte_of_the_text_and_all_tokens_are_the_text(demo: DemoBackend) -> None:
    text = "Ünïcode,  two spaces\tand\r\nlines; 日本語 🎉 snake_case 3.14"
    asked = json.dumps({"prompt": text, "return_token_strs": True}).encode()
    response = await demo.request("POST", "/tokenize", [JSON_TYPE], asked)
    strings = json.loads(await response.read())["token_strs"]
    assert "".join(strings) == text
    assert all(strings)


async def test_the_paced_model_takes_its_time_token_by_token(demo: DemoBackend, sleeper: Sleeper) -> None:
    await events(demo, model="demo/paced", max_tokens=4)
    role, first, *rest = sleeper.slept_s
    assert (role, first) == (0.2, 0.0)
    assert rest[:3] == pytest.approx([0.02] * 3)
    assert rest[3:] == [0.0, 0.0]  # [DONE], and the end
    sleeper.slept_s.clear()
    await answer(demo, model="demo/paced", max_tokens=4)
    assert sum(sleeper.slept_s) == pytest.approx(0.26)


async def test_the_echo_never_waits(demo: DemoBackend, sleeper: Sleeper) -> None:
    await events(demo)
    await answer(demo)
    assert set(sleeper.slept_s) == {0.0}


async def test_closing_ends_a_stream_and_may_be_done_twice(demo: DemoBackend) -> None:
    body = {"model": "demo/echo", "messages": [{"role": "user", "content": "x"}], "stream": True}
    response = await demo.request("POST", "/v1/chat/completions", [JSON_TYPE], json.dumps(body).encode())
    assert response.header(b"content-type") == b"text/event-stream; charset=utf-8"
    assert await response.next_chunk()
    response.close()
    response.close()
    assert await response.next_chunk() == b""
