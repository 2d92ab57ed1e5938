"""One answer, in the hands of who asked: it is read, or closed, and its connection is given back or ended.

Knows when a connection is let go; knows nothing of what the bytes mean.
"""

from collections.abc import Awaitable, Callable

from mcp_gateway.core.upstream.transport.connection import OriginConnection
from mcp_gateway.core.upstream.transport.errors import BodyTooLarge, ConnectionDied

Keep = Callable[[int], Awaitable[None]]
"""Has room for so many bytes of a body in all; while it is awaited, the backend is not read. May raise."""


class Response:
    """One answer, read by one task at a time; whoever got it calls `close()` in a `finally`.

    `headers` has lower-case names; the values of a repeated one are joined by commas (RFC 9110, 5.3).
    """

    __slots__ = ("_answer", "_carrier", "_connection", "_is_read", "headers", "status")

    def __init__(self, connection: OriginConnection) -> None:
        self._answer = answer = connection.answer
        self.status = answer.status
        self.headers = answer.headers
        self._connection: OriginConnection | None = connection
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
        if self._answer.is_complete and connection.unread_bytes <= most_bytes:
            return await self.next_chunk()
        length = self.headers.get(b"content-length", b"")
        announced_bytes = int(length) if length.isdigit() else 0
        body = bytearray()
        while max(len(body), announced_bytes) <= most_bytes:
            if self._connection is None:
                return body
            while not (self._answer.pieces or self._answer.is_complete):
                await connection.waiting.wait()
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
        answer, waiting = self._answer, connection.waiting
        while not (answer.pieces or answer.is_complete):
            await waiting.wait()
        data = connection.take()
        if answer.is_complete:
            self._is_read = True
            self._connection = None
            connection.owner.release(connection)
        return data

    def close(self) -> None:
        """Let go of the connection: at once closed, which stops the backend, unless the answer has come whole."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._answer.is_complete:
            connection.take()
            connection.owner.release(connection)
        else:
            connection.abort()

    def doubt(self) -> None:
        """Let the connection rest before it is used again: nothing in the answer told that it was to this request."""
        self._carrier.is_doubted = True

    def discard(self) -> None:
        """Close the connection though the answer may have come whole: what comes on it is not what was asked for."""
        self._connection = None
        self._carrier.abort()
