"""The MCP endpoints: every revision from 2024-11-05 to 2026-07-28 on one address, and HTTP+SSE beside it.

Whoever hosts them has put a RequestContext with a caller into the scope; each message is served as the caller that
brought it. Knows no tool.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, cast

from mcp.server import Server, ServerRequestContext
from mcp.server.connection import Connection
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ServerEvent, ToolsListChanged
from mcp.types import (
    DEFAULT_NEGOTIATED_VERSION,
    INVALID_REQUEST,
    EmptyResult,
    LoggingLevel,
    SetLevelRequestParams,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    UnsubscribeRequestParams,
)
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.config import Settings
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.identity.address import AddressReader, counted_as
from mcp_gateway.core.json_bounds import JsonBounds
from mcp_gateway.core.lifecycle import Lifecycle
from mcp_gateway.core.replicas import Replicas
from mcp_gateway.mcp_door.access import HostsAndOrigins
from mcp_gateway.mcp_door.calls import caller_of
from mcp_gateway.mcp_door.http import HttpRequest, send_payload
from mcp_gateway.mcp_door.http_sse import HttpSseEndpoints
from mcp_gateway.mcp_door.intake import CheckScope, Intake, NoteUnplaced
from mcp_gateway.mcp_door.jsonrpc import REFUSED, Refusal
from mcp_gateway.mcp_door.listings import Listings
from mcp_gateway.mcp_door.opening import LISTEN
from mcp_gateway.mcp_door.places import Places
from mcp_gateway.mcp_door.questions import Questions
from mcp_gateway.mcp_door.runners import Runners
from mcp_gateway.mcp_door.session_ids import LIFETIME_S
from mcp_gateway.mcp_door.sessions import Session, Sessions
from mcp_gateway.mcp_door.shared_sessions import Noted, SharedSessions
from mcp_gateway.mcp_door.shares import Caps, Tally, owner_of
from mcp_gateway.mcp_door.streamable_http import StreamableHttpEndpoint
from mcp_gateway.mcp_door.subscriptions import Subscriptions, session_of

_MAX_SWEEP_INTERVAL_S = 30.0
_WATCH_INTERVAL_S = 1.0

_LEVEL, _URI = "level", "uri:"
"""What is noted of a session: its log level, and each resource that it subscribed to."""

Context = ServerRequestContext[Any, Any]
Endpoint = Callable[[HttpRequest], Awaitable[None]]


class McpDoor:
    """The endpoints. `run` is entered once, around serving.

    Adds to the server what sessions and streams are needed for: subscriptions and the log level. `check_scope` raises
    GatewayError for a request, by its method and parameters, that another token of its caller's would be answered.
    `note_unplaced` is told of calls that are refused since too many of their caller's are not finished.
    `take_changes` returns what has changed since it was last called.
    """

    def __init__(
        self,
        server: Server,
        *,
        settings: Settings,
        lifecycle: Lifecycle,
        addresses: AddressReader,
        new_id: Callable[[str], str],
        count_listing: Callable[[Caller], Awaitable[None] | None],
        max_body_bytes: Callable[[Caller], int],
        note_refusal: Callable[[str, str], None],
        check_scope: CheckScope = lambda *_: None,
        note_unplaced: NoteUnplaced = lambda *_: None,
        take_changes: Callable[[], Iterable[ServerEvent]] = tuple,
        canonical_uri: Callable[[str], str | None] = lambda uri: uri,
        monotonic_s: Callable[[], float] = time.monotonic,
        replicas: Replicas | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._lifecycle = lifecycle
        self._addresses = addresses
        self._new_id = new_id
        self._note_refusal = note_refusal
        self._take_changes = take_changes
        self._access = HostsAndOrigins(settings)
        caps, idle_timeout_s = Caps.of_sessions(settings.mcp), settings.mcp.session_idle_timeout_s
        self.calls = Tally(caps)
        self.subscriptions = subscriptions = Subscriptions(caps, self._shared_address, canonical_uri)
        server.add_request_handler("resources/subscribe", SubscribeRequestParams, self._subscribe)
        server.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, self._unsubscribe)
        server.add_request_handler(LISTEN, SubscriptionsListenRequestParams, subscriptions.listen)
        server.add_request_handler("logging/setLevel", SetLevelRequestParams, self._set_log_level)
        self.sessions, self.event_sessions = [
            Sessions(caps, idle_timeout_s=idle_timeout_s, monotonic_s=monotonic_s, on_end=subscriptions.forget)
            for _ in range(2)
        ]
        self._monotonic_s = monotonic_s
        self._shared = shared = None if replicas is None else self._sharing(replicas, now_s)
        runners, listings = Runners(server), Listings(count_listing)
        intake = Intake(
            runners,
            listings,
            JsonBounds.of(settings),
            max_body_bytes=max_body_bytes,
            note_refusal=note_refusal,
            check_scope=check_scope,
            note_unplaced=note_unplaced,
            shared=shared,
        )
        http_sse = HttpSseEndpoints(self.event_sessions, self._new_session, runners, intake, listings, shared)
        streamable = StreamableHttpEndpoint(
            self.sessions,
            self._new_session,
            runners,
            intake,
            listings,
            self.calls,
            self._grace,
            shared,
            self._session_of_others,
        )
        self._streamable_http = {"DELETE": streamable.delete, "GET": streamable.get, "POST": streamable.post}
        self._sse = {"GET": http_sse.stream}
        self._messages = {"POST": http_sse.message}

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

    def close_secret(self, key_id: str) -> None:
        """End what was opened by a secret of a key that has ended, whether the key goes on or not."""
        self.sessions.remove_secret(key_id)
        self.event_sessions.remove_secret(key_id)
        self.subscriptions.close_secret(key_id)

    def publish(self, *events: ServerEvent) -> None:
        """Tell the clients that want to know what has changed."""
        if events:
            self.subscriptions.publish(self._all_sessions(), events)

    def publish_other_tools(self, key_id: str) -> None:
        """Tell the clients of a key that other tools are listed for it now."""
        sessions = [session for session in self._all_sessions() if session.owner[1] == key_id]
        self.subscriptions.publish(sessions, [ToolsListChanged()], key_id)

    def publish_changes(self) -> None:
        self.publish(*self._take_changes())

    def answer_by(self, app: ASGIApp) -> None:
        """Have messages that other replicas pass on answered by the app that this door is in."""
        if self._shared is not None:
            self._shared.answer_by(app)

    # Endpoints

    def streamable_http(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """POST for messages; GET (the server's stream) and DELETE for sessions."""
        return self._answer(HttpRequest.of(scope, receive, send), self._streamable_http)

    def sse(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """The stream of an HTTP+SSE session (2024-11-05), which the session lives as long as."""
        return self._answer(HttpRequest.of(scope, receive, send), self._sse)

    def messages(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """POST for messages of an HTTP+SSE session; answers go to its stream."""
        return self._answer(HttpRequest.of(scope, receive, send), self._messages)

    async def _answer(self, http: HttpRequest, by_method: Mapping[str, Endpoint]) -> None:
        try:
            self._access.check(http.headers)
            if (endpoint := by_method.get(http.scope["method"])) is None:
                methods = ", ".join(by_method)
                allow = ((b"allow", methods.encode()),)
                text = f"Use {methods} here."
                raise Refusal(405, INVALID_REQUEST, text, headers=allow, reason="method_not_allowed")
            await endpoint(http)
        except Refusal as refusal:
            self._note_refusal(refusal.reason, http.context.address)
            await send_payload(http.send, refusal.payload, refusal.status, refusal.headers)

    # Sessions

    def _new_session(self, context: RequestContext) -> Session:
        connection = Connection.from_envelope(DEFAULT_NEGOTIATED_VERSION, None, None)
        return self._session(self._new_id("mcp"), connection, context, LIFETIME_S)

    def _session(self, session_id: str, connection: Connection, context: RequestContext, lasts_s: float) -> Session:
        caller = caller_of(context)
        connection.session_id = session_id
        address = self._shared_address(context)
        session = Session(
            session_id, owner_of(caller), connection, Places(self.calls), address, validity=caller.validity
        )
        connection.outbound = session
        if self._shared is not None:
            session.ends_at_s = self._monotonic_s() + lasts_s
            session.questions = Questions(self._shared.own_name)
        return session

    async def _session_of_others(self, session_id: str, context: RequestContext) -> Session | None:
        """One that another replica has opened, which this serves from now on, too. Raises Refusal (503)."""
        assert self._shared is not None
        owner = owner_of(caller_of(context))
        known = await self._shared.opened_elsewhere(session_id, owner)
        if known is None:
            return None
        if (session := self.sessions.find(session_id, owner)) is not None:  # another request has been quicker
            return session
        facts, noted = known
        lasts_s = self._shared.ids.lasts_s(session_id, owner)
        session = self._session(session_id, facts.connection(), context, lasts_s)
        self.sessions.add(session)
        self._take_up(session, noted)
        return session

    def _sharing(self, replicas: Replicas, now_s: Callable[[], float]) -> SharedSessions:
        return SharedSessions(replicas, now_s, find=self.sessions.named, take_up=self._take_up, end=self._end_session)

    def _take_up(self, session: Session, noted: Noted) -> None:
        """What its client has set at another replica."""
        for name, value in noted.items():
            if name == _LEVEL:
                session.log_level = cast("LoggingLevel | None", value)
            elif value is None:
                self.subscriptions.unsubscribe_session(session, name.removeprefix(_URI))
            else:
                with contextlib.suppress(MCPError):  # of what there is no more, and too many here
                    version = session.connection.protocol_version
                    self.subscriptions.subscribe_session(session, name.removeprefix(_URI), version)

    def _end_session(self, session: Session) -> None:
        self.sessions.remove(session)
        session.cancel_all()

    # What a session's client sets

    async def _subscribe(self, ctx: Context, params: SubscribeRequestParams) -> EmptyResult:
        result = await self.subscriptions.subscribe(ctx, params)
        await self._note(session_of(ctx), f"{_URI}{params.uri}", "1")
        return result

    async def _unsubscribe(self, ctx: Context, params: UnsubscribeRequestParams) -> EmptyResult:
        result = await self.subscriptions.unsubscribe(ctx, params)
        await self._note(session_of(ctx), f"{_URI}{params.uri}", None)
        return result

    async def _set_log_level(self, ctx: Context, params: SetLevelRequestParams) -> EmptyResult:
        """Without a session there is nothing to remember it for."""
        if isinstance(ctx.lifespan_context, Session):
            ctx.lifespan_context.log_level = params.level
            await self._note(ctx.lifespan_context, _LEVEL, params.level)
        return EmptyResult()

    async def _note(self, session: Session, name: str, value: str | None) -> None:
        """For other replicas, where they serve it, too. Raises MCPError while they cannot be told."""
        if self._shared is None or self.sessions.named(session.id) is not session:
            return
        try:
            await self._shared.note(session, {name: value})
        except Refusal as refusal:
            raise MCPError(REFUSED, str(refusal)) from None

    def _shared_address(self, context: RequestContext) -> str | None:
        """The address whose keys have a share together: not a guest's, which has its own, nor one that is a proxy's."""
        if caller_of(context).is_guest or self._addresses.is_shared(context.address):
            return None
        return counted_as(context.address)

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
            if self.subscriptions.has_any:
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
