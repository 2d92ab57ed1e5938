"""The background loops by name: started together, kept going, and known to have ended where one has.

A loop that fails says so in the log and is entered again after a rest: a single odd answer must not end discovery for
good. Knows nothing of what the loops do.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from mcp_gateway.core.errors import outline

logger = logging.getLogger(__name__)

_REST_S = 1.0
"""Between a failure and the next try; a loop that fails at once must not fill the log."""

Loop = Callable[[], Awaitable[None]]
"""Works until it is cancelled; entered again, it goes on where it was."""


class Loops:
    """What runs beside the requests for as long as the gateway does."""

    def __init__(self, rest_s: float = _REST_S) -> None:
        self._rest_s = rest_s
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @contextlib.asynccontextmanager
    async def running(self, **loops: Loop) -> AsyncIterator[None]:
        """Run each loop under its name; on exit all of them are cancelled and have ended."""
        tasks = {name: asyncio.ensure_future(self._keep(name, loop)) for name, loop in loops.items()}
        self._tasks |= tasks
        try:
            yield
        finally:
            for name, task in tasks.items():
                del self._tasks[name]
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    def states(self) -> Iterator[tuple[str, bool]]:
        """Each loop's name, and whether it still runs."""
        return ((name, not task.done()) for name, task in self._tasks.items())

    @property
    def dead(self) -> list[str]:
        """The loops that have ended though nobody ended them."""
        return [name for name, is_running in self.states() if not is_running]

    async def _keep(self, name: str, loop: Loop) -> None:
        while True:
            try:
                await loop()
                return  # a loop that returns has decided to end: it counts as dead
            except Exception as error:  # noqa: BLE001 - a loop goes on after a turn that failed
                logger.error("the background loop %s failed and goes on: %s", name, outline(error))
            await asyncio.sleep(self._rest_s)
