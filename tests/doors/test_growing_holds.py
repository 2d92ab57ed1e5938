"""An account with little money: a request holds its prompt and a slice of output after the other, as it comes.

So it is admitted for what it is likely to cost, and where the money ends in the middle, so does the answer, at the last
token that is paid.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest
import pytest_asyncio

from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.money import format_usd
from tests.cases import each
from tests.replaying import Asked, ReplayingBackend, events, held
from tests.serving import Door, open_door
from tests.stage import PRICED, Stage, cost_nano, staged
from tests.surfaces import CHAT_SPOKEN, MODEL, SPOKEN, Spoken

pytestmark = [pytest.mark.surfaces, pytest.mark.asyncio(loop_scope="module")]

AGENT: dict[str, Any] = {
    "id": "house/agent",
    "backend_model": "tiny",
    "context_window": 100_000,
    "max_output_tokens": 32_000,
    "pricing": {"prompt": "0.000001", "completion": "0.00001275"},
}
REAL_NANO, WORST_NANO = 60_000 * 1000 + 800 * 12_750, 60_000 * 1000 + 32_000 * 12_750
AGENTS = 16
LONG = 4000
PROMPT = 10
BORDERS = (512, 512 + 1024 + 512, 16)
"""Tokens at which another slice is held, and a few."""
GROWING = [one for one in SPOKEN if one.name in ("chat", "completions")]
every_growing = each("spoken", GROWING)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Door, ReplayingBackend]]:
    settings: dict[str, Any] = {
        "models": [PRICED | {"context_window": 100_000}, AGENT],
        "wallet": {"hold_wait_s": 0, "min_useful_tokens": 1},
    }
    async with (
        ReplayingBackend(max_model_len=100_000) as backend,
        open_door(tmp_path_factory.mktemp("growing"), vllm_urls=[backend.url], **settings) as door,
    ):
        yield door, backend


async def with_tokens(served: tuple[Door, ReplayingBackend], tokens: int, spare_nano: int = 0) -> Stage:
    """An account whose money is worth the prompt and so many tokens of output."""
    return await staged(*served, cost_nano(PROMPT, tokens) + spare_nano)


def long(stage: Stage, spoken: Spoken, made: int = LONG) -> None:
    stage.backend.answer_with(events(*spoken.stream(PROMPT, made)))


def in_steps(spoken: Spoken, made: int, step: int, prompt_tokens: int = PROMPT) -> list[bytes]:
    """The events of a stream each of which brings so many tokens, and the last of them what is left."""
    tokens = [spoken.token(min(number, made), prompt_tokens) for number in range(step, made + step, step)]
    return [*spoken.opening(prompt_tokens), *tokens, *spoken.ending(prompt_tokens, made)]


@every_growing
@each("is_stream", [True, False])
@each("border", BORDERS)
@each("off", [-1, 0, 1])
async def test_an_answer_ends_at_the_last_token_that_is_paid(
    served: tuple[Door, ReplayingBackend], spoken: Spoken, is_stream: bool, border: int, off: int
) -> None:
    tokens = border + off
    stage = await with_tokens(served, tokens)
    long(stage, spoken)
    response = await stage.ask(spoken, is_stream=is_stream, max_tokens=LONG)
    assert "x-max-tokens-clamped" not in response.headers
    assert stage.sent["max_tokens"] == LONG
    usage, cost_usd = spoken.told(response, is_stream=is_stream)
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (PROMPT, tokens)
    assert cost_usd == format_usd(cost_nano(PROMPT, tokens))
    told = response.json() if not is_stream else spoken.events(response.content)[-1]
    assert told["gateway"] == {"ended_by": "balance"}
    (record,) = await stage.records()
    assert (record["completion_tokens"], record["finish_reason"], record["http_status"]) == (tokens, "length", 200)
    rows = await stage.door.rows("SELECT ended_by FROM request_counts WHERE id = ?", record["id"])
    assert rows == [("balance",)]
    await stage.is_left_with(0)


@every_growing
@each("is_stream", [True, False])
async def test_an_answer_that_ends_before_the_money_is_as_ever(
    served: tuple[Door, ReplayingBackend], spoken: Spoken, is_stream: bool
) -> None:
    stage = await with_tokens(served, 1000)
    long(stage, spoken, 800)
    response = await stage.ask(spoken, is_stream=is_stream, max_tokens=LONG)
    usage, cost_usd = spoken.told(response, is_stream=is_stream)
    assert usage is not None
    assert (usage.completion_tokens, cost_usd) == (800, format_usd(cost_nano(PROMPT, 800)))
    assert b"ended_by" not in response.content
    await stage.is_left_with(cost_nano(PROMPT, 1000) - cost_nano(PROMPT, 800))


async def test_what_is_sent_to_the_client_of_a_cut_stream_is_as_of_one_at_its_limit(
    served: tuple[Door, ReplayingBackend],
) -> None:
    stage = await with_tokens(served, 3)
    stage.backend.answer_with(events(*CHAT_SPOKEN.stream(PROMPT, 100)))
    response = await stage.ask(CHAT_SPOKEN, is_stream=True, max_tokens=LONG, stream_options=None)
    told = CHAT_SPOKEN.events(response.content)
    assert CHAT_SPOKEN.pieces(response.content) == ["x"] * 3
    assert [event["choices"][0]["finish_reason"] for event in told] == [None] * (len(told) - 1) + ["length"]
    assert {event["model"] for event in told} == {MODEL}
    assert len({event["id"] for event in told}) == 1
    assert told[-1]["gateway"] == {"ended_by": "balance"}
    assert not any(event.get("usage") for event in told)
    assert response.content.endswith(b"data: [DONE]\n\n")


async def test_openais_sdk_sees_a_normal_end(served: tuple[Door, ReplayingBackend]) -> None:
    stage = await with_tokens(served, 20)
    long(stage, CHAT_SPOKEN)
    async with stage.door.openai(stage.key) as client:
        stream: openai.AsyncStream[Any] = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hello"}], max_tokens=LONG, stream=True
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices[0].finish_reason == "length"
    assert sum(bool(chunk.choices[0].delta.content) for chunk in chunks) == 20


async def test_several_choices_are_clamped_and_not_cut(served: tuple[Door, ReplayingBackend]) -> None:
    stage = await staged(*served, cost_nano(100, 200))
    response = await stage.ask(CHAT_SPOKEN, max_tokens=LONG, n=2)
    assert 0 < CHAT_SPOKEN.clamped_to(response) < LONG
    assert stage.sent["max_tokens"] == CHAT_SPOKEN.clamped_to(response)


async def test_where_money_is_ample_the_worst_case_is_held_and_nothing_is_counted_before(
    served: tuple[Door, ReplayingBackend],
) -> None:
    rich = await staged(*served, 10**12)
    rich.backend.answer_with()
    await rich.ask(CHAT_SPOKEN, max_tokens=100)
    assert rich.backend.counted == []


@each("way", [(CHAT_SPOKEN, True), (CHAT_SPOKEN, False), (SPOKEN[-1], False)])
async def test_agents_that_use_little_of_what_they_ask_for_are_all_served_at_once(
    served: tuple[Door, ReplayingBackend], way: tuple[Spoken, bool]
) -> None:
    """By a wallet that is worth three worst cases, and twenty times what a call costs; over MCP, too."""
    assert 20 * REAL_NANO == 3 * WORST_NANO
    (door, backend), (spoken, is_stream) = served, way
    stage = await staged(door, backend, 20 * REAL_NANO)
    all_are_in = asyncio.Event()
    watched = Watched(door, stage.account_id, in_steps(CHAT_SPOKEN, 800, 16, 60_000))
    backend.answer_with()
    backend.prompt_tokens = 60_000
    backend.standing = held(all_are_in, watched)
    try:
        body = {"model": AGENT["id"], "is_stream": is_stream, "max_tokens": 32_000}
        asked = [asyncio.ensure_future(stage.ask(spoken, **body)) for _ in range(AGENTS)]
        await backend.chats_asked(AGENTS)
        watched.look()
        all_are_in.set()
        answers = await asyncio.gather(*asked)
    finally:
        backend.standing, backend.prompt_tokens = None, 10
    assert [spoken.told(answer, is_stream=is_stream)[1] for answer in answers] == [format_usd(REAL_NANO)] * AGENTS
    assert sum(record["cost_nano"] for record in await stage.records()) == AGENTS * REAL_NANO
    assert len(watched.seen) > AGENTS * 800 // 16
    assert min(watched.seen) >= 0
    await stage.is_left_with(4 * REAL_NANO)


@dataclass
class Watched:
    """Answers with these events; `seen` is what was free in the account's wallet before each of them, in nano-USD."""

    door: Door
    account_id: str
    frames: list[bytes]
    seen: list[int] = field(default_factory=list)

    async def __call__(self, asked: Asked) -> None:
        asked.start_stream()
        for frame in self.frames:
            self.look()
            asked.send_event(frame)
            await asyncio.sleep(0)
        asked.end_stream()

    def look(self) -> None:
        purse = self.door.gateway.ledger._purses.of(self.account_id)
        self.seen.append(purse.spendable_nano(now_ms()))
