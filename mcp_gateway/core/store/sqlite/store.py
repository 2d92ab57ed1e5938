"""SQLite behind three verbs: write, read, close. Knows nothing of what is stored.

Of three objects: the writer, checkpoints of its log, and readers, who wait for neither.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mcp_gateway.core.store.sqlite.checkpoints import Checkpoints
from mcp_gateway.core.store.sqlite.faults import as_database_error, is_unavailable
from mcp_gateway.core.store.sqlite.migrations import migrate
from mcp_gateway.core.store.sqlite.private import keep_private
from mcp_gateway.core.store.sqlite.readers import Readers
from mcp_gateway.core.store.sqlite.space import let_it_shrink
from mcp_gateway.core.store.sqlite.threads import WaitingThreads
from mcp_gateway.core.store.sqlite.write_ahead_log import Sync, WriteAheadLog, sync_data
from mcp_gateway.core.store.sqlite.writer import Writer
from mcp_gateway.core.store.transaction import Executors, Transaction
from mcp_gateway.core.store.verbs import OWN, OpenStore

T = TypeVar("T")

ENGINE_VERSION = sqlite3.sqlite_version
_LEAST_SQLITE = (3, 37)
"""The first with STRICT tables."""

# Of each value of another type than the four basic ones, sqlite3 would ask twice whether it can adapt itself.
sqlite3.register_adapter(bool, int)
sqlite3.register_adapter(type(None), lambda null: null)


class Store(OpenStore[Writer, Readers]):
    """An open database."""

    def __init__(
        self,
        writer: Writer,
        checkpoints: Checkpoints,
        readers: Readers,
        log: WriteAheadLog,
        threads: WaitingThreads,
        executors: Executors,
        now_ms: Callable[[], int],
    ) -> None:
        super().__init__(writer, readers, executors, now_ms)
        self._checkpoints = checkpoints
        self._log = log
        self._threads = threads

    @classmethod
    async def open(
        cls,
        path: Path,
        executors: Executors,
        *,
        now_ms: Callable[[], int],
        busy_timeout_s: float = 5.0,
        report_timeout_s: float = 30.0,
        sync: Sync = sync_data,
    ) -> "Store":
        """Open or create the database at `path` and bring its schema up to date.

        Raises SchemaTooNew, DatabaseError, OSError. `executors` carry out what is written and read, by the clock
        `now_ms`. `busy_timeout_s` is how long a write waits while another process writes; `sync` brings the log to the
        disk, given its descriptor.
        """
        executors = executors | OWN
        with as_database_error(), contextlib.ExitStack() as opened:
            connection = await asyncio.to_thread(_open_for_writing, path, busy_timeout_s)
            opened.callback(connection.close)
            log = WriteAheadLog(path)
            opened.callback(log.close)
            readers = Readers(path, executors.reads, report_timeout_s)
            opened.pop_all()
        threads = WaitingThreads()
        checkpoints = Checkpoints(path, log, threads)
        transaction = Transaction(connection, executors, now_ms)
        writer = Writer(connection, transaction, log, checkpoints, threads, sync, busy_timeout_s)
        return cls(writer, checkpoints, readers, log, threads, executors, now_ms)

    @property
    def log_bytes(self) -> int:
        """Of the write-ahead log. Raises OSError."""
        return self._log.size_bytes

    async def close(self) -> list[Any]:
        """Commit what is queued, then close. Returns the writes to keep that could not be committed."""
        if self._writer.is_closing:
            return []
        kept = await self._writer.close()
        self._checkpoints.close()
        self._log.close()
        await self._threads.close()
        await self._readers.close()
        return kept


def _open_for_writing(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    if sqlite3.sqlite_version_info < _LEAST_SQLITE:
        least = ".".join(map(str, _LEAST_SQLITE))
        raise sqlite3.NotSupportedError(f"SQLite {least} is needed; this Python brings {sqlite3.sqlite_version}")
    keep_private(path)
    connection = sqlite3.connect(path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    try:
        let_it_shrink(connection)
        _switch_to_wal(connection, busy_timeout_s)
        connection.execute("PRAGMA foreign_keys = ON")
        migrate(connection)
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # checkpoints wait for the disk: see checkpoints.py
        connection.execute("PRAGMA busy_timeout = 0")  # so does another process's lock: see Writer._begin
        connection.execute("PRAGMA synchronous = NORMAL")  # and so does what must be on the disk: see Writer._burst
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
            if not is_unavailable(error) or time.monotonic() >= deadline_s:
                raise
            time.sleep(0.01)
