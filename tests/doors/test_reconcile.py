"""What is billed agrees with what a backend counts of itself, and each way in which the two come apart is named."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.observe.differences import Comparison
from mcp_gateway.core.observe.reconciliation import Reconciliation
from mcp_gateway.core.observe.uses import NONE, Tokens
from tests.captured import Capture, captured
from tests.cases import each
from tests.databases import store_of
from tests.patience import PATIENCE_S, eventually
from tests.recorded import recorded, write_records
from tests.replaying import (
    DONE,
    Answer,
    Asked,
    Counters,
    ReplayingBackend,
    chunk,
    events,
    final_usage,
    replayed,
    silence,
    stream,
    unary,
    usage,
    whole,
)
from tests.serving import FREE, PRICED, Door, bearer, chat_body, open_door
from tests.surfaces import SPOKEN, Spoken
from tests.test_command_line import run

pytestmark = pytest.mark.gateways
DEATH = whole(b'{"error":{"message":"no","code":500}}', 500)


async def later() -> None:
    """Wait until what is noted by the millisecond is noted with another one."""
    after_ms = now_ms() + 2
    await eventually(lambda: now_ms() > after_ms)


def with_cached(prompt: int, completion: int, cached: int) -> Answer:
    body = orjson.loads(captured("100_chat").body)
    body["usage"] = usage(prompt, completion) | {"prompt_tokens_details": {"cached_tokens": cached}}
    return whole(orjson.dumps(body))


@dataclass
class Fleet:
    """A served gateway and the backends behind it, which count."""

    door: Door
    backends: list[ReplayingBackend]
    key: str
    since_ms: int

    @property
    def backend(self) -> ReplayingBackend:
        return self.backends[0]

    @property
    def counters(self) -> Counters:
        assert self.backend.counters is not None
        return self.backend.counters

    async def sample(self) -> None:
        """Have the backends' metrics read, as the gateway does by itself every ten seconds; no request runs then."""
        assert await self.door.gateway.lifecycle.wait_until_idle(PATIENCE_S)
        await later()
        await self.door.gateway.pool.discover()
        await store_of(self.door.gateway).flushed()
        await later()

    async def chats(self, *answers: Answer, model: str = "priced/tiny", **fields: Any) -> None:
        self.backend.answer_with(*answers)
        for _ in answers:
            await self.door.chat(self.key, model=model, **fields)

    async def reconciled(self) -> Reconciliation:
        desk = await self.door.desk()
        return await desk.reconciler.reconcile(self.since_ms, now_ms(), {"priced/tiny": "tiny", "free/tiny": "tiny"})

    async def compared(self) -> Comparison:
        await self.sample()
        comparison, *_ = (await self.reconciled()).comparisons
        return comparison


@contextlib.asynccontextmanager
async def fleet(folder: Path, number: int = 1, **settings: Any) -> AsyncIterator[Fleet]:
    since_ms = now_ms()
    async with contextlib.AsyncExitStack() as stack:
        backends = [await stack.enter_async_context(ReplayingBackend()) for _ in range(number)]
        for backend in backends:
            backend.counters = Counters()
        urls = [backend.url for backend in backends]
        door = await stack.enter_async_context(open_door(folder, vllm_urls=urls, models=[FREE, PRICED], **settings))
        await later()
        yield Fleet(door, backends, await door.key(credit="1"), since_ms)


def named(comparison: Comparison) -> dict[str, int | None]:
    return {reason.name: reason.times for reason in comparison.reasons}


async def test_what_is_billed_of_every_kind_of_request_is_what_the_backend_counted(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        await it.chats(with_cached(300, 7, 128), with_cached(12, 1, 0))
        await it.chats(events(*stream(20, 9)), events(*stream(5, 2)), stream=True)
        await it.chats(with_cached(10, 3, 0), model="free/tiny")
        it.backend.answer_with(with_cached(8, 2, 0))
        assert (await it.door.call("chat_completion", it.key, model="priced/tiny", messages=[])).status_code == 200
        test_key = await it.door.key(is_test=True)
        assert (await it.door.chat(test_key, model="priced/tiny")).status_code == 200  # answered by the demo
        it.backend.answer_with(with_cached(8, 2, 0))
        assert (await it.door.chat(model="free/tiny")).status_code == 200  # a guest
        found = await it.compared()
        assert (found.backend, found.model, found.models) == ("vllm-1", "tiny", ("free/tiny", "priced/tiny"))
        assert found.counted == Tokens(it.counters.prompt, it.counters.completion, it.counters.cached)
        assert it.counters.cached == 128
        assert (found.difference, found.reasons, found.unexplained) == (NONE, (), NONE)
        assert (await it.reconciled()).uncompared == ()


def tells_usage(exchange: Capture) -> bool:
    """Of an answer in one piece, and one that fits what is asked for."""
    is_whole = exchange.status == 200 and not exchange.is_stream and b'"usage"' in exchange.body
    return is_whole and re.search(rb'_tokens":\s?\d{4}', exchange.body) is None


@pytest.mark.parametrize("spoken", SPOKEN, ids=repr)
async def test_every_surface_is_billed_what_the_backend_counted_however_it_is_answered(
    tmp_path: Path, spoken: Spoken
) -> None:
    async with fleet(tmp_path) as it:
        output = 6 if spoken.is_generated else 0
        answers = [whole(spoken.whole(20, output)), whole(spoken.whole(9, output))]
        answers += [replayed(one) for one in spoken.exchanges() if tells_usage(one)]
        it.backend.answer_with(*answers)
        for _ in answers:
            await spoken.ask(it.door, it.key, **({spoken.limit_field: 2000} if spoken.is_generated else {}))
        if spoken.has_streams:
            it.backend.answer_with(events(*spoken.stream(30, 7)), events(*spoken.stream(8, 2)))
            for _ in range(2):
                await spoken.ask(it.door, it.key, is_stream=True)
        found = await it.compared()
        assert found.requests == len(answers) + 2 * spoken.has_streams
        assert found.counted.prompt > 0
        assert (found.difference, named(found)) == (NONE, {})


async def test_only_what_lies_between_the_samples_of_the_time_is_compared(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        await it.chats(with_cached(100, 50, 0))
        await it.sample()
        it.since_ms = now_ms()
        await it.sample()
        await it.chats(with_cached(7, 3, 0))
        found = await it.compared()
        assert (found.requests, found.counted, found.difference) == (1, Tokens(7, 3), NONE)


async def test_samples_that_are_missing_change_nothing(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        await it.chats(with_cached(30, 5, 0))
        it.backend.running = None  # it tells no metrics
        await it.sample()
        await it.chats(with_cached(20, 4, 0))
        await it.sample()
        it.backend.running = 0
        found = await it.compared()
        assert (found.counted, found.difference, found.requests) == (Tokens(50, 9), NONE, 2)


async def test_tokens_of_others_are_named(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        await it.chats(with_cached(30, 5, 0))
        it.counters.prompt += 40
        it.counters.completion += 2
        it.counters.finished += 3
        found = await it.compared()
        assert (found.difference, named(found), found.unexplained) == (Tokens(40, 2), {"by_others": 3}, NONE)


async def test_requests_of_others_that_never_finish_are_seen_as_they_run(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        it.backend.running = 2
        await it.sample()
        it.counters.prompt += 40
        it.backend.running = 0
        found = await it.compared()
        assert (found.difference, named(found), found.unexplained) == (Tokens(40), {"by_others": 2}, NONE)


async def leaves(it: Fleet, made_after: int) -> None:
    """A client leaves a stream behind its second token; the backend makes some more before it learns of it."""

    async def answer(asked: Asked) -> None:
        asked.start_stream()
        for number in (0, 1, 2):
            asked.send_event(chunk("x", 10, number))
        await silence(asked)

    it.backend.answer_with(answer)
    body, headers = chat_body(model="priced/tiny", stream=True), bearer(it.key)
    async with it.door.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        received = b""
        async for piece in response.aiter_raw():
            received += piece
            if received.count(b"data: ") >= 3:
                break
    (asked,) = it.backend.chats
    await asked.gone()
    asked.on_sent(chunk("x", 10, 2 + made_after))


@each("made_after", [0, 1, 8])
async def test_a_request_whose_client_left_is_named_where_the_backend_made_more(
    tmp_path_factory: Any, made_after: int
) -> None:
    async with fleet(tmp_path_factory.mktemp("left")) as it:
        await leaves(it, made_after)
        found = await it.compared()
        reasons = {"aborted": 1} if made_after else {}
        assert (found.difference, named(found), found.unexplained) == (Tokens(0, made_after), reasons, NONE)


@each("is_stream", [False, True])
async def test_an_answer_that_is_cut_where_the_money_ends_is_named(tmp_path_factory: Any, is_stream: bool) -> None:
    wallet = {"hold_wait_s": 0, "min_useful_tokens": 1}
    async with fleet(tmp_path_factory.mktemp("cut"), wallet=wallet) as it:
        it.key = await it.door.key(credit="0.0000065")  # 10 tokens of prompt and 5 of the answer
        await it.chats(events(*stream(10, 100)), stream=is_stream, max_tokens=1000)
        found = await it.compared()
        assert found.billed == Tokens(10, 5)
        assert (found.difference, named(found), found.unexplained) == (Tokens(0, 95), {"cut": 1}, NONE)


@each(("counted", "is_stream"), [((25, 9), False), ((3, 1), False), ((25, 30), True)])
async def test_an_estimate_is_named_above_and_below_what_was_counted(
    tmp_path_factory: Any, counted: tuple[int, int], is_stream: bool
) -> None:
    async with fleet(tmp_path_factory.mktemp("estimated")) as it:
        body = orjson.loads(captured("100_chat").body)
        del body["usage"]
        frames = [frame.replace(b"usage", b"other") for frame in stream()]
        await it.chats(events(*frames) if is_stream else whole(orjson.dumps(body)), stream=is_stream)
        prompt, completion = counted
        it.counters.prompt, it.counters.completion = prompt, completion
        found = await it.compared()
        assert found.difference != NONE
        assert (named(found), found.unexplained) == ({"estimated": 1}, NONE)


async def test_a_backend_that_starts_again_loses_what_it_counted_since_the_last_sample(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        await it.chats(with_cached(100, 50, 0))
        await it.sample()
        await it.chats(with_cached(9, 4, 0))
        it.backend.counters = Counters(began_at_s=now_ms() / 1000)
        await it.chats(with_cached(200, 70, 0))
        found = await it.compared()
        assert found.counted == Tokens(300, 120)
        assert (found.difference, named(found), found.unexplained) == (
            Tokens(-9, -4), {"backend_restarted": 1}, NONE,
        )  # fmt: skip


async def test_a_backend_that_starts_again_while_it_is_idle_differs_by_nothing(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        await it.chats(with_cached(100, 50, 0))
        await it.sample()
        it.backend.counters = Counters(began_at_s=now_ms() / 1000)
        await it.chats(with_cached(200, 70, 0))
        found = await it.compared()
        assert (found.counted, found.difference, found.reasons) == (Tokens(300, 120), NONE, ())


async def test_what_is_counted_while_the_gateway_is_down_is_named(tmp_path: Path) -> None:
    async with ReplayingBackend() as backend:
        backend.counters = Counters()
        settings: dict[str, Any] = {"vllm_urls": [backend.url], "models": [FREE, PRICED]}
        since_ms = now_ms()
        for _ in range(2):
            async with open_door(tmp_path, **settings) as door:
                it = Fleet(door, [backend], await door.key(credit="1"), since_ms)
                await it.chats(with_cached(10, 5, 0))
                found = await it.compared()
            backend.counters.prompt += 33
        assert (found.difference, named(found), found.unexplained) == (Tokens(33), {"restarted": 1}, NONE)
        assert (found.requests, found.counted) == (2, Tokens(53, 10))


async def test_what_a_backend_did_for_a_request_that_another_one_answered_is_named(tmp_path: Path) -> None:
    async with fleet(tmp_path, number=2) as it:
        counted = [backend.counters for backend in it.backends]
        assert all(counted)

        async def fails(asked: Asked) -> None:
            asked.on_sent(b'"prompt_tokens": 17, "completion_tokens": 2')
            await DEATH(asked)

        for backend in it.backends:
            backend.standing = with_cached(17, 4, 0)
        it.backends[0].queue.append(fails)
        it.backends[1].queue.append(fails)
        for _ in range(2):  # whichever is asked first
            await it.door.chat(it.key, model="priced/tiny")
        await it.sample()
        found = (await it.reconciled()).comparisons
        assert len(found) == 2
        assert sum(one.difference.prompt for one in found) >= 17
        for one in found:
            assert one.unexplained == NONE
            assert set(named(one)) <= {"failed_over", "failed"}
        assert any("failed_over" in named(one) for one in found)


async def test_an_answer_that_is_refused_after_it_was_made_is_named(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:

        async def breaks_off(asked: Asked) -> None:
            asked.on_sent(b'"prompt_tokens": 11, "completion_tokens": 6')
            asked.send(b"H")
            asked.transport.close()

        await it.chats(breaks_off, breaks_off)
        found = await it.compared()
        assert (found.difference, named(found), found.unexplained) == (Tokens(22, 12), {"failed": 2}, NONE)


async def test_the_prompt_of_further_choices_is_named(tmp_path: Path) -> None:
    """vLLM counts it once for each of them."""
    async with fleet(tmp_path) as it:
        await it.chats(with_cached(10, 8, 0), n=3, temperature=1)
        it.counters.prompt += 2 * 10
        found = await it.compared()
        assert (found.difference, named(found), found.unexplained) == (Tokens(20), {"several_choices": 2}, NONE)


async def test_cached_tokens_that_a_backend_counts_and_does_not_tell_are_named(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        await it.chats(unary(300, 5), unary(10, 5))
        it.counters.cached += 256
        found = await it.compared()
        assert (found.difference, named(found)) == (Tokens(cached=256), {"cached_not_told": 2})
        it.counters.cached += 256  # more than the prompts have
        assert (await it.compared()).unexplained == Tokens(cached=512 - 310)


@each(
    ("more", "unexplained"),
    [({"prompt": 5}, Tokens(5)), ({"completion": 1}, Tokens(0, 1)), ({"prompt": -3, "completion": 2}, Tokens(-3, 2))],
)
async def test_what_has_no_reason_is_unexplained_and_the_command_exits_with_1(
    tmp_path_factory: Any, more: dict[str, int], unexplained: Tokens
) -> None:
    folder = tmp_path_factory.mktemp("unexplained")
    async with fleet(folder) as it:
        await it.chats(with_cached(10, 5, 0))
        for name, number in more.items():
            setattr(it.counters, name, getattr(it.counters, name) + number)
        found = await it.compared()
        assert (found.difference, found.reasons, found.unexplained) == (unexplained, (), unexplained)
    told = await asyncio.to_thread(run, "ledger", "reconcile", **it.door.environ)
    assert told.exit_code == 1
    assert "vllm-1 tiny (priced/tiny): counted less billed is " in told.stderr
    assert "for no known reason" in told.stderr


async def test_a_stream_that_runs_as_a_sample_is_taken_is_named(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        go_on = asyncio.Event()

        async def answer(asked: Asked) -> None:
            asked.start_stream()
            for number in range(4):
                asked.send_event(chunk("x", 10, number))
            await go_on.wait()
            for event in (chunk("x", 10, 9, "stop"), final_usage(10, 9), DONE):
                asked.send_event(event)
            asked.end_stream()

        it.backend.answer_with(answer)
        running = asyncio.create_task(it.door.chat(it.key, model="priced/tiny", stream=True))
        await it.backend.chats_asked(1)
        await eventually(lambda: it.counters.completion == 3)
        it.since_ms = now_ms()
        await it.door.gateway.pool.discover()
        go_on.set()
        await running
        found = await it.compared()
        assert (abs(found.difference.prompt), abs(found.difference.completion)) in {(0, 6), (10, 3)}
        assert (named(found), found.unexplained) == ({"ran_at_the_border": 1}, NONE)


async def test_a_stream_that_has_not_ended_yet_is_named(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        go_on = asyncio.Event()

        async def answer(asked: Asked) -> None:
            asked.start_stream()
            asked.send_event(chunk("x", 10, 3))
            await go_on.wait()
            for event in (chunk("x", 10, 9, "stop"), final_usage(10, 9), DONE):
                asked.send_event(event)
            asked.end_stream()

        it.backend.answer_with(answer)
        running = asyncio.create_task(it.door.chat(it.key, model="priced/tiny", stream=True))
        await eventually(lambda: it.counters.completion == 3)
        await it.door.gateway.pool.discover()
        (found,) = (await it.reconciled()).comparisons
        assert (found.difference, named(found), found.unexplained) == (Tokens(10, 3), {"still_running": 1}, NONE)
        go_on.set()
        await running
        assert (await it.compared()).difference == NONE


async def test_the_command_tells_each_backend_and_model_in_words_and_as_json(tmp_path: Path) -> None:
    async with fleet(tmp_path) as it:
        await it.chats(with_cached(300, 5, 128))
        it.counters.completion += 2
        it.counters.finished += 1
        elsewhere = recorded(now_ms(), account_id="acc_guest", backend="vllm-9", model=None)
        await write_records(store_of(it.door.gateway), elsewhere)
        await it.sample()
    words = await asyncio.to_thread(run, "ledger", "reconcile", **it.door.environ)
    assert words.exit_code == 0, words.output
    head, *lines = words.stdout.splitlines()
    assert head.startswith("vllm-1 tiny (priced/tiny), 20")
    assert head.endswith(": 1 request")
    assert [line.split() for line in lines[:3]] == [
        ["prompt", "counted", "300", "billed", "300", "difference", "+0"],
        ["completion", "counted", "7", "billed", "5", "difference", "+2"],
        ["cached", "counted", "128", "billed", "128", "difference", "+0"],
    ]
    assert lines[3:] == [
        "  by_others, 1: not by this gateway",
        "vllm-9 (no model): 1 request not compared, since it told no counters of that name",
    ]
    told = await asyncio.to_thread(run, "ledger", "reconcile", "--json", **it.door.environ)
    facts = json.loads(told.stdout)
    (row,) = facts["comparisons"]
    billed = {"prompt_tokens": 10, "completion_tokens": 4}
    assert facts["not_compared"] == [{"backend": "vllm-9", "model": None, "requests": 1, "billed": billed}]
    assert facts["is_explained"] is True
    assert row["difference"] == {"prompt_tokens": 0, "completion_tokens": 2, "cached_tokens": 0}
    assert row["reasons"] == [{"reason": "by_others", "times": 1}]
