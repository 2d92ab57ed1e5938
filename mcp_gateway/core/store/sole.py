"""One server a data folder: a second one would spend what requests of the first hold."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_PATIENCE_S = 1.0
"""A command that changes the schema has the lock for a moment; see upgrade.py."""
_POLL_S = 0.02


class AlreadyServed(Exception):
    """Another server works on this data folder."""


@contextlib.contextmanager
def sole_server(data_dir: Path, patience_s: float = _PATIENCE_S) -> Iterator[None]:
    """Hold the folder's lock; the system gives it back however the process ends. Raises AlreadyServed."""
    deadline_s = time.monotonic() + patience_s
    with (data_dir / "server.lock").open("a+") as file:
        while not _has_locked(file.fileno()):
            if time.monotonic() < deadline_s:
                time.sleep(_POLL_S)
                continue
            message = f"another gateway already serves from {data_dir}; end it, or set GATEWAY_DATA_DIR to another"
            raise AlreadyServed(message)
        yield


@contextlib.contextmanager
def alone(data_dir: Path) -> Iterator[bool]:
    """Whether no server works on this folder; then none begins to, for as long as this lasts."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(sole_server(data_dir, patience_s=0))
        except AlreadyServed:
            yield False
        else:
            yield True


def _has_locked(descriptor: int) -> bool:
    try:
        _lock(descriptor)
    except OSError:
        return False
    return True


if sys.platform == "win32":  # pragma: no cover - the other systems have no such module
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
