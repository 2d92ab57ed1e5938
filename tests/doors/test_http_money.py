"""What a request costs, by every surface: exact to the nano, decided once, and settled by whatever way it ends."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any, get_args

import orjson
import pytest
import pytest_asyncio

from http_api.inference import InferenceEndpoint
from mcp_gateway.core.config import WalletSettings
from mcp_gateway.core.errors import TABLE
from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.inference.exchange import Exchange
from mcp_gateway.core.inference.terms import Quote
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.record import SurfaceName
from mcp_gateway.core.surfaces.chat import parse_chat
from tests.cases import each
from tests.patience import eventually
from tests.quoting import quote_of
from tests.replaying import (
    Answer,
    ReplayingBackend,
    chunk,
    contents,
    death,
    events,
    in_two,
    silence,
    unary,
    whole,
)
from tests.serving import FREE, WORST, Door, bearer, chat_body, open_door
from tests.stage import COMPLETION_PICO, CREDIT_NANO, PRICED, PROMPT_PICO, Stage, cost_nano, staged
from tests.surfaces import (
    CHAT_SPOKEN,
    MODEL,
    SPOKEN,
    ChatTool,
    Spoken,
    answers,
    every_generating_surface,
    every_streaming_surface,
    every_surface,
    every_way,
)

pytestmark = [pytest.mark.surfaces, pytest.mark.asyncio(loop_scope="module")]

SHARED = PRICED | {"id": "shared/tiny", "guests": True}
Served = tuple[Door, ReplayingBackend]


def quote(stage: Stage, **fields: Any) -> Quote:
    """The worst case of a chat."""
    request = parse_chat(orjson.dumps(CHAT_SPOKEN.body(**fields)))
    model = stage.door.gateway.published.current[MODEL]
    return quote_of(model, model.price, request, WalletSettings())


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path_factory.mktemp("money"),
            vllm_urls=[backend.url],
            models=[FREE, PRICED, SHARED],
            upstream={"collect_above_tokens": 1000},
            wallet=WORST | {"hold_wait_s": 0},
        ) as door,
    ):
        yield door, backend


@pytest_asyncio.fixture(loop_scope="module")
async def stage(_served: Served) -> AsyncIterator[Stage]:
    door, backend = _served
    backend.answer_with()
    backend.prompt_tokens = 10
    yield await staged(door, backend)
    backend.standing = None
    await door.nothing_is_left()


async def test_every_operation_of_inference_has_its_surface_in_these_suites(stage: Stage) -> None:
    """A further one is a class of tests/surfaces.py."""
    rows = [(row, row.endpoint) for row in stage.door.operations if isinstance(row.endpoint, InferenceEndpoint)]
    spoken = {one.name: one for one in SPOKEN if not isinstance(one, ChatTool)}
    assert {endpoint._surface.name for _, endpoint in rows} == spoken.keys() == set(get_args(SurfaceName))
    assert {one.path for one in spoken.values()} <= {f"/v1{row.path}" for row, _ in rows}
    for row, endpoint in rows:
        assert ("text/event-stream" in row.media_types) == spoken[endpoint._surface.name].has_streams


@each(("prompt", "output"), [(1, 1), (13, 7), (999, 16), (1, 0)])
@every_way
async def test_an_answer_costs_its_usage_to_the_nano_and_its_last_byte_leaves_after_the_settlement(
    stage: Stage, spoken: Spoken, is_stream: bool, prompt: int, output: int
) -> None:
    stage, output = await stage.credited(CREDIT_NANO), output if spoken.is_generated else 0
    stage.backend.answer_with(answers(spoken, prompt, output))
    response = await stage.ask(spoken, text="x" * 700, is_stream=is_stream)
    cost = cost_nano(prompt, output)
    assert await stage.door.balance_nano(stage.account_id) == CREDIT_NANO - cost
    usage, cost_usd = spoken.told(response, is_stream=is_stream)
    assert usage is not None
    assert (usage[:2], cost_usd) == ((prompt, output), format_usd(cost))
    (record,) = await stage.records()
    assert (record["prompt_tokens"], record["completion_tokens"], record["cost_nano"]) == (prompt, output, cost)
    assert record["price_version"] == f"{PROMPT_PICO}/{COMPLETION_PICO}"
    assert record["http_status"] == 200


@every_surface
async def test_an_empty_wallet_is_402_in_the_surfaces_own_word_and_nothing_is_asked(
    stage: Stage, spoken: Spoken
) -> None:
    for is_stream in {False, spoken.has_streams}:
        poor = await stage.credited(0)
        response = await poor.ask(spoken, is_stream=is_stream)
        assert spoken.refusal_of(response) == spoken.word_for("insufficient_balance")
        assert stage.backend.chats == []
        (record,) = await poor.records()
        assert (record["http_status"], record["error_code"]) == (402, "insufficient_balance")


async def test_who_has_too_little_is_told_the_balance(stage: Stage) -> None:
    poor = await stage.credited(quote(stage, max_tokens=16).minimum_nano - 1)
    error = (await poor.ask(max_tokens=16)).json()["error"]
    assert error["balance_usd"] == format_usd(quote(stage, max_tokens=16).minimum_nano - 1)
    await poor.is_left_with(quote(stage, max_tokens=16).minimum_nano - 1)


@every_generating_surface
async def test_a_balance_below_the_worst_case_lowers_the_limit_and_says_so(stage: Stage, spoken: Spoken) -> None:
    worst_nano = await stage.worst_nano(spoken, **{spoken.limit_field: 1000})
    poor = await stage.credited(balance_nano := worst_nano - 980 * COMPLETION_PICO // 1000)
    stage.backend.answer_with(answers(spoken, 5, 20))
    response = await poor.ask(spoken, **{spoken.limit_field: 1000})
    assert stage.sent[spoken.limit_field] == spoken.clamped_to(response) == 20
    await poor.is_left_with(balance_nano - cost_nano(5, 20))


@every_surface
async def test_a_wallet_worth_some_requests_serves_exactly_those_of_many_at_once(stage: Stage, spoken: Spoken) -> None:
    await stage.race(spoken, affords=4, asked=20)


async def test_all_surfaces_at_once_spend_one_wallet_and_never_more(stage: Stage) -> None:
    """Its bytes exceed the window, so that each of them is held for at least that much."""
    long = "x" * PRICED["context_window"]
    credit_nano = 5 * cost_nano(PRICED["context_window"], 16)
    shared = await stage.credited(credit_nano)
    may_answer = asyncio.Event()
    dear = {one.upstream: answers(one, 2048, 16) for one in SPOKEN}

    async def each_its_own(asked: Any) -> None:
        await may_answer.wait()
        await dear[asked.path](asked)

    stage.backend.standing = each_its_own
    asking = [asyncio.create_task(shared.ask(spoken, text=long)) for _ in range(5) for spoken in SPOKEN]
    await eventually(lambda: sum(task.done() for task in asking) + len(stage.backend.chats) == len(asking))
    may_answer.set()
    responses = await asyncio.gather(*asking)
    told = [spoken.refusal_of(response) for response, spoken in zip(responses, SPOKEN * 5, strict=True)]
    records = await shared.records()
    statuses = [record["http_status"] for record in records]
    assert 0 < told.count(None) == statuses.count(200) <= 5
    assert statuses.count(402) + statuses.count(429) == len(asking) - told.count(None)
    await shared.is_left_with(credit_nano - sum(record["cost_nano"] for record in records))
    assert await stage.door.balance_nano(shared.account_id) >= 0


FAILURES: dict[str, Answer] = {
    "500": whole(b"{}", 500), "not json": whole(b"not json"), "no answer": whole(b"{}"), "a list": whole(b"[1]"),
    "null": whole(b"null"), "nothing": whole(b""), "death": death, "of wrong types": whole(
        b'{"choices":5,"data":5,"results":5,"output":5,"content":5,"usage":5}'),
    "an error with 200": whole(b'{"error":{"message":"m","type":"InternalServerError","param":null,"code":500}}'),
    "400": whole(b'{"error":{"message":"m","type":"BadRequestError","param":null,"code":400}}', 400),
}  # fmt: skip


@each("name", FAILURES)
@every_way
async def test_an_answer_that_fails_costs_nothing(stage: Stage, spoken: Spoken, is_stream: bool, name: str) -> None:
    stage = await stage.credited(CREDIT_NANO)
    stage.backend.answer_with(FAILURES[name], FAILURES[name])
    refusal = spoken.refusal_of(await stage.ask(spoken, is_stream=is_stream))
    await stage.is_left_with(CREDIT_NANO)
    (record,) = await stage.records()
    assert (record["http_status"], record["cost_nano"]) == (400 if name == "400" else 502, 0)
    assert TABLE[record["error_code"]].status == record["http_status"]
    assert refusal == spoken.word_for(record["error_code"])


@every_way
async def test_usage_beyond_the_hold_is_billed_as_far_as_the_wallet_reaches(
    stage: Stage, spoken: Spoken, is_stream: bool
) -> None:
    """Its hold was for fewer tokens: the backend's template, or its window, is larger than the configured one."""
    output = 16 if spoken.is_generated else 0
    assert cost_nano(2048, output) > await stage.worst_nano(spoken, is_stream=is_stream)
    stage.backend.answer_with(answers(spoken, 2048, output))
    await stage.ask(spoken, is_stream=is_stream)
    await stage.is_left_with(CREDIT_NANO - cost_nano(2048, output))
    (record,) = await stage.records()
    assert record["cost_nano"] == cost_nano(2048, output)


@every_surface
async def test_what_no_wallet_covers_is_the_operators_loss_in_a_metric_and_a_log_line(
    stage: Stage, spoken: Spoken, caplog: pytest.LogCaptureFixture
) -> None:
    credit_nano = await stage.worst_nano(spoken)
    poor = await stage.credited(credit_nano)
    stage.backend.answer_with(answers(spoken, 2048, 0))
    before = await unpaid_nano(stage.door)
    answer = await poor.ask(spoken)
    assert spoken.cost_in(answer) == format_usd(credit_nano)
    await poor.is_left_with(0)
    (record,) = await poor.records()
    assert record["cost_nano"] == credit_nano
    assert await unpaid_nano(stage.door) - before == cost_nano(2048, 0) - credit_nano
    assert "more than its account has" in caplog.text


async def unpaid_nano(door: Door) -> int:
    return round(await metric(door, rf'gateway_unpaid_usd_total{{model="{MODEL}"}}') * 1e9)


IMPOSSIBLE = [(4097, 1), (1, 17), (1, 2049), (2**31, 1), (2**53, 1), (2**62, 1), (2**63, 1)]


@each("usage", IMPOSSIBLE)
@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_usage_that_cannot_be_is_estimated_and_stands_in_no_sum(
    stage: Stage, usage: tuple[int, int], is_stream: bool
) -> None:
    stage = await stage.credited(CREDIT_NANO)
    is_first_to_believe = is_stream and usage[0] <= 2048
    prompt, tokens = usage[0] if is_first_to_believe else 10, min(usage[1], 16) if is_stream else 2
    made = min(usage[1], 2049)
    told = [chunk("", usage[0], 0), *(chunk("x", usage[0], number) for number in range(1, made + 1))]
    stage.backend.answer_with(events(*told, *CHAT_SPOKEN.ending(*usage)) if is_stream else unary(*usage))
    before = await invalid_usages(stage.door)
    answer = await stage.ask(is_stream=is_stream)
    assert answer.status_code == 200
    await stage.is_left_with(CREDIT_NANO - cost_nano(prompt, tokens))
    (record,) = await stage.records()
    assert (record["prompt_tokens"], record["completion_tokens"]) == (prompt, tokens)
    assert await invalid_usages(stage.door) == before + 1
    for path in ("/v1/usage", "/v1/billing", "/v1/requests", "/stats", "/metrics"):
        assert (await stage.door.get(path, stage.key)).status_code == 200


@every_way
async def test_a_usage_that_cannot_be_never_costs_more_than_the_hold_and_told_is_what_is_billed(
    stage: Stage, spoken: Spoken, is_stream: bool
) -> None:
    worst_nano, balance_nano = await stage.worst_nano(spoken, is_stream=is_stream), CREDIT_NANO
    for usage in [*IMPOSSIBLE, (-1, 1), (1, -1)]:
        told = [*spoken.opening(usage[0]), spoken.token(1, usage[0]), *spoken.ending(*usage)] if is_stream else ()
        stage.backend.answer_with(events(*told) if is_stream else whole(spoken.whole(*usage)))
        response = await stage.ask(spoken, is_stream=is_stream)
        record = (await stage.records())[-1]
        prompt, output, cost = (record[name] for name in ("prompt_tokens", "completion_tokens", "cost_nano"))
        assert 0 < cost == cost_nano(prompt, output) <= worst_nano, usage
        read, cost_usd = spoken.told(response, is_stream=is_stream)
        assert read is not None
        assert (*read[:2], cost_usd) == (prompt, output, format_usd(cost)), usage
        assert await stage.door.balance_nano(stage.account_id) == (balance_nano := balance_nano - cost)


async def invalid_usages(door: Door) -> float:
    return await metric(door, r'gateway_usage_invalid_total{backend="vllm-1"}')


async def metric(door: Door, name: str) -> float:
    found = re.search(re.escape(name) + r" (\S+)", (await door.http.get("/metrics")).text)
    return float(found[1]) if found is not None else 0.0


@pytest.mark.parametrize("choices", [1, 2])
async def test_several_answers_may_reach_the_limit_each(stage: Stage, choices: int) -> None:
    stage.backend.answer_with(unary(10, 16 * choices))
    await stage.ask(max_tokens=16, n=choices)
    await stage.is_left_with(CREDIT_NANO - cost_nano(10, 16 * choices))


async def test_the_limit_is_the_one_that_was_sent_whichever_field_bore_it(stage: Stage) -> None:
    """vLLM prefers max_completion_tokens."""
    stage.backend.answer_with(unary(10, 20), unary(10, 21))
    for _ in range(2):
        await stage.ask(max_tokens=500, max_completion_tokens=20)
    await stage.is_left_with(CREDIT_NANO - cost_nano(10, 20) - cost_nano(10, 2))


@pytest.mark.parametrize(
    "reason", [b"5", b"[]", b'["stop"]', b"{}", b"true", b"null", b'"' + b"x" * 65 + b'"', b'"a\\nb"']
)
async def test_a_finish_reason_that_is_no_word_is_none(stage: Stage, reason: bytes) -> None:
    choice = b'{"message":{},"finish_reason":%b}' % reason
    usage = b'{"prompt_tokens":3,"completion_tokens":1}'
    stage.backend.answer_with(whole(b'{"model":"tiny","choices":[%b],"usage":%b}' % (choice, usage)))
    answer = await stage.ask()
    assert answer.status_code == 200
    assert (await stage.records())[-1]["finish_reason"] is None
    await stage.is_left_with(CREDIT_NANO - cost_nano(3, 1))


@every_way
async def test_guests_test_keys_and_free_models_pay_nothing(stage: Stage, spoken: Spoken, is_stream: bool) -> None:
    test_key = await stage.door.key(stage.account_id, is_test=True)
    stage.backend.answer_with(*[answers(spoken)] * 2)
    responses = [
        await spoken.ask(stage.door, None, model="shared/tiny", is_stream=is_stream),
        await spoken.ask(stage.door, test_key, is_stream=is_stream),
        await stage.ask(spoken, model="free/tiny", is_stream=is_stream),
    ]
    assert [spoken.refusal_of(response) for response in responses] == [None] * 3
    assert [record["cost_nano"] for record in await stage.records()] == [0, 0]
    await stage.is_left_with(CREDIT_NANO)


@every_way
async def test_the_demo_tells_a_test_key_the_same_each_time_and_no_backend_is_asked(
    stage: Stage, spoken: Spoken, is_stream: bool
) -> None:
    test_key = await stage.door.key(stage.account_id, is_test=True)
    told = []
    for _ in range(2):
        response = await spoken.ask(stage.door, test_key, text="Say it again.", is_stream=is_stream)
        assert spoken.refusal_of(response) is None, response.text
        usage, cost_usd = spoken.told(response, is_stream=is_stream)
        assert usage is not None
        assert (usage.prompt_tokens > 0, usage.completion_tokens > 0) == (True, spoken.is_generated)
        assert cost_usd == "0.00"
        told.append(lasting(spoken.events(response.content) if is_stream else spoken.answer(response)))
    assert told[0] == told[1]
    assert stage.backend.chats == []
    assert [record["backend"] for record in await stage.records()] == ["demo", "demo"]


def lasting(told: Any) -> Any:
    """What is no name or time of one answer."""
    passing = ("id", "item_id", "request_id", "created", "created_at")
    if isinstance(told, dict):
        return {name: lasting(value) for name, value in told.items() if name not in passing}
    return [lasting(value) for value in told] if isinstance(told, list) else told


# Who leaves early


@every_streaming_surface
async def test_a_client_that_leaves_a_stream_at_any_frame_pays_the_prompt_and_the_tokens_that_came(
    stage: Stage, spoken: Spoken
) -> None:
    """What its backend tells of usage by then, or counts of the prompt, is the same here."""
    stage.backend.prompt_tokens = 9
    opening = spoken.opening(9)
    frames = [*opening, *(spoken.token(number, 9) for number in range(1, 4))]
    for count in range(len(frames) + 1):
        leaver = await stage.credited(CREDIT_NANO)
        stage.backend.answer_with(in_two(frames[:count], asyncio.Event(), ()))
        if count <= spoken.held_back:
            await leaver.leave_once_asked(spoken, is_stream=True)
        else:
            await leave_after(leaver, spoken, count)
        (chat,) = stage.backend.chats
        assert not chat.is_answered
        tokens = max(0, count - len(opening))
        await leaver.is_left_with(CREDIT_NANO - cost_nano(9, tokens))
        (record,) = await leaver.records()
        assert (record["http_status"], record["error_code"]) == (499, "client_closed")
        assert (record["prompt_tokens"], record["completion_tokens"]) == (9, tokens)
        assert record["cost_nano"] == cost_nano(9, tokens)


@every_streaming_surface
async def test_a_client_that_leaves_pays_for_no_more_tokens_than_were_held(stage: Stage, spoken: Spoken) -> None:
    frames = [*spoken.opening(), *(spoken.token(number) for number in range(1, 31))]
    stage.backend.answer_with(in_two(frames, asyncio.Event(), ()))
    await leave_after(stage, spoken, len(frames))
    await stage.is_left_with(CREDIT_NANO - cost_nano(10, 16))


@every_generating_surface
async def test_who_leaves_a_long_answer_in_one_piece_pays_for_what_was_made_where_it_is_a_stream_behind_us(
    stage: Stage, spoken: Spoken
) -> None:
    frames = [*spoken.opening(), spoken.token(1), spoken.token(2)]
    stage.backend.answer_with(in_two(frames, asyncio.Event(), ()))
    asking = asyncio.create_task(stage.ask(spoken, **{spoken.limit_field: 1500}))
    (chat,) = await stage.backend.chats_asked(1)
    if is_collected := chat.json.get("stream") is True:
        await eventually(lambda: any(map(has_both, stage.door.gateway.inference.running)))
    asking.cancel()
    await chat.gone()
    assert is_collected == spoken.is_collected
    await stage.is_left_with(CREDIT_NANO - cost_nano(10, 2 if is_collected else 0))


def has_both(exchange: Exchange) -> bool:
    answer = exchange._answer
    return answer is not None and answer.collecting is not None and answer.collecting.seen.output_tokens > 1


async def leave_after(stage: Stage, spoken: Spoken, events: int) -> None:
    """Ask for a stream, and hang up once so many events of it have come."""
    body, headers = orjson.dumps(spoken.body(is_stream=True)), bearer(stage.key) | spoken.sent_headers
    async with stage.door.http.stream("POST", spoken.path, content=body, headers=headers) as response:
        seen = b""
        async for piece in response.aiter_raw():
            seen += piece
            if len(spoken.events(seen)) == events:
                break
    await stage.backend.chats[0].gone()


@each("counted", [37, None])
@every_way
async def test_a_client_that_leaves_before_its_answer_pays_the_prompt_where_the_backend_counts_it(
    stage: Stage, spoken: Spoken, is_stream: bool, counted: int | None
) -> None:
    stage = await stage.credited(CREDIT_NANO)
    stage.backend.prompt_tokens = counted
    stage.backend.answer_with(silence)
    await stage.leave_once_asked(spoken, is_stream=is_stream)
    cost = 0 if counted is None else cost_nano(37, 0)
    await stage.is_left_with(CREDIT_NANO - cost)
    (record,) = await stage.records()
    assert (record["error_code"], record["cost_nano"]) == ("client_closed", cost)


async def test_a_prompt_is_counted_with_its_tools(stage: Stage) -> None:
    stage.backend.prompt_tokens = 37
    stage.backend.answer_with(silence)
    await stage.leave_once_asked(tools=[{"type": "function", "function": {"name": "f"}}])
    await stage.is_left_with(CREDIT_NANO - cost_nano(37, 0))
    (counted,) = [asked.json for asked in stage.backend.asked if asked.path == "/tokenize"]
    assert set(counted) == {"model", "messages", "tools"}


@pytest.mark.parametrize("counted", [-1, -(2**62), 2049, 10**14, 2**62, 2**63, 2**200])
async def test_a_count_of_the_prompt_that_cannot_be_is_neither_billed_nor_credited(stage: Stage, counted: int) -> None:
    stage.backend.answer_with(silence)
    stage.backend.prompt_tokens = counted
    await stage.leave_once_asked()
    await stage.is_left_with(CREDIT_NANO)


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize(
    ("model", "counted", "kept"),
    [("priced/tiny", 37, 37), ("priced/tiny", None, None), ("free/tiny", 37, None)],
)
async def test_who_leaves_before_the_answer_keeps_the_prompt_s_tokens_a_minute(
    stage: Stage, model: str, counted: int | None, kept: int | None, is_stream: bool
) -> None:
    key = await stage.door.key(stage.account_id, limits=OwnLimits(None, None, 1000, None))
    leaver = Stage(stage.door, stage.backend, stage.account_id, key)
    stage.backend.answer_with(silence)
    stage.backend.prompt_tokens = counted
    fields: dict[str, Any] = {"model": model, "is_stream": is_stream}
    estimate = parse_chat(orjson.dumps(CHAT_SPOKEN.body(**fields))).prompt.text_bytes // 3
    await leaver.leave_once_asked(**fields)
    await stage.door.nothing_is_left()
    left = (await stage.door.get("/v1/limits", key)).json()["tokens_per_minute"]["remaining"]
    assert 1000 - left == (estimate if kept is None else kept)


async def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing_behind(stage: Stage) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {stage.key}\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", stage.door.port)
    writer.write(f"{head}content-type: application/json\r\ncontent-length: 1000\r\n\r\n{{".encode())
    await eventually(lambda: stage.door.server.server_state.tasks)
    assert stage.door.gateway.limiter.in_flight == 0  # a place is for a request that is whole
    writer.close()
    await writer.wait_closed()
    await stage.is_left_with(CREDIT_NANO)
    assert stage.backend.chats == []


async def test_a_stream_of_two_choices_pays_for_both_whether_read_or_left(stage: Stage) -> None:
    def piece(index: int, tokens: int) -> bytes:
        return chunk("x", 9, tokens).replace(b'"index":0', b'"index":%d' % index)

    async def some(asked: Any) -> None:
        asked.start_stream()
        for frame in (piece(0, 1), piece(1, 1), piece(1, 2), piece(1, 3), piece(0, 2)):
            asked.send_event(frame)
        await silence(asked)

    stage.backend.answer_with(some)
    body = chat_body(model="priced/tiny", stream=True, n=2, temperature=1)
    async with stage.door.http.stream("POST", "/v1/chat/completions", json=body, headers=bearer(stage.key)) as response:
        seen = b""
        async for data in response.aiter_bytes():
            seen += data
            if len(contents([seen[: seen.rfind(b"\n\n") + 2]])) == 5:
                break
    await stage.backend.chats[0].gone()
    await stage.is_left_with(CREDIT_NANO - cost_nano(9, 5))
