"""One request and its answer, as ASGI has it: receive and send over a connection that carries one after another.

Knows how a body is framed; knows nothing of heads that are not understood, of pipelining or of the socket.
"""

import asyncio
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.server import ServerState

from http_api.connection.head import Headers
from http_api.connection.unread import Unread
from http_api.rendering import error_headers, send_json
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError, outline
from mcp_gateway.core.http_head import head_of

logger = logging.getLogger(__name__)

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}
_HIGH_WATER_BYTES = 64 * 1024
"""A request's body is not read on while this much of it waits to be taken."""
_BODY_GRACE_S = 60.0
_LEAST_BYTES_PER_S = 50_000
"""A body may take a minute, and on the whole as much longer as it has come at this rate."""
_LARGE_BYTES = 64 * 1024
"""From this size on a piece of an answer is not put together with what stands before it."""
_CLOSE = (b"connection", b"close")
_DISCONNECT: Message = {"type": "http.disconnect"}
_BODILESS = frozenset({204, 304})


class Wire(Protocol):
    """What an exchange needs of its connection."""

    transport: asyncio.Transport
    server_state: ServerState
    unread: Unread | None

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    async def client_sends(self, event: asyncio.Event, left_s: float) -> float: ...
    def answered(self, exchange: "HttpExchange") -> None: ...


class HttpExchange:
    """One request and its answer: ASGI's receive and send; the Client of the request's scope."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_can_chunk",
        "_connection",
        "_has_started",
        "_head",
        "_is_chunked",
        "_is_head",
        "_is_taken",
        "_left_bytes",
        "_moved",
        "_sent",
        "_taken_bytes",
        "_waited_s",
        "context",
        "is_body_coming",
        "is_cancelled_on_departure",
        "is_complete",
        "is_gone",
        "is_kept_alive",
        "is_whole",
        "refusal",
        "task",
    )

    def __init__(
        self,
        connection: Wire,
        sent: Mapping[bytes, bytes],
        *,
        is_kept_alive: bool,
        can_chunk: bool,
        is_head: bool,
        refusal: GatewayError | None = None,
    ) -> None:
        self.is_body_coming = True  # until it is known that it will not
        self.is_cancelled_on_departure = False
        self.is_gone = False
        self.is_kept_alive = is_kept_alive
        self.context: RequestContext | None = None
        self.refusal = refusal  # why no more of the request can be read, or none of it is asked for
        self.task: asyncio.Task[None]
        self._connection = connection
        self._can_chunk = can_chunk
        self._is_head = is_head
        self._sent = sent
        self._body: list[bytes] = []
        self._body_bytes = self._taken_bytes = 0
        self._waited_s = 0.0  # for the body
        self.is_whole = False  # the body has come
        self._is_taken = False  # and was handed out
        self._moved: asyncio.Event | None = None
        self._has_started = self.is_complete = self._is_chunked = False
        self._left_bytes = 0
        self._head = b""

    @property
    def has_started(self) -> bool:
        """Whether a part of the answer is sent, or may be."""
        return self._has_started

    @property
    def waiting_bytes(self) -> int:
        """How much of the body has come and is not taken."""
        return self._body_bytes

    @property
    def is_full(self) -> bool:
        """Whether so much of the body waits to be taken that no more of it is read."""
        return self._body_bytes > _HIGH_WATER_BYTES and not self.is_complete

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Have the app answer; an answer that it does not complete is cut off, so that nobody takes it for whole."""
        try:
            await (app if self.refusal is None else self._refuse)(scope, self.receive, self.send)
            fault = "no complete answer"
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the app's bugs end its request alone
            fault = outline(error)
        finally:
            self._connection.server_state.tasks.discard(self.task)
        if not (self.is_complete or self.is_gone or self._connection.transport.is_closing()):
            logger.error("a request ended in %s", fault)
            self._connection.transport.abort()

    async def receive(self) -> Message:
        """A piece of the request's body, and `http.disconnect` once nothing can be received or sent any more.

        Raises GatewayError where the rest of the body cannot be made sense of.
        """
        if not (self._body or self.is_whole or self._has_started or self.is_gone):
            self._ask_for_body()
        while not (self.is_gone or self.is_complete):
            if self.refusal is not None:
                raise self.refusal
            if self._body or (self.is_whole and not self._is_taken):
                return self._take_body()
            self._connection.resume_reading()
            moved = self._moved = self._moved or asyncio.Event()
            if self.is_whole:
                await moved.wait()
            else:
                left_s = _BODY_GRACE_S + self._taken_bytes / _LEAST_BYTES_PER_S - self._waited_s
                self._waited_s += await self._connection.client_sends(moved, left_s)
        return _DISCONNECT

    async def send(self, message: Message) -> None:
        """Write the head or a piece of the body; waits while the client does not read what was written.

        After the last piece too: an answer that is not read keeps its place among what is in flight.
        """
        connection = self._connection
        if connection.unread is not None and not self.is_gone:
            connection.unread.hold(len(message.get("body", b"")))
            await connection.unread.drained()
        if self.is_gone or connection.transport.is_closing():
            return
        if message["type"] == "http.response.start" and not self._has_started:
            self._send_head(message["status"], message.get("headers", ()))
        elif message["type"] == "http.response.body" and self._has_started and not self.is_complete:
            self._send_body(message.get("body", b""), is_last=not message.get("more_body"))
        else:
            raise RuntimeError(f"{message['type']} is not what comes next in an answer")
        if connection.unread is not None and self.is_complete:
            await connection.unread.drained()

    # -- for the connection

    def add_body(self, piece: bytes) -> None:
        if self.is_complete:
            return
        self._body.append(piece)
        self._body_bytes += len(piece)
        if self._body_bytes > _HIGH_WATER_BYTES:
            self._connection.pause_reading()
        if self._moved is not None:
            self._move()

    def end_body(self) -> None:
        self.is_whole = True
        if self._moved is not None:
            self._move()

    def break_off(self, refusal: GatewayError) -> None:
        """What follows of the body cannot be made sense of: an app that has begun is told when it asks for more."""
        self.refusal = refusal
        self.is_kept_alive = self.is_body_coming = False
        self._move()

    def leave(self) -> None:
        """The connection has ended."""
        self.is_gone = True
        self._move()
        if self.is_cancelled_on_departure:
            self.task.cancel()

    def _move(self) -> None:
        if self._moved is not None:
            self._moved.set()
            self._moved = None

    def _ask_for_body(self) -> None:
        """A client may wait until it is told that its body is wanted (RFC 9110, 10.1.1)."""
        if self._expects_to_be_asked():
            self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._sent = {}

    def _expects_to_be_asked(self) -> bool:
        """HTTP/1.0 knows no such answer."""
        return self._can_chunk and self._sent.get(b"expect", b"").lower() == b"100-continue"

    async def _refuse(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        assert self.refusal is not None
        await send_json(send, {"error": self.refusal.as_object()}, self.refusal.status, error_headers(self.refusal))

    def _take_body(self) -> Message:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self._taken_bytes += self._body_bytes
        self._body_bytes = 0
        self._is_taken = self.is_whole
        if self.is_whole:
            self._connection.resume_reading()  # or nobody would learn that the client leaves
        return {"type": "http.request", "body": body, "more_body": not self.is_whole}

    def _send_head(self, status: int, headers: Any) -> None:
        self._has_started = True
        if not (self._body or self.is_whole) and self._expects_to_be_asked():
            self.is_kept_alive = self.is_body_coming = False  # what comes next may be its body or another request
        headers = [*self._connection.server_state.default_headers, *headers]
        named = dict(headers)
        if b"connection" in named:
            headers = self._without_connection(headers)
        if b"content-length" in named:
            self._left_bytes = int(named[b"content-length"])
        elif not self._is_head and status not in _BODILESS:
            self._frame_by_other_means(headers)
        if not self.is_kept_alive:
            headers.append(_CLOSE)
        line = STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status
        self._head = head_of(
            [line, *map(b": ".join, headers)]
        )  # leaves with the first piece of the body, as ASGI wants it

    def _without_connection(self, headers: Headers) -> Headers:
        """The connection is this side's affair; what the app says of it counts."""
        said = [value.lower() for name, value in headers if name == b"connection"]
        self.is_kept_alive = self.is_kept_alive and b"close" not in said
        return [header for header in headers if header[0] != b"connection"]

    def _frame_by_other_means(self, headers: Headers) -> None:
        """A body without a length: in chunks, or for HTTP/1.0 to the end of the connection."""
        self._is_chunked = self._can_chunk
        if self._is_chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        else:
            self.is_kept_alive = False
            self._left_bytes = -1

    def _send_body(self, body: bytes, *, is_last: bool) -> None:
        head, self._head = self._head, b""
        if self._is_head:
            body = b""
        elif self._is_chunked:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if is_last:
                body += b"0\r\n\r\n"
        elif self._left_bytes >= 0:
            self._count_off(len(body), is_last=is_last)
        if len(body) > _LARGE_BYTES:
            self._connection.transport.write(head)
            self._connection.transport.write(body)  # as it is: a copy would take as much memory again
        elif head or body:
            self._connection.transport.write(head + body)
        if is_last:
            self.is_complete = True
            self.is_cancelled_on_departure = False
            if self._moved is not None:
                self._move()
            self._connection.answered(self)

    def _count_off(self, size_bytes: int, *, is_last: bool) -> None:
        self._left_bytes -= size_bytes
        if self._left_bytes < 0 or (is_last and self._left_bytes):
            raise RuntimeError("the answer's body is not as long as its head says")
