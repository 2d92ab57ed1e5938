"""An HTTP server that does exactly what a test says, byte by byte: for answers that no MCP library would give."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from tests.listening import streams

STREAM = "text/event-stream"


@dataclass
class Exchange:
    """One request, and the connection to answer it on; the connection is closed afterwards."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    writer: asyncio.StreamWriter

    @property
    def rpc_method(self) -> str:
        return str(json.loads(self.body).get("method", "")) if self.body else ""

    async def head(self, status: int, **headers: str) -> None:
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.send("\r\n".join([f"HTTP/1.1 {status} X", "connection: close", *lines, "", ""]))

    async def send(self, data: str) -> None:
        self.writer.write(data.encode())
        await self.writer.drain()

    async def json(self, message: object, status: int = 200, **headers: str) -> None:
        body = json.dumps(message)
        await self.head(status, content_type="application/json", content_length=str(len(body)), **headers)
        await self.send(body)

    async def event(self, message: object, *, id: str = "") -> None:
        await self.send((f"id: {id}\r\n" if id else "") + f"data: {json.dumps(message)}\r\n\r\n")

    def result(self, **result: object) -> dict[str, object]:
        return {"jsonrpc": "2.0", "id": json.loads(self.body)["id"], "result": result}


@dataclass
class FakeServer:
    """Keeps every exchange."""

    url: str
    exchanges: list[Exchange] = field(default_factory=list)

    @property
    def methods(self) -> list[str]:
        return [exchange.method for exchange in self.exchanges]


@contextlib.asynccontextmanager
async def fake_server(
    handler: Callable[[Exchange], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[FakeServer]:
    """Serves on a free port until the context ends."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        method, path, _ = head[0].split()
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:-1])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        exchange = Exchange(method, path, headers, body, writer)
        fake.exchanges.append(exchange)
        await handler(exchange)

    async with streams(handle, tls=tls) as port:
        fake = FakeServer(f"{'https' if tls else 'http'}://127.0.0.1:{port}/v1/mcp")
        yield fake
