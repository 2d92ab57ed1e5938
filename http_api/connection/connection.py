"""One client's connection: HTTP/1.1 (RFC 9112) on httptools in front of an ASGI app.

It exists because only the one who owns the socket can tell at once that a client has left, and because uvicorn's own
takes half again the CPU. Knows sockets and HTTP framing; knows nothing of routes, callers or content.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, cast

import orjson
import uvicorn
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.types import ASGIApp, Scope
from uvicorn.server import ServerState

from http_api.connection.exchange import STATUS_LINES, HttpExchange
from http_api.connection.head import target_of
from mcp_gateway.core.context import CLIENT
from mcp_gateway.core.errors import GatewayError

_KEEP_ALIVE_S = 75.0
"""How long a connection may stay without a whole request's head, the first as well as any later one."""
_MAX_AHEAD = 16
"""Requests that one connection may send ahead of its answers; beyond them it is not read on, nor missed."""
_ASGI = {"version": "3.0", "spec_version": "2.3"}


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a client may ask of a connection; one that neither sends nor reads for `stall_timeout_s` has left."""

    max_header_bytes: int
    stall_timeout_s: float


class Connection(asyncio.Protocol):
    """A connection, as uvicorn's server makes and counts it: the requests on it are answered one after another."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        bounds: Bounds,
    ) -> None:
        self.loop = _loop or asyncio.get_running_loop()
        self.bounds = bounds
        self.server_state = server_state
        self.is_write_paused = False
        self._app = cast(ASGIApp, config.loaded_app)
        self._parser = HttpRequestParser(self)
        self._answering: HttpExchange | None = None
        self._ahead: deque[tuple[HttpExchange, Scope]] = deque()
        self._reading: HttpExchange | None = None  # whose body comes in
        self._is_reading_paused = False
        self._is_in_head = True
        self._framing_bytes = 0  # read since the last head was whole, or the last piece of a body came
        self._is_last = False  # nothing that follows on this connection counts
        self._drained: asyncio.Event | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._server = _address(transport.get_extra_info("sockname"))
        self._client = _address(transport.get_extra_info("peername"))
        self.server_state.connections.add(cast(Any, self))
        self._idle_since = self.loop.time()
        self._idle_timer = self.loop.call_later(_KEEP_ALIVE_S, self._check_idle)

    def data_received(self, data: bytes) -> None:
        self._framing_bytes += len(data)
        while data and not self._is_last:
            try:
                self._parser.feed_data(data)
                break
            except HttpParserUpgrade as upgrade:
                data = self._without_upgrade() + data[upgrade.args[0] :]
            except HttpParserError:
                self._refuse(GatewayError("invalid_json", "This is not HTTP that can be understood."))
        if self._framing_bytes > self.bounds.max_header_bytes:
            self._refuse_head()

    def eof_received(self) -> None:
        """A client that closes its half has left: what is being answered ends, earlier answers still leave."""
        if self._answering is not None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_last = True
        self._idle_timer.cancel()
        self.server_state.connections.discard(cast(Any, self))
        self.resume_writing()
        if self._answering is not None:
            self._answering.leave()
            self._answering = None
        self._reading = None
        self._ahead.clear()
        del self._parser  # it refers back to this object

    def pause_writing(self) -> None:
        self.is_write_paused = True
        self._watch_reader()

    def resume_writing(self) -> None:
        self.is_write_paused = False
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    # -- parser callbacks

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._is_in_head = True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_in_head:
            return  # a trailer, which must not pass for a header (RFC 9110, 6.5)
        # the parser leaves white space behind a value (RFC 9110, 5.5)
        self._headers.append((name.lower(), value.strip()))

    def on_headers_complete(self) -> None:
        read_bytes, self._framing_bytes = self._framing_bytes, 0
        self._is_in_head = False
        if self._is_last:
            return
        if read_bytes > self.bounds.max_header_bytes and self._size_of_head() > self.bounds.max_header_bytes:
            self._refuse_head()
            return
        url, method = self._url, self._parser.get_method()
        target = target_of(url)
        if target is None or method == b"CONNECT":
            self._refuse(GatewayError("invalid_json", "The request's address is not one that can be understood."))
            return
        if self._parser.should_upgrade():
            return  # it comes again, without
        path, raw_path, query = target
        parser = self._parser
        version = parser.get_http_version()
        is_kept_alive = version == "1.1" and parser.should_keep_alive()
        exchange = self._reading = HttpExchange(
            self,
            self._headers,
            is_kept_alive=is_kept_alive,
            can_chunk=version == "1.1",
            is_head=method == b"HEAD",
        )
        scope: Scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "server": self._server,
            "client": self._client,
            "scheme": "http",
            "root_path": "",
            "method": method.decode("ascii"),
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self._headers,
            CLIENT: exchange,
        }
        if self._answering is None:
            self._answer(exchange, scope)
            return
        self._ahead.append((exchange, scope))
        if len(self._ahead) >= _MAX_AHEAD:
            self.pause_reading()

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        if self._reading is not None:
            self._reading.add_body(body)

    def on_message_complete(self) -> None:
        exchange, self._reading = self._reading, None
        self._is_in_head = True
        if exchange is None:
            return
        exchange.end_body()
        if not exchange.is_kept_alive:
            self._is_last = True
            if exchange.is_complete:  # closed while it still sent, the client would lose the answer to a reset
                self._end()

    # -- for the exchanges

    def pause_reading(self) -> None:
        if not self._is_reading_paused:
            self._is_reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on, unless so many requests wait here already."""
        if self._is_reading_paused and len(self._ahead) < _MAX_AHEAD and not self.transport.is_closing():
            self._is_reading_paused = False
            self.transport.resume_reading()

    async def drained(self) -> None:
        """Wait until what was written has mostly left, or the connection has ended."""
        if self._drained is None:
            self._drained = asyncio.Event()
        await self._drained.wait()

    async def client_sends(self, event: asyncio.Event) -> None:
        """Wait for more of a request; a client that lets this take too long has left, and its connection is closed."""
        timer = self.loop.call_later(self.bounds.stall_timeout_s, self.transport.abort)
        try:
            await event.wait()
        finally:
            timer.cancel()

    def answered(self, exchange: HttpExchange) -> None:
        """The answer is written: go on with what was sent ahead, or wait."""
        self.server_state.total_requests += 1
        self._answering = None
        self._idle_since = self.loop.time()
        if not exchange.is_kept_alive:
            if self._reading is not exchange or not exchange.is_body_coming:
                self._end()
        elif self._ahead:
            self._answer(*self._ahead.popleft())
        self.resume_reading()

    # -- for uvicorn's server

    def shutdown(self) -> None:
        """Take no further requests; what was sent is answered."""
        if self._answering is None:
            self.transport.close()
        else:
            last = self._ahead[-1][0] if self._ahead else self._answering
            last.is_kept_alive = False

    def _end(self) -> None:
        self._is_last = True
        self.transport.close()

    def _answer(self, exchange: HttpExchange, scope: Scope) -> None:
        self._answering = exchange
        exchange.task = task = self.loop.create_task(exchange.run(self._app, scope))
        self.server_state.tasks.add(task)

    def _watch_reader(self) -> None:
        """A client that has read nothing at all for too long has left, whether or not anybody waits for it."""
        unsent_bytes = self.transport.get_write_buffer_size()

        def look() -> None:
            if self.transport.get_write_buffer_size() < unsent_bytes:
                self._watch_reader()
            else:
                self.transport.abort()

        self._stall_timer = self.loop.call_later(self.bounds.stall_timeout_s, look)

    def _check_idle(self) -> None:
        idle_s = 0.0 if self._answering is not None else self.loop.time() - self._idle_since
        if idle_s < _KEEP_ALIVE_S:
            self._idle_timer = self.loop.call_later(_KEEP_ALIVE_S - idle_s, self._check_idle)
        elif self.transport.get_write_buffer_size():
            self.transport.abort()  # closed, it would wait for a client that does not read
        else:
            self.transport.close()

    def _without_upgrade(self) -> bytes:
        """The head again without its offer of another protocol, for a fresh parser: the old one leaves the body unread.

        Java's HttpClient offers HTTP/2 with every request that it sends in the clear.
        """
        method, url, version = self._parser.get_method(), self._url, self._parser.get_http_version().encode()
        lines = [b"%b: %b\r\n" % header for header in self._headers if header[0] != b"upgrade"]
        self._parser = HttpRequestParser(self)
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, url, version, b"".join(lines))

    def _size_of_head(self) -> int:
        """As sent: with a colon, a space and a line end in each line."""
        return len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._headers)

    def _refuse_head(self) -> None:
        most = self.bounds.max_header_bytes
        self._refuse(
            GatewayError("headers_too_large", f"The request's line and headers may have at most {most} bytes.")
        )

    def _refuse(self, error: GatewayError) -> None:
        """Answer and close: what follows on the connection cannot be made sense of; what came before is answered."""
        if self._is_last:
            return
        self._is_last = True
        if self._reading is not None:
            self.transport.abort()  # in the middle of a body: no answer could be told from that request's own
            return
        if self._answering is not None:
            self.shutdown()
            return
        body = orjson.dumps({"error": error.as_object()})
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINES[error.status] + head + body)
        self.transport.close()


def _address(name: Any) -> tuple[str, int] | None:
    """Host and port; None for a socket that has none, such as a Unix domain socket."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple | list) else None
