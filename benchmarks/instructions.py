"""What a request costs the gateway in instructions of the processor, with everything on as in doors.py.

    python benchmarks/instructions.py [REQUESTS]     (500 of each case)

Instructions say what changed where time is too noisy to: two runs differ by less than 0.5 % for streams and 0.3 % for
others, whatever else the machine does. Counted are those of the process outside of the kernel, by `perf` where
it can count them, otherwise by valgrind, under which everything takes some fifty times longer. One client sends one
request after the other on a kept connection, so that every run does the same; what the idle gateway spends in the same
time is taken off, and what it does by the clock is left out (`unclocked.py`): under valgrind a slow run would have
more of it.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from doors import (  # type: ignore[import-not-found]  # it lies beside this script
    GATEWAY_CPU,
    HERE,
    LOAD_CPU,
    chat,
    gateway_files,
    is_whole,
    response,
    running,
    tool_call,
)

REQUESTS, WARM_UP, IDLE_S = 500, 300, 5.0
SAME_IN_EVERY_RUN = {"PYTHONHASHSEED": "0", "GATEWAY_UPSTREAM__DISCOVERY_INTERVAL_S": "86400"}


class Counter(Protocol):
    """Counts the instructions of a process."""

    prefix: tuple[str, ...]
    """What the process has to be started under."""

    def counting(self, pid: int) -> contextlib.AbstractContextManager[list[int]]:
        """Within it the process is counted; once it is left, the list holds the count."""


class Perf:
    """The processor's own counter."""

    prefix: tuple[str, ...] = ()
    _COMMAND = ("perf", "stat", "--field-separator=,", "--event=instructions:u")

    @classmethod
    def is_there(cls) -> bool:
        """False where the system has no counter for us, as in most containers and virtual machines."""
        if shutil.which("perf") is None:
            return False
        tried = subprocess.run([*cls._COMMAND, "true"], stderr=subprocess.PIPE, text=True)
        return re.search(r"^\d+,", tried.stderr, re.MULTILINE) is not None

    @contextlib.contextmanager
    def counting(self, pid: int) -> Iterator[list[int]]:
        counted: list[int] = []
        process = subprocess.Popen([*self._COMMAND, f"--pid={pid}"], stderr=subprocess.PIPE, text=True)
        time.sleep(0.2)  # perf does not tell when it has begun
        yield counted
        process.send_signal(signal.SIGINT)
        counted += [int(count) for count in re.findall(r"^(\d+),", process.communicate()[1], re.MULTILINE)]


class Callgrind:
    """valgrind's counter: a dump tells what was counted since the last one."""

    _DUMP = ("callgrind_control", "--dump")

    def __init__(self, folder: Path) -> None:
        self._dumps = folder / "callgrind"
        self.prefix: tuple[str, ...] = (
            "valgrind",
            "--quiet",
            "--tool=callgrind",
            f"--callgrind-out-file={self._dumps}",
        )

    @contextlib.contextmanager
    def counting(self, pid: int) -> Iterator[list[int]]:
        counted: list[int] = []
        self._dump(pid)
        yield counted
        counted.append(self._dump(pid))

    def _dump(self, pid: int) -> int:
        subprocess.run([*self._DUMP, str(pid)], check=True, capture_output=True)
        newest = max(self._dumps.parent.glob("callgrind.*"), key=lambda path: int(path.suffix[1:]))
        return int(re.findall(r"^totals: (\d+)", newest.read_text(), re.MULTILINE)[0])


def counter_of(folder: Path) -> Counter:
    if Perf.is_there():
        return Perf()
    if shutil.which("valgrind") is None:
        raise SystemExit("Neither does perf count instructions here, nor is valgrind installed.")
    return Callgrind(folder)


def ask(connection: socket.socket, request: bytes) -> None:
    connection.sendall(request)
    answer = bytearray()
    while not is_whole(answer):
        piece = connection.recv(2**16)
        assert piece, "the gateway hung up"
        answer += piece
    assert answer.startswith(b"HTTP/1.1 200"), bytes(answer[:300])


def instructions_a_request(counter: Counter, pid: int, port: int, request: bytes, requests: int) -> float:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(WARM_UP):
            ask(connection, request)
        with counter.counting(pid) as idle:
            time.sleep(IDLE_S)
        began_s = time.monotonic()
        with counter.counting(pid) as busy:
            for _ in range(requests):
                ask(connection, request)
        elapsed_s = time.monotonic() - began_s
    return (busy[0] - idle[0] / IDLE_S * elapsed_s) / requests


def main() -> None:
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS
    os.environ |= SAME_IN_EVERY_RUN
    with (
        tempfile.TemporaryDirectory(dir=".") as name,
        running(LOAD_CPU, sys.executable, str(HERE / "mock_vllm.py"), "0") as (_, upstream_port),
    ):
        config, key = gateway_files(Path(name), upstream_port)
        counter = counter_of(Path(name).absolute())
        serve = (sys.executable, str(HERE / "unclocked.py"), "serve", "--config", str(config))
        with running(GATEWAY_CPU, *counter.prefix, *serve) as (gateway, port):
            cases = {
                "unary": chat("/v1/chat/completions", key),
                "stream of 64 tokens": chat("/v1/chat/completions", key, stream=True),
                "the same by messages": chat("/v1/messages", key, stream=True),
                "the same by responses": response(key, stream=True),
                "MCP tools/call": tool_call(key),
                "tools/call, collected": tool_call(key, max_tokens=65),
            }
            print(f"instructions a request, by {type(counter).__name__.lower()}:")
            for case, request in cases.items():
                count = instructions_a_request(counter, gateway.pid, int(port), request, requests)
                print(f"{case:<24}{count:>12,.0f}", flush=True)


if __name__ == "__main__":
    main()
