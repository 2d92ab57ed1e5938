"""Reports: queries that may read much, on readers of their own, so that nothing else waits for them.

Few run at once, and of one account one at a time; each ends at its deadline, and when whoever asked for it has gone.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from mcp_gateway.core.engine import DatabaseError, Report
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.store.sqlite.faults import as_database_error
from mcp_gateway.core.store.transaction import Rows, RunRead

_READERS = 2
_STEPS_PER_LOOK = 200_000
"""Of SQLite's machine, a few milliseconds: after so many a report looks whether it is still wanted."""


@dataclass(slots=True, eq=False)
class _Asked:
    answer: RunRead
    report: Report[Any]
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
        self._asked: dict[asyncio.Task[Any], _Asked] = {}
        self._is_closed = False

    async def read(self, answer: RunRead, report: Report[Any]) -> Any:
        """The answer as of the last commit before it began. Raises GatewayError `overloaded` at the deadline."""
        if self._is_closed:
            raise RuntimeError("the store is closed")
        asked = _Asked(answer, report)
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
            asked.is_given_up = True

    async def close(self) -> None:
        """Give up what runs, and wait until it has ended."""
        self._is_closed = True
        for asked in self._asked.values():
            asked.is_given_up = True
        if self._asked:
            await asyncio.wait(self._asked)
        await asyncio.to_thread(self._threads.shutdown)
        for connection in self._idle:
            connection.close()

    async def _run(self, asked: _Asked) -> Any:
        """To its end, whether it is still wanted or not, since the reader and the turn are given back by it."""
        async with self._turns.setdefault(asked.report.account_id, asyncio.Lock()), self._places:
            if asked.is_given_up:
                return None
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, asked)

    def _read(self, asked: _Asked) -> Any:
        connection = self._idle.pop() if self._idle else connected(self._path)
        connection.set_progress_handler(lambda: asked.is_given_up, _STEPS_PER_LOOK)
        try:
            with as_database_error(), one_moment(connection):
                return asked.answer(Rows(connection), asked.report)
        except DatabaseError:
            if asked.is_given_up:
                return None
            raise
        finally:
            self._idle.append(connection)


def connected(path: Path) -> sqlite3.Connection:
    """A connection that reads alone."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only = ON")
    return connection


@contextlib.contextmanager
def one_moment(connection: sqlite3.Connection) -> Iterator[None]:
    """Whatever is read in between is as of one commit, in however many statements. Raises sqlite3.Error."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.rollback()
