"""Streamable HTTP: every revision's POSTs, answered each on its own, and the sessions of those that have them."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
from mcp.server.runner import ServerRunner
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS
from mcp.types import DEFAULT_NEGOTIATED_VERSION, INVALID_REQUEST, ErrorData

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.context import CLIENT, CallerLeft, Client, RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.mcp_door.calls import CallContext, caller_of
from mcp_gateway.mcp_door.eras import (
    SESSION_HEADER,
    check_batch,
    check_notification,
    check_version,
    is_modern,
    version_of,
)
from mcp_gateway.mcp_door.http import HttpRequest, MessageStream, Reply, send_payload
from mcp_gateway.mcp_door.intake import Intake
from mcp_gateway.mcp_door.jsonrpc import REFUSED, Batch, Message, Refusal, error_payload
from mcp_gateway.mcp_door.listings import Listings
from mcp_gateway.mcp_door.opening import LISTEN
from mcp_gateway.mcp_door.places import take_place
from mcp_gateway.mcp_door.runners import Runners, has_envelope
from mcp_gateway.mcp_door.sessions import Session, Sessions, not_found
from mcp_gateway.mcp_door.shared_sessions import SharedSessions
from mcp_gateway.mcp_door.shares import Owner, Tally, owner_of

_MAX_BATCH_BYTES = 1024 * 1024
_TOO_MUCH = "The answers before this one are too long: send this message by itself."
_LISTEN_TO_EVENTS = "Accept text/event-stream to listen."
_CANCELLED = ErrorData(code=REFUSED, message="The client has cancelled this.")


class StreamableHttpEndpoint:
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
        shared: SharedSessions | None,
        session_of_others: Callable[[str, RequestContext], Awaitable[Session | None]],
    ) -> None:
        self._shared = shared
        self._session_of_others = session_of_others
        self._sessions = sessions
        self._new_session = new_session
        self._runners = runners
        self._intake = intake
        self._listings = listings
        self._all_calls = all_calls
        self._grace = grace

    async def post(self, http: HttpRequest) -> None:
        """Take a message, and answer it where it asks for anything; or several in one body."""
        message = await self._intake.read(http)
        if isinstance(message, list):
            return await self._serve_batch(http, message)
        in_session = SESSION_HEADER in http.headers
        try:
            await self._intake.admit(message, http.caller, in_session=in_session)
            await self._serve(http, message)
        except Refusal as refusal:
            raise await self._listings.counted(refusal, message, http.caller, in_session=in_session) from None

    async def get(self, http: HttpRequest) -> None:
        """The stream on which the server speaks unasked; a client that opens another has lost the first."""
        await self._listings.count(http.caller)
        session = await self._named_session(http)
        if not http.accept.events:
            raise Refusal(406, INVALID_REQUEST, _LISTEN_TO_EVENTS, reason="not_acceptable")
        http.forget_request()
        session.close_stream()
        if self._shared is not None:
            self._shared.listens(session)
        stream = session.stream = MessageStream(http.receive, http.send)
        try:
            await stream.serve(b": open\n\n")
        finally:
            if session.stream is stream:
                session.stream = None
                self._sessions.touch(session)

    async def delete(self, http: HttpRequest) -> None:
        """End a session, and at once what runs for it: its backends are let go of."""
        session = await self._named_session(http)
        self._sessions.remove(session)
        session.cancel_all()
        if self._shared is not None:
            await self._shared.end(session)
        await send_payload(http.send, b"")

    async def _serve(self, http: HttpRequest, message: Message) -> None:
        version = version_of(http)
        is_stateless = is_modern(http, version, message)
        if not is_stateless and message.is_request and message.method == "initialize":
            return await self._open_session(http, message)
        if not has_envelope(message):
            check_version(version, message)
        if not is_stateless and SESSION_HEADER in http.headers:
            return await self._serve_in_session(http, message)
        if message.is_request:
            lines = http.scope["headers"]
            runner = self._runners.modern(lines, message) if is_stateless else self._runners.stateless(version)
            return await self._serve_alone(http, message, runner, is_stateless)
        if is_stateless:
            check_notification(version, message)
        return await send_payload(http.send, b"", 202)

    async def _open_session(self, http: HttpRequest, message: Message) -> None:
        session = self._new_session(http.context)
        runner = self._runners.of_session(session)
        payload, code = await self._intake.answer(runner, message, CallContext(message, http.context), http.caller)
        if code is not None:
            return await send_payload(http.send, payload, 400)
        if self._shared is not None:
            session.id = session.connection.session_id = self._shared.ids.make(session.owner, session.connection)
        self._sessions.add(session)
        return await send_payload(http.send, payload, headers=((SESSION_HEADER, session.id.encode()),))

    async def _serve_in_session(self, http: HttpRequest, message: Message) -> None:
        session = await self._named_session(http)
        if not message.is_request:
            await self._intake.note(session, message, http.context)
            return await send_payload(http.send, b"", 202)
        reply = _reply(http)
        call = _call_in(session, message, http, reply)

        async def outcome() -> tuple[int, bytes]:
            return 200, (await self._answer(http, self._runners.of_session(session), message, call, reply))[0]

        cancel = await self._begin(session, message, http.context)
        try:
            await reply.deliver(outcome(), cancel, grace=self._grace)
        finally:
            self._end(session, message, http.caller, cancel)

    async def _serve_batch(self, http: HttpRequest, batch: Batch) -> None:
        """Answer several messages, one after another; where the client listens, each by an event of its own."""
        version = version_of(http)
        check_version(version)
        session = await self._named_session(http) if SESSION_HEADER in http.headers else None
        spoken = session.connection.protocol_version if session is not None else version
        check_batch(batch, spoken or DEFAULT_NEGOTIATED_VERSION)
        reply = _reply(http)

        async def outcome() -> tuple[int, bytes]:
            answers = await self._answers_of(http, session, batch, reply)
            if not reply.is_stream:
                return 200, b"[%b]" % b",".join(answers)
            *earlier, last = answers
            for answer in earlier:
                await reply.tell(answer)
            return 200, last

        if any(message.is_request for message in batch):
            return await reply.deliver(outcome(), anyio.CancelScope(), grace=self._grace if session else None)
        for message in batch:
            await self._answer_of(http, session, message, reply)
        return await send_payload(http.send, b"", 202)

    async def _answers_of(self, http: HttpRequest, session: Session | None, batch: Batch, reply: Reply) -> list[bytes]:
        """The answers that are due; what comes once they are many bytes is not begun, for all are kept to the end."""
        answers: list[bytes] = []
        for message in batch:
            if message.is_request and sum(map(len, answers)) > _MAX_BATCH_BYTES:
                answers.append(self._intake.told(_too_much(message), http.context))
            elif answer := await self._answer_of(http, session, message, reply):
                answers.append(answer)
            await asyncio.sleep(0)  # for others
        return answers

    async def _answer_of(
        self, http: HttpRequest, session: Session | None, message: Message, reply: Reply
    ) -> bytes | None:
        """The answer to one message of a batch, also where it is refused; None where it asks for nothing."""
        try:
            await self._listings.admit(message, http.caller, in_session=session is not None)
            if message.is_request:
                return await self._answer_in_batch(http, session, message, reply)
            if session is not None:
                await self._intake.note(session, message, http.context)
        except Refusal as refusal:
            told = await self._told(refusal, message, http, session)
            return told if message.is_request else None
        return None

    async def _told(self, refusal: Refusal, message: Message, http: HttpRequest, session: Session | None) -> bytes:
        counted = await self._listings.counted(refusal, message, http.caller, in_session=session is not None)
        return self._intake.told(counted, http.context)

    async def _answer_in_batch(
        self, http: HttpRequest, session: Session | None, message: Message, reply: Reply
    ) -> bytes:
        if session is None:
            call = CallContext(message, http.context, reply.tell, is_unread=lambda: reply.is_unread)
            owner = self._take_place(message, http.context)
            try:
                runner = self._runners.stateless(version_of(http))
                return (await self._intake.answer(runner, message, call, http.caller))[0]
            finally:
                self._all_calls.give_back(owner)
        cancel = await self._begin(session, message, http.context)
        try:
            with cancel:
                call = _call_in(session, message, http, reply)
                runner = self._runners.of_session(session)
                return (await self._intake.answer(runner, message, call, http.caller))[0]
        finally:
            self._end(session, message, http.caller, cancel)
        return error_payload(message.id, _CANCELLED)

    async def _serve_alone(
        self, http: HttpRequest, message: Message, runner: ServerRunner[Any], is_modern: bool
    ) -> None:
        """Answer a request that belongs to no session. What listens has no place among the calls but one of its own."""
        reply = _reply(http)
        if message.method == LISTEN and not reply.has_events:
            raise Refusal(406, INVALID_REQUEST, _LISTEN_TO_EVENTS, request_id=message.id, reason="not_acceptable")
        call = CallContext(message, http.context, reply.tell, is_unread=lambda: reply.is_unread)
        statuses = ERROR_CODE_HTTP_STATUS if is_modern else {}

        async def outcome() -> tuple[int, bytes]:
            payload, code = await self._answer(http, runner, message, call, reply)
            return 200 if code is None else statuses.get(code, 200), payload

        if message.method == LISTEN:
            http.forget_request()
            return await reply.deliver(outcome(), anyio.CancelScope())
        client: Client = http.scope[CLIENT]
        if client.is_gone:
            raise CallerLeft
        owner = self._take_place(message, http.context)
        client.is_cancelled_on_departure = True  # nobody else ends it, so that no task has to watch beside it
        try:
            return await reply.deliver_alone(outcome())
        finally:
            self._all_calls.give_back(owner)

    async def _answer(
        self, http: HttpRequest, runner: ServerRunner[Any], message: Message, call: CallContext, reply: Reply
    ) -> tuple[bytes, int | None]:
        """As Intake.answer; a refusal is the answer where that has begun."""
        try:
            return await self._intake.answer(runner, message, call, http.caller)
        except Refusal as refusal:
            if not reply.has_begun:
                raise
            return self._intake.told(refusal, http.context), None

    async def _begin(self, session: Session, message: Message, context: RequestContext) -> anyio.CancelScope:
        """The scope that a call of a session runs in, once there is a place for it; a ping needs none. `_end` it."""
        assert message.id is not None
        if message.method != "ping":
            try:
                await session.places.take(caller_of(context))
            except GatewayError as full:
                raise self._intake.without_place(full, message, context) from None
        return session.begin(message.id)

    def _end(self, session: Session, message: Message, caller: Caller, cancel: anyio.CancelScope) -> None:
        session.end(cancel)
        self._sessions.touch(session)
        if message.method != "ping":
            session.places.give_back(caller)

    def _take_place(self, message: Message, context: RequestContext) -> Owner:
        """For a call that belongs to no session; the owner gives it back."""
        try:
            return take_place(self._all_calls, caller_of(context))
        except GatewayError as full:
            raise self._intake.without_place(full, message, context) from None

    async def _named_session(self, http: HttpRequest) -> Session:
        """The session that the headers name. Raises Refusal: 405 where they name none, 404 for an unknown one."""
        named = http.headers.get(SESSION_HEADER)
        if named is None:
            allow = ((b"allow", b"POST"),)
            raise Refusal(405, INVALID_REQUEST, "Use POST here.", headers=allow, reason="method_not_allowed")
        session_id = named.decode("latin-1")
        session = self._sessions.find(session_id, owner_of(http.caller))
        if session is None and self._shared is not None:
            session = await self._session_of_others(session_id, http.context)
        if session is None:
            raise not_found()
        return session


def _too_much(message: Message) -> Refusal:
    return Refusal(200, REFUSED, _TOO_MUCH, request_id=message.id)


def _reply(http: HttpRequest) -> Reply:
    return Reply(http.receive, http.send, http.accept, MessageStream(http.receive, http.send))


def _call_in(session: Session, message: Message, http: HttpRequest, reply: Reply) -> CallContext:
    ask = partial(session.questions.ask, reply.tell) if reply.has_events else None
    return CallContext(message, http.context, reply.tell, ask, lambda: reply.is_unread)
