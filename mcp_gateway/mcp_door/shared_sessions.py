"""Sessions that every replica serves: found by their ids, what their clients have set known to all, ended for all.

    opened at one --> found by its id at any other --> ended by its client, or over: nowhere served any more

An HTTP+SSE session is its stream's replica's alone: what comes for it elsewhere is passed on there, whole, and answered
as if it had come there.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

import orjson
from mcp.types import INVALID_REQUEST
from starlette.types import ASGIApp, Scope
from starlette.types import Message as AsgiMessage

from mcp_gateway.core.replicas import Replicas, ReplicasAway
from mcp_gateway.mcp_door.http import HttpRequest, send_payload
from mcp_gateway.mcp_door.jsonrpc import REFUSED, Message, Refusal
from mcp_gateway.mcp_door.session_ids import SessionFacts, SessionIds
from mcp_gateway.mcp_door.sessions import Session, not_found
from mcp_gateway.mcp_door.shares import Owner, owner_of
from mcp_gateway.wire.whole_answers import retry_after

logger = logging.getLogger(__name__)

MOST_PASSED_BYTES = 1024 * 1024
"""Of a message that is passed on."""
_MOST_ANSWER_BYTES = 64 * 1024
"""Of the answer to a question that another replica has asked."""
_ENDED = "ended"
_AWAY = "What connects the replicas of this gateway is away: try again shortly."
_PASSED_HEADERS = frozenset({b"retry-after", b"www-authenticate"})
Noted = Mapping[str, str | None]
"""What a session's client has set, by name; None for what it has taken back."""


class SharedSessions:
    """`find` looks a session up that this replica has, by its id; `take_up` gives one what its client has set."""

    def __init__(
        self,
        replicas: Replicas,
        now_s: Callable[[], float],
        *,
        find: Callable[[str], Session | None],
        take_up: Callable[[Session, Noted], None],
        end: Callable[[Session], None],
    ) -> None:
        self._replicas = replicas
        self.ids = SessionIds(replicas.derived(b"mcp sessions"), replicas.own_name, now_s)
        self._find = find
        self._take_up = take_up
        self._end = end
        self._app: ASGIApp | None = None
        replicas.hear(self._hear, self._answer)

    @property
    def own_name(self) -> str:
        return self._replicas.own_name

    def answer_by(self, app: ASGIApp) -> None:
        """Have what other replicas pass on answered by the whole gateway, which knows who sends it."""
        self._app = app

    # Sessions that any replica serves

    async def opened_elsewhere(self, session_id: str, owner: Owner) -> tuple[SessionFacts, Noted] | None:
        """What is known of an owner's session by its id, and by what was noted of it; None where there is none.

        While the replicas are not connected, the id alone says so.
        """
        facts = self.ids.read(session_id, owner)
        if facts is None:
            return None
        try:
            noted = await self._replicas.noted(_name_of(session_id))
        except ReplicasAway:
            noted = {}
        return None if _ENDED in noted else (facts, noted)

    async def note(self, session: Session, changed: Noted) -> None:
        """Have all replicas know what a session's client has set. Raises Refusal (503)."""
        await self._note(session, changed)
        self._tell(session, "noted", changed)

    async def end(self, session: Session) -> None:
        """Have no replica serve it any more. Raises Refusal (503)."""
        await self._note(session, {_ENDED: "1"})
        self._tell(session, _ENDED, None)

    def listens(self, session: Session) -> None:
        """Its client listens here, and nowhere else."""
        self._tell(session, "listens", None)

    def cancel(self, session: Session, params: Mapping[str, Any] | None) -> None:
        """Cancel a call that may run elsewhere."""
        self._tell(session, "cancelled", {"requestId": (params or {}).get("requestId")})

    def pass_answer(self, session: Session, message: Message) -> None:
        """Hand an answer to whichever replica has asked."""
        told = {"id": message.id, "result": message.result, "error": message.error}
        if isinstance(message.id, str) and len(orjson.dumps(told)) <= _MOST_ANSWER_BYTES:
            self._tell(session, "answered", told)

    async def _note(self, session: Session, changed: Noted) -> None:
        lasts_s = self.ids.lasts_s(session.id, session.owner)
        try:
            await self._replicas.note(_name_of(session.id), changed, lasts_s)
        except ReplicasAway:
            raise _away() from None

    def _tell(self, session: Session, kind: str, value: Any) -> None:
        self._replicas.tell_all(orjson.dumps([session.id, kind, value]))

    def _hear(self, text: bytes) -> None:
        session_id, kind, value = orjson.loads(text)
        session = self._find(session_id)
        if session is None:
            return
        if kind == "noted":
            self._take_up(session, value)
        elif kind == _ENDED:
            self._end(session)
        elif kind == "listens":
            session.close_stream()
        elif kind == "cancelled":
            session.cancel(value)
        elif kind == "answered":
            session.questions.take(Message(value["id"], None, None, value["result"], value["error"]))

    # Messages for a stream elsewhere

    def replica_of(self, session_id: str, http: HttpRequest) -> str:
        """Which other replica has the caller's stream of that id. Raises Refusal (404)."""
        facts = self.ids.read(session_id, owner_of(http.caller))
        if facts is None or facts.opened_by == self.own_name:
            raise not_found()
        return facts.opened_by

    async def pass_on(self, http: HttpRequest, body: bytes, replica: str) -> None:
        """Have a message answered by the replica that has its stream. Raises Refusal."""
        scope = http.scope
        facts = {
            "path": scope["path"],
            "query": scope["query_string"].decode("latin-1"),
            "client": scope.get("client"),
            "scheme": scope.get("scheme", "http"),
            "headers": [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]],
        }
        try:
            said = await self._replicas.ask(replica, orjson.dumps(facts) + b"\n" + body)
        except ReplicasAway:
            raise _away() from None
        if said is None:
            raise not_found()
        head, _, payload = said.partition(b"\n")
        status, headers = orjson.loads(head)
        told = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        await send_payload(http.send, payload, status, told)

    async def _answer(self, text: bytes) -> bytes:
        """Of the whole gateway, as if the message had come here."""
        assert self._app is not None
        head, _, body = text.partition(b"\n")
        exchange = _Exchange(orjson.loads(head), body)
        await self._app(exchange.scope, exchange.receive, exchange.send)
        return exchange.said()


class _Exchange:
    """One message that was passed on, as an ASGI request, and its answer."""

    def __init__(self, facts: Mapping[str, Any], body: bytes) -> None:
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in facts["headers"]]
        self.scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": facts["scheme"],
            "path": facts["path"],
            "raw_path": facts["path"].encode(),
            "query_string": facts["query"].encode("latin-1"),
            "root_path": "",
            "headers": headers,
            "client": tuple(facts["client"]) if facts["client"] else None,
            "server": None,
        }
        self._body: bytes | None = body
        self._status = 503
        self._headers: list[tuple[str, str]] = []
        self._answer = b""

    async def receive(self) -> AsgiMessage:
        body, self._body = self._body, None
        if body is None:
            await asyncio.Event().wait()  # who has sent it stays until it is answered
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: AsgiMessage) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            told = cast("list[tuple[bytes, bytes]]", message["headers"])
            self._headers = [
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in told
                if name.lower() in _PASSED_HEADERS
            ]
        else:
            self._answer += message.get("body", b"")

    def said(self) -> bytes:
        return orjson.dumps([self._status, self._headers]) + b"\n" + self._answer


def _away() -> Refusal:
    return Refusal(503, REFUSED, _AWAY, headers=retry_after(1), reason="overloaded")


def too_large_to_pass() -> Refusal:
    text = f"Only the replica that has this session's stream takes more than {MOST_PASSED_BYTES} bytes at once."
    return Refusal(413, INVALID_REQUEST, text, reason="body_too_large")


def _name_of(session_id: str) -> str:
    """What stands for the id where others may look, since it is half a credential."""
    return f"s:{hashlib.sha256(session_id.encode()).hexdigest()[:32]}"
