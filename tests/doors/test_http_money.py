"""What a chat costs: exact to the nano, decided once, and settled by whatever way it ends."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.config import WalletSettings
from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.inference.terms import Quote
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.surfaces.chat import parse_chat
from tests.quoting import quote_of
from tests.replaying import (
    ReplayingBackend,
    chunk,
    contents,
    death,
    events,
    held,
    silence,
    stream,
    unary,
    whole,
)
from tests.serving import FREE, Door, bearer, chat_body, error_of, eventually, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT_PICO, COMPLETION_PICO = 301_007, 703_001
PRICED = {
    "id": "priced/tiny",
    "backend_model": "tiny",
    "context_window": 2048,
    "pricing": {"prompt": "0.000000301007", "completion": "0.000000703001"},
}
SHARED = PRICED | {"id": "shared/tiny", "guests": True}


def cost_nano(prompt_tokens: int, completion_tokens: int) -> int:
    """Rounded up once."""
    return -(-(prompt_tokens * PROMPT_PICO + completion_tokens * COMPLETION_PICO) // 1000)


@dataclass
class Stage:
    door: Door
    backend: ReplayingBackend
    account_id: str
    key: str

    async def chat(self, **fields: Any) -> httpx2.Response:
        return await self.door.chat(self.key, **{"model": "priced/tiny"} | fields)

    def quote(self, **fields: Any) -> Quote:
        request = parse_chat(orjson.dumps(chat_body(**{"model": "priced/tiny"} | fields)))
        model = self.door.gateway.published.current["priced/tiny"]
        return quote_of(model, model.price, request, WalletSettings())

    async def is_left_with(self, balance_nano: int) -> None:
        await self.door.nothing_is_left()
        assert await self.door.balance_nano(self.account_id) == balance_nano

    async def credited(self, amount_nano: int) -> "Stage":
        """Another account with exactly that much."""
        account_id = await self.door.account(format_usd(amount_nano))
        return Stage(self.door, self.backend, account_id, await self.door.key(account_id))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Door, ReplayingBackend]]:
    async with (
        ReplayingBackend() as backend,
        open_door(tmp_path_factory.mktemp("money"), vllm_urls=[backend.url], models=[FREE, PRICED, SHARED]) as door,
    ):
        yield door, backend


CREDIT_NANO = 10**9


@pytest_asyncio.fixture(loop_scope="module")
async def stage(_served: tuple[Door, ReplayingBackend]) -> AsyncIterator[Stage]:
    door, backend = _served
    account_id = await door.account("1")
    backend.answer_with()
    backend.prompt_tokens = 10
    yield Stage(door, backend, account_id, await door.key(account_id))
    await door.nothing_is_left()


@pytest.mark.parametrize(("prompt", "completion"), [(1, 1), (13, 7), (999, 16), (0, 0)])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_answer_costs_its_usage_to_the_nano(
    stage: Stage, prompt: int, completion: int, is_stream: bool
) -> None:
    stage.backend.answer_with(events(*stream(prompt, completion)) if is_stream else unary(prompt, completion))
    response = await stage.chat(stream=is_stream, messages=[{"role": "user", "content": "x" * 1500}])
    assert response.status_code == 200
    await stage.is_left_with(CREDIT_NANO - cost_nano(prompt, completion))
    record = await stage.door.record(response)
    assert record["cost_nano"] == cost_nano(prompt, completion)
    assert (record["prompt_tokens"], record["completion_tokens"]) == (prompt, completion)
    assert record["price_version"] == f"{PROMPT_PICO}/{COMPLETION_PICO}"


async def test_the_last_byte_leaves_after_the_settlement(stage: Stage) -> None:
    for is_stream in (False, True):
        before = await stage.door.balance_nano(stage.account_id)
        assert (await stage.chat(stream=is_stream)).status_code == 200
        assert await stage.door.balance_nano(stage.account_id) == before - cost_nano(10, 4)


async def test_an_empty_wallet_is_402_with_the_balance_and_nothing_is_asked(stage: Stage) -> None:
    poor = await stage.credited(stage.quote().minimum_nano - 1)
    response = await poor.chat()
    error = error_of(response)
    assert (response.status_code, error["type"], error["code"]) == (402,) + ("insufficient_balance",) * 2
    assert error["balance_usd"] == format_usd(stage.quote().minimum_nano - 1)
    assert stage.backend.chats == []
    await poor.is_left_with(stage.quote().minimum_nano - 1)


async def test_a_balance_below_the_worst_case_lowers_max_tokens_and_says_so(stage: Stage) -> None:
    worst = stage.quote(max_tokens=1000)
    poor = await stage.credited(worst.prompt_nano + cost_nano(0, 20))
    stage.backend.answer_with(unary(5, 20))
    response = await poor.chat(max_tokens=1000)
    assert response.headers["x-max-tokens-clamped"] == "20"
    assert stage.backend.chats[0].json["max_tokens"] == 20
    await poor.is_left_with(worst.prompt_nano + cost_nano(0, 20) - cost_nano(5, 20))


async def test_a_wallet_worth_ten_requests_serves_exactly_ten_of_two_hundred_at_once(stage: Stage) -> None:
    fields = {"model": "priced/tiny", "max_tokens": 16}
    request = parse_chat(orjson.dumps(chat_body(**fields)))
    prompt = request.text_bytes + 10  # the backend's own count of the shortest chat
    worst = stage.quote(max_tokens=16)
    assert worst.minimum_nano == worst.maximum_nano == cost_nano(prompt, 16)
    rich = await stage.credited(10 * worst.maximum_nano)
    are_decided = asyncio.Event()
    stage.backend.standing = held(are_decided, unary(prompt, 16))
    refused: list[httpx2.Response] = []

    async def ask(http: httpx2.AsyncClient) -> int:
        response = await http.post("/v1/chat/completions", json=chat_body(**fields), headers=bearer(rich.key))
        if response.status_code == 402:
            refused.append(response)
            if len(refused) == 190:
                are_decided.set()
        return response.status_code

    limits = httpx2.Limits(max_connections=200)
    async with httpx2.AsyncClient(base_url=stage.door.url, timeout=60, limits=limits) as http:
        statuses = await asyncio.gather(*(ask(http) for _ in range(200)))
    stage.backend.standing = None
    assert (statuses.count(200), statuses.count(402)) == (10, 190)
    await rich.is_left_with(0)


@pytest.mark.parametrize(
    "answer",
    [whole(b"{}", 500), whole(b"not json"), whole(b'{"choices":[]}'), whole(b"[1]"), death,
     whole(b'{"error":{"message":"m","type":"BadRequestError","param":null,"code":400}}', 400)],
    ids=["500", "not json", "no choice", "not an object", "death", "400"],
)  # fmt: skip
@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_answer_that_fails_costs_nothing(stage: Stage, answer: Any, is_stream: bool) -> None:
    stage.backend.answer_with(answer, answer)
    response = await stage.chat(stream=is_stream)
    assert error_of(response)
    assert response.status_code in (400, 502)
    await stage.is_left_with(CREDIT_NANO)
    record = await stage.door.record(response)
    assert (record["http_status"], record["cost_nano"]) == (response.status_code, 0)
    assert record["error_code"] == error_of(response)["code"]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_usage_beyond_the_hold_is_billed_as_far_as_the_wallet_reaches(stage: Stage, is_stream: bool) -> None:
    """Its hold was for fewer tokens: the backend's template, or its window, is larger than the configured one."""
    stage.backend.answer_with(events(*stream(2048, 16)) if is_stream else unary(2048, 16))
    answer = await stage.chat(max_tokens=16, stream=is_stream)
    assert cost_nano(2048, 16) > stage.quote(max_tokens=16).maximum_nano
    await stage.is_left_with(CREDIT_NANO - cost_nano(2048, 16))
    assert (await stage.door.record(answer))["cost_nano"] == cost_nano(2048, 16)


async def test_what_no_wallet_covers_is_the_operators_loss_in_a_metric_and_a_log_line(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    credit_nano = stage.quote(max_tokens=16).maximum_nano
    poor = await stage.credited(credit_nano)
    stage.backend.answer_with(unary(2048, 0))
    answer = await poor.chat(max_tokens=16)
    assert answer.headers["x-cost-usd"] == format_usd(credit_nano)
    await poor.is_left_with(0)
    assert (await stage.door.record(answer))["cost_nano"] == credit_nano
    loss_usd = (cost_nano(2048, 0) - credit_nano) / 1e9
    assert f'gateway_unpaid_usd_total{{model="priced/tiny"}} {loss_usd}' in (await stage.door.http.get("/metrics")).text
    assert "more than its account has" in caplog.text


@pytest.mark.parametrize(
    "usage",
    [(2049, 1), (1, 17), (1, 2049), (2**31, 1), (2**53, 1), (2**62, 1), (2**63, 1)],
)
@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_usage_that_cannot_be_is_estimated_and_stands_in_no_sum(
    stage: Stage, usage: tuple[int, int], is_stream: bool
) -> None:
    is_first_to_believe = is_stream and usage[0] <= 2048
    prompt, tokens = usage[0] if is_first_to_believe else 10, min(usage[1], 16) if is_stream else 2
    stage.backend.answer_with(events(*stream(*usage)) if is_stream else unary(*usage))
    before = await invalid_usages(stage.door)
    answer = await stage.chat(max_tokens=16, stream=is_stream)
    assert answer.status_code == 200
    await stage.is_left_with(CREDIT_NANO - cost_nano(prompt, tokens))
    record = await stage.door.record(answer)
    assert (record["prompt_tokens"], record["completion_tokens"]) == (prompt, tokens)
    assert await invalid_usages(stage.door) == before + 1
    for path in ("/v1/usage", "/v1/billing", "/v1/requests", "/stats", "/metrics"):
        assert (await stage.door.get(path, stage.key)).status_code == 200


async def invalid_usages(door: Door) -> float:
    found = re.search(r'gateway_usage_invalid_total\{backend="vllm-1"\} (\S+)', (await door.http.get("/metrics")).text)
    return float(found[1]) if found is not None else 0.0


@pytest.mark.parametrize("choices", [1, 2])
async def test_several_answers_may_reach_the_limit_each(stage: Stage, choices: int) -> None:
    stage.backend.answer_with(unary(10, 16 * choices))
    await stage.chat(max_tokens=16, n=choices)
    await stage.is_left_with(CREDIT_NANO - cost_nano(10, 16 * choices))


async def test_the_limit_is_the_one_that_was_sent_whichever_field_bore_it(stage: Stage) -> None:
    """vLLM prefers max_completion_tokens."""
    stage.backend.answer_with(unary(10, 20), unary(10, 21))
    for _ in range(2):
        await stage.chat(max_tokens=500, max_completion_tokens=20)
    await stage.is_left_with(CREDIT_NANO - cost_nano(10, 20) - cost_nano(10, 2))


@pytest.mark.parametrize(
    "reason", [b"5", b"[]", b'["stop"]', b"{}", b"true", b"null", b'"' + b"x" * 65 + b'"', b'"a\\nb"']
)
async def test_a_finish_reason_that_is_no_word_is_none(stage: Stage, reason: bytes) -> None:
    choice = b'{"message":{},"finish_reason":%b}' % reason
    usage = b'{"prompt_tokens":3,"completion_tokens":1}'
    stage.backend.answer_with(whole(b'{"model":"tiny","choices":[%b],"usage":%b}' % (choice, usage)))
    answer = await stage.chat()
    assert answer.status_code == 200
    assert (await stage.door.record(answer))["finish_reason"] is None
    await stage.is_left_with(CREDIT_NANO - cost_nano(3, 1))


async def test_guests_test_keys_and_free_models_pay_nothing(stage: Stage) -> None:
    test_key = await stage.door.key(stage.account_id, is_test=True)
    for response in (
        await stage.door.chat(model="shared/tiny"),
        await stage.door.chat(test_key, model="priced/tiny"),
        await stage.chat(model="free/tiny"),
    ):
        assert response.status_code == 200
        assert (await stage.door.record(response))["cost_nano"] == 0
    await stage.is_left_with(CREDIT_NANO)


# Who leaves early


@pytest.mark.parametrize("frames", [1, 3])
async def test_a_client_that_leaves_a_stream_pays_for_the_tokens_read_so_far(stage: Stage, frames: int) -> None:
    async def some(asked: Any) -> None:
        asked.start_stream()
        asked.send_event(chunk("", 9, 0))
        for number in range(1, frames + 1):
            asked.send_event(chunk("x", 9, number))
        await silence(asked)

    stage.backend.answer_with(some)
    body = chat_body(model="priced/tiny", stream=True)
    async with stage.door.http.stream("POST", "/v1/chat/completions", json=body, headers=bearer(stage.key)) as response:
        seen = 0
        async for line in response.aiter_lines():
            seen += '"content":"x"' in line
            if seen == frames:
                break
    await stage.backend.chats[0].gone()
    assert not stage.backend.chats[0].is_answered
    await stage.is_left_with(CREDIT_NANO - cost_nano(9, frames))
    record = await stage.door.record(response)
    assert (record["http_status"], record["error_code"]) == (499, "client_closed")


async def leave_once_asked(stage: Stage, **fields: Any) -> None:
    """Send a chat, and hang up when the backend has it."""
    task = asyncio.create_task(stage.chat(**fields))
    (asked,) = await stage.backend.chats_asked(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asked.gone()


async def test_a_client_that_leaves_before_its_answer_pays_the_prompt_that_the_backend_counts(stage: Stage) -> None:
    stage.backend.prompt_tokens = 37
    for count, is_stream in enumerate((True, False), 1):
        stage.backend.answer_with(silence)
        tools = [{"type": "function", "function": {"name": "f"}}]
        await leave_once_asked(stage, tools=tools, stream=is_stream)
        await stage.is_left_with(CREDIT_NANO - count * cost_nano(37, 0))
        (counted,) = [asked.json for asked in stage.backend.asked if asked.path == "/tokenize"]
        assert set(counted) == {"model", "messages", "tools"}


async def test_a_client_that_leaves_a_stream_between_its_head_and_its_first_frame_pays_the_prompt(stage: Stage) -> None:
    stage.backend.prompt_tokens = 37

    async def head_alone(asked: Any) -> None:
        asked.start_stream()
        await silence(asked)

    stage.backend.answer_with(head_alone)
    await leave_once_asked(stage, stream=True)
    await stage.is_left_with(CREDIT_NANO - cost_nano(37, 0))


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_client_that_leaves_before_its_answer_pays_nothing_where_the_prompt_cannot_be_counted(
    stage: Stage, is_stream: bool
) -> None:
    stage.backend.answer_with(silence)
    stage.backend.prompt_tokens = None
    await leave_once_asked(stage, stream=is_stream)
    await stage.is_left_with(CREDIT_NANO)


@pytest.mark.parametrize("counted", [-1, -(2**62), 2049, 10**14, 2**62, 2**63, 2**200])
async def test_a_count_of_the_prompt_that_cannot_be_is_neither_billed_nor_credited(stage: Stage, counted: int) -> None:
    stage.backend.answer_with(silence)
    stage.backend.prompt_tokens = counted
    await leave_once_asked(stage)
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
    fields = {"model": model, "stream": is_stream, "max_tokens": 50}
    estimate = parse_chat(orjson.dumps(chat_body(**fields))).text_bytes // 3
    await leave_once_asked(leaver, **fields)
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
