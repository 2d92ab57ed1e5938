"""A replica's limits on a Valkey, with a clock of a test's own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from mcp_gateway.core.limits.scripts import SCRIPTS
from mcp_gateway.core.limits.shared import LEASE_S, SharedLimiter
from mcp_gateway.core.valkey.client import Valkey
from mcp_gateway.core.valkey_address import valkey_address
from tests.serving import Clock


class Replica:
    """A limiter, its connection, and what goes on beside them."""

    def __init__(self, url: str, clock: Callable[[], float], *, lease_s: float = LEASE_S, answer_s: float = 30) -> None:
        self.valkey = Valkey(valkey_address(url), SCRIPTS, client_name="test", answer_s=answer_s)
        self.limiter = SharedLimiter(self.valkey, clock, guest_addresses_per_minute=1000, now_s=clock, lease_s=lease_s)
        self._changed = asyncio.Event()
        self.limiter.on_change(self._changed.set)

    async def until(self, is_so: Callable[[SharedLimiter], bool]) -> None:
        """Wait until the limiter says so of itself, as it changes."""
        while not is_so(self.limiter):
            self._changed.clear()
            await self._changed.wait()


@asynccontextmanager
async def replica(
    url: str, clock: Callable[[], float] | None = None, *, lease_s: float = LEASE_S, answer_s: float = 30
) -> AsyncIterator[Replica]:
    """Connected, and known to the others. `answer_s` is long, so that no busy machine makes it give up."""
    made = Replica(url, clock or Clock(), lease_s=lease_s, answer_s=answer_s)
    await made.valkey.begin()
    loops = [asyncio.ensure_future(loop()) for loop in (made.limiter.watch, made.valkey.watch)]
    try:
        yield made
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
