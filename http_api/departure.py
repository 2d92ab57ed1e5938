"""Notices that the client is gone, or no longer sends or reads, while it is served; and stops the work then."""

import asyncio
from types import TracebackType

from starlette.types import Message, Receive, Scope, Send

from mcp_gateway.core.context import ABORT


class Departure:
    """A context in which the client's leaving cancels the current task, and is swallowed at the end.

    Leaving is a closed connection, or a client that has not gone on sending or reading for `stall_timeout_s`.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, stall_timeout_s: float) -> None:
        self._abort = scope.get(ABORT)
        self._receive = receive
        self._send = send
        self._stall_timeout_s = stall_timeout_s
        self._waiting_since_s: float | None = None
        self._has_left = False
        self._stall_timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Departure":
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        return self

    async def receive(self) -> Message:
        """Receive a part of the request; a client that lets this wait too long has left."""
        self._begin_waiting()
        message = await self._receive()
        self._waiting_since_s = None
        return message

    def watch(self) -> None:
        """Begin to watch the connection; the request's body must have been read."""
        self._watcher = self._loop.create_task(self._await_disconnect())

    async def send(self, message: Message) -> None:
        """Send a part of the answer; a client that lets this wait too long has left."""
        self._begin_waiting()
        await self._send(message)
        self._waiting_since_s = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._watcher is not None:
            self._watcher.cancel()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        if not self._has_left or not isinstance(error, asyncio.CancelledError):
            return False
        self._task.uncancel()
        if self._abort is not None:
            self._abort()
            await asyncio.sleep(0)  # lets the server notice, so that it does not report an answer cut short
        return True

    def _begin_waiting(self) -> None:
        self._waiting_since_s = self._loop.time()
        if self._stall_timer is None:
            self._stall_timer = self._loop.call_later(self._stall_timeout_s, self._check_stall)

    async def _await_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _check_stall(self) -> None:
        since_s = self._waiting_since_s
        now_s = self._loop.time()
        waited_s = 0.0 if since_s is None else now_s - since_s
        if waited_s >= self._stall_timeout_s:
            self._leave()
        else:
            self._stall_timer = self._loop.call_later(self._stall_timeout_s - waited_s, self._check_stall)

    def _leave(self) -> None:
        if not self._has_left:
            self._has_left = True
            self._task.cancel()
