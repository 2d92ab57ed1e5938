"""How long a client may keep a connection of which nothing is asked, or that was refused.

Knows when the connection was last of use; is told whether it is now, and knows nothing of requests.
"""

import asyncio
from collections.abc import Callable

KEEP_ALIVE_S = 75.0
"""How long a connection may stay without a whole request's head, the first as well as any later one."""
_LINGER_S = 2.0
"""How long a client that was refused may take to read that and close."""


class IdleClock:
    """One timer, however many requests there are: it looks at its end what `since_s` has become."""

    def __init__(self, transport: asyncio.Transport, is_busy: Callable[[], bool]) -> None:
        self._transport = transport
        self._is_busy = is_busy
        self._loop = asyncio.get_running_loop()
        self.since_s = self._loop.time()
        self._timer = self._loop.call_later(KEEP_ALIVE_S, self._check)

    def linger(self) -> None:
        """End the connection in a moment, whatever comes."""
        self._timer.cancel()
        self._timer = self._loop.call_later(_LINGER_S, self._transport.abort)

    def stop(self) -> None:
        """For good; whom it asks is let go, who refers back to it."""
        self._timer.cancel()
        del self._is_busy

    def _check(self) -> None:
        idle_s = 0.0 if self._is_busy() else self._loop.time() - self.since_s
        if idle_s < KEEP_ALIVE_S:
            self._timer = self._loop.call_later(KEEP_ALIVE_S - idle_s, self._check)
        elif self._transport.get_write_buffer_size():
            self._transport.abort()  # closed, it would wait for a client that does not read
        else:
            self._transport.close()
