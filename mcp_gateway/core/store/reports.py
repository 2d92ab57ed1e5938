"""Reports: queries that may read much, on readers of their own, so that nothing else waits for them.

Few run at once, and of one account one at a time; each ends at its deadline, and when whoever asked for it has gone.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from mcp_gateway.core.engine import Report
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.store.transaction import RunRead

_READERS = 2


@dataclass(slots=True, eq=False)
class AskedReport:
    """One that somebody waits for, until it is given up."""

    answer: RunRead
    report: Report[Any]
    is_given_up: bool = False


class Reports:
    """Whose turn it is; an engine reads, by `read`, in a thread of these."""

    def __init__(
        self, read: Callable[[AskedReport], Any], timeout_s: float, give_up: Callable[[AskedReport], None]
    ) -> None:
        """`give_up` ends what is read for one that nobody waits for any more, if it is read already, or still."""
        self._read = read
        self._timeout_s = timeout_s
        self._give_up = give_up
        self._places = asyncio.Semaphore(_READERS)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Of the accounts that have a report; whoever has or awaits a turn keeps it alive."""
        self._threads = ThreadPoolExecutor(_READERS, "reports")
        self._asked: dict[asyncio.Task[Any], AskedReport] = {}
        self._is_closed = False

    async def read(self, answer: RunRead, report: Report[Any]) -> Any:
        """The answer as of the last commit before it began. Raises GatewayError `overloaded` at the deadline."""
        if self._is_closed:
            raise RuntimeError("the store is closed")
        asked = AskedReport(answer, report)
        task = asyncio.get_running_loop().create_task(self._run(asked))
        self._asked[task] = asked
        task.add_done_callback(self._asked.pop)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(task)
        except TimeoutError:
            message = f"This was not read within {self._timeout_s:g} s; ask for less of it at once, or try again later."
            raise GatewayError("overloaded", message) from None
        finally:
            self._leave(asked)

    async def close(self) -> None:
        """Give up what runs, and wait until it has ended."""
        self._is_closed = True
        for asked in self._asked.values():
            self._leave(asked)
        if self._asked:
            await asyncio.wait(self._asked)
        await asyncio.to_thread(self._threads.shutdown)

    def _leave(self, asked: AskedReport) -> None:
        asked.is_given_up = True
        self._give_up(asked)

    async def _run(self, asked: AskedReport) -> Any:
        """To its end, whether it is still wanted or not, since the reader and the turn are given back by it."""
        async with self._turns.setdefault(asked.report.account_id, asyncio.Lock()), self._places:
            if asked.is_given_up:
                return None
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, asked)
