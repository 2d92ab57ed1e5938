"""How many calls may be unfinished at once: of a session as many as its caller may have in flight, of a caller, in all.

A call is unfinished until its answer has left. Knows no transport.
"""

import asyncio
from collections.abc import Awaitable

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.errors import Code, GatewayError
from mcp_gateway.mcp_door.shares import Full, Owner, Tally, owner_of

PATIENCE_S = 2.0
"""How long a call waits for its place; less than what clients wait for the answer to a POST."""


class Places:
    """The places of one session's calls, of which each takes one of its caller's too."""

    __slots__ = ("_all", "_freed", "taken")

    def __init__(self, all_calls: Tally) -> None:
        self._all = all_calls
        self._freed: asyncio.Event | None = None
        self.taken = 0

    async def take(self, caller: Caller) -> None:
        """Take a place, once there is one. Raises GatewayError (429) where that takes too long."""
        most = caller.allowance.in_flight
        if most is not None and self.taken >= most:
            await in_good_time(self._below(most), caller, f"{most} calls of this session are")
        take_place(self._all, caller)
        self.taken += 1

    async def _below(self, most: int) -> None:
        while self.taken >= most:
            self._freed = self._freed or asyncio.Event()
            await self._freed.wait()

    def give_back(self, caller: Caller) -> None:
        self._all.give_back(owner_of(caller))
        self.taken -= 1
        if self._freed is not None:
            self._freed.set()
            self._freed = None


async def in_good_time(waiting: Awaitable[None], caller: Caller, what: str) -> None:
    """Wait for what a call needs before it is begun. Raises GatewayError (429) where that takes too long."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            await waiting
    except TimeoutError:
        raise _no_place(caller, what) from None


def take_place(all_calls: Tally, caller: Caller) -> Owner:
    """Take a place for a call, and tell whose it is. Raises GatewayError (429) where its caller has too many."""
    owner = owner_of(caller)
    try:
        all_calls.take(owner)
    except Full:
        raise _no_place(caller, "Too many calls are") from None
    return owner


def _no_place(caller: Caller, what: str) -> GatewayError:
    code: Code = "guest" if caller.is_guest else "in_flight"
    return GatewayError(code, f"{what} not finished; wait until one has ended.", retry_after_s=1)
