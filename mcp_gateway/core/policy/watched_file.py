"""A file of the operator's that is read again when it has changed, without a restart. Knows nothing of what it says."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from mcp_gateway.core.config import ConfigError

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 5.0
T = TypeVar("T")
_Mark = tuple[int, int, int]


class WatchedFile(Generic[T]):
    """What a file says now, as `read` tells it; what stood before stays where a changed file cannot be read."""

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        """Raises ConfigError."""
        self._path = path
        self._read = read
        self._mark = _mark_of(path)  # first, so that a change amid the reading is seen at the next look
        self.value = read(path)

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Read the file where it is another than before; a fault is logged once for each change."""
        if (mark := _mark_of(self._path)) == self._mark:
            return
        self._mark = mark
        try:
            self.value = await asyncio.to_thread(self._read, self._path)
        except ConfigError as fault:
            logger.error("what was read before stays in force: %s", fault)
            return
        logger.info("%s has changed and was read again", self._path)


def _mark_of(path: Path) -> _Mark | None:
    """What differs once a file was written or replaced; None where it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
