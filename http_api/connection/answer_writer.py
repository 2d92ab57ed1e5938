"""How an answer is written (RFC 9112): its head, and its body by its length, in chunks, or to the connection's end.

Knows bytes, and whether another request may follow; knows nothing of ASGI, of the request's body or of the connection.
"""

import asyncio
from http import HTTPStatus

from http_api.connection.head import Headers
from mcp_gateway.core.http_head import head_of

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}
_CLOSE = (b"connection", b"close")
_LENGTH = b"content-length"
_LARGE_BYTES = 64 * 1024
"""From this size on a piece of an answer is not put together with what stands before it."""
_BODILESS = frozenset({204, 304})


class AnswerWriter:
    """Of one answer, to one request, and how far it has come.

    What the app breaks of its own promises is a RuntimeError, and a line break in a header a ValueError.
    """

    __slots__ = (
        "_head",
        "_is_chunked",
        "_is_head",
        "_left_bytes",
        "can_chunk",
        "has_begun",
        "is_complete",
        "is_kept_alive",
    )

    def __init__(self, is_kept_alive: bool, can_chunk: bool, is_head: bool) -> None:
        self.is_kept_alive = is_kept_alive
        self.can_chunk = can_chunk  # HTTP/1.0 cannot
        self.has_begun = False  # a part of it is sent, or may be
        self.is_complete = False
        self._is_head = is_head  # of a request whose answer has no body
        self._is_chunked = False
        self._left_bytes = 0
        self._head = b""

    def begin(self, status: int, headers: Headers) -> None:
        """The head: these headers and those that frame the body, which are added to the list.

        It leaves with the first piece of the body, as ASGI wants it.
        """
        self.has_begun = True
        named = dict(headers)
        if b"connection" in named:
            headers = self._without_connection(headers)
        if _LENGTH in named:
            self._left_bytes = int(named[_LENGTH])
        elif not self._is_head and status not in _BODILESS:
            self._frame_by_other_means(headers)
        if not self.is_kept_alive:
            headers.append(_CLOSE)
        line = STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status
        self._head = head_of([line, *map(b": ".join, headers)])

    def write(self, transport: asyncio.WriteTransport, body: bytes, is_last: bool) -> None:
        """A piece of the body, behind the head where that is still here."""
        head, self._head = self._head, b""
        if self._is_head:
            body = b""
        elif self._is_chunked:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if is_last:
                body += b"0\r\n\r\n"
        elif self._left_bytes >= 0:
            self._left_bytes -= len(body)
            if self._left_bytes < 0 or (is_last and self._left_bytes):
                raise RuntimeError("the answer's body is not as long as its head says")
        if len(body) > _LARGE_BYTES:
            transport.write(head)
            transport.write(body)  # as it is: a copy would take as much memory again
        elif head or body:
            transport.write(head + body)
        self.is_complete = is_last

    def _without_connection(self, headers: Headers) -> Headers:
        """The connection is this side's affair; what the app says of it counts."""
        said = [value.lower() for name, value in headers if name == b"connection"]
        self.is_kept_alive = self.is_kept_alive and b"close" not in said
        return [header for header in headers if header[0] != b"connection"]

    def _frame_by_other_means(self, headers: Headers) -> None:
        """A body without a length: in chunks, or for HTTP/1.0 to the end of the connection."""
        self._is_chunked = self.can_chunk
        if self._is_chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        else:
            self.is_kept_alive = False
            self._left_bytes = -1
