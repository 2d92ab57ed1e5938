"""What the three tools answer, and how they fail."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator
from mcp.types import INVALID_PARAMS

from mcp_gateway.core.caller import Allowance
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.gateway import open_desk
from mcp_gateway.tools.tool import error_result
from tests.cases import each
from tests.doors.mcp_host import (
    Host,
    call,
    chat,
    lent,
    open_host,
    text_in,
)
from tests.doors.test_mcp_transports import HANDSHAKE_VERSIONS, error_of
from tests.origins import Fixed

pytestmark = pytest.mark.asyncio(loop_scope="module")
PRICED = {
    "id": "shop/echo",
    "backend_model": "demo/echo",
    "context_window": 4096,
    "pricing": {"prompt": "0.0000003", "completion": "0.0000007"},
}
FREE = {"id": "demo/echo", "features": ("tools", "logprobs")}
SEEING = {"id": "demo/seeing", "backend_model": "demo/echo", "input_modalities": ("text", "image")}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared_host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Host]:
    async with open_host(tmp_path_factory.mktemp("tools"), models=(PRICED, FREE, SEEING)) as host:
        yield host


@pytest.fixture
def host(shared_host: Host) -> Iterator[Host]:
    with lent(shared_host) as host:
        yield host


TOLD = {
    "chat_completion": {"content", "cost_usd", "model", "request_id"},
    "list_models": {"models"},
    "get_balance": {"account_id", "is_guest", "currency", "limits"},
}
"""What each tool always tells; a schema that said so would refuse its failures."""
FAILURE = {"type", "code", "message", "request_id"}


async def called(host: Host, message: dict[str, Any], headers: dict[str, str] | None = None) -> dict[str, Any]:
    """The result of a call, whose structured content fits the tool's own schema and tells what is always told."""
    result: dict[str, Any] = (await host.post(message, headers)).json()["result"]
    somebody_else = {"X-Test-Address": f"198.51.100.{host.answered % 250}"}
    listed = await host.post({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, somebody_else)
    schemas = {tool["name"]: tool["outputSchema"] for tool in listed.json()["result"]["tools"]}
    name, told = message["params"]["name"], result["structuredContent"]
    Draft202012Validator(schemas[name]).validate(told)
    assert told.keys() >= (FAILURE if result["isError"] else TOLD[name])
    assert told.keys() <= schemas[name]["properties"].keys()
    return result


async def failed(host: Host, message: dict[str, Any], headers: dict[str, str] | None = None) -> dict[str, Any]:
    """The facts of a call that failed, which its text says too."""
    result = await called(host, message, headers)
    assert result["isError"]
    facts: dict[str, Any] = result["structuredContent"]
    assert result["content"] == [{"type": "text", "text": facts["message"]}]
    assert "pydantic" not in facts["message"]
    return facts


def last_event(answer: httpx2.Response) -> dict[str, Any]:
    message: dict[str, Any] = orjson.loads(answer.text.rsplit("data: ", 1)[1])
    return message


@each(
    "params",
    [
        {"name": "list_models"},
        {"name": "list_models", "arguments": None},
        {"name": "list_models", "arguments": {"capability": "tools"}, "_meta": {}},
        {"name": "list_models", "arguments": {"nope": 1}, "_meta": {"progressToken": 5, "vendor/id": [1]}},
        {"name": "get_balance", "arguments": {}, "_meta": {"progressToken": True}},
        {"name": "get_balance", "arguments": {}, "_meta": {"progressToken": [1]}},
        {"name": "get_balance", "arguments": {}, "_meta": None},
        {"name": "get_balance", "arguments": {}, "_meta": "x"},
        {"name": "chat_completion", "arguments": {"model": "demo/echo", "messages": "hi", "logprobs": True}},
        {"name": "chat_completion", "arguments": {"model": "nope", "messages": "hi"}},
        {"name": "nope", "arguments": {}},
        {"name": 1, "arguments": {}},
        {"name": None},
        {"name": "list_models", "arguments": 1},
        {},
    ],
)
async def test_a_plain_call_is_answered_like_one_that_the_sdk_reads(host: Host, params: dict[str, Any]) -> None:
    """A further parameter has the SDK read a call, which means nothing to it."""
    for version in HANDSHAKE_VERSIONS:
        headers = {"MCP-Protocol-Version": version}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
        plain = await host.post(message | {"params": params}, headers)
        read = await host.post(message | {"params": params | {"unknown": 1}}, headers)
        assert (plain.status_code, _shape(plain.json())) == (read.status_code, _shape(read.json()))
        if "error" in plain.json():
            assert plain.json() == read.json()


# chat_completion


async def test_a_reply_comes_as_text_and_as_data_with_its_bill(host: Host) -> None:
    result = await called(host, chat("hello"))
    data = result["structuredContent"]
    assert not result["isError"]
    assert result["content"][0]["text"] == data["content"]
    assert "hello" in data["content"]
    assert data["finish_reason"] == "stop"
    assert data["model"] == "demo/echo"
    assert data["cost_usd"] == "0.00"
    assert data["usage"]["total_tokens"] == data["usage"]["prompt_tokens"] + data["usage"]["completion_tokens"]
    assert data["request_id"].startswith("req_")


async def test_a_priced_reply_is_billed_to_the_callers_account(host: Host) -> None:
    account_id = await funded(host, 1_000_000_000)
    key = host.key("alice", account_id=account_id)
    data = (await called(host, chat("hello", model="shop/echo"), key))["structuredContent"]
    usage = data["usage"]
    cost_nano = usage["prompt_tokens"] * 300 + usage["completion_tokens"] * 700
    assert data["cost_usd"] == f"0.{cost_nano:09d}".rstrip("0")
    assert data["model"] == "shop/echo"
    balance = await host.gateway.ledger.balance(account_id)
    assert (balance.paid_nano, balance.held_nano) == (1_000_000_000 - cost_nano, 0)


async def test_every_parameter_reaches_the_backend(host: Host) -> None:
    arguments: dict[str, Any] = {
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["zzz"],
        "seed": 1,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.1,
        "logprobs": True,
        "top_logprobs": 1,
        "reasoning_effort": None,
    }
    data = (await called(host, chat("hello", **arguments)))["structuredContent"]
    assert data["finish_reason"] == "length"
    assert data["usage"]["completion_tokens"] == 5
    assert len(data["logprobs"]["content"]) == 5


async def test_several_answers_come_as_choices(host: Host) -> None:
    data = (await called(host, chat("hello", n=2, temperature=1), host.key("alice")))["structuredContent"]
    assert len(data["choices"]) == 2
    assert data["choices"][0]["content"] == data["content"]


async def test_a_function_call_comes_as_data_and_as_text(host: Host) -> None:
    result = await called(host, chat("hello", tools=TOOLS, tool_choice="required"))
    data = result["structuredContent"]
    assert data["finish_reason"] == "tool_calls" or data["tool_calls"]
    assert data["tool_calls"][0]["function"]["name"] == "get_weather"
    assert orjson.loads(result["content"][0]["text"]) == data["tool_calls"]


async def test_a_guest_is_told_that_its_max_tokens_was_lowered(host: Host) -> None:
    assert (await called(host, chat("hello", max_tokens=5000)))["structuredContent"]["max_tokens_clamped"] == 256


async def test_each_call_has_a_request_id_of_its_own_and_keeps_the_clients(host: Host) -> None:
    key = host.key("alice") | {"X-Client-Request-Id": "mine"}
    ids = [(await called(host, chat(), key))["structuredContent"]["request_id"] for _ in range(2)]
    assert len(set(ids)) == 2


@each(
    ("arguments", "code", "words"),
    [
        ({}, "missing_parameter", "`model`"),
        ({"model": "demo/echo"}, "missing_parameter", "`messages`"),
        ({"model": "demo/echo", "messages": "hi"}, "invalid_type", "a list"),
        ({"model": "demo/echo", "messages": []}, "missing_parameter", "`messages`"),
        ({"model": "demo/echo", "messages": ["hi"]}, "invalid_type", "`messages[0]`"),
        ({"model": 5, "messages": []}, "invalid_type", "`model` must be a string"),
        ({"model": "demo/eco", "messages": [{"role": "user", "content": "x"}]}, "model_not_found", "demo/echo"),
        ({"model": "demo/echo", "mesages": []}, "unsupported_parameter", "did you mean `messages`?"),
        (
            {"model": "demo/echo", "messages": [], "temperature": "hot"},
            "invalid_type",
            "`temperature` must be a number",
        ),
        ({"model": "demo/echo", "messages": [], "temperature": 3}, "invalid_value", "at most 2"),
        ({"model": "demo/echo", "messages": [], "max_tokens": True}, "invalid_type", "a whole number"),
        ({"model": "demo/echo", "messages": [], "max_tokens": 0}, "invalid_value", "at least 1"),
    ],
)
async def test_bad_arguments_are_explained(host: Host, arguments: dict[str, Any], code: str, words: str) -> None:
    facts = await failed(host, call("chat_completion", arguments))
    assert facts["code"] == code
    assert words in facts["message"]


@pytest.mark.parametrize("written", [orjson.dumps, lambda value: orjson.dumps(value, option=orjson.OPT_INDENT_2)])
async def test_arguments_may_be_json_text(host: Host, written: Callable[[Any], bytes]) -> None:
    text = written(chat("hello")["params"]["arguments"]).decode()
    message: dict[str, Any] = call("chat_completion", {})
    message["params"]["arguments"] = text
    assert "hello" in (await called(host, message))["content"][0]["text"]


@each("nothing", ["", " ", "{}", "[]", "null", [], {}, None])
@each("name", ["get_balance", "list_models"])
async def test_a_tool_that_needs_no_arguments_takes_nothing_in_any_form(host: Host, name: str, nothing: Any) -> None:
    message = call(name, {})
    message["params"]["arguments"] = nothing
    assert not (await called(host, message))["isError"]


@each("wrong", ["hi", "[1]", "5", '"{}"', "{", [1], ["a"], 5, True, "[" * 2000 + "]" * 2000])
async def test_arguments_of_another_shape_are_an_error_that_names_them(host: Host, wrong: Any) -> None:
    message = call("get_balance", {})
    message["params"]["arguments"] = wrong
    error = error_of(await host.post(message))
    assert error["code"] == INVALID_PARAMS
    assert "arguments" in error["message"] or "nested too deeply" in error["message"]


async def test_what_a_host_adds_is_told_as_ignored_and_what_a_form_leaves_empty_is_not_sent(host: Host) -> None:
    added: dict[str, Any] = {"toolCallId": "call_1", "tool": "chat_completion", "sessionId": "1", "stream": True}
    empty: dict[str, Any] = {
        "stop": "",
        "tools": [],
        "tool_choice": "auto",
        "reasoning_effort": "",
        "response_format": {},
        "seed": "",
    }
    data = (await called(host, chat("hello", **added, **empty)))["structuredContent"]
    assert sorted(data["ignored_parameters"]) == ["sessionId", "tool", "toolCallId"]
    assert "hello" in data["content"]


async def test_a_function_may_be_chosen_by_its_name(host: Host) -> None:
    data = (await called(host, chat("hello", tools=TOOLS, tool_choice="get_weather")))["structuredContent"]
    assert data["tool_calls"][0]["function"]["name"] == "get_weather"


async def test_a_limit_by_its_newer_name_is_kept(host: Host) -> None:
    data = (await called(host, chat("hello", max_completion_tokens="5")))["structuredContent"]
    assert data["usage"]["completion_tokens"] == 5


async def test_json_text_in_arguments_is_bounded_by_who_sends_it(tmp_path: Path) -> None:
    bounds: dict[str, Any] = {"guests": {"max_json_values": 2000}, "limits": {"max_json_values": 10_000}}
    async with open_host(tmp_path, models=(FREE,), **bounds) as host:
        message = chat()
        message["params"]["arguments"]["messages"] = orjson.dumps([{"role": "user", "content": ""}] * 1000).decode()
        assert (await failed(host, message))["code"] == "invalid_json"
        assert not (await called(host, message, host.key("alice")))["isError"]


async def test_an_image_is_refused_in_words_where_images_are_off(host: Host) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    message = call("chat_completion", {"model": "demo/seeing", "messages": [{"role": "user", "content": [image]}]})
    assert (await failed(host, message))["code"] == "vision_disabled"


async def test_an_empty_wallet_says_what_to_do(host: Host) -> None:
    facts = await failed(host, chat(model="shop/echo"), host.key("alice"))
    assert (facts["type"], facts["code"]) == ("insufficient_balance", "insufficient_balance")
    assert "top it up" in facts["message"]


async def test_a_limit_says_how_long_to_wait(host: Host) -> None:
    key = host.key("alice", Allowance(1, None, None, None))
    await called(host, chat(), key)
    facts = await failed(host, chat(), key)
    assert facts["code"] == "requests_per_minute"
    assert 0 < facts["retry_after_s"] <= 60
    assert f"Wait for {facts['retry_after_s']} seconds" in facts["message"]


async def test_a_bug_tells_its_request_id_and_nothing_else(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "what somebody asked"

    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError(secret)

    monkeypatch.setattr(host.gateway.pool.demo.origin, "request", broken)
    facts = await failed(host, chat())
    assert facts["code"] == "internal_error"
    assert "req_" in facts["message"]
    assert secret not in facts["message"] + caplog.text
    assert "RuntimeError" in host.errors.pop()


@pytest.mark.parametrize(("transport", "mode"), [("http", "legacy"), ("http", "auto"), ("sse", "auto")])
async def test_the_sdk_client_takes_failures_with_their_facts(host: Host, transport: str, mode: str) -> None:
    async with host.client(transport, mode) as client:
        answer = await client.call_tool("chat_completion", {"model": "nope", "messages": [{"role": "user"}]})
        assert answer.is_error
        assert answer.structured_content["code"] == "model_not_found"
        assert answer.structured_content["message"] == text_in(answer.content[0])


# Progress


@each(("transport", "mode"), [("http", "legacy"), ("http", "auto"), ("sse", "legacy"), ("sse", "auto")])
async def test_who_asks_for_progress_gets_it_and_the_same_result(host: Host, transport: str, mode: str) -> None:
    seen: list[tuple[float, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, message))

    arguments = chat("hello there", seed=1, logprobs=True)["params"]["arguments"]
    async with host.client(transport, mode) as client:
        plain = await client.call_tool("chat_completion", arguments)
        told = await client.call_tool("chat_completion", arguments, progress_callback=note)
    assert seen
    assert seen[0][1] == "Waiting for the model."
    ids = {"request_id": "", "usage": None}
    assert told.structured_content | ids == plain.structured_content | ids


async def test_progress_opens_a_stream_of_events_whose_last_is_the_result(host: Host) -> None:
    answer = await host.post(call("chat_completion", chat("hi")["params"]["arguments"], progressToken="p"))
    assert answer.headers["content-type"] == "text/event-stream"
    events = [orjson.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data")]
    assert events[0]["method"] == "notifications/progress"
    assert events[0]["params"]["progressToken"] == "p"
    assert "hi" in events[-1]["result"]["content"][0]["text"]


async def test_progress_does_not_reach_a_client_that_reads_no_events(host: Host) -> None:
    message = call("chat_completion", chat("hi")["params"]["arguments"], progressToken="p")
    answer = await host.post(message, {"Accept": "application/json"})
    assert "hi" in answer.json()["result"]["content"][0]["text"]


async def test_a_failure_in_a_stream_is_the_same_tool_error(host: Host) -> None:
    arguments = chat("hello " * 20_000)["params"]["arguments"]
    plain = await failed(host, call("chat_completion", arguments))
    answer = await host.post(call("chat_completion", arguments, progressToken=1))
    told = last_event(answer)["result"]["structuredContent"]
    assert told.pop("request_id") != plain.pop("request_id")
    assert told == plain
    assert plain["code"] == "context_length_exceeded"


async def test_a_stream_that_breaks_in_the_middle_is_one_clean_error(host: Host) -> None:
    first = {"model": "demo/echo", "choices": [{"index": 0, "delta": {"content": "half"}, "finish_reason": None}]}
    host.gateway.pool.demo.origin = Fixed(b"data: " + orjson.dumps(first) + b"\n\n")
    answer = await host.post(call("chat_completion", chat()["params"]["arguments"], progressToken=1))
    result = last_event(answer)["result"]
    assert result["isError"]
    assert result["structuredContent"]["code"] == "backend_died"


def long_answer(message: dict[str, Any], logprobs: int = 1) -> bytes:
    rows = [{"token": "ä", "logprob": -1.0, "top_logprobs": []}] * logprobs
    choice = {"index": 0, "message": message, "logprobs": {"content": rows}, "finish_reason": "stop"}
    return orjson.dumps({"model": "tiny", "choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})


async def test_an_answer_too_long_for_an_event_loses_log_probabilities_first(host: Host) -> None:
    host.gateway.pool.demo.origin = Fixed(long_answer({"content": "ä" * 1000}, logprobs=50_000))
    result = await called(host, chat(), host.key("alice"))
    assert len(orjson.dumps(result)) < 1024 * 1024
    assert "logprobs" not in result["structuredContent"]
    assert "HTTP API" in result["structuredContent"]["note"]
    assert result["content"][0]["text"] == result["structuredContent"]["content"] == "ä" * 1000


@pytest.mark.parametrize("padding", [b" " * 17_000_000, b",1" * 120_000])
async def test_an_answer_that_holds_more_than_may_be_parsed_is_told_of_with_its_bill(
    host: Host, padding: bytes
) -> None:
    answer = long_answer({"content": "ä" * 300_000})
    host.gateway.pool.demo.origin = Fixed(answer[:-1] + b',"x":[1' + padding + b"]}")
    await is_told_of_alone(host)


@each("odd", [b"}", b',"x":"\\ud83d"}', b',"x":' + b"[" * 300 + b"]" * 300 + b"}", b',"choices":[]}', b',"choices":5}'])
async def test_so_is_a_long_one_that_is_billed_and_cannot_be_read(host: Host, odd: bytes) -> None:
    host.gateway.pool.demo.origin = Fixed(long_answer({"content": "a" * 300_000})[:-1] + odd + b"}" * (odd == b"}"))
    await is_told_of_alone(host)


async def is_told_of_alone(host: Host) -> None:
    result = await called(host, chat(), host.key("alice"))
    assert not result["isError"]
    assert "HTTP API" in result["content"][0]["text"]
    facts = result["structuredContent"]
    assert (facts["content"], facts["note"]) == ("", result["content"][0]["text"])
    assert {"cost_usd", "usage", "model", "request_id"} <= facts.keys()


async def test_an_answer_still_too_long_loses_words_and_says_so(host: Host) -> None:
    host.gateway.pool.demo.origin = Fixed(long_answer({"content": "ä" * 3_000_000, "reasoning": "ö" * 3_000_000}))
    result = await called(host, chat(), host.key("alice"))
    assert 200_000 < len(orjson.dumps(result)) < 1024 * 1024
    assert result["content"][0]["text"].startswith("ää")
    assert "HTTP API" in result["content"][0]["text"][-200:]
    assert "HTTP API" in result["structuredContent"]["note"]


async def test_a_function_call_too_long_for_an_event_is_left_out_whole(host: Host) -> None:
    calls = [
        {"type": "function", "function": {"name": name, "arguments": size * "x"}}
        for name, size in (("a", 10), ("b", 2_000_000))
    ]
    host.gateway.pool.demo.origin = Fixed(long_answer({"content": None, "tool_calls": calls}))
    result = await called(host, chat(), host.key("alice"))
    assert len(orjson.dumps(result)) < 1024 * 1024
    assert [call["function"]["name"] for call in result["structuredContent"]["tool_calls"]] == ["a"]
    assert "HTTP API" in result["structuredContent"]["note"]


def blank_answer(message: dict[str, Any], finish_reason: str | None, completion_tokens: int | None) -> bytes:
    told: dict[str, Any] = {"model": "tiny", "choices": [{"message": message, "finish_reason": finish_reason}]}
    if completion_tokens is not None:
        told["usage"] = {"prompt_tokens": 1, "completion_tokens": completion_tokens}
    return orjson.dumps(told)


@each(
    ("more", "finish_reason", "tokens", "words"),
    [
        ({"reasoning": "hm"}, "length", 40, ["cut after 40 tokens", "still reasoning", "larger `max_tokens`"]),
        ({"reasoning_content": "hm"}, "length", 40, ["cut after 40 tokens", "still reasoning"]),
        ({"reasoning": "hm"}, "stop", 9, ["ended after 9 tokens", "reasoning alone"]),
        ({}, "length", 40, ["cut after 40 tokens without text", "larger `max_tokens`"]),
        ({}, "stop", 1, ["after 1 tokens without any text (stop)"]),
        ({}, "content_filter", 1, ["without any text (content_filter)"]),
    ],
)
async def test_a_reply_without_text_says_what_happened_and_what_to_do(
    host: Host, more: dict[str, Any], finish_reason: str, tokens: int | None, words: list[str]
) -> None:
    for blank in (None, "", " ", "\n\n", "\t\u3000\u00a0"):
        host.gateway.pool.demo.origin = Fixed(blank_answer({"content": blank, **more}, finish_reason, tokens))
        result = await called(host, chat(), host.key("alice"))
        text = result["content"][0]["text"]
        assert all(word in text for word in words), text
        assert result["structuredContent"]["note"] == text  # hosts that pass the data alone on to their model
        assert result["structuredContent"]["content"] == (blank or "")


async def test_a_blank_reply_to_a_lowered_limit_does_not_advise_a_larger_one(host: Host) -> None:
    host.gateway.pool.demo.origin = Fixed(blank_answer({"content": "", "reasoning": "hm"}, "length", 256))
    text = (await called(host, chat(max_tokens=5000)))["content"][0]["text"]
    assert "lowered to 256" in text
    assert "larger" not in text


async def test_of_several_replies_the_first_that_says_anything_is_the_text(host: Host) -> None:
    told = orjson.loads(blank_answer({"content": "\n"}, "stop", 5))
    told["choices"].append({"message": {"content": "said"}, "finish_reason": "stop"})
    host.gateway.pool.demo.origin = Fixed(orjson.dumps(told))
    result = await called(host, chat(n=2, temperature=1), host.key("alice"))
    assert result["content"][0]["text"] == result["structuredContent"]["content"] == "said"
    assert [choice["content"] for choice in result["structuredContent"]["choices"]] == ["\n", "said"]


async def test_function_calls_stand_in_for_a_blank_text(host: Host) -> None:
    calls = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]
    host.gateway.pool.demo.origin = Fixed(blank_answer({"content": "\n", "tool_calls": calls}, "tool_calls", 5))
    result = await called(host, chat())
    assert orjson.loads(result["content"][0]["text"]) == calls
    assert "note" not in result["structuredContent"]


async def test_progress_tells_no_blank_words(host: Host) -> None:
    first = {"model": "tiny", "choices": [{"index": 0, "delta": {"content": "\n\n"}, "finish_reason": None}]}
    host.gateway.pool.demo.origin = Fixed(b"data: " + orjson.dumps(first) + b"\n\n")
    answer = await host.post(call("chat_completion", chat()["params"]["arguments"], progressToken=1))
    events = [orjson.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data")]
    assert {event["params"]["message"] for event in events[:-1]} == {"Waiting for the model."}


async def test_no_error_is_so_long_that_hosts_cut_its_advice_off(host: Host) -> None:
    long = "x" * 100_000
    for message in (
        chat(model=long),
        call("chat_completion", {long: 1}),
        call("chat_completion", {"model": long, "messages": long}),
        call("list_models", {"capability": long}),
        call("list_models", {"cursor": long, "max_price_usd": long}),
        chat(tool_choice=long, stop=[long] * 3, response_format={"type": long}),
    ):
        assert len((await failed(host, message, host.key("k")))["message"]) < 2000
    told = error_result(GatewayError("backend_error", long), further_advice="Pay.")["content"][0]["text"]
    assert len(told) < 11_000
    assert told.endswith("Pay.")


# list_models and get_balance


async def test_models_are_listed_with_prices_and_health(host: Host) -> None:
    result = await called(host, call("list_models", {}))
    models = {model["id"]: model for model in result["structuredContent"]["models"]}
    assert list(models) == ["shop/echo", "demo/echo", "demo/seeing", "auto"]
    shop = models["shop/echo"]
    assert shop["input_usd_per_million_tokens"] == "0.3"
    assert shop["output_usd_per_million_tokens"] == "0.7"
    assert (shop["context_window"], shop["status"], shop["guests"]) == (4096, "ready", False)
    assert all(name in result["content"][0]["text"] for name in models)


async def test_a_model_whose_backend_is_down_is_listed_as_unavailable(tmp_path: Path) -> None:
    async with open_host(tmp_path, models=(PRICED, FREE, SEEING)) as host:
        host.gateway.pool.demo.lost("test")
        again = await called(host, call("list_models", {}))
        assert {model["status"] for model in again["structuredContent"]["models"]} == {"unavailable"}


@each(
    ("arguments", "ids"),
    [
        ({"capability": "image"}, ["demo/seeing", "auto"]),
        ({"capability": "json_mode"}, ["shop/echo", "demo/seeing", "auto"]),
        ({"max_price_usd": 0.7}, ["shop/echo", "demo/echo", "demo/seeing", "auto"]),
        ({"max_price_usd": "0.69"}, ["demo/echo", "demo/seeing", "auto"]),
        ({"max_price_usd": 0, "capability": "reasoning"}, []),
    ],
)
async def test_models_can_be_filtered(host: Host, arguments: dict[str, Any], ids: list[str]) -> None:
    models = (await called(host, call("list_models", arguments)))["structuredContent"]["models"]
    assert [model["id"] for model in models] == ids


@each(
    ("arguments", "code"),
    [
        ({"capability": "telepathy"}, "invalid_value"),
        ({"max_price_usd": "cheap"}, "invalid_value"),
        ({"max_price_usd": "1e999999999"}, "invalid_value"),
        ({"max_price_usd": "9" * 5000}, "invalid_value"),
        ({"max_price_usd": "1e31"}, "invalid_value"),
        ({"max_price_usd": "-0.1"}, "invalid_value"),
        ({"max_price_usd": "sNaN"}, "invalid_value"),
        ({"max_price_usd": "Infinity"}, "invalid_value"),
        ({"max_price_usd": -1}, "invalid_value"),
        ({"max_price_usd": True}, "invalid_type"),
    ],
)
async def test_a_bad_filter_is_explained(host: Host, arguments: dict[str, Any], code: str) -> None:
    assert (await failed(host, call("list_models", arguments)))["code"] == code


async def test_a_balance_says_money_and_what_is_left_of_the_limits(host: Host) -> None:
    account_id = await funded(host, 1_500_000_000)
    key = host.key("alice", Allowance(60, 1000, 100_000, 64), account_id)
    await called(host, chat(), key)
    result = await called(host, call("get_balance", {}), key)
    data = result["structuredContent"]
    assert (data["account_id"], data["currency"], data["is_guest"]) == (account_id, "USD", False)
    assert (data["balance_usd"], data["granted_usd"], data["held_usd"]) == ("1.50", "0.00", "0.00")
    assert (data["limits"]["requests_per_minute"], data["limits"]["requests_left_this_minute"]) == (60, 59)
    assert (data["limits"]["requests_per_day"], data["limits"]["requests_left_today"]) == (1000, 999)
    assert data["limits"]["tokens_left_this_minute"] < 100_000
    assert "1.50 USD" in result["content"][0]["text"]


async def test_a_test_key_is_told_its_limits_and_no_money(host: Host) -> None:
    account_id = await funded(host, 1_500_000_000)
    key = host.key("tester", Allowance(60, 1000, 100_000, 64), account_id, is_test=True)
    result = await called(host, call("get_balance", {}), key)
    data = result["structuredContent"]
    assert data.keys() == {"account_id", "is_guest", "currency", "limits"}
    assert data["limits"]["requests_left_today"] == 1000
    assert "1.5" not in result["content"][0]["text"]


async def test_a_guest_learns_what_a_guest_may_do(host: Host) -> None:
    result = await called(host, call("get_balance", {}))
    assert result["structuredContent"]["is_guest"]
    assert result["structuredContent"]["limits"]["max_tokens"] == 256
    assert "256 output tokens" in result["content"][0]["text"]


async def test_what_has_no_limit_is_left_out(host: Host) -> None:
    limits = (await called(host, call("get_balance", {}), host.key("alice")))["structuredContent"]["limits"]
    assert limits.keys() == {"minute_ends_at_unix_s"}


async def test_what_a_backend_does_not_tell_is_left_out(host: Host) -> None:
    host.gateway.pool.demo.origin = Fixed(blank_answer({"content": "x", "tool_calls": "y"}, None, None))
    told = (await called(host, chat(), host.key("alice")))["structuredContent"]
    assert told.keys() - {"usage"} == TOLD["chat_completion"]


async def test_asking_for_models_and_balance_has_a_limit_of_its_own(tmp_path: Path) -> None:
    async with open_host(tmp_path, limits={"listing_requests_per_minute": 2}) as host:
        await called(host, call("list_models", {}))
        await called(host, call("get_balance", {}))
        assert (await failed(host, call("get_balance", {})))["code"] == "guest"
        assert not (await called(host, chat()))["isError"]


async def funded(host: Host, amount_nano: int) -> str:
    """A new account's id."""
    async with open_desk(host.gateway.settings) as desk:
        account = await desk.accounts.create("test")
        await desk.ledger.credit(account.id, amount_nano, account.id)
    return account.id


def _shape(value: Any) -> Any:
    """Values of a sampled answer differ from one capture to the next; their kind does not."""
    if isinstance(value, list):
        return [_shape(item) for item in value]
    if isinstance(value, dict):
        return {name: _shape(item) for name, item in value.items()}
    return type(value)
