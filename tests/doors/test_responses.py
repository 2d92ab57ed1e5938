"""OpenAI's Responses API at the door: stateless, exact in its money, and as Codex needs it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.money import format_usd
from tests.captured import captured
from tests.cases import each
from tests.replaying import (
    ReplayingBackend,
    events,
    held,
    in_two,
    replayed,
    split_events,
    whole,
)
from tests.serving import FREE, Door, bearer, error_of, open_door
from tests.stage import CREDIT_NANO, PRICED, Stage, cost_nano, staged

pytestmark = [pytest.mark.gateways, pytest.mark.asyncio(loop_scope="module")]

STREAM = split_events(captured("521_responses_stream").body)
CODEX = {"originator": "codex_exec"}
PATH = "/v1/responses"


def response(prompt_tokens: int = 14, completion_tokens: int = 6, **fields: Any) -> bytes:
    body = orjson.loads(captured("520_responses").body) | fields
    body["usage"] |= {"input_tokens": prompt_tokens, "output_tokens": completion_tokens}
    return orjson.dumps(body)


def ended(prompt_tokens: int, completion_tokens: int) -> bytes:
    """The last event of an answer that was not cut."""
    last = orjson.loads(STREAM[-1].partition(b"data: ")[2])
    last["response"] |= {"status": "completed", "incomplete_details": None}
    last["response"]["usage"] |= {"input_tokens": prompt_tokens, "output_tokens": completion_tokens}
    return b"event: response.completed\ndata: %b\n\n" % orjson.dumps(last)


def contents(stream_bytes: Iterable[bytes]) -> list[Any]:
    """What the events of a stream say."""
    lines = b"".join(stream_bytes).split(b"\n")
    return [orjson.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: ")]


def kinds(response: httpx2.Response) -> list[str]:
    """The events of a stream by their names, which are what their data says."""
    names = [line.removeprefix("event: ") for line in response.text.split("\n") if line.startswith("event: ")]
    assert names == [event["type"] for event in contents([response.content])]
    return names


def numbers(response: httpx2.Response) -> list[int]:
    return [event["sequence_number"] for event in contents([response.content])]


async def ask(stage: Stage, *, headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
    body = {"model": "priced/tiny", "input": "hello"} | fields
    return await stage.door.post(orjson.dumps(body), stage.key, PATH, **(headers or {}))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Door, ReplayingBackend]]:
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path_factory.mktemp("responses"),
            vllm_urls=[backend.url],
            models=[FREE, PRICED],
            upstream={"collect_above_tokens": 1000},
        ) as door,
    ):
        yield door, backend


@pytest_asyncio.fixture(loop_scope="module")
async def stage(_served: tuple[Door, ReplayingBackend]) -> AsyncIterator[Stage]:
    door, backend = _served
    backend.answer_with()
    backend.prompt_tokens = 10
    yield await staged(door, backend)
    await door.nothing_is_left()


# What is answered


async def test_an_answer_in_one_piece_bears_our_names_and_is_kept_nowhere(stage: Stage) -> None:
    stage.backend.answer_with(whole(response()))
    told = (await ask(stage, store=True, max_output_tokens=6)).json()
    assert (told["model"], told["store"], told["status"]) == ("priced/tiny", False, "incomplete")
    assert not told.keys() & {"input_messages", "output_messages", "kv_transfer_params", "ec_transfer_params"}
    assert stage.sent["store"] is False
    assert stage.sent["model"] == "tiny"


async def test_a_stream_ends_with_the_event_that_its_status_says_and_its_usage(stage: Stage) -> None:
    stage.backend.answer_with(events(*STREAM))
    answered = await ask(stage, stream=True)
    told = kinds(answered)
    assert (told[0], told[1], told[-1]) == ("response.created", "response.in_progress", "response.incomplete")
    assert numbers(answered) == list(range(len(STREAM)))
    last = contents([answered.content])[-1]["response"]
    usage = {"input_tokens": 14, "output_tokens": 4, "total_tokens": 18, "cost_usd": format_usd(cost_nano(14, 4))}
    assert last["usage"] == usage | {
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    assert last["id"] == f"resp_{answered.headers['x-request-id']}" == stage.sent["request_id"]
    named = [event["response"] for event in contents([answered.content]) if "response" in event]
    assert [(one["model"], one["store"]) for one in named] == [("priced/tiny", False)] * 3


async def test_openais_sdk_reads_both(stage: Stage) -> None:
    async with stage.door.openai(stage.key) as client:
        stage.backend.answer_with(whole(response()), events(*STREAM), events(*STREAM[:-1], ended(14, 4)))
        answer = await client.responses.create(model="priced/tiny", input="hello")
        assert answer.output_text == 'ationher exist"11 \\'
        assert answer.usage is not None
        assert answer.usage.output_tokens == 6
        stream = await client.responses.create(model="priced/tiny", input="hello", stream=True)
        assert [event.type async for event in stream][-1] == "response.incomplete"
        async with client.responses.stream(model="priced/tiny", input="hello") as helped:
            assert (await helped.get_final_response()).output_text == 'ationher exist"'


async def test_the_demo_answers_test_keys_and_calls_tools(stage: Stage) -> None:
    key = await stage.door.key(stage.account_id, is_test=True)
    tool = {"type": "function", "name": "now", "parameters": {"type": "object", "properties": {"a": {"const": 1}}}}
    body: dict[str, Any] = {"model": "priced/tiny", "input": [{"role": "user", "content": "call now"}], "tools": [tool]}
    whole_answer = await stage.door.post(orjson.dumps(body), key, PATH)
    streamed = await stage.door.post(orjson.dumps(body | {"stream": True}), key, PATH)
    for told in (whole_answer.json(), contents([streamed.content])[-1]["response"]):
        (call,) = told["output"]
        assert (call["type"], call["name"], orjson.loads(call["arguments"])) == ("function_call", "now", {"a": 1})
    again = [*body["input"], call, {"type": "function_call_output", "call_id": call["call_id"], "output": "noon"}]
    told = (await stage.door.post(orjson.dumps(body | {"input": again}), key, PATH)).json()
    assert "The tool answered: noon" in told["output"][0]["content"][0]["text"]
    assert stage.backend.chats == []
    await stage.is_left_with(CREDIT_NANO)


@each("odd", [10**30, -1, 1.5, [], {}, [[]], True])
@each("name", ["input", "instructions", "tools", "tool_choice", "text", "metadata", "include", "top_logprobs"])
async def test_the_demo_takes_or_refuses_what_is_odd(stage: Stage, name: str, odd: Any) -> None:
    key = await stage.door.key(stage.account_id, is_test=True)
    tool = {"type": "function", "name": "now", "parameters": {"type": "object", "maxProperties": odd}}
    call = {"type": "custom_tool_call", "call_id": "c", "name": "now", "input": odd}
    said: dict[str, Any] = {"input": [{"role": "user", "content": "Hi"}, call], "tools": [tool]}
    for body in (said, said | {name: odd}, said | {"input": [{"role": "user", "content": odd}]}):
        raw = json.dumps({"model": "priced/tiny"} | body).encode()
        assert (await stage.door.post(raw, key, PATH)).status_code in (200, 400)


@each("prefix", ["/v1", "/api/v1/inference"])
@each(
    ("method", "path"),
    [
        ("GET", "/responses/resp_1"),
        ("DELETE", "/responses/resp_1"),
        ("POST", "/responses/resp_1/cancel"),
        ("GET", "/responses/resp_1/input_items"),
        ("POST", "/responses/compact"),
        ("POST", "/responses/input_tokens"),
    ],
)
async def test_nothing_is_kept_that_could_be_read(stage: Stage, prefix: str, method: str, path: str) -> None:
    answered = await stage.door.http.request(method, prefix + path, headers=bearer(stage.key))
    assert answered.status_code == 404
    assert error_of(answered)["code"] == "unsupported_endpoint"


# What is asked


@each("fields", [
    {"previous_response_id": "resp_1"}, {"conversation": "conv_1"}, {"conversation": {"id": "conv_1"}},
    {"prompt": {"id": "pmpt_1"}}, {"background": True},
    {"input": [{"type": "item_reference", "id": "msg_1"}]},
    {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]},
    {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}]},
    {"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_file", "file_id": "f"}]}]},
    {"input": [{"type": "web_search_call", "id": "ws_1", "status": "completed"}]},
    {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}},
    {"tools": [{"type": "web_search"}], "tool_choice": "required"},
    {"tools": [{"type": "mcp", "server_url": "http://127.0.0.1"}], "tool_choice": {"type": "mcp"}},
])  # fmt: skip
async def test_state_and_what_no_one_serves_is_refused_and_costs_nothing(stage: Stage, fields: dict[str, Any]) -> None:
    answered = await ask(stage, **fields)
    assert (answered.status_code, error_of(answered)["code"]) == (400, "unsupported_parameter")
    assert stage.backend.chats == []
    await stage.is_left_with(CREDIT_NANO)


@each("fields", [{}, {"background": False}, {"previous_response_id": None}, {"prompt": None}, {"store": False}])
async def test_what_asks_for_no_state_passes(stage: Stage, fields: dict[str, Any]) -> None:
    stage.backend.answer_with(whole(response()))
    answered = await ask(stage, **fields)
    assert answered.status_code == 200
    assert "x-ignored-parameters" not in answered.headers
    assert stage.sent.keys() - {"stream"} == {"model", "input", "store", "request_id", "cache_salt"}


@each("kind", [
    "web_search", "web_search_preview", "file_search", "code_interpreter", "image_generation", "mcp", "computer",
    "computer_use_preview", "local_shell", "shell", "apply_patch", "tool_search", "namespace", "something_new",
])  # fmt: skip
async def test_a_tool_that_somebody_else_would_run_is_left_out_and_named(stage: Stage, kind: str) -> None:
    stage.backend.answer_with(whole(response()))
    own = [{"type": "function", "name": "f", "parameters": {}}, {"type": "custom", "name": "c"}]
    answered = await ask(stage, tools=[own[0], {"type": kind, "server_url": "http://127.0.0.1"}, own[1]])
    assert answered.status_code == 200
    assert answered.headers["x-ignored-parameters"] == f"tools.{kind}"
    assert stage.sent["tools"] == own


@each("fields", [{"input": ""}, {"input": []}, {"input": None}, {"input": 7}, {"input": ["x"]}, {"model": ""},
                 {"max_output_tokens": 0}, {"max_output_tokens": "x"}, {"tools": {}}, {"tools": [7]}, {"tools": [{}]},
                 {"instructions": 7}, {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
                 {"input": [{"role": "user", "content": [7]}]}, {"stream": "yes"}, {"background": "yes"}])  # fmt: skip
async def test_what_cannot_be_read_is_400(stage: Stage, fields: dict[str, Any]) -> None:
    answered = await ask(stage, **fields)
    assert answered.status_code == 400
    assert error_of(answered)["code"] in ("missing_parameter", "invalid_type", "invalid_value")
    assert stage.backend.chats == []


# What it costs


# Failures


async def test_a_stream_that_breaks_off_ends_with_response_failed_under_the_next_number(stage: Stage) -> None:
    stage.backend.answer_with(events(*STREAM[:6]))
    answered = await ask(stage, stream=True)
    assert kinds(answered)[-1] == "response.failed"
    assert numbers(answered) == list(range(7))
    failed = contents([answered.content])[-1]["response"]
    assert failed["status"] == "failed"
    assert failed["id"] == f"resp_{answered.headers['x-request-id']}"
    assert failed["usage"]["output_tokens"] == 2


async def test_a_prompt_that_is_too_long_is_400(stage: Stage) -> None:
    stage.backend.answer_with(replayed(captured("528_responses_too_long")))
    answered = await ask(stage, stream=True)
    error = error_of(answered)
    assert (answered.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "input")


async def test_codex_is_told_what_is_final_by_one_event(stage: Stage) -> None:
    poor = await stage.credited(0)
    answered = await ask(poor, stream=True, headers=CODEX)
    assert (answered.status_code, kinds(answered)) == (200, ["response.failed"])
    failed = contents([answered.content])[0]["response"]
    assert failed["error"]["code"] == "insufficient_quota"
    assert (await stage.door.record(answered))["http_status"] == 402
    stage.backend.answer_with(replayed(captured("528_responses_too_long")))
    answered = await ask(stage, stream=True, headers=CODEX)
    assert contents([answered.content])[0]["response"]["error"]["code"] == "context_length_exceeded"
    assert (await stage.door.record(answered))["error_code"] == "context_length_exceeded"
    await stage.is_left_with(CREDIT_NANO)


async def test_codex_is_told_by_status_what_may_be_tried_again(stage: Stage) -> None:
    stage.backend.answer_with(whole(b"{}", 503))
    assert (await ask(stage, stream=True, headers=CODEX)).status_code == 429


async def test_a_request_that_waits_is_told_events_that_are_numbered_with_the_answers(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path_factory.mktemp("waits"), vllm_urls=[backend.url], models=[FREE], upstream={"queue_comment_s": 0.01}
        ) as door,
    ):
        begin, go_on = asyncio.Event(), asyncio.Event()
        backend.answer_with(held(begin, in_two(STREAM[:6], go_on, STREAM[6:])))
        body = orjson.dumps({"model": "free/tiny", "input": "hello", "stream": True})
        headers = bearer(None) | {"content-type": "application/json"}
        async with door.http.stream("POST", PATH, content=body, headers=headers) as answered:
            came = b""
            async for piece in answered.aiter_raw():
                came += piece
                if came.count(b"event: response.in_progress") >= 2:
                    begin.set()
                if b"event: response.in_progress" in came.rpartition(b".delta\n")[2] and b".delta\n" in came:
                    go_on.set()
        told = contents([came])
        assert told[0]["type"] == "response.created"
        assert [event["type"] for event in told].count("response.created") == 1
        assert [event["sequence_number"] for event in told] == list(range(len(told)))
        assert len({event["response"]["id"] for event in told if "response" in event}) == 1
        assert told[-1]["type"] == "response.incomplete"
        assert not any(line.startswith(b":") for line in came.split(b"\n"))
        await door.nothing_is_left()


@each(
    ("kind", "told"),
    [("video", "video"), (None, "null"), (5, "a number"), ([{"a": None}], "a list"), ({"": None}, "an object")],
)
async def test_an_item_of_no_type_that_there_is_is_refused_in_words(stage: Stage, kind: Any, told: str) -> None:
    answered = await ask(stage, input=[{"type": kind, "content": "a"}])
    error = error_of(answered)
    assert (answered.status_code, error["param"]) == (400, "input[0].type")
    assert error["message"].startswith("`input[0].type` must be one of ")
    assert error["message"].endswith(f", not {told}.")
