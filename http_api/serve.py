"""The server that carries both doors: uvicorn, with bounds on a request's head and an announced end."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from math import ceil
from socket import socket
from types import FrameType
from typing import cast

import orjson
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from mcp_gateway.core.context import ABORT
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.lifecycle import Lifecycle

logger = logging.getLogger(__name__)

_MAX_AHEAD = 16
"""Requests that one connection may send ahead of its answers; beyond them it is not read."""
_LEAVE_S = 5
"""What a request may take to end once its connection is gone, before uvicorn cancels it."""


def bounded_protocol(max_header_bytes: int) -> type[HttpToolsProtocol]:
    """uvicorn's protocol with two things that it lacks.

    Request heads have a bound, 431 beyond it. And a client that leaves is noticed also when it has sent requests ahead:
    uvicorn would stop reading then, and tell only the last of them.
    """

    class BoundedProtocol(HttpToolsProtocol):
        _is_in_head = True
        _head_bytes = 0
        _overtaken: tuple[RequestResponseCycle, ...] = ()
        """Requests whose answers were not complete when the next one came."""

        def data_received(self, data: bytes) -> None:
            if self._is_in_head:
                self._head_bytes += len(data)
            super().data_received(data)
            if self._is_in_head and self._head_bytes > max_header_bytes and not self.transport.is_closing():
                self._refuse()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._is_in_head = True
            cast(dict[str, object], self.scope)[ABORT] = self.transport.abort

        def on_headers_complete(self) -> None:
            size_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            self._is_in_head, self._head_bytes = False, 0
            if size_bytes > max_header_bytes:
                self._refuse()
                return
            before = self.cycle
            super().on_headers_complete()
            if self.pipeline:
                self._overtaken = (*(cycle for cycle in self._overtaken if not cycle.response_complete), before)
                if len(self.pipeline) <= _MAX_AHEAD:
                    self.flow.resume_reading()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            for cycle in self._overtaken:
                if not cycle.response_complete:
                    cycle.disconnected = True
                    cycle.message_event.set()

        def on_body(self, body: bytes) -> None:
            if self.cycle is not None:
                super().on_body(body)

        def on_message_complete(self) -> None:
            if self.cycle is not None:
                super().on_message_complete()
            self._is_in_head = True

        def send_400_response(self, msg: str) -> None:
            self._answer_and_close(GatewayError("invalid_json", "This is not HTTP that can be understood."))

        def _refuse(self) -> None:
            message = f"The request's line and headers may have at most {max_header_bytes} bytes."
            self._answer_and_close(GatewayError("headers_too_large", message))

        def _answer_and_close(self, error: GatewayError) -> None:
            body = orjson.dumps({"error": error.as_object()})
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[error.status] + head + body)
            self.transport.close()

    return BoundedProtocol


class DrainingServer(uvicorn.Server):
    """Announces its end before it closes the port: uvicorn alone would refuse connections at once.

    SIGTERM: `announce_s` of 503 `draining`, then uvicorn's own shutdown, which lets running answers finish; those that
    take longer than `drain_timeout_s` are hung up on. SIGINT (a person at a terminal) skips the announcement; a second
    one ends at once.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        lifecycle: Lifecycle,
        announce_s: float,
        drain_timeout_s: float,
        on_listening: Callable[[str, int], None],
    ) -> None:
        super().__init__(config)
        self._drain_timeout_s = drain_timeout_s
        self._on_listening = on_listening
        self._lifecycle = lifecycle
        self._announce_s = announce_s
        self._exit_at_s: float | None = None

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._on_listening(host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._exit_at_s is not None and sig == signal.SIGINT:
            self.should_exit = self.force_exit = True
        elif self._exit_at_s is None:
            self._exit_at_s = time.monotonic() + (self._announce_s if sig == signal.SIGTERM else 0)

    async def on_tick(self, counter: int) -> bool:
        if self._exit_at_s is not None:
            if self._lifecycle.is_ready:
                logger.info("draining: new requests are refused, %d are in flight", self._lifecycle.in_flight)
                self._lifecycle.begin_draining()
            self.should_exit = self.should_exit or time.monotonic() >= self._exit_at_s
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        end = asyncio.get_running_loop().call_later(self._drain_timeout_s, self._hang_up)
        try:
            await super().shutdown(sockets)
        finally:
            end.cancel()

    def _hang_up(self) -> None:
        """As if the clients had left: what runs for them settles and ends, unlike under uvicorn's own cancellation."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()


async def serve(
    app: ASGIApp,
    lifecycle: Lifecycle,
    *,
    host: str,
    port: int,
    max_header_bytes: int,
    announce_s: float,
    drain_timeout_s: float,
    on_listening: Callable[[str, int], None],
) -> None:
    """Serve until a signal says to end; `on_listening` is called with the address once the port is open."""
    config = config_of(app, host=host, port=port, max_header_bytes=max_header_bytes, drain_timeout_s=drain_timeout_s)
    await DrainingServer(config, lifecycle, announce_s, drain_timeout_s, on_listening).serve()


def config_of(app: ASGIApp, *, host: str, port: int, max_header_bytes: int, drain_timeout_s: float) -> uvicorn.Config:
    """uvicorn's settings: our protocol, and nothing of what it would log, add or believe by itself."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=bounded_protocol(max_header_bytes),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=ceil(drain_timeout_s) + _LEAVE_S,
        timeout_keep_alive=75,
    )
