"""What a chat may ask for, without a door: refused before a backend is asked, or lowered to what may be."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from mcp_gateway.core.caller import GUEST_ACCOUNT_ID, Allowance, Caller, Guest, Quota
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.parts import Call
from mcp_gateway.core.surfaces.chat import parse_chat
from mcp_gateway.core.surfaces.surface import Ask
from tests.core.test_chat import Stage, open_stage
from tests.replaying import ReplayingBackend, unary
from tests.serving import FREE, PRICED, WORST, chat_body

pytestmark = pytest.mark.gateways
WINDOW = 2048
MOST_BYTES = 64 * 1024
MODELS = [
    FREE,
    PRICED,
    FREE | {"id": "short/tiny", "max_output_tokens": 500},
    FREE | {"id": "capped/tiny", "max_output_tokens": 2000},
    FREE | {"id": "narrow/tiny", "context_window": 400},
    FREE | {"id": "gone/tiny", "backend_model": "gone"},
]
GUEST = Caller(GUEST_ACCOUNT_ID, Guest(), (Quota("address", "192.0.2.1", Allowance(None, None, None, None)),))
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with (
        ReplayingBackend(max_model_len=WINDOW) as backend,
        open_stage(tmp_path, backend, models=MODELS, upstream={"max_response_bytes": MOST_BYTES}) as opened,
    ):
        yield opened


def request(model: str = "free/tiny", content: Any = "Hi", **fields: Any) -> Ask:
    messages = [{"role": "user", "content": content}]
    return parse_chat(orjson.dumps(chat_body(model=model, messages=messages, **fields)))


async def refusal_of(stage: Stage, asked: Ask, caller: Caller | None = None) -> GatewayError:
    """The refusal, after a check that no backend was asked and nothing charged."""
    with pytest.raises(GatewayError) as caught, await stage.exchange(caller) as exchange:
        await exchange.begin(asked)
    assert stage.backend.chats == []
    await stage.is_accounted_for(0, caught.value.code)
    return caught.value


async def limits_of(stage: Stage, asked: Ask, caller: Caller | None = None) -> tuple[int | None, int | None]:
    """The limit that the backend was sent, and the one that the caller is told of."""
    with await stage.exchange(caller) as exchange:
        await exchange.begin(asked)
    (sent,) = stage.backend.chats
    return sent.json.get("max_tokens"), exchange.facts.clamped_to


def questions(stage: Stage) -> int:
    """How often the backend was asked to count a prompt."""
    return len(stage.backend.counted)


async def test_who_has_nothing_left_is_told_so_before_the_body_and_not_counted(stage: Stage) -> None:
    caller = replace(stage.caller, quotas=(Quota("key", "key_1", Allowance(1, None, None, None)),))
    call = Call("req_0", "http", "chat")
    stage.gateway.inference.check(caller, call)
    with await stage.exchange(caller) as exchange:
        await exchange.begin(request())
    with pytest.raises(GatewayError, match="requests_per_minute"):
        stage.gateway.inference.check(caller, call)
    await stage.is_accounted_for(0, None)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"model": "priced/tiny"}, "guests_not_allowed", "model"),
        ({"n": 2}, "invalid_value", "n"),
        ({"content": [IMAGE]}, "vision_disabled", "messages"),
        ({"model": "gone/tiny"}, "model_unavailable", None),
    ],
)
async def test_what_a_guest_may_not_ask_for_is_refused(
    stage: Stage, fields: dict[str, Any], code: str, param: str | None
) -> None:
    refusal = await refusal_of(stage, request(**fields), GUEST)
    assert (refusal.code, refusal.param) == (code, param)


async def test_more_choices_than_the_settings_allow_are_refused_in_words(stage: Stage) -> None:
    most = stage.gateway.settings.limits.max_choices
    assert f"at most {most}, not {most + 1}" in (await refusal_of(stage, request(n=most + 1))).message


async def test_a_backend_that_is_lost_while_the_hold_is_decided_is_not_asked(stage: Stage) -> None:
    async def ask() -> None:
        with await stage.exchange() as exchange:
            await exchange.begin(request("priced/tiny"))

    asking = asyncio.ensure_future(ask())
    await stage.hold_is_decided()
    stage.gateway.pool.backends[0].lost("no connection")
    with pytest.raises(GatewayError, match="model_unavailable"):
        await asking
    assert stage.backend.chats == []
    await stage.is_accounted_for(0, "model_unavailable")


@pytest.mark.parametrize("model", ["priced/tiny", "gone/tiny"])
async def test_a_test_key_is_answered_by_the_demo_for_nothing(stage: Stage, model: str) -> None:
    with await stage.exchange(replace(stage.caller, is_test=True)) as exchange:
        await exchange.begin(request(model))
        answer = orjson.loads(exchange.body)
    assert answer["model"] == model
    assert "demo" in answer["choices"][0]["message"]["content"]
    assert stage.backend.chats == []
    await stage.is_accounted_for(0, None)


@pytest.mark.parametrize(
    ("fields", "caller", "limits"),
    [
        ({}, None, (None, None)),
        ({"max_tokens": 16}, None, (16, None)),
        ({"max_tokens": 2048}, None, (2048, None)),
        ({"max_tokens": 10**9}, None, (2048, 2048)),
        ({"model": "short/tiny"}, None, (500, None)),
        ({"model": "short/tiny", "max_tokens": 501}, None, (500, 500)),
        ({"max_tokens": 257}, GUEST, (256, 256)),
        ({}, GUEST, (256, None)),
    ],
)
async def test_an_answer_is_bounded_by_the_least_limit_and_by_none_where_none_needs_it(
    stage: Stage, fields: dict[str, Any], caller: Caller | None, limits: tuple[int | None, int | None]
) -> None:
    assert await limits_of(stage, request(**fields), caller) == limits
    assert questions(stage) == 0


@pytest.mark.parametrize(("counted", "limit"), [(10, 2000), (300, WINDOW - 300), (WINDOW, 1), (None, 2000)])
async def test_a_model_s_limit_that_may_not_fit_is_sent_as_far_as_the_counted_prompt_leaves_room(
    stage: Stage, counted: int | None, limit: int
) -> None:
    stage.backend.prompt_tokens = counted
    stage.backend.answer_with(unary(10, 1))
    assert await limits_of(stage, request("capped/tiny")) == (limit, None)
    assert questions(stage) == 1


async def test_a_window_that_nobody_tells_lowers_no_limit(tmp_path: Path) -> None:
    model = {"id": "unknown/tiny", "backend_model": "tiny", "max_output_tokens": 8000}
    async with ReplayingBackend(max_model_len=None) as backend, open_stage(tmp_path, backend, models=[model]) as stage:
        assert await limits_of(stage, request("unknown/tiny", "x" * 5000)) == (8000, None)
        assert questions(stage) == 0


@pytest.mark.parametrize(
    ("content", "counted", "code"),
    [("Hi", 401, None), ("x" * 400, 401, "context_length_exceeded"), ("x" * 400, 400, None), ("x" * 400, None, None)],
)
async def test_a_prompt_above_a_narrowed_window_is_counted_where_it_may_be_and_refused_where_it_is(
    stage: Stage, content: str, counted: int | None, code: str | None
) -> None:
    stage.backend.prompt_tokens = counted
    asked = request("narrow/tiny", content, max_tokens=16)
    if code is None:
        assert await limits_of(stage, asked) == (16, None)
    else:
        refusal = await refusal_of(stage, asked)
        assert (refusal.code, refusal.param) == (code, "messages")
        assert f"The prompt has {counted} tokens; the context window of 'narrow/tiny' is 400." in refusal.message
    assert questions(stage) == (len(content) > 2)


async def test_an_open_ended_prompt_above_a_narrowed_window_is_counted_once(stage: Stage) -> None:
    stage.backend.prompt_tokens = 150
    assert await limits_of(stage, request("narrow/tiny", "x" * 400)) == (250, None)
    assert questions(stage) == 1


# -- an answer in one piece is held whole


@pytest.mark.parametrize(
    ("fields", "param", "most_tokens"),
    [
        ({"max_tokens": 2000, "n": 3}, "n", MOST_BYTES // 48),
        ({"max_tokens": 2000, "logprobs": True, "top_logprobs": 5}, "top_logprobs", MOST_BYTES // (16 + 6 * 128)),
        ({"max_tokens": 1000, "logprobs": True}, "max_tokens", MOST_BYTES // (16 + 128)),
    ],
)
async def test_a_limit_above_what_is_held_of_an_answer_is_refused_with_what_may_be_asked(
    stage: Stage, fields: dict[str, Any], param: str, most_tokens: int
) -> None:
    refusal = await refusal_of(stage, request(**fields))
    assert (refusal.code, refusal.param) == ("invalid_value", param)
    assert f"at most {most_tokens} `max_tokens`" in refusal.message
    assert (f"lower `{param}`" in refusal.message) == (param != "max_tokens")


@pytest.mark.parametrize(("is_stream", "limit"), [(True, None), (False, MOST_BYTES // (16 + 128))])
async def test_where_no_limit_was_asked_for_an_answer_that_is_held_gets_the_largest(
    stage: Stage, is_stream: bool, limit: int | None
) -> None:
    assert await limits_of(stage, request(logprobs=True, stream=is_stream)) == (limit, None)


# -- what a wallet covers


@pytest.mark.parametrize("asked_tokens", [None, 2000])
async def test_a_balance_below_the_worst_case_lowers_the_limit_to_what_it_covers(
    tmp_path: Path, asked_tokens: int | None
) -> None:
    async with ReplayingBackend() as backend, open_stage(tmp_path, backend, credit_nano=500_000, wallet=WORST) as stage:
        asked = request("priced/tiny", max_tokens=asked_tokens)
        prompt_tokens = asked.prompt.text_bytes + 10  # the backend's own count of the shortest chat
        covered = (500_000 - prompt_tokens * 300) // 700
        assert await limits_of(stage, asked) == (covered, covered)
        await stage.is_accounted_for(5800, None)


async def test_a_balance_that_covers_no_useful_answer_is_refused(tmp_path: Path) -> None:
    async with ReplayingBackend() as backend, open_stage(tmp_path, backend, credit_nano=1000) as stage:
        assert (await refusal_of(stage, request("priced/tiny"))).code == "insufficient_balance"


# -- what is not sent on


@pytest.mark.parametrize(("fields", "names"), [({}, ()), ({"no_such_field": 1, "temperature": 0}, ("no_such_field",))])
async def test_names_that_are_not_sent_on_are_told(
    stage: Stage, fields: dict[str, Any], names: tuple[str, ...]
) -> None:
    with await stage.exchange() as exchange:
        assert exchange.facts.ignored == ()
        await exchange.begin(request(**fields))
        assert exchange.facts.ignored == names
    (sent,) = stage.backend.chats
    assert "no_such_field" not in sent.json
