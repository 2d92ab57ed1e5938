"""A request whose account has little: what is held of its prompt, and what is billed where no usage is told."""

import asyncio
from pathlib import Path

import orjson
import pytest

from mcp_gateway.core.bytes_in_flight import BytesInFlight
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.inference.terms import quoted_prompt_tokens
from tests.core.test_chat import Stage, open_stage, read_frames, request
from tests.patience import eventually
from tests.replaying import ReplayingBackend, chunk, events, in_two, stream, whole
from tests.stage import held_for_one

pytestmark = pytest.mark.gateways
COUNTED, FIRST_SLICE = 10, 512
CREDIT_NANO = 2_000_000
"""Less than eight worst cases, and enough for one."""
PROMPT_NANO, TOKEN_NANO = 300, 700


def without_usage(frame: bytes) -> bytes:
    told = orjson.loads(frame.removeprefix(b"data:"))
    del told["usage"]
    return b"data: %b\n\n" % orjson.dumps(told)


async def answered(stage: Stage, room: BytesInFlight | None = None) -> bytes:
    """What its client is sent, with so much room for what is kept of it."""
    context = None if room is None else RequestContext("req_1", None, "192.0.2.1", room)
    with await stage.exchange(context=context) as exchange:
        await exchange.begin(request(stream=True))
        return b"".join([frames async for frames in read_frames(exchange)])


def quoted(stage: Stage) -> int:
    """Tokens of the prompt at most, by its bytes."""
    model, wallet = stage.gateway.published.current["priced/tiny"], stage.gateway.settings.wallet
    return quoted_prompt_tokens(request(stream=True), model, wallet, None)


@pytest.mark.parametrize("can_count", [True, False])
async def test_the_prompt_is_held_as_it_was_counted_and_else_by_its_bytes(
    tmp_path: Path, backend: ReplayingBackend, can_count: bool
) -> None:
    async with open_stage(tmp_path, backend, credit_nano=CREDIT_NANO) as stage:
        if not can_count:
            backend.counts = whole(b'{"detail":"Not Found"}', 404)
        backend.note = stage.gateway.ledger.held_now
        backend.answer_with(events(*stream(COUNTED, 4)))
        prompt_tokens = COUNTED if can_count else quoted(stage)
        assert quoted(stage) > COUNTED
        await answered(stage)
        assert held_for_one(backend) == prompt_tokens * PROMPT_NANO + FIRST_SLICE * TOKEN_NANO
        await stage.is_accounted_for(COUNTED * PROMPT_NANO + 4 * TOKEN_NANO, None)


@pytest.mark.parametrize(
    ("policy", "came", "billed"),
    [("hold", 4, (COUNTED, FIRST_SLICE)), ("hold", 513, (COUNTED, 1537)), ("estimate", 4, (COUNTED, 4)),
     ("estimate", 513, (COUNTED, 513)), ("free", 4, (0, 0))],
)  # fmt: skip
async def test_without_a_usage_no_more_is_billed_than_is_held_by_then(
    tmp_path: Path, backend: ReplayingBackend, policy: str, came: int, billed: tuple[int, int]
) -> None:
    async with open_stage(tmp_path, backend, credit_nano=CREDIT_NANO, wallet={"usage_missing": policy}) as stage:
        tokens = [chunk("x", 0, 0)] * (came - 1)
        backend.answer_with(events(*map(without_usage, [chunk("", 0, 0), *tokens, chunk("x", 0, 0, "stop")])))
        assert b'"error"' not in await answered(stage)
        await stage.is_accounted_for(billed[0] * PROMPT_NANO + billed[1] * TOKEN_NANO, None)


@pytest.mark.parametrize("before", [[], [chunk("", COUNTED, 0)]])
async def test_the_beginning_of_a_frame_is_counted_as_kept_until_the_frame_is_whole(
    tmp_path: Path, backend: ReplayingBackend, before: list[bytes]
) -> None:
    rest, frame = asyncio.Event(), chunk("x" * 300_000, COUNTED, 1)
    async with open_stage(tmp_path, backend, credit_nano=CREDIT_NANO) as stage:
        room = stage.gateway.bytes_in_flight
        backend.answer_with(in_two([*before, frame[:200_000]], rest, [frame[200_000:], *stream(COUNTED, 4)[-3:]]))
        asking = asyncio.ensure_future(answered(stage, room))
        await eventually(lambda: room.used_bytes == 256 * 1024)
        rest.set()
        assert b"x" * 300_000 in await asking
        assert room.used_bytes == 0
        await stage.is_accounted_for(COUNTED * PROMPT_NANO + 4 * TOKEN_NANO, None)


async def test_where_there_is_no_room_for_it_the_stream_is_ended(tmp_path: Path, backend: ReplayingBackend) -> None:
    full = BytesInFlight(1024, wait_s=0)
    frame = chunk("x" * 300_000, COUNTED, 2)
    async with open_stage(tmp_path, backend, credit_nano=CREDIT_NANO) as stage:
        backend.answer_with(in_two([chunk("a", COUNTED, 1), frame[:200_000]], asyncio.Event(), []))
        assert b'"code":"overloaded"' in await answered(stage, full)
        await backend.chats[0].gone()
        assert full.used_bytes == 0
        await stage.is_accounted_for(COUNTED * PROMPT_NANO + TOKEN_NANO, "overloaded")
