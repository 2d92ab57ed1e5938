"""What the demo costs at most: anybody may ask it, for nothing, so what it reads, makes and says is bounded."""

import json
from random import Random
from typing import Any

import pytest

from mcp_gateway.core.upstream.demo import DemoBackend
from mcp_gateway.core.upstream.demo.instance import Allotment, SchemaError, instance_of
from tests.cases import each
from tests.refusals import error_of
from tests.turns import turns_during

JSON_TYPE = (b"content-type", b"application/json")
BODY_BYTES, TOKENS, TOOLS, VALUES = 64 * 1024, 1000, 64, 200


def user(text: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def tool(name: str, schema: Any = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": schema}}


async def post(**fields: Any) -> tuple[int, bytes]:
    body = json.dumps({"messages": user("hi"), **fields}, ensure_ascii=False, separators=(",", ":")).encode()
    response = await DemoBackend().request("POST", "/v1/chat/completions", [JSON_TYPE], body)
    return response.status, await response.read()


async def no_time(_delay_s: float) -> None:
    """Sleeps not at all."""


async def answer(**fields: Any) -> dict[str, Any]:
    status, body = await post(**fields)
    assert status == 200, body[:500]
    return dict(json.loads(body))


async def refused_param(**fields: Any) -> str:
    """The `param` of a refusal, which the gateway's caller is told."""
    status, body = await post(**fields)
    assert status == 400
    error = error_of(status, body, "demo/echo", "demo/echo")
    assert error.status == 400
    assert error.param
    return error.param


async def test_a_body_above_64_kib_is_too_long_a_prompt_wherever_its_bytes_stand() -> None:
    long = "x" * BODY_BYTES
    for fields in ({"messages": user(long)}, {"user": long}, {"tools": [tool("f", {"description": long})]}):
        status, body = await post(**fields)
        error = error_of(status, body, "demo/echo", "demo/echo")
        assert (error.code, error.param) == ("context_length_exceeded", "messages")
        assert str(BODY_BYTES) in error.message


@each(
    ("field", "most", "items"),
    [
        ("tools", TOOLS, lambda count: [tool(f"f{n}") for n in range(count)]),
        ("messages", 1024, lambda count: user("x") * count),
        ("messages", 1024, lambda count: user([""] * count)),
        ("messages", 1024, lambda count: user([""] * 24) + user([{"type": "text", "text": ""}] * (count - 24))),
        ("logit_bias", 1024, lambda count: {str(n): 0 for n in range(count)}),
    ],
)
async def test_items_beyond_a_bound_are_refused_by_the_name_of_their_field(field: str, most: int, items: Any) -> None:
    await answer(**{field: items(most), "truncate_prompt_tokens": 10})
    assert await refused_param(**{field: items(most + 1)}) == field


@each("wrong", [None, 5, "x", {}, [None], [[]], [{"content": 5}], [{"content": {}}]])
@each("field", ["tools", "messages", "logit_bias"])
async def test_what_is_no_list_is_still_refused_in_the_schema_s_words(field: str, wrong: Any) -> None:
    status, body = await post(**{field: wrong})
    assert status == 200 if (field, wrong) in (("tools", None), ("logit_bias", None), ("logit_bias", {})) else 400
    assert b"internal" not in body


@each("choices", [1, 3, 8, 128])
@each("more", [{}, {"logprobs": True, "top_logprobs": 20}, {"stream": True}])
async def test_all_choices_together_have_a_thousand_tokens(choices: int, more: dict[str, Any]) -> None:
    fields = {"n": choices, "max_tokens": 8000, "ignore_eos": True, **more}
    if "stream" in more:
        _, body = await post(**fields, stream_options={"include_usage": True})
        *frames, usage, _done, _end = body.split(b"\n\n")
        ends = [json.loads(frame[6:])["choices"][0]["finish_reason"] for frame in frames]
        assert [end for end in ends if end] == ["length"] * choices
        spent = json.loads(usage[6:])["usage"]
    else:
        found = await answer(**fields)
        assert {choice["finish_reason"] for choice in found["choices"]} == {"length"}
        spent = found["usage"]
    assert spent["completion_tokens"] == TOKENS // choices * choices


async def test_a_long_answer_is_told_in_larger_pieces_unless_it_is_paced() -> None:
    for model, most in (("demo/echo", 200), ("demo/paced", 1100)):
        body = {"model": model, "messages": user("x"), "stream": True, "ignore_eos": True, "max_tokens": 1000}
        response = await DemoBackend(sleep=no_time).request(
            "POST", "/v1/chat/completions", [JSON_TYPE], json.dumps(body | {"logprobs": True}).encode()
        )
        frames = (await response.read()).split(b"\n\n")[1:-2]
        told = [json.loads(frame[6:])["choices"][0] for frame in frames]
        assert most - 200 < len(told) < most
        tokens = [token["token"] for choice in told for token in choice["logprobs"]["content"]]
        assert len(tokens) == 1000
        assert "".join(tokens) == "".join(choice["delta"]["content"] for choice in told)


async def test_fewer_tokens_are_as_many_as_were_asked_for() -> None:
    assert (await answer(max_tokens=999, ignore_eos=True))["usage"]["completion_tokens"] == 999
    assert (await answer(min_tokens=500, max_tokens=900))["usage"]["completion_tokens"] == 501
    assert (await answer(max_tokens=8000))["choices"][0]["finish_reason"] == "stop"


async def test_an_echo_that_would_be_longer_is_cut() -> None:
    text = " ".join(f"w{number}" for number in range(1000))
    choice = (await answer(messages=user(text)))["choices"][0]
    assert choice["finish_reason"] == "length"
    assert text.startswith(choice["message"]["content"].partition("You said: ")[2])
    assert len(choice["message"]["content"]) > TOKENS


TOO_LARGE: dict[str, Any] = {
    "values": {"type": "array", "minItems": VALUES},
    "endless": {"type": "array", "minItems": 10**9},
    "nested": {"$defs": {"a": {"type": "array", "minItems": 9, "items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"},
    "parts": {"allOf": [{f"k{n}": 1} for n in range(5000)]},
    "parts with properties": {"allOf": [{"properties": {f"k{n}": {}}} for n in range(1500)]},
    "parts with names": {"allOf": [{"required": [f"k{n}"]} for n in range(1500)]},
    "names": {"type": "object", "required": [f"k{n}" for n in range(5_000)]},
    "a large part that is referred to": {
        "$defs": {"big": {f"k{n}": 1 for n in range(3000)}},
        "type": "object",
        "properties": {f"p{n}": {"$ref": "#/$defs/big"} for n in range(100)},
    },
    "a large constant that is referred to": {
        "$defs": {"big": {"const": "x" * 5000}},
        "type": "array",
        "minItems": 100,
        "items": {"$ref": "#/$defs/big"},
    },
    "a large list that is referred to": {"type": "array", "minItems": 100, "items": {"enum": [[0] * 5000]}},
    "a long name in each": {"type": "array", "minItems": 50, "items": {"required": ["n" * 5000]}},
    "long texts": {"type": "array", "minItems": 100, "items": {"type": "string", "minLength": 10_000}},
    "many alternatives": {"type": "array", "minItems": 100, "items": {"anyOf": [{"type": "null"}] * 3000}},
    "names that are asked for at each depth": {
        "$defs": {
            "a": {
                "type": "object",
                "properties": {"a": {"$ref": "#/$defs/a"}, **{f"p{n}": {} for n in range(1500)}},
                "required": ["a", *(f"q{n}" for n in range(1500))],
            }
        },
        "$ref": "#/$defs/a",
    },
}


@each("schema", TOO_LARGE.values())
async def test_a_schema_that_asks_for_too_much_is_refused_in_words(schema: Any) -> None:
    with pytest.raises(SchemaError, match="too large"):
        instance_of(schema)
    status, body = await post(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert (status, "schema too large" in body.decode()) == (400, True)


def test_a_schema_at_the_bound_is_served() -> None:
    assert len(instance_of({"type": "array", "minItems": VALUES - 1})) == VALUES - 1
    names = [f"k{number}" for number in range(VALUES - 1)]
    assert list(instance_of({"type": "object", "required": names})) == names
    assert instance_of({"allOf": [{"properties": {f"k{n}": {"const": n}}} for n in range(50)]})["k49"] == 49
    assert len(instance_of({"const": "x" * 19_000})) == 19_000


def test_a_budget_is_shared_by_all_that_is_made_from_it() -> None:
    budget = Allotment(values=10)
    for _ in range(5):
        assert instance_of({"type": "array", "minItems": 1}, budget) == ["demo"]
    with pytest.raises(SchemaError):
        instance_of({}, budget)


async def test_tools_that_are_called_together_share_one_budget_and_the_tokens() -> None:
    rich = {"type": "array", "minItems": 150, "items": {"const": 0}}
    tools = [tool("one", rich), tool("two", rich), tool("three", {"type": "array", "minItems": 10**6})]
    found = (await answer(tools=tools, messages=user("one two three")))["choices"][0]
    made = [json.loads(call["function"]["arguments"]) for call in found["message"]["tool_calls"]]
    assert made == [[0] * 150, {}, {}]
    many = [tool(f"f{number}") for number in range(TOOLS)]
    asked = " ".join(f"f{number}" for number in range(TOOLS))
    cut = await answer(tools=many, messages=user(asked), n=8)
    assert {choice["finish_reason"] for choice in cut["choices"]} == {"length"}
    assert cut["usage"]["completion_tokens"] == TOKENS


@pytest.mark.parametrize("name", ["f" * 60_000, "-" * 30_000])
async def test_a_tool_with_a_long_name_is_cut_and_no_more(name: str) -> None:
    asked = {"type": "function", "function": {"name": name}}
    fields = {"tools": [tool(name)], "tool_choice": asked} if len(name) < 31_000 else {"tools": [tool(name)]}
    found = await answer(**fields, truncate_prompt_tokens=10, n=8)
    assert found["usage"]["completion_tokens"] <= TOKENS


@each("text", ["-" * 60_000, "." * 60_000, "a-" * 30_000, "a" + "-" * 60_000, "a." * 30_000 + "-" * 99])
async def test_a_text_of_marks_is_searched_for_tools_in_one_pass(text: str) -> None:
    found = await answer(tools=[tool("f")], messages=user(text), truncate_prompt_tokens=10)
    assert found["choices"][0]["finish_reason"] == "length"


@each(
    "word",
    [
        "f",
        "f.",
        "f-",
        "(f)",
        "f.-.",
        "f, g",
        "`f`",
        "--f",
    ],
)
async def test_a_tool_is_named_as_a_word_whatever_marks_follow_it(word: str) -> None:
    is_named = not word.startswith("-")
    found = await answer(tools=[tool("f")], messages=user(f"please {word} now"))
    assert (found["choices"][0]["finish_reason"] == "tool_calls") == is_named


async def test_a_stop_string_of_any_length_ends_the_answer_where_it_first_stands() -> None:
    text = "This is the demo backend of the gateway, not a model. You said: " + "ab ba, aab " * 60
    rng = Random(1)
    for _ in range(60):
        start = rng.randrange(len(text))
        stop = text[start : start + rng.choice((1, 2, 3, 7, 8, 20, 300))]
        found = (await answer(messages=user("ab ba, aab " * 60), stop=[stop, "never", "x" * 9000]))["choices"][0]
        assert (found["message"]["content"], found["stop_reason"]) == (text[: text.find(stop)], stop)


@pytest.mark.parametrize("stop", ["a" * 12_000, "a" * 3499 + "b", "a" * 299 + "b"])
async def test_long_stop_strings_change_nothing_where_they_do_not_stand(stop: str) -> None:
    found = await answer(messages=user("a" * 3000), stop=[stop, stop[1:], stop[2:], stop[3:]])
    assert found["choices"][0]["finish_reason"] == "stop"
    assert found["choices"][0]["stop_reason"] is None


@each(
    "constraint",
    [{"json": "9" * 5000}, {"json": "["}, {"json": '{"minimum":' + "9" * 5000 + "}"}, {"json": "NaN"}],
)
async def test_a_schema_as_text_that_cannot_be_read_is_refused(constraint: dict[str, Any]) -> None:
    status, body = await post(structured_outputs=constraint)
    assert status == 400
    assert "grammar" in json.loads(body)["error"]["message"]


async def test_json_that_no_answer_has_room_for_is_cut() -> None:
    found = await answer(messages=user("a " * 3000), response_format={"type": "json_object"}, n=4)
    assert {choice["finish_reason"] for choice in found["choices"]} == {"length"}
    found = await answer(structured_outputs={"choice": ["x" * 60_000]})
    assert found["usage"]["completion_tokens"] == TOKENS


async def test_a_prompt_is_tokenized_to_one_above_the_window() -> None:
    body = json.dumps({"prompt": "," * 60_000}).encode()
    response = await DemoBackend(context_window=100).request("POST", "/tokenize", [JSON_TYPE], body)
    assert json.loads(await response.read())["count"] == 101


async def test_others_run_between_the_pieces_of_its_work() -> None:
    assert await turns_during(answer(ignore_eos=True, max_tokens=1000)) >= 3
