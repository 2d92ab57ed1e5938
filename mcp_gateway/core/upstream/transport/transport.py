"""HTTP/1.1 to one origin: a keep-alive pool, time and size limits, back-pressure both ways, TLS.

Knows sockets and HTTP framing; knows nothing of models, health, fail-over or what the bytes mean.
"""

import asyncio
import logging
import ssl
from collections.abc import Sequence
from time import monotonic
from urllib.parse import urlsplit

from mcp_gateway.core.http_head import head_of
from mcp_gateway.core.upstream.transport.bounded_wait import Patience
from mcp_gateway.core.upstream.transport.bounds import Timeouts, TransportLimits
from mcp_gateway.core.upstream.transport.connection import BodyInPieces, OriginConnection
from mcp_gateway.core.upstream.transport.errors import (
    ConnectFailed,
    ConnectionDied,
    NoResources,
    TimedOut,
    is_of_this_machine,
)
from mcp_gateway.core.upstream.transport.response import Response

logger = logging.getLogger(__name__)

_MOST_RESTING = 16
"""More are not opened for that: a busy backend would have hundreds of connections, each of them cold."""
_CLOSE_S = 5.0
"""What closing waits for sockets that were aborted; an end must not depend on what the event loop forgot."""


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
        self._host_line = b"host: " + url.netloc.encode()
        self._path_prefix = url.path.rstrip("/")
        self._ssl = (ssl_context or ssl.create_default_context()) if url.scheme == "https" else None
        self._certified_name = None if self._ssl is None else url.hostname
        self._idle: list[OriginConnection] = []  # oldest first, taken from the end
        self._busy: set[OriginConnection] = set()
        self._open: set[OriginConnection] = set()  # those with a socket, whatever they do
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
    ) -> Response:
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
            fresh.waiting.go_on_from(pooled.waiting)
        await fresh.exchange(head, body)
        return Response(fresh)

    async def reach(self) -> None:
        """Have a connection for a request that follows at once: who leaves until then has sent nothing.

        Raises UpstreamError.
        """
        if not self._idle:
            self.release(await self._connect())

    async def upload(
        self, method: str, path: str, headers: Sequence[tuple[bytes, bytes]], body: BodyInPieces
    ) -> Response:
        """As `request`, as a stream, of a body that comes in pieces; raises what its pieces raise, too.

        On a connection of its own, since what was sent of it cannot be sent again.
        """
        head = self._head(method, path, headers, framing=_framing_of(body))
        fresh = await self._connect()
        fresh.begin(method, is_stream=True)
        await fresh.upload(head, body)
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

    def _head(
        self, method: str, path: str, headers: Sequence[tuple[bytes, bytes]], body: bytes = b"", framing: bytes = b""
    ) -> bytes:
        if " " in path:
            raise ValueError("a space in a request's path")
        target = f"{method} {self._path_prefix}{path} HTTP/1.1"
        lines = [target.encode("ascii"), self._host_line, *map(b": ".join, headers)]
        if body:
            lines.append(b"content-length: %d" % len(body))
        elif framing or method not in ("GET", "HEAD"):
            lines.append(framing or b"content-length: 0")
        return head_of(lines)

    async def _connect(self) -> OriginConnection:
        if self._is_closed:
            raise ConnectFailed("the transport is closed")
        loop = asyncio.get_running_loop()
        connection = OriginConnection(self)
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
            self.lost(connection)  # cancelled after it was made, uvloop does not tell of its end
            if isinstance(error, TimeoutError):
                raise TimedOut("connect") from error
            if isinstance(error, OSError) and is_of_this_machine(error):
                raise NoResources(f"no connection: {error}") from error
            if isinstance(error, OSError | UnicodeError):  # the latter from a host name that cannot be one
                raise ConnectFailed(f"no connection: {error}") from error
            raise
        return connection

    def _take_idle(self) -> OriginConnection | None:
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

    def release(self, connection: OriginConnection) -> None:
        self._busy.discard(connection)
        if self._is_closed or not connection.is_reusable or len(self._idle) >= self.limits.max_idle_connections:
            connection.abort()
            return
        connection.idle_since = monotonic()  # unlike a loop's cached time, right after the loop was held up
        self._idle.append(connection)
        if self._reaper is None:
            self._reaper = asyncio.get_running_loop().call_later(self.limits.max_idle_s, self._reap)

    def _reap(self) -> None:
        self._reaper = None
        while self._idle:
            oldest = self._idle[0]
            left_s = oldest.idle_since + self.limits.max_idle_s - monotonic()
            if left_s > 0:
                self._reaper = asyncio.get_running_loop().call_later(left_s, self._reap)
                return
            oldest.abort()

    def opened(self, connection: OriginConnection) -> None:
        self._open.add(connection)

    def aborted(self, connection: OriginConnection) -> None:
        self._busy.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def lost(self, connection: OriginConnection) -> None:
        self._open.discard(connection)
        if self._all_lost is not None and not self._open and not self._all_lost.done():
            self._all_lost.set_result(None)


def _framing_of(body: BodyInPieces) -> bytes:
    """The header that says where the body ends."""
    return b"transfer-encoding: chunked" if body.size_bytes is None else b"content-length: %d" % body.size_bytes
