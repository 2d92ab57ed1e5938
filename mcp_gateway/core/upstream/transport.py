"""HTTP/1.1 to one origin: a keep-alive pool, time and size limits, back-pressure both ways, TLS.

Knows sockets and HTTP framing; knows nothing of models, health, fail-over or what the bytes mean.

UpstreamError
├── ConnectFailed         no connection: refused, unresolved, handshake failed
├── NoResources           no connection for want of something on this machine: descriptors, ports, memory
├── ConnectionDied        the connection ended inside an exchange
├── BadResponse           what came is not HTTP/1.1, or not an answer to this request
├── ResponseTooLarge      head or body above the limit
│   └── BodyTooLarge      the body
└── TimedOut              one of the waiting times ran out
"""

import asyncio
import errno
import logging
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Literal, Protocol, Self, cast
from urllib.parse import urlsplit

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

logger = logging.getLogger(__name__)

_WRITE_BYTES = 256 * 1024
_SOCKET_BYTES = 64 * 1024
"""What the system holds of an answer: the event loop reads all of it at once, before anybody can count it."""
_DOUBT_S = 0.25
"""How long a connection rests whose answer nothing told to be ours: what else comes on it nobody has asked for."""
_MOST_RESTING = 16
"""More are not opened for that: a busy backend would have hundreds of connections, each of them cold."""
_CLOSE_S = 5.0
"""What closing waits for sockets that were aborted; an end must not depend on what the event loop forgot."""
_INTERIM = frozenset(range(100, 200)) - {101}
_FINAL = range(200, 600)
"""Statuses of answers that go before the answer (101 ends HTTP instead), and of the answer."""
_OF_THIS_MACHINE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
_ERRNO = re.compile(r"\[Errno (\d+)\]")

Keep = Callable[[int], Awaitable[None]]
"""Has room for so many bytes of a body in all; while it is awaited, the backend is not read. May raise."""
Wait = Literal["connect", "queue", "first_token", "idle", "unary", "total"]


class UpstreamError(Exception):
    """The exchange failed; its connection is closed."""

    def anew(self) -> Self:
        """The same, to be raised: raised itself, an error that is kept would keep all frames, and a request's body."""
        twin = self.__class__.__new__(self.__class__, *self.args)
        twin.__dict__.update(self.__dict__)
        return twin


class ConnectFailed(UpstreamError):
    """No connection could be made."""


class NoResources(UpstreamError):
    """This machine had no descriptor, port or memory left for the connection, which says nothing of the backend."""


class ConnectionDied(UpstreamError):
    """The connection ended inside an exchange, `before_first_byte` of the answer or after."""

    def __init__(self, message: str, *, before_first_byte: bool) -> None:
        super().__init__(message)
        self.before_first_byte = before_first_byte


class BadResponse(UpstreamError):
    """The bytes that came are not a valid HTTP/1.1 answer (RFC 9112)."""


class ResponseTooLarge(UpstreamError):
    """The head or the body is above its limit."""


class BodyTooLarge(ResponseTooLarge):
    """The body is, which is no fault of who answers: so much was asked for."""


class TimedOut(UpstreamError):
    """The waiting time named by `which` ran out."""

    def __init__(self, which: Wait) -> None:
        super().__init__(f"{which} timeout")
        self.which = which


class Patience(Protocol):
    """How long a request waits while nothing comes, in place of the first-token and idle limits.

    `look` is asked after each `look_s` of silence, and then as often as it says.
    """

    look_s: float

    def look(self, silent_s: float) -> float: ...


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Waiting times in seconds; all but `connect_s` count only while someone waits for the backend.

    A stream has `first_token_s` from the request to the first byte of the body, `idle_s` between bytes after that and
    `total_s` in all; any other answer has `unary_s` in all.
    """

    connect_s: float = 5.0
    first_token_s: float = 20.0
    idle_s: float = 60.0
    unary_s: float = 600.0
    total_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """Sizes in bytes and the bounds of the keep-alive pool.

    `max_idle_s` has to stay below the backend's own keep-alive timeout. What is buffered for a reader that does not
    read is `high_water_bytes` and at most one more read from the socket.
    """

    max_head_bytes: int = 64 * 1024
    max_body_bytes: int = 64 * 1024 * 1024
    max_idle_s: float = 4.0
    max_idle_connections: int = 1024
    high_water_bytes: int = 64 * 1024


class Transport:
    """The connections to one origin, such as `http://127.0.0.1:8000/base`."""

    def __init__(
        self,
        base_url: str,
        *,
        timeouts: Timeouts,
        limits: TransportLimits,
        ssl_context: ssl.SSLContext | None = None,
        address: str | None = None,
    ) -> None:
        """Connect to nothing yet; ValueError when the URL is not one of a plain http or https origin.

        An `address` is connected to in place of a look-up of the host's name; the certificate is still for the name.
        """
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname or not base_url.isascii():
            raise ValueError("a base URL is ASCII, http:// or https:// with a host")
        if url.username is not None or url.query or url.fragment:
            raise ValueError("a base URL has no user, query or fragment")
        self.timeouts = timeouts
        self.limits = limits
        self._base_url = base_url
        self._address = address or url.hostname
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._host_header = url.netloc
        self._path_prefix = url.path.rstrip("/")
        self._ssl = (ssl_context or ssl.create_default_context()) if url.scheme == "https" else None
        self._certified_name = None if self._ssl is None else url.hostname
        self._idle: list[_Connection] = []  # oldest first, taken from the end
        self._busy: set[_Connection] = set()
        self._open: set[_Connection] = set()  # those with a socket, whatever they do
        self._reaper: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._all_lost: asyncio.Future[None] | None = None

    @property
    def in_flight(self) -> int:
        """Exchanges under way, those still connecting included."""
        return len(self._busy)

    @property
    def idle(self) -> int:
        """Connections waiting to be used again."""
        return len(self._idle)

    def __repr__(self) -> str:
        return f"<Transport {self._base_url} in_flight={self.in_flight} idle={self.idle}>"

    async def request(
        self,
        method: str,
        path: str,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes = b"",
        *,
        is_stream: bool = False,
        patience: Patience | None = None,
    ) -> "Response":
        """Send one request and return its answer once the head is there; raises UpstreamError.

        `headers` come without host, content-length and connection; ValueError for a line break in the head.
        A reused connection that dies before any byte of the answer came is replaced by a fresh one, once.
        Unless `is_stream`, the head waits for the body, as far as that fits below the high-water mark. `patience` is
        asked after each silence that it names; it ends the wait by raising an UpstreamError.
        """
        head = self._head(method, path, headers, body)
        pooled = self._take_idle()
        if pooled is not None:
            pooled.begin(method, is_stream, patience)
            try:
                await pooled.exchange(head, body)
                return Response(pooled)
            except ConnectionDied as death:
                if not death.before_first_byte:
                    raise
        fresh = await self._connect()
        fresh.begin(method, is_stream, patience)
        if pooled is not None:  # the second attempt has what the first left of its time
            fresh.step_left_s, fresh.budget_left_s = pooled.step_left_s, pooled.budget_left_s
        await fresh.exchange(head, body)
        return Response(fresh)

    async def aclose(self) -> None:
        """Close every connection, those in use included, and return when their sockets are closed, or after a while."""
        self._is_closed = True
        if self._reaper is not None:
            self._reaper.cancel()
        for connection in [*self._idle, *self._busy]:
            connection.abort()
        if self._open:
            self._all_lost = self._all_lost or asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await asyncio.shield(self._all_lost)
            except TimeoutError:
                logger.warning("%d connections to %s did not close and are left", len(self._open), self._base_url)

    def _head(self, method: str, path: str, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bytes:
        request_line = f"{method} {self._path_prefix}{path} HTTP/1.1\r\nhost: {self._host_header}\r\n"
        lines = [request_line.encode("ascii"), *[b"%b: %b\r\n" % header for header in headers]]
        if body or method not in ("GET", "HEAD"):
            lines.append(b"content-length: %d\r\n" % len(body))
        lines.append(b"\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) + 1 or head.count(b"\r") != len(lines) + 1 or " " in path:
            raise ValueError("a line break in the request's head, or a space in its path")
        return head

    async def _connect(self) -> "_Connection":
        if self._is_closed:
            raise ConnectFailed("the transport is closed")
        loop = asyncio.get_running_loop()
        connection = _Connection(self, loop)
        self._busy.add(connection)
        try:
            async with asyncio.timeout(self.timeouts.connect_s):
                await loop.create_connection(
                    lambda: connection,
                    self._address,
                    self._port,
                    ssl=self._ssl,
                    server_hostname=self._certified_name,
                )
        except BaseException as error:
            connection.abort()
            self._lost(connection)  # cancelled after it was made, uvloop does not tell of its end
            if isinstance(error, TimeoutError):
                raise TimedOut("connect") from error
            if isinstance(error, OSError) and is_of_this_machine(error):
                raise NoResources(f"no connection: {error}") from error
            if isinstance(error, OSError | UnicodeError):  # the latter from a host name that cannot be one
                raise ConnectFailed(f"no connection: {error}") from error
            raise
        return connection

    def _take_idle(self) -> "_Connection | None":
        """The one that was used last, or, while it rests, the one that has rested longest; None, for a new one to be
        opened, where that rests too and few do.
        """
        if not self._idle:
            return None
        at, now_s = -1, monotonic()
        if self._idle[at].is_resting(now_s):
            at = 0
            if self._idle[at].is_resting(now_s) and len(self._idle) < _MOST_RESTING:
                return None
        connection = self._idle.pop(at)
        if now_s - connection.idle_since < self.limits.max_idle_s:
            self._busy.add(connection)
            return connection
        connection.abort()  # the reaper is late; it will find the others, which are older
        return None

    def _release(self, connection: "_Connection") -> None:
        self._busy.discard(connection)
        if self._is_closed or not connection.is_reusable or len(self._idle) >= self.limits.max_idle_connections:
            connection.abort()
            return
        connection.idle_since = monotonic()  # unlike a loop's cached time, right after the loop was held up
        self._idle.append(connection)
        if self._reaper is None:
            self._reaper = connection.loop.call_later(self.limits.max_idle_s, self._reap)

    def _reap(self) -> None:
        self._reaper = None
        while self._idle:
            oldest = self._idle[0]
            left_s = oldest.idle_since + self.limits.max_idle_s - monotonic()
            if left_s > 0:
                self._reaper = oldest.loop.call_later(left_s, self._reap)
                return
            oldest.abort()

    def _opened(self, connection: "_Connection") -> None:
        self._open.add(connection)

    def _aborted(self, connection: "_Connection") -> None:
        self._busy.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _lost(self, connection: "_Connection") -> None:
        self._open.discard(connection)
        if self._all_lost is not None and not self._open and not self._all_lost.done():
            self._all_lost.set_result(None)


def is_of_this_machine(error: OSError) -> bool:
    """Whether it is for want of something here that a connection failed.

    Where a name has several addresses, the event loop joins the errors of all into one text without a number. Each must
    be of this kind then: a machine without IPv6 has no address to reach a server from, but the other address says why.
    """
    if isinstance(error, socket.gaierror):  # a resolver that can open nothing says that the name is unknown
        return not _can_open()
    found = [error.errno] if error.errno is not None else [int(number) for number in _ERRNO.findall(str(error))]
    return bool(found) and all(number in _OF_THIS_MACHINE for number in found)


def _can_open() -> bool:
    try:
        socket.socket().close()
    except OSError:
        return False
    return True


class Response:
    """One answer, read by one task at a time; whoever got it calls `close()` in a `finally`.

    `headers` has lower-case names; the values of a repeated one are joined by commas (RFC 9110, 5.3).
    """

    __slots__ = ("_carrier", "_connection", "_is_read", "headers", "status")

    def __init__(self, connection: "_Connection") -> None:
        self.status = connection.status
        self.headers = connection.headers
        self._connection: _Connection | None = connection
        self._carrier = connection
        self._is_read = False

    def header(self, name: bytes) -> bytes | None:
        """The value of a header by its lower-case name."""
        return self.headers.get(name)

    async def read(self, keep: Keep | None = None) -> bytes | bytearray:
        """The rest of the body, whole; raises UpstreamError, BodyTooLarge above `max_body_bytes`.

        A long one is put together in place as it comes: to join its pieces at the end would hold the event loop. It is
        announced to `keep`, where it has a length, or told to it as it comes, before it is taken from the connection.
        """
        connection = self._connection
        if connection is None:
            return await self.next_chunk()
        most_bytes = connection.limits.max_body_bytes
        if connection.is_complete and connection.unread_bytes <= most_bytes:
            return await self.next_chunk()
        length = self.headers.get(b"content-length", b"")
        announced_bytes = int(length) if length.isdigit() else 0
        body = bytearray()
        while max(len(body), announced_bytes) <= most_bytes:
            if self._connection is None:
                return body
            while not (connection.unread_bytes or connection.is_complete):
                await connection.wait()
            if keep is not None:
                await keep(max(min(len(body) + connection.unread_bytes, most_bytes), announced_bytes))
            body += await self.next_chunk()
        self.close()
        raise BodyTooLarge("the body is above its limit")

    async def next_chunk(self) -> bytes:
        """All that has arrived, at least a byte, b"" at the end; raises UpstreamError once that is handed out."""
        connection = self._connection
        if connection is None:
            if not self._is_read:
                raise ConnectionDied("the response is closed", before_first_byte=False)
            return b""
        while not (connection.unread_bytes or connection.is_complete):
            await connection.wait()
        data = connection.take()
        if connection.is_complete:
            self._is_read = True
            self._connection = None
            connection.release()
        return data

    def close(self) -> None:
        """Let go of the connection: at once closed, which stops the backend, unless the answer has come whole."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if connection.is_complete:
            connection.take()
            connection.release()
        else:
            connection.abort()

    def doubt(self) -> None:
        """Let the connection rest before it is used again: nothing in the answer told that it was to this request."""
        self._carrier.is_doubted = True

    def discard(self) -> None:
        """Close the connection though the answer may have come whole: what comes on it is not what was asked for."""
        self._connection = None
        self._carrier.abort()


class _StopParsing(Exception):
    """Raised through the parser to keep it from going on."""


class _Connection(asyncio.Protocol):
    """One socket and, while it is busy, one exchange: parser callbacks in, at most one waiting task out."""

    __slots__ = (
        "_deadline",
        "_framing_bytes",
        "_has_answer_bytes",
        "_has_socket",
        "_head_bytes",
        "_high_water_bytes",
        "_idle_s",
        "_is_close_delimited",
        "_is_head_request",
        "_is_kept_alive",
        "_is_paused",
        "_is_sent",
        "_is_stream",
        "_is_write_paused",
        "_owner",
        "_parser",
        "_patience",
        "_pieces",
        "_socket",
        "_step",
        "_timer",
        "_timer_at",
        "_waiter",
        "budget_left_s",
        "error",
        "headers",
        "idle_since",
        "is_complete",
        "is_doubted",
        "limits",
        "loop",
        "on_body",
        "status",
        "step_left_s",
        "unread_bytes",
    )

    def __init__(self, owner: Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self.loop = loop
        self.limits = owner.limits
        self._high_water_bytes = min(owner.limits.high_water_bytes, owner.limits.max_body_bytes)
        self.error: UpstreamError | None = None  # set once, with the end of the connection
        self.is_complete = True  # nothing is due before a request is sent
        self.idle_since = 0.0
        self.is_doubted = False
        self._socket: asyncio.Transport
        self._has_socket = False
        self._is_write_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._deadline = 0.0
        self._has_answer_bytes = False
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # called by the parser: no frame of ours for each chunk of a stream

    # -- the exchange, called by whoever holds the connection

    def begin(self, method: str, is_stream: bool, patience: Patience | None = None) -> None:
        """Forget the last exchange and wind the clocks."""
        timeouts = self._owner.timeouts
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.is_complete = self.is_doubted = self._has_answer_bytes = self._is_paused = self._is_sent = False
        self.unread_bytes = self._head_bytes = self._framing_bytes = 0
        self._pieces.clear()
        self._is_head_request = method == "HEAD"
        self._is_stream = is_stream
        self._step: Wait = "first_token"
        self._patience = patience
        if patience is None:
            self.step_left_s = timeouts.first_token_s if is_stream else inf
            self._idle_s = timeouts.idle_s
        else:
            self.step_left_s = self._idle_s = patience.look_s
        self.budget_left_s = timeouts.total_s if is_stream else timeouts.unary_s

    async def exchange(self, head: bytes, body: bytes) -> None:
        """Send the request and wait for the head of its answer; whatever goes wrong closes the connection."""
        try:
            if self.error is not None:
                raise self.error.anew()
            self._socket.write(head + body[:_WRITE_BYTES])
            if len(body) > _WRITE_BYTES:
                await self._write_rest(body)
            else:
                self._is_sent = True
            while not self.status:
                await self.wait()
        except BaseException:
            self.abort()
            raise

    async def wait(self) -> None:
        """Wait until something happens, at most as long as the clocks allow; raises the connection's error."""
        if self.error is not None:
            raise self.error.anew()
        began_at = self.loop.time()
        left_s = self.step_left_s if self.step_left_s < self.budget_left_s else self.budget_left_s
        self._deadline = began_at + left_s
        if self._timer is None or self._timer_at > self._deadline:
            self._wind_timer()
        self._waiter = self.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        waited_s = self.loop.time() - began_at
        self.step_left_s -= waited_s
        self.budget_left_s -= waited_s

    def take(self) -> bytes:
        """Hand out what has arrived and let more come."""
        data = b"".join(self._pieces)
        if data:
            self._pieces.clear()
            self.unread_bytes = 0
            if self._is_stream:
                self._step = "idle"
                self.step_left_s = self._idle_s
        if self._is_paused and self.error is None:
            self._is_paused = False
            self._socket.resume_reading()
        return data

    @property
    def is_reusable(self) -> bool:
        """Whether another request may follow on this connection."""
        return self._is_kept_alive and self._is_sent and self.error is None

    def is_resting(self, now_s: float) -> bool:
        """Whether an answer that nobody asked for may still come, which would be taken for the next request's."""
        return self.is_doubted and now_s - self.idle_since < _DOUBT_S

    def release(self) -> None:
        """Give the connection back after its whole answer."""
        self._owner._release(self)

    def abort(self, error: UpstreamError | None = None) -> None:
        """Close the socket at once, for `error` if that is why; a second time does nothing."""
        if self.error is not None:
            return
        self.error = error or ConnectionDied("closed on this side", before_first_byte=not self._has_answer_bytes)
        if self._timer is not None:
            self._timer.cancel()
        if self._has_socket:
            self._socket.abort()
        self._owner._aborted(self)
        self._wake()

    async def _write_rest(self, body: bytes) -> None:
        """Send what follows the first piece as fast as it is taken; an answer that comes first ends that."""
        rest = memoryview(body)
        for start in range(_WRITE_BYTES, len(body), _WRITE_BYTES):
            while self._is_write_paused and not self.status:
                await self.wait()
            if self.status:
                return
            self._socket.write(rest[start : start + _WRITE_BYTES])
        self._is_sent = True

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _wind_timer(self) -> None:
        """Have a timer at the deadline; where an earlier wait left one that ends sooner, that one winds it again."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._deadline
        self._timer = self.loop.call_at(self._deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self.loop.time() < self._deadline:
            self._wind_timer()
            return
        if self.step_left_s >= self.budget_left_s:
            self.abort(TimedOut("total" if self._is_stream else "unary"))
        elif self._patience is None:
            self.abort(TimedOut(self._step))
        else:
            self._look(self._patience)

    def _look(self, patience: Patience) -> None:
        """Ask whether to wait on. The wait under way began `step_left_s` before its deadline; only its end moves."""
        began_at = self._deadline - self.step_left_s
        try:
            self.step_left_s += patience.look(self.loop.time() - began_at)
        except UpstreamError as error:
            self.abort(error)
        else:
            self._deadline = began_at + min(self.step_left_s, self.budget_left_s)
            self._wind_timer()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast(asyncio.Transport, transport)  # both loops have set TCP_NODELAY
        self._has_socket = True
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BYTES)
        self._parser = HttpResponseParser(self)
        self._owner._opened(self)
        if self.error is not None:
            self._socket.abort()

    def data_received(self, data: bytes) -> None:
        if self.is_complete:
            self.abort(BadResponse("bytes that no request asked for"))
            return
        self._has_answer_bytes = True
        pieces_before = len(self._pieces)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._is_kept_alive = False
            if not self.is_complete:
                self.abort(BadResponse(f"not a valid answer: {error}"))
        if len(self._pieces) > pieces_before:
            self.unread_bytes += len(data)  # with what frames it: at least what is held
            self._framing_bytes = 0
        else:
            self._framing_bytes += len(data)
        if self._framing_bytes > self.limits.max_head_bytes and not self.is_complete:
            self.abort(ResponseTooLarge("the head, or what frames the body, is above its limit"))
        elif self.unread_bytes > self._high_water_bytes and not self.is_complete and not self._is_paused:
            self._is_paused = True
            self._socket.pause_reading()
        if self._is_stream or self.is_complete or self._is_paused:
            self._wake()

    def eof_received(self) -> None:
        if not self.is_complete and self.status and self._is_close_delimited:
            self.is_complete = True
        self.abort(self._death("the backend closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, OSError) and is_of_this_machine(exc):
            self.abort(NoResources(f"the connection was lost: {exc}"))
        self.abort(self._death(f"the connection was lost: {exc}"))
        del self._parser  # it refers back to this object
        self._owner._lost(self)

    def pause_writing(self) -> None:
        self._is_write_paused = True

    def resume_writing(self) -> None:
        self._is_write_paused = False
        self._wake()

    def _death(self, message: str) -> ConnectionDied:
        return ConnectionDied(message, before_first_byte=not self._has_answer_bytes)

    # -- parser callbacks

    def on_message_begin(self) -> None:
        if self.is_complete:
            raise _StopParsing("more than the whole answer")
        self.headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status:  # a trailer
            return
        self._head_bytes += len(name) + len(value) + 4  # as sent: a colon, a space and a line end
        name = name.lower()
        self.headers[name] = self.headers[name] + b", " + value if name in self.headers else value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status in _INTERIM:
            return
        if self._head_bytes > self.limits.max_head_bytes:
            self.abort(ResponseTooLarge("the head is above its limit"))
            raise _StopParsing
        encoding = self.headers.get(b"transfer-encoding")
        if status not in _FINAL or (encoding is not None and encoding.lower() != b"chunked"):
            self.abort(BadResponse("a status or transfer coding that was not asked for"))
            raise _StopParsing
        self.status = status
        self._is_kept_alive = self._parser.should_keep_alive()
        self._is_close_delimited = encoding is None and b"content-length" not in self.headers
        if self._is_head_request:
            self.is_complete = True
            raise _StopParsing("no body is due")

    def on_message_complete(self) -> None:
        if self.status:
            self.is_complete = True
