"""Limits that should be shared, where no Valkey can be reached: requests pass all the same, within its own."""

import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mcp_gateway.core.caller import Allowance, Caller, Quota, Validity
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.parts import Call
from mcp_gateway.core.inference.passage import PassageOrder
from mcp_gateway.core.limits.limiter import counted
from mcp_gateway.core.limits.shared import SharedLimiter
from mcp_gateway.core.prices import Price
from tests.core.test_chat import Stage, open_stage, request
from tests.replaying import ReplayingBackend, unary

pytestmark = pytest.mark.gateways
CALL = Call("req_1", "http", "chat")


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    async with (
        ReplayingBackend() as backend,
        open_stage(tmp_path, backend, valkey_url=f"valkey://127.0.0.1:{port}") as opened,
    ):
        yield opened


def limited(stage: Stage, **limits: int | None) -> Caller:
    none = dict.fromkeys(("requests_per_minute", "requests_per_day", "tokens_per_minute", "in_flight"))
    return replace(stage.caller, quotas=(Quota("key", "key_1", Allowance(**none | limits)),))


async def test_an_answer_is_given_and_counted(stage: Stage) -> None:
    stage.backend.answer_with(unary(10, 4))
    who = limited(stage, requests_per_minute=5, tokens_per_minute=10_000)
    with await stage.exchange(who) as exchange:
        await exchange.begin(request(max_tokens=10))
        assert exchange.body
    await stage.is_accounted_for(5800, None)
    standing = stage.gateway.limiter.standing(who)
    assert (standing.minute_remaining, standing.tokens_remaining) == (4, 10_000 - 14)
    await counted(stage.gateway.limiter, who)
    assert isinstance(stage.gateway.limiter, SharedLimiter)
    assert stage.gateway.limiter.is_alone
    assert stage.gateway.limiter.owed == 1


async def test_what_is_over_the_limits_is_refused(stage: Stage) -> None:
    who = limited(stage, in_flight=1)
    with await stage.exchange(who):
        with pytest.raises(GatewayError) as refused:
            await stage.exchange(who)
        assert refused.value.code == "in_flight"
    await stage.is_accounted_for(0, "client_closed")


async def test_a_key_that_ends_while_it_waits_for_its_admission_is_refused(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter, validity = stage.gateway.limiter, Validity()
    assert isinstance(limiter, SharedLimiter)
    admitted = limiter.admitted

    async def ending(caller: Caller) -> Any:
        turn = await admitted(caller)
        validity.ended_by = "revoked_api_key"
        return turn

    monkeypatch.setattr(limiter, "admitted", ending)
    for _ in range(2):  # as it ends, and when it has
        with pytest.raises(GatewayError) as refused:
            await stage.gateway.inference.admit(replace(stage.caller, validity=validity), CALL)
        assert refused.value.code == "revoked_api_key"
    assert limiter.in_flight == 0


async def test_what_is_passed_on_unread_is_counted(stage: Stage) -> None:
    provider = cast("Any", SimpleNamespace(name="elsewhere"))
    who = limited(stage, requests_per_minute=5)
    order = PassageOrder("req_1", None, provider, Price(0, 0))
    with await stage.gateway.inference.pass_on(who, order):
        assert stage.gateway.limiter.in_flight == 1
    await stage.is_accounted_for(0, "client_closed")
    assert stage.gateway.limiter.standing(who).minute_remaining == 4
