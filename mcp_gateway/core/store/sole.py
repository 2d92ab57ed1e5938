"""One server a data folder: a second one would void the holds of the first."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path


class AlreadyServed(Exception):
    """Another server works on this data folder."""


@contextlib.contextmanager
def sole_server(data_dir: Path) -> Iterator[None]:
    """Hold the folder's lock; the system gives it back however the process ends. Raises AlreadyServed."""
    with (data_dir / "server.lock").open("a+") as file:
        try:
            _lock(file.fileno())
        except OSError:
            message = f"another gateway already serves from {data_dir}; end it, or set GATEWAY_DATA_DIR to another"
            raise AlreadyServed(message) from None
        yield


if sys.platform == "win32":  # pragma: no cover - the other systems have no such module
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
