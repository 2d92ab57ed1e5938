import errno
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcp_gateway.core.store.sqlite.store import Store
from mcp_gateway.core.store.sqlite.write_ahead_log import sync_data
from tests.databases import changing, open_store


class Disk:
    """Syncs the log, when a test lets it, or fails as often as told."""

    def __init__(self) -> None:
        self.begun = 0
        self.failures = 0
        self._may_end = threading.Semaphore(0)
        self._is_held = False

    def __call__(self, descriptor: int) -> None:
        self.begun += 1
        if self._is_held:
            assert self._may_end.acquire(timeout=60)
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EIO, "the disk is broken")
        sync_data(descriptor)

    def hold(self) -> None:
        """From now on each sync waits for `release`."""
        self._is_held = True

    def release(self, syncs: int = 1000) -> None:
        self._may_end.release(syncs)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "gateway.sqlite3"


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
async def store(database: Path, disk: Disk) -> AsyncIterator[Store]:
    store = await open_store(database, busy_timeout_s=0.05, sync=disk)
    await store.write(changing("CREATE TABLE notes (text UNIQUE, size BLOB)"))
    disk.begun = 0
    yield store
    disk.release()
    await store.close()
