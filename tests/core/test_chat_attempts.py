"""One backend after the other, without a door: what is made again elsewhere, and what is not; billed once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from mcp_gateway.core.bytes_in_flight import BytesInFlight
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import LONG_BYTES
from mcp_gateway.core.ledger.ledger import SettlementPending
from mcp_gateway.core.ledger.purse import Hold
from tests.captured import captured
from tests.core.test_chat import Stage, open_stage, read_frames, request
from tests.loop_clock import pass_time
from tests.patience import eventually
from tests.replaying import Answer, Asked, ReplayingBackend, events, held, silence, stream, unary, whole
from tests.serving import FREE, MESSAGES, PRICED

pytestmark = pytest.mark.gateways
WINDOW = 2048
MOST_BYTES = 512 * 1024
UNARY_S = 30.0
COST = 5800


class Two:
    """Two backends that have the same model: of the answers each chat takes the next, whichever it is sent to."""

    def __init__(self, stage: Stage, backends: tuple[ReplayingBackend, ReplayingBackend]) -> None:
        self.stage = stage
        self.backends = backends

    def answer_with(self, *answers: Answer) -> None:
        left = list(answers)

        async def next_one(asked: Asked) -> None:
            await left.pop(0)(asked)

        for backend in self.backends:
            backend.standing = next_one

    @property
    def chats(self) -> list[Asked]:
        return [asked for backend in self.backends for asked in backend.chats]

    async def code_of(self, **fields: Any) -> str | None:
        """What an answer is refused with; None for one that is given."""
        context = fields.pop("context", None)
        try:
            with await self.stage.exchange(context=context) as exchange:
                await exchange.begin(request(**fields))
        except GatewayError as error:
            return error.code
        return None


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    upstream = {"max_response_bytes": MOST_BYTES, "unary_timeout_s": UNARY_S, "collect_above_tokens": -1}
    async with (
        ReplayingBackend(max_model_len=WINDOW) as first,
        ReplayingBackend(max_model_len=WINDOW) as second,
        open_stage(tmp_path, first, second, models=[PRICED, FREE], upstream=upstream) as stage,
    ):
        yield Two(stage, (first, second))


async def cut_off(asked: Asked) -> None:
    """Break off in the middle of a body."""
    asked.send(b'HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{"choices":[{"finish_reason":"stop"')
    asked.transport.close()


def ended_by(reason: str) -> Answer:
    body = orjson.loads(captured("100_chat").body)
    body["choices"][0]["finish_reason"] = reason
    return whole(orjson.dumps(body))


ENGINE_DEAD = b'data: {"error":{"message":"EngineCore encountered an issue","code":500}}\n\n'


@pytest.mark.parametrize(
    ("failing", "is_stream"),
    [
        (cut_off, False),
        (ended_by("abort"), False),
        (whole(b"{}"), False),
        (whole(b'{"error":{"message":"aborted","code":500}}', 500), False),
        (events(ENGINE_DEAD), True),
        (whole(b"", 503), True),
    ],
)
async def test_what_fails_before_anything_was_delivered_is_made_elsewhere_and_billed_once(
    two: Two, failing: Answer, is_stream: bool
) -> None:
    two.answer_with(failing, events(*stream(10, 4)) if is_stream else unary(10, 4))
    with await two.stage.exchange() as exchange:
        await exchange.begin(request(stream=is_stream))
        if is_stream:
            assert b'"error"' not in b"".join([frames async for frames in read_frames(exchange)])
        else:
            assert orjson.loads(exchange.body)["model"] == "priced/tiny"
    assert [len(backend.chats) for backend in two.backends] == [1, 1]
    await two.stage.is_accounted_for(COST, None)


async def test_what_fails_everywhere_is_told_and_billed_nothing(two: Two) -> None:
    two.answer_with(cut_off, cut_off)
    assert await two.code_of() == "backend_died"
    assert len(two.chats) == 2
    await two.stage.is_accounted_for(0, "backend_died")


@pytest.mark.parametrize(("gauges", "asked"), [(None, 1), (0, 2)], ids=["it may work", "it is idle"])
async def test_an_answer_that_takes_too_long_is_not_computed_twice_where_its_backend_may_work(
    two: Two, gauges: int | None, asked: int
) -> None:
    for backend in two.backends:
        backend.running = gauges
    await two.stage.gateway.pool.discover()
    two.answer_with(silence, unary())
    asking = asyncio.ensure_future(two.code_of())
    await eventually(lambda: two.chats)
    await two.stage.gateway.pool.discover()
    pass_time(UNARY_S + 1)
    assert await asking == ("backend_error" if asked == 1 else None)
    assert len(two.chats) == asked


async def test_an_answer_whose_bill_cannot_be_written_is_refused_and_neither_billed_nor_made_again(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled = two.stage.gateway.ledger.settle

    async def late(hold: Hold, *arguments: Any, **options: Any) -> int:
        await settled(hold, *arguments, **options)
        raise SettlementPending(hold, asyncio.get_running_loop().create_future())

    monkeypatch.setattr(two.stage.gateway.ledger, "settle", late)
    with pytest.raises(GatewayError, match="ledger_unavailable"), await two.stage.exchange() as exchange:
        await exchange.begin(request())
    assert (exchange.body, exchange.facts.cost_nano, len(two.chats)) == (b"", 0, 1)
    await two.stage.is_accounted_for(0, "ledger_unavailable")


async def test_an_answer_that_is_too_large_is_not_made_again_nor_held_against_its_backend(two: Two) -> None:
    two.answer_with(unary(content="x" * MOST_BYTES))
    assert await two.code_of() == "backend_error"
    assert len(two.chats) == 1
    assert [backend.status for backend in two.stage.gateway.pool.backends] == ["up", "up"]
    await two.stage.is_accounted_for(0, "backend_error")


# -- memory


@pytest.mark.parametrize("size_bytes", [10 * 1024, 300 * 1024])
async def test_a_large_answer_is_counted_until_it_is_handed_over(two: Two, size_bytes: int) -> None:
    room = two.stage.gateway.bytes_in_flight
    two.answer_with(unary(10, 4, content="x" * size_bytes))
    with await two.stage.exchange(context=RequestContext("req_1", None, "192.0.2.1", room)) as exchange:
        await exchange.begin(request())
        assert room.used_bytes == (0 if size_bytes < 64 * 1024 else 512 * 1024)
    assert room.used_bytes == 0
    await two.stage.is_accounted_for(COST, None)


async def test_where_there_is_no_room_for_an_answer_it_is_refused_and_not_made_again(two: Two) -> None:
    full = BytesInFlight(1024, wait_s=0)
    two.answer_with(unary(content="x" * 100 * 1024))
    assert await two.code_of(context=RequestContext("req_1", None, "192.0.2.1", full)) == "overloaded"
    assert len(two.chats) == 1
    assert full.used_bytes == 0
    await two.stage.is_accounted_for(0, "overloaded")


async def test_a_long_request_lets_others_have_a_turn_before_it_is_sent(two: Two) -> None:
    for content, is_sent_at_once in (("x" * LONG_BYTES, False), ("x", True)):
        messages = [{"role": "user", "content": content}]
        asked = request(model="free/tiny", messages=messages, max_tokens=5)
        with await two.stage.exchange() as exchange:
            asking = asyncio.ensure_future(exchange.begin(asked))
            await asyncio.sleep(0)
            assert bool(sum(backend.work.in_flight for backend in two.stage.gateway.pool.backends)) == is_sent_at_once
            await asking
    assert sorted(len(asked.json["messages"][0]["content"]) for asked in two.chats) == [1, LONG_BYTES]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_of_a_request_that_was_sent_only_its_bytes_are_kept_until_its_answer_begins(
    two: Two, is_stream: bool
) -> None:
    asked, begins = request(stream=is_stream), asyncio.Event()
    two.answer_with(held(begins, events(*stream(10, 4)) if is_stream else unary(10, 4)))
    with await two.stage.exchange() as exchange:
        beginning = asyncio.ensure_future(exchange.begin(asked))
        await eventually(lambda: two.chats)
        assert asked.body == {}
        asked.take_out()
        assert asked.body["messages"] == MESSAGES
        begins.set()
        await beginning
        assert asked.body == {}
        asked.take_out()
        assert asked.body == {}


# -- a prompt and a limit that do not fit a window together


def as_before_0_32(prompt_tokens: int, *, tells_prompt: bool = True) -> Answer:
    """A server that refuses a limit which its window does not leave beside the prompt."""

    async def answer(asked: Asked) -> None:
        limit = asked.json.get("max_tokens") or 0
        if prompt_tokens + limit <= WINDOW:
            return await unary(10, 4)(asked)
        message = (
            f"This model's maximum context length is {WINDOW} tokens. However, you requested {limit} output tokens"
        )
        if tells_prompt:
            message += f" and your request has {prompt_tokens} input tokens"
        return await whole(orjson.dumps({"error": {"message": message, "code": 400}}), 400)(asked)

    return answer


@pytest.mark.parametrize(
    ("prompt_tokens", "tells_prompt", "counted", "asked", "sent"),
    [
        (300, True, None, 10**6, [WINDOW, None]),
        (300, True, None, 1900, [1900, WINDOW - 300]),
        (300, False, 300, 1900, [1900, WINDOW - 300]),
        (300, False, None, 1900, [1900]),
        (5000, True, None, 1900, [1900]),
        (100, True, None, 1900, [1900]),
        (5000, True, None, 10**6, [WINDOW, None]),
    ],
)
async def test_a_limit_that_does_not_fit_is_lowered_or_left_out_once(
    two: Two, prompt_tokens: int, tells_prompt: bool, counted: int | None, asked: int, sent: list[int | None]
) -> None:
    for backend in two.backends:
        backend.prompt_tokens = counted
        backend.standing = as_before_0_32(prompt_tokens, tells_prompt=tells_prompt)
    code = await two.code_of(max_tokens=asked)
    assert [one.json.get("max_tokens") for one in two.chats] == sent
    assert [one.json["messages"] for one in two.chats] == [MESSAGES] * len(sent)
    fits = prompt_tokens + (sent[-1] or 0) <= WINDOW
    assert code == (None if fits else "context_length_exceeded")
    await two.stage.is_accounted_for(COST if fits else 0, code)
