"""How a server is reached: its address or program, and the key that is sent to it. Knows no protocol."""

import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from typing import Any, TextIO
from urllib.parse import urlsplit, urlunsplit

import httpx2
from mcp.client.sse import sse_client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from mcp_gateway.core.config import ConfigError, McpServerSettings

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Of a server's answer in JSON; what it sends as an event may have the SDK's 1 MiB."""

Streams = tuple[Any, Any]
"""What the SDK reads of a server and writes to it."""


@dataclass(frozen=True, slots=True)
class Reach:
    """A server as it is configured, with its key and its environment looked up."""

    server: McpServerSettings
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def told(self) -> str:
        """What callers are told of where it is: an address without its parameters, or the label of a program."""
        if self.server.url is None:
            return self.server.label
        parts = urlsplit(self.server.url)
        return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))

    def opened(self, connect_s: float) -> AbstractAsyncContextManager[Streams]:
        """A connection of its own, or a process."""
        if self.server.url is None:
            return self._started()
        if self.server.transport == "sse":
            return sse_client(
                self.server.url,
                headers=dict(self.headers),
                timeout=connect_s,
                sse_read_timeout=None,  # type: ignore[arg-type] # a server may have nothing to say for hours
                httpx_client_factory=_http,
            )
        return self._connected(self.server.url, connect_s)

    @asynccontextmanager
    async def _connected(self, url: str, connect_s: float) -> AsyncIterator[Streams]:
        timeout = httpx2.Timeout(connect_s, read=None)
        async with _http(dict(self.headers), timeout) as http, streamable_http_client(url, http_client=http) as streams:
            yield streams

    @asynccontextmanager
    async def _started(self) -> AsyncIterator[Streams]:
        """Its standard error is nobody's: a program may write there what it was asked."""
        server = self.server
        program = StdioServerParameters(
            command=server.command, args=list(server.args), env=dict(self.environment), encoding_error_handler="replace"
        )
        with _nowhere() as nowhere:
            async with stdio_client(program, errlog=nowhere) as streams:
                yield streams


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def reach_of(server: McpServerSettings, environ: Mapping[str, str]) -> Reach:
    """Look up what the settings name alone. Raises ConfigError."""
    if missing := [name for name in server.env if name not in environ]:
        raise _fault(server, f"the environment has no {', '.join(missing)}")
    key = _key_of(server, environ)
    environment = {name: environ[name] for name in server.env}
    if key is None:
        return Reach(server, {}, environment)
    if not key.isascii() or not key.isprintable() or " " in key:
        raise _fault(server, "its key must be visible ASCII characters, without spaces or line ends")
    headers = {server.api_key_header: key} if server.api_key_header else {"Authorization": f"Bearer {key}"}
    return Reach(server, headers, environment)


def _key_of(server: McpServerSettings, environ: Mapping[str, str]) -> str | None:
    if server.api_key_env is not None:
        key = environ.get(server.api_key_env, "")
        place = f"the environment has no {server.api_key_env}"
    elif server.api_key_file is not None:
        try:
            key = server.api_key_file.read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError):
            raise _fault(server, f"{server.api_key_file} cannot be read") from None
        place = f"{server.api_key_file} is empty"
    else:
        return None
    if not key:
        raise _fault(server, place)
    return key


def _fault(server: McpServerSettings, problem: str) -> ConfigError:
    return ConfigError([f"[[mcp_servers]] {server.label}: {problem}"])


def _http(
    headers: dict[str, Any] | None = None, timeout: httpx2.Timeout | None = None, auth: httpx2.Auth | None = None
) -> httpx2.AsyncClient:
    """A client that keeps no proxy of the environment in mind, and reads no more of an answer than is bearable."""
    plain = {"accept-encoding": "identity"}
    return httpx2.AsyncClient(
        headers=plain | (headers or {}), timeout=timeout, auth=auth, transport=_Bounded(), trust_env=False
    )


@cache
def _tls() -> ssl.SSLContext:
    """To read the system's authorities takes 20 ms."""
    return ssl.create_default_context()


class _Bounded(httpx2.AsyncHTTPTransport):
    """Reads MAX_MESSAGE_BYTES of an answer that is no stream of events, and nothing that is compressed."""

    def __init__(self) -> None:
        super().__init__(verify=_tls(), trust_env=False)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise httpx2.ReadError("compressed, which was not asked for")
        if response.status_code == HTTPStatus.NOT_FOUND and "mcp-session-id" in request.headers:
            response.headers["content-type"] = "text/plain"  # whatever it says: the session is gone
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _BoundedStream(response.stream)
        return response


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left_bytes = MAX_MESSAGE_BYTES
        async for piece in self._stream:
            left_bytes -= len(piece)
            if left_bytes < 0:
                raise httpx2.ReadError("longer than is read")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
