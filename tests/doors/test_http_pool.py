"""Several backends as one: who is asked, who is left alone and why, and what a client is told meanwhile."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mcp_gateway.core.upstream import attempt
from mcp_gateway.core.upstream import pool as upstream_pool
from mcp_gateway.core.upstream.backend import Backend
from mcp_gateway.core.upstream.breaker import Breaker
from mcp_gateway.core.upstream.budget import RetryBudget
from tests.captured import captured
from tests.core.upstream.clock import Clock
from tests.loop_clock import pass_time
from tests.patience import PATIENCE_S, eventually, settled
from tests.replaying import (
    DONE,
    Answer,
    Asked,
    ReplayingBackend,
    chunk,
    contents,
    events,
    held,
    in_two,
    replayed,
    silence,
    split_events,
    stream,
    unary,
    whole,
)
from tests.serving import FREE, PRICED, Door, bearer, chat_body, error_of, open_door

pytestmark = pytest.mark.gateways
SOON_S = 0.05
TIMEOUT_S = 30.0
NEVER_S = 3600.0
BUSY = replayed(captured("863_queue_full"))
BROKEN = whole(b"{}", 500)
REFUSED = whole(b'{"error":{"message":"no","type":"BadRequestError","param":null,"code":400}}', 400)
SHUTTING_DOWN = whole(b'{"error":{"message":"cannot schedule new futures after shutdown","code":500}}', 500)
ABORTED = whole(captured("100_chat").body.replace(b'"finish_reason":"length"', b'"finish_reason":"abort"'))


async def death(asked: Asked) -> None:
    """After a byte of an answer: before it, a reused connection is replaced once."""
    asked.send(b"H")
    asked.transport.close()


@dataclass
class Fleet:
    """A door with backends behind it; `clock` is the one that rests go by."""

    door: Door
    servers: list[ReplayingBackend]
    clock: Clock

    @property
    def backends(self) -> tuple[Backend, ...]:
        return self.door.gateway.pool.backends

    async def have_asked(self, count: int) -> None:
        """Return once that many chats have reached the backends."""
        await eventually(lambda: sum(self.asked) == count)

    @property
    def asked(self) -> list[int]:
        """How many chats each was sent."""
        return [len(server.chats) for server in self.servers]

    async def prefer(self, first: int) -> None:
        """Let the others tell of much that they have to do, so that the first choice is certain."""
        for number, server in enumerate(self.servers):
            server.running = 0 if number == first else 10**6
        await self.door.gateway.pool.discover()

    async def health(self, number: int) -> tuple[str, str | None]:
        """Status and reason, as the public reads them."""
        answer = await self.door.health()
        for server in self.servers:
            assert server.url.removeprefix("http://").partition(":")[2] not in answer.text
        row = answer.json()["backends"][number]
        return row["status"], row["reason"]


@contextlib.asynccontextmanager
async def fleet(folder: Path, count: int = 2, **settings: Any) -> AsyncIterator[Fleet]:
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(ReplayingBackend()) for _ in range(count)]
        urls = [server.url for server in servers]
        usual: dict[str, Any] = {"models": [FREE, PRICED], "vllm_urls": urls}
        door = await stack.enter_async_context(open_door(folder, **usual | settings))
        clock = Clock()
        for backend in door.gateway.pool.backends:
            backend.work.now_s = clock
            backend.work.read_at_s = backend.work.moved_at_s = 0.0
            backend.breaker = Breaker(3, 5.0, clock)
        yield Fleet(door, servers, clock)
        await door.nothing_is_left()


@pytest.fixture
async def fleet_of_one(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with fleet(tmp_path, 1) as it:
        yield it


def conversation(topic: str, turns: int = 1) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Tell me of {topic}."}]
    return messages + [{"role": "assistant", "content": "Well."}, {"role": "user", "content": "Go on."}] * (turns - 1)


# -- who is asked


async def test_a_model_is_asked_for_only_where_it_is_listed(tmp_path: Path) -> None:
    models = [{"id": name, "backend_model": name, "context_window": 2048} for name in ("one", "two", "both")]
    async with (
        ReplayingBackend("one", "both") as first,
        ReplayingBackend("two", "both") as second,
        open_door(tmp_path, vllm_urls=[first.url, second.url], models=models) as door,
    ):
        key = await door.key()
        for name in ("one", "two", "both"):
            for number in range(16):
                response = await door.chat(key, model=name, messages=conversation(f"{name} {number}"))
                assert response.status_code == 200
        seen = [{asked.json["model"] for asked in server.chats} for server in (first, second)]
        assert seen == [{"one", "both"}, {"two", "both"}]


async def test_a_conversation_goes_back_to_where_it_began_and_others_spread(tmp_path: Path) -> None:
    async with fleet(tmp_path, 3) as it:
        key = await it.door.key()
        for number in range(40):
            before = it.asked
            for turns in (1, 2, 3):
                await it.door.chat(key, messages=conversation(f"{number}", turns), stream=turns == 2)
            assert sorted(now - then for now, then in zip(it.asked, before, strict=True)) == [0, 0, 3]
        assert 0 not in it.asked


async def test_one_conversation_asked_many_times_at_once_is_shared_out(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        key, is_released = await it.door.key(), asyncio.Event()
        for server in it.servers:
            server.standing = held(is_released, unary())
        running = [asyncio.create_task(it.door.chat(key)) for _ in range(10)]
        await it.have_asked(10)
        assert max(it.asked) <= 7
        is_released.set()
        assert {(await chat).status_code for chat in running} == {200}


async def test_a_backend_that_tells_of_requests_of_others_is_spared(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        key = await it.door.key()
        for first in (0, 1):
            await it.prefer(first)
            before = it.asked
            for number in range(6):
                await it.door.chat(key, messages=conversation(f"{number}"))
            assert it.asked[first] - before[first] == 6
        health = (await it.door.health()).json()["backends"]
        assert [(row["running"], row["waiting"]) for row in health] == [(10**6, 0), (0, 0)]


# -- active health


@pytest.mark.parametrize("status", [503, 500])
async def test_a_backend_whose_health_fails_is_down_until_it_is_well_again(tmp_path: Path, status: int) -> None:
    async with fleet(tmp_path, upstream={"discovery_interval_s": SOON_S}) as it:
        key = await it.door.key()
        it.servers[0].health_status = status
        await eventually(lambda: not it.backends[0].is_up)
        assert await it.health(0) == ("down", f"its /health answered {status}")
        assert (await it.door.health()).json()["status"] == "degraded"
        for number in range(6):
            assert (await it.door.chat(key, messages=conversation(f"{number}"))).status_code == 200
        assert it.asked == [0, 6]
        it.servers[0].health_status = 200
        await eventually(lambda: it.backends[0].is_up)
        assert await it.health(0) == ("up", None)


async def test_a_backend_that_is_slow_once_to_tell_how_it_is_stays_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_pool, "_RECOVERY_INTERVAL_S", NEVER_S)  # or the watch would ask beside the test
    async with fleet(tmp_path, 1, upstream={"discovery_timeout_s": 10.0}) as it:
        pool, server = it.door.gateway.pool, it.servers[0]

        async def ask_in_vain() -> None:
            server.is_mute = True
            asked = len(server.asked)
            asking = asyncio.create_task(pool.discover())
            await eventually(lambda: len(server.asked) > asked)
            pass_time(10)
            await asking

        await ask_in_vain()
        assert it.backends[0].is_up
        await ask_in_vain()
        assert await it.health(0) == ("down", "did not tell how it is within 10 s")
        server.is_mute = False
        await pool.discover()
        await ask_in_vain()
        assert it.backends[0].is_up
        server.is_mute = False


async def test_a_backend_that_tells_no_gauges_is_up_all_the_same(tmp_path: Path) -> None:
    async with fleet(tmp_path, 1) as it:
        it.servers[0].running = None
        await it.door.gateway.pool.discover()
        (row,) = (await it.door.health()).json()["backends"]
        assert (row["status"], row["running"], row["waiting"]) == ("up", None, None)


async def test_a_backend_that_is_gone_is_left_at_the_first_refused_connection(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        await it.prefer(0)
        it.servers[0].die()
        assert (await it.door.chat(await it.door.key())).status_code == 200
        assert await it.health(0) == ("down", "no connection")


# -- passive health


@pytest.mark.parametrize("is_stream", [False, True])
async def test_after_failures_in_a_row_a_backend_rests_and_then_one_request_tries_it(
    tmp_path: Path, is_stream: bool
) -> None:
    async with fleet(tmp_path) as it:
        key = await it.door.key()
        await it.prefer(0)
        it.servers[0].standing = BROKEN
        for _ in range(6):
            assert (await it.door.chat(key, stream=is_stream)).status_code == 200
        assert it.asked == [3, 6]
        assert await it.health(0) == ("failing", "its requests fail, the last with backend_error")
        assert (await it.door.health()).json()["status"] == "degraded"
        it.clock.now_s += 5
        for _ in range(2):
            assert (await it.door.chat(key, stream=is_stream)).status_code == 200
        assert it.asked == [4, 8]
        it.servers[0].standing = None
        it.clock.now_s += 5
        for _ in range(2):
            assert (await it.door.chat(key, stream=is_stream)).status_code == 200
        assert it.asked == [6, 8]
        assert await it.health(0) == ("up", None)


async def test_streams_that_break_off_count_as_failures(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        key = await it.door.key()
        await it.prefer(0)
        it.servers[0].standing = events(chunk("", 10, 0), chunk("a", 10, 1))
        for _ in range(3):
            response = await it.door.chat(key, stream=True)
            assert contents([response.content])[-1]["error"]["code"] == "backend_died"
        assert (await it.health(0))[0] == "failing"


@pytest.mark.parametrize("refusal", [REFUSED, BUSY], ids=["400", "busy"])
async def test_a_refusal_is_not_the_backend_s_fault(tmp_path: Path, refusal: Answer) -> None:
    async with fleet(tmp_path, 1) as it:
        key = await it.door.key()
        it.servers[0].standing = refusal
        for _ in range(6):
            assert (await it.door.chat(key)).status_code in (400, 429)
        it.clock.now_s += 1
        assert await it.health(0) == ("up", None)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_client_that_leaves_is_not_the_backend_s_fault(tmp_path: Path, is_stream: bool) -> None:
    async with fleet(tmp_path, 1) as it:
        key = await it.door.key()
        it.servers[0].standing = silence
        for _ in range(4):
            chat = asyncio.create_task(it.door.chat(key, stream=is_stream))
            chats = await it.servers[0].chats_asked(1)
            chat.cancel()
            await asyncio.wait({chat})
            await chats[0].gone()
            it.servers[0].answer_with()
        assert await it.health(0) == ("up", None)


async def test_where_every_backend_fails_they_are_asked_all_the_same_and_each_request_of_one_alone(
    tmp_path: Path,
) -> None:
    async with fleet(tmp_path) as it:
        key = await it.door.key()
        for server in it.servers:
            server.standing = BROKEN
        for _ in range(6):
            assert error_of(await it.door.chat(key))["code"] == "backend_error"
        assert [backend.status for backend in it.backends] == ["failing", "failing"]
        before = sum(it.asked)
        assert (await it.door.chat(key)).status_code == 502
        assert sum(it.asked) == before + 1
        for server in it.servers:
            server.standing = None
        assert (await it.door.chat(key)).status_code == 200


# -- full queues


async def test_a_full_backend_is_left_alone_for_a_second(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        key = await it.door.key()
        await it.prefer(0)
        it.servers[0].standing = BUSY
        for _ in range(4):
            assert (await it.door.chat(key)).status_code == 200
        assert it.asked == [1, 4]
        assert await it.health(0) == ("busy", "its queue is full")
        assert (await it.door.health()).json()["status"] == "ok"
        it.clock.now_s += 1
        assert (await it.door.chat(key)).status_code == 200
        assert it.asked == [2, 5]


async def test_a_full_fleet_is_429_and_costs_one_question_a_request(tmp_path: Path) -> None:
    async with fleet(tmp_path, 3) as it:
        key = await it.door.key()
        for server in it.servers:
            server.standing = BUSY
        for asked_in_all in (3, 4, 5, 6):
            response = await it.door.chat(key)
            assert (response.status_code, error_of(response)["code"]) == (429, "backend_busy")
            assert int(response.headers["retry-after"]) > 0
            assert sum(it.asked) == asked_in_all


async def test_a_queue_that_gauges_show_is_busy_and_still_asked_where_there_is_no_other(tmp_path: Path) -> None:
    async with fleet(tmp_path, 1) as it:
        it.servers[0].running, it.servers[0].waiting = 8, 3
        await it.door.gateway.pool.discover()
        assert await it.health(0) == ("busy", "requests wait in its queue")
        assert (await it.door.health()).json()["status"] == "ok"
        assert (await it.door.chat(await it.door.key())).status_code == 200


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("said", "told"), [("17", "17"), ("0", "1"), ("99999", "3600"), ("soon", "2"), ("-5", "2"), ("9" * 30, "2")]
)
async def test_a_full_backend_s_own_retry_after_is_passed_on_within_bounds(
    fleet_of_one: Fleet, status: int, said: str, told: str
) -> None:
    async def full(asked: Asked) -> None:
        asked.send(b"HTTP/1.1 %d x\r\nretry-after: %b\r\ncontent-length: 2\r\n\r\n{}" % (status, said.encode()))

    fleet_of_one.servers[0].answer_with(full)
    response = await fleet_of_one.door.chat(await fleet_of_one.door.key())
    assert (response.status_code, error_of(response)["code"]) == (429, "backend_busy")
    assert response.headers["retry-after"] == told


# -- slow is not dead


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("how", ["lost", "stuck"])
async def test_what_a_backend_that_is_gone_has_not_begun_to_answer_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_stream: bool, how: str
) -> None:
    monkeypatch.setattr(attempt, "LOOK_S", SOON_S)
    async with fleet(tmp_path) as it:
        pool, first = it.door.gateway.pool, it.servers[0]
        await it.prefer(0)
        first.standing, first.running, first.tokens = silence, 1, 7
        await pool.discover()
        it.clock.now_s += 15
        chat = asyncio.create_task(it.door.chat(await it.door.key(), stream=is_stream))
        await first.chats_asked(1)
        it.clock.now_s += 6
        first.health_status = 503 if how == "lost" else 200
        await pool.discover()
        assert (await it.health(0))[0] == ("down" if how == "lost" else "failing")
        it.clock.now_s += attempt.GRACE_S
        assert (await chat).status_code == 200
        assert it.asked == [1, 1]


async def test_a_slow_prompt_is_computed_once_and_held_against_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "LOOK_S", SOON_S)
    async with fleet(tmp_path, upstream={"queue_comment_s": 0}) as it:
        key = await it.door.key()
        for server in it.servers:
            server.standing = silence
        for number in range(4):
            chat = asyncio.create_task(it.door.chat(key, stream=True))
            await it.have_asked(number + 1)
            it.clock.now_s += 400
            assert error_of(await chat)["code"] == "first_token_timeout"
        assert sum(it.asked) == 4
        for server in it.servers:
            server.running = 1
        await it.door.gateway.pool.discover()
        assert [await it.health(number) for number in (0, 1)] == [("up", None)] * 2


async def test_a_request_that_waits_in_one_queue_for_too_long_goes_to_another_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "LOOK_S", SOON_S)
    async with fleet(tmp_path) as it:
        await it.prefer(0)
        first = it.servers[0]
        first.standing, first.waiting = silence, 2
        chat = asyncio.create_task(it.door.chat(await it.door.key(), stream=True))
        await first.chats_asked(1)
        it.clock.now_s += 400
        await it.door.gateway.pool.discover()
        assert (await chat).status_code == 200
        assert it.asked == [1, 1]
        assert (await it.health(0))[0] == "busy"


async def test_a_stream_that_pauses_gets_comments_and_then_the_rest_of_its_answer(tmp_path: Path) -> None:
    is_released = asyncio.Event()
    frames = stream()
    async with fleet(tmp_path, 1, upstream={"queue_comment_s": SOON_S}) as it:
        async with waiting(it, in_two(frames[:2], is_released, frames[2:])) as response:
            pieces = response.aiter_bytes()
            got = b""
            async with asyncio.timeout(PATIENCE_S):
                while got.count(b": waiting for the model\n\n") < 2:
                    got += await anext(pieces)
                is_released.set()
                async for piece in pieces:
                    got += piece
        told = split_events(got)
        assert told[0].startswith(b"data:")
        assert "".join(choice["delta"]["content"] for row in contents([got]) for choice in row["choices"]) == "xxxx"
        assert got.endswith(DONE)


async def test_a_silence_longer_than_usual_is_waited_out_while_the_backend_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "LOOK_S", SOON_S)
    is_released = asyncio.Event()
    frames = stream()
    async with fleet(tmp_path, 1, upstream={"queue_comment_s": SOON_S, "idle_timeout_s": SOON_S / 10}) as it:
        it.servers[0].running = 1
        it.clock.now_s += 10
        await it.door.gateway.pool.discover()
        async with waiting(it, in_two(frames[:2], is_released, frames[2:])) as response:
            await read_until(response, b": waiting")
            is_released.set()


# -- one source for how a model is


@pytest.mark.parametrize("how", ["shuts down", "is stuck", "has lost it", "is down"])
async def test_a_model_whose_only_backend_does_not_serve_it_is_not_ready_for_anybody(tmp_path: Path, how: str) -> None:
    async with fleet(tmp_path, 1, models=[FREE]) as it:
        key, server, backend = await it.door.key(), it.servers[0], it.backends[0]
        if how == "shuts down":
            server.answer_with(SHUTTING_DOWN)
            await it.door.chat(key)
        elif how == "is stuck":
            server.running, server.tokens = 1, 5
            for _ in range(2):
                await it.door.gateway.pool.discover()
                it.clock.now_s += 100
            await it.door.gateway.pool.discover()
        elif how == "has lost it":
            server.answer_with(replayed(captured("300_unknown_model")))
            await it.door.chat(key)
        else:
            backend.lost("no connection")
        assert (await it.door.get("/v1/models/free/tiny/health", key)).json()["status"] == "unavailable"
        health = (await it.door.health()).json()
        assert health["status"] == ("down" if how == "is down" else "degraded")
        assert "no backend that is up has the model free/tiny" in health["reasons"]


# -- going on elsewhere


@pytest.mark.parametrize("last_words", [SHUTTING_DOWN, ABORTED], ids=["cannot schedule", "aborted"])
async def test_a_backend_that_shuts_down_is_routed_around_at_once(tmp_path: Path, last_words: Answer) -> None:
    async with fleet(tmp_path) as it:
        key = await it.door.key()
        await it.prefer(0)
        it.servers[0].standing = last_words
        for _ in range(4):
            assert (await it.door.chat(key)).status_code == 200
        assert it.asked == [1, 4]
        assert await it.health(0) == ("failing", "it is shutting down")


async def test_a_backend_that_shuts_down_and_is_the_only_one_is_asked_again(tmp_path: Path) -> None:
    async with fleet(tmp_path, 1) as it:
        key = await it.door.key()
        it.servers[0].answer_with(SHUTTING_DOWN)
        assert error_of(await it.door.chat(key))["code"] == "backend_died"
        assert await it.health(0) == ("failing", "it is shutting down")
        assert (await it.door.chat(key)).status_code == 200
        assert await it.health(0) == ("up", None)


@pytest.mark.parametrize("failing", [ABORTED, death, BROKEN], ids=["aborted", "death", "500"])
async def test_a_request_that_fails_where_it_was_taken_goes_to_one_more_and_not_on_to_all(
    tmp_path: Path, failing: Answer
) -> None:
    async with fleet(tmp_path, 4) as it:
        for server in it.servers:
            server.standing = failing
        account_id = await it.door.account("1")
        response = await it.door.chat(await it.door.key(account_id), model="priced/tiny")
        assert response.status_code == 502
        assert sorted(it.asked) == [0, 0, 1, 1]
        await it.door.nothing_is_left()
        assert await it.door.balance_nano(account_id) == 10**9


async def test_a_request_that_nobody_took_goes_on_to_the_last(tmp_path: Path) -> None:
    async with fleet(tmp_path, 4) as it:
        first, second, third, _ = it.servers
        first.die()
        second.standing = BUSY
        third.standing = replayed(captured("300_unknown_model"))
        key = await it.door.key()
        for number in range(8):
            assert (await it.door.chat(key, messages=conversation(f"{number}"))).status_code == 200
        assert max(it.asked[:3]) <= 1


async def test_without_a_budget_a_failure_is_told_at_once(tmp_path: Path) -> None:
    async with fleet(tmp_path, upstream={"retry_share": 0}) as it:
        key = await it.door.key()
        await it.prefer(0)
        retries = it.door.gateway.pool._retries = RetryBudget(0, it.clock)
        while retries.withdraw():
            pass
        it.servers[0].answer_with(BROKEN, BUSY)
        assert (await it.door.chat(key)).status_code == 502
        assert (await it.door.chat(key)).status_code == 200  # a full queue goes on without one
        assert it.asked == [2, 1]


# -- while a request waits


async def read_until(response: httpx2.Response, end: bytes) -> bytes:
    got = b""
    async with asyncio.timeout(PATIENCE_S):
        async for piece in response.aiter_bytes():
            got += piece
            if end in got:
                return got
    raise AssertionError(got)


@contextlib.asynccontextmanager
async def waiting(it: Fleet, answer: Answer) -> AsyncIterator[Any]:
    """A stream that has been begun with comments while the backend is still silent."""
    it.servers[0].standing = answer
    headers = bearer(await it.door.key())
    body = chat_body(stream=True)
    async with it.door.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield response


async def test_a_stream_that_waits_gets_comments_and_then_its_answer(tmp_path: Path) -> None:
    is_released = asyncio.Event()

    async def queued(asked: Asked) -> None:
        asked.start_stream()
        await is_released.wait()
        for frame in stream():
            asked.send_event(frame)
        asked.end_stream()

    async with fleet(tmp_path, 1, upstream={"queue_comment_s": SOON_S}) as it, waiting(it, queued) as response:
        pieces = response.aiter_bytes()
        got = b""
        async with asyncio.timeout(PATIENCE_S):
            while got.count(b": waiting for the model\n\n") < 3:
                got += await anext(pieces)
            is_released.set()
            async for piece in pieces:
                got += piece
        frames = split_events(got)
        comments = [frame for frame in frames if frame.startswith(b":")]
        assert frames[: len(comments)] == comments
        assert got.endswith(DONE)
        assert "".join(choice["delta"]["content"] for row in contents([got]) for choice in row["choices"]) == "xxxx"


async def test_a_failure_after_the_comments_have_begun_is_told_in_the_stream(tmp_path: Path) -> None:
    is_released = asyncio.Event()
    async with (
        fleet(tmp_path, 1, upstream={"queue_comment_s": SOON_S}) as it,
        waiting(it, held(is_released, BROKEN)) as response,
    ):
        is_released.set()
        got = await read_until(response, DONE)
        (frame,) = contents([got])
        assert (frame["error"]["code"], frame["choices"][0]["finish_reason"]) == ("backend_error", "error")
        assert got.count(DONE) == 1
        await it.door.nothing_is_left()
        assert await it.door.rows("SELECT http_status, error_code FROM requests") == [(502, "backend_error")]


async def test_a_refusal_after_the_comments_have_begun_says_how_long_to_wait(tmp_path: Path) -> None:
    is_released = asyncio.Event()
    async with (
        fleet(tmp_path, 1, upstream={"queue_comment_s": SOON_S}) as it,
        waiting(it, held(is_released, replayed(captured("863_queue_full")))) as response,
    ):
        is_released.set()
        (frame,) = contents([await read_until(response, DONE)])
        assert (frame["error"]["code"], frame["error"]["retry_after_s"]) == ("backend_busy", 2)


async def test_another_backend_may_take_over_after_the_comments_have_begun(tmp_path: Path) -> None:
    is_released = asyncio.Event()
    async with fleet(tmp_path, upstream={"queue_comment_s": SOON_S}) as it:
        await it.prefer(0)
        async with waiting(it, held(is_released, death)) as response:
            is_released.set()
            got = await read_until(response, DONE)
        assert "error" not in contents([got])[-1]
        assert it.asked == [1, 1]


async def test_a_client_that_leaves_while_it_reads_comments_frees_the_backend(tmp_path: Path) -> None:
    async with fleet(tmp_path, 1, upstream={"queue_comment_s": SOON_S}) as it:
        async with waiting(it, silence) as response:
            await read_until(response, b": waiting")
        await it.servers[0].chats[0].gone()


async def test_comments_can_be_switched_off_and_then_an_early_failure_keeps_its_status(tmp_path: Path) -> None:
    upstream = {"queue_comment_s": 0, "first_token_timeout_s": TIMEOUT_S, "first_token_max_s": TIMEOUT_S}
    async with fleet(tmp_path, 1, upstream=upstream) as it:
        it.door.http.timeout = httpx2.Timeout(None)  # it would run out with the time that is passed
        it.servers[0].standing = silence
        chat = asyncio.create_task(it.door.chat(await it.door.key(), stream=True))
        await it.servers[0].chats_asked(1)
        while not chat.done():
            it.clock.now_s += TIMEOUT_S
            pass_time(TIMEOUT_S)
            await settled()
        response = await chat
        assert (response.status_code, error_of(response)["code"]) == (502, "first_token_timeout")
