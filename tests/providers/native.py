"""A server that knows no API: it keeps every request as it came on the wire, and answers what a test says."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.listening import streams

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


@dataclass
class Heard:
    """One request."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


@dataclass
class Native:
    """`pieces` are written one by one, each once `next_piece` is set where that is given; None ends the connection.

    With `is_eager` it answers as soon as it has a head.
    """

    url: str = ""
    pieces: tuple[bytes | None, ...] = (OK,)
    heard: list[Heard] = field(default_factory=list)
    body_pieces: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    next_piece: asyncio.Semaphore | None = None
    is_eager: bool = False
    answer: Callable[[Heard], tuple[bytes | None, ...]] | None = None
    """The pieces for a request, where they depend on it."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a connection has ended."""

    def settings(self, **more: Any) -> dict[str, Any]:
        """Its entry in `[[providers]]`."""
        given = {"name": "openai", "kind": "openai", "base_url": f"{self.url}/v1", "api_key_env": "DOUBLE_KEY"}
        return given | {"proxy": True} | more


@contextlib.asynccontextmanager
async def native(**more: Any) -> AsyncIterator[Native]:
    """Serve one on a free port of this machine."""
    server = Native(**more)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await _serve_one(server, reader, writer):
                pass
        finally:
            server.left.set()

    async with streams(handle) as port:
        server.url = f"http://127.0.0.1:{port}"
        yield server


async def _serve_one(server: Native, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether another may follow."""
    line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = line.split(" ")
    named = [(name.lower(), value.strip()) for name, _, value in (one.partition(":") for one in lines if one)]
    heard = Heard(method, target, named)
    server.heard.append(heard)
    if not server.is_eager:
        async for piece in _body(heard, reader):
            heard.body += piece
            server.body_pieces.put_nowait(piece)
    for told in server.pieces if server.answer is None else server.answer(heard):
        if server.next_piece is not None:
            gone = asyncio.ensure_future(reader.read(1))
            turn = asyncio.ensure_future(server.next_piece.acquire())
            await asyncio.wait({gone, turn}, return_when=asyncio.FIRST_COMPLETED)
            turn.cancel()
            if gone.done():
                return False
            gone.cancel()
            await asyncio.wait({gone})
        if told is None:
            return False
        writer.write(told)
        await writer.drain()
    if server.is_eager:
        await reader.read()
    return not server.is_eager


async def _body(heard: Heard, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """As it comes: in chunks, or by its length."""
    if heard.header("transfer-encoding") == "chunked":
        while size := int((await reader.readuntil(b"\n")), 16):
            yield (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
        return
    left = int(heard.header("content-length") or 0)
    while left and (piece := await reader.read(left)):
        left -= len(piece)
        yield piece
