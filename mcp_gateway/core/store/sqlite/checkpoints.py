"""Checkpoints: what is in the log is moved into the database, so that neither the log nor a doubt of it grows.

The long part of it is beside the writer. For the short part the writer pauses, since the log can begin anew only while
nobody writes.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from mcp_gateway.core.store.sqlite.threads import WaitingThreads
from mcp_gateway.core.store.sqlite.write_ahead_log import WriteAheadLog

_CHECKPOINT_BYTES = 16 * 1024 * 1024
_REST_S = 1.0
"""After a checkpoint that did not come to its end."""
_READERS_TIMEOUT_S = 0.02
"""How long a checkpoint, and so every write, waits for readers of the log."""

PauseFor = Callable[[Callable[[], Awaitable[None]]], None]
"""Has the writer pause for what it is given."""


class Checkpoints:
    """Of the database at `path` and its `log`, with connections of their own, which hold up nobody on the writer's."""

    def __init__(self, path: Path, log: WriteAheadLog, threads: WaitingThreads) -> None:
        self._path = path
        self._log = log
        self._threads = threads
        self._copying: asyncio.Task[None] | None = None
        self._next_look_s = 0.0

    def look(self, pause_for: PauseFor) -> None:
        """Begin a checkpoint where the log has grown long."""
        if self._copying is not None or time.monotonic() < self._next_look_s:
            return
        with contextlib.suppress(OSError):  # a disk that fails shows at the next commit or fsync
            if self._log.reaches(_CHECKPOINT_BYTES):
                self._copying = asyncio.get_running_loop().create_task(self._copy(pause_for))

    async def move_all(self) -> None:
        """Move the whole log into the database, which SQLite syncs, while the writer pauses.

        Raises sqlite3.Error, OSError.
        """
        await self._threads.run(self._copy_log)
        await self._threads.run(self._restart_log)

    def close(self) -> None:
        """What is copied just now is copied to its end, and not followed up."""
        if self._copying is not None:
            self._copying.cancel()

    async def _copy(self, pause_for: PauseFor) -> None:
        """The long part, beside the writer. It only tidies up, so that it may fail."""
        with contextlib.suppress(sqlite3.Error, OSError, RuntimeError):
            await self._threads.run(self._copy_log)
        self._copying = None
        pause_for(self._begin_anew)

    async def _begin_anew(self) -> None:
        """The short part, for which the writer must rest: so not soon again if it fails."""
        try:
            await self._threads.run(self._restart_log)
        except (sqlite3.Error, OSError):
            self._next_look_s = time.monotonic() + _REST_S

    def _copy_log(self) -> None:
        """Copy what is in the log into the database, as far as nobody reads what was there before."""
        with self._beside() as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _restart_log(self) -> None:
        """Copy the rest and let the log begin anew: to overwrite the file costs the disk less than to let it grow.

        What it grew beyond its usual size while a reader was in the way (a backup, a check of the books) is given back.
        Raises sqlite3.Error, and BlockingIOError where a reader was in the way.
        """
        with self._beside() as connection:
            is_busy, _, _ = connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            if is_busy:
                raise BlockingIOError("a reader of the log is in the way")
            connection.execute(f"PRAGMA journal_size_limit = {2 * _CHECKPOINT_BYTES}")
            touch(connection)  # so that no burst has to sync the header; cuts the file at the limit

    def _beside(self) -> contextlib.closing[sqlite3.Connection]:
        return contextlib.closing(sqlite3.connect(self._path, timeout=_READERS_TIMEOUT_S, isolation_level=None))


def touch(connection: sqlite3.Connection) -> None:
    """Write a page as it was: SQLite does not compare."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.execute(f"PRAGMA user_version = {version}")
