"""An answer in one piece that the backend streams, without a door: whole, cut, broken off, or left."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError
from tests.core.test_chat import Stage, finish_reason, open_stage, read_frames, request
from tests.patience import eventually
from tests.replaying import DONE, Answer, Asked, ReplayingBackend, chunk, events, final_usage, in_two, stream, unary
from tests.serving import FREE, PRICED

pytestmark = pytest.mark.gateways
MOST_BYTES = 400 * 1024
UPSTREAM = {"max_response_bytes": MOST_BYTES, "collect_above_tokens": 100, "breaker_failures": 1}
COST = 5800


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with (
        ReplayingBackend() as backend,
        open_stage(tmp_path, backend, models=[PRICED, FREE], upstream=UPSTREAM) as opened,
    ):
        yield opened


def content_of(body: bytes | bytearray) -> Any:
    return orjson.loads(body)["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("fields", "above_tokens", "is_streamed"),
    [
        ({"max_tokens": 100}, None, False),
        ({"max_tokens": 101}, None, True),
        ({}, None, True),
        ({"max_tokens": 100}, 99, True),
        ({"max_tokens": 5}, 0, True),
        ({"max_tokens": 101}, -1, False),
        ({"max_tokens": 101, "logit_bias": {"1": 5}}, 0, False),
    ],
)
async def test_an_answer_is_the_same_however_it_is_asked_for(
    stage: Stage, fields: dict[str, Any], above_tokens: int | None, is_streamed: bool
) -> None:
    with await stage.exchange(collect_above_tokens=above_tokens) as exchange:
        await exchange.begin(request(**fields))
        answer = orjson.loads(exchange.body)
    assert (answer["object"], answer["model"]) == ("chat.completion", "priced/tiny")
    assert exchange.facts.usage is not None
    assert exchange.facts.usage.completion_tokens == 4
    assert stage.backend.chats[0].json.get("stream", False) == is_streamed
    await stage.is_accounted_for(COST, None)


async def test_a_server_that_answers_in_one_piece_all_the_same_is_understood(stage: Stage) -> None:
    stage.backend.answer_with(unary(10, 4, content="whole"))
    with await stage.exchange() as exchange:
        await exchange.begin(request())
        assert content_of(exchange.body) == "whole"
    await stage.is_accounted_for(COST, None)


async def test_its_words_are_known_while_they_come_and_whoever_watches_is_told(stage: Stage) -> None:
    notes: list[str] = []
    rest = asyncio.Event()
    stage.backend.answer_with(in_two([chunk("one ", 10, 1)], rest, [chunk("two", 10, 2, "stop"), DONE]))
    with await stage.exchange() as exchange:
        assert exchange.latest_words == ""
        beginning = asyncio.ensure_future(exchange.begin(request(), lambda: notes.append(exchange.latest_words)))
        await eventually(lambda: notes)
        assert notes == ["one "]
        rest.set()
        await beginning
        assert notes[-1] == "one two"
        assert finish_reason(exchange) == "stop"


BROKEN: dict[str, tuple[Answer, str]] = {
    "its end": (events(chunk("a", 10, 1)), "backend_died"),
    "[DONE]": (events(chunk("a", 10, 1), DONE), "backend_died"),
    "an error": (events(chunk("a", 10, 1), b'data: {"error":{"message":"x","code":500}}\n\n', DONE), "backend_error"),
    "what is no chunk": (events(chunk("a", 10, 1), b'data: {"choices":[{"delta":{}}]}\n\n', DONE), "backend_error"),
    "nothing at all": (events(DONE), "backend_died"),
}


@pytest.mark.parametrize(("answer", "code"), BROKEN.values(), ids=BROKEN)
async def test_an_answer_that_breaks_off_is_refused_and_not_billed(stage: Stage, answer: Answer, code: str) -> None:
    stage.backend.answer_with(answer)
    with pytest.raises(GatewayError, match=code), await stage.exchange() as exchange:
        await exchange.begin(request())
    assert exchange.body == b""
    assert stage.gateway.pool.backends[0].status == "failing"
    await stage.is_accounted_for(0, code)


async def test_an_answer_that_gets_too_large_is_cut_and_billed_as_far_as_it_was_delivered(stage: Stage) -> None:
    frames = [chunk("x" * 100_000, 10, number) for number in range(1, 9)]
    stage.backend.answer_with(in_two(frames, asyncio.Event(), [final_usage(10, 2000), DONE]))
    with await stage.exchange() as exchange:
        await exchange.begin(request())
        answer = orjson.loads(exchange.body)
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["gateway"] == {"ended_by": "size"}
    delivered = len(content_of(exchange.body)) // 100_000
    assert delivered == 4
    await stage.backend.chats[0].gone()
    assert stage.gateway.pool.backends[0].status == "up"
    await stage.is_accounted_for(10 * 300 + delivered * 700, None)


async def test_who_leaves_pays_for_what_was_made(stage: Stage) -> None:
    async def ask() -> None:
        with await stage.exchange() as exchange:
            await exchange.begin(request())

    stage.backend.answer_with(in_two([chunk("", 10, 0), chunk("a", 10, 1)], asyncio.Event(), []))
    asking = asyncio.ensure_future(ask())
    await eventually(lambda: [exchange.latest_words for exchange in stage.gateway.inference.running] == ["a"])
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await stage.backend.chats[0].gone()
    await stage.is_accounted_for(10 * 300 + 700, "client_closed")


async def test_what_is_kept_of_an_answer_that_comes_is_counted_and_given_back(stage: Stage) -> None:
    room, rest = stage.gateway.bytes_in_flight, asyncio.Event()
    stage.backend.answer_with(in_two([chunk("x" * 300_000, 10, 3)], rest, stream(10, 4)[-3:]))

    async def ask() -> None:
        with await stage.exchange(context=RequestContext("req_1", None, "192.0.2.1", room)) as exchange:
            await exchange.begin(request())
            assert room.used_bytes == 512 * 1024

    asking = asyncio.ensure_future(ask())
    await eventually(lambda: room.used_bytes)
    rest.set()
    await asking
    assert room.used_bytes == 0
    await stage.is_accounted_for(COST, None)


async def test_the_beginning_of_a_frame_that_comes_is_counted_and_given_back(stage: Stage) -> None:
    room, first, rest = stage.gateway.bytes_in_flight, asyncio.Event(), asyncio.Event()
    frame = chunk("x" * 300_000, 10, 3)

    async def in_three(asked: Asked) -> None:
        asked.start_stream()
        asked.send_event(chunk("", 10, 0))
        await first.wait()
        asked.send_event(frame[:200_000])
        await rest.wait()
        for event in (frame[200_000:], *stream(10, 4)[-3:]):
            asked.send_event(event)

    stage.backend.answer_with(in_three)
    with await stage.exchange(context=RequestContext("req_1", None, "192.0.2.1", room)) as exchange:
        await exchange.begin(request(stream=True))
        assert b'"content":""' in await exchange.next_frames()
        first.set()
        reading = asyncio.ensure_future(exchange.next_frames())
        await eventually(lambda: room.used_bytes == 256 * 1024)
        rest.set()
        frames = [await reading, *[frames async for frames in read_frames(exchange)]]
        assert b"x" * 300_000 in b"".join(frames)
    assert room.used_bytes == 0
    await stage.is_accounted_for(COST, None)


async def test_room_for_a_first_frame_that_comes_in_pieces_is_given_back_once_it_is_passed_on(stage: Stage) -> None:
    room, rest = stage.gateway.bytes_in_flight, asyncio.Event()
    frame = chunk("x" * 300_000, 10, 1)
    stage.backend.answer_with(in_two([frame[:200_000]], rest, [frame[200_000:], *stream(10, 4)[-3:]]))
    with await stage.exchange(context=RequestContext("req_1", None, "192.0.2.1", room)) as exchange:
        beginning = asyncio.ensure_future(exchange.begin(request(stream=True)))
        await eventually(lambda: room.used_bytes == 256 * 1024)
        rest.set()
        await beginning
        assert room.used_bytes == 0
        assert b"x" * 300_000 in b"".join([frames async for frames in read_frames(exchange)])
    await stage.is_accounted_for(COST, None)


async def test_a_frame_that_is_larger_than_any_answer_may_be_ends_the_stream(stage: Stage) -> None:
    frame = chunk("x" * 3 * MOST_BYTES, 10, 2)  # more than arrives at once
    stage.backend.answer_with(in_two([chunk("a", 10, 1), frame[:-9]], asyncio.Event(), []))
    context = RequestContext("req_1", None, "192.0.2.1", stage.gateway.bytes_in_flight)
    with await stage.exchange(context=context) as exchange:
        await exchange.begin(request(stream=True))
        frames = b"".join([frames async for frames in read_frames(exchange)])
    assert b"too large" in frames
    await stage.backend.chats[0].gone()
    await stage.is_accounted_for(10 * 300 + 700, "backend_error")
