"""The server that carries both doors: uvicorn's, with connections of our own and an announced end."""

import asyncio
import errno
import logging
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from math import ceil
from socket import socket
from types import FrameType
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from http_api.any_server import AnyServer
from http_api.connection import Acceptor, Bounds, Census, Connection
from mcp_gateway.core.lifecycle import Lifecycle
from mcp_gateway.core.log_limit import LogLimit

logger = logging.getLogger(__name__)

_OUTLIVED = ("SIGHUP", "SIGUSR1", "SIGUSR2")
_LEAVE_S = 5
"""What a request may take to end once its connection is gone, before uvicorn cancels it."""


class DrainingServer(uvicorn.Server):
    """Announces its end before it closes the port: uvicorn alone would refuse connections at once.

    SIGTERM, or an administrator's request: `announce_s` of 503 `draining`, then uvicorn's own shutdown, which lets
    running answers finish; those that take longer than `drain_timeout_s` are hung up on. SIGINT (a person at a
    terminal) skips the announcement; a second one ends at once.
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
        self._acceptor = cast(Acceptor, config.http)
        self._drain_timeout_s = drain_timeout_s
        self._on_listening = on_listening
        self._lifecycle = lifecycle
        self._announce_s = announce_s
        self._exit_at_s: float | None = None

    async def startup(self, sockets: list[socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(_Complaints())
        try:
            await super().startup(sockets)
        except SystemExit:  # behind the reason, which uvicorn logs without the settings
            logger.error(
                "host %s and port %d of the settings cannot be listened on", self.config.host, self.config.port
            )
            raise
        if self.started:
            self._acceptor.listen(self.servers)
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._on_listening(host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._exit_at_s is not None and sig == signal.SIGINT:
            self.should_exit = self.force_exit = True
        elif self._exit_at_s is None:
            self._exit_at_s = time.monotonic() + (self._announce_s if sig == signal.SIGTERM else 0)

    async def on_tick(self, counter: int) -> bool:
        if self._exit_at_s is None and self._lifecycle.is_asked_to_end:
            self._exit_at_s = time.monotonic() + self._announce_s
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


def outlive_signals() -> None:
    """Say so, and go on, where a signal comes that others use to have a log opened anew; of SIGHUP until `on_hangup`.

    The system would end the process with each of them, with what runs in it.
    """
    loop = asyncio.get_running_loop()
    for name in _OUTLIVED:
        if (number := getattr(signal, name, None)) is not None:  # Windows has none of them
            loop.add_signal_handler(number, logger.warning, "%s changes nothing", name)


def on_hangup(hear: Callable[[], None]) -> None:
    """Call `hear` at each SIGHUP from now on, where the system has that."""
    if (number := getattr(signal, "SIGHUP", None)) is not None:
        asyncio.get_running_loop().add_signal_handler(number, hear)


class _Complaints:
    """What the event loop complains of: asyncio's, unlike uvloop, does so of each connection that it cannot accept."""

    def __init__(self) -> None:
        self._log = LogLimit(logger)

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            self._log.warning("the system has no room for another connection: %s", os.strerror(error.errno))
        else:
            loop.default_exception_handler(context)


async def serve(
    app: ASGIApp,
    lifecycle: Lifecycle,
    *,
    host: str,
    port: int,
    bounds: Bounds,
    census: Census,
    note_refusal: Callable[[str, str], None],
    announce_s: float,
    drain_timeout_s: float,
    on_listening: Callable[[str, int], None],
    sockets: list[socket] | None = None,
) -> None:
    """Serve until a signal says to end; `on_listening` is called with the address once the port is open.

    `sockets` are bound there already, where other processes listen, too.
    """
    config = config_of(
        app,
        host=host,
        port=port,
        bounds=bounds,
        census=census,
        note_refusal=note_refusal,
        drain_timeout_s=drain_timeout_s,
    )
    await DrainingServer(config, lifecycle, announce_s, drain_timeout_s, on_listening).serve(sockets)


def config_of(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    bounds: Bounds,
    census: Census,
    note_refusal: Callable[[str, str], None],
    drain_timeout_s: float,
) -> uvicorn.Config:
    """uvicorn's settings: our connections, and nothing of what it would log, add or believe by itself.

    `note_refusal` is told the code and the peer of what is refused before it is a request.
    """
    make = partial(Connection, bounds=bounds, census=census, note_refusal=note_refusal)
    return uvicorn.Config(
        app.for_our_connections if isinstance(app, AnyServer) else app,
        host=host,
        port=port,
        http=cast(type[asyncio.Protocol], Acceptor(make)),
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=ceil(drain_timeout_s) + _LEAVE_S,
    )
