"""A real MCP server, both transports and both eras, in a process that a test can kill and start again in no time.

Run as a script it is a template: it has imported everything, and forks a server for each line of standard input.
What a server sees it appends to a file, one JSON object a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

GOOD_KEY = "gw_test_good"
MAX_BODY_BYTES = 32 * 1024 * 1024


class Diary:
    """What happened, in the order in which it did."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def note(self, what: str, **facts: object) -> None:
        self._file.write(json.dumps({"what": what, **facts}) + "\n")


def build_app(diary: Diary) -> ASGIApp:
    """The server's routes behind a check of the key."""
    mcp = MCPServer("test-server", version="1.0", log_level="CRITICAL")
    add_tools(mcp, diary)
    http = mcp.streamable_http_app(streamable_http_path="/v1/mcp", max_request_body_size=MAX_BODY_BYTES)
    sse = mcp.sse_app(sse_path="/v1/mcp/sse", message_path="/v1/mcp/messages/", max_request_body_size=MAX_BODY_BYTES)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with mcp.session_manager.run():
            yield

    routes = [*http.routes, *sse.routes]
    return guarded(Starlette(routes=routes, lifespan=lifespan), diary)


def add_tools(mcp: MCPServer[Any], diary: Diary) -> None:
    """Tools that answer, wait, and speak unasked."""

    @mcp.tool()
    async def echo(text: str) -> str:
        """Says it again."""
        diary.note("call", tool="echo")
        return text

    @mcp.tool()
    async def wait(ctx: Context[Any, Any]) -> str:
        """Reports progress once and then waits to be cancelled."""
        diary.note("call", tool="wait")
        await ctx.report_progress(1, 2, "half")
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            diary.note("cancelled")
            raise
        return ""

    @mcp.tool()
    async def announce(ctx: Context[Any, Any]) -> str:
        """Sends a notification that belongs to no request."""
        await ctx.session.send_tool_list_changed()
        return "announced"


def guarded(app: ASGIApp, diary: Diary) -> ASGIApp:
    """Notes each request, and refuses a wrong key as the gateway does; no key is a guest."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        diary.note("request", method=scope["method"], path=scope["path"], headers=headers)
        if headers.get("authorization", f"Bearer {GOOD_KEY}") != f"Bearer {GOOD_KEY}":
            body = {"message": "The API key is not valid.", "type": "invalid_auth", "code": "invalid_api_key"}
            return await answer(send, 401, {"error": body | {"param": None}})

        async def noting_send(message: Any) -> None:
            await send(message)
            if scope["method"] == "GET" and message.get("status") == 200:
                diary.note("streaming")

        return await app(scope, receive, noting_send)

    return guard


async def answer(send: Send, status: int, body: dict[str, object]) -> None:
    """One JSON response."""
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def serve(port: int, diary_path: str) -> None:
    """Serves until it is killed."""
    diary = Diary(Path(diary_path))
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    server = uvicorn.Server(uvicorn.Config(build_app(diary), log_level="critical"))
    diary.note("listening", port=listener.getsockname()[1], pid=os.getpid())
    await server.serve(sockets=[listener])


def main() -> None:
    """Forks servers until standard input ends, then ends them all: they are this process's group."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        if os.fork() == 0:
            asyncio.run(serve(**json.loads(line)))
            os._exit(0)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
