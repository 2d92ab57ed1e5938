"""Reports: queries that may read much, on readers of their own, so that nothing else waits for them.

Few run at once, and of one account one at a time; each ends at its deadline, and when whoever asked for it has gone.
"""

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from mcp_gateway.core.errors import GatewayError

Row = tuple[Any, ...]
Parameters = Sequence[Any] | Mapping[str, Any]

_READERS = 2
_STEPS_PER_LOOK = 200_000
"""Of SQLite's machine, a few milliseconds: after so many a report looks whether it is still wanted."""


@dataclass(slots=True, eq=False)
class _Report:
    sql: str
    parameters: Parameters
    is_given_up: bool = False


class Reports:
    """Readers of the database at `path`, opened when they are first needed."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._places = asyncio.Semaphore(_READERS)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Of the accounts that have a report; whoever has or awaits a turn keeps it alive."""
        self._threads = ThreadPoolExecutor(_READERS, "reports")
        self._idle: list[sqlite3.Connection] = []
        self._asked: dict[asyncio.Task[list[Row]], _Report] = {}
        self._is_closed = False

    async def fetch_all(self, account_id: str, sql: str, parameters: Parameters = ()) -> list[Row]:
        """All rows, as of the last commit before it began. Raises GatewayError `overloaded` at the deadline."""
        if self._is_closed:
            raise RuntimeError("the store is closed")
        report = _Report(sql, parameters)
        task = asyncio.get_running_loop().create_task(self._run(account_id, report))
        self._asked[task] = report
        task.add_done_callback(self._asked.pop)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(task)
        except TimeoutError:
            message = f"This was not read within {self._timeout_s:g} s; ask for less of it at once, or try again later."
            raise GatewayError("overloaded", message) from None
        finally:
            report.is_given_up = True

    async def close(self) -> None:
        """Give up what runs, and wait until it has ended."""
        self._is_closed = True
        for report in self._asked.values():
            report.is_given_up = True
        if self._asked:
            await asyncio.wait(self._asked)
        await asyncio.to_thread(self._threads.shutdown)
        for connection in self._idle:
            connection.close()

    async def _run(self, account_id: str, report: _Report) -> list[Row]:
        """To its end, whether it is still wanted or not, since the reader and the turn are given back by it."""
        async with self._turns.setdefault(account_id, asyncio.Lock()), self._places:
            if report.is_given_up:
                return []
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, report)

    def _read(self, report: _Report) -> list[Row]:
        connection = self._idle.pop() if self._idle else _connected(self._path)
        connection.set_progress_handler(lambda: report.is_given_up, _STEPS_PER_LOOK)
        try:
            return connection.execute(report.sql, report.parameters).fetchall()
        except sqlite3.OperationalError:
            if report.is_given_up:
                return []
            raise
        finally:
            self._idle.append(connection)


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only = ON")
    return connection
