"""Messages over HTTP: what Anthropic's clients are answered, and that what is told is what is billed."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from tests.captured import captured
from tests.cases import each
from tests.core.surfaces.test_message_events import START, told
from tests.loop_clock import pass_time
from tests.patience import PATIENCE_S, eventually
from tests.replaying import (
    ReplayingBackend,
    events,
    held,
    in_two,
    replayed,
    split_events,
    whole,
)
from tests.serving import FREE, PRICED, UNLIMITED, Door, bearer, open_door
from tests.surfaces import message_event as event
from tests.surfaces import message_text as text

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/v1/messages"
PROMPT_NANO, OUTPUT_NANO = 300, 700
UNARY, STREAM = replayed(captured("540_messages")), replayed(captured("541_messages_stream"))
STOP, PING = event("message_stop"), event("ping")
CREDIT_NANO = 10**8
Served = tuple[Door, ReplayingBackend, ReplayingBackend]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with (
        ReplayingBackend() as first,
        ReplayingBackend() as second,
        open_door(
            tmp_path_factory.mktemp("messages"),
            vllm_urls=[first.url, second.url],
            models=[FREE, PRICED],
            upstream={"queue_comment_s": 0},
        ) as door,
    ):
        yield door, first, second


@pytest_asyncio.fixture(loop_scope="module")
async def served(_served: Served) -> AsyncIterator[Served]:
    """Both up; the first is asked first, since the second tells of so much that it has to do for others."""
    door, first, second = _served
    second.running = 10**6
    for replaying, backend in zip((first, second), door.gateway.pool.backends, strict=True):
        replaying.answer_with()
        replaying.standing = None
        replaying.prompt_tokens = 10
        backend.breaker.reset()
        backend.work.busy_until_s = 0.0
    await door.gateway.pool.discover()
    yield door, first, second
    await door.nothing_is_left()


def body_of(**fields: Any) -> bytes:
    return orjson.dumps(
        {"model": "priced/tiny", "max_tokens": 6, "messages": [{"role": "user", "content": "hello"}]} | fields
    )


async def ask(door: Door, key: str | None, path: str = PATH, **fields: Any) -> httpx2.Response:
    return await door.post(body_of(**fields), key, path, anthropic_version="2023-06-01")


def error_in(response: httpx2.Response) -> tuple[int, str]:
    body = response.json()
    assert body.keys() == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert body["request_id"] == response.headers["request-id"]
    return response.status_code, body["error"]["type"]


@each("path", [PATH, f"{PATH}?beta=true", "/api/v1/inference/messages"])
async def test_an_answer_in_one_piece_is_told_recorded_and_billed_alike(served: Served, path: str) -> None:
    door, first, _ = served
    first.answer_with(UNARY)
    account = await door.account("0.1")
    response = await ask(door, await door.key(account), path)
    body = response.json()
    assert (response.status_code, body["model"], body["stop_sequence"]) == (200, "priced/tiny", None)
    assert body["id"].startswith("msg_")
    assert response.headers["request-id"] == response.headers["x-request-id"]
    assert [asked.path for asked in first.chats] == [PATH]
    cost_nano = 14 * PROMPT_NANO + 6 * OUTPUT_NANO
    record = await door.record(response)
    usage = body["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (14, 6)
    assert (record["prompt_tokens"], record["completion_tokens"], record["cost_nano"]) == (14, 6, cost_nano)
    assert await door.balance_nano(account) == CREDIT_NANO - cost_nano


async def test_cached_tokens_are_told_apart_and_billed_with_the_rest(served: Served) -> None:
    door, first, _ = served
    first.answer_with(replayed(captured("849_messages_reasoning")))
    account = await door.account("0.1")
    response = await ask(door, await door.key(account))
    usage = response.json()["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (64, 128)
    record = await door.record(response)
    assert (record["prompt_tokens"], record["cached_tokens"]) == (192, 128)
    assert await door.balance_nano(account) == CREDIT_NANO - 192 * PROMPT_NANO - 6 * OUTPUT_NANO


async def test_a_stream_that_fails_ends_with_what_is_billed_and_an_error(served: Served) -> None:
    door, first, _ = served
    first.answer_with(events(START, text("a"), text("b")))
    response = await ask(door, await door.key(credit="0.1"), stream=True)
    *_, bill, last = told(response.content)
    assert (bill["delta"]["stop_reason"], bill["usage"]["output_tokens"]) == (None, 2)
    assert (last["type"], last["request_id"]) == ("error", response.headers["request-id"])


async def test_a_stream_that_is_silent_gets_pings_before_its_message_and_amid_it(tmp_path: Path) -> None:
    """They mean nothing: what is told beside them, and what is billed, is as without them."""
    frames = split_events(captured("541_messages_stream").body)
    begin, go_on = asyncio.Event(), asyncio.Event()
    async with (
        ReplayingBackend() as backend,
        open_door(tmp_path, vllm_urls=[backend.url], models=[PRICED], upstream={"queue_comment_s": 0.01}) as door,
    ):
        account = await door.account("0.1")
        headers = bearer(await door.key(account)) | {"content-type": "application/json"}
        backend.answer_with(held(begin, in_two(frames[:4], go_on, frames[4:])))
        async with (
            asyncio.timeout(PATIENCE_S),
            door.http.stream("POST", PATH, content=body_of(stream=True), headers=headers) as answered,
        ):
            came = b""
            async for piece in answered.aiter_raw():
                came += piece
                if came.count(PING) >= 2:
                    begin.set()
                if PING in came.rpartition(b"content_block_delta")[2] and b"content_block_delta" in came:
                    go_on.set()
        backend.answer_with(events(*frames))
        at_once = await ask(door, await door.key(await door.account("0.1")), stream=True)
        seen, expected = (
            [event for event in told(all_of) if event["type"] != "ping"] for all_of in (came, at_once.content)
        )
        seen[0]["message"]["id"] = expected[0]["message"]["id"]
        assert seen == expected
        assert await door.balance_nano(account) == CREDIT_NANO - 14 * PROMPT_NANO - 6 * OUTPUT_NANO


@each(("body", "expected"), [
    (b"{", (400, "invalid_request_error")), (b"[]", (400, "invalid_request_error")),
    (body_of(model="invented"), (404, "not_found_error")), (body_of(max_tokens=None), (400, "invalid_request_error")),
    (body_of(mcp_servers=[{"url": "http://10.0.0.1"}]), (400, "invalid_request_error")),
])  # fmt: skip
async def test_what_the_gateway_refuses_has_the_same_shape(
    served: Served, body: bytes, expected: tuple[int, str]
) -> None:
    door, first, _ = served
    for path in (PATH, f"{PATH}/count_tokens") if b'max_tokens":null' not in body else (PATH,):
        assert error_in(await door.post(body, await door.key(credit="0.1"), path)) == expected
    assert first.chats == first.counted == []


async def test_keys_are_taken_in_either_header_and_a_wrong_one_is_an_authentication_error(served: Served) -> None:
    door, first, _ = served
    first.standing = UNARY
    key = await door.key(credit="0.1")
    for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}, {"x-api-key": key, "authorization": "x"}):
        answer = await door.http.post(PATH, content=body_of(), headers={"content-type": "application/json"} | headers)
        assert answer.status_code == 200
    wrong = {"content-type": "application/json", "x-api-key": "gw_live_wrong"}
    assert error_in(await door.http.post(PATH, content=body_of(), headers=wrong)) == (401, "authentication_error")
    assert error_in(await door.http.get(PATH)) == (405, "invalid_request_error")


async def test_limits_are_told_in_anthropic_s_headers(served: Served) -> None:
    door, first, _ = served
    first.answer_with(UNARY)
    key = await door.key(credit="0.1", limits=replace(UNLIMITED, requests_per_minute=1))
    headers = (await ask(door, key)).headers
    limits = {name.removeprefix("anthropic-ratelimit-"): headers[name] for name in headers if "anthropic-rate" in name}
    assert (limits["requests-limit"], limits["requests-remaining"]) == ("1", "0")
    assert limits["requests-reset"].endswith("Z")
    refused = await ask(door, key)
    assert error_in(refused) == (429, "rate_limit_error")
    assert int(refused.headers["retry-after"]) > 0
    assert refused.headers["anthropic-ratelimit-requests-remaining"] == "0"


async def test_a_count_is_the_backends_free_and_a_listing(served: Served) -> None:
    door, first, _ = served
    first.prompt_tokens = 37
    account = await door.account("0.1")
    key = await door.key(account, limits=replace(UNLIMITED, requests_per_minute=1))
    for _ in range(2):
        response = await ask(door, key, f"{PATH}/count_tokens?beta=true", system="s")
        assert (response.status_code, response.json()) == (200, {"input_tokens": 37})
    assert first.counted[0].json.keys() == {"model", "messages", "system"}
    assert await door.balance_nano(account) == CREDIT_NANO
    assert await door.rows("SELECT * FROM requests WHERE account_id = ?", account) == []


async def test_where_no_backend_counts_it_is_not_found_and_one_that_does_is_asked_next(served: Served) -> None:
    door, first, second = served
    first.counts = second.counts = whole(b'{"detail":"Not Found"}', 404)
    assert error_in(await ask(door, await door.key(), f"{PATH}/count_tokens")) == (404, "not_found_error")
    second.counts = None
    assert (await ask(door, await door.key(), f"{PATH}/count_tokens")).json() == {"input_tokens": 10}
    first.counts = None


async def test_a_count_that_does_not_come_is_waited_for_no_longer_than_a_few_seconds(served: Served) -> None:
    door, first, second = served
    first.is_mute = second.is_mute = True
    asking = asyncio.ensure_future(ask(door, await door.key(), f"{PATH}/count_tokens"))
    await eventually(lambda: first.counted or second.counted)
    pass_time(60)
    await eventually(lambda: first.counted and second.counted)
    pass_time(60)
    assert error_in(await asking) == (502, "api_error")
    first.is_mute = second.is_mute = False


@each("case", ["542_messages_unknown_model", "547_messages_too_long", "866_queue_full_messages"])
async def test_a_count_that_vllm_refuses_is_refused_alike(served: Served, case: str) -> None:
    door, first, second = served
    first.counts = second.counts = replayed(captured(case))
    response = await ask(door, await door.key(), f"{PATH}/count_tokens")
    first.counts = second.counts = None
    expected = {
        "542": (503, "overloaded_error"),
        "547": (400, "invalid_request_error"),
        "866": (429, "overloaded_error"),
    }
    assert error_in(response) == expected[case[:3]]


async def test_a_limit_of_the_whole_window_is_lowered_to_what_an_old_vllm_has_room_for(served: Served) -> None:
    door, first, _ = served
    told = (
        "This model's maximum context length is 2048 tokens. However, you requested 2048 output tokens and your prompt "
        "contains 10 input tokens, for a total of 2058 tokens."
    )
    refusal = {"type": "error", "error": {"type": "BadRequestError", "message": told}}
    first.answer_with(whole(orjson.dumps(refusal), 400), UNARY)
    response = await ask(door, await door.key(credit="0.1"), max_tokens=32_000)
    assert response.status_code == 200
    assert [asked.json["max_tokens"] for asked in first.chats] == [2048, 2038]
    assert response.headers["x-max-tokens-clamped"] == "2038"


async def test_the_root_answers_a_probe(served: Served) -> None:
    assert (await served[0].http.head("/")).status_code == 200


async def test_a_tool_is_called_and_its_result_is_sent_back(served: Served) -> None:
    door, first, _ = served
    first.answer_with(replayed(captured("550_messages_tool_stream")), UNARY)
    key = await door.key(credit="0.1")
    tools = [{"name": "now", "input_schema": {"type": "object"}}]
    found = told((await ask(door, key, stream=True, tools=tools, max_tokens=60)).content)
    used = found[1]["content_block"]
    assert (used["type"], found[-2]["delta"]["stop_reason"]) == ("tool_use", "tool_use")
    result = [{"type": "tool_result", "tool_use_id": used["id"], "content": "noon", "is_error": False}]
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [used]},
        {"role": "user", "content": result},
    ]
    assert (await ask(door, key, messages=turns)).status_code == 200
    assert first.chats[1].json["messages"] == turns
