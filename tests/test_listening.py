"""The ends of the servers that stand for others."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from itertools import product
from urllib.parse import urlsplit

from starlette.types import Receive, Scope, Send

from tests.cases import each
from tests.core.upstream.misbehaving import MisbehavingServer, stall
from tests.listening import served_by_uvicorn, streams
from tests.replaying import ReplayingBackend

Serving = Callable[[], contextlib.AbstractAsyncContextManager[int]]


@contextlib.asynccontextmanager
async def as_streams() -> AsyncIterator[int]:
    async def handle(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with streams(handle) as port:
        yield port


@contextlib.asynccontextmanager
async def as_asgi() -> AsyncIterator[int]:
    async def waits(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await asyncio.Event().wait()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        async with served_by_uvicorn(waits, listening, lifespan="off"):
            yield listening.getsockname()[1]


@contextlib.asynccontextmanager
async def as_backend() -> AsyncIterator[int]:
    async with ReplayingBackend() as backend:
        yield int(urlsplit(backend.url).port or 0)


@contextlib.asynccontextmanager
async def as_peer() -> AsyncIterator[int]:
    async with MisbehavingServer(stall) as server:
        yield int(urlsplit(server.base_url).port or 0)


@each(("serving", "turns"), product((as_streams, as_asgi, as_backend, as_peer), range(4)))
async def test_a_connection_that_was_just_accepted_is_closed_with_its_server(serving: Serving, turns: int) -> None:
    """Left open, a later test would be blamed for it: the loop that could have closed it has ended."""
    async with serving() as port:
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(turns):
            await asyncio.sleep(0)
    with client, contextlib.suppress(ConnectionResetError):
        client.setblocking(False)
        assert client.recv(1) == b""
