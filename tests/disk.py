"""A disk in a test's hands: it syncs the log when it may, and fails as often as told."""

import errno
import threading
from collections.abc import Callable

from mcp_gateway.core.store.sqlite.write_ahead_log import sync_data
from tests.patience import PATIENCE_S


class Disk:
    """Syncs the log, when a test lets it, or fails as often as told."""

    def __init__(self, sync: Callable[[int], object] = sync_data) -> None:
        self._sync = sync
        self.begun = 0
        self.failures = 0
        self._may_end = threading.Semaphore(0)
        self._is_held = False

    def __call__(self, descriptor: int) -> None:
        self.wait()
        self.fail()
        self._sync(descriptor)

    def wait(self) -> None:
        """Until a test lets it end."""
        self.begun += 1
        if self._is_held:
            assert self._may_end.acquire(timeout=PATIENCE_S)

    def fail(self) -> None:
        """As often as told."""
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EIO, "the disk is broken")

    def hold(self) -> None:
        """From now on each sync waits for `release`."""
        self._is_held = True

    def release(self, syncs: int = 1000) -> None:
        self._may_end.release(syncs)
