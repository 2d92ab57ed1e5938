"""An account whose running requests hold its money: who asks meanwhile waits for it, or is told to come again."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx2
import openai
import pytest
import pytest_asyncio

from mcp_gateway.core.ledger.entries import Hold
from mcp_gateway.core.money import format_usd
from tests.captured import captured
from tests.patience import PATIENCE_S, eventually
from tests.replaying import Answer, ReplayingBackend, events, replayed, stream, unary
from tests.serving import MESSAGES, PRICED, Door, bearer, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

CREDIT_NANO = 10**7
MCP = {"mcp-protocol-version": "2025-06-18", "accept": "application/json, text/event-stream"}
CALL = {
    "jsonrpc": "2.0", "id": 1, "method": "tools/call",
    "params": {"name": "chat_completion", "arguments": {"model": PRICED["id"], "messages": MESSAGES, "max_tokens": 16}},
}  # fmt: skip
CHAT = {"model": PRICED["id"], "messages": MESSAGES, "max_tokens": 16}
RESPONSES = {"model": PRICED["id"], "input": "hello", "max_output_tokens": 16}
COMPLETION = {"model": PRICED["id"], "prompt": "hello", "max_tokens": 16}
ASKS: Mapping[str, tuple[str, dict[str, Any], Answer]] = {
    "chat": ("/v1/chat/completions", CHAT, unary(10, 4)),
    "chat streamed": ("/v1/chat/completions", CHAT | {"stream": True}, events(*stream(10, 4))),
    "completions": ("/v1/completions", COMPLETION, replayed(captured("500_completion"))),
    "messages": ("/v1/messages", CHAT, replayed(captured("540_messages"))),
    "messages streamed": ("/v1/messages", CHAT | {"stream": True}, replayed(captured("541_messages_stream"))),
    "responses": ("/v1/responses", RESPONSES, replayed(captured("520_responses"))),
    "responses streamed": (
        "/v1/responses", RESPONSES | {"stream": True}, replayed(captured("521_responses_stream")),
    ),
    "mcp": ("/v1/mcp", CALL, events(*stream(10, 4))),
}  # fmt: skip


@dataclass
class Stage:
    """An account whose whole wallet is held for a request that runs."""

    door: Door
    backend: ReplayingBackend
    account_id: str
    key: str
    running: Hold

    async def ask(self, name: str) -> httpx2.Response:
        path, body, answer = ASKS[name]
        self.backend.answer_with(answer)
        headers = bearer(self.key) | (MCP if name == "mcp" else {})
        return await self.door.http.post(path, json=body, headers=headers)

    async def end(self, cost_nano: int) -> None:
        await self.door.gateway.ledger.settle(self.running, cost_nano, None)


@asynccontextmanager
async def staged(door: Door, backend: ReplayingBackend) -> AsyncIterator[Stage]:
    ledger = door.gateway.ledger
    account_id = await door.account(format_usd(CREDIT_NANO))
    running = await ledger.hold(f"req_of_{account_id}", account_id, CREDIT_NANO, CREDIT_NANO)
    yield Stage(door, backend, account_id, await door.key(account_id), running)
    await ledger.void(running.request_id, None)
    await door.nothing_is_left()


@asynccontextmanager
async def served(folder: Path, hold_wait_s: float) -> AsyncIterator[tuple[Door, ReplayingBackend]]:
    settings: dict[str, Any] = {"models": [PRICED], "wallet": {"hold_wait_s": hold_wait_s}}
    async with ReplayingBackend() as backend, open_door(folder, vllm_urls=[backend.url], **settings) as door:
        yield door, backend


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _patient(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Door, ReplayingBackend]]:
    async with served(tmp_path_factory.mktemp("patient"), 1000.0) as both:
        yield both


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _impatient(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Door, ReplayingBackend]]:
    async with served(tmp_path_factory.mktemp("impatient"), 0.0) as both:
        yield both


@pytest_asyncio.fixture(loop_scope="module")
async def patient(_patient: tuple[Door, ReplayingBackend]) -> AsyncIterator[Stage]:
    async with staged(*_patient) as stage:
        yield stage


@pytest_asyncio.fixture(loop_scope="module")
async def impatient(_impatient: tuple[Door, ReplayingBackend]) -> AsyncIterator[Stage]:
    async with staged(*_impatient) as stage:
        yield stage


@pytest.mark.parametrize("name", ASKS)
async def test_it_is_served_once_the_running_request_leaves_enough(patient: Stage, name: str) -> None:
    asking = asyncio.create_task(patient.ask(name))
    await eventually(lambda: patient.door.gateway.ledger._wait_list)
    assert not asking.done()
    assert patient.backend.chats == []
    await patient.end(CREDIT_NANO // 2)
    answer = await asking
    assert answer.status_code == 200
    assert await patient.door.gateway.lifecycle.wait_until_idle(PATIENCE_S)
    sql = "SELECT http_status, cost_nano FROM requests WHERE account_id = ?"
    [(status, cost_nano)] = await patient.door.rows(sql, patient.account_id)
    assert status == 200
    assert 0 < cost_nano == CREDIT_NANO // 2 - await patient.door.balance_nano(patient.account_id)


@pytest.mark.parametrize("name", ASKS)
async def test_who_leaves_while_it_waits_pays_and_holds_nothing(patient: Stage, name: str) -> None:
    asking = asyncio.create_task(patient.ask(name))
    await eventually(lambda: patient.door.gateway.ledger._wait_list)
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking
    await eventually(lambda: patient.door.gateway.limiter.in_flight == 0)
    await patient.end(0)
    await patient.door.nothing_is_left()
    assert await patient.door.balance_nano(patient.account_id) == CREDIT_NANO


@pytest.mark.parametrize("name", ASKS)
async def test_after_that_it_is_told_to_come_again(impatient: Stage, name: str) -> None:
    answer = await impatient.ask(name)
    if name == "mcp":
        told = answer.json()["result"]["structuredContent"]
        assert "get_balance" not in told["message"]
        assert "running requests" in told["message"]
    else:
        told = answer.json()["error"]
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert "x-should-retry" not in answer.headers
    if "messages" in name:
        assert told["type"] == "rate_limit_error"
    else:
        assert (told["type"], told["code"]) == ("insufficient_balance", "balance_held")
        assert (told["balance_usd"], told["held_usd"], told["holding_requests"]) == ("0.00", "0.01", 1)
    assert impatient.backend.chats == []


async def test_openais_sdk_tries_again_what_is_held_and_not_what_is_missing(
    impatient: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    async def note(response: httpx2.Response) -> None:
        tries.append(response.status_code)
        if len(tries) == 2:
            await impatient.end(CREDIT_NANO)  # and so nothing is held any more, and nothing there

    monkeypatch.setattr(openai.AsyncOpenAI, "_calculate_retry_timeout", lambda *_: 0)
    async with httpx2.AsyncClient(event_hooks={"response": [note]}) as http:
        client = openai.AsyncOpenAI(
            api_key=impatient.key, base_url=f"{impatient.door.url}/v1", max_retries=5, http_client=http
        )
        with pytest.raises(openai.APIStatusError) as raised:
            await client.chat.completions.create(model=PRICED["id"], messages=cast(Any, MESSAGES), max_tokens=16)
    assert tries == [429, 429, 402]
    assert raised.value.response.headers["x-should-retry"] == "false"
