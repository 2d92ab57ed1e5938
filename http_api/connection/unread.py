"""What a client was sent and does not read: who answers waits for it, its bytes are counted, and it has an end.

Knows a transport whose buffer is full; knows nothing of requests but the reservation that counts what they keep.
"""

import asyncio
from functools import partial

from mcp_gateway.core.bytes_in_flight import Reservation

_UNCOUNTED_BYTES = 64 * 1024
"""So much may always be unread."""


class Unread:
    """Made when a client falls behind, ended when it has caught up or has left."""

    def __init__(self, transport: asyncio.Transport, stall_timeout_s: float, reservation: Reservation | None) -> None:
        self._transport = transport
        self._stall_timeout_s = stall_timeout_s
        self._loop = asyncio.get_running_loop()
        self._reservation: Reservation | None = None
        self._held_bytes = 0  # of it, what no request had counted before
        self._ended = asyncio.Event()
        self._watch()
        if reservation is not None:
            self._count_in(reservation)

    def hold(self, size_bytes: int) -> None:
        """Count what waits as well, and be ended where it is too much."""
        if self._reservation is not None:
            self._held_bytes += size_bytes
            self._reservation.hold(size_bytes, partial(self._loop.call_soon, self._transport.abort))

    async def drained(self) -> None:
        """Wait until what was written has mostly left, or the connection has ended."""
        await self._ended.wait()

    def end(self) -> None:
        self._timer.cancel()
        if self._reservation is not None:
            self._reservation.let_go(self._held_bytes)
        self._ended.set()

    def _count_in(self, reservation: Reservation) -> None:
        """Count what lies beyond the mark, unless the request that it answers keeps as much: it is the same then.

        What has an end of its own already is counted by whoever answers.
        """
        if reservation.end is None:
            self._reservation = reservation
            unread_bytes = self._transport.get_write_buffer_size() - _UNCOUNTED_BYTES
            self.hold(max(0, unread_bytes - reservation.size_bytes))

    def _watch(self) -> None:
        """A client that has read nothing at all for too long has left, whether or not anybody waits for it."""
        unsent_bytes = self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(self._stall_timeout_s, self._look, unsent_bytes)

    def _look(self, unsent_bytes: int) -> None:
        if self._transport.get_write_buffer_size() < unsent_bytes:
            self._watch()
        else:
            self._transport.abort()
