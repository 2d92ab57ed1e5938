"""What is told of a bill, without a door: a usage that cannot be, one that is missing, a cost that nothing covers."""

# ruff: noqa: F811 - the fixture is imported

import asyncio
import logging
from pathlib import Path
from typing import Any

import orjson
import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.terms import quoted_prompt_tokens
from mcp_gateway.core.money import format_usd
from tests.captured import captured
from tests.core.test_chat import Stage, open_stage, read_frames, request, stage  # noqa: F401 - the fixture
from tests.core.test_chat_streams import of_choice
from tests.databases import locked_out
from tests.patience import PATIENCE_S, eventually
from tests.replaying import Answer, ReplayingBackend, chunk, contents, events, in_two, silence, unary, whole
from tests.serving import FREE, MESSAGES, PRICED

pytestmark = pytest.mark.gateways


def metric(stage: Stage, line: str) -> float:
    """The value of one line of the metrics' page; 0 where it is not there."""
    lines = stage.gateway.metrics.exposition().decode().splitlines()
    return sum(float(one.removeprefix(line)) for one in lines if one.startswith(line + " "))


def with_usage(usage: Any) -> Answer:
    return whole(orjson.dumps(orjson.loads(captured("100_chat").body) | {"usage": usage}))


def without_any_usage() -> list[dict[str, Any]]:
    chunks = [orjson.loads(chunk(text, 0, 0, reason)[5:]) for text, reason in (("a", None), ("b", "stop"))]
    return [{name: value for name, value in one.items() if name != "usage"} for one in chunks]


def streamed_with(usage: Any) -> Answer:
    return events(*[b"data: %b\n\n" % orjson.dumps(frame | {"usage": usage}) for frame in without_any_usage()])


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
    with await stage.exchange() as exchange:
        await exchange.begin(request(stream=is_stream, stream_options={"include_usage": True} if is_stream else None))
        told = b"".join([frames async for frames in read_frames(exchange)]) if is_stream else exchange.body
    assert b'"error"' not in told
    assert metric(stage, f'gateway_{name}_total{{backend="vllm-1"}}') == 1
    await stage.is_accounted_for(exchange.facts.cost_nano, None)


POLICIES = [
    ("estimate", False, 10 * 300 + 2 * 700),
    ("estimate", True, 10 * 300 + 700),
    ("hold", False, None),
    ("hold", True, 10 * 300 + 700),
    ("free", False, 0),
    ("free", True, 0),
]


@pytest.mark.parametrize(("policy", "is_broken", "spent_nano"), POLICIES)
async def test_an_answer_without_usage_is_billed_by_the_policy_and_all_that_is_held_only_where_it_is_whole(
    tmp_path: Path, policy: str, is_broken: bool, spent_nano: int | None
) -> None:
    frames = [b"data: %b\n\n" % orjson.dumps(frame) for frame in without_any_usage()]
    async with (
        ReplayingBackend() as backend,
        open_stage(tmp_path, backend, wallet={"usage_missing": policy}) as stage,
    ):
        backend.answer_with(events(*frames[: 1 if is_broken else 2]))
        asked = request(stream=True, max_tokens=16)
        model, wallet = stage.gateway.published.current["priced/tiny"], stage.gateway.settings.wallet
        most_nano = quoted_prompt_tokens(asked, model, wallet, None) * 300 + 16 * 700
        with await stage.exchange() as exchange:
            await exchange.begin(asked)
            told = b"".join([frames async for frames in read_frames(exchange)])
        assert (b'"backend_died"' in told) == is_broken
        await stage.is_accounted_for(
            most_nano if spent_nano is None else spent_nano, "backend_died" if is_broken else None
        )


async def test_usage_that_is_too_much_only_in_sum_is_estimated_without_the_prompt_that_is_forgotten(
    stage: Stage,
) -> None:
    both = [
        chunk("", 0, 0),
        of_choice(1, chunk("", 0, 0)),
        chunk("a", 0, 15, "stop"),
        of_choice(1, chunk("b", 0, 15, "stop")),
    ]
    stage.backend.answer_with(events(*both))
    asked = request(stream=True, n=2, max_tokens=10)
    with await stage.exchange() as exchange:
        await exchange.begin(asked)
        assert asked.body == {}
        assert b'"error"' not in b"".join([frames async for frames in read_frames(exchange)])
    assert not any(asked.path == "/tokenize" for asked in stage.backend.asked)
    assert exchange.facts.usage is not None
    await stage.is_accounted_for(
        asked.prompt.text_bytes // 3 * 300 + exchange.facts.usage.completion_tokens * 700, None
    )


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": 10.0, "completion_tokens": 4}, {"prompt_tokens": "10", "completion_tokens": "4"}]
)
async def test_a_usage_in_another_form_is_billed_and_told_in_the_usual_one(stage: Stage, usage: dict[str, Any]) -> None:
    stage.backend.answer_with(with_usage(usage))
    with await stage.exchange() as exchange:
        await exchange.begin(request())
        told = orjson.loads(exchange.body)["usage"]
    assert (told["prompt_tokens"], told["completion_tokens"]) == (10, 4)
    await stage.is_accounted_for(10 * 300 + 4 * 700, None)


async def test_a_request_that_is_refused_behind_its_head_ends_with_the_error_and_is_free(stage: Stage) -> None:
    with await stage.exchange() as exchange:
        with pytest.raises(GatewayError, match="model_not_found") as refused:
            await exchange.begin(request(model="nowhere", stream=True))
        told = contents([await exchange.frames_of(refused.value)])
        assert told[-1]["error"]["code"] == "model_not_found"
    await stage.is_accounted_for(0, "model_not_found")


async def test_a_stream_that_fails_to_begin_behind_its_head_ends_with_the_error_and_is_free(stage: Stage) -> None:
    stage.backend.answer_with(whole(b"{}", 500))
    with await stage.exchange() as exchange:
        with pytest.raises(GatewayError) as failed:
            await exchange.begin(request(stream=True))
        (told,) = contents([await exchange.frames_of(failed.value)])
        assert told["error"]["code"] == "backend_error"
        assert await exchange.next_frames() == b""
    await stage.is_accounted_for(0, "backend_error")


async def test_who_leaves_while_the_bill_of_a_failure_is_written_leaves_the_failure_recorded(stage: Stage) -> None:
    async def read() -> None:
        with await stage.exchange() as exchange:
            await exchange.begin(request(stream=True))
            has_begun.set()
            async for _ in read_frames(exchange):
                pass

    has_begun, may_end = asyncio.Event(), asyncio.Event()
    stage.backend.answer_with(in_two([chunk("a", 10, 1)], may_end, []))
    reading = asyncio.ensure_future(read())
    await has_begun.wait()
    async with locked_out(stage.gateway):
        (exchange,) = stage.gateway.inference.running
        may_end.set()
        await eventually(lambda: exchange._bill.status is not None)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    await stage.is_accounted_for(10 * 300 + 700, "backend_died")


async def test_a_cost_that_neither_hold_nor_wallet_covers_is_charged_as_far_as_it_goes_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A prompt that is several times its bytes: its backend's own template has put more before it."""
    credit_nano, cost_nano = 400_000, 2000 * 300 + 4 * 700
    async with ReplayingBackend() as backend, open_stage(tmp_path, backend, credit_nano=credit_nano) as stage:
        backend.answer_with(unary(2000, 4))
        with caplog.at_level(logging.WARNING), await stage.exchange() as exchange:
            await exchange.begin(request(max_tokens=16))
        assert exchange.facts.cost_nano == credit_nano
        await stage.is_accounted_for(credit_nano, None)
        lost_usd = format_usd(cost_nano - credit_nano)
        assert metric(stage, 'gateway_unpaid_usd_total{model="priced/tiny"}') == pytest.approx(float(lost_usd))
        assert f"cost {lost_usd} USD more than its account has" in caplog.text


@pytest.mark.parametrize(("model", "spent_nano"), [(PRICED, 3000), (FREE, 0)])
async def test_who_leaves_before_an_answer_pays_the_prompt_where_it_has_a_price(
    tmp_path: Path, model: dict[str, Any], spent_nano: int
) -> None:
    async def ask(stage: Stage) -> None:
        with await stage.exchange() as exchange:
            await exchange.begin(request(model=model["id"]))

    async with ReplayingBackend() as backend, open_stage(tmp_path, backend, models=[model]) as stage:
        backend.answer_with(silence)
        asking = asyncio.ensure_future(ask(stage))
        await backend.chats_asked(1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert await stage.gateway.lifecycle.wait_until_idle(PATIENCE_S)
        counted = [asked.json["messages"] for asked in backend.asked if asked.path == "/tokenize"]
        assert counted == ([MESSAGES] if spent_nano else [])
        await stage.is_accounted_for(spent_nano, "client_closed")
