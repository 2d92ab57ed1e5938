"""HTTP+SSE (2024-11-05): a stream that a session lives as long as, and POSTs whose answers go there.

Several SDKs send nothing more once a POST has failed, so what a client that reads is refused, it is told on the stream.
"""

from collections.abc import Callable
from functools import partial
from urllib.parse import parse_qs

from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.mcp_door.calls import CallContext, Tell, caller_of
from mcp_gateway.mcp_door.eras import check_batch
from mcp_gateway.mcp_door.http import HttpRequest, MessageStream, event, send_payload
from mcp_gateway.mcp_door.intake import Intake
from mcp_gateway.mcp_door.jsonrpc import Message, Refusal
from mcp_gateway.mcp_door.listings import Listings, refusing
from mcp_gateway.mcp_door.opening import LISTEN
from mcp_gateway.mcp_door.places import in_good_time
from mcp_gateway.mcp_door.runners import Runners, has_envelope
from mcp_gateway.mcp_door.sessions import Session, Sessions, not_found
from mcp_gateway.mcp_door.shared_sessions import MOST_PASSED_BYTES, SharedSessions, too_large_to_pass
from mcp_gateway.mcp_door.shares import owner_of

_IN_ORDER = frozenset({"initialize", "ping"})
"""Answered before their POST is, and so before the next message of a client that waits for that."""


class HttpSseEndpoints:
    """The two endpoints, once the caller may come in."""

    def __init__(
        self,
        sessions: Sessions,
        new_session: Callable[[RequestContext], Session],
        runners: Runners,
        intake: Intake,
        listings: Listings,
        shared: SharedSessions | None,
    ) -> None:
        self._shared = shared
        self._sessions = sessions
        self._new_session = new_session
        self._runners = runners
        self._intake = intake
        self._listings = listings

    async def stream(self, http: HttpRequest) -> None:
        """Open a session and serve its stream. Raises Refusal before that has begun."""
        await self._listings.count(http.caller)
        session = self._new_session(http.context)
        if self._shared is not None:
            session.id = self._shared.ids.make(session.owner, session.connection)
        endpoint = event(_endpoint(http, session.id), b"endpoint")
        stream = session.stream = MessageStream(http.receive, http.send)
        self._sessions.add(session)
        http.forget_request()
        session.room = http.context.reservation
        try:
            await stream.serve(endpoint)
        finally:
            self._sessions.remove(session)
            await session.finish_calls(0)

    async def message(self, http: HttpRequest) -> None:
        """Take a message. Raises Refusal."""
        session_id = parse_qs(http.scope["query_string"].decode("latin-1")).get("session_id", [""])[0]
        session = self._sessions.find(session_id, owner_of(http.caller))
        if session is None:
            return await self._pass_on(session_id, http)
        read = await self._intake.read(http)
        if isinstance(read, list):
            check_batch(read, session.connection.protocol_version)
        for message in read if isinstance(read, list) else [read]:
            await self._take_or_tell(session, message, http.context)
        return await send_payload(http.send, b"", 202)

    async def _pass_on(self, session_id: str, http: HttpRequest) -> None:
        """To the replica that has its stream, where another has."""
        if self._shared is None:
            raise not_found()
        replica = self._shared.replica_of(session_id, http)
        body = await self._intake.read_to_pass_on(http, MOST_PASSED_BYTES, too_large_to_pass)
        await self._shared.pass_on(http, body, replica)

    async def _take_or_tell(self, session: Session, message: Message, context: RequestContext) -> None:
        try:
            await self._take(session, message, context)
        except Refusal as refusal:
            if not message.is_request or session.is_unread or session.is_ended:
                # a name would hold this frame, and so itself
                raise await self._counted(refusal, message, context) from None
            await session.write(await self._told(refusal, message, context))

    async def _counted(self, refusal: Refusal, message: Message, context: RequestContext) -> Refusal:
        return await self._listings.counted(refusal, message, caller_of(context), in_session=True)

    async def _told(self, refusal: Refusal, message: Message, context: RequestContext) -> bytes:
        return self._intake.told(await self._counted(refusal, message, context), context)

    async def _take(self, session: Session, message: Message, context: RequestContext) -> None:
        """Begin with a message, once there is a place for it; those of _IN_ORDER need none, nor does what listens."""
        await self._intake.admit(message, caller_of(context), in_session=True)
        if not message.is_request:
            await self._intake.note(session, message, context)
        elif message.method in _IN_ORDER:
            await self._answer(session, message, context)
        elif message.method == LISTEN:
            await self._begin_to_listen(session, message, context)
        else:
            await self._begin(session, message, context)

    async def _begin_to_listen(self, session: Session, message: Message, context: RequestContext) -> None:
        """What listens stays as long as it likes, within a cap of its own; so it is begun only where it is heard."""
        if session.stream is not None:
            with refusing(message.id):
                await in_good_time(session.stream.caught_up(), caller_of(context), "Answers of this session are")
        session.spawn(self._answer(session, message, _without_head(context)))

    async def _begin(self, session: Session, message: Message, context: RequestContext) -> None:
        caller = caller_of(context)
        try:
            await session.places.take(caller)
        except GatewayError as full:
            raise self._intake.without_place(full, message, context) from None
        later, kept_bytes = _without_head(context), context.kept_bytes
        context.release()
        later.reservation.hold(kept_bytes, lambda: self._sessions.remove(session))

        def end(_: object) -> None:
            later.release()
            session.places.give_back(caller)

        session.spawn(self._answer(session, message, later)).add_done_callback(end)  # also of one that never began

    async def _answer(self, session: Session, message: Message, context: RequestContext) -> None:
        assert message.id is not None
        cancel = session.begin(message.id)
        try:
            with cancel:
                await session.caught_up()
                payload = await self._answer_by_era(session, message, context)
                await session.give(payload, lambda: self._sessions.remove(session))
        finally:
            session.end(cancel)

    async def _answer_by_era(self, session: Session, message: Message, context: RequestContext) -> bytes:
        is_modern = has_envelope(message) and message.method != "initialize"
        tell: Tell = session.write
        ask = None if is_modern else partial(session.questions.ask, tell)
        call = CallContext(message, context, tell, ask, lambda: session.is_unread)
        try:
            runner = self._runners.modern(None, message) if is_modern else self._runners.of_session(session)
            return (await self._intake.answer(runner, message, call, caller_of(context)))[0]
        except Refusal as refusal:
            return await self._told(refusal, message, context)


def _endpoint(http: HttpRequest, session_id: str) -> bytes:
    """Where messages go, relative to the stream's own address, before which a proxy may have put a prefix.

    What reads event streams resolves it, and asks for such a stream by name; who does not is told a whole path to copy.
    """
    folder = http.scope["path"].removesuffix("/").removesuffix("sse")
    if b"text/event-stream" in http.accept_header.lower():
        folder = "../" if http.scope["path"].endswith("/") else ""
    return f"{folder}messages/?session_id={session_id}".encode()


def _without_head(context: RequestContext) -> RequestContext:
    """What is known of a POST that is over before what it asked for; what that keeps is counted anew."""
    return RequestContext(context.request_id, context.client_request_id, context.address, context.room, context.caller)
