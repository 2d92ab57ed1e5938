"""One connection to an origin: its socket, the request that is written, and back-pressure both ways.

Knows asyncio's protocol and what bounds an answer; knows HTTP by `answer_parser.py`, clocks by `bounded_wait.py`.
"""

import asyncio
import socket
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade

from mcp_gateway.core.upstream.transport.answer_parser import AnswerParser
from mcp_gateway.core.upstream.transport.bounded_wait import BoundedWait, Patience
from mcp_gateway.core.upstream.transport.bounds import Timeouts, TransportLimits
from mcp_gateway.core.upstream.transport.errors import (
    BadResponse,
    ConnectionDied,
    NoResources,
    ResponseTooLarge,
    UpstreamError,
    is_of_this_machine,
)

_WRITE_BYTES = 256 * 1024
_SOCKET_BYTES = 64 * 1024
"""What the system holds of an answer: the event loop reads all of it at once, before anybody can count it."""
_DOUBT_S = 0.25
"""How long a connection rests whose answer nothing told to be ours: what else comes on it nobody has asked for."""


class ConnectionOwner(Protocol):
    """Who keeps the connections to one origin, and is told what becomes of each."""

    timeouts: Timeouts
    limits: TransportLimits

    def opened(self, connection: "OriginConnection") -> None: ...
    def release(self, connection: "OriginConnection") -> None: ...
    def aborted(self, connection: "OriginConnection") -> None: ...
    def lost(self, connection: "OriginConnection") -> None: ...


class BodyInPieces(Protocol):
    """A body that comes while it is sent; `size_bytes` is None where nobody has told, `is_whole` once its end came."""

    size_bytes: int | None
    is_whole: bool

    async def next_piece(self) -> bytes:
        """b"" at its end."""


class OriginConnection(asyncio.Protocol):
    """One socket and, while it is busy, one exchange: its `answer`, and the `waiting` for it of one task at most."""

    __slots__ = (
        "_framing_bytes",
        "_has_answer_bytes",
        "_has_socket",
        "_high_water_bytes",
        "_is_paused",
        "_is_sent",
        "_is_write_paused",
        "_socket",
        "answer",
        "idle_since",
        "is_doubted",
        "limits",
        "owner",
        "unread_bytes",
        "waiting",
    )

    def __init__(self, owner: ConnectionOwner) -> None:
        self.owner = owner
        self.limits = owner.limits
        self.waiting = BoundedWait(self.abort)
        self.idle_since = 0.0
        self.is_doubted = False
        self._high_water_bytes = min(owner.limits.high_water_bytes, owner.limits.max_body_bytes)
        self._has_socket = self._has_answer_bytes = self._is_write_paused = False
        self._is_sent = True  # all of the requests so far

    # -- the exchange, called by whoever holds the connection

    def begin(self, method: str, is_stream: bool, patience: Patience | None = None) -> None:
        """Forget the last exchange and wind the clocks."""
        self.is_doubted = self._has_answer_bytes = self._is_paused = self._is_sent = False
        self.unread_bytes = self._framing_bytes = 0
        self.answer.begin(method)
        self.waiting.begin(self.owner.timeouts, is_stream, patience)

    async def exchange(self, head: bytes, body: bytes) -> None:
        """Send the request and wait for the head of its answer; whatever goes wrong closes the connection."""
        waiting, answer = self.waiting, self.answer
        try:
            if waiting.error is not None:
                raise waiting.error.anew()
            self._socket.write(head + body[:_WRITE_BYTES])
            if len(body) > _WRITE_BYTES:
                await self._write_rest(body)
            else:
                self._is_sent = True
            while not answer.status:
                await waiting.wait()
        except BaseException:
            self.abort()
            raise

    async def upload(self, head: bytes, body: BodyInPieces) -> None:
        """As `exchange`, of a body that comes in pieces."""
        waiting, answer = self.waiting, self.answer
        try:
            self._socket.write(head)
            await self._write_pieces(body)
            while not answer.status:
                await waiting.wait()
        except BaseException:
            self.abort()
            raise

    def take(self) -> bytes:
        """Hand out what has arrived and let more come."""
        pieces = self.answer.pieces
        data = b"".join(pieces)
        if data:
            pieces.clear()
            self.unread_bytes = 0
            if self.waiting.is_stream:
                self.waiting.begin_next()
        if self._is_paused and self.waiting.error is None:
            self._is_paused = False
            self._socket.resume_reading()
        return data

    @property
    def is_reusable(self) -> bool:
        """Whether another request may follow on this connection."""
        return self.answer.is_kept_alive and self._is_sent and self.waiting.error is None

    def is_resting(self, now_s: float) -> bool:
        """Whether an answer that nobody asked for may still come, which would be taken for the next request's."""
        return self.is_doubted and now_s - self.idle_since < _DOUBT_S

    def abort(self, error: UpstreamError | None = None) -> None:
        """Close the socket at once, for `error` if that is why; a second time does nothing."""
        if self.waiting.error is not None:
            return
        self.waiting.end(error or self._death("closed on this side"))
        if self._has_socket:
            self._socket.abort()
        self.owner.aborted(self)

    async def _write_rest(self, body: bytes) -> None:
        """Send what follows the first piece as fast as it is taken; an answer that comes first ends that."""
        rest = memoryview(body)
        for start in range(_WRITE_BYTES, len(body), _WRITE_BYTES):
            while self._is_write_paused and not self.answer.status:
                await self.waiting.wait()
            if self.answer.status:
                return
            self._socket.write(rest[start : start + _WRITE_BYTES])
        self._is_sent = True

    async def _write_pieces(self, body: BodyInPieces) -> None:
        """Send pieces as they come and are taken; an answer that comes first ends that, and so does the connection's
        end.
        """
        while piece := await body.next_piece():
            while self._is_write_paused and not self.answer.status:
                await self.waiting.wait()
            if self.answer.status:
                return
            if self.waiting.error is not None:
                raise self.waiting.error.anew()
            self._socket.write(piece if body.size_bytes is not None else b"%x\r\n%b\r\n" % (len(piece), piece))
        if body.size_bytes is None:
            self._socket.write(b"0\r\n\r\n")
        self._is_sent = True

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast(asyncio.Transport, transport)  # both loops have set TCP_NODELAY
        self._has_socket = True
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BYTES)
        self.answer = AnswerParser(self.limits.max_head_bytes)
        self.owner.opened(self)
        if self.waiting.error is not None:
            self._socket.abort()

    def data_received(self, data: bytes) -> None:
        answer = self.answer
        if answer.is_complete:
            self.abort(BadResponse("bytes that no request asked for"))
            return
        self._has_answer_bytes = True
        pieces_before = len(answer.pieces)
        try:
            answer.feed(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            answer.is_kept_alive = False
            if not answer.is_complete:
                self.abort(answer.fault or BadResponse(f"not a valid answer: {error}"))
        if len(answer.pieces) > pieces_before:
            self.unread_bytes += len(data)  # with what frames it: at least what is held
            self._framing_bytes = 0
        else:
            self._framing_bytes += len(data)
        if self._framing_bytes > self.limits.max_head_bytes and not answer.is_complete:
            self.abort(ResponseTooLarge("the head, or what frames the body, is above its limit"))
        elif self.unread_bytes > self._high_water_bytes and not answer.is_complete and not self._is_paused:
            self._is_paused = True
            self._socket.pause_reading()
        if self.waiting.is_stream or answer.is_complete or self._is_paused:
            self.waiting.wake()

    def eof_received(self) -> None:
        answer = self.answer
        if not answer.is_complete and answer.status and answer.is_close_delimited:
            answer.is_complete = True
        self.abort(self._death("the backend closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, OSError) and is_of_this_machine(exc):
            self.abort(NoResources(f"the connection was lost: {exc}"))
        self.abort(self._death(f"the connection was lost: {exc}"))
        self.answer.close()
        self.owner.lost(self)

    def pause_writing(self) -> None:
        self._is_write_paused = True

    def resume_writing(self) -> None:
        self._is_write_paused = False
        self.waiting.wake()

    def _death(self, message: str) -> ConnectionDied:
        return ConnectionDied(message, before_first_byte=not self._has_answer_bytes)
