"""Answers in memory: those that are collected, frames that are held, and what a client does not read."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.bytes_in_flight import SMALL_BYTES, STEP_BYTES, BytesInFlight, Owner
from tests.patience import PATIENCE_S, eventually
from tests.replaying import Asked, ReplayingBackend, chunk, silence, stream, unary
from tests.serving import FREE, Door, chat_body, error_of, open_door, unread

pytestmark = pytest.mark.asyncio(loop_scope="module")
KIB = 1024
EIGHTH = 2048 * KIB
LARGE = "x" * (700 * KIB)
Served = tuple[Door, ReplayingBackend]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path_factory.mktemp("answers"),
            vllm_urls=[backend.url],
            models=[FREE],
            max_body_bytes=EIGHTH,
            max_in_flight_bytes=8 * EIGHTH,
            upstream={"max_response_bytes": 4 * EIGHTH},
        ) as door,
    ):
        for listening in door.server.servers[0].sockets:  # or the system would take megabytes that nobody reads
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * KIB)
        yield door, backend


@pytest_asyncio.fixture(loop_scope="module")
async def served(_served: Served, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    """Who finds no room is told so at once; afterwards nothing is kept."""
    door, backend = _served
    monkeypatch.setattr(room_of(door).large, "_wait_s", 0.0)
    backend.answer_with()
    yield door, backend
    await door.nothing_is_left()
    await eventually(lambda: not room_of(door).used_bytes)


def room_of(door: Door) -> BytesInFlight:
    return door.gateway.bytes_in_flight


async def owner_of(door: Door, key: str) -> Owner:
    """Whom a key's requests are counted for; their address is a proxy's."""
    (own,) = (await door.get("/v1/keys", key)).json()["data"]
    return Owner(own["id"], None, False)


async def unread_are(door: Door, count: int) -> None:
    """Return once that many connections have more written to them than their clients read."""
    await eventually(lambda: unread(door) == count)


def request_of(key: str, **fields: Any) -> bytes:
    body = orjson.dumps(chat_body(**fields))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n"
    return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


class Deaf:
    """A client that sends a chat and reads nothing of the answer until it is told to."""

    def __init__(self, door: Door, request: bytes) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect(("127.0.0.1", door.port))
        self.socket.sendall(request)

    def __enter__(self) -> "Deaf":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    async def read(self, size_bytes: int) -> bytes:
        """So much of the answer, or all that comes before the connection ends."""
        loop, got = asyncio.get_running_loop(), b""
        self.socket.setblocking(False)
        async with asyncio.timeout(PATIENCE_S):
            while len(got) < size_bytes:
                try:
                    piece = await loop.sock_recv(self.socket, size_bytes)
                except ConnectionError:
                    break
                if not piece:
                    break
                got += piece
        return got


async def test_an_answer_that_comes_in_pieces_is_counted_by_its_length_before_it_has_come(served: Served) -> None:
    door, backend = served
    body = orjson.dumps({"choices": [{"finish_reason": "stop", "message": {"content": LARGE}}], "model": "tiny"})
    rest = asyncio.Event()

    async def in_two(asked: Asked) -> None:
        asked.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body[: 300 * KIB])
        await rest.wait()
        asked.send(body[300 * KIB :])

    backend.answer_with(in_two)
    answer = asyncio.ensure_future(door.chat(await door.key()))
    await eventually(lambda: room_of(door).large.used_bytes >= len(body))
    assert room_of(door).large.used_bytes < len(body) + STEP_BYTES
    rest.set()
    assert (await answer).status_code == 200


async def test_a_small_answer_is_not_counted(served: Served) -> None:
    door, backend = served
    seen: list[int] = []

    async def look(asked: Asked) -> None:
        await unary(content="x" * 50 * KIB)(asked)
        seen.append(room_of(door).large.used_bytes)

    backend.answer_with(look)
    assert (await door.chat(await door.key())).status_code == 200
    assert seen == [0]


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_an_answer_that_finds_no_room_is_503_and_no_fault_of_the_backend(
    served: Served, is_chunked: bool
) -> None:
    door, backend = served
    key = await door.key()

    async def in_chunks(asked: Asked) -> None:
        asked.start_stream()
        for _ in range(20):
            asked.send_event(LARGE.encode())
        await silence(asked)

    before = (await door.get("/metrics")).text.count("gateway_upstream_errors_total{")
    with room_of(door).reservation(await owner_of(door, key)) as other:
        await other.grow(EIGHTH - 100 * KIB)
        backend.answer_with(*[in_chunks if is_chunked else unary(content=LARGE)] * 6)
        for _ in range(6):
            refused = await door.chat(key)
            assert (refused.status_code, error_of(refused)["code"]) == (503, "overloaded")
        assert (await door.record(refused))["error_code"] == "overloaded"
    assert door.gateway.pool.backends[0].is_serving
    assert (await door.get("/metrics")).text.count("gateway_upstream_errors_total{") == before
    backend.answer_with()
    assert (await door.chat(key)).status_code == 200


async def test_an_answer_larger_than_its_owners_part_is_served_where_it_is_the_only_one(served: Served) -> None:
    door, backend = served
    backend.answer_with(unary(content="x" * 2 * EIGHTH))
    assert len((await door.chat(await door.key())).content) > 2 * EIGHTH


async def test_an_answer_that_is_not_read_is_counted_until_it_is(served: Served) -> None:
    door, backend = served
    backend.answer_with(unary(content="x" * EIGHTH))
    with Deaf(door, request_of(await door.key())) as client:
        await eventually(lambda: room_of(door).large.used_bytes >= EIGHTH)
        assert room_of(door).large.used_bytes < EIGHTH + STEP_BYTES + 100 * KIB
        assert len(await client.read(EIGHTH)) >= EIGHTH
        await eventually(lambda: room_of(door).large.used_bytes == 0)


async def test_an_answer_that_is_not_read_is_given_back_when_the_client_leaves(served: Served) -> None:
    door, backend = served
    backend.answer_with(unary(content="x" * EIGHTH))
    with Deaf(door, request_of(await door.key())):
        await eventually(lambda: room_of(door).large.used_bytes >= EIGHTH)
    await eventually(lambda: room_of(door).large.used_bytes == 0)


async def test_of_a_stream_that_is_not_read_what_is_beyond_the_mark_is_counted(served: Served) -> None:
    door, backend = served

    async def flood(asked: Asked) -> None:
        asked.start_stream()
        asked.send_event(chunk("x", 9, 1))
        for _ in range(40):
            asked.send_event(chunk("x" * 100 * KIB, 9, 2))
        await silence(asked)

    backend.answer_with(flood)
    with Deaf(door, request_of(await door.key(), stream=True)):
        await eventually(lambda: room_of(door).large.used_bytes > 0)
        assert room_of(door).large.used_bytes < 3 * STEP_BYTES


async def test_frames_that_wait_behind_what_is_not_read_are_counted_as_well(served: Served) -> None:
    door, backend = served
    more = asyncio.Event()

    async def in_two(asked: Asked) -> None:
        asked.start_stream()
        asked.send_event(chunk("x" * 200 * KIB, 9, 1))
        await more.wait()
        asked.send_event(chunk("x" * 60 * KIB, 9, 2))  # small enough not to be counted while its end is awaited
        await silence(asked)

    backend.answer_with(in_two)
    with Deaf(door, request_of(await door.key(), stream=True)):
        await eventually(lambda: unread(door) == 1)
        unread_bytes = room_of(door).large.used_bytes
        assert unread_bytes
        more.set()
        await eventually(lambda: room_of(door).large.used_bytes >= unread_bytes + 60 * KIB)


async def test_beyond_an_owners_part_the_connection_with_the_most_unread_is_ended(served: Served) -> None:
    door, backend = served
    sizes = (300 * KIB, 900 * KIB, 200 * KIB)
    backend.answer_with(*(unary(content="x" * size_bytes) for size_bytes in sizes))
    key = await door.key()
    clients = []
    try:
        for number in range(1, len(sizes) + 1):
            clients.append(Deaf(door, request_of(key)))
            await unread_are(door, number)
        with room_of(door).reservation(await owner_of(door, key)) as other:
            other.hold(300 * KIB, lambda: None)
        await eventually(lambda: len(door.server.server_state.tasks) == 2)
        got = [await client.read(size_bytes) for client, size_bytes in zip(clients, sizes, strict=True)]
        assert [len(each) >= size_bytes for each, size_bytes in zip(got, sizes, strict=True)] == [True, False, True]
    finally:
        for client in clients:
            client.socket.close()


async def test_a_frame_that_does_not_end_is_counted_and_refused_where_there_is_no_room(served: Served) -> None:
    door, backend = served
    key = await door.key()
    more = asyncio.Event()

    async def endless(asked: Asked) -> None:
        asked.start_stream()
        asked.send_event(chunk("x", 9, 1))
        asked.send_event(b"data: {" + b"x" * 600 * KIB)
        await more.wait()
        for _ in range(10):
            asked.send_event(b"x" * 600 * KIB)
        await silence(asked)

    backend.answer_with(endless)
    answer = asyncio.ensure_future(door.chat(key, stream=True))
    await eventually(lambda: room_of(door).large.used_bytes >= 600 * KIB)
    with room_of(door).reservation(await owner_of(door, key)) as other:
        await other.grow(SMALL_BYTES + 1)
        more.set()
        text = (await answer).text
    assert '"code":"overloaded"' in text
    assert text.endswith("data: [DONE]\n\n")
    assert door.gateway.pool.backends[0].is_serving


async def test_a_stream_keeps_nothing_of_the_body_that_asked_for_it(served: Served) -> None:
    door, backend = served
    until = asyncio.Event()

    async def slow(asked: Asked) -> None:
        asked.start_stream()
        asked.send_event(chunk("x", 9, 1))
        await until.wait()
        for frame in stream(9, 2)[2:]:
            asked.send_event(frame)
        asked.end_stream()

    backend.answer_with(slow)
    body = orjson.dumps(chat_body(stream=True)).ljust(500 * KIB)
    async with door.http.stream(
        "POST",
        "/v1/chat/completions",
        content=body,
        headers={"authorization": f"Bearer {await door.key()}", "content-type": "application/json"},
    ) as response:
        assert response.status_code == 200
        assert room_of(door).used_bytes == 0
        until.set()
