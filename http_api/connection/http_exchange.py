"""One request and its answer, as ASGI has it: receive and send over a connection that carries one after another.

Knows what may come next, and when the answer is complete; knows nothing of how bytes are framed, of heads that are not
understood, of pipelining or of the socket.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.server import ServerState

from http_api.connection.answer_writer import AnswerWriter
from http_api.connection.unread import Unread
from http_api.rendering import error_headers, send_json
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError, outline

logger = logging.getLogger(__name__)

_HIGH_WATER_BYTES = 64 * 1024
"""A request's body is not read on while this much of it waits to be taken."""
_BODY_GRACE_S = 60.0
_LEAST_BYTES_PER_S = 50_000
"""A body may take a minute, and on the whole as much longer as it has come at this rate."""
_DISCONNECT: Message = {"type": "http.disconnect"}


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
        "_connection",
        "_is_taken",
        "_left_s",
        "_moved",
        "_sent",
        "answer",
        "context",
        "is_body_coming",
        "is_cancelled_on_departure",
        "is_gone",
        "is_whole",
        "refusal",
        "task",
        "waiting_bytes",
    )

    def __init__(
        self,
        connection: Wire,
        sent: Mapping[bytes, bytes],
        answer: AnswerWriter,
        refusal: GatewayError | None = None,
    ) -> None:
        self.answer = answer
        self.is_body_coming = True  # until it is known that it will not
        self.is_cancelled_on_departure = False
        self.is_gone = False
        self.context: RequestContext | None = None
        self.refusal = refusal  # why no more of the request can be read, or none of it is asked for
        self.task: asyncio.Task[None]
        self._connection = connection
        self._sent = sent
        self._body: list[bytes] = []
        self.waiting_bytes = 0  # of the body, which have come and are not taken
        self.is_whole = False  # the body has come
        self._is_taken = False  # and was handed out
        self._left_s = _BODY_GRACE_S  # to wait for more of it
        self._moved: asyncio.Event | None = None

    @property
    def is_full(self) -> bool:
        """Whether so much of the body waits to be taken that no more of it is read."""
        return self.waiting_bytes > _HIGH_WATER_BYTES and not self.answer.is_complete

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Have the app answer; an answer that it does not complete is cut off, so that nobody takes it for whole."""
        try:
            await (app if self.refusal is None else self._refuse)(scope, self.receive, self.send)
            fault = "no complete answer"
        except GatewayError:
            fault = ""  # no bug: what kept the rest of an answer that had begun from coming, which is told of elsewhere
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the app's bugs end its request alone
            fault = outline(error)
        finally:
            self._connection.server_state.tasks.discard(self.task)
        if not (self.answer.is_complete or self.is_gone or self._connection.transport.is_closing()):
            if fault:
                logger.error("a request ended in %s", fault)
            self._connection.transport.abort()

    async def receive(self) -> Message:
        """A piece of the request's body, and `http.disconnect` once nothing can be received or sent any more.

        Raises GatewayError where the rest of the body cannot be made sense of.
        """
        answer = self.answer
        if not (self._body or self.is_whole or answer.has_begun or self.is_gone):
            self._ask_for_body()
        while not (self.is_gone or answer.is_complete):
            if self.refusal is not None:
                raise self.refusal
            if self._body or (self.is_whole and not self._is_taken):
                return self._take_body()
            self._connection.resume_reading()
            moved = self._moved = self._moved or asyncio.Event()
            if self.is_whole:
                await moved.wait()
            else:
                self._left_s -= await self._connection.client_sends(moved, self._left_s)
        return _DISCONNECT

    async def send(self, message: Message) -> None:
        """Write the head or a piece of the body; waits while the client does not read what was written.

        After the last piece too: an answer that is not read keeps its place among what is in flight.
        """
        connection, answer = self._connection, self.answer
        if connection.unread is not None and not self.is_gone:
            connection.unread.hold(len(message.get("body", b"")))
            await connection.unread.drained()
        if self.is_gone or connection.transport.is_closing():
            return
        if message["type"] == "http.response.start" and not answer.has_begun:
            if not self.is_whole:
                self._begin_before_the_end()
            answer.begin(message["status"], [*connection.server_state.default_headers, *message.get("headers", ())])
        elif message["type"] == "http.response.body" and answer.has_begun and not answer.is_complete:
            answer.write(connection.transport, message.get("body", b""), not message.get("more_body"))
            if answer.is_complete:
                self.is_cancelled_on_departure = False
                if self._moved is not None:
                    self._move()
                connection.answered(self)
        else:
            raise RuntimeError(f"{message['type']} is not what comes next in an answer")
        if connection.unread is not None and answer.is_complete:
            await connection.unread.drained()

    # -- for the connection

    def add_body(self, piece: bytes) -> None:
        if self.answer.is_complete:
            return
        self._body.append(piece)
        self.waiting_bytes += len(piece)
        if self.waiting_bytes > _HIGH_WATER_BYTES:
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
        self.answer.is_kept_alive = self.is_body_coming = False
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
        return self.answer.can_chunk and self._sent.get(b"expect", b"").lower() == b"100-continue"

    async def _refuse(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        assert self.refusal is not None
        await send_json(send, {"error": self.refusal.as_object()}, self.refusal.status, error_headers(self.refusal))

    def _take_body(self) -> Message:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self._left_s += self.waiting_bytes / _LEAST_BYTES_PER_S
        self.waiting_bytes = 0
        self._is_taken = self.is_whole
        if self.is_whole:
            self._connection.resume_reading()  # or nobody would learn that the client leaves
        return {"type": "http.request", "body": body, "more_body": not self.is_whole}

    def _begin_before_the_end(self) -> None:
        """Of a client that waits to be asked for its body, the next may be that body or another request."""
        if not self._body and self._expects_to_be_asked():
            self.answer.is_kept_alive = self.is_body_coming = False
