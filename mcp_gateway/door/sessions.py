"""Sessions of the revisions that have them: bound to their caller, capped, and ended when idle.

Nothing runs for a session that waits; it is a row in a table. Knows no transport.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
from mcp.server.connection import Connection
from mcp.shared.dispatcher import CallOptions, as_request_id, coerce_request_id
from mcp.shared.exceptions import NoBackChannelError
from mcp.types import INVALID_REQUEST, LoggingLevel

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.config import McpSettings
from mcp_gateway.door.http import EventStream, event
from mcp_gateway.door.jsonrpc import Refusal, RequestId, notification_payload
from mcp_gateway.door.questions import Questions

_TOO_MANY_SESSIONS = -32000

Owner = tuple[str, str | None, str]


def owner_of(caller: Caller) -> Owner:
    """Whom a session belongs to: an account's key, or a guest's address."""
    return caller.account_id, caller.key_id, caller.subject


@dataclass(frozen=True, slots=True)
class Caps:
    """How many of something there may be at once: in all, of one key, of one guest's address."""

    total: int
    per_key: int
    per_guest_address: int

    @classmethod
    def of_sessions(cls, settings: McpSettings) -> "Caps":
        return cls(settings.max_sessions, settings.max_sessions_per_caller, settings.max_sessions_per_guest_address)

    def of(self, owner: Owner) -> int:
        return self.per_guest_address if owner[1] is None else self.per_key


@dataclass(eq=False, slots=True)
class Session:
    """A client's connection in the protocol's sense; `stream` is where the server speaks unasked.

    What the client has asked for lives here too: the resources it subscribed to, and the log level (None: no log).
    """

    id: str
    owner: Owner
    connection: Connection
    stream: EventStream | None = None
    last_used_s: float = 0.0
    subscribed_uris: set[str] = field(default_factory=set)
    log_level: LoggingLevel | None = None
    questions: Questions = field(default_factory=Questions)
    _calls: dict[RequestId, anyio.CancelScope] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def is_busy(self) -> bool:
        return bool(self._calls) or self.stream is not None

    def begin(self, request_id: RequestId) -> anyio.CancelScope:
        """The scope that a call runs in, which `cancel` finds by its id."""
        scope = self._calls[coerce_request_id(request_id)] = anyio.CancelScope()
        return scope

    def end(self, request_id: RequestId, scope: anyio.CancelScope) -> None:
        if self._calls.get(coerce_request_id(request_id)) is scope:  # a client may use an id twice
            del self._calls[coerce_request_id(request_id)]

    def cancel(self, params: dict[str, Any] | None) -> None:
        """Cancel the call that a `notifications/cancelled` names; one that has ended is no error."""
        request_id = as_request_id((params or {}).get("requestId"))
        if request_id is not None and (scope := self._calls.get(coerce_request_id(request_id))) is not None:
            scope.cancel()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a call whose answer goes to the session's stream."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Say something unasked; nobody hears it where the client does not listen (the SDK's `Outbound`)."""
        await self.write(notification_payload(method, params))

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Ask the client on its stream. Raises NoBackChannelError where it does not listen."""
        if self.stream is None:
            raise NoBackChannelError(method)
        return await self.questions.ask(self.write, method, params, (opts or {}).get("timeout"))

    async def write(self, payload: bytes) -> None:
        """Write a message to the stream, once that has begun."""
        if self.stream is not None and self.stream.is_open:
            await self.stream.write(event(payload))

    async def finish_calls(self, timeout_s: float) -> None:
        """Let spawned calls end; those that take longer are cancelled."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close_stream(self) -> None:
        if self.stream is not None:
            self.stream.close()


class Sessions:
    """All sessions of one transport, the longest unused first."""

    def __init__(self, caps: Caps, *, idle_timeout_s: float, monotonic_s: Callable[[], float]) -> None:
        self._caps = caps
        self._idle_timeout_s = idle_timeout_s
        self._monotonic_s = monotonic_s
        self._by_id: OrderedDict[str, Session] = OrderedDict()
        self._by_owner: dict[Owner, OrderedDict[str, Session]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, session: Session) -> None:
        """Register a session; at a cap the idlest makes room. Raises Refusal (503) where none is idle."""
        if len(self._by_owner.get(session.owner, ())) >= self._caps.of(session.owner):
            self._evict(self._by_owner[session.owner])
        elif len(self._by_id) >= self._caps.total:
            self._evict(self._by_id)
        self._by_owner.setdefault(session.owner, OrderedDict())[session.id] = session
        self._by_id[session.id] = session
        self.touch(session)

    def find(self, session_id: str, owner: Owner) -> Session:
        """The caller's session of that id. Raises Refusal (404), also for another caller's."""
        session = self._by_id.get(session_id)
        if session is None or session.owner != owner:
            raise Refusal(404, INVALID_REQUEST, "Session not found: initialize a new one.")
        self.touch(session)
        return session

    def touch(self, session: Session) -> None:
        """Count as used now."""
        if session.id in self._by_id:
            session.last_used_s = self._monotonic_s()
            self._by_id.move_to_end(session.id)
            self._by_owner[session.owner].move_to_end(session.id)

    def remove(self, session: Session) -> None:
        """Forget a session and close its stream; what it still answers goes on."""
        if self._by_id.pop(session.id, None) is not None:
            owned = self._by_owner[session.owner]
            del owned[session.id]
            if not owned:
                del self._by_owner[session.owner]
        session.questions.close()
        session.close_stream()

    def remove_key(self, key_id: str) -> None:
        for session in [session for session in self._by_id.values() if session.owner[1] == key_id]:
            self.remove(session)

    def expire(self) -> None:
        """Remove what was idle for too long."""
        limit_s = self._monotonic_s() - self._idle_timeout_s
        for session in list(self._by_id.values()):
            if session.last_used_s > limit_s:
                return
            if session.is_busy:
                self.touch(session)
            else:
                self.remove(session)

    def all(self) -> list[Session]:
        return list(self._by_id.values())

    def _evict(self, sessions: OrderedDict[str, Session]) -> None:
        idlest = next((session for session in sessions.values() if not session.is_busy), None)
        if idlest is None:
            raise Refusal(503, _TOO_MANY_SESSIONS, "Too many sessions are open.", headers=((b"retry-after", b"5"),))
        self.remove(idlest)
