"""The HTTP side of a message: its headers, its bounded body, and its answer as JSON or as server-sent events.

Knows nothing of what is asked; payloads are bytes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus

import anyio
from mcp.types import INVALID_REQUEST
from starlette.types import Receive, Scope, Send

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.context import CONTEXT, SENT, RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.mcp_door.calls import caller_of
from mcp_gateway.mcp_door.jsonrpc import REFUSED, Refusal
from mcp_gateway.wire import event_streams
from mcp_gateway.wire.bodies import is_json, read_body
from mcp_gateway.wire.whole_answers import JSON_TYPE, Header, retry_after, send_bytes

KEEP_ALIVE_S = 15.0
"""A silent stream sends a comment this often, so that proxies keep it; an answer becomes a stream after this long."""

_EVENT_HEADERS = (
    (b"content-type", b"text/event-stream"),
    *event_streams.HEADERS,
)
_PING = b": ping\n\n"
_ACCEPTED_KEPT = 32
"""How many different headers are remembered; clients send a handful."""


@dataclass(frozen=True, slots=True)
class Accept:
    """Which forms of answer a client reads; one that names neither is taken to read JSON."""

    json: bool
    events: bool

    @classmethod
    @lru_cache(maxsize=_ACCEPTED_KEPT)
    def of(cls, header: bytes) -> "Accept":
        weights = dict(map(_weighed, header.lower().split(b",")))
        events = _is_accepted(weights, b"text/event-stream", b"text/*", b"*/*")
        return cls(
            json=not events or _is_accepted(weights, b"application/json", b"application/*", b"*/*"), events=events
        )


def _weighed(kind: bytes) -> tuple[bytes, bool]:
    """A kind of answer, and whether it is wanted: with `q=0` it is not (RFC 9110, 12.4.2)."""
    name, *parameters = (part.strip() for part in kind.split(b";"))
    return name, not any(part[:2] == b"q=" and part[2:] and not part[2:].strip(b"0.") for part in parameters)


def _is_accepted(weights: Mapping[bytes, bool], *names: bytes) -> bool:
    """What the most exact of the names that were sent says."""
    return next((weights[name] for name in names if name in weights), False)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One HTTP request and the way to answer it; `headers` are by lower-case name."""

    scope: Scope
    receive: Receive
    send: Send
    headers: dict[bytes, bytes]
    context: RequestContext
    caller: Caller

    @classmethod
    def of(cls, scope: Scope, receive: Receive, send: Send) -> "HttpRequest":
        context: RequestContext = scope[CONTEXT]
        return cls(scope, receive, send, dict(scope["headers"]), context, caller_of(context))

    @property
    def accept(self) -> Accept:
        """Who sends no such header reads anything."""
        return Accept.of(self.accept_header if b"accept" in self.headers else b"*/*")

    @property
    def accept_header(self) -> bytes:
        """All its lines."""
        return b",".join([value for name, value in self.scope["headers"] if name == b"accept"])

    def forget_request(self) -> None:
        """Keep nothing more of the request's head, and no room for its body: a stream may stay for days."""
        self.context.release()
        self.headers.clear()
        self.scope["headers"].clear()
        self.context.sent = {}
        self.scope.pop(SENT, None)


async def read_message_body(context: RequestContext, receive: Receive, max_bytes: int) -> bytes:
    """The body of a JSON request. Raises Refusal (413, 415, 503) or CallerLeft."""
    if not is_json(context.sent):
        text = "Send JSON, with the header Content-Type: application/json."
        raise Refusal(415, INVALID_REQUEST, text, reason="unsupported_media_type")
    try:
        return await read_body(context, receive, max_bytes)
    except GatewayError as error:
        raise _refusal_of(error) from None


def _refusal_of(error: GatewayError) -> Refusal:
    code = INVALID_REQUEST if error.status < HTTPStatus.INTERNAL_SERVER_ERROR else REFUSED
    return Refusal(error.status, code, error.message, headers=retry_after(error.retry_after_s), reason=error.code)


async def send_payload(send: Send, payload: bytes, status: int = 200, headers: Sequence[Header] = ()) -> None:
    """A whole answer; an empty payload has no type."""
    await send_bytes(send, payload, [JSON_TYPE, *headers] if payload else [*headers], status)


def event(payload: bytes, name: bytes = b"message") -> bytes:
    """A server-sent event; a JSON payload has no line breaks."""
    return b"event: " + name + b"\ndata: " + payload + b"\n\n"


class MessageStream:
    """An answer of server-sent events, begun by its first write; several tasks may write."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._lock = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None
        self._is_ended = False
        self._is_closing = False
        self.is_open = False

    @property
    def is_unread(self) -> bool:
        """Whether a frame waits for the client to read what came before."""
        return self._lock.locked()

    async def caught_up(self) -> None:
        """Wait until the client has read on, so that there is room for what is written now."""
        async with self._lock:
            pass

    async def write(self, frame: bytes, *, is_last: bool = False) -> None:
        """Send a frame; nothing happens after the last one."""
        async with self._lock:
            if self._is_ended:
                return
            if not self.is_open:
                await self._send({"type": "http.response.start", "status": 200, "headers": list(_EVENT_HEADERS)})
                self.is_open = True
            await self._send({"type": "http.response.body", "body": frame, "more_body": not is_last})
            self._is_ended = is_last

    async def ping(self) -> None:
        await self.write(_PING)

    async def serve(self, first: bytes) -> None:
        """Stay open until the client leaves or `close` is called."""
        await self.write(first)
        if not self._is_closing:
            self._watcher = asyncio.ensure_future(await_departure(self._receive, self.ping))
            try:
                await asyncio.wait([self._watcher])
            finally:
                self._watcher.cancel()
        await self.write(b"", is_last=True)

    def close(self) -> None:
        self._is_closing = True
        if self._watcher is not None:
            self._watcher.cancel()


async def await_departure(receive: Receive, ping: Callable[[], Awaitable[None]] | None) -> None:
    """Return when the client has left; until then `ping` whenever it has been quiet for KEEP_ALIVE_S."""
    while True:
        try:
            async with asyncio.timeout(KEEP_ALIVE_S):
                message = await receive()
        except TimeoutError:
            if ping is not None:
                await ping()
        else:
            if message["type"] == "http.disconnect":
                return


class Reply:
    """The answer to one POSTed request: JSON, or events once something is told before the end or it takes long."""

    _pinging: asyncio.Task[None] | None = None

    def __init__(self, receive: Receive, send: Send, accept: Accept, stream: MessageStream) -> None:
        self._receive = receive
        self._send = send
        self._accept = accept
        self._stream = stream

    @property
    def is_unread(self) -> bool:
        """Whether something waits for the client to read what it was told before."""
        return self._stream.is_unread

    @property
    def has_begun(self) -> bool:
        """Whether anything was told."""
        return self._stream.is_open

    @property
    def is_stream(self) -> bool:
        """Whether the answer comes as events, as far as it is known by now."""
        return self.has_begun or not self._accept.json

    @property
    def has_events(self) -> bool:
        """Whether anything can be told before the end."""
        return self._accept.events

    async def tell(self, payload: bytes) -> None:
        """Send a message before the end, to a client that reads events."""
        if self._accept.events:
            await self._stream.write(event(payload))

    async def deliver(
        self,
        answer: Awaitable[tuple[int, bytes]],
        cancel: anyio.CancelScope,
        *,
        grace: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Await the answer (status, payload) within `cancel` and send it.

        `cancel` is cancelled when the client has left and then `grace` has passed. A cancelled request gets an end, but
        no answer.
        """
        outcome: tuple[int, bytes] | None = None
        watcher = asyncio.ensure_future(self._watch(cancel, grace))
        try:
            with cancel:
                outcome = await answer
        finally:
            watcher.cancel()
        await self._finish(outcome)

    async def deliver_alone(self, answer: Awaitable[tuple[int, bytes]]) -> None:
        """Await the answer and send it, in a task that ends by itself once the client has left."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(KEEP_ALIVE_S, self._begin_pings) if self._accept.events else None
        try:
            outcome = await answer
        finally:
            if timer is not None:
                timer.cancel()
            if self._pinging is not None:
                self._pinging.cancel()
        await self._finish(outcome)

    def _begin_pings(self) -> None:
        self._pinging = asyncio.ensure_future(self._ping())

    async def _ping(self) -> None:
        while True:
            await self._stream.ping()
            await asyncio.sleep(KEEP_ALIVE_S)

    async def _watch(self, cancel: anyio.CancelScope, grace: Callable[[], Awaitable[None]] | None) -> None:
        await await_departure(self._receive, self._stream.ping if self._accept.events else None)
        if grace is not None:
            await grace()
        cancel.cancel()

    async def _finish(self, outcome: tuple[int, bytes] | None) -> None:
        if outcome is not None and not self.is_stream:
            await send_payload(self._send, outcome[1], outcome[0])
        elif outcome is None and not self._accept.events:
            await send_payload(self._send, b"", 202)
        else:
            await self._stream.write(b"" if outcome is None else event(outcome[1]), is_last=True)
