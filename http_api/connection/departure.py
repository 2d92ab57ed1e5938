"""Whether a client is still there while nothing is read of it: the event loop does not tell, Linux does when asked.

Knows a socket; knows nothing of why it is not read.
"""

import asyncio
import select

_LOOK_S = 1.0
"""How often a connection that is not read is looked at."""
_PEER_CLOSED: int = getattr(select, "POLLRDHUP", 0)
"""0 where the system cannot tell: a client's leaving is then noticed by what is written to it."""


class DepartureWatch:
    """Made when a connection is read no longer, stopped when it is again; hangs up on a client that has left."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        if _PEER_CLOSED:
            self._wind()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _wind(self) -> None:
        self._timer = self._loop.call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        if self._transport.is_closing():
            return
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), _PEER_CLOSED)
        if poll.poll(0):
            self._transport.abort()
        else:
            self._wind()
