"""Sessions of the revisions that have them: bound to their caller, capped, and ended when idle.

Nothing runs for a session that waits; it is a row in a table. Knows no transport.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

import anyio
from mcp.server.connection import Connection
from mcp.shared.dispatcher import CallOptions, as_request_id, coerce_request_id
from mcp.shared.exceptions import NoBackChannelError
from mcp.types import INVALID_REQUEST, LoggingLevel

from mcp_gateway.core.bytes_in_flight import Reservation
from mcp_gateway.core.caller import Validity
from mcp_gateway.core.errors import TABLE
from mcp_gateway.mcp_door.http import MessageStream, event
from mcp_gateway.mcp_door.jsonrpc import REFUSED, Refusal, RequestId, notification_payload
from mcp_gateway.mcp_door.places import Places
from mcp_gateway.mcp_door.questions import Questions
from mcp_gateway.mcp_door.shares import Caps, FairShares, Full, Owner
from mcp_gateway.wire.whole_answers import retry_after

_MAX_UNREAD = 16
"""Answers that may wait for a client to read on; what it asks further is not begun before."""
_MAX_UNTOLD = 128
"""Notifications that may wait for it; a session hears of no more resources than half of these."""


@dataclass(eq=False, slots=True)
class Session:
    """A client's connection in the protocol's sense; `stream` is where the server speaks unasked.

    What the client has asked for lives here too: the resources it subscribed to (each as the client writes its URI,
    with the one that it is known by), and the log level (None: no log).
    `address` is set where the keys behind an address have a share together. `room` counts the answers that wait for the
    stream. `validity` is that of the credential that it was opened with.
    """

    id: str
    owner: Owner
    connection: Connection
    places: Places
    address: str | None = None
    room: Reservation | None = None
    validity: Validity = field(default_factory=Validity)
    stream: MessageStream | None = None
    last_used_s: float = 0.0
    ends_at_s: float = inf
    """By the same clock: one that other replicas serve, too, lasts only so long."""
    is_ended: bool = False
    subscribed_uris: dict[str, str] = field(default_factory=dict)
    log_level: LoggingLevel | None = None
    questions: Questions = field(default_factory=Questions)
    _calls: dict[anyio.CancelScope, RequestId] = field(default_factory=dict)
    _is_left: bool = False
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _unread: int = 0
    _has_caught_up: asyncio.Event | None = None
    _untold: dict[bytes, None] = field(default_factory=dict)
    _telling: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        return bool(self._calls) or self.stream is not None

    @property
    def is_unread(self) -> bool:
        """Whether what was last written still waits for the client to read on."""
        return self.stream is not None and self.stream.is_unread

    def begin(self, request_id: RequestId) -> anyio.CancelScope:
        """The scope that a call runs in, which `cancel` finds by its id."""
        scope = anyio.CancelScope()
        self._calls[scope] = coerce_request_id(request_id)
        if self._is_left:
            scope.cancel()
        return scope

    def end(self, scope: anyio.CancelScope) -> None:
        del self._calls[scope]

    def cancel(self, params: Mapping[str, Any] | None) -> bool:
        """Cancel the call that a `notifications/cancelled` names; one that has ended is no error. Whether one runs."""
        request_id = as_request_id((params or {}).get("requestId"))
        if request_id is None:
            return False
        named = [scope for scope, begun_id in self._calls.items() if begun_id == coerce_request_id(request_id)]
        for scope in named:  # a client may use an id twice
            scope.cancel()
        return bool(named)

    def cancel_all(self) -> None:
        """Cancel every call, also one that is answered in its own POST or waits for a place: the client has left."""
        self._is_left = True
        for scope in self._calls:
            scope.cancel()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a call whose answer goes to the session's stream; where that has ended meanwhile, it ends at once."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.is_ended:
            task.cancel()
        return task

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Say something unasked; nobody hears it where the client does not listen (the SDK's `Outbound`)."""
        self.mention(notification_payload(method, params))

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

    async def caught_up(self) -> None:
        """Wait until the client has read enough of its answers to be given another."""
        while self._unread >= _MAX_UNREAD:
            self._has_caught_up = self._has_caught_up or asyncio.Event()
            await self._has_caught_up.wait()

    async def give(self, payload: bytes, cut: Callable[[], object]) -> None:
        """Write an answer, which counts as unread until then; `cut` ends the session where too much is unread."""
        self._unread += 1
        if self.room is not None:
            self.room.hold(len(payload), cut)
        try:
            await self.write(payload)
        finally:
            if self.room is not None:
                self.room.shrink(len(payload))
            self._unread -= 1
            if self._unread < _MAX_UNREAD and self._has_caught_up is not None:
                self._has_caught_up.set()
                self._has_caught_up = None

    def mention(self, payload: bytes) -> None:
        """Write a notification when there is room; until then the same one is kept once, and not too many of them."""
        if self.stream is None or not self.stream.is_open or len(self._untold) >= _MAX_UNTOLD:
            return
        self._untold[payload] = None
        if self._telling is None or self._telling.done():
            self._telling = asyncio.ensure_future(self._tell())

    async def _tell(self) -> None:
        while self._untold:
            payload = next(iter(self._untold))
            del self._untold[payload]
            await self.write(payload)

    def cancel_calls(self) -> None:
        """Cancel what was spawned: its answers have no stream to go to."""
        for task in self._tasks:
            task.cancel()

    async def finish_calls(self, timeout_s: float) -> None:
        """Let spawned calls end; those that take longer are cancelled."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        self.cancel_calls()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close_stream(self) -> None:
        if self.stream is not None:
            self.stream.close()
        if self._telling is not None:
            self._telling.cancel()
        self._telling = None
        self._untold.clear()


class Sessions:
    """All sessions of one transport, the longest unused first; `on_end` is told of each that ends."""

    def __init__(
        self,
        caps: Caps,
        *,
        idle_timeout_s: float,
        monotonic_s: Callable[[], float],
        on_end: Callable[[Session], None] = lambda _: None,
    ) -> None:
        self._idle_timeout_s = idle_timeout_s
        self._monotonic_s = monotonic_s
        self._on_end = on_end
        self._by_id: OrderedDict[str, Session] = OrderedDict()
        self._shares: FairShares[Session] = FairShares(caps, self.remove)

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, session: Session) -> None:
        """Register a session; at a cap another makes room. Raises Refusal (503) where none can."""
        try:
            self._shares.add(session)
        except Full:
            wait = retry_after(TABLE["overloaded"].retry_after_s)
            raise Refusal(503, REFUSED, "Too many sessions are open.", headers=wait, reason="overloaded") from None
        self._by_id[session.id] = session
        session.last_used_s = self._monotonic_s()

    def find(self, session_id: str, owner: Owner) -> Session | None:
        """The caller's session of that id; None for another caller's, too."""
        session = self._by_id.get(session_id)
        if session is None or session.owner != owner:
            return None
        if session.ends_at_s <= self._monotonic_s():
            self.remove(session)
            return None
        self.touch(session)
        return session

    def named(self, session_id: str) -> Session | None:
        """Whoever's it is."""
        return self._by_id.get(session_id)

    def touch(self, session: Session) -> None:
        """Count as used now."""
        if session.id in self._by_id:
            session.last_used_s = self._monotonic_s()
            self._by_id.move_to_end(session.id)
            self._shares.touch(session)

    def remove(self, session: Session) -> None:
        """Forget a session and close its stream; what is answered elsewhere goes on."""
        if self._by_id.pop(session.id, None) is not None:
            self._shares.discard(session)
            self._on_end(session)
        session.is_ended = True
        session.questions.close()
        session.cancel_calls()
        session.close_stream()

    def remove_key(self, key_id: str) -> None:
        for session in [session for session in self._by_id.values() if session.owner[1] == key_id]:
            self.remove(session)

    def remove_secret(self, key_id: str) -> None:
        """Those of a key that were opened with a secret which is not valid any more."""
        of_key = [session for session in self._by_id.values() if session.owner[1] == key_id]
        for session in of_key:
            if session.validity.ended_by is not None:
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


def not_found() -> Refusal:
    """There is no such session of the caller's."""
    return Refusal(404, INVALID_REQUEST, "Session not found: initialize a new one.", reason="session_not_found")
