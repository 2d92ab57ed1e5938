"""One client's connection, in front of an ASGI app: its requests are answered one after another, in their order.

It exists because only the one who owns the socket can tell at once that a client has left, and because uvicorn's own
takes half again the CPU. Knows the event loop's protocol, whose turn it is, and when the socket is closed (behind a
refusal it stays open for reading, so that no reset overtakes the answer). Knows nothing of HTTP's bytes, of which
`request_reader.py` makes requests and `http_exchange.py` answers, nor of routes or callers.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Scope
from uvicorn.server import ServerState

from http_api.connection.ahead import Ahead
from http_api.connection.census import Census
from http_api.connection.departure import DepartureWatch
from http_api.connection.http_exchange import HttpExchange
from http_api.connection.idle_clock import IdleClock
from http_api.connection.request_reader import RequestReader
from http_api.connection.unread import Unread
from mcp_gateway.core.identity.address import UNKNOWN

_ASGI = {"version": "3.0", "spec_version": "2.3"}


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a client may ask of a connection; one that neither sends nor reads for `stall_timeout_s` has left."""

    max_header_bytes: int
    stall_timeout_s: float


class Connection(asyncio.Protocol):
    """A connection, as uvicorn's server makes and counts it.

    `unread` is there while the client does not read what it was sent, `_departure` while nothing is read of the client.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        bounds: Bounds,
        census: Census,
        note_refusal: Callable[[str, str], None],
    ) -> None:
        self.loop = _loop or asyncio.get_running_loop()
        self.server_state = server_state
        self.answering: HttpExchange | None = None
        self.ahead = Ahead()
        self.unread: Unread | None = None
        self._departure: DepartureWatch | None = None
        self._app = cast(ASGIApp, config.loaded_app)
        self._bounds = bounds
        self._census = census
        self._note_refusal = note_refusal

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)
        self._client = _address(transport.get_extra_info("peername"))
        self._is_counted = self._census.enter(self._client and self._client[0])
        if not self._is_counted:
            transport.abort()
            return
        self.server_state.connections.add(cast(Any, self))
        self._idle = IdleClock(transport, self._is_busy)
        self._requests = self._reader(_address(transport.get_extra_info("sockname")), self._client)

    def data_received(self, data: bytes) -> None:
        self._requests.read(data)

    def eof_received(self) -> None:
        """A client that closes its half has left: what is being answered ends, earlier answers still leave."""
        if self.answering is not None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_counted:
            return
        self._census.leave(self._client and self._client[0])
        self._requests.close()
        if self._departure is not None:
            self._departure.stop()
        self._idle.stop()
        self.server_state.connections.discard(cast(Any, self))
        self.resume_writing()
        if self.answering is not None:
            self.answering.leave()
            self.answering = None
        self.ahead.clear()

    def pause_writing(self) -> None:
        context = None if self.answering is None else self.answering.context
        reservation = None if context is None else context.reservation
        self.unread = Unread(self.transport, self._bounds.stall_timeout_s, reservation)

    def resume_writing(self) -> None:
        self._idle.since_s = self.loop.time()
        if self.unread is not None:
            self.unread.end()
            self.unread = None

    # -- for the requests and their exchanges

    def pause_reading(self) -> None:
        if self._departure is None:
            self.transport.pause_reading()
            self._departure = DepartureWatch(self.transport)

    def resume_reading(self) -> None:
        """Read on, unless much has been read already that waits to be parsed, or to be taken."""
        if self._departure is not None and not self._requests.has_enough and not self.transport.is_closing():
            self._departure.stop()
            self._departure = None
            self.transport.resume_reading()

    async def client_sends(self, event: asyncio.Event, left_s: float) -> float:
        """Wait for more of a request; returns for how long.

        A client that lets this take longer than `left_s`, or than any silence may last, has left, and its connection
        is closed.
        """
        began_s = self.loop.time()
        timer = self.loop.call_later(min(left_s, self._bounds.stall_timeout_s), self.transport.abort)
        try:
            await event.wait()
        finally:
            timer.cancel()
        return self.loop.time() - began_s

    def take_on(self, exchange: HttpExchange, scope: Scope) -> None:
        """Have a request answered, now or once those before it are."""
        if self.answering is not None:
            self.ahead.append((exchange, scope))
            return
        self.answering = exchange
        exchange.task = task = self.loop.create_task(exchange.run(self._app, scope))
        self.server_state.tasks.add(task)

    def answered(self, exchange: HttpExchange) -> None:
        """The answer is written: go on with what was sent ahead, or wait."""
        self.server_state.total_requests += 1
        self.answering = None
        self._idle.since_s = self.loop.time()
        if not exchange.answer.is_kept_alive:
            self._close_after(exchange)
        elif self.ahead:
            self.take_on(*self.ahead.take())
            self._requests.go_on()
        if self._departure is not None:
            self.resume_reading()

    def linger(self) -> None:
        """Close once the client has, or after a moment: closed at once, it could lose the answer to a reset."""
        self._requests.stop()
        self.transport.write_eof()
        self.resume_reading()
        self._idle.linger()

    # -- for uvicorn's server

    def shutdown(self) -> None:
        """Take no further requests; what was sent is answered."""
        if self.answering is None:
            self.transport.close()
        else:
            last = self.ahead[-1][0] if self.ahead else self.answering
            last.answer.is_kept_alive = False
            if self._requests.reading is None:
                self._requests.stop()

    # -- its own

    def _reader(self, server: tuple[str, int] | None, client: tuple[str, int] | None) -> RequestReader:
        shared = {"type": "http", "asgi": _ASGI, "server": server, "client": client, "scheme": "http", "root_path": ""}
        address = client[0] if client else UNKNOWN
        note = self._note_refusal
        return RequestReader(
            self,
            shared,
            max_header_bytes=self._bounds.max_header_bytes,
            note_refusal=lambda code: note(code, address),
        )

    def _is_busy(self) -> bool:
        return self.answering is not None or self.unread is not None  # a slow reader has a clock of its own

    def _close_after(self, exchange: HttpExchange) -> None:
        """At once where the client is silent, and where it may still send not before it has read the answer."""
        is_read = self._requests.reading is not exchange
        if exchange.refusal is not None or not (is_read or exchange.is_body_coming):
            self.linger()
        elif is_read:
            self._requests.stop()
            self.transport.close()


def _address(name: Any) -> tuple[str, int] | None:
    """Host and port; None for a socket that has none, such as a Unix domain socket."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple | list) else None
