"""The ends of the servers that stand for others in tests: nothing that they accepted is left open."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any

import uvicorn

from tests.patience import eventually

_TURNS = 5
"""Of the loop, within which a connection that was accepted is made known."""
Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def closed(servers: Collection[asyncio.Server], end_those_open: Callable[[], bool]) -> None:
    """Close servers and call `end_those_open`, which says whether there were some, until no connection is left.

    A client's last connection may be accepted just before and be known only some turns of the loop later; meanwhile
    its server has to stay open, or asyncio itself forgets it. Nobody would close it, and a later test would be blamed.
    """
    loop = asyncio.get_running_loop()
    for listening in (listening for server in servers for listening in server.sockets):
        loop.remove_reader(listening.fileno())
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    for server in servers:
        server.close()
    await eventually(lambda: not end_those_open())


@contextlib.asynccontextmanager
async def streams(handle: Handle, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A port where each connection is handled by a task of its own; at the end no task and no connection is left."""
    opened: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        opened[task] = writer
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await handle(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            del opened[task]

    def end_those_open() -> bool:
        for task, writer in list(opened.items()):
            task.cancel()  # it may wait for what never comes, be its client there or not
            writer.transport.abort()
        return bool(opened)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        await closed([server], end_those_open)


@contextlib.asynccontextmanager
async def served_by_uvicorn(app: Any, listening: socket.socket, **settings: Any) -> AsyncIterator[None]:
    """An ASGI app at a socket; at the end its connections are aborted and its tasks cancelled, unlike a server's."""
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=0, **settings)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup([listening])

    def end_those_open() -> bool:
        connections = list(server.server_state.connections)
        for connection in connections:
            connection.transport.abort()
        return bool(connections)

    try:
        yield
    finally:
        await closed(server.servers, end_those_open)
        await server.shutdown([listening])
