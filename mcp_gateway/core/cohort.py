"""Requests that come together go on together, so that the same code runs for one after the other while it is warm.

With many connections a request takes less time this way, though no instruction less: docs/performance.md.
"""

import asyncio
import time
from collections.abc import Callable

from mcp_gateway.core.gathering import Gathering


class Cohort:
    """Those who wait until a turn of the event loop brings nobody more."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._waiting: list[asyncio.Future[None]] = []
        self._gathering = Gathering(self._waiting, self._go_on, monotonic_s)

    def join(self) -> asyncio.Future[None]:
        """Done with all who join it meanwhile: after a turn that brought nobody, after 2 ms, or once 128 are there."""
        loop = asyncio.get_running_loop()
        joined = loop.create_future()
        self._waiting.append(joined)
        if len(self._waiting) == 1:
            self._gathering.begin(loop)
        return joined

    def _go_on(self) -> None:
        gathered = tuple(self._waiting)
        self._waiting.clear()
        for joined in gathered:
            if not joined.done():  # else who waited has left
                joined.set_result(None)
