"""SQLite behind three verbs: write, fetch, close.

One thread owns the write connection. It takes all writes that wait and commits them in one transaction, so that a
thousand requests share a few fsyncs. The event loop never waits for the disk. Knows nothing of what is stored.
"""

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

import aiosqlite

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.store.migrations import migrate

logger = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
Row = tuple[Any, ...]

_MAX_BATCH = 1000
_BUSY_TIMEOUT_S = 5.0
_RETRY_S = 0.25
_UNAVAILABLE = frozenset({
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
})  # fmt: skip
"""Primary result codes that say: not now, for reasons outside this write."""


@dataclass(slots=True)
class _Job(Generic[T]):
    work: Work[T]
    is_durable: bool
    must_commit: bool
    future: asyncio.Future[T] | None
    result: Any = None
    error: BaseException | None = None


class Store:
    """An open database."""

    def __init__(self, connection: sqlite3.Connection, reader: aiosqlite.Connection) -> None:
        self._connection = connection
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._late: list[_Job[Any]] = []
        self._is_closed = False
        self._synchronous = ""
        self._writer = threading.Thread(target=self._write_all, name="ledger-writer", daemon=True)
        self._writer.start()

    @classmethod
    async def open(cls, path: Path) -> "Store":
        """Open or create the database at `path` and bring its schema up to date. Raises SchemaTooNew, sqlite3.Error."""
        connection = await asyncio.to_thread(_open_for_writing, path)
        try:
            reader = await aiosqlite.connect(path, isolation_level=None)
            await reader.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
        return cls(connection, reader)

    def write(self, work: Work[T], *, is_durable: bool = True, must_commit: bool = False) -> "asyncio.Future[T]":
        """Run `work` in the writer's next transaction; the result comes once that is committed.

        Submitted at once, awaited or not; in the order of the calls. A GatewayError that `work` raises is its decision
        and must come before it has changed anything. A write that is not durable may be lost by a power failure, but
        not by a crash of the process. While the database is full, locked or broken, a write fails with
        `ledger_unavailable`; one that `must_commit` fails so too, but is still tried until it has gone through.
        """
        if self._is_closed:
            raise RuntimeError("the store is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(work, is_durable, must_commit, future))
        return future

    async def fetch_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query, as of the last commit."""
        async with self._reader.execute(sql, parameters) as cursor:
            return [tuple(row) for row in await cursor.fetchall()]

    async def fetch_one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        """The first row of a query, as of the last commit."""
        async with self._reader.execute(sql, parameters) as cursor:
            row = await cursor.fetchone()
            return None if row is None else tuple(row)

    async def close(self) -> None:
        """Commit what is queued, then close."""
        if not self._is_closed:
            self._is_closed = True
            self._jobs.put(None)
            await asyncio.to_thread(self._writer.join)
            await self._reader.close()

    # In the writer's thread

    def _write_all(self) -> None:
        is_open = True
        while is_open or self._late:
            batch, is_open = self._next_batch(is_open)
            if batch:
                self._commit(batch)
            if self._late and not self._retries_late(is_open):
                break
        self._connection.close()

    def _next_batch(self, is_open: bool) -> tuple[list[_Job[Any]], bool]:
        """What is late and what waits; blocks for the first where nothing is late."""
        batch, self._late = self._late, []
        if not is_open:
            return batch, False
        try:
            job = self._jobs.get(timeout=_RETRY_S if batch else None)
            while job is not None:
                batch.append(job)
                if len(batch) >= _MAX_BATCH:
                    return batch, True
                job = self._jobs.get_nowait()
        except Empty:
            return batch, True
        return batch, False

    def _retries_late(self, is_open: bool) -> bool:
        if is_open:
            return True
        logger.critical("%d settlements could not be written before the end", len(self._late))
        return False

    def _commit(self, batch: list[_Job[Any]]) -> None:
        try:
            self._run_together(batch)
        except sqlite3.OperationalError as error:
            self._roll_back()
            if _is_unavailable(error):
                self._put_off(batch, error)
            else:
                self._run_apart(batch)
        except Exception:  # a bug in one write must not take the others with it
            self._roll_back()
            self._run_apart(batch)
        self._hand_back(batch)

    def _run_together(self, batch: list[_Job[Any]]) -> None:
        connection = self._connection
        self._set_synchronous("FULL" if any(job.is_durable for job in batch) else "NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        for job in batch:
            try:
                job.result = job.work(connection)
            except GatewayError as refusal:
                job.error = refusal
        connection.execute("COMMIT")

    def _run_apart(self, batch: list[_Job[Any]]) -> None:
        """Each write in a transaction of its own, after one of them broke the common one."""
        for job in batch:
            job.result, job.error = None, None
            try:
                self._run_together([job])
            except sqlite3.OperationalError as error:
                self._roll_back()
                if _is_unavailable(error):
                    self._put_off([job], error)
                else:
                    job.error = error
            except Exception as error:
                self._roll_back()
                job.error = error
                logger.error("a write failed with %s and was left out", type(error).__name__)

    def _put_off(self, batch: list[_Job[Any]], cause: sqlite3.Error) -> None:
        logger.error("the database cannot be written: %s", cause)
        for job in batch:
            message = "The gateway cannot write its ledger at the moment; try again shortly."
            job.result, job.error = None, GatewayError("ledger_unavailable", message)
            if job.must_commit:
                self._late.append(_Job(job.work, job.is_durable, True, None))

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _set_synchronous(self, level: str) -> None:
        if level != self._synchronous:
            self._connection.execute(f"PRAGMA synchronous = {level}")
            self._synchronous = level

    def _hand_back(self, batch: list[_Job[Any]]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
            self._loop.call_soon_threadsafe(_resolve, batch)


def _resolve(batch: list[_Job[Any]]) -> None:
    for job in batch:
        future = job.future
        if future is None or future.done():
            continue
        if job.error is None:
            future.set_result(job.result)
        else:
            future.set_exception(job.error)


def _is_unavailable(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode & 0xFF in _UNAVAILABLE


def _open_for_writing(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")
        migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection
