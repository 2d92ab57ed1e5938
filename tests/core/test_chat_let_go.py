"""What a request had in memory is let go of when it ends, however it ends, and does not wait for the collector."""

# ruff: noqa: F811 - the fixture is imported

import asyncio
import weakref
from typing import Any

import pytest

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.exchange import Exchange
from mcp_gateway.core.ledger.ledger import SettlementPending
from mcp_gateway.core.ledger.purse import Hold
from tests.core.test_chat import Stage, caller, read_frames, request, stage  # noqa: F401 - the fixture
from tests.core.test_chat_streams import ENGINE_DEAD, broken_off
from tests.patience import PATIENCE_S
from tests.replaying import Answer, chunk, death, events, stream, unary, whole

ENDS: dict[str, tuple[Answer, dict[str, Any]]] = {
    "an answer": (unary(), {}),
    "a stream": (events(*stream(10, 4)), {"stream": True}),
    "a stream that breaks off": (broken_off(chunk("a", 10, 1)), {"stream": True}),
    "a stream that ends too soon": (events(chunk("a", 10, 1)), {"stream": True}),
    "a stream that tells an error": (events(chunk("a", 10, 1), ENGINE_DEAD), {"stream": True}),
    "an answer put together that breaks off": (broken_off(chunk("a", 10, 1)), {"max_tokens": 4000}),
    "one that tells an error": (events(chunk("a", 10, 1), ENGINE_DEAD), {"max_tokens": 4000}),
    "a connection that dies": (death, {}),
    "a refusal": (whole(b'{"error":{"message":"no","type":"BadRequestError","code":400}}', 400), {}),
    "what is no answer": (whole(b"hello"), {}),
    "a model that is not there": (unary(), {"model": "nowhere"}),
    "too many answers": (unary(), {"n": 9999}),
}


async def is_left(stage: Stage, who: Caller | None = None, **fields: Any) -> bool:
    """Whether an exchange, which has the request, is there once it has ended."""

    async def ask() -> weakref.ref[Exchange]:
        exchange = await stage.exchange(who)
        try:
            with exchange:
                await exchange.begin(request(**fields))
                async for _ in read_frames(exchange):
                    pass
        except GatewayError:
            pass
        return weakref.ref(exchange)

    had = await asyncio.create_task(ask())
    assert await stage.gateway.lifecycle.wait_until_idle(PATIENCE_S)
    await stage.gateway.ledger._store.flushed()
    return had() is not None


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(("answer", "fields"), ENDS.values(), ids=ENDS)
async def test_nothing_of_a_request_is_kept_by_how_it_ended(
    stage: Stage, answer: Answer, fields: dict[str, Any]
) -> None:
    stage.backend.answer_with(answer)
    assert not await is_left(stage, **fields)


@pytest.mark.usefixtures("uncollected")
async def test_nothing_of_a_request_is_kept_whose_wallet_is_empty(stage: Stage) -> None:
    assert not await is_left(stage, caller("acc_guest"))


@pytest.mark.usefixtures("uncollected")
async def test_nothing_of_an_answer_is_kept_whose_bill_could_not_be_written(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def late(hold: Hold, *_: Any, **options: Any) -> int:
        raise SettlementPending(hold, asyncio.get_running_loop().create_future())

    monkeypatch.setattr(stage.gateway.ledger, "settle", late)
    stage.backend.answer_with(unary())
    assert not await is_left(stage)
