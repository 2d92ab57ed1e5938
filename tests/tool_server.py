"""A server of tools on a real socket, by the SDK, in each era of the protocol; it can be told to change."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from starlette.types import Message, Receive, Scope, Send

from tests.listening import served_by_uvicorn

ERAS = ("modern", "legacy", "sse")


@dataclass
class ToolServerDouble:
    """What a test sees and says of it: `calls` are those that arrived, `sessions` the ids of theirs, if any."""

    url: str = ""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    """What a slow tool waits for."""
    is_cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    """What every request waits for; set from the beginning."""
    server: MCPServer = field(default_factory=lambda: MCPServer("double", log_level="CRITICAL"))
    port: int = 0

    def __post_init__(self) -> None:
        self.answers.set()
        for tool in (self.add, self.echo, self.fail, self.wait, self.long, self.grow):
            self.server.add_tool(tool, annotations=ToolAnnotations(read_only_hint=True), structured_output=False)

    def noted(self, name: str, ctx: Context[Any, Any], **arguments: Any) -> None:
        self.calls.append((name, arguments))
        self.sessions.append((ctx.headers or {}).get("mcp-session-id", ""))

    async def add(self, ctx: Context[Any, Any], a: int, b: int) -> str:
        """Add two numbers."""
        self.noted("add", ctx, a=a, b=b)
        return str(a + b)

    async def echo(self, ctx: Context[Any, Any], text: str) -> str:
        """Say a text again."""
        self.noted("echo", ctx, text=text)
        return text

    async def fail(self, ctx: Context[Any, Any]) -> str:
        """Fail."""
        self.noted("fail", ctx)
        raise ToolError("it is broken")

    async def wait(self, ctx: Context[Any, Any]) -> str:
        """Wait to be told."""
        self.noted("wait", ctx)
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.is_cancelled.set()
            raise
        return "done"

    async def long(self, ctx: Context[Any, Any], size: int) -> str:
        """Say much."""
        self.noted("long", ctx, size=size)
        return "x" * size

    async def grow(self, ctx: Context[Any, Any]) -> str:
        """Have one more tool, and say so to whoever listens."""

        async def more() -> str:
            return "more"

        self.server.add_tool(more, name="more", structured_output=False)
        if (ctx.protocol_version or "") < "2026":
            await ctx.session.send_tool_list_changed()
        await ctx.notify_tools_changed()
        return "grown"

    @asynccontextmanager
    async def serving(self, era: str = "modern", *, is_json: bool = False) -> AsyncIterator["ToolServerDouble"]:
        """Serve, where it served before: `legacy` knows the revisions with sessions alone, `sse` HTTP+SSE."""
        app = self.server.sse_app() if era == "sse" else self.server.streamable_http_app(json_response=is_json)

        async def noting(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
                if era == "legacy" and self.headers[-1].get("mcp-protocol-version", "") >= "2026":
                    await _refused(send)
                    return
                await self.answers.wait()
            await app(scope, receive, send)

        with socket.create_server(("127.0.0.1", self.port)) as listening:
            self.port = listening.getsockname()[1]
            self.url = f"http://127.0.0.1:{self.port}/{'sse' if era == 'sse' else 'mcp'}"
            async with served_by_uvicorn(noting, listening, lifespan="on"):
                yield self


async def _refused(send: Send) -> None:
    head: Message = {"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"text/plain")]}
    await send(head)
    await send({"type": "http.response.body", "body": b"Bad Request"})
