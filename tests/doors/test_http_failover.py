"""Backends that fail: before the first token another one serves, after it the stream ends with one clean error."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from tests.captured import captured
from tests.loop_clock import pass_time
from tests.replaying import (
    DONE,
    Answer,
    Asked,
    ReplayingBackend,
    chunk,
    contents,
    death,
    events,
    replayed,
    silence,
    stream,
    whole,
)
from tests.serving import FREE, Door, bearer, error_of, open_door
from tests.stage import CREDIT_NANO, PRICED, cost_nano, staged
from tests.surfaces import (
    SPOKEN,
    Spoken,
    answers,
    every_generating_surface,
    every_streaming_surface,
    every_way,
    message_event,
)

pytestmark = [pytest.mark.surfaces, pytest.mark.asyncio(loop_scope="module")]

TIMEOUT_S = 30.0
TOLD = b'data: {"error": {"message": "EngineCore encountered an issue", "param": null, "code": 500}}\n\n'
REFUSED = b'{"error":{"message":"temperature must be non-negative","type":"BadRequestError","param":"temperature"}}'
Served = tuple[Door, ReplayingBackend, ReplayingBackend]


async def cut_in_the_head(asked: Asked) -> None:
    asked.send(b"HTTP/1.1 200 OK\r\ncontent-le")
    asked.transport.close()


async def nonsense(asked: Asked) -> None:
    asked.send(b"220 mail.example.com ESMTP\r\n\r\n")


async def head_alone(asked: Asked) -> None:
    """What vLLM does while a stream waits in its queue."""
    asked.start_stream()
    await silence(asked)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with (
        ReplayingBackend() as first,
        ReplayingBackend() as second,
        open_door(
            tmp_path_factory.mktemp("failover"),
            vllm_urls=[first.url, second.url],
            models=[FREE, PRICED],
            upstream={
                "discovery_interval_s": 86400,  # what was read before time ran out, and is noted after, tells of work
                "first_token_timeout_s": TIMEOUT_S,
                "first_token_max_s": TIMEOUT_S,
                "unary_timeout_s": TIMEOUT_S,
                "idle_timeout_s": TIMEOUT_S,
                "queue_comment_s": 0,
                "collect_above_tokens": 1000,
                "retry_share": 1.0,  # the budget of all these tests together is not what they ask about
            },
        ) as door,
    ):
        yield door, first, second


@pytest_asyncio.fixture(loop_scope="module")
async def served(_served: Served) -> AsyncIterator[Served]:
    await both_are_up(_served)
    yield _served
    await _served[0].nothing_is_left()


async def both_are_up(served: Served) -> None:
    """The first is asked first, since the second tells of so much that it has to do for others."""
    door, first, second = served
    second.running = 10**6
    for replaying, backend in zip((first, second), door.gateway.pool.backends, strict=True):
        replaying.answer_with()
        replaying.lists_models = True
        backend.breaker.reset()
        backend.work.busy_until_s = 0.0
    await door.gateway.pool.discover()


async def time_runs_out_at(replaying: ReplayingBackend, door: Door) -> None:
    """Once it was asked: by the clock of the event loop and by that of the backends, which tell how they are then."""
    await replaying.chats_asked(1)
    for backend in door.gateway.pool.backends:
        backend.work.now_s = partial(later, backend.work.now_s)
    await door.gateway.pool.discover()
    pass_time(TIMEOUT_S)


def later(now_s: Callable[[], float]) -> float:
    return now_s() + TIMEOUT_S


FAILING: dict[str, Answer] = {
    "death": death,
    "500": whole(b"{}", 500),
    "401": whole(b'{"error":"Unauthorized"}', 401),
    "not served there": whole(b'{"detail":"Not Found"}', 404),
    "cut in the head": cut_in_the_head,
    "nonsense": nonsense,
    "silence": silence,
}


def failing_answers(spoken: Spoken) -> dict[str, Answer]:
    """What no backend should answer, with what was captured of a full queue and of a model that is not there."""
    return FAILING | {
        "busy": replayed(captured(spoken.busy)),
        "busy as a chat is told": replayed(captured("863_queue_full")),
        "model gone": replayed(captured(spoken.unknown)),
    }


@every_way
async def test_a_backend_that_fails_before_its_first_token_is_followed_by_another_within_one_hold(
    served: Served, spoken: Spoken, is_stream: bool
) -> None:
    door, first, second = served
    for name, failing in failing_answers(spoken).items():
        await both_are_up(served)
        stage = await staged(door, first)
        first.answer_with(failing, failing)
        second.answer_with(answers(spoken))
        asking = asyncio.create_task(stage.ask(spoken, is_stream=is_stream))
        if failing is silence:
            await time_runs_out_at(first, door)
        response = await asking
        assert spoken.refusal_of(response) is None, (name, response.text)
        assert [len(backend.chats) for backend in (first, second)] == [len(first.chats), 1], name
        assert second.chats[0].json == first.chats[0].json
        await stage.is_left_with(CREDIT_NANO - cost_nano(10, 4 if spoken.is_generated else 0))
        sql = "SELECT kind FROM ledger_transactions WHERE account_id = ? ORDER BY id"
        assert await door.rows(sql, stage.account_id) == [("credit",), ("settle",)]
        (record,) = await stage.records()
        assert record["backend"] == "vllm-2"


@every_streaming_surface
async def test_a_stream_that_fails_after_its_head_but_before_its_first_token_goes_elsewhere_too(
    served: Served, spoken: Spoken
) -> None:
    door, first, second = served
    failing = [events(TOLD, DONE), events(*spoken.aborted()), events(), events(DONE), events(b": keep-alive\n\n")]
    held_back = spoken.opening()[: spoken.held_back]
    for answer in [*failing, events(*held_back), events(*held_back, TOLD, DONE), head_alone]:
        await both_are_up(served)
        stage = await staged(door, first)
        first.answer_with(answer)
        second.answer_with(answers(spoken))
        asking = asyncio.create_task(stage.ask(spoken, is_stream=True))
        if answer is head_alone:
            await time_runs_out_at(first, door)
        response = await asking
        assert response.status_code == 200, response.text
        assert not any(map(spoken.failure_in, spoken.events(response.content)))
        assert (len(first.chats), len(second.chats)) == (1, 1)
        await stage.is_left_with(CREDIT_NANO - cost_nano(10, 4))


@every_generating_surface
async def test_a_whole_answer_that_the_backend_broke_off_goes_elsewhere(served: Served, spoken: Spoken) -> None:
    door, first, second = served
    stage = await staged(door, first)
    first.answer_with(whole(spoken.broken_off()))
    second.answer_with(answers(spoken))
    assert spoken.refusal_of(await stage.ask(spoken)) is None
    assert len(second.chats) == 1
    await stage.is_left_with(CREDIT_NANO - cost_nano(10, 4))


@every_way
async def test_a_refusal_of_the_request_is_final(served: Served, spoken: Spoken, is_stream: bool) -> None:
    door, first, second = served
    stage = await staged(door, first)
    first.answer_with(whole(REFUSED, 400))
    assert spoken.refusal_of(await stage.ask(spoken, is_stream=is_stream)) == spoken.word_for("invalid_value")
    assert second.chats == []
    await stage.is_left_with(CREDIT_NANO)


@every_way
async def test_where_all_backends_fail_the_last_failure_is_told_in_the_surfaces_own_word(
    served: Served, spoken: Spoken, is_stream: bool
) -> None:
    door, first, second = served
    expected = {
        "death": (502, "backend_died"),
        "500": (502, "backend_error"),
        "401": (502, "backend_error"),
        "busy": (429, "backend_busy"),
        "model gone": (503, "model_unavailable"),
    }
    for name, (status, code) in expected.items():
        await both_are_up(served)
        stage, failing = await staged(door, first), failing_answers(spoken)[name]
        for backend in (first, second):
            backend.answer_with(failing, failing)
        response = await stage.ask(spoken, is_stream=is_stream)
        assert spoken.refusal_of(response) == spoken.word_for(code), name
        await stage.is_left_with(CREDIT_NANO)
        (record,) = await stage.records()
        assert (record["http_status"], record["error_code"], record["cost_nano"]) == (status, code, 0)
        if spoken.path != "/v1/mcp":
            assert response.status_code == status
            assert ("retry-after" in response.headers) == (status in (429, 503))


@pytest.mark.parametrize("failing", [silence, head_alone], ids=["silence", "head alone"])
@every_streaming_surface
async def test_no_first_token_in_time_is_502_and_the_backend_is_hung_up_on(
    served: Served, spoken: Spoken, failing: Answer
) -> None:
    door, first, second = served
    stage = await staged(door, first)
    for backend in (first, second):
        backend.answer_with(failing)
    asking = asyncio.create_task(stage.ask(spoken, is_stream=True))
    await time_runs_out_at(first, door)
    await time_runs_out_at(second, door)
    assert spoken.refusal_of(await asking) == spoken.word_for("first_token_timeout")
    await asyncio.gather(first.chats[0].gone(), second.chats[0].gone())
    (record,) = await stage.records()
    assert (record["http_status"], record["error_code"], record["cost_nano"]) == (502, "first_token_timeout", 0)


def last_events(*frames: bytes) -> Answer:
    async def answer(asked: Asked) -> None:
        for frame in frames:
            asked.send_event(frame)
        asked.end_stream()

    return answer


async def hang_up(asked: Asked) -> None:
    asked.transport.abort()


ENDS: dict[str, Callable[[Spoken], Answer]] = {
    "told": lambda _: last_events(TOLD, DONE),
    "told as its event": lambda _: last_events(
        message_event("error", error={"message": "EngineCore encountered an issue"})
    ),
    "aborted": lambda spoken: last_events(*spoken.aborted()),
    "hung up": lambda _: hang_up,
    "ended early": lambda _: last_events(),
    "done too soon": lambda _: last_events(DONE),
    "silent": lambda _: silence,
}


@pytest.mark.parametrize("name", ENDS)
@every_streaming_surface
async def test_a_stream_that_fails_in_the_middle_ends_with_one_error_and_is_billed_for_what_was_delivered(
    served: Served, spoken: Spoken, name: str
) -> None:
    door, first, second = served
    stage, end, has_begun = await staged(door, first), ENDS[name](spoken), asyncio.Event()
    begin = [*spoken.opening(), spoken.token(1), spoken.token(2)]

    async def answer(asked: Asked) -> None:
        asked.start_stream()
        for frame in begin:
            asked.send_event(frame)
        await has_begun.wait()
        await end(asked)

    first.answer_with(answer)
    body, headers = orjson.dumps(spoken.body(is_stream=True)), bearer(stage.key) | spoken.sent_headers
    got = b""
    async with door.http.stream("POST", spoken.path, content=body, headers=headers) as response:
        assert response.status_code == 200
        async for piece in response.aiter_bytes():
            got += piece
            if len(spoken.pieces(got)) == 2 and not has_begun.is_set():
                has_begun.set()
                if end is silence:
                    pass_time(TIMEOUT_S)
    assert second.chats == []
    told = spoken.events(got)
    assert spoken.pieces(got) == ["x", "x"]
    assert [spoken.failure_in(event) for event in told if spoken.failure_in(event)] == [spoken.failed_with]
    assert spoken.failure_in(told[-1])
    assert got.endswith(spoken.last_bytes)
    assert got.count(DONE) == spoken.last_bytes.count(DONE)
    await stage.is_left_with(CREDIT_NANO - cost_nano(10, 2))
    (record,) = await stage.records()
    assert (record["http_status"], record["error_code"]) == (502, "backend_died")
    assert (record["prompt_tokens"], record["completion_tokens"]) == (10, 2)


@pytest.mark.parametrize("name", [name for name in ENDS if name != "silent"])
@pytest.mark.parametrize("spoken", [one for one in SPOKEN if one.is_collected], ids=repr)
async def test_an_answer_in_one_piece_that_is_a_stream_behind_us_goes_elsewhere_where_it_breaks_off(
    served: Served, spoken: Spoken, name: str
) -> None:
    door, first, second = served
    stage = await staged(door, first)

    async def answer(asked: Asked) -> None:
        asked.start_stream()
        for frame in [*spoken.opening(), spoken.token(1)]:
            asked.send_event(frame)
        await ENDS[name](spoken)(asked)

    first.answer_with(answer)
    second.answer_with(answers(spoken))
    limit: dict[str, Any] = {spoken.limit_field: 1500}
    response = await stage.ask(spoken, **limit)
    assert first.chats[0].json["stream"] is True
    assert spoken.refusal_of(response) is None
    assert len(second.chats) == 1
    await stage.is_left_with(CREDIT_NANO - cost_nano(10, 4))


async def test_a_chat_that_fails_in_the_middle_says_so_by_its_finish_reason_too(served: Served) -> None:
    door, first, _ = served
    first.answer_with(events(chunk("", 10, 0), chunk("a", 10, 2), TOLD))
    last = contents([(await door.chat(await door.key(), stream=True)).content])[-1]
    assert (last["choices"][0]["finish_reason"], last["model"]) == ("error", "free/tiny")


async def test_a_stream_that_ends_without_done_after_its_last_frame_is_whole(served: Served) -> None:
    door, first, _ = served
    first.answer_with(events(*stream()[:-1]))
    response = await door.chat(await door.key(), stream=True)
    assert "error" not in contents([response.content])[-1]
    assert response.content.endswith(DONE)


@pytest_asyncio.fixture(loop_scope="module")
async def _lost(served: Served) -> None:
    door, *backends = served
    for backend in backends:
        backend.lists_models = False
    await door.gateway.pool.discover()


@pytest.mark.usefixtures("_lost")
async def test_where_all_backends_are_down_a_live_key_gets_503_and_never_the_demo(served: Served) -> None:
    door, _, _ = served
    response = await door.chat(await door.key())
    assert (response.status_code, error_of(response)["code"]) == (503, "model_unavailable")
    assert int(response.headers["retry-after"]) > 0
    guest = await door.chat()
    assert guest.status_code == 503


@pytest.mark.usefixtures("_lost")
async def test_a_test_key_gets_the_demo_whatever_state_the_backends_are_in(served: Served) -> None:
    door, _, _ = served
    account_id = await door.account()
    key = await door.key(account_id, is_test=True)
    for fields in ({}, {"stream": True}, {"max_tokens": 5}, {"max_tokens": 10**6}):
        response = await door.chat(key, model="priced/tiny", **fields)
        assert response.status_code == 200, response.text
        assert (await door.record(response))["backend"] == "demo"


@pytest.mark.usefixtures("_lost")
async def test_the_state_of_a_backend_shows_in_health_and_the_model_s_health(served: Served) -> None:
    door, first, _ = served
    assert (await door.health()).json()["status"] == "down"
    assert (await door.get("/v1/models/free/tiny/health")).json() == {"model": "free/tiny", "status": "unavailable"}
    first.lists_models = True
    await door.gateway.pool.discover()
    assert (await door.get("/v1/models/free/tiny/health")).json()["status"] == "ready"


async def test_a_backend_that_refuses_connections_counts_as_down_until_it_is_found_again(
    tmp_path: Path,
) -> None:
    async with (
        ReplayingBackend() as first,
        ReplayingBackend() as second,
        open_door(tmp_path, vllm_urls=[first.url, second.url], models=[FREE]) as door,
    ):
        first.die()
        door.gateway.pool.backends[1].work.sent_by_others = 10**6
        assert (await door.chat(await door.key())).status_code == 200
        assert len(second.chats) == 1
        down, up = door.gateway.pool.backends
        assert (down.is_up, up.is_up) == (False, True)
        await down.discover()
        assert not down.is_up
        await door.nothing_is_left()


async def test_the_log_has_a_line_for_each_state_of_a_backend_and_each_kind_of_failure_and_none_for_each_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with ReplayingBackend() as backend, open_door(tmp_path, vllm_urls=[backend.url], models=[FREE]) as door:
        key, pool = await door.key(), door.gateway.pool
        with caplog.at_level(logging.INFO):
            backend.answer_with(*[whole(b"{}", 500), events(*stream()[:3])] * 2, whole(REFUSED, 400))
            for is_stream in (False, True, False, True, False):
                await door.chat(key, stream=is_stream)
            backend.die()
            for _ in range(3):
                await door.chat(key)
                pool.tell_of_changes()
            async with backend:
                await pool.discover()
                await pool.discover()
        of_backend = [line for line in caplog.messages if line.startswith("backend vllm-1")]
        assert of_backend == [
            "backend vllm-1: 1 attempt failed with backend_error",
            "backend vllm-1: 1 attempt failed with backend_died",
            "backend vllm-1: 1 attempt failed with connect_failed",
            "backend vllm-1 is down: no connection",
            "backend vllm-1 is up with tiny",
        ]
        await door.nothing_is_left()


async def test_a_test_key_is_served_by_the_demo_also_where_the_model_s_context_is_larger(tmp_path: Path) -> None:
    async with ReplayingBackend(max_model_len=131_072) as backend:
        big = FREE | {"context_window": 131_072}
        async with open_door(tmp_path, vllm_urls=[backend.url], models=[big]) as door:
            key = await door.key(is_test=True)
            for fields in ({}, {"max_tokens": 100_000}, {"max_completion_tokens": 9000, "stream": True}):
                response = await door.chat(key, **fields)
                assert response.status_code == 200, response.text
