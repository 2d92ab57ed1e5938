"""Bodies of chats: how large they may be, what they take of the memory and of the places in flight, and when."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.bytes_in_flight import SMALL_BYTES
from mcp_gateway.core.identity.own_limits import OwnLimits
from tests.patience import PATIENCE_S, eventually
from tests.replaying import ReplayingBackend, unary
from tests.serving import FREE, UNLIMITED, Door, chat_body, error_of, fresh_guest, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
KIB = 1024
MAX_BODY_BYTES = 1024 * KIB
EIGHTH = MAX_BODY_BYTES
Served = tuple[Door, ReplayingBackend]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path_factory.mktemp("bodies"),
            vllm_urls=[backend.url],
            models=[FREE],
            max_body_bytes=MAX_BODY_BYTES,
            max_in_flight_bytes=8 * EIGHTH,
            upstream={"max_response_bytes": MAX_BODY_BYTES},
        ) as door,
    ):
        yield door, backend


@pytest_asyncio.fixture(loop_scope="module")
async def served(_served: Served, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    """A minute that nobody has used anything of; who finds no room is told so at once."""
    door, backend = _served
    door.clock.now_s = door.clock.now_s // 60 * 60 + 60
    for share in (door.gateway.bytes_in_flight.small, door.gateway.bytes_in_flight.large):
        monkeypatch.setattr(share, "_wait_s", 0.0)
    backend.answer_with()
    yield door, backend
    await door.nothing_is_left()
    await eventually(lambda: not door.gateway.bytes_in_flight.used_bytes)


def head(size_bytes: int | None, headers: dict[str, str]) -> bytes:
    framing = "transfer-encoding: chunked" if size_bytes is None else f"content-length: {size_bytes}"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    line = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{line}{lines}{framing}\r\n\r\n".encode()


@contextlib.asynccontextmanager
async def sending(
    door: Door, size_bytes: int | None, begun: bytes = b"{", **headers: str
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A request whose body has begun: of so many bytes, or in chunks."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    try:
        writer.write(head(size_bytes, headers or fresh_guest()) + begun)
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def status_of(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(PATIENCE_S):
        return int((await reader.readline()).split()[1])


def padded(size_bytes: int) -> bytes:
    return orjson.dumps(chat_body()).ljust(size_bytes)


def authorization(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_bodies_that_come_slowly_take_no_place_from_anybody(served: Served) -> None:
    door, _ = served
    limits = door.gateway.settings.guests
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(limits.in_flight // limits.in_flight_per_address + 1):
            address = fresh_guest()
            for size_bytes in (100, 1000, 5000, None):
                begun = b"1\r\n{\r\n" if size_bytes is None else b"{"
                await stack.enter_async_context(sending(door, size_bytes, begun, **address))
        await eventually(lambda: len(door.server.server_state.tasks) > limits.in_flight)
        assert door.gateway.limiter.in_flight == 0
        assert (await door.chat()).status_code == 200
        assert (await door.post(padded(1000), None)).status_code == 200


async def test_a_body_that_comes_in_pieces_is_answered_once_it_is_whole(served: Served) -> None:
    door, _ = served
    body = padded(1000)
    async with sending(door, len(body), body[:10]) as (reader, writer):
        await eventually(lambda: door.gateway.bytes_in_flight.small.used_bytes == 1000)
        writer.write(body[10:])
        assert await status_of(reader) == 200


async def test_who_has_no_requests_left_is_told_so_before_the_body(served: Served) -> None:
    door, _ = served
    key = await door.key(limits=OwnLimits(1, None, None, None))
    assert (await door.chat(key)).status_code == 200
    for size_bytes in (10, MAX_BODY_BYTES):
        async with sending(door, size_bytes, b"", **authorization(key)) as (reader, _):
            assert await status_of(reader) == 429
    assert door.gateway.bytes_in_flight.used_bytes == 0


async def test_a_body_that_was_begun_while_a_request_was_left_counts_once_it_is_whole(served: Served) -> None:
    door, _ = served
    key = await door.key(limits=OwnLimits(1, None, None, None))
    body = padded(1000)
    async with sending(door, 1000, body[:5], **authorization(key)) as (reader, writer):
        await eventually(lambda: door.gateway.bytes_in_flight.used_bytes)
        assert (await door.chat(key)).status_code == 200
        writer.write(body[5:])
        assert await status_of(reader) == 429


@pytest.mark.parametrize("body", [b"{", b"[]", b"", b'{"model": 5}'])
async def test_a_bad_body_counts_like_a_good_one(served: Served, body: bytes) -> None:
    door, _ = served
    guest = fresh_guest()
    for _ in range(door.gateway.settings.guests.requests_per_minute):
        assert (await door.post(body, None, **guest)).status_code == 400
    assert (await door.post(body, None, **guest)).status_code == 429


async def test_a_refused_body_is_recorded_with_its_reason(served: Served) -> None:
    door, _ = served
    key = await door.key()
    refused = await door.post(b" " * (MAX_BODY_BYTES + 1), key)
    assert (await door.record(refused))["error_code"] == "body_too_large"
    refused = await door.post(b"{}", key, content_type="text/plain")
    assert (await door.record(refused))["error_code"] == "invalid_type"


async def test_a_guests_body_is_small_and_a_keys_is_not(served: Served) -> None:
    door, _ = served
    most_bytes = door.gateway.settings.guests.max_body_bytes
    assert (await door.post(padded(most_bytes))).status_code == 200
    refused = await door.post(padded(most_bytes + 1))
    assert (refused.status_code, error_of(refused)["code"]) == (413, "body_too_large")
    assert str(most_bytes) in error_of(refused)["message"]
    async with sending(door, most_bytes + 1, b"") as (reader, _):
        assert await status_of(reader) == 413
    assert (await door.post(padded(MAX_BODY_BYTES), await door.key())).status_code == 200


@pytest.mark.parametrize(
    ("settings", "model", "status"),
    [
        ({}, {"input_modalities": ["text", "image"]}, 413),
        ({"enable_vision": True}, {}, 413),
        ({"enable_vision": True}, {"input_modalities": ["text", "image"], "guests": False}, 413),
        ({"enable_vision": True}, {"input_modalities": ["text", "image"]}, 200),
    ],
)
async def test_guests_send_more_where_a_model_for_them_takes_images(
    tmp_path: Path, settings: dict[str, Any], model: dict[str, Any], status: int
) -> None:
    async with ReplayingBackend() as backend:
        other = FREE | model | {"id": "free/other"}
        async with open_door(tmp_path, vllm_urls=[backend.url], models=[FREE, other], **settings) as door:
            assert (await door.post(padded(300_000))).status_code == status


async def test_an_announced_body_takes_its_room_before_it_is_read_and_keeps_it_until_the_answer(served: Served) -> None:
    door, backend = served
    room, key = door.gateway.bytes_in_flight, await door.key()
    seen: list[int] = []

    async def look(asked: Any) -> None:
        seen.append(room.large.used_bytes)
        await unary()(asked)

    backend.answer_with(look)
    body = padded(500_000)
    async with sending(door, len(body), b"", **authorization(key)) as (reader, writer):
        await eventually(lambda: room.large.used_bytes == len(body))
        writer.write(body)
        assert await status_of(reader) == 200
    assert seen == [len(body)]


async def test_who_finds_no_room_is_503_and_others_are_served(served: Served) -> None:
    door, _ = served
    key, other = await door.key(), await door.key()
    body = padded(EIGHTH)
    async with sending(door, len(body), b"", **authorization(key), **fresh_guest()) as (reader, writer):
        await eventually(lambda: door.gateway.bytes_in_flight.large.used_bytes == len(body))
        refused = await door.post(padded(SMALL_BYTES + 1), key)
        assert (refused.status_code, error_of(refused)["code"]) == (503, "overloaded")
        assert refused.headers["retry-after"] == "5"
        assert (await door.record(refused))["error_code"] == "overloaded"
        assert (await door.post(padded(SMALL_BYTES), key)).status_code == 200
        assert (await door.post(body, other)).status_code == 200
        writer.write(body)
        assert await status_of(reader) == 200


async def test_a_guests_address_has_an_eighth_and_guests_a_quarter_together(served: Served) -> None:
    door, _ = served
    size_bytes = door.gateway.settings.guests.max_body_bytes
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            guest = fresh_guest()
            for _ in range(4):
                await stack.enter_async_context(sending(door, size_bytes, b"", **guest))
        await eventually(lambda: door.gateway.bytes_in_flight.large.used_bytes == 2 * EIGHTH)
        assert (await door.post(padded(size_bytes))).status_code == 503
        assert (await door.chat()).status_code == 200
        assert (await door.post(padded(EIGHTH), await door.key())).status_code == 200


async def test_a_body_in_chunks_takes_its_room_in_steps_and_gives_back_what_it_did_not_need(served: Served) -> None:
    door, backend = served
    room, key = door.gateway.bytes_in_flight, await door.key()
    seen: list[int] = []

    async def look(asked: Any) -> None:
        seen.append(room.used_bytes)
        await unary()(asked)

    backend.answer_with(look)
    body = padded(600_000)
    async with sending(door, None, b"5\r\n" + body[:5] + b"\r\n", **authorization(key)) as (reader, writer):
        await eventually(lambda: room.small.used_bytes == SMALL_BYTES)
        writer.write(b"%x\r\n%b\r\n" % (300_000, body[5:300_005]))
        await eventually(lambda: room.large.used_bytes == 512 * KIB)
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body) - 300_005, body[300_005:]))
        assert await status_of(reader) == 200
    assert seen == [len(body)]


async def test_a_body_in_chunks_that_finds_no_more_room_is_503(served: Served) -> None:
    door, _ = served
    room, key = door.gateway.bytes_in_flight, await door.key(limits=UNLIMITED)
    async with sending(door, EIGHTH - 512 * KIB, b"", **authorization(key)):
        await eventually(lambda: room.large.used_bytes == EIGHTH - 512 * KIB)
        piece = b"%x\r\n%b\r\n" % (300_000, b" " * 300_000)
        async with sending(door, None, piece, **authorization(key)) as (reader, writer):
            await eventually(lambda: room.large.used_bytes == EIGHTH)
            writer.write(piece)
            assert await status_of(reader) == 503
        await eventually(lambda: room.large.used_bytes == EIGHTH - 512 * KIB)
