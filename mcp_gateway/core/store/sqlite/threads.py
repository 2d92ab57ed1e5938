"""Threads for what may wait, so that the event loop does not."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class WaitingThreads:
    """Two: whoever waits for a lock does not wait for a checkpoint."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(2, "ledger-wait")

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, which goes on to its end where whoever asked is cancelled."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._pool, work))

    async def close(self) -> None:
        """Once all have ended."""
        await asyncio.to_thread(self._pool.shutdown)
