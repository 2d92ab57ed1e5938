"""Requests byte by byte on sockets that read only when they are told to: what an honest client library cannot send."""

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Self

import orjson

TAKES_NOTHING_S = 1.0
"""A server that takes no byte for so long is not offered more."""
_PIECE = 256 * 1024
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_LENGTH = re.compile(rb"^content-length: (\d+)", re.IGNORECASE | re.MULTILINE)
_ENDS_OF_CHUNKS = b"0\r\n\r\n"


def request(method: str, path: str, body: bytes | None = None, *headers: str, length: int | None = None) -> bytes:
    """A whole request, or one that announces another `length` than it has."""
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", *headers]
    if body is not None:
        lines += ["content-type: application/json", f"content-length: {len(body) if length is None else length}"]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def get(path: str, *headers: str) -> bytes:
    return request("GET", path, None, *headers)


def post(path: str, body: object, *headers: str, length: int | None = None) -> bytes:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return request("POST", path, content, *headers, length=length)


@dataclass(frozen=True)
class Answer:
    status: int
    head: bytes
    body: bytes


class Wire:
    """One connection. What the server sends stays in the system's buffers until it is asked for."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._read = bytearray()

    @classmethod
    async def open(cls, port: int, receive_buffer_bytes: int | None = None) -> Self:
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    async def send(self, data: bytes) -> bool:
        """False where the server hung up, or took nothing more, before the end."""
        loop = asyncio.get_running_loop()
        for start in range(0, len(data), _PIECE):
            try:
                async with asyncio.timeout(TAKES_NOTHING_S):
                    await loop.sock_sendall(self._socket, data[start : start + _PIECE])
            except OSError:  # TimeoutError is one
                return False
        return True

    async def receive(self, size_bytes: int = 65536) -> bytes:
        """Some bytes; none once the server has hung up."""
        try:
            return await asyncio.get_running_loop().sock_recv(self._socket, size_bytes)
        except ConnectionError:
            return b""

    async def answer(self) -> Answer | None:
        """The next whole answer; None where the connection ends before it does."""
        while (whole := _whole(self._read)) is None:
            piece = await self.receive()
            if not piece:
                return None
            self._read += piece
        answer, end = whole
        del self._read[:end]
        return answer

    async def until(self, text: bytes) -> bytes:
        """All that comes up to `text` and with it."""
        while text not in self._read:
            piece = await self.receive()
            assert piece, f"the server hung up before {text!r}: {bytes(self._read[:200])!r}"
            self._read += piece
        end = self._read.index(text) + len(text)
        got = bytes(self._read[:end])
        del self._read[:end]
        return got

    def half_close(self) -> None:
        """Nothing more will be sent."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Drop the connection rather than end it."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self._socket.close()


def _whole(data: bytearray) -> tuple[Answer, int] | None:
    """The first answer in `data` and where it ends, once it is there."""
    head_end = data.find(b"\r\n\r\n") + 4
    if head_end < 4:
        return None
    head = bytes(data[:head_end])
    if (length := _LENGTH.search(head)) is not None:
        end = body_end = head_end + int(length[1])
    else:
        body_end = data.find(_ENDS_OF_CHUNKS, head_end)
        end = body_end + len(_ENDS_OF_CHUNKS)
    if body_end < head_end or len(data) < end:
        return None
    status = _STATUS.match(head)
    return Answer(int(status[1]) if status else 0, head, bytes(data[head_end:body_end])), end


@contextlib.asynccontextmanager
async def wires(port: int, count: int, receive_buffer_bytes: int | None = None) -> AsyncIterator[list[Wire]]:
    """So many connections, closed at the end."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(contextlib.closing(await Wire.open(port, receive_buffer_bytes))) for _ in range(count)
        ]


async def ask(port: int, data: bytes) -> Answer | None:
    """One request on a connection of its own."""
    async with wires(port, 1) as (wire,):
        await wire.send(data)
        return await wire.answer()
