"""SQLite's write-ahead log as a file: brought to the disk beside the writer, and asked how far it has grown.

Locks are on the database and on its -shm file: this one may be opened and closed without dropping any.
https://sqlite.org/walformat.html#wal_locks
"""

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from mcp_gateway.core.store.sqlite.private import beside

T = TypeVar("T")

Sync = Callable[[int], object]
"""Brings the file behind a descriptor to the disk. Raises OSError."""

sync_data: Sync = getattr(os, "fdatasync", os.fsync)
"""As SQLite does, without the file's times where the system can leave them out."""

_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24


class WriteAheadLog:
    """The open log of a database."""

    def __init__(self, database: Path) -> None:
        """Raises OSError, also where no connection has read or written the database in WAL mode yet."""
        log, *_ = beside(database)
        self._file = log.open("r+b", buffering=0)

    @property
    def descriptor(self) -> int:
        return self._file.fileno()

    def reaches(self, size_bytes: int) -> bool:
        """Whether what was logged since the log was last begun anew takes `size_bytes`; the file keeps its size.

        A frame is of this round if it carries the salt of the header: https://sqlite.org/fileformat2.html#walformat
        """
        header = self._read(0, _HEADER_BYTES)
        if len(header) < _HEADER_BYTES:
            return False
        frame_bytes = _FRAME_HEADER_BYTES + int.from_bytes(header[8:12], "big")
        last = size_bytes // frame_bytes - 1
        frame = self._read(_HEADER_BYTES + last * frame_bytes, _FRAME_HEADER_BYTES)
        return frame[8:16] == header[16:24]

    @property
    def size_bytes(self) -> int:
        """Of the file. Raises OSError."""
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        self._file.close()

    def _read(self, offset: int, size_bytes: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size_bytes)


class Flusher(Generic[T]):
    """One sync after the other in a thread, each for all items that were added before it began.

    A thread of its own and no executor: a request waits for this, and an executor's futures cost more than a commit.
    """

    def __init__(self, sync: Callable[[], object], tell: Callable[[Sequence[T], OSError | None], None]) -> None:
        """`tell` is called on the loop with the items of a sync that has ended, and its error.

        Where one fails, that concerns also what was added while it ran.
        """
        self._sync = sync
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._added: list[T] = []
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._asked: queue.SimpleQueue[list[T] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="ledger-log", daemon=True)
        self._thread.start()

    def add(self, items: list[T]) -> None:
        """Tell of `items` once a sync that begins after this call has ended."""
        self._added += items
        if self._is_idle.is_set():
            self._begin()

    async def close(self) -> None:
        """Wait for the last sync."""
        await self._is_idle.wait()
        self._asked.put(None)
        self._thread.join()

    def _begin(self) -> None:
        self._is_idle.clear()
        items, self._added = self._added, []
        self._asked.put(items)

    def _run(self) -> None:
        while (items := self._asked.get()) is not None:
            error = None
            try:
                self._sync()
            except OSError as caught:
                error = caught
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._ended, items, error)

    def _ended(self, items: list[T], error: OSError | None) -> None:
        if error is not None:
            items, self._added = items + self._added, []
        if self._added:
            self._begin()
        else:
            self._is_idle.set()
        self._tell(items, error)
