"""SQLite behind three verbs: write, fetch, close.

One task owns the write connection. It runs all writes that wait in one transaction, so that a thousand requests share a
few fsyncs. The statements run on the event loop: each takes microseconds, and from a thread each would have to win the
interpreter back from a busy loop. What waits for the disk or for another process runs in a thread of its own. Knows
nothing of what is stored.
"""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import aiosqlite

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.store.migrations import migrate

logger = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
Row = tuple[Any, ...]

_LEAST_SQLITE = (3, 37)
"""The first with STRICT tables."""
_MAX_BATCH = 128
_RETRY_S = 0.25
_BUSY_POLL_S = 0.005
_BATCHES_PER_LOOK = 32
_CHECKPOINT_BYTES = 16 * 1024 * 1024
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

    def __init__(
        self, path: Path, connection: sqlite3.Connection, reader: aiosqlite.Connection, busy_timeout_s: float
    ) -> None:
        self._wal = path.with_name(path.name + "-wal")
        self._connection = connection
        self._reader = reader
        self._busy_timeout_s = busy_timeout_s
        self._disk = ThreadPoolExecutor(1, "ledger-disk")
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Job[Any]] = deque()
        self._late: list[_Job[Any]] = []
        self._has_work = asyncio.Event()
        self._is_closed = False
        self._is_available = True
        self._synchronous = ""
        self._batches = 0
        self._writer = self._loop.create_task(self._write_all())

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
        return cls(path, connection, reader, busy_timeout_s)

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
        self._waiting.append(_Job(work, is_durable, must_commit, future))
        self._has_work.set()
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
            self._has_work.set()
            await self._writer
            await self._on_disk(self._connection.close)
            self._disk.shutdown()
            await self._reader.close()

    # The writer

    async def _write_all(self) -> None:
        while not self._is_closed or self._waiting:
            if not self._late:
                await self._has_work.wait()
            elif not self._is_closed:  # an outage: without the pause each new write would run all late ones again
                await asyncio.sleep(_RETRY_S)
            await self._commit(self._next_batch())
        if self._late:
            await self._commit(self._next_batch())
        if self._late:
            logger.critical("%d settlements could not be written before the end", len(self._late))

    def _next_batch(self) -> list[_Job[Any]]:
        """What is late, and what waits."""
        batch, self._late = self._late, []
        while self._waiting and len(batch) < _MAX_BATCH:
            batch.append(self._waiting.popleft())
        if not self._waiting:
            self._has_work.clear()
        return batch

    async def _commit(self, batch: list[_Job[Any]]) -> None:
        """Run the batch in one transaction, without those whose error spoiled it, and hand the results back."""
        running = batch
        while running:
            try:
                await self._run_together(running)
                break
            except _Spoiled as spoiled:
                self._roll_back()
                self._fail(spoiled.job, spoiled.error)
                running = [job for job in running if job is not spoiled.job]
            except Exception as error:
                self._roll_back()
                self._put_off(running, error)
                break
        for job in batch:
            _resolve(job)
        self._batches += 1
        if self._batches % _BATCHES_PER_LOOK == 0:
            await self._on_disk(self._check_point)

    async def _run_together(self, batch: list[_Job[Any]]) -> None:
        """Raises _Spoiled where one write must be left out; any other error concerns all of them."""
        is_durable = any(job.is_durable for job in batch)
        await self._begin("FULL" if is_durable else "NORMAL")
        for job in batch:
            self._run(job)
        if is_durable:
            await self._on_disk(lambda: self._connection.execute("COMMIT"))
        else:
            self._connection.execute("COMMIT")  # appends to the log in memory: no fsync
        self._is_available = True

    async def _begin(self, synchronous: str) -> None:
        if synchronous != self._synchronous:
            self._connection.execute(f"PRAGMA synchronous = {synchronous}")
            self._synchronous = synchronous
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not _is_busy(error):
                raise
            await self._on_disk(self._begin_when_free)

    def _run(self, job: _Job[Any]) -> None:
        connection = self._connection
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

    # In the thread that may wait

    async def _on_disk(self, work: Callable[[], object]) -> None:
        """Run `work` in the disk's thread; cancelled or not, it is waited for, since the connection is one."""
        await asyncio.shield(self._loop.run_in_executor(self._disk, work))

    def _begin_when_free(self) -> None:
        deadline_s = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() >= deadline_s:
                    raise
                time.sleep(_BUSY_POLL_S)

    def _check_point(self) -> None:
        """Move a write-ahead log that has grown into the database; only tidies up, so that it may fail."""
        with contextlib.suppress(OSError, sqlite3.Error):
            if self._wal.stat().st_size > _CHECKPOINT_BYTES:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _resolve(job: _Job[Any]) -> None:
    future = job.future
    if future is None or future.done():
        return
    if job.error is None:
        future.set_result(job.result)
    else:
        future.set_exception(job.error)


def _is_unavailable(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNAVAILABLE


def _is_busy(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _open_for_writing(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    if sqlite3.sqlite_version_info < _LEAST_SQLITE:
        least = ".".join(map(str, _LEAST_SQLITE))
        raise sqlite3.NotSupportedError(f"SQLite {least} is needed; this Python brings {sqlite3.sqlite_version}")
    connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    try:
        _switch_to_wal(connection, busy_timeout_s)
        connection.execute("PRAGMA foreign_keys = ON")
        migrate(connection)
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # checkpoints wait for the disk: see _check_point
        connection.execute("PRAGMA busy_timeout = 0")  # so does another process's lock: see _begin
    except BaseException:
        connection.close()
        raise
    return connection


def _switch_to_wal(connection: sqlite3.Connection, timeout_s: float) -> None:
    """Try for a while: two processes that open a fresh database at once get in each other's way without any waiting."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not _is_unavailable(error) or time.monotonic() >= deadline_s:
                raise
            time.sleep(0.01)
