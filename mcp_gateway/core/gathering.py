"""What comes in the same turns of the event loop is taken together: what comes alone waits for one turn."""

import asyncio
import time
from collections.abc import Callable, Sized

LONGEST_S = 0.002
MOST = 128


class Gathering:
    """Calls `go` once a turn of the loop brought nothing more to those `waiting`, after 2 ms, or once 128 are there."""

    def __init__(
        self, waiting: Sized, go: Callable[[], None], monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._waiting = waiting
        self._go = go
        self._monotonic_s = monotonic_s
        self._until_s = 0.0

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Gather from now on; once for each call of `go`."""
        self._until_s = self._monotonic_s() + LONGEST_S  # uvloop's own clock stands still within a turn
        loop.call_soon(self._look, loop, len(self._waiting))

    def _look(self, loop: asyncio.AbstractEventLoop, seen: int) -> None:
        waiting = len(self._waiting)
        if seen < waiting < MOST and self._monotonic_s() < self._until_s:
            loop.call_soon(self._look, loop, waiting)
        else:
            self._go()
