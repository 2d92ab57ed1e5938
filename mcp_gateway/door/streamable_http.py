"""Streamable HTTP: every revision's POSTs, answered each on its own, and the sessions of those that have them."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import anyio
from mcp.server.runner import ServerRunner
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS, unsupported_protocol_version_rejection
from mcp.types import DEFAULT_NEGOTIATED_VERSION, INVALID_REQUEST
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.context import RequestContext
from mcp_gateway.door.calls import CallContext
from mcp_gateway.door.http import Accept, EventStream, Exchange, Reply, send_payload
from mcp_gateway.door.intake import Intake
from mcp_gateway.door.jsonrpc import Message, Refusal
from mcp_gateway.door.listings import Listings, refusing
from mcp_gateway.door.opening import LISTEN
from mcp_gateway.door.places import take_place
from mcp_gateway.door.runners import Runners, has_envelope, rejected
from mcp_gateway.door.sessions import Session, Sessions
from mcp_gateway.door.shares import Tally, owner_of

_SESSION_HEADER = b"mcp-session-id"
_VERSION_HEADER = b"mcp-protocol-version"


class StreamableHttp:
    """The endpoint, once the caller may come in; each method raises Refusal. `grace` waits for a client that has
    vanished and may come back.
    """

    def __init__(
        self,
        sessions: Sessions,
        new_session: Callable[[RequestContext], Session],
        runners: Runners,
        intake: Intake,
        listings: Listings,
        all_calls: Tally,
        grace: Callable[[], Awaitable[None]],
    ) -> None:
        self._sessions = sessions
        self._new_session = new_session
        self._runners = runners
        self._intake = intake
        self._listings = listings
        self._all_calls = all_calls
        self._grace = grace

    async def post(self, http: Exchange) -> None:
        """Take a message, and answer it where it asks for anything."""
        message = await self._intake.read(http)
        in_session = _SESSION_HEADER in http.headers
        try:
            self._listings.admit(message, http.caller, in_session=in_session)
            await self._serve(http, message)
        except Refusal as refusal:
            raise self._listings.counted(refusal, message, http.caller, in_session=in_session) from None

    async def get(self, http: Exchange) -> None:
        """The stream on which the server speaks unasked; a client that opens another has lost the first."""
        self._listings.count(http.caller)
        session = self._named_session(http)
        if not Accept.of(http.headers.get(b"accept", b"*/*")).events:
            raise Refusal(406, INVALID_REQUEST, "Accept text/event-stream to listen.")
        http.forget_request()
        session.close_stream()
        stream = session.stream = EventStream(http.receive, http.send)
        try:
            await stream.serve(b": open\n\n")
        finally:
            if session.stream is stream:
                session.stream = None
                self._sessions.touch(session)

    async def delete(self, http: Exchange) -> None:
        """End a session, and at once what runs for it: its backends are let go of."""
        session = self._named_session(http)
        self._sessions.remove(session)
        session.cancel_all()
        await send_payload(http.send, b"")

    async def _serve(self, http: Exchange, message: Message) -> None:
        is_modern = _is_modern_version(http) or (_VERSION_HEADER not in http.headers and has_envelope(message))
        if not is_modern and message.is_request and message.method == "initialize":
            await self._open_session(http, message)
        elif not is_modern and _SESSION_HEADER in http.headers:
            await self._serve_in_session(http, message)
        elif message.is_request:
            await self._serve_alone(http, message, self._lone_runner(http, message, is_modern), is_modern)
        else:
            if is_modern:
                _check_notification(http, message)
            await send_payload(http.send, b"", 202)

    async def _open_session(self, http: Exchange, message: Message) -> None:
        session = self._new_session(http.context)
        runner = self._runners.of_session(session)
        payload, code = await self._intake.answer(runner, message, CallContext(message, http.context), http.caller)
        if code is not None:
            return await send_payload(http.send, payload, 400)
        self._sessions.add(session)
        return await send_payload(http.send, payload, headers=((_SESSION_HEADER, session.id.encode()),))

    async def _serve_in_session(self, http: Exchange, message: Message) -> None:
        session = self._named_session(http)
        if not message.is_request:
            await self._intake.note(session, message, http.context)
            return await send_payload(http.send, b"", 202)
        if message.method == "ping":
            return await self._answer_in_session(http, session, message)
        with refusing(message.id):
            await session.places.take(http.caller)
        try:
            return await self._answer_in_session(http, session, message)
        finally:
            session.places.give_back(http.caller)

    async def _answer_in_session(self, http: Exchange, session: Session, message: Message) -> None:
        reply = _reply(http)
        ask = partial(session.questions.ask, reply.tell) if reply.has_events else None
        call = CallContext(message, http.context, reply.tell, ask, lambda: reply.is_unread)
        assert message.id is not None
        cancel = session.begin(message.id)

        async def outcome() -> tuple[int, bytes]:
            return 200, (await self._answer(http, self._runners.of_session(session), message, call, reply))[0]

        try:
            await reply.deliver(outcome(), cancel, grace=self._grace)
        finally:
            session.end(cancel)
            self._sessions.touch(session)

    async def _serve_alone(self, http: Exchange, message: Message, runner: ServerRunner[Any], is_modern: bool) -> None:
        """Answer a request that belongs to no session. What listens has no place among the calls but one of its own."""
        reply = _reply(http)
        if message.method == LISTEN and not reply.has_events:
            raise Refusal(406, INVALID_REQUEST, "Accept text/event-stream to listen.", request_id=message.id)
        call = CallContext(message, http.context, reply.tell, is_unread=lambda: reply.is_unread)
        statuses = ERROR_CODE_HTTP_STATUS if is_modern else {}

        async def outcome() -> tuple[int, bytes]:
            payload, code = await self._answer(http, runner, message, call, reply)
            return 200 if code is None else statuses.get(code, 200), payload

        if message.method == LISTEN:
            http.forget_request()
            return await reply.deliver(outcome(), anyio.CancelScope())
        with self._place(message, http.caller):
            return await reply.deliver(outcome(), anyio.CancelScope())

    async def _answer(
        self, http: Exchange, runner: ServerRunner[Any], message: Message, call: CallContext, reply: Reply
    ) -> tuple[bytes, int | None]:
        """As Intake.answer; a refusal is the answer where that has begun."""
        try:
            return await self._intake.answer(runner, message, call, http.caller)
        except Refusal as refusal:
            if not reply.has_begun:
                raise
            return refusal.payload, None

    @contextlib.contextmanager
    def _place(self, message: Message, caller: Caller) -> Iterator[None]:
        with refusing(message.id):
            take_place(self._all_calls, caller)
        try:
            yield
        finally:
            self._all_calls.give_back(owner_of(caller))

    def _lone_runner(self, http: Exchange, message: Message, is_modern: bool) -> ServerRunner[Any]:
        if is_modern:
            return self._runners.modern(http.scope["headers"], message)
        version = http.headers.get(_VERSION_HEADER, DEFAULT_NEGOTIATED_VERSION.encode())
        return self._runners.stateless(version.decode("latin-1"))

    def _named_session(self, http: Exchange) -> Session:
        """The session that the headers name. Raises Refusal: 405 where they name none, 404 for an unknown one."""
        session_id = http.headers.get(_SESSION_HEADER)
        if session_id is None or _is_modern_version(http):
            raise Refusal(405, INVALID_REQUEST, "Use POST here.", headers=((b"allow", b"POST"),))
        return self._sessions.find(session_id.decode("latin-1"), owner_of(http.caller))


def _reply(http: Exchange) -> Reply:
    accept = Accept.of(http.headers.get(b"accept", b"*/*"))
    return Reply(http.receive, http.send, accept, EventStream(http.receive, http.send))


def _is_modern_version(http: Exchange) -> bool:
    """Whether the header names a revision without a handshake; unknown ones count, to be told what there is."""
    version = http.headers.get(_VERSION_HEADER)
    return version is not None and version.decode("latin-1") not in HANDSHAKE_PROTOCOL_VERSIONS


def _check_notification(http: Exchange, message: Message) -> None:
    """Notifications of 2026-07-28 are taken and mean nothing; responses and unknown revisions are refused."""
    if not message.is_notification or message.method is None:
        raise Refusal(400, INVALID_REQUEST, "Nothing was asked that this could answer.")
    rejection = unsupported_protocol_version_rejection(http.headers.get(_VERSION_HEADER, b"").decode("latin-1"))
    if rejection is not None:
        raise rejected(rejection, message)
