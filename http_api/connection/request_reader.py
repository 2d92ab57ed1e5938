"""The requests of one connection, made of its bytes by httptools (HTTP/1.1, RFC 9112), and their bounds.

Knows what is due and what was read ahead of it; knows nothing of sockets but to have them read or not, nor of answers.
What is due (`_Due`) is fed to the parser in slices that end with a head or a body, never beyond:

    HEAD --- whole and sound --> BODY --- whole --> HEAD      one more exchange is answered, or waits behind others
    HEAD --- as the last ------> KNOWN -- whole --> HEAD      the same, past the parser, which is between two requests
    HEAD --- not understood ---> NONE                         closed after the answers to what came before, or a 400
    HEAD --- refused ----------> NONE                         the refusal is an exchange too, in its turn, and the last
    BODY --- framing broken ---> NONE                         its exchange answers 400, or is cut off if it has begun
    BODY --- whole, to close --> NONE                         the last request that counts

A head is as the last one where it is it but for the number of its Content-Length.
While 16 exchanges wait, or 64 KiB of their bodies, what comes further stays bytes (`_unparsed`).
"""

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.types import Scope

from http_api.connection.ahead import Ahead
from http_api.connection.answer_writer import AnswerWriter
from http_api.connection.head import (
    Headers,
    KnownHead,
    RequestLine,
    fault_of,
    is_of_head,
    known_head,
    not_understood,
    read_head,
    without_upgrade,
)
from http_api.connection.http_exchange import HttpExchange, Wire
from mcp_gateway.core.context import CLIENT, SENT
from mcp_gateway.core.errors import GatewayError

_HIGH_WATER_BYTES = 64 * 1024
"""A connection is not read on while this much of it waits to be parsed."""
_SLICES_A_TURN = 4096
"""Of a read that is full of blank lines; parsing more of them at once would hold up everybody else."""
_BLANK_LINE = b"\r\n\r\n"


class _Due(Enum):
    HEAD = auto()
    BODY = auto()
    KNOWN = auto()
    NONE = auto()


_HEAD, _BODY, _KNOWN, _NONE = _Due


class Answering(Wire, Protocol):
    """What a reader needs of its connection; `answering` is the exchange whose answer is being made."""

    loop: asyncio.AbstractEventLoop
    ahead: Ahead
    answering: HttpExchange | None

    def take_on(self, exchange: HttpExchange, scope: Scope) -> None: ...
    def shutdown(self) -> None: ...
    def linger(self) -> None: ...


class RequestReader:
    """The parser's callbacks, and what feeds it; `reading` is the exchange whose body comes in."""

    def __init__(
        self, connection: Answering, shared: Scope, *, max_header_bytes: int, note_refusal: Callable[[str], None]
    ) -> None:
        self.reading: HttpExchange | None = None
        self._connection = connection
        self._shared = shared  # what the scopes of all requests have
        self._max_header_bytes = max_header_bytes
        self._note_refusal = note_refusal
        self._parser = HttpRequestParser(self)
        self._due = _HEAD
        self._unparsed = b""  # from `_unparsed_from`
        self._unparsed_from = 0
        self._headers: Headers = []
        self._raw_head = b""  # what has come of the head that comes in
        self._tail = b""  # the end of the last read, where a blank line may have begun in it
        self._left_bytes = 0  # of the body that comes in, where its length is known
        self._framing_bytes = 0  # of a body in chunks, since its last piece
        self._known: KnownHead | None = None  # the last head

    # -- for the connection

    @property
    def has_enough(self) -> bool:
        """Whether so much has been read already, to be parsed or to be taken, that no more is."""
        is_full = self.reading is not None and self.reading.is_full
        return is_full or len(self._unparsed) - self._unparsed_from > _HIGH_WATER_BYTES

    def read(self, data: bytes = b"") -> None:
        """Parse what has come, before and now, as long as there is room for what waits behind the present answer."""
        start, ahead = 0, self._connection.ahead
        if self._unparsed:
            data, start = self._with_unparsed(data)
        size = len(data)
        for _ in range(_SLICES_A_TURN):
            if start == size or self._due is _NONE or (ahead and ahead.is_full):
                break
            if self._left_bytes:
                end = min(start + self._left_bytes, size)
                self._left_bytes -= end - start
                if self._due is _BODY:
                    self._parser.feed_data(data[start:end])
                else:
                    self.on_body(data[start:end])
                    if not self._left_bytes:
                        self.on_message_complete()
            else:
                end = _end_of_slice(self._tail, data, start)
                self._feed(data[start:end])
            start = end
        else:
            self._connection.loop.call_soon(self.go_on)
        if start < size or self._due is not _HEAD or self._raw_head or self._tail:
            self._keep(data, start)

    def go_on(self) -> None:
        """With what is not parsed yet: there is room for it, or others have had their turn of the event loop."""
        if self._unparsed:
            self.read()
            self._connection.resume_reading()

    def stop(self) -> None:
        """Make no more of what comes."""
        self._due, self._unparsed = _NONE, b""

    def close(self) -> None:
        """The connection has ended: nothing refers back any more."""
        self.stop()
        self.reading = self._known = None
        del self._parser, self._connection

    # -- parser callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        # the parser leaves white space behind a value (RFC 9110, 5.5)
        self._headers.append((name.lower(), value.strip()))

    def on_headers_complete(self) -> None:
        raw, self._raw_head = self._raw_head, b""
        headers, self._headers = self._headers, []  # which takes the trailers, and nobody reads them (RFC 9110, 6.5)
        parser = self._parser
        try:
            asked, sent, length_bytes = read_head(raw, headers)
        except GatewayError as error:
            self._refuse_request(error, is_head=is_of_head(raw))
            return
        if parser.should_upgrade():
            self._raw_head = without_upgrade(raw, headers)
            return
        is_kept_alive = asked.is_1_1 and parser.should_keep_alive()
        self._due, self._framing_bytes, self._left_bytes = _BODY, 0, length_bytes or 0
        self._known = known_head(raw, asked, headers, sent, is_kept_alive=is_kept_alive) or self._known
        self._take_on(asked, headers, sent, is_kept_alive=is_kept_alive)

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        if self.reading is not None:
            self.reading.add_body(body)
            if self._connection.ahead:
                self._connection.ahead.note_body(self.reading, len(body))

    def on_message_complete(self) -> None:
        if self._due is _NONE:
            return
        self._due = _HEAD
        if self._headers:
            self._headers = []
        exchange, self.reading = self.reading, None
        if exchange is None:
            return
        exchange.end_body()
        if not exchange.answer.is_kept_alive:
            self._due = _NONE
            if exchange.answer.is_complete:  # closed while it still sent, the client would lose the answer to a reset
                self._connection.transport.close()

    # -- requests

    def _take_on(self, asked: RequestLine, headers: Headers, sent: dict[bytes, bytes], *, is_kept_alive: bool) -> None:
        answer = AnswerWriter(is_kept_alive, asked.is_1_1, asked.method == "HEAD")  # to name them takes as long again
        exchange = self.reading = HttpExchange(self._connection, sent, answer)
        scope: Scope = {
            **self._shared,
            "http_version": "1.1" if asked.is_1_1 else "1.0",
            "method": asked.method,
            "path": asked.path,
            "raw_path": asked.raw_path,
            "query_string": asked.query,
            "headers": headers,
            CLIENT: exchange,
            SENT: sent,
        }
        self._connection.take_on(exchange, scope)

    def _is_taken_on(self, raw: bytes) -> bool:
        """Whether it is the last head but for its length, which the parser need not see again."""
        known = self._known
        if known is None or len(raw) > self._max_header_bytes or (length := known.length_in(raw)) is None:
            return False
        self._due, self._left_bytes = _KNOWN, int(length)
        self._take_on(known.asked, *known.with_length(length), is_kept_alive=known.is_kept_alive)
        if not self._left_bytes:
            self.on_message_complete()
        return True

    # -- slices

    def _with_unparsed(self, data: bytes) -> tuple[bytes, int]:
        """All that is not parsed yet, and where in it that begins; put together only where there is more than was."""
        unparsed, start = self._unparsed, self._unparsed_from
        self._unparsed, self._unparsed_from = b"", 0
        return (unparsed[start:] + data, 0) if data else (unparsed, start)

    def _keep(self, data: bytes, start: int) -> None:
        """What is not parsed yet, or the little that tells where the next slice ends."""
        if start == len(data) or self._due is _NONE:
            may_be_cut = self._raw_head or (self._due is _BODY and not self._left_bytes)
            self._tail = (self._tail + data)[-3:] if may_be_cut else b""
        else:
            self._unparsed, self._unparsed_from, self._tail = data, start, b""
            if self.has_enough:
                self._connection.pause_reading()

    def _feed(self, data: bytes) -> None:
        if self._due is _HEAD:
            if not self._raw_head and self._is_taken_on(data):
                return
            self._raw_head = self._raw_head + data if self._raw_head else data
            if len(self._raw_head) > self._max_header_bytes:
                self._refuse(_too_large(self._max_header_bytes))
                return
        else:
            self._framing_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:  # at the end of the slice, as it is at the end of the head
            if self._due is not _NONE:
                self._feed_again()
        except HttpParserError:
            self._refuse_what_is_broken()
        if self._framing_bytes > self._max_header_bytes and self.reading is not None:
            self._break_off(self.reading, _too_large(self._max_header_bytes))

    def _feed_again(self) -> None:
        """To a fresh parser, the head without its offer of another protocol: the old one leaves the body unread."""
        head, self._raw_head = self._raw_head, b""
        self._parser = HttpRequestParser(self)
        self._due = _HEAD
        self._feed(head)

    # -- what is refused

    def _refuse_what_is_broken(self) -> None:
        if self._due is _HEAD:
            self._refuse(fault_of(self._raw_head))
        elif self.reading is not None:
            self._break_off(self.reading, not_understood("The body's chunks cannot be understood."))

    def _refuse(self, error: GatewayError) -> None:
        """What comes is no request: behind one that is being answered it may be its rest, and gets no answer."""
        if self._connection.answering is None:
            self._refuse_request(error)
        elif self._due is not _NONE:
            self._due = _NONE
            self._connection.shutdown()

    def _refuse_request(self, error: GatewayError, *, is_head: bool = False) -> None:
        """Answer this in its turn, and close: what follows on the connection cannot be made sense of."""
        self._due = _NONE
        answer = AnswerWriter(is_kept_alive=False, can_chunk=True, is_head=is_head)
        exchange = HttpExchange(self._connection, {}, answer, refusal=error)
        exchange.is_body_coming = False
        self._note_refusal(error.code)
        self._connection.take_on(exchange, {})

    def _break_off(self, exchange: HttpExchange, error: GatewayError) -> None:
        """The rest of a body cannot be read: its request is refused as long as that can be told."""
        self._due, self.reading = _NONE, None
        if exchange.answer.is_complete:
            self._connection.linger()
        elif exchange.answer.has_begun:
            self._connection.transport.abort()
        else:
            exchange.break_off(error)


def _end_of_slice(tail: bytes, data: bytes, start: int) -> int:
    """Behind the next blank line: a head ends there, or a body in chunks, unless it is content (no harm)."""
    if tail and not start:
        cut = (tail + data[:3]).find(_BLANK_LINE)
        if cut >= 0:  # two reads brought its two parts
            return cut + len(_BLANK_LINE) - len(tail)
    end = data.find(_BLANK_LINE, start)
    return end + len(_BLANK_LINE) if end >= 0 else len(data)


def _too_large(most_bytes: int) -> GatewayError:
    return GatewayError("headers_too_large", f"The request's line and headers may have at most {most_bytes} bytes.")
