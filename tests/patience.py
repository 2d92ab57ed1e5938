"""How long tests wait for what has to happen: longer than it takes on the busiest machine."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE_S = 120.0
_LOOK_S = 0.001


async def eventually(condition: Callable[[], object]) -> None:
    """Wait for what happens beyond a socket, in a thread or in another process, where no event can be had."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(_LOOK_S)


async def becomes(ask: Callable[[], Awaitable[T]], is_so: Callable[[T], object]) -> T:
    """The first answer that is so, where one has to ask."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_so(answer := await ask()):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(_LOOK_S)
    return answer


def poll(condition: Callable[[], object]) -> None:
    """The same where there is no event loop."""
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(_LOOK_S)


async def settled() -> None:
    """Once all is done that is due by now: timers that ran out, what they woke, and what has arrived by sockets."""
    await asyncio.sleep(_LOOK_S)
