"""How long futures are waited for: one timer for all of them, since one for each would cost more than it guards."""

import asyncio
from typing import Any


class TooLong(Exception):
    """What was waited for has not come in time; it may come yet."""


class WaitLimit:
    """Ends the wait for a future after `limit_s`, by raising TooLong to whoever waits."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._since_s: dict[asyncio.Future[Any], float] = {}  # the longest first
        self._timer: asyncio.TimerHandle | None = None

    async def wait_for(self, future: "asyncio.Future[Any]") -> Any:
        """The future's result. Raises TooLong, or what the future raises."""
        loop = future.get_loop()
        self._since_s[future] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self.limit_s, self._look, loop)
        try:
            return await future
        finally:
            del self._since_s[future]

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """End what has waited too long, and come back for the next; while nothing is waited for, no timer runs."""
        self._timer = None
        now_s = loop.time()
        for future, since_s in self._since_s.items():
            left_s = since_s + self.limit_s - now_s
            if left_s > 0:
                self._timer = loop.call_later(left_s, self._look, loop)
                return
            if not future.done():
                future.set_exception(TooLong())
