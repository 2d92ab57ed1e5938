"""The one wait for what a connection brings: how long it may last, and what ends it.

Knows clocks and the task that waits; knows nothing of sockets or of HTTP.
"""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Protocol

from mcp_gateway.core.upstream.transport.bounds import Timeouts
from mcp_gateway.core.upstream.transport.errors import TimedOut, UpstreamError, Wait


class Patience(Protocol):
    """How long a request waits while nothing comes, in place of the first-token and idle limits.

    `look` is asked after each `look_s` of silence, and then as often as it says.
    """

    look_s: float

    def look(self, silent_s: float) -> float: ...


class BoundedWait:
    """Of one connection, for one exchange after another; once it has ended, its `error` is what each wait raises.

    What is left of the times is counted in the waits alone. `give_up` ends the connection, and so this.
    """

    __slots__ = (
        "_deadline",
        "_give_up",
        "_idle_s",
        "_loop",
        "_patience",
        "_step",
        "_timer",
        "_timer_at",
        "_waiter",
        "budget_left_s",
        "error",
        "is_stream",
        "step_left_s",
    )

    def __init__(self, give_up: Callable[[UpstreamError], None]) -> None:
        self.error: UpstreamError | None = None
        self._give_up = give_up
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._deadline = 0.0

    def begin(self, timeouts: Timeouts, is_stream: bool, patience: Patience | None) -> None:
        """Wind the clocks for an exchange."""
        self.is_stream = is_stream
        self._step: Wait = "first_token"
        self._patience = patience
        if patience is None:
            self.step_left_s = timeouts.first_token_s if is_stream else inf
            self._idle_s = timeouts.idle_s
        else:
            self.step_left_s = self._idle_s = patience.look_s
        self.budget_left_s = timeouts.total_s if is_stream else timeouts.unary_s

    def go_on_from(self, other: "BoundedWait") -> None:
        """With what the first attempt at the same exchange has left."""
        self.step_left_s, self.budget_left_s = other.step_left_s, other.budget_left_s

    def begin_next(self) -> None:
        """A piece of a stream has come: from here on what counts is the time between two."""
        self._step = "idle"
        self.step_left_s = self._idle_s

    async def wait(self) -> None:
        """Wait until something happens, at most as long as the clocks allow; raises the connection's error."""
        if self.error is not None:
            raise self.error.anew()
        began_at = self._loop.time()
        left_s = self.step_left_s if self.step_left_s < self.budget_left_s else self.budget_left_s
        self._deadline = began_at + left_s
        if self._timer is None or self._timer_at > self._deadline:
            self._wind_timer()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        waited_s = self._loop.time() - began_at
        self.step_left_s -= waited_s
        self.budget_left_s -= waited_s

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def end(self, error: UpstreamError) -> None:
        """For good; whom it would have given up to is let go, who refers back to it."""
        self.error = error
        del self._give_up
        if self._timer is not None:
            self._timer.cancel()
        self.wake()

    def _wind_timer(self) -> None:
        """Have a timer at the deadline; where an earlier wait left one that ends sooner, that one winds it again."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._deadline
        self._timer = self._loop.call_at(self._deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() < self._deadline:
            self._wind_timer()
            return
        if self.step_left_s >= self.budget_left_s:
            self._give_up(TimedOut("total" if self.is_stream else "unary"))
        elif self._patience is None:
            self._give_up(TimedOut(self._step))
        else:
            self._look(self._patience)

    def _look(self, patience: Patience) -> None:
        """Ask whether to wait on. The wait under way began `step_left_s` before its deadline; only its end moves."""
        began_at = self._deadline - self.step_left_s
        try:
            self.step_left_s += patience.look(self._loop.time() - began_at)
        except UpstreamError as error:
            self._give_up(error)
        else:
            self._deadline = began_at + min(self.step_left_s, self.budget_left_s)
            self._wind_timer()
