"""The MCP endpoints: every revision from 2024-11-05 to 2026-07-28 on one address, and HTTP+SSE beside it.

Whoever hosts them has put a RequestContext with a caller into the scope; each message is served as the caller that
brought it. Knows no tool.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import anyio
from mcp.server import NotificationOptions, Server, ServerRequestContext
from mcp.server.connection import Connection
from mcp.server.runner import ServerRunner
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    InboundLadderRejection,
    classify_inbound_request,
    find_duplicated_routing_header,
    unsupported_protocol_version_rejection,
    validate_mcp_param_headers,
)
from mcp.shared.subscriptions import ServerEvent
from mcp.types import (
    DEFAULT_NEGOTIATED_VERSION,
    HEADER_MISMATCH,
    INVALID_REQUEST,
    PARSE_ERROR,
    PROTOCOL_VERSION_META_KEY,
    EmptyResult,
    SetLevelRequestParams,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    UnsubscribeRequestParams,
)
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.types import Receive, Scope, Send

from mcp_gateway.core.bytes_in_flight import SMALL_BYTES
from mcp_gateway.core.caller import Caller
from mcp_gateway.core.config import Settings
from mcp_gateway.core.context import CONTEXT, RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import JsonBounds
from mcp_gateway.core.lifecycle import Lifecycle
from mcp_gateway.door.access import Access
from mcp_gateway.door.calls import CallContext, Tell, answer
from mcp_gateway.door.http import Accept, EventStream, Reply, event, read_message_body, send_payload
from mcp_gateway.door.jsonrpc import Message, Refusal, parse_message
from mcp_gateway.door.method import Unfinished, method_of
from mcp_gateway.door.sessions import Caps, Session, Sessions, owner_of
from mcp_gateway.door.subscriptions import Subscriptions

_SESSION_HEADER = b"mcp-session-id"
_VERSION_HEADER = b"mcp-protocol-version"
_MAX_SWEEP_INTERVAL_S = 30.0
_WATCH_INTERVAL_S = 1.0


class McpDoor:
    """The endpoints. `run` is entered once, around serving.

    Adds to the server what sessions and streams are needed for: subscriptions and the log level. `take_changes` returns
    what has changed since it was last called.
    """

    def __init__(
        self,
        server: Server,
        *,
        settings: Settings,
        lifecycle: Lifecycle,
        new_id: Callable[[str], str],
        max_body_bytes: Callable[[Caller], int],
        take_changes: Callable[[], Iterable[ServerEvent]] = tuple,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._settings = settings
        self._lifecycle = lifecycle
        self._new_id = new_id
        self._max_body_bytes = max_body_bytes
        self._take_changes = take_changes
        self._access = Access(settings)
        self._json_bounds = JsonBounds.of(settings)
        caps, idle_timeout_s = Caps.of_sessions(settings.mcp), settings.mcp.session_idle_timeout_s
        self.sessions = Sessions(caps, idle_timeout_s=idle_timeout_s, monotonic_s=monotonic_s)
        self.event_sessions = Sessions(caps, idle_timeout_s=idle_timeout_s, monotonic_s=monotonic_s)
        self.subscriptions = subscriptions = Subscriptions(caps)
        server.add_request_handler("resources/subscribe", SubscribeRequestParams, subscriptions.subscribe)
        server.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, subscriptions.unsubscribe)
        server.add_request_handler("subscriptions/listen", SubscriptionsListenRequestParams, subscriptions.listen)
        server.add_request_handler("logging/setLevel", SetLevelRequestParams, _set_log_level)
        self._init_options = server.create_initialization_options(NotificationOptions(resources_changed=True))

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Ends idle sessions, and long-lived streams when the gateway drains; closes everything on exit."""
        end = asyncio.ensure_future(self._end_with_draining())
        try:
            async with self._lifecycle.loops.running(mcp_sessions=self._sweep, mcp_changes=self._watch):
                yield
        finally:
            end.cancel()
            await asyncio.gather(end, return_exceptions=True)
            await self._close_streams(timeout_s=0)

    def close_key(self, key_id: str) -> None:
        """End the sessions of a revoked key, with their open streams."""
        self.sessions.remove_key(key_id)
        self.event_sessions.remove_key(key_id)
        self.subscriptions.close_key(key_id)

    def publish(self, *events: ServerEvent) -> None:
        """Tell the clients that want to know what has changed."""
        self.subscriptions.publish(self._all_sessions(), events)

    def publish_changes(self) -> None:
        self.publish(*self._take_changes())

    # Endpoints

    async def streamable_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST for messages; GET (the server's stream) and DELETE for sessions."""
        headers = _headers_of(scope)
        try:
            self._access.check(headers)
            if scope["method"] == "POST":
                await self._post(headers, scope, receive, send)
            elif scope["method"] == "GET":
                await self._listen(self._named_session(headers, scope), headers, scope, receive, send)
            elif scope["method"] == "DELETE":
                self.sessions.remove(self._named_session(headers, scope))
                await send_payload(send, b"")
            else:
                raise _not_allowed(b"DELETE, GET, POST")
        except Refusal as refusal:
            await send_payload(send, refusal.payload, refusal.status, refusal.headers)

    async def sse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The stream of an HTTP+SSE session (2024-11-05), which the session lives as long as."""
        try:
            self._access.check(_headers_of(scope))
            if scope["method"] != "GET":
                raise _not_allowed(b"GET")
            session = self._new_session(scope[CONTEXT])
            stream = session.stream = EventStream(receive, send)
            self.event_sessions.add(session)
        except Refusal as refusal:
            return await send_payload(send, refusal.payload, refusal.status, refusal.headers)
        path = scope["path"].removesuffix("/").removesuffix("/sse")
        try:
            await stream.serve(event(f"{path}/messages/?session_id={session.id}".encode(), b"endpoint"))
        finally:
            self.event_sessions.remove(session)
            await session.finish_calls(0)
        return None

    async def messages(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST for messages of an HTTP+SSE session; answers go to its stream."""
        headers = _headers_of(scope)
        context: RequestContext = scope[CONTEXT]
        try:
            self._access.check(headers)
            if scope["method"] != "POST":
                raise _not_allowed(b"POST")
            session_id = parse_qs(scope["query_string"].decode("latin-1")).get("session_id", [""])[0]
            session = self.event_sessions.find(session_id, owner_of(_caller(context)))
            message = await self._read(context, receive)
            await self._take(session, message, context)
        except Refusal as refusal:
            return await send_payload(send, refusal.payload, refusal.status, refusal.headers)
        return await send_payload(send, b"", 202)

    # Streamable HTTP

    async def _post(self, headers: dict[bytes, bytes], scope: Scope, receive: Receive, send: Send) -> None:
        message = await self._read(scope[CONTEXT], receive)
        is_modern = _is_modern_version(headers) or (_VERSION_HEADER not in headers and _has_envelope(message))
        if not is_modern and message.is_request and message.method == "initialize":
            return await self._open_session(message, scope, send)
        if not is_modern and _SESSION_HEADER in headers:
            return await self._post_to_session(headers, message, scope, receive, send)
        if not message.is_request:
            if is_modern:
                _check_notification(headers, message)
            return await send_payload(send, b"", 202)
        runner = self._modern_runner(scope["headers"], message) if is_modern else self._stateless_runner(headers)
        statuses = ERROR_CODE_HTTP_STATUS if is_modern else {}
        reply = _reply(headers, receive, send)
        if message.method == "subscriptions/listen" and not reply.has_events:
            raise Refusal(406, INVALID_REQUEST, "Accept text/event-stream to listen.", request_id=message.id)
        call = CallContext(message, scope[CONTEXT], reply.tell)

        async def outcome() -> tuple[int, bytes]:
            payload, code = await answer(runner, message, call)
            return 200 if code is None else statuses.get(code, 200), payload

        return await reply.deliver(outcome(), anyio.CancelScope())

    async def _open_session(self, message: Message, scope: Scope, send: Send) -> None:
        session = self._new_session(scope[CONTEXT])
        payload, code = await answer(self._session_runner(session), message, CallContext(message, scope[CONTEXT]))
        if code is not None:
            return await send_payload(send, payload, 400)
        self.sessions.add(session)
        return await send_payload(send, payload, headers=((_SESSION_HEADER, session.id.encode()),))

    async def _post_to_session(
        self, headers: dict[bytes, bytes], message: Message, scope: Scope, receive: Receive, send: Send
    ) -> None:
        session = self._named_session(headers, scope)
        context: RequestContext = scope[CONTEXT]
        if not message.is_request:
            await self._note(session, message, context)
            return await send_payload(send, b"", 202)
        reply = _reply(headers, receive, send)
        ask = partial(session.questions.ask, reply.tell) if reply.has_events else None
        call = CallContext(message, context, reply.tell, ask)
        assert message.id is not None
        cancel = session.begin(message.id)

        async def outcome() -> tuple[int, bytes]:
            return 200, (await answer(self._session_runner(session), message, call))[0]

        try:
            return await reply.deliver(outcome(), cancel, grace=self._grace)
        finally:
            session.end(message.id, cancel)
            self.sessions.touch(session)

    async def _listen(
        self, session: Session, headers: dict[bytes, bytes], scope: Scope, receive: Receive, send: Send
    ) -> None:
        """The stream on which the server speaks unasked; a client that opens another has lost the first."""
        if not Accept.of(headers.get(b"accept", b"*/*")).events:
            raise Refusal(406, INVALID_REQUEST, "Accept text/event-stream to listen.")
        session.close_stream()
        stream = session.stream = EventStream(receive, send)
        try:
            await stream.serve(b": open\n\n")
        finally:
            if session.stream is stream:
                session.stream = None
                self.sessions.touch(session)

    def _named_session(self, headers: dict[bytes, bytes], scope: Scope) -> Session:
        """The session that the headers name. Raises Refusal: 405 where they name none, 404 for an unknown one."""
        session_id = headers.get(_SESSION_HEADER)
        if session_id is None or _is_modern_version(headers):
            raise _not_allowed(b"POST")
        return self.sessions.find(session_id.decode("latin-1"), owner_of(_caller(scope[CONTEXT])))

    # HTTP+SSE

    async def _take(self, session: Session, message: Message, context: RequestContext) -> None:
        """Begin with a message; `initialize` is answered before the next one is read."""
        if not message.is_request:
            await self._note(session, message, context)
        elif message.method == "initialize":
            await self._answer_on_stream(session, message, context)
        else:
            session.spawn(self._answer_on_stream(session, message, context))

    async def _answer_on_stream(self, session: Session, message: Message, context: RequestContext) -> None:
        stream = session.stream
        assert stream is not None
        assert message.id is not None

        async def tell(payload: bytes) -> None:
            await stream.write(event(payload))

        cancel = session.begin(message.id)
        try:
            with cancel:
                await tell(await self._answer_by_era(session, message, context, tell))
        finally:
            session.end(message.id, cancel)

    async def _answer_by_era(self, session: Session, message: Message, context: RequestContext, tell: Tell) -> bytes:
        if not _has_envelope(message) or message.method == "initialize":
            call = CallContext(message, context, tell, partial(session.questions.ask, tell))
            return (await answer(self._session_runner(session), message, call))[0]
        try:
            runner = self._modern_runner(None, message)
        except Refusal as refusal:
            return refusal.payload
        return (await answer(runner, message, CallContext(message, context, tell)))[0]

    # Both

    async def _read(self, context: RequestContext, receive: Receive) -> Message:
        """The message that a request brings. Raises Refusal; only a call of a tool may be large."""
        raw = await read_message_body(context, receive, self._max_body_bytes(_caller(context)))
        if len(raw) > SMALL_BYTES:
            await _check_large(raw)
        try:
            await self._json_bounds.check(raw, context.caller)
            return parse_message(raw)
        except GatewayError as error:
            raise Refusal(error.status, PARSE_ERROR, error.message) from None

    async def _note(self, session: Session, message: Message, context: RequestContext) -> None:
        """Take a notification, or the answer to something that was asked."""
        if message.method is None:
            session.questions.take(message)
        elif message.method == "notifications/cancelled":
            session.cancel(message.params)
        else:
            runner = self._session_runner(session)
            await runner.on_notify(CallContext(message, context), message.method, message.params)

    def _new_session(self, context: RequestContext) -> Session:
        session_id = self._new_id("mcp")
        connection = Connection.from_envelope(DEFAULT_NEGOTIATED_VERSION, None, None)
        connection.session_id = session_id
        session = Session(session_id, owner_of(_caller(context)), connection)
        connection.outbound = session
        return session

    def _session_runner(self, session: Session) -> ServerRunner[Any]:
        return self._runner(session.connection, session)

    def _runner(self, connection: Connection, session: Session | None = None) -> ServerRunner[Any]:
        """A handler finds the session as `ctx.lifespan_context`."""
        return ServerRunner(self._server, connection, session, init_options=self._init_options)

    def _stateless_runner(self, headers: dict[bytes, bytes]) -> ServerRunner[Any]:
        """For a message of the older revisions that comes without a session."""
        version = headers.get(_VERSION_HEADER, DEFAULT_NEGOTIATED_VERSION.encode()).decode("latin-1")
        return self._runner(Connection.from_envelope(version, None, None))

    def _modern_runner(self, lines: Iterable[tuple[bytes, bytes]] | None, message: Message) -> ServerRunner[Any]:
        """For a message that carries its own version and capabilities, which any header lines repeat.

        Raises Refusal where they do not fit.
        """
        headers = None if lines is None else _decoded(lines)
        if headers is not None and (twice := find_duplicated_routing_header(headers)) is not None:
            raise Refusal(400, HEADER_MISMATCH, f"{twice} header appears more than once", request_id=message.id)
        body = {"method": message.method, "params": message.params}
        route = classify_inbound_request(body, headers=None if headers is None else dict(headers))
        if isinstance(route, InboundLadderRejection):
            raise _rejected(route, message)
        if headers is not None and (rejection := self._mirror_rejection(headers, message)) is not None:
            raise _rejected(rejection, message)
        envelope = route.protocol_version, route.client_info, route.client_capabilities
        return self._runner(Connection.from_envelope(*envelope))

    def _mirror_rejection(self, headers: list[tuple[str, str]], message: Message) -> InboundLadderRejection | None:
        """What is wrong with the headers that mirror a tool's arguments, for tools whose schema asks for any."""
        params = message.params or {}
        name, arguments = params.get("name"), params.get("arguments") or {}
        lookup = self._server.get_tool_input_schema
        if message.method != "tools/call" or lookup is None or not isinstance(name, str):
            return None
        schema = lookup(name)
        if schema is None or not isinstance(arguments, dict):
            return None
        return validate_mcp_param_headers(schema, arguments, dict(headers))

    def _all_sessions(self) -> list[Session]:
        return [*self.sessions.all(), *self.event_sessions.all()]

    # Ends

    async def _grace(self) -> None:
        """The time in which a client that has vanished may come back; none to a server that ends."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.mcp.disconnect_grace_s):
                await self._lifecycle.has_begun_draining.wait()

    async def _sweep(self) -> None:
        interval_s = min(self._settings.mcp.session_idle_timeout_s / 4, _MAX_SWEEP_INTERVAL_S)
        while True:
            await asyncio.sleep(interval_s)
            self.sessions.expire()

    async def _watch(self) -> None:
        """Backends come and go without a word: look for changes while anybody wants to know."""
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            if len(self.subscriptions) or any(session.subscribed_uris for session in self._all_sessions()):
                self.publish_changes()

    async def _end_with_draining(self) -> None:
        await self._lifecycle.has_begun_draining.wait()
        await self._close_streams(self._settings.drain_timeout_s)

    async def _close_streams(self, timeout_s: float) -> None:
        """Close the streams that only wait; those that still carry answers once these are given."""
        self.subscriptions.close()
        for session in self.sessions.all():
            session.close_stream()
        sessions = self.event_sessions.all()
        await asyncio.gather(*(session.finish_calls(timeout_s) for session in sessions))
        for session in sessions:
            session.close_stream()


async def _set_log_level(ctx: ServerRequestContext[Any, Any], params: SetLevelRequestParams) -> EmptyResult:
    """Without a session there is nothing to remember it for."""
    if isinstance(ctx.lifespan_context, Session):
        ctx.lifespan_context.log_level = params.level
    return EmptyResult()


async def _check_large(raw: bytes) -> None:
    """Raises Refusal for what is large and no call of a tool, before it is parsed."""
    try:
        method = await method_of(raw)
    except Unfinished:
        raise Refusal(400, PARSE_ERROR, "The body is not JSON.") from None
    if method != "tools/call":
        raise Refusal(413, INVALID_REQUEST, f"Only tools/call may have more than {SMALL_BYTES} bytes.")


def _reply(headers: dict[bytes, bytes], receive: Receive, send: Send) -> Reply:
    return Reply(receive, send, Accept.of(headers.get(b"accept", b"*/*")), EventStream(receive, send))


def _headers_of(scope: Scope) -> dict[bytes, bytes]:
    """By lower-case name."""
    return dict(scope["headers"])


def _decoded(lines: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1").strip()) for name, value in lines]


def _caller(context: RequestContext) -> Caller:
    assert context.caller is not None
    return context.caller


def _is_modern_version(headers: dict[bytes, bytes]) -> bool:
    """Whether the header names a revision without a handshake; unknown ones count, to be told what there is."""
    version = headers.get(_VERSION_HEADER)
    return version is not None and version.decode("latin-1") not in HANDSHAKE_PROTOCOL_VERSIONS


def _has_envelope(message: Message) -> bool:
    meta = (message.params or {}).get("_meta")
    return isinstance(meta, dict) and PROTOCOL_VERSION_META_KEY in meta


def _check_notification(headers: dict[bytes, bytes], message: Message) -> None:
    """Notifications of 2026-07-28 are taken and mean nothing; responses and unknown revisions are refused."""
    if not message.is_notification or message.method is None:
        raise Refusal(400, INVALID_REQUEST, "Nothing was asked that this could answer.")
    rejection = unsupported_protocol_version_rejection(headers.get(_VERSION_HEADER, b"").decode("latin-1"))
    if rejection is not None:
        raise _rejected(rejection, message)


def _rejected(rejection: InboundLadderRejection, message: Message) -> Refusal:
    status = ERROR_CODE_HTTP_STATUS.get(rejection.code, 400)
    return Refusal(status, rejection.code, rejection.message, request_id=message.id, data=rejection.data)


def _not_allowed(methods: bytes) -> Refusal:
    return Refusal(405, INVALID_REQUEST, f"Use {methods.decode()} here.", headers=((b"allow", methods),))
