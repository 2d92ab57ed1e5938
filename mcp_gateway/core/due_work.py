"""Work that falls due by the clock, or is begun by somebody's word: each piece is done in a task of its own."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.errors import GatewayError, outline

logger = logging.getLogger(__name__)

LOOK_S = 5.0
"""How often it is looked for what fell due, or was written by another process."""
_FIRST_WAIT_S = 5.0
_GROWTH = 4
_MOST_GROWTHS = 16


def wait_s(failures: int, chance: float, longest_s: float) -> float:
    """Before another try after so many that failed: 5 s, 20 s and so on, from half of it to all, as chance between 0
    and 1 has it.
    """
    grown_s: float = _FIRST_WAIT_S * _GROWTH ** min(failures - 1, _MOST_GROWTHS)
    return min(longest_s, grown_s) * (1 + chance) / 2


class DueWork:
    """The tasks under way, by name; `look` begins what is due, at once when woken and else every LOOK_S.

    Of several servers the one that is elected does so; another only ends what it has begun.
    """

    def __init__(self, look: Callable[[], Awaitable[None]], is_elected: Callable[[], bool]) -> None:
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._look = look
        self._is_elected = is_elected
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Have it looked for what is due."""
        self._woken.set()

    def begin(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do this, and look again when it is done; nothing where another server is elected meanwhile."""
        if self._is_elected():
            self.tasks[name] = task = asyncio.create_task(work())
            task.add_done_callback(partial(self._ended, name))

    def _ended(self, name: str, _: "asyncio.Task[None]") -> None:
        del self.tasks[name]
        self.wake()

    async def noted(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Do what notes how a piece of work ended: where no note is taken, it is due as it was, after a rest."""
        try:
            await work
        except GatewayError:
            await asyncio.sleep(LOOK_S)
        except Exception as error:  # noqa: BLE001 - one odd piece must end no other, and not be due again at once
            logger.error("%s goes on later: %s", name, outline(error))
            await asyncio.sleep(LOOK_S)

    async def watch(self) -> None:
        """Until cancelled; what is under way then ends with it. Where it cannot be read what is due, that goes on."""
        try:
            while True:
                self._woken.clear()
                await self._look_once()
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._woken.wait()
        finally:
            for task in self.tasks.values():
                task.cancel()
            await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    async def _look_once(self) -> None:
        if not self._is_elected():
            return
        try:
            await self._look()
        except (DatabaseError, GatewayError) as error:
            logger.error("what is due was not read: %s", outline(error))
