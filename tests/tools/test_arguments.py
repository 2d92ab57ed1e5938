"""Arguments as hosts and models send them: what is plain is taken, what is not is refused in words."""

import json
from typing import Any

import pytest

from mcp_gateway.core.caller import Caller, KeyHolder
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import JsonBounds, parse_exactly
from mcp_gateway.tools import get_balance, list_models
from mcp_gateway.tools.arguments import Arguments
from mcp_gateway.tools.chat_completion import ARGUMENTS
from tests.cases import each

MESSAGES = [{"role": "user", "content": "Hello"}]
CHAT = {"model": "m", "messages": MESSAGES}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
CALLING = {"role": "assistant", "tool_calls": [CALL]}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}


async def read(**arguments: Any) -> dict[str, Any]:
    """What chat_completion makes of its arguments, beside those that are always given."""

    async def parse(text: str) -> Any:
        raw = text.encode()
        await JsonBounds(1000, 100).check(raw, Caller("acc", KeyHolder("key"), ()))
        return parse_exactly(raw)

    taken = ARGUMENTS.taken(await ARGUMENTS.opened(CHAT | arguments, parse))
    return {name: value for name, value in taken.items() if CHAT.get(name) != value}


RIGHT: dict[str, Any] = {
    "max_tokens": 5, "temperature": 0.5, "top_p": 1, "stop": ["a", "["], "seed": -7, "n": 2, "tools": [FUNCTION],
    "tool_choice": "auto", "response_format": FORMAT, "logprobs": False, "top_logprobs": 0, "presence_penalty": -2,
    "frequency_penalty": 0.0, "reasoning_effort": "none", "gateway": {"max_rounds": 2, "max_cost_usd": "0.05"},
    "models": ["other"], "provider": {"order": ["one"], "allow_fallbacks": False, "sort": {"by": "price"}},
    "routing": {"model_pool": ["m"], "optimize": "cost", "task": "code", "max_price_per_million": 0.5},
}  # fmt: skip


async def test_arguments_that_are_right_stay_as_they_are() -> None:
    taken = await read(**RIGHT)
    assert taken == RIGHT
    assert all(taken[name] is value for name, value in RIGHT.items() if isinstance(value, list | dict))
    assert RIGHT.keys() == ARGUMENTS.schema["properties"].keys() - CHAT.keys()


@each("name", RIGHT)
@each("nothing", [None, "", [], {}])
async def test_an_optional_argument_that_is_empty_is_not_given(name: str, nothing: Any) -> None:
    assert await read(**{name: nothing}) == {}


@each("name", sorted(RIGHT.keys() - {"stop", "tool_choice", "reasoning_effort"}))
@each("nothing", ["null", " null\n", "None", "  "])
async def test_a_text_that_says_nothing_is_not_given_where_no_text_is_wanted(name: str, nothing: str) -> None:
    assert await read(**{name: nothing}) == {}


@each("nothing", [None, "", [], {}, "null"])
async def test_a_required_argument_that_is_empty_is_missing(nothing: Any) -> None:
    with pytest.raises(GatewayError) as error:
        await read(messages=nothing)
    assert (error.value.code, error.value.param) == ("missing_parameter", "messages")


@each("name", ["max_tokens", "n", "seed"])
@each("written", [8, 8.0, "8", " 8 ", "8.0", "8e0", "08"])
async def test_a_whole_number_is_one_however_it_is_written(name: str, written: Any) -> None:
    taken = await read(**{name: written})
    assert taken == {name: 8}
    assert type(taken[name]) is int


async def test_a_seed_keeps_every_digit() -> None:
    assert await read(seed="123456789012345678901234567890") == {"seed": 123456789012345678901234567890}


@each(("written", "value"), [("0.5", 0.5), ("1", 1), (" 1e-3 ", 0.001), ("0", 0)])
@each("name", ["temperature", "top_p", "presence_penalty"])
async def test_a_number_may_be_text(name: str, written: str, value: float) -> None:
    assert await read(**{name: written}) == {name: value}


@each(
    ("written", "value"),
    [("true", True), ("False", False), (" TRUE ", True), ("1", True), (1, True), (0, False), (0.0, False)],
)
async def test_true_and_false_may_be_text_or_a_digit(written: Any, value: bool) -> None:
    taken = await read(logprobs=written)
    assert taken["logprobs"] is value


@each(
    ("name", "value"),
    [("messages", [*MESSAGES, CALLING]), ("tools", [FUNCTION]), ("stop", ["a"]),
     ("response_format", FORMAT), ("tool_choice", {"type": "function", "function": {"name": "f"}})],
)  # fmt: skip
@each("write", [json.dumps, lambda value: f"\n {json.dumps(value, indent=1)} "])
async def test_lists_and_objects_may_be_json_text(name: str, value: Any, write: Any) -> None:
    assert await read(**{name: write(value)}) == {name: value}


@each(
    ("name", "written", "value"),
    [
        ("messages", json.dumps(json.dumps([*MESSAGES] * 2)), MESSAGES * 2),
        ("messages", [json.dumps(MESSAGES[0])] * 2, MESSAGES * 2),
        ("messages", [json.dumps(MESSAGES[0]), MESSAGES[0]], MESSAGES * 2),
        ("messages", json.dumps([json.dumps(MESSAGES[0])] * 2), MESSAGES * 2),
        ("messages", [CALLING | {"tool_calls": json.dumps([CALL])}], [CALLING]),
        ("messages", [CALLING | {"tool_calls": [json.dumps(CALL)]}], [CALLING]),
        ("tools", [json.dumps(FUNCTION)], [FUNCTION]),
        ("tools", FUNCTION, [FUNCTION]),
        ("tools", json.dumps(FUNCTION), [FUNCTION]),
        ("tools", [FUNCTION | {"function": json.dumps(FUNCTION["function"])}], [FUNCTION]),
        ("response_format", FORMAT | {"json_schema": json.dumps(FORMAT["json_schema"])}, FORMAT),
        ("stop", ["a", "", "b"], ["a", "b"]),
    ],
)  # fmt: skip
async def test_json_text_is_opened_as_deep_as_the_schema_tells(name: str, written: Any, value: Any) -> None:
    assert await read(**{name: json.loads(json.dumps(written))}) == {name: value}


async def test_a_schema_within_a_function_or_a_format_may_be_json_text() -> None:
    parameters = FUNCTION["function"]["parameters"]  # type: ignore[index]
    written = {"type": "function", "function": {"name": "f", "parameters": json.dumps(parameters)}}
    assert await read(tools=[written]) == {"tools": [FUNCTION]}
    written = {"type": "json_schema", "json_schema": {"name": "n", "schema": '{"type": "object"}'}}
    assert await read(response_format=written) == {"response_format": FORMAT}


@each("nothing", [None, "", [], {}])
async def test_parts_that_are_empty_are_left_out(nothing: Any) -> None:
    assert await read(messages=[MESSAGES[0] | {"tool_calls": nothing}] * 2) == {"messages": MESSAGES * 2}
    assert await read(response_format={"type": "text", "json_schema": nothing}) == {"response_format": {"type": "text"}}


@each(
    "message",
    [
        {"role": "user", "content": '[{"type": "text", "text": "a"}]'},
        {"role": "user", "content": '{"a": 1}'},
        {"role": "user", "content": "null"},
        {"role": "user", "content": ""},
        CALLING,
        {"role": "tool", "tool_call_id": "5", "content": "7"},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
    ],
)
async def test_what_is_said_is_never_taken_for_json(message: dict[str, Any]) -> None:
    before = json.dumps(message)
    taken = await read(messages=[message])
    assert json.dumps(taken["messages"]) == f"[{before}]"


@each("stop", ["x", "\n", " ", "[", "{", "[]x", "null", "none", "5", '"a"', "{}", '{"a": 1}'])
async def test_a_stop_text_is_left_alone(stop: str) -> None:
    assert await read(stop=stop) == {"stop": stop}


@each(
    ("name", "wrong", "code"),
    [
        ("messages", "hi", "invalid_type"),
        ("messages", "[{", "invalid_type"),
        ("messages", "5", "invalid_type"),
        ("messages", 5, "invalid_type"),
        ("tools", "get_weather", "invalid_type"),
        ("model", 5, "invalid_type"),
        ("model", ["m"], "invalid_type"),
        ("max_tokens", 1.5, "invalid_type"),
        ("max_tokens", "1.5", "invalid_type"),
        ("max_tokens", True, "invalid_type"),
        ("max_tokens", "true", "invalid_type"),
        ("max_tokens", "[5]", "invalid_type"),
        ("max_tokens", "many", "invalid_type"),
        ("max_tokens", "1e999", "invalid_type"),
        ("max_tokens", "9" * 5000, "invalid_type"),
        ("max_tokens", "0", "invalid_value"),
        ("temperature", "hot", "invalid_type"),
        ("temperature", "3", "invalid_value"),
        ("temperature", "1e999", "invalid_type"),
        ("temperature", True, "invalid_type"),
        ("logprobs", "yes", "invalid_type"),
        ("logprobs", 2, "invalid_type"),
        ("logprobs", [True], "invalid_type"),
        ("response_format", "json", "invalid_type"),
        ("response_format", [FORMAT], "invalid_type"),
        ("reasoning_effort", 5, "invalid_type"),
    ],
)
async def test_what_is_not_plain_is_refused_by_name(name: str, wrong: Any, code: str) -> None:
    with pytest.raises(GatewayError) as error:
        await read(**{name: wrong})
    assert (error.value.code, error.value.param) == (code, name)
    assert f"`{name}`" in error.value.message


HOSTS_OWN = [
    {"toolCallId": "call_1"}, {"tool_call_id": "call_1"}, {"tool": "chat_completion", "toolCallId": "call_1"},
    {"sessionId": "1", "action": "sendMessage", "chatInput": "hi"}, {"random_string": "x"}, {"_": ""}, {"": 1},
    {"requestId": 5}, {"explanation": "why"}, {"task_progress": "- [ ] a"}, {"request_heartbeat": True},
    {"x" * 5000: 1}, {"名前": 1}, {"waitForPreviousTools": True},
]  # fmt: skip


@each("own", HOSTS_OWN)
async def test_names_of_a_host_s_own_are_passed_over_by_every_tool(own: dict[str, Any]) -> None:
    assert await read(**own) == own  # for the table of what reaches a backend, which drops and tells them
    assert list_models.ARGUMENTS.taken({"capability": "tools", **own})["capability"] == "tools"
    get_balance.ARGUMENTS.taken(own)


@each(
    ("name", "value", "meant"),
    [
        ("max_tokns", 5, "max_tokens"), ("max_tokns", "5", "max_tokens"), ("maxTokens", 5, "max_tokens"),
        ("MAX-TOKENS", 5.0, "max_tokens"), ("mesages", [], "messages"), ("message", MESSAGES, "messages"),
        ("message", json.dumps(MESSAGES), "messages"), ("modle", "m", "model"), ("Model", "m", "model"),
        ("temprature", 1, "temperature"), ("topP", 0.5, "top_p"), ("stops", "x", "stop"), ("stops", ["x"], "stop"),
        ("tool", [FUNCTION], "tools"), ("toolChoice", "auto", "tool_choice"), ("logprob", True, "logprobs"),
        ("logprob", "true", "logprobs"), ("responseFormat", FORMAT, "response_format"), ("seeds", 1, "seed"),
        ("max_tokns", 1.5, "max_tokens"), ("tool", FUNCTION, "tools"), ("modelss", ["m"], "models"),
        ("reasoning_efort", "low", "reasoning_effort"), ("presence_penalties", 1, "presence_penalty"),
    ],
)  # fmt: skip
async def test_a_misspelt_name_is_refused_with_the_right_one(name: str, value: Any, meant: str) -> None:
    with pytest.raises(GatewayError) as error:
        await read(**{name: value})
    assert error.value.code == "unsupported_parameter"
    assert f"did you mean `{meant}`?" in error.value.message


def test_a_misspelt_filter_is_refused_too() -> None:
    for name, value in (("capabilities", ["tools"]), ("Capability", "tools"), ("max_price", "0.5"), ("maxPriceUsd", 1)):
        with pytest.raises(GatewayError, match="unsupported_parameter"):
            list_models.ARGUMENTS.taken({name: value})


async def test_names_that_a_chat_over_http_has_are_served_as_there() -> None:
    for more in ({"max_completion_tokens": 5}, {"top_k": 40}, {"min_p": 0.1}, {"user": "u"}):
        assert await read(**more) == more


async def test_only_the_first_names_are_compared_of_a_host_that_sends_all_it_knows() -> None:
    own = {f"x{number}": 1 for number in range(1000)}
    assert await read(**own, max_tokns=1) == own | {"max_tokns": 1}
    with pytest.raises(GatewayError, match="unsupported_parameter"):
        await read(max_tokns=1, **own)


@each(
    "arguments",
    [
        {"messages": json.dumps([[]] * 2000)},
        {"messages": ["[" + "[]," * 300 + "[]]"] * 5},
        {"messages": [{"role": "user", "tool_calls": "[" + "[]," * 300 + "[]]"}] * 5},
        {"tools": "[" * 2000},
        {"tools": "[" * 900 + "]" * 900},
    ],
)
async def test_json_text_is_bounded_as_the_body_is(arguments: dict[str, Any]) -> None:
    with pytest.raises(GatewayError, match="invalid_json"):
        await read(**arguments)


@each(
    ("arguments", "taken"),
    [
        ({"capability": " Tools "}, {"capability": "tools"}),
        ({"capability": "", "max_price_usd": ""}, {}),
        ({"max_price_usd": "0.69"}, {"max_price_usd": "0.69"}),
        ({"max_price_usd": 1}, {"max_price_usd": 1}),
    ],
)
def test_the_other_tools_arguments_are_read_by_the_same_rules(arguments: dict[str, Any], taken: dict[str, Any]) -> None:
    assert list_models.ARGUMENTS.taken(arguments) == taken


def test_a_schema_is_told_with_one_type_for_each_node() -> None:
    several = {"type": ["array", "string"], "items": {"type": ["string", "object"]}, "description": "d"}
    told = Arguments({"type": "object", "properties": {"type": several}}).schema
    assert told["properties"] == {"type": {"type": "array", "items": {"type": "string"}, "description": "d"}}
