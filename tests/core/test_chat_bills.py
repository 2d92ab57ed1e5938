"""What is told of a bill, without a door: a usage that cannot be, one that is missing, a cost that nothing covers."""

# ruff: noqa: F811 - the fixture is imported

import asyncio
import logging
from pathlib import Path
from typing import Any

import orjson
import pytest

from mcp_gateway.core.money import format_usd
from tests.captured import captured
from tests.core.test_chat import Stage, open_stage, request, stage  # noqa: F401 - the fixture
from tests.replaying import PATIENCE_S, Answer, ReplayingBackend, chunk, events, silence, unary, whole
from tests.serving import FREE, MESSAGES, PRICED


def metric(stage: Stage, line: str) -> float:
    """The value of one line of the metrics' page; 0 where it is not there."""
    lines = stage.gateway.metrics.exposition().decode().splitlines()
    return sum(float(one.removeprefix(line)) for one in lines if one.startswith(line + " "))


def with_usage(usage: Any) -> Answer:
    return whole(orjson.dumps(orjson.loads(captured("100_chat").body) | {"usage": usage}))


def streamed_with(usage: Any) -> Answer:
    frames = [orjson.loads(chunk(text, 0, 0, reason)[5:]) for text, reason in (("a", None), ("b", "stop"))]
    return events(*[b"data: %b\n\n" % orjson.dumps(frame | {"usage": usage}) for frame in frames])


MISSING = [None, {}, "none", {"prompt_tokens": 1.5, "completion_tokens": 2}]
UNBELIEVABLE = [
    {"prompt_tokens": 2**62, "completion_tokens": 4},
    {"prompt_tokens": 10, "completion_tokens": 2049},
    {"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 11}},
]


@pytest.mark.parametrize(
    ("usage", "name"),
    [*((usage, "usage_missing") for usage in MISSING), *((usage, "usage_invalid") for usage in UNBELIEVABLE)],
)
@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_usage_that_is_missing_or_cannot_be_is_told_to_the_operator_and_not_to_the_client(
    stage: Stage, usage: Any, name: str, is_stream: bool
) -> None:
    stage.backend.answer_with(streamed_with(usage) if is_stream else with_usage(usage))
    with stage.exchange() as exchange:
        await exchange.begin(request(stream=is_stream, stream_options={"include_usage": True} if is_stream else None))
        told = b"".join([frames async for frames in exchange.frames()]) if is_stream else exchange.body
    assert b'"error"' not in told
    assert metric(stage, f'gateway_{name}_total{{backend="vllm-1"}}') == 1
    await stage.is_accounted_for(exchange.cost_nano, None)


async def test_a_cost_that_neither_hold_nor_wallet_covers_is_charged_as_far_as_it_goes_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A prompt that is several times its bytes: its backend's own template has put more before it."""
    credit_nano, cost_nano = 400_000, 2000 * 300 + 4 * 700
    async with ReplayingBackend() as backend, open_stage(tmp_path, backend, credit_nano=credit_nano) as stage:
        backend.answer_with(unary(2000, 4))
        with caplog.at_level(logging.WARNING), stage.exchange() as exchange:
            await exchange.begin(request(max_tokens=16))
        assert exchange.cost_nano == credit_nano
        await stage.is_accounted_for(credit_nano, None)
        lost_usd = format_usd(cost_nano - credit_nano)
        assert metric(stage, 'gateway_unpaid_usd_total{model="priced/tiny"}') == pytest.approx(float(lost_usd))
        assert f"cost {lost_usd} USD more than its account has" in caplog.text


@pytest.mark.parametrize(("model", "spent_nano"), [(PRICED, 3000), (FREE, 0)])
async def test_who_leaves_before_an_answer_pays_the_prompt_where_it_has_a_price(
    tmp_path: Path, model: dict[str, Any], spent_nano: int
) -> None:
    async def ask() -> None:
        with stage.exchange() as exchange:
            await exchange.begin(request(model=model["id"]))

    async with ReplayingBackend() as backend, open_stage(tmp_path, backend, models=[model]) as stage:
        backend.answer_with(silence)
        asking = asyncio.ensure_future(ask())
        await backend.chats_asked(1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert await stage.gateway.lifecycle.wait_until_idle(PATIENCE_S)
        counted = [asked.json["messages"] for asked in backend.asked if asked.path == "/tokenize"]
        assert counted == ([MESSAGES] if spent_nano else [])
        await stage.is_accounted_for(spent_nano, "client_closed")
