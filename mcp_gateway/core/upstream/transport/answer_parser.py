"""An answer as its bytes come (HTTP/1.1, RFC 9112), by httptools: its head, and the pieces of its body.

Knows HTTP's framing; knows nothing of sockets, of clocks, or of who reads.
"""

from httptools import HttpResponseParser

from mcp_gateway.core.upstream.transport.errors import BadResponse, ResponseTooLarge, UpstreamError

_INTERIM = frozenset(range(100, 200)) - {101}
_FINAL = range(200, 600)
"""Statuses of answers that go before the answer (101 ends HTTP instead), and of the answer."""


class StopParsing(Exception):
    """Raised through the parser to keep it from going on."""


class AnswerParser:
    """The parser's callbacks, for the answers of one connection; `fault` says what it stopped for, if not its end."""

    __slots__ = (
        "_head_bytes",
        "_is_head_request",
        "_max_head_bytes",
        "_parser",
        "fault",
        "feed",
        "headers",
        "is_close_delimited",
        "is_complete",
        "is_kept_alive",
        "on_body",
        "pieces",
        "status",
    )

    def __init__(self, max_head_bytes: int) -> None:
        self._max_head_bytes = max_head_bytes
        self.fault: UpstreamError | None = None
        self.is_complete = self.is_kept_alive = True  # nothing is due before a request is sent
        self.headers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.on_body = self.pieces.append  # called by the parser: no frame of ours for each chunk of a stream
        self._parser = HttpResponseParser(self)
        self.feed = self._parser.feed_data

    def begin(self, method: str) -> None:
        """Forget the last answer."""
        self.status = 0
        self.is_complete = False
        self._head_bytes = 0
        self._is_head_request = method == "HEAD"
        self.pieces.clear()

    def close(self) -> None:
        """Nothing more will come; the parser refers back to this object."""
        del self._parser, self.feed

    # -- parser callbacks

    def on_message_begin(self) -> None:
        if self.is_complete:
            raise StopParsing("more than the whole answer")
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
        if self._head_bytes > self._max_head_bytes:
            self.fault = ResponseTooLarge("the head is above its limit")
            raise StopParsing
        encoding = self.headers.get(b"transfer-encoding")
        if status not in _FINAL or (encoding is not None and encoding.lower() != b"chunked"):
            self.fault = BadResponse("a status or transfer coding that was not asked for")
            raise StopParsing
        self.status = status
        self.is_kept_alive = self._parser.should_keep_alive()
        self.is_close_delimited = encoding is None and b"content-length" not in self.headers
        if self._is_head_request:
            self.is_complete = True
            raise StopParsing("no body is due")

    def on_message_complete(self) -> None:
        if self.status:
            self.is_complete = True
