"""An account whose running requests hold its money: who asks meanwhile waits for it, or is told to come again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx2
import openai
import pytest
import pytest_asyncio

from mcp_gateway.core.ledger.purse import Hold
from tests.patience import PATIENCE_S, eventually
from tests.replaying import ReplayingBackend
from tests.serving import MESSAGES, Door, open_door
from tests.stage import PRICED, Stage, staged
from tests.surfaces import CHAT_SPOKEN, ChatTool, Messages, Spoken, answers, every_way

pytestmark = [pytest.mark.surfaces, pytest.mark.asyncio(loop_scope="module")]

CREDIT_NANO = 10**7


@dataclass
class HoldingStage(Stage):
    """An account whose whole wallet is held for a request that runs."""

    running: Hold

    async def ask(self, spoken: Spoken = CHAT_SPOKEN, **fields: Any) -> httpx2.Response:
        self.backend.answer_with(answers(spoken))
        return await super().ask(spoken, **fields)

    async def end(self, cost_nano: int) -> None:
        await self.door.gateway.ledger.settle(self.running, cost_nano, None)


@asynccontextmanager
async def holding(door: Door, backend: ReplayingBackend) -> AsyncIterator[HoldingStage]:
    ledger, stage = door.gateway.ledger, await staged(door, backend, CREDIT_NANO)
    running = await ledger.hold(f"req_of_{stage.account_id}", stage.account_id, CREDIT_NANO, CREDIT_NANO)
    yield HoldingStage(door, backend, stage.account_id, stage.key, running)
    ledger.release(running.request_id)
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
async def patient(_patient: tuple[Door, ReplayingBackend]) -> AsyncIterator[HoldingStage]:
    async with holding(*_patient) as stage:
        yield stage


@pytest_asyncio.fixture(loop_scope="module")
async def impatient(_impatient: tuple[Door, ReplayingBackend]) -> AsyncIterator[HoldingStage]:
    async with holding(*_impatient) as stage:
        yield stage


@every_way
async def test_it_is_served_once_the_running_request_leaves_enough(
    patient: HoldingStage, spoken: Spoken, is_stream: bool
) -> None:
    asking = asyncio.create_task(patient.ask(spoken, is_stream=is_stream))
    await eventually(lambda: patient.door.gateway.ledger._wait_list)
    assert not asking.done()
    assert patient.backend.chats == []
    await patient.end(CREDIT_NANO // 2)
    answer = await asking
    assert answer.status_code == 200
    [record] = await patient.records()
    assert record["http_status"] == 200
    assert 0 < record["cost_nano"] == CREDIT_NANO // 2 - await patient.door.balance_nano(patient.account_id)


@every_way
async def test_who_leaves_while_it_waits_pays_and_holds_nothing(
    patient: HoldingStage, spoken: Spoken, is_stream: bool
) -> None:
    asking = asyncio.create_task(patient.ask(spoken, is_stream=is_stream))
    await eventually(lambda: patient.door.gateway.ledger._wait_list)
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking
    await eventually(lambda: patient.door.gateway.limiter.in_flight == 0)
    await patient.end(0)
    await patient.is_left_with(CREDIT_NANO)


@every_way
async def test_after_that_it_is_told_to_come_again(impatient: HoldingStage, spoken: Spoken, is_stream: bool) -> None:
    answer = await impatient.ask(spoken, is_stream=is_stream)
    assert spoken.refusal_of(answer) == spoken.word_for("balance_held")
    if isinstance(spoken, ChatTool):
        told = answer.json()["result"]["structuredContent"]
        assert "get_balance" not in told["message"]
        assert "running requests" in told["message"]
    else:
        told = answer.json()["error"]
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert "x-should-retry" not in answer.headers
    if isinstance(spoken, Messages):
        assert told["type"] == "rate_limit_error"
    else:
        assert (told["type"], told["code"]) == ("insufficient_balance", "balance_held")
        assert (told["balance_usd"], told["held_usd"], told["holding_requests"]) == ("0.00", "0.01", 1)
    assert impatient.backend.chats == []


async def test_openais_sdk_tries_again_what_is_held_and_not_what_is_missing(
    impatient: HoldingStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    async def note(response: httpx2.Response) -> None:
        tries.append(response.status_code)
        if len(tries) == 2:
            await impatient.end(CREDIT_NANO)  # and so nothing is held any more, and nothing there

    monkeypatch.setattr(openai.AsyncOpenAI, "_calculate_retry_timeout", lambda *_: 0)
    async with httpx2.AsyncClient(event_hooks={"response": [note]}, timeout=PATIENCE_S) as http:
        client = openai.AsyncOpenAI(
            api_key=impatient.key, base_url=f"{impatient.door.url}/v1", max_retries=5, http_client=http
        )
        with pytest.raises(openai.APIStatusError) as raised:
            await client.chat.completions.create(model=PRICED["id"], messages=cast(Any, MESSAGES), max_tokens=16)
    assert tries == [429, 429, 402]
    assert raised.value.response.headers["x-should-retry"] == "false"
