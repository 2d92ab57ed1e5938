"""What one answer keeps in memory, counted in the budget of the whole process."""

from math import ceil

from mcp_gateway.core.blame import AnswerTooLarge
from mcp_gateway.core.bytes_in_flight import SMALL_BYTES, STEP_BYTES
from mcp_gateway.core.context import RequestContext


class Kept:
    """Takes room in steps, and gives it back whole; without a context nothing is counted."""

    __slots__ = ("_context", "_size_bytes", "most_bytes")

    def __init__(self, context: RequestContext | None, most_bytes: int) -> None:
        self._context = context
        self.most_bytes = most_bytes
        self._size_bytes = 0

    async def have(self, size_bytes: int) -> None:
        """Have room for so many bytes in all.

        Raises GatewayError: `overloaded`, or AnswerTooLarge for more than an answer may have that is held whole.
        """
        if size_bytes <= max(self._size_bytes, SMALL_BYTES) or self._context is None:
            return
        if size_bytes > self.most_bytes:
            raise AnswerTooLarge
        wanted_bytes = ceil(size_bytes / STEP_BYTES) * STEP_BYTES
        await self._context.reservation.grow(wanted_bytes - self._size_bytes)
        self._size_bytes = wanted_bytes

    def nothing(self) -> None:
        """Give all of it back."""
        if self._size_bytes and self._context is not None:
            self._context.reservation.shrink(self._size_bytes)
            self._size_bytes = 0
