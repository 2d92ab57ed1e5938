"""The one path of a chat, without a door: whatever way an exchange is left, it is accounted for once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from mcp_gateway.core.caller import Allowance, Caller, KeyHolder, Quota
from mcp_gateway.core.config import Settings
from mcp_gateway.core.context import CallerLeft
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.gateway import Gateway, open_desk, open_gateway
from mcp_gateway.core.inference.exchange import Exchange
from mcp_gateway.core.inference.parts import Call
from mcp_gateway.core.ledger.ledger import SettlementPending
from mcp_gateway.core.ledger.purse import Hold
from mcp_gateway.core.surfaces.chat import parse_chat
from mcp_gateway.core.surfaces.surface import Ask
from tests.databases import locked_out, outside
from tests.patience import PATIENCE_S, eventually
from tests.replaying import DONE, ReplayingBackend, chunk, contents, events, held, in_two, silence, stream, unary
from tests.serving import PRICED, chat_body, servers_at

CREDIT_NANO = 10**9


@dataclass
class Stage:
    gateway: Gateway
    backend: ReplayingBackend
    caller: Caller
    credit_nano: int = CREDIT_NANO

    async def exchange(self, caller: Caller | None = None, **call: Any) -> Exchange:
        """One of the stage's caller, or of another, that is admitted."""
        return await self.gateway.inference.admit(
            caller or self.caller, Call(self.gateway.new_id("req"), "http", "chat", **call)
        )

    async def hold_is_decided(self) -> None:
        """Until a request reads its account's wallet, of which nothing is known yet; it goes on in another turn."""
        purses = self.gateway.ledger._purses
        while (purse := purses.known(self.caller.account_id)) is None or not purse.reads:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)

    def rows(self, sql: str) -> list[Any]:
        """What is committed in its database."""
        with outside(self.gateway.settings) as another:
            return another.rows(sql)

    async def is_accounted_for(self, spent_nano: int, error_code: str | None) -> None:
        """Of what limits let in one record with that code, that much spent, and nothing held or off in the books."""
        assert await self.gateway.lifecycle.wait_until_idle(PATIENCE_S)
        await self.gateway.ledger._store.flushed()
        admitted = "SELECT error_code, cost_nano FROM requests WHERE id NOT IN (SELECT id FROM refused_requests)"
        assert self.rows(admitted) == [(error_code, spent_nano)]
        balance = await self.gateway.ledger.balance(self.caller.account_id)
        assert (balance.spendable_nano, balance.held_nano) == (self.credit_nano - spent_nano, 0)
        assert self.gateway.limiter.in_flight == 0
        assert [backend.work.in_flight for backend in self.gateway.pool.backends if backend.work.in_flight] == []
        assert await self.gateway.ledger.check() == []


def caller(account_id: str, in_flight: int | None = None) -> Caller:
    return Caller(account_id, KeyHolder("key_1"), (Quota("key", "key_1", Allowance(None, None, None, in_flight)),))


@contextlib.asynccontextmanager
async def open_stage(
    data_dir: Path, *backends: ReplayingBackend, credit_nano: int = CREDIT_NANO, **fields: Any
) -> AsyncIterator[Stage]:
    """A gateway with these settings and backends, and a caller whose account has so much."""
    urls = [backend.url for backend in backends]
    settings = Settings.model_validate({"data_dir": data_dir, "vllm_urls": urls, "models": [PRICED]} | fields)
    with servers_at(settings) as tree:
        async with open_gateway(tree) as gateway, open_desk(tree) as desk:
            account = await desk.accounts.create("test")
            await desk.ledger.credit(account.id, credit_nano, "test")
            yield Stage(gateway, backends[0], caller(account.id), credit_nano)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with ReplayingBackend() as backend, open_stage(tmp_path, backend) as opened:
        yield opened


def request(**fields: Any) -> Ask:
    return parse_chat(orjson.dumps(chat_body(**{"model": "priced/tiny"} | fields)))


async def read_frames(exchange: Exchange) -> AsyncIterator[bytes]:
    """All that a door would send of a stream."""
    while frames := await exchange.next_frames():
        yield frames


def finish_reason(exchange: Exchange) -> str | None:
    """Why its answer ended, as it is recorded."""
    return None if exchange._answer is None else exchange._answer.finish_reason


async def test_a_whole_answer_is_settled_before_it_is_handed_out(stage: Stage) -> None:
    stage.backend.answer_with(unary(10, 4))
    with await stage.exchange() as exchange:
        await exchange.begin(request())
        assert orjson.loads(exchange.body)["model"] == "priced/tiny"
        assert (exchange.facts.cost_nano, finish_reason(exchange)) == (10 * 300 + 4 * 700, "length")
        balance = await stage.gateway.ledger.balance(stage.caller.account_id)
        assert balance.spendable_nano == CREDIT_NANO - exchange.facts.cost_nano
    await stage.is_accounted_for(5800, None)


async def test_a_stream_is_settled_before_its_last_frames_and_empty_after_them(stage: Stage) -> None:
    with await stage.exchange() as exchange:
        await exchange.begin(request(stream=True))
        frames = [frame async for frame in read_frames(exchange)]
        assert frames[-1].endswith(DONE)
        assert exchange.facts.usage is not None
        assert exchange.facts.usage.completion_tokens == 4
        assert await exchange.next_frames() == b""
    await stage.is_accounted_for(5800, None)


async def test_a_request_whose_body_never_came_is_recorded_and_free(stage: Stage) -> None:
    with pytest.raises(CallerLeft), await stage.exchange():
        raise CallerLeft
    await stage.is_accounted_for(0, "client_closed")


async def test_a_bug_in_between_is_recorded_as_one_and_free(stage: Stage) -> None:
    async def fail() -> None:
        with await stage.exchange() as exchange:
            await exchange.begin(request(stream=True))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    await stage.is_accounted_for(0, "internal_error")


async def test_a_reader_that_drops_the_stream_pays_for_what_it_was_sent(stage: Stage) -> None:
    stage.backend.answer_with(in_two([chunk("", 10, 0), chunk("a", 10, 1)], asyncio.Event(), []))
    with await stage.exchange() as exchange:
        await exchange.begin(request(stream=True))
        seen = b""
        while b'"content":"a"' not in seen:
            seen += await exchange.next_frames()
    await stage.backend.chats[0].gone()
    await stage.is_accounted_for(10 * 300 + 700, "client_closed")


async def test_a_caller_that_leaves_while_its_hold_is_decided_gets_all_of_it_back(stage: Stage) -> None:
    async def ask() -> None:
        with await stage.exchange() as exchange:
            await exchange.begin(request())

    asking = asyncio.create_task(ask())
    await stage.hold_is_decided()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert stage.backend.chats == []
    await stage.is_accounted_for(0, "client_closed")


async def test_a_caller_that_leaves_while_the_backend_is_silent_lets_go_of_it_at_once(stage: Stage) -> None:
    stage.backend.answer_with(silence)

    async def ask() -> None:
        with await stage.exchange() as exchange:
            await exchange.begin(request())

    asking = asyncio.create_task(ask())
    (asked,) = await stage.backend.chats_asked(1)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert stage.gateway.pool.backends[0].work.in_flight == 0
    await asked.gone()
    await stage.is_accounted_for(10 * 300, "client_closed")


async def test_a_refused_admission_leaves_no_trace(stage: Stage) -> None:
    refused = caller(stage.caller.account_id, in_flight=1)
    with await stage.gateway.inference.admit(refused, Call("req_1", "http", "chat")) as exchange:
        with (
            pytest.raises(GatewayError, match="in_flight"),
            await stage.gateway.inference.admit(refused, Call("req_2", "http", "chat")),
        ):
            pass
        assert stage.gateway.lifecycle.in_flight == 1
        await exchange.begin(request())
    await stage.is_accounted_for(5800, None)


async def test_a_bill_that_is_late_at_the_end_of_a_stream_is_told_beside_the_whole_answer(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled = stage.gateway.ledger.settle

    async def late(hold: Hold, *arguments: Any, **options: Any) -> int:
        await settled(hold, *arguments, **options)
        raise SettlementPending(hold, asyncio.get_running_loop().create_future())

    monkeypatch.setattr(stage.gateway.ledger, "settle", late)
    with await stage.exchange() as exchange:
        await exchange.begin(request(stream=True))
        frames = b"".join([frame async for frame in read_frames(exchange)])
    assert b'"error"' not in frames
    assert b": the bill of 0.0000058 USD is written as soon as it can be\n\n" in frames
    assert frames.count(DONE) == 1
    await stage.is_accounted_for(5800, None)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_client_that_leaves_while_its_bill_is_written_pays_what_was_made_and_is_recorded_as_gone(
    stage: Stage, is_stream: bool
) -> None:
    may_answer = asyncio.Event()
    stage.backend.answer_with(held(may_answer, events(*stream(10, 4)) if is_stream else unary(10, 4)))

    async def ask() -> None:
        with await stage.exchange() as exchange:
            await exchange.begin(request(stream=is_stream))
            async for _ in read_frames(exchange) if is_stream else []:  # type: ignore[union-attr]
                pass

    asking = asyncio.create_task(ask())
    await stage.backend.chats_asked(1)
    async with locked_out(stage.gateway):
        may_answer.set()
        await eventually(lambda: all(exchange._bill.status is not None for exchange in stage.gateway.inference.running))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert asking.cancelled()
    await stage.is_accounted_for(5800, "client_closed")
    assert stage.rows("SELECT http_status FROM requests") == [(499,)]
    assert (
        b'gateway_requests_total{door="http",model="priced/tiny",status="499",surface="chat"} 1.0'
        in stage.gateway.metrics.exposition()
    )


@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_answer_that_costs_nothing_waits_for_no_write(stage: Stage, is_stream: bool) -> None:
    may_answer = asyncio.Event()
    stage.backend.answer_with(held(may_answer, events(*stream(0, 0)) if is_stream else unary(0, 0)))

    async def ask() -> None:
        with await stage.exchange() as exchange:
            await exchange.begin(request(stream=is_stream))
            while is_stream and await exchange.next_frames():
                pass

    asking = asyncio.create_task(ask())
    await stage.backend.chats_asked(1)
    async with locked_out(stage.gateway):
        may_answer.set()
        await asking
        assert stage.gateway.ledger.held_now().requests == 0
    await stage.is_accounted_for(0, None)


async def test_usage_is_read_from_the_last_frame_when_the_stream_breaks_off(stage: Stage) -> None:
    has_begun = asyncio.Event()
    stage.backend.answer_with(in_two(stream(10, 9)[:5], has_begun, []))
    with await stage.exchange() as exchange:
        await exchange.begin(request(stream=True))
        first = await exchange.next_frames()
        has_begun.set()
        frames = [first, *[frame async for frame in read_frames(exchange)]]
    assert contents(frames)[-1]["error"]["code"] == "backend_died"
    await stage.is_accounted_for(10 * 300 + 4 * 700, "backend_died")
