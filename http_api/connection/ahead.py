"""The requests of one connection that wait for the answers before theirs: how many, and how much of their bodies.

Knows nothing of where they come from, nor of who answers them.
"""

from collections import deque

from starlette.types import Scope

from http_api.connection.http_exchange import HttpExchange

MOST = 16
_MOST_BYTES = 64 * 1024
"""Of bodies that wait for their turn; while there are more, no more is parsed."""


class Ahead(deque[tuple[HttpExchange, Scope]]):
    """The first of them is the next to be answered; whether there is any, a deque tells without a call."""

    body_bytes = 0

    @property
    def is_full(self) -> bool:
        return len(self) >= MOST or self.body_bytes > _MOST_BYTES

    def note_body(self, exchange: HttpExchange, size_bytes: int) -> None:
        """Count what has come of a body, where its request is one of these: it is the last then."""
        if exchange is self[-1][0]:
            self.body_bytes += size_bytes

    def take(self) -> tuple[HttpExchange, Scope]:
        """The next, which waits no longer."""
        taken = self.popleft()
        if self.body_bytes:
            self.body_bytes = sum(waiting.waiting_bytes for waiting, _ in self)
        return taken
