"""OpenAI's Responses API at the door: stateless, exact in its money, and as Codex needs it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.inference.exchange import Exchange
from mcp_gateway.core.money import format_usd
from tests.captured import captured
from tests.cases import each
from tests.replaying import (
    Answer,
    ReplayingBackend,
    death,
    events,
    held,
    in_two,
    replayed,
    split_events,
    whole,
)
from tests.serving import FREE, Door, bearer, error_of, eventually, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT_PICO, COMPLETION_PICO = 301_007, 703_001
PRICED = {
    "id": "priced/tiny",
    "backend_model": "tiny",
    "context_window": 2048,
    "pricing": {"prompt": "0.000000301007", "completion": "0.000000703001"},
}
CREDIT_NANO = 10**9
STREAM = split_events(captured("521_responses_stream").body)
CODEX = {"originator": "codex_exec"}
PATH = "/v1/responses"


def cost_nano(prompt_tokens: int, completion_tokens: int) -> int:
    return -(-(prompt_tokens * PROMPT_PICO + completion_tokens * COMPLETION_PICO) // 1000)


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


@dataclass
class Stage:
    door: Door
    backend: ReplayingBackend
    account_id: str
    key: str

    async def ask(self, *, headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
        body = {"model": "priced/tiny", "input": "hello"} | fields
        return await self.door.post(orjson.dumps(body), self.key, PATH, **(headers or {}))

    @property
    def sent(self) -> dict[str, Any]:
        sent: dict[str, Any] = self.backend.chats[-1].json
        return sent

    async def is_left_with(self, balance_nano: int) -> None:
        await self.door.nothing_is_left()
        assert await self.door.balance_nano(self.account_id) == balance_nano

    async def credited(self, amount_nano: int) -> "Stage":
        account_id = await self.door.account(format_usd(amount_nano))
        return Stage(self.door, self.backend, account_id, await self.door.key(account_id))


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
    account_id = await door.account("1")
    backend.answer_with()
    backend.prompt_tokens = 10
    yield Stage(door, backend, account_id, await door.key(account_id))
    await door.nothing_is_left()


# What is answered


async def test_an_answer_in_one_piece_bears_our_names_and_is_kept_nowhere(stage: Stage) -> None:
    stage.backend.answer_with(whole(response()))
    told = (await stage.ask(store=True, max_output_tokens=6)).json()
    assert (told["model"], told["store"], told["status"]) == ("priced/tiny", False, "incomplete")
    assert not told.keys() & {"input_messages", "output_messages", "kv_transfer_params", "ec_transfer_params"}
    assert stage.sent["store"] is False
    assert stage.sent["model"] == "tiny"


async def test_a_stream_ends_with_the_event_that_its_status_says_and_its_usage(stage: Stage) -> None:
    stage.backend.answer_with(events(*STREAM))
    answered = await stage.ask(stream=True)
    told = kinds(answered)
    assert (told[0], told[1], told[-1]) == ("response.created", "response.in_progress", "response.incomplete")
    assert numbers(answered) == list(range(len(STREAM)))
    last = contents([answered.content])[-1]["response"]
    usage = {"input_tokens": 14, "output_tokens": 4, "total_tokens": 18, "cost_usd": format_usd(cost_nano(14, 4))}
    assert last["usage"] == usage | {
        "input_tokens_details": {"cached_tokens": 0},
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
    answered = await stage.ask(**fields)
    assert (answered.status_code, error_of(answered)["code"]) == (400, "unsupported_parameter")
    assert stage.backend.chats == []
    await stage.is_left_with(CREDIT_NANO)


@each("fields", [{}, {"background": False}, {"previous_response_id": None}, {"prompt": None}, {"store": False}])
async def test_what_asks_for_no_state_passes(stage: Stage, fields: dict[str, Any]) -> None:
    stage.backend.answer_with(whole(response()))
    answered = await stage.ask(**fields)
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
    answered = await stage.ask(tools=[own[0], {"type": kind, "server_url": "http://127.0.0.1"}, own[1]])
    assert answered.status_code == 200
    assert answered.headers["x-ignored-parameters"] == f"tools.{kind}"
    assert stage.sent["tools"] == own


@each("fields", [{"input": ""}, {"input": []}, {"input": None}, {"input": 7}, {"input": ["x"]}, {"model": ""},
                 {"max_output_tokens": 0}, {"max_output_tokens": "x"}, {"tools": {}}, {"tools": [7]}, {"tools": [{}]},
                 {"instructions": 7}, {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
                 {"input": [{"role": "user", "content": [7]}]}, {"stream": "yes"}, {"background": "yes"}])  # fmt: skip
async def test_what_cannot_be_read_is_400(stage: Stage, fields: dict[str, Any]) -> None:
    answered = await stage.ask(**fields)
    assert answered.status_code == 400
    assert error_of(answered)["code"] in ("missing_parameter", "invalid_type", "invalid_value")
    assert stage.backend.chats == []


# What it costs


@each(("prompt", "completion"), [(1, 1), (13, 7), (999, 16), (0, 0)])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_answer_costs_its_usage_to_the_nano(
    stage: Stage, prompt: int, completion: int, is_stream: bool
) -> None:
    stage = await stage.credited(CREDIT_NANO)
    stage.backend.answer_with(
        events(*STREAM[:-1], ended(prompt, completion))
        if is_stream
        else whole(response(prompt, completion, status="completed"))
    )
    answered = await stage.ask(stream=is_stream, input="x" * 1500)
    await stage.is_left_with(CREDIT_NANO - cost_nano(prompt, completion))
    record = await stage.door.record(answered)
    assert record["cost_nano"] == cost_nano(prompt, completion)
    assert (record["prompt_tokens"], record["completion_tokens"]) == (prompt, completion)
    told = contents([answered.content])[-1]["response"]["usage"] if is_stream else answered.json()["usage"]
    assert (told["input_tokens"], told["output_tokens"]) == (prompt, completion)


async def test_a_wallet_that_covers_less_lowers_the_limit(stage: Stage) -> None:
    poor = await stage.credited(cost_nano(700, 100))
    stage.backend.answer_with(whole(response(14, 4)))
    answered = await poor.ask(max_output_tokens=1000)
    assert answered.status_code == 200
    assert int(answered.headers["x-max-tokens-clamped"]) == stage.sent["max_output_tokens"] < 1000


@each("frames", range(3, len(STREAM)))
async def test_who_leaves_a_stream_pays_the_prompt_and_a_token_for_each_delta(stage: Stage, frames: int) -> None:
    stage = await stage.credited(CREDIT_NANO)
    stage.backend.answer_with(in_two(STREAM[:frames], asyncio.Event(), ()))
    body = orjson.dumps({"model": "priced/tiny", "input": "hello", "stream": True})
    headers = bearer(stage.key) | {"content-type": "application/json"}
    async with stage.door.http.stream("POST", PATH, content=body, headers=headers) as answered:
        came = b""
        async for piece in answered.aiter_raw():
            came += piece
            if came.count(b"\n\n") >= frames:
                break
        request = answered
    await stage.backend.chats[-1].gone()
    deltas = sum(b".delta\n" in frame for frame in STREAM[:frames])
    await stage.is_left_with(CREDIT_NANO - cost_nano(10, deltas))
    record = await stage.door.record(request)
    assert (record["error_code"], record["completion_tokens"]) == ("client_closed", deltas)


async def test_an_estimate_never_exceeds_the_hold(stage: Stage) -> None:
    many = [STREAM[4]] * 50
    stage.backend.answer_with(in_two([*STREAM[:4], *many], asyncio.Event(), ()))
    body = orjson.dumps({"model": "priced/tiny", "input": "hello", "stream": True, "max_output_tokens": 7})
    headers = bearer(stage.key) | {"content-type": "application/json"}
    async with stage.door.http.stream("POST", PATH, content=body, headers=headers) as answered:
        async for _ in answered.aiter_raw():
            break
    await stage.backend.chats[-1].gone()
    await stage.is_left_with(CREDIT_NANO - cost_nano(10, 7))


async def test_who_leaves_a_long_answer_in_one_piece_pays_for_what_was_made(stage: Stage) -> None:
    stage.backend.answer_with(in_two(STREAM[:6], asyncio.Event(), ()))
    asked = asyncio.create_task(stage.ask(model="priced/tiny"))
    (chat,) = await stage.backend.chats_asked(1)
    running = stage.door.gateway.inference.running
    await eventually(lambda: any(has_any(exchange) for exchange in running))
    asked.cancel()
    await chat.gone()
    await stage.is_left_with(CREDIT_NANO - cost_nano(10, 2))


def has_any(exchange: Exchange) -> bool:
    answer = exchange._answer
    return answer is not None and answer.collecting is not None and answer.collecting.seen.output_tokens > 1


# Failures


@each("first", [death, whole(b"{}", 500), events(*STREAM[:2]), events(b'event: error\ndata: {"error": {}}\n\n')])
async def test_what_fails_before_the_output_began_goes_to_another_try_or_is_told_by_its_status(
    stage: Stage, first: Answer
) -> None:
    stage.backend.answer_with(first)
    answered = await stage.ask(stream=True)
    assert answered.status_code == 502
    await stage.is_left_with(CREDIT_NANO)


@each("ending", [(), (b'event: error\ndata: {"type": "error", "error": {"message": "x", "code": null}}\n\n',),
                 (b'event: response.failed\ndata: {"response": {"id": "r", "status": "failed", "output": [], "error": '
                  b'{"code": "server_error", "message": "x"}}, "type": "response.failed"}\n\n',)])  # fmt: skip
async def test_a_stream_that_breaks_off_ends_with_response_failed_and_costs_what_came(
    stage: Stage, ending: tuple[bytes, ...]
) -> None:
    stage = await stage.credited(CREDIT_NANO)
    stage.backend.answer_with(events(*STREAM[:6], *ending))
    answered = await stage.ask(stream=True)
    assert kinds(answered)[-1] == "response.failed"
    assert numbers(answered) == list(range(7))
    failed = contents([answered.content])[-1]["response"]
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    assert failed["id"] == f"resp_{answered.headers['x-request-id']}"
    assert failed["usage"]["output_tokens"] == 2
    await stage.is_left_with(CREDIT_NANO - cost_nano(10, 2))


async def test_money_that_is_missing_is_402_in_openais_word(stage: Stage) -> None:
    poor = await stage.credited(0)
    for is_stream in (False, True):
        answered = await poor.ask(stream=is_stream)
        assert (answered.status_code, error_of(answered)["code"]) == (402, "insufficient_quota")
    assert stage.backend.chats == []


async def test_a_prompt_that_is_too_long_is_400(stage: Stage) -> None:
    stage.backend.answer_with(replayed(captured("528_responses_too_long")))
    answered = await stage.ask(stream=True)
    error = error_of(answered)
    assert (answered.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "input")


async def test_codex_is_told_what_is_final_by_one_event(stage: Stage) -> None:
    poor = await stage.credited(0)
    answered = await poor.ask(stream=True, headers=CODEX)
    assert (answered.status_code, kinds(answered)) == (200, ["response.failed"])
    failed = contents([answered.content])[0]["response"]
    assert failed["error"]["code"] == "insufficient_quota"
    assert (await stage.door.record(answered))["http_status"] == 402
    stage.backend.answer_with(replayed(captured("528_responses_too_long")))
    answered = await stage.ask(stream=True, headers=CODEX)
    assert contents([answered.content])[0]["response"]["error"]["code"] == "context_length_exceeded"
    assert (await stage.door.record(answered))["error_code"] == "context_length_exceeded"
    await stage.is_left_with(CREDIT_NANO)


async def test_codex_is_told_by_status_what_may_be_tried_again(stage: Stage) -> None:
    stage.backend.answer_with(whole(b"{}", 503))
    assert (await stage.ask(stream=True, headers=CODEX)).status_code == 429


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
