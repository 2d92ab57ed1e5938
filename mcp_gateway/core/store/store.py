"""SQLite behind three verbs: write, fetch, close.

One thread owns the write connection. It takes all writes that wait and commits them in one transaction, so that a
thousand requests share a few fsyncs. The event loop never waits for the disk. Knows nothing of what is stored.
"""

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar, cast

import aiosqlite

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.store.migrations import migrate

logger = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
Row = tuple[Any, ...]

_MAX_BATCH = 1000
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


class _Spoiled(Exception):
    """A write failed after it had changed something: the transaction must be run again without it."""

    def __init__(self, job: _Job[Any], error: Exception) -> None:
        super().__init__()
        self.job = job
        self.error = error


class Store:
    """An open database."""

    def __init__(self, connection: sqlite3.Connection, reader: aiosqlite.Connection) -> None:
        self._connection = connection
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._late: list[_Job[Any]] = []
        self._is_closed = False
        self._is_available = True
        self._synchronous = ""
        self._writer = threading.Thread(target=self._write_all, name="ledger-writer", daemon=True)
        self._writer.start()

    @classmethod
    async def open(cls, path: Path, *, busy_timeout_s: float = 5.0) -> "Store":
        """Open or create the database at `path` and bring its schema up to date. Raises SchemaTooNew, sqlite3.Error.

        `busy_timeout_s` is how long a write waits while another process writes.
        """
        connection = await asyncio.to_thread(_open_for_writing, path, busy_timeout_s)
        try:
            reader = await aiosqlite.connect(path, isolation_level=None)
            await reader.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
        return cls(connection, reader)

    def write(self, work: Work[T], *, is_durable: bool = True, must_commit: bool = False) -> "asyncio.Future[T]":
        """Run `work` in the writer's next transaction; the result comes once that is committed.

        Submitted at once, awaited or not; in the order of the calls. A GatewayError that `work` raises is its decision:
        what it changed before that stays. Any other error takes back what it changed. `work` may be run more than once,
        since a batch in which a write failed is run again without it. A write that is not durable may be lost by a
        power failure, but not by a crash of the process. While the database is full, locked or broken, a write fails
        with `ledger_unavailable`; one that `must_commit` fails so too, but is still tried until it has gone through.
        """
        if self._is_closed:
            raise RuntimeError("the store is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(work, is_durable, must_commit, future))
        return future

    async def fetch_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query, as of the last commit."""
        return cast(list[Row], await self._reader.execute_fetchall(sql, parameters))

    async def fetch_one(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        """The first row of a query, as of the last commit."""
        rows = await self.fetch_all(sql, parameters)
        return rows[0] if rows else None

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
        """What is late and what waits; blocks for the first where nothing is late, pauses before a retry."""
        batch, self._late = self._late, []
        if not is_open:
            return batch, False
        if batch:  # an outage: without the pause each new write would run all late ones again
            time.sleep(_RETRY_S)
        try:
            job = self._jobs.get(block=not batch)
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
        """Run the batch in one transaction, without those whose error spoiled it, and hand the results back."""
        running = batch
        while running:
            try:
                self._run_together(running)
                break
            except _Spoiled as spoiled:
                self._roll_back()
                self._fail(spoiled.job, spoiled.error)
                running = [job for job in running if job is not spoiled.job]
            except Exception as error:
                self._roll_back()
                self._put_off(running, error)
                break
        self._hand_back(batch)

    def _run_together(self, batch: list[_Job[Any]]) -> None:
        """Raises _Spoiled where one write must be left out; any other error concerns all of them."""
        connection = self._connection
        self._set_synchronous("FULL" if any(job.is_durable for job in batch) else "NORMAL")
        connection.execute("BEGIN IMMEDIATE")
        for job in batch:
            changes = connection.total_changes
            job.error = None
            try:
                job.result = job.work(connection)
            except GatewayError as refusal:
                job.error = refusal
            except Exception as error:
                if _is_unavailable(error):
                    raise
                if connection.total_changes != changes or not connection.in_transaction:
                    raise _Spoiled(job, error) from error
                self._fail(job, error)
        connection.execute("COMMIT")
        self._is_available = True

    def _fail(self, job: _Job[Any], error: Exception) -> None:
        """A bug in one write: it is left out, and told to whoever waits for it."""
        logger.error("a write failed with %s and was left out", type(error).__name__)
        job.result, job.error = None, error

    def _put_off(self, batch: list[_Job[Any]], cause: Exception) -> None:
        if self._is_available:
            logger.error("the database cannot be written for now: %s", cause)
        self._is_available = False
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


def _is_unavailable(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNAVAILABLE


def _open_for_writing(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")
        migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection
