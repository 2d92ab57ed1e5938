"""Answers in one piece that the backend streams: whole and billed as ever, let go of and paid for as a stream is."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.surfaces.collected import can_carry
from tests.captured import captured
from tests.core.surfaces.test_collected import PAIRS, without_ids
from tests.patience import eventually
from tests.replaying import (
    DONE,
    Answer,
    Asked,
    ReplayingBackend,
    chunk,
    events,
    in_two,
    replayed,
    silence,
    stream,
    unary,
    whole,
)
from tests.serving import FREE, PRICED, Door, bearer, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
MOST_BYTES = 400 * 1024
Served = tuple[Door, ReplayingBackend, ReplayingBackend]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with (
        ReplayingBackend() as first,
        ReplayingBackend("tiny", "alone") as second,
        open_door(
            tmp_path_factory.mktemp("collected"),
            vllm_urls=[first.url, second.url],
            models=[FREE, PRICED, PRICED | {"id": "priced/alone", "backend_model": "alone"}],
            upstream={"collect_above_tokens": 100, "max_response_bytes": MOST_BYTES},
        ) as door,
    ):
        yield door, first, second


@pytest_asyncio.fixture(loop_scope="module")
async def served(_served: Served) -> AsyncIterator[Served]:
    door, first, second = _served
    first.answer_with()
    second.answer_with()
    yield door, first, second
    first.standing = second.standing = None
    await door.nothing_is_left()


def both(backends: Served, answer: Answer | None) -> None:
    """Let either backend give this answer."""
    for backend in backends[1:]:
        backend.standing = answer


def chats(served: Served) -> list[Asked]:
    return [*served[1].chats, *served[2].chats]


@pytest.mark.parametrize(
    ("fields", "is_streamed"),
    [
        ({}, True), ({"max_tokens": 101}, True), ({"max_tokens": 100}, False), ({"max_completion_tokens": 5}, False),
        ({"max_tokens": 101, "tool_choice": "required", "tools": [{}]}, False), ({"logit_bias": {"1": 5}}, False),
    ],
)  # fmt: skip
async def test_a_long_answer_is_asked_for_as_a_stream(
    served: Served, fields: dict[str, Any], is_streamed: bool
) -> None:
    door = served[0]
    answer = await door.chat(await door.key(), **fields)
    assert answer.json()["object"] == "chat.completion"
    [asked] = chats(served)
    assert asked.json.get("stream", False) == is_streamed
    assert ("stream_options" in asked.json) == is_streamed
    record = await door.record(answer)
    assert (record["is_stream"], record["prompt_tokens"], record["completion_tokens"]) == (0, 10, 4)


def tool_call(token: str | None = None, **arguments: Any) -> dict[str, Any]:
    chat = {"model": "priced/tiny", "messages": [{"role": "user", "content": "Hi"}]}
    meta = {} if token is None else {"_meta": {"progressToken": token}}
    params = {"name": "chat_completion", "arguments": chat | arguments, **meta}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


MCP = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}


@pytest.mark.parametrize(
    ("token", "fields", "is_streamed"),
    [
        (None, {}, True), (None, {"max_tokens": 65}, True), (None, {"max_tokens": 1}, True),
        ("p", {"max_tokens": 1}, True), ("p", {"tool_choice": "required", "tools": [{}]}, False),
    ],
)  # fmt: skip
async def test_an_answer_over_mcp_is_asked_for_as_a_stream_unless_a_stream_cannot_carry_it(
    served: Served, token: str | None, fields: dict[str, Any], is_streamed: bool
) -> None:
    door = served[0]
    key = await door.key(await door.account("1"))
    answer = await door.http.post("/v1/mcp", json=tool_call(token, **fields), headers=bearer(key) | MCP)
    assert answer.status_code == 200
    [asked] = chats(served)
    assert asked.json.get("stream", False) == is_streamed


async def test_who_ends_an_mcp_session_pays_for_what_its_call_had_made(served: Served) -> None:
    door = served[0]
    account = await door.account("1")
    headers = bearer(await door.key(account)) | MCP
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "a", "version": "1"}}
    hello = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": client}
    opened = await door.http.post("/v1/mcp", json=hello, headers=headers)
    headers["mcp-session-id"] = opened.headers["mcp-session-id"]
    both(served, in_two([chunk("", 10, 0), *[chunk("a", 10, n) for n in range(1, 51)]], asyncio.Event(), []))
    asking = asyncio.ensure_future(door.http.post("/v1/mcp", json=tool_call(), headers=headers))
    await eventually(lambda: [exchange.latest_words for exchange in door.gateway.inference.running] == ["a" * 50])
    assert (await door.http.delete("/v1/mcp", headers=headers)).status_code == 200
    await chats(served)[0].gone()
    await asking
    await door.nothing_is_left()
    assert await door.balance_nano(account) == 10**9 - 10 * 300 - 50 * 700


@pytest.mark.parametrize(("one_piece", "streamed"), PAIRS)
async def test_each_captured_answer_is_the_same_to_the_client(served: Served, one_piece: str, streamed: str) -> None:
    door = served[0]

    async def as_asked(asked: Asked) -> None:
        await replayed(captured(streamed if asked.json.get("stream") else one_piece))(asked)

    both(served, as_asked)
    request = orjson.loads(captured(one_piece).request_body) | {"model": "free/tiny"}
    request.pop("max_tokens", None)
    answer = await door.post(orjson.dumps(request), await door.key())
    expected = orjson.loads(captured(one_piece).body) | {"model": "free/tiny"}
    assert without_ids(answer.json()) == without_ids(expected)
    assert bool(chats(served)[0].json.get("stream")) == can_carry(request)


async def test_an_answer_with_a_frame_that_is_none_is_made_elsewhere_and_billed_once(served: Served) -> None:
    door = served[0]
    account = await door.account("1")
    odd = b'data: {"id":1,"choices":[{"delta":{}}]}\n\n'
    answers = [events(*stream(10, 4)), events(chunk("a", 10, 1), odd, DONE)]

    async def next_one(asked: Asked) -> None:
        await answers.pop()(asked)

    both(served, next_one)
    answer = await door.chat(await door.key(account), model="priced/tiny")
    assert (answer.status_code, answer.json()["usage"]["total_tokens"]) == (200, 14)
    assert (len(served[1].chats), len(served[2].chats)) == (1, 1)
    await door.nothing_is_left()
    assert await door.balance_nano(account) == 10**9 - 5800
    for backend in door.gateway.pool.backends:
        backend.breaker.reset()


async def test_an_answer_that_breaks_off_with_nowhere_to_go_is_not_billed(served: Served) -> None:
    door = served[0]
    account = await door.account("1")
    both(served, events(chunk("", 10, 0), chunk("a", 10, 1)))
    answer = await door.chat(await door.key(account), model="priced/alone")
    assert (answer.status_code, error_of(answer)["code"]) == (502, "backend_died")
    await door.nothing_is_left()
    assert await door.balance_nano(account) == 10**9
    door.gateway.pool.backends[1].breaker.reset()


async def test_a_stream_that_ends_without_the_last_word_is_whole_once_every_choice_has_ended(served: Served) -> None:
    door = served[0]
    both(served, events(*stream(10, 4)[:-1]))
    assert (await door.chat(await door.key())).status_code == 200


async def test_of_several_choices_none_may_be_missing(served: Served) -> None:
    door = served[0]
    both(served, events(chunk("a", 10, 1, "stop")))
    answer = await door.chat(await door.key(), model="free/tiny", n=2)
    assert error_of(answer)["code"] == "backend_died"
    for backend in door.gateway.pool.backends:
        backend.breaker.reset()


async def test_a_backend_that_answers_in_one_piece_all_the_same_is_understood(served: Served) -> None:
    door = served[0]
    both(served, unary(10, 4, "one piece"))
    answer = await door.chat(await door.key())
    assert answer.json()["choices"][0]["message"]["content"] == "one piece"


async def test_an_answer_beyond_the_limit_is_cut_delivered_and_billed_for_what_was_delivered(served: Served) -> None:
    door = served[0]
    account = await door.account("1")
    piece = "x" * 1000
    rest = asyncio.Event()
    both(served, in_two([chunk(piece, 10, n) for n in range(1, 501)], rest, []))
    answer = await door.chat(await door.key(account), model="priced/tiny")
    told = answer.json()
    assert (told["gateway"], told["choices"][0]["finish_reason"]) == ({"ended_by": "size"}, "length")
    tokens = len(told["choices"][0]["message"]["content"]) // 1000
    assert 390 < tokens < 410
    assert len(answer.content) <= MOST_BYTES
    assert told["usage"]["completion_tokens"] == tokens
    [asked] = chats(served)
    await asked.gone()
    await door.nothing_is_left()
    assert await door.balance_nano(account) == 10**9 - 10 * 300 - tokens * 700
    assert all(backend.status == "up" for backend in door.gateway.pool.backends)


@pytest.mark.parametrize("is_announced", [True, False])
async def test_an_answer_too_large_for_one_piece_is_free_tried_once_and_no_fault_of_its_backend(
    served: Served, is_announced: bool
) -> None:
    door = served[0]
    account = await door.account("1")
    choice = {"finish_reason": "stop", "message": {"content": "x" * (MOST_BYTES + 1)}}
    body = orjson.dumps({"choices": [choice], "model": "tiny", "usage": {"prompt_tokens": 1, "completion_tokens": 1}})

    async def without_length(asked: Asked) -> None:
        asked.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        asked.send_event(body)
        asked.end_stream()

    both(served, whole(body) if is_announced else without_length)
    key = await door.key(account)
    for _ in range(12):
        answer = await door.chat(key, model="priced/tiny", max_tokens=50)
        assert (answer.status_code, error_of(answer)["code"]) == (502, "backend_error")
        assert "stream" in error_of(answer)["message"]
    assert len(chats(served)) == 12
    assert all(backend.status == "up" for backend in door.gateway.pool.backends)
    await door.nothing_is_left()
    assert await door.balance_nano(account) == 10**9


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logprobs": True, "top_logprobs": 20, "max_tokens": 200}, "top_logprobs"),
        ({"logprobs": True, "n": 3, "max_tokens": 1000}, "n"),
        ({"logprobs": True, "max_completion_tokens": 2048 + 1000}, None),
    ],
)
async def test_what_could_not_be_held_is_refused_before_it_is_made(
    served: Served, fields: dict[str, Any], param: str | None
) -> None:
    door = served[0]
    answer = await door.chat(await door.key(), **fields)
    if param is None:  # clamped to the model's window, which fits
        assert answer.status_code == 200
        return
    assert (answer.status_code, error_of(answer)["code"], error_of(answer)["param"]) == (400, "invalid_value", param)
    assert chats(served) == []
    assert (await door.chat(await door.key(), stream=True, **fields)).status_code == 200


async def test_who_names_no_limit_gets_one_that_fits(served: Served) -> None:
    door = served[0]
    both(served, unary())
    assert (await door.chat(await door.key(), logprobs=True, top_logprobs=20)).status_code == 200
    [asked] = chats(served)
    assert asked.json["max_tokens"] == MOST_BYTES // (16 + 21 * 128)


async def test_a_key_that_ends_lets_go_of_the_backend_at_once(served: Served) -> None:
    door = served[0]
    account = await door.account("1")
    key = await door.key(account)
    both(served, in_two([chunk("", 10, 0), chunk("a", 10, 1)], asyncio.Event(), []))
    asking = asyncio.ensure_future(door.chat(key, model="priced/tiny"))
    await eventually(lambda: [exchange.latest_words for exchange in door.gateway.inference.running] == ["a"])
    [row] = (await door.get("/v1/keys", key)).json()["data"]
    await door.gateway.keys.revoke(row["id"])
    assert error_of(await asking)["code"] == "revoked_api_key"
    await chats(served)[0].gone()
    await door.nothing_is_left()
    assert await door.balance_nano(account) == 10**9


async def test_a_silent_backend_is_left_by_who_leaves(served: Served) -> None:
    door = served[0]
    both(served, silence)
    asking = asyncio.ensure_future(door.chat(await door.key()))
    await eventually(lambda: chats(served))
    asking.cancel()
    await chats(served)[0].gone()
    await eventually(lambda: not door.gateway.inference.running)
