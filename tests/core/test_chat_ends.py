"""A key that stops being valid ends what runs for it, wherever it stands: told once, accounted for once."""

# ruff: noqa: F811 - the fixture is imported

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from mcp_gateway.core.caller import Allowance, KeyHolder, Quota, Validity
from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.core.identity.keys import refusal
from mcp_gateway.core.inference.parts import Call
from mcp_gateway.core.inference.passage import PassageOrder
from mcp_gateway.core.prices import FREE
from mcp_gateway.core.upstream.provider import Provider
from tests.core.test_chat import Stage, finish_reason, read_frames, request, stage  # noqa: F401 - the fixture
from tests.patience import PATIENCE_S, eventually
from tests.replaying import Asked, chunk, contents, death, events, final_usage, in_two, silence, stream, unary

pytestmark = pytest.mark.gateways
CODES: list[Code] = ["revoked_api_key", "expired_api_key", "account_deactivated"]


def close(stage: Stage, code: Code = "revoked_api_key") -> None:
    stage.gateway.inference.close_key("key_1", refusal(code))


async def unary_answer(stage: Stage) -> str:
    with await stage.exchange() as exchange:
        await exchange.begin(request())
        return "whole"


async def stream_answer(stage: Stage) -> str:
    with await stage.exchange() as exchange:
        await exchange.begin(request(stream=True))
        frames = [frame async for frame in read_frames(exchange)]
        assert frames[-1].endswith(b"data: [DONE]\n\n")
        told = contents(frames)[-1]
        return str(told["error"]["code"]) if "error" in told else "whole"


async def half_of_a_body(asked: Asked) -> None:
    asked.send(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{"choices":')
    await asyncio.Event().wait()


async def a_head_alone(asked: Asked) -> None:
    asked.start_stream()
    await asyncio.Event().wait()


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(
    ("answer", "ask"),
    [
        (silence, unary_answer),
        (silence, stream_answer),
        (half_of_a_body, unary_answer),
        (a_head_alone, stream_answer),
    ],
)
async def test_an_answer_that_has_not_begun_costs_nothing(
    stage: Stage, answer: Any, ask: Callable[[Stage], Awaitable[str]], code: Code
) -> None:
    stage.backend.answer_with(answer)
    asking = asyncio.ensure_future(ask(stage))
    (asked,) = await stage.backend.chats_asked(1)
    close(stage, code)
    with pytest.raises(GatewayError, match=code):
        await asking
    assert not asking.cancelled()
    await asked.gone()
    await stage.is_accounted_for(0, code)


async def test_a_request_that_had_to_be_sent_again_is_let_go_of_too(stage: Stage) -> None:
    stage.backend.answer_with(death, silence)  # the kept connection dies, which sends it again
    asking = asyncio.ensure_future(unary_answer(stage))
    _, second = await stage.backend.chats_asked(2)
    close(stage)
    with pytest.raises(GatewayError, match="revoked_api_key"):
        await asking
    await second.gone()
    await stage.is_accounted_for(0, "revoked_api_key")


@pytest.mark.parametrize("ask", [unary_answer, stream_answer])
async def test_a_hold_that_is_still_decided_is_released_and_no_backend_asked(
    stage: Stage, ask: Callable[[Stage], Awaitable[str]]
) -> None:
    asking = asyncio.ensure_future(ask(stage))
    await stage.hold_is_decided()
    close(stage)
    with pytest.raises(GatewayError, match="revoked_api_key"):
        await asking
    assert stage.backend.chats == []
    await stage.is_accounted_for(0, "revoked_api_key")


async def test_who_leaves_before_a_backend_is_asked_keeps_no_tokens_a_minute(stage: Stage) -> None:
    allowance = Allowance(None, None, 1000, None)
    caller = replace(stage.caller, quotas=(Quota("key", "key_1", allowance),))

    async def ask() -> None:
        with await stage.gateway.inference.admit(caller, Call("req_1", "http", "chat")) as exchange:
            await exchange.begin(request(stream=True, max_tokens=50))

    asking = asyncio.ensure_future(ask())
    await stage.hold_is_decided()
    assert stage.gateway.limiter.standing(caller).tokens_remaining != 1000
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await stage.is_accounted_for(0, "client_closed")
    assert stage.gateway.limiter.standing(caller).tokens_remaining == 1000


async def test_what_was_admitted_and_has_not_begun_does_not_begin(stage: Stage) -> None:
    async def ask() -> None:
        with await stage.exchange() as exchange:
            close(stage, "expired_api_key")
            await exchange.begin(request())

    with pytest.raises(GatewayError, match="expired_api_key"):
        await ask()
    assert stage.backend.chats == []
    await stage.is_accounted_for(0, "expired_api_key")


async def test_a_key_that_ends_between_a_request_s_head_and_its_body_admits_nothing(stage: Stage) -> None:
    caller = replace(stage.caller, validity=Validity("revoked_api_key"))
    with (
        pytest.raises(GatewayError, match="revoked_api_key"),
        await stage.gateway.inference.admit(caller, Call("r", "http", "chat")),
    ):
        pass
    order = PassageOrder("r", None, Provider("provider", stage.gateway.pool.backends[0].origin), FREE)
    with pytest.raises(GatewayError, match="revoked_api_key"):
        await stage.gateway.inference.pass_on(caller, order)
    assert stage.gateway.lifecycle.in_flight == 0
    assert stage.gateway.limiter.in_flight == 0


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("is_waiting", [True, False])
async def test_a_stream_ends_with_the_error_and_pays_what_was_delivered(
    stage: Stage, code: Code, is_waiting: bool
) -> None:
    stage.backend.answer_with(in_two([chunk("", 10, 0), chunk("a", 10, 1)], asyncio.Event(), []))
    with await stage.exchange() as exchange:
        await exchange.begin(request(stream=True))
        seen = b""
        while b'"content":"a"' not in seen:
            seen += await exchange.next_frames()
        if is_waiting:
            waiting = asyncio.ensure_future(exchange.next_frames())
            await asyncio.sleep(0)
            close(stage, code)
            last = await waiting
        else:
            close(stage, code)
            await stage.backend.chats[0].gone()
            last = await exchange.next_frames()
        assert [told["error"]["code"] for told in contents([last])] == [code]
        assert last.endswith(b"data: [DONE]\n\n")
        assert await exchange.next_frames() == b""
    await stage.backend.chats[0].gone()
    await stage.is_accounted_for(10 * 300 + 700, code)


async def test_the_first_frame_that_is_there_is_delivered(stage: Stage) -> None:
    stage.backend.answer_with(in_two([chunk("a", 10, 1)], asyncio.Event(), []))
    with await stage.exchange() as exchange:
        await exchange.begin(request(stream=True))
        close(stage)
        frames = [frame async for frame in read_frames(exchange)]
    assert b'"content":"a"' in frames[0]
    assert contents(frames)[-1]["error"]["code"] == "revoked_api_key"
    await stage.is_accounted_for(10 * 300 + 700, "revoked_api_key")


async def test_a_stream_whose_total_is_still_to_come_ends_with_the_error(stage: Stage) -> None:
    rest = [final_usage(10, 2), b"data: [DONE]\n\n"]
    stage.backend.answer_with(in_two([chunk("a", 10, 1), chunk("b", 10, 2, "stop")], asyncio.Event(), rest))
    reading = asyncio.ensure_future(stream_answer(stage))
    await stage.backend.chats_asked(1)
    (exchange,) = stage.gateway.inference.running
    await eventually(lambda: finish_reason(exchange) is not None)
    close(stage)
    assert await reading == "revoked_api_key"
    await stage.is_accounted_for(10 * 300 + 2 * 700, "revoked_api_key")


@pytest.mark.parametrize(("answer", "ask"), [(unary(10, 4), unary_answer), (events(*stream(10, 4)), stream_answer)])
async def test_what_is_being_settled_is_settled_and_handed_out(
    stage: Stage, answer: Any, ask: Callable[[Stage], Awaitable[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settled = stage.gateway.ledger.settle
    is_settling, may_go_on = asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any, **options: Any) -> Any:
        is_settling.set()
        await may_go_on.wait()
        return await settled(*arguments, **options)

    monkeypatch.setattr(stage.gateway.ledger, "settle", slow)
    stage.backend.answer_with(answer)
    asking = asyncio.ensure_future(ask(stage))
    async with asyncio.timeout(PATIENCE_S):
        await is_settling.wait()
    close(stage)
    may_go_on.set()
    assert await asking == "whole"
    close(stage)
    await stage.is_accounted_for(5800, None)


async def test_a_client_that_leaves_in_the_same_moment_is_accounted_for_once(stage: Stage) -> None:
    for order in (0, 1):
        stage.backend.answer_with(silence)
        asking = asyncio.ensure_future(unary_answer(stage))
        await stage.backend.chats_asked(1)
        ends: list[Callable[[], object]] = [lambda: close(stage), asking.cancel]
        for end in ends if order else reversed(ends):
            end()
        await asyncio.gather(asking, return_exceptions=True)
        assert asking.cancelled()
    assert await stage.gateway.lifecycle.wait_until_idle(10)
    await stage.gateway.ledger._store.flushed()
    assert len(stage.rows("SELECT id FROM requests")) == 2
    assert await stage.gateway.ledger.check() == []


async def test_answers_of_other_keys_and_of_guests_go_on(stage: Stage) -> None:
    may_go_on = asyncio.Event()
    stage.backend.answer_with(*[in_two([chunk("a", 10, 1)], may_go_on, stream(10, 4)[2:])] * 2)
    other = replace(stage.caller, principal=KeyHolder("key_2"))
    exchanges = [await stage.exchange(), await stage.gateway.inference.admit(other, Call("req_other", "http", "chat"))]

    async def codes(number: int) -> object:
        with exchanges[number] as exchange:
            await exchange.begin(request(stream=True))
            return contents([frame async for frame in read_frames(exchange)])[-1].get("error", {}).get("code")

    reading = [asyncio.ensure_future(codes(number)) for number in range(2)]
    await stage.backend.chats_asked(2)
    close(stage)
    may_go_on.set()
    results = await asyncio.gather(*reading, return_exceptions=True)
    assert results[1] is None
    assert "revoked_api_key" in str(results[0])
    assert stage.gateway.inference.running == set()
