"""One client's connection: HTTP/1.1 (RFC 9112) on httptools in front of an ASGI app.

It exists because only the one who owns the socket can tell at once that a client has left, and because uvicorn's own
takes half again the CPU. Knows sockets, the order of requests and their bounds; knows nothing of routes or callers.

What comes in (`_Incoming`), fed to the parser in slices that end with a head or a body, never beyond:

    HEAD --- whole and sound --> BODY --- whole --> HEAD      one more exchange is answered, or waits behind others
    HEAD --- not understood ---> OVER                         closed after the answers to what came before, or a 400
    HEAD --- refused ----------> OVER                         the refusal is an exchange too, in its turn, and the last
    BODY --- framing broken ---> OVER                         its exchange answers 400, or is cut off if it has begun
    BODY --- whole, to close --> OVER                         the last request that counts

While 16 exchanges wait, or 64 KiB of their bodies, what comes further stays bytes (`_unread`). What goes out: one
exchange after another, from `_answer` to `answered`; behind a refusal the socket stays open for reading, so that no
reset overtakes the answer.
"""

import asyncio
import select
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any, cast

import uvicorn
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.types import ASGIApp, Scope
from uvicorn.server import ServerState

from http_api.connection.census import Census
from http_api.connection.head import fault_of, is_of_head, not_understood, read_head, without_upgrade
from http_api.connection.http_exchange import HttpExchange
from mcp_gateway.core.bytes_in_flight import Reservation
from mcp_gateway.core.context import CLIENT, SENT
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.address import UNKNOWN

_KEEP_ALIVE_S = 75.0
"""How long a connection may stay without a whole request's head, the first as well as any later one."""
_MAX_AHEAD = 16
"""Requests of one connection that wait for the answers before theirs; what it sends beyond them stays bytes."""
_HIGH_WATER_BYTES = 64 * 1024
"""A connection is not read on while this much of it waits to be parsed, nor parsed while this much of bodies waits for
its turn; up to it, unread answers are not counted."""
_SLICES_A_TURN = 4096
"""Of a read that is full of blank lines; parsing more of them at once would hold up everybody else."""
_BLANK_LINE = b"\r\n\r\n"
_LINGER_S = 2.0
"""How long a client that was refused may take to read that and close."""
_LOOK_S = 1.0
"""How often a connection that is not read is looked at for whether its client is still there."""
_PEER_CLOSED: int = getattr(select, "POLLRDHUP", 0)
"""0 where the system cannot tell: a client's leaving is then noticed by what is written to it."""
_ASGI = {"version": "3.0", "spec_version": "2.3"}


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a client may ask of a connection; one that neither sends nor reads for `stall_timeout_s` has left."""

    max_header_bytes: int
    stall_timeout_s: float


class _Incoming(Enum):
    HEAD = auto()
    BODY = auto()
    OVER = auto()


_HEAD, _BODY, _OVER = _Incoming


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
        census: Census,
        note_refusal: Callable[[str, str], None],
    ) -> None:
        self.loop = _loop or asyncio.get_running_loop()
        self.bounds = bounds
        self._census = census
        self._note_refusal = note_refusal
        self.server_state = server_state
        self.is_write_paused = False
        self._app = cast(ASGIApp, config.loaded_app)
        self._parser = HttpRequestParser(self)
        self._answering: HttpExchange | None = None
        self._ahead: deque[tuple[HttpExchange, Scope]] = deque()
        self._reading: HttpExchange | None = None  # whose body comes in
        self._ahead_bytes = 0  # of the bodies of those ahead
        self._is_reading_paused = False
        self._incoming = _HEAD
        self._unread = b""  # read and not yet parsed, from `_unread_from`
        self._unread_from = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._raw_head = b""  # what has come of the head that comes in
        self._tail = b""  # the end of the last read, where a blank line may have begun in it
        self._left_bytes = 0  # of the body that comes in, where its length is known
        self._framing_bytes = 0  # of a body in chunks, since its last piece
        self._unread_answers: Reservation | None = None  # what the client does not read, while it is much
        self._held_bytes = 0  # of it, what no request had counted before
        self._drained: asyncio.Event | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._departure_timer: asyncio.TimerHandle | None = None

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)
        self._server = _address(transport.get_extra_info("sockname"))
        self._client = _address(transport.get_extra_info("peername"))
        self._is_counted = self._census.enter(self._client and self._client[0])
        if not self._is_counted:
            transport.abort()
            return
        self.server_state.connections.add(cast(Any, self))
        self._idle_since = self.loop.time()
        self._idle_timer = self.loop.call_later(_KEEP_ALIVE_S, self._check_idle)

    def data_received(self, data: bytes) -> None:
        if self._unread:
            data = self._unread[self._unread_from :] + data
        self._read_on(data, 0)

    def eof_received(self) -> None:
        """A client that closes its half has left: what is being answered ends, earlier answers still leave."""
        if self._answering is not None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_counted:
            del self._parser
            return
        self._census.leave(self._client and self._client[0])
        self._incoming, self._unread = _OVER, b""
        self._look_for_departure(is_wanted=False)
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
        if self._answering is not None and self._answering.context is not None:
            self._hold_unread(self._answering.context.reservation)

    def resume_writing(self) -> None:
        self.is_write_paused = False
        self._idle_since = self.loop.time()
        if self._unread_answers is not None:
            self._unread_answers.let_go(self._held_bytes)
            self._unread_answers = None
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    # -- parser callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        # the parser leaves white space behind a value (RFC 9110, 5.5)
        self._headers.append((name.lower(), value.strip()))

    def on_headers_complete(self) -> None:
        raw, self._raw_head = self._raw_head, b""
        headers, self._headers = self._headers, []  # which takes the trailers, and nobody reads them (RFC 9110, 6.5)
        self._incoming = _BODY
        parser = self._parser
        try:
            asked, sent, length_bytes = read_head(raw, headers)
        except GatewayError as error:
            self._refuse_request(error, is_head=is_of_head(raw))
            return
        if parser.should_upgrade():
            self._again = without_upgrade(raw, headers)
            return
        if length_bytes is None:
            self._framing_bytes = 0
        else:
            self._left_bytes = length_bytes
        exchange = self._reading = HttpExchange(
            self,
            sent,
            is_kept_alive=asked.is_1_1 and parser.should_keep_alive(),
            can_chunk=asked.is_1_1,
            is_head=asked.method == "HEAD",
        )
        scope: Scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": "1.1" if asked.is_1_1 else "1.0",
            "server": self._server,
            "client": self._client,
            "scheme": "http",
            "root_path": "",
            "method": asked.method,
            "path": asked.path,
            "raw_path": asked.raw_path,
            "query_string": asked.query,
            "headers": headers,
            CLIENT: exchange,
            SENT: sent,
        }
        self._take_on(exchange, scope)

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        if self._reading is not None:
            self._reading.add_body(body)
            if self._ahead and self._reading is self._ahead[-1][0]:
                self._ahead_bytes += len(body)

    def on_message_complete(self) -> None:
        if self._incoming is _OVER:
            return
        self._incoming = _HEAD
        if self._headers:
            self._headers = []
        exchange, self._reading = self._reading, None
        if exchange is None:
            return
        exchange.end_body()
        if not exchange.is_kept_alive:
            self._incoming = _OVER
            if exchange.is_complete:  # closed while it still sent, the client would lose the answer to a reset
                self._end()

    # -- for the exchanges

    def pause_reading(self) -> None:
        if not self._is_reading_paused:
            self._is_reading_paused = True
            self.transport.pause_reading()
            self._look_for_departure(is_wanted=True)

    def resume_reading(self) -> None:
        """Read on, unless much has been read already that waits to be parsed, or to be taken."""
        if self._is_reading_paused and not self._has_enough and not self.transport.is_closing():
            self._is_reading_paused = False
            self.transport.resume_reading()
            self._look_for_departure(is_wanted=False)

    def hold_waiting(self, size_bytes: int) -> None:
        """Count what waits for a client to read, and be ended where it is too much."""
        if self._unread_answers is not None:
            self._held_bytes += size_bytes
            self._unread_answers.hold(size_bytes, partial(self.loop.call_soon, self.transport.abort))

    async def drained(self) -> None:
        """Wait until what was written has mostly left, or the connection has ended."""
        if self._drained is None:
            self._drained = asyncio.Event()
        await self._drained.wait()

    async def client_sends(self, event: asyncio.Event, left_s: float) -> float:
        """Wait for more of a request; returns for how long.

        A client that lets this take longer than `left_s`, or than any silence may last, has left, and its connection
        is closed.
        """
        began_s = self.loop.time()
        timer = self.loop.call_later(min(left_s, self.bounds.stall_timeout_s), self.transport.abort)
        try:
            await event.wait()
        finally:
            timer.cancel()
        return self.loop.time() - began_s

    def answered(self, exchange: HttpExchange) -> None:
        """The answer is written: go on with what was sent ahead, or wait."""
        self.server_state.total_requests += 1
        self._answering = None
        self._idle_since = self.loop.time()
        if not exchange.is_kept_alive:
            self._close_after(exchange)
        elif self._ahead:
            self._answer(*self._ahead.popleft())
            if self._ahead_bytes:
                self._ahead_bytes = sum(waiting.waiting_bytes for waiting, _ in self._ahead)
            if self._unread:
                self._read_on(self._unread, self._unread_from)
        self.resume_reading()

    # -- for uvicorn's server

    def shutdown(self) -> None:
        """Take no further requests; what was sent is answered."""
        if self._answering is None:
            self.transport.close()
        else:
            last = self._ahead[-1][0] if self._ahead else self._answering
            last.is_kept_alive = False
            if self._reading is None:
                self._incoming, self._unread = _OVER, b""

    # -- what comes in

    @property
    def _has_enough(self) -> bool:
        is_full = self._reading is not None and self._reading.is_full
        return is_full or len(self._unread) - self._unread_from > _HIGH_WATER_BYTES

    @property
    def _is_ahead_full(self) -> bool:
        return len(self._ahead) >= _MAX_AHEAD or self._ahead_bytes > _HIGH_WATER_BYTES

    def _read_on(self, data: bytes, start: int) -> None:
        """Parse what has come, slice by slice, as long as there is room for what waits behind the present answer."""
        size = len(data)
        for _ in range(_SLICES_A_TURN):
            if start == size or self._incoming is _OVER or (self._ahead and self._is_ahead_full):
                break
            if self._left_bytes:
                end = min(start + self._left_bytes, size)
                self._left_bytes -= end - start
                self._parser.feed_data(data[start:end])
            else:
                end = self._end_of_slice(data, start)
                self._feed(data[start:end])
            start = end
        else:
            self.loop.call_soon(self._go_on)
        if start == size or self._incoming is _OVER:
            self._unread, self._unread_from = b"", 0
            may_be_cut = self._raw_head or (self._incoming is _BODY and not self._left_bytes)
            self._tail = (self._tail + data)[-3:] if may_be_cut else b""
        else:
            self._unread, self._unread_from, self._tail = data, start, b""
            if self._has_enough:
                self.pause_reading()

    def _go_on(self) -> None:
        """In another turn of the event loop, so that others have theirs."""
        if self._unread:
            self._read_on(self._unread, self._unread_from)
            self.resume_reading()

    def _end_of_slice(self, data: bytes, start: int) -> int:
        """Behind the next blank line: a head ends there, or a body in chunks, unless it is content (no harm)."""
        if self._tail and not start:
            cut = (self._tail + data[:3]).find(_BLANK_LINE)
            if cut >= 0:  # two reads brought its two parts
                return cut + len(_BLANK_LINE) - len(self._tail)
        end = data.find(_BLANK_LINE, start)
        return end + len(_BLANK_LINE) if end >= 0 else len(data)

    def _feed(self, data: bytes) -> None:
        if self._incoming is _HEAD:
            self._raw_head = self._raw_head + data if self._raw_head else data
            if len(self._raw_head) > self.bounds.max_header_bytes:
                self._refuse(self._too_large())
                return
        else:
            self._framing_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:  # at the end of the slice, as it is at the end of the head
            if self._incoming is not _OVER:
                self._feed_again()
        except HttpParserError:
            self._refuse_what_is_broken()
        if self._framing_bytes > self.bounds.max_header_bytes and self._reading is not None:
            self._break_off(self._reading, self._too_large())

    def _take_on(self, exchange: HttpExchange, scope: Scope) -> None:
        if self._answering is None:
            self._answer(exchange, scope)
        else:
            self._ahead.append((exchange, scope))

    def _refuse_what_is_broken(self) -> None:
        if self._incoming is _HEAD:
            self._refuse(fault_of(self._raw_head))
        elif self._reading is not None:
            self._break_off(self._reading, not_understood("The body's chunks cannot be understood."))

    def _refuse(self, error: GatewayError) -> None:
        """What comes is no request: behind one that is being answered it may be its rest, and gets no answer."""
        if self._answering is None:
            self._refuse_request(error)
        elif self._incoming is not _OVER:
            self._incoming = _OVER
            self.shutdown()

    def _refuse_request(self, error: GatewayError, *, is_head: bool = False) -> None:
        """Answer this in its turn, and close: what follows on the connection cannot be made sense of."""
        self._incoming = _OVER
        exchange = HttpExchange(self, {}, is_kept_alive=False, can_chunk=True, is_head=is_head, refusal=error)
        exchange.is_body_coming = False
        self._note_refusal(error.code, self._client[0] if self._client else UNKNOWN)
        self._take_on(exchange, {})

    def _break_off(self, exchange: HttpExchange, error: GatewayError) -> None:
        """The rest of a body cannot be read: its request is refused as long as that can be told."""
        self._incoming, self._reading = _OVER, None
        if exchange.is_complete:
            self._linger()
        elif exchange.has_started:
            self.transport.abort()
        else:
            exchange.break_off(error)

    def _too_large(self) -> GatewayError:
        most = self.bounds.max_header_bytes
        return GatewayError("headers_too_large", f"The request's line and headers may have at most {most} bytes.")

    def _feed_again(self) -> None:
        """To a fresh parser, the head without its offer of another protocol: the old one leaves the body unread."""
        self._parser = HttpRequestParser(self)
        self._incoming = _HEAD
        self._feed(self._again)

    # -- what goes out

    def _close_after(self, exchange: HttpExchange) -> None:
        """At once where the client is silent, and where it may still send not before it has read the answer."""
        is_read = self._reading is not exchange
        if exchange.refusal is not None or not (is_read or exchange.is_body_coming):
            self._linger()
        elif is_read:
            self._end()

    def _end(self) -> None:
        self._incoming = _OVER
        self.transport.close()

    def _linger(self) -> None:
        """Close once the client has, or after a moment: closed at once, it could lose the answer to a reset."""
        self._incoming, self._unread = _OVER, b""
        self.transport.write_eof()
        self.resume_reading()
        self._idle_timer.cancel()
        self._idle_timer = self.loop.call_later(_LINGER_S, self.transport.abort)

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

    def _hold_unread(self, reservation: Reservation) -> None:
        """Count what lies beyond the mark, unless the request that it answers keeps as much: it is the same then.

        What has an end of its own already is counted by whoever answers.
        """
        if reservation.end is not None:
            return
        unread_bytes = self.transport.get_write_buffer_size() - _HIGH_WATER_BYTES
        self._unread_answers, self._held_bytes = reservation, 0
        self.hold_waiting(max(0, unread_bytes - reservation.size_bytes))

    def _check_idle(self) -> None:
        is_busy = self._answering is not None or self.is_write_paused  # a slow reader is the stall timer's to judge
        idle_s = 0.0 if is_busy else self.loop.time() - self._idle_since
        if idle_s < _KEEP_ALIVE_S:
            self._idle_timer = self.loop.call_later(_KEEP_ALIVE_S - idle_s, self._check_idle)
        elif self.transport.get_write_buffer_size():
            self.transport.abort()  # closed, it would wait for a client that does not read
        else:
            self.transport.close()

    def _look_for_departure(self, *, is_wanted: bool) -> None:
        """While nothing is read, the event loop does not tell the end of a connection; Linux does, when it is asked."""
        if self._departure_timer is not None:
            self._departure_timer.cancel()
            self._departure_timer = None
        if is_wanted and _PEER_CLOSED:
            self._departure_timer = self.loop.call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), _PEER_CLOSED)
        if poll.poll(0):
            self.transport.abort()
        else:
            self._look_for_departure(is_wanted=True)


def _address(name: Any) -> tuple[str, int] | None:
    """Host and port; None for a socket that has none, such as a Unix domain socket."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple | list) else None
