"""Clients that stop reading, or go away at awkward moments: the backend is let go of and no slot stays taken."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
import pytest
import pytest_asyncio

from tests.loop_clock import pass_time
from tests.patience import PATIENCE_S, eventually
from tests.replaying import Asked, ReplayingBackend, chunk, silence, unary
from tests.serving import FREE, Door, chat_body, open_door, unread
from tests.stage import CREDIT_NANO, PRICED, cost_nano, staged
from tests.surfaces import Spoken, every_streaming_surface, every_way

pytestmark = [pytest.mark.surfaces, pytest.mark.asyncio(loop_scope="module")]

STALL_S = 30.0


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Door, ReplayingBackend]]:
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path_factory.mktemp("departure"),
            vllm_urls=[backend.url],
            models=[FREE, PRICED],
            client_stall_timeout_s=STALL_S,
        ) as door,
    ):
        yield door, backend


@pytest_asyncio.fixture(loop_scope="module")
async def served(_served: tuple[Door, ReplayingBackend]) -> AsyncIterator[tuple[Door, ReplayingBackend]]:
    door, backend = _served
    backend.answer_with()
    yield door, backend
    await door.nothing_is_left()


def request_of(key: str, **fields: Any) -> bytes:
    return posted("/v1/chat/completions", key, chat_body(**fields), {"content-type": "application/json"})


def posted(path: str, key: str, body: dict[str, Any], headers: Mapping[str, str]) -> bytes:
    raw = orjson.dumps(body)
    named = {"host": "localhost", "authorization": f"Bearer {key}", **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"POST {path} HTTP/1.1\r\n{head}content-length: {len(raw)}\r\n\r\n".encode() + raw


def connect(door: Door) -> socket.socket:
    """A client with a small window that reads only when told to."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", door.port))
    return client


class Flood:
    """A stream without an end, as fast as it is read; `tokens` counts what was sent."""

    def __init__(self, spoken: Spoken) -> None:
        self._spoken = spoken
        self.tokens = 0

    async def __call__(self, asked: Asked) -> None:
        asked.start_stream()
        for frame in self._spoken.opening():
            asked.send_event(frame)
        while not asked.is_gone.is_set():
            self.tokens += 1
            asked.send_event(self._spoken.token(self.tokens, text="x" * 4000))
            await eventually(lambda: asked.transport.get_write_buffer_size() < 100_000 or asked.is_gone.is_set())
            await asyncio.sleep(0)


@every_streaming_surface
async def test_a_client_that_stops_reading_has_left_and_pays_for_what_was_read_from_the_backend(
    served: tuple[Door, ReplayingBackend], spoken: Spoken
) -> None:
    door, backend = served
    flood = Flood(spoken)
    backend.answer_with(flood)
    stage = await staged(door, backend)
    limit: dict[str, Any] = {spoken.limit_field: 2000}
    with connect(door) as client:
        client.sendall(posted(spoken.path, stage.key, spoken.body(is_stream=True, **limit), spoken.sent_headers))
        (asked,) = await backend.chats_asked(1)
        await eventually(lambda: unread(door))
        pass_time(STALL_S)
        await asked.gone()
        await door.nothing_is_left()
    (record,) = await stage.records()
    assert record["error_code"] == "client_closed"
    assert 0 < record["completion_tokens"] <= flood.tokens
    assert record["cost_nano"] == cost_nano(10, record["completion_tokens"])
    await stage.is_left_with(CREDIT_NANO - record["cost_nano"])


async def test_a_client_that_stops_sending_its_body_has_left(served: tuple[Door, ReplayingBackend]) -> None:
    door, backend = served
    account_id = await door.account()
    head, end, body = request_of(await door.key(account_id)).partition(b"\r\n\r\n")
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(head + b"\r\nexpect: 100-continue" + end)
    assert await reader.readuntil(end) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body[:-5])
    pass_time(STALL_S)
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    await door.nothing_is_left()
    rows = await door.rows("SELECT error_code FROM requests WHERE account_id = ?", account_id)
    assert rows == [("client_closed",)]
    assert backend.chats == []


async def test_a_client_that_sends_its_body_slowly_but_steadily_is_served(
    served: tuple[Door, ReplayingBackend],
) -> None:
    door, _ = served
    body = orjson.dumps(chat_body())

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), len(body) // 3):
            yield body[start : start + len(body) // 3]
            await eventually(lambda: door.server.server_state.tasks)
            pass_time(STALL_S / 2)

    headers = {"authorization": f"Bearer {await door.key()}", "content-type": "application/json"}
    response = await door.http.post("/v1/chat/completions", content=pieces(), headers=headers)
    assert response.status_code == 200


async def test_a_slow_client_that_reads_on_keeps_its_stream(served: tuple[Door, ReplayingBackend]) -> None:
    door, backend = served
    frames = 400

    async def long(asked: Asked) -> None:
        asked.start_stream()
        for number in range(1, frames + 1):
            asked.send_event(chunk("x" * 4000, 9, number, "stop" if number == frames else None))
        asked.send_event(b"data: [DONE]\n\n")
        asked.end_stream()

    backend.answer_with(long)
    loop = asyncio.get_running_loop()
    with connect(door) as client:
        client.setblocking(False)
        await loop.sock_sendall(client, request_of(await door.key(), stream=True))
        got = b""
        async with asyncio.timeout(PATIENCE_S):
            while not got.endswith(b"0\r\n\r\n"):
                got += await loop.sock_recv(client, 65536)
    assert got.count(b'"content":"x') == frames
    assert b"data: [DONE]" in got


@every_way
async def test_closing_half_of_the_connection_is_leaving(
    served: tuple[Door, ReplayingBackend], spoken: Spoken, is_stream: bool
) -> None:
    door, backend = served
    backend.answer_with(silence)
    stage = await staged(door, backend)
    with connect(door) as client:
        client.sendall(posted(spoken.path, stage.key, spoken.body(is_stream=is_stream), spoken.sent_headers))
        (asked,) = await backend.chats_asked(1)
        client.shutdown(socket.SHUT_WR)
        await asked.gone()
    await stage.is_left_with(CREDIT_NANO - cost_nano(10, 0))


async def test_a_client_that_leaves_while_others_are_served_disturbs_none_of_them(
    served: tuple[Door, ReplayingBackend],
) -> None:
    door, backend = served
    key = await door.key()
    backend.answer_with(silence)
    leaving = asyncio.create_task(door.chat(key))
    await backend.chats_asked(1)
    others = [asyncio.create_task(door.chat(key)) for _ in range(5)]
    leaving.cancel()
    assert [response.status_code for response in await asyncio.gather(*others)] == [200] * 5
    await asyncio.gather(leaving, return_exceptions=True)


async def test_a_connection_serves_one_chat_after_another_also_after_a_refusal(
    served: tuple[Door, ReplayingBackend],
) -> None:
    door, backend = served
    backend.standing = unary()
    key = await door.key()
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    for fields, status in (({}, b"200"), ({"n": 0}, b"400"), ({"stream": None}, b"200")):
        writer.write(request_of(key, **fields))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.split()[1] == status
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(length.split()[1]))
    writer.close()
    await writer.wait_closed()
    backend.standing = None


async def test_a_client_that_has_sent_another_request_ahead_is_missed_all_the_same(
    served: tuple[Door, ReplayingBackend],
) -> None:
    door, backend = served
    backend.answer_with(silence)
    request = request_of(await door.key())
    _, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(request)
    (asked,) = await backend.chats_asked(1)
    writer.write(request * 3)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await asked.gone()
    await door.nothing_is_left()
    assert len(backend.chats) == 1


async def test_requests_sent_ahead_on_one_connection_are_answered_in_order(
    served: tuple[Door, ReplayingBackend],
) -> None:
    door, backend = served
    backend.answer_with(unary(content="first"), unary(content="second"))
    key = await door.key()
    last = request_of(key).replace(b"host: localhost\r\n", b"host: localhost\r\nconnection: close\r\n")
    got = await door.raw(request_of(key) * 29 + last)
    assert got.count(b"HTTP/1.1 200") == 30
    assert 0 < got.index(b"first") < got.index(b"second")
