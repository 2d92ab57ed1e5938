"""A host for the MCP door alone: the real gateway behind it, a real server and socket before it.

Who calls is told by test headers, which stand for the authentication in front of the door.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx2
import orjson
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ContentBlock, TextContent
from starlette.types import Receive, Scope, Send

from http_api.any_server import AnyServer
from http_api.program import mcp_door
from mcp_gateway.core.caller import Allowance, Caller, KeyHolder, Quota
from mcp_gateway.core.clock import DAY_S
from mcp_gateway.core.config import Settings
from mcp_gateway.core.context import CLIENT, CONTEXT, CallerLeft, RequestContext
from mcp_gateway.core.gateway import Gateway, open_gateway
from mcp_gateway.core.replicas import Replicas
from mcp_gateway.core.upstream.demo import DemoBackend
from mcp_gateway.mcp_door.endpoints import McpDoor
from tests.connections import uncapped
from tests.logged import lines_logged
from tests.patience import PATIENCE_S
from tests.serving import NO_TLS, UPSTREAM, Clock, database_at, served

UNLIMITED = Allowance(None, None, None, None)
PATHS = ("/v1/mcp", "/api/v1/inference/mcp")
PREFIX = "/behind/a/proxy"
"""What a proxy in front has before each path, and takes away."""
JSON = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
LEGACY = {**JSON, "MCP-Protocol-Version": "2025-06-18"}


@dataclass
class Host:
    """A served door. `keys` are the keys that X-Test-Key may name; without that header the caller is a guest."""

    gateway: Gateway
    door: McpDoor
    url: str
    keys: dict[str, Caller] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    """Lines logged as errors; what a test does not take out fails it."""
    answered: int = 0
    """Requests whose answers are whole or were given up."""
    clock: Clock = field(default_factory=Clock)

    def key(
        self, name: str, allowance: Allowance = UNLIMITED, account_id: str = "acc_test", *, is_test: bool = False
    ) -> dict[str, str]:
        """A key's headers."""
        self.keys[name] = Caller(account_id, KeyHolder(name), (Quota("key", name, allowance),), is_test)
        return {"X-Test-Key": name}

    @contextlib.asynccontextmanager
    async def client(
        self, transport: str, mode: str = "auto", headers: dict[str, str] | None = None, **options: Any
    ) -> AsyncIterator[Client]:
        """The SDK's client, connected."""
        async with http_client(headers=headers) as http:
            target = streamable_http_client(self.url, http_client=http)
            if transport == "sse":
                target = sse_client(f"{self.url}/sse", headers=headers)
            async with Client(target, mode=mode, **options) as client:
                yield client

    async def post(self, message: Any, headers: dict[str, str] | None = None, url: str = "") -> httpx2.Response:
        """A raw POST of one message."""
        async with http_client() as http:
            body = message if isinstance(message, bytes) else orjson.dumps(message)
            return await http.post(url or self.url, content=body, headers=LEGACY | (headers or {}))

    def messages_url(self, line: str) -> str:
        """Where an HTTP+SSE stream wants its messages, by the second line that it sends."""
        return urljoin(f"{self.url}/sse", line.removeprefix("data: "))

    async def open_session(self, headers: dict[str, str] | None = None) -> dict[str, str]:
        """Initialize; the headers of what follows in that session."""
        answer = await self.post(initialize(), headers)
        assert answer.status_code == 200, answer.text
        return {"Mcp-Session-Id": answer.headers["mcp-session-id"]} | (headers or {})


def http_client(timeout: float = PATIENCE_S, **options: Any) -> httpx2.AsyncClient:
    """A client for a test's requests."""
    return httpx2.AsyncClient(timeout=timeout, verify=NO_TLS, **options)


class Gate:
    """The demo's sleep in a test's hands: `demo/paced` waits at each token until the gate is open."""

    def __init__(self) -> None:
        self.is_reached = asyncio.Event()
        self.was_cancelled = asyncio.Event()
        self.is_open = asyncio.Event()

    async def sleep(self, delay_s: float) -> None:
        if delay_s:
            self.is_reached.set()
            try:
                await self.is_open.wait()
            except asyncio.CancelledError:
                self.was_cancelled.set()
                raise


def gated(host: Host) -> Gate:
    """Put a gate into the host's demo backend."""
    gate = Gate()
    host.gateway.pool.demo.origin = DemoBackend(sleep=gate.sleep)
    return gate


@contextlib.asynccontextmanager
async def open_host(
    data_dir: Path, *, send_buffer_bytes: int = 0, replicas: Replicas | None = None, **settings: Any
) -> AsyncIterator[Host]:
    """Serve on a free port; the clock of limits stands still.

    Whatever the server or the loop reports as an error on the way fails the test. With a small send buffer the server
    notices early that a client does not read.
    """
    guests = {"requests_per_minute": 10_000, "in_flight_per_address": 1000} | settings.pop("guests", {})
    limits = {"listing_requests_per_minute": 1_000_000} | settings.pop("limits", {})
    upstream = UPSTREAM | settings.pop("upstream", {})
    tree = Settings(data_dir=data_dir, guests=guests, limits=limits, upstream=upstream, **settings)
    clock = Clock()
    async with contextlib.AsyncExitStack() as stack:
        tree = stack.enter_context(database_at(tree))
        gateway = await stack.enter_async_context(open_gateway(tree, now_s=clock))
        gateway.replicas = replicas
        door = mcp_door(gateway)
        host = Host(gateway, door, "", clock=clock)
        with lines_logged(logging.ERROR) as host.errors, socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            if send_buffer_bytes:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
            host.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/mcp"
            app = _app(host)
            door.answer_by(AnyServer(app))
            async with door.run(), served(gateway, app, uncapped(), listener):
                yield host
        assert not host.errors


@contextlib.contextmanager
def lent(host: Host) -> Iterator[Host]:
    """A shared host for one test: a day that nobody has used anything of; its keys and its demo's answers end with it.

    What the test logs as an error, and does not take out, fails it.
    """
    host.clock.now_s += DAY_S
    origin = host.gateway.pool.demo.origin
    try:
        yield host
    finally:
        host.gateway.pool.demo.origin = origin
        host.keys.clear()
    assert not host.errors


def _app(host: Host) -> Callable[[Scope, Receive, Send], Any]:
    endpoints: dict[str, Any] = {}
    for path in PATHS:
        endpoints[path] = endpoints[f"{path}/"] = host.door.streamable_http
        endpoints[f"{path}/sse"] = endpoints[f"{path}/sse/"] = host.door.sse
        endpoints[f"{path}/messages"] = endpoints[f"{path}/messages/"] = host.door.messages

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["path"] = scope["path"].removeprefix(PREFIX)
        headers = dict(scope["headers"])
        address = headers.get(b"x-test-address", b"192.0.2.1").decode()
        caller = host.gateway.authenticator.without_key(address)
        if (key := headers.get(b"x-test-key")) is not None:
            caller = host.keys[key.decode()]
        client_id = headers.get(b"x-client-request-id")
        context = scope[CONTEXT] = scope[CLIENT].context = RequestContext(
            host.gateway.new_id("req"),
            client_id.decode() if client_id else None,
            address,
            host.gateway.bytes_in_flight,
            caller=caller,
            sent=headers,
        )
        try:
            with contextlib.suppress(CallerLeft):
                await endpoints[scope["path"]](scope, receive, send)
        finally:
            context.release()
            host.answered += 1

    return app


def initialize(version: str = "2025-06-18") -> dict[str, Any]:
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    return {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}


def chat(text: str = "hello", request_id: Any = 1, model: str = "demo/echo", **arguments: Any) -> dict[str, Any]:
    """A tools/call of chat_completion."""
    messages = [{"role": "user", "content": text}]
    return call("chat_completion", {"model": model, "messages": messages, **arguments}, request_id)


def call(name: str, arguments: dict[str, Any], request_id: Any = 1, **meta: Any) -> dict[str, Any]:
    """A tools/call."""
    params: dict[str, Any] = {"name": name, "arguments": arguments}
    if meta:
        params["_meta"] = meta
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


def text_in(content: ContentBlock) -> str:
    """What a block of text says; a block of another kind fails the test."""
    assert isinstance(content, TextContent)
    return content.text
