"""Another client, in a process of its own, which asks the server for little and notes how long it was kept waiting.

    python pinger.py PORT PID

For each line that comes in it tells the worst since the last one, as `pings held_ms waited_ms`. `waited_ms` is by the
clock. `held_ms` is the CPU time that the server's event loop used between a ping and its answer, less the time for
which this process could have run and did not: what it did instead of answering, however busy the machine is. Only the
standard library is imported, so that it is there at once.
"""

import contextlib
import os
import select
import socket
import sys
import time
from pathlib import Path

PING = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
END = b'"health"'
INTERVAL_S = 0.005


def schedule_ns(pid: int) -> tuple[int, int]:
    """How long the main thread of a process has run, and how long it was ready to and had to wait."""
    with contextlib.suppress(OSError):
        ran_ns, waited_ns, _ = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()
        return int(ran_ns), int(waited_ns)
    return 0, 0


def held_since(pid: int, before_ns: int) -> int:
    """What the server did since then, but for what it did while this process was kept from running."""
    return schedule_ns(pid)[0] - schedule_ns(os.getpid())[1] - before_ns


def ping(connection: socket.socket) -> None:
    connection.sendall(PING)
    answer = b""
    while END not in answer:
        piece = connection.recv(65536)
        if not piece:
            raise SystemExit("the server hung up on a client that did nothing wrong")
        answer += piece


def main(port: int, pid: int) -> None:
    connection = socket.create_connection(("127.0.0.1", port))
    while True:
        pings, held_ns, waited_s = 0, 0, 0.0
        while not select.select([sys.stdin], [], [], INTERVAL_S)[0]:
            before_ns, began_s = held_since(pid, 0), time.perf_counter()
            ping(connection)
            waited_s = max(waited_s, time.perf_counter() - began_s)
            held_ns = max(held_ns, held_since(pid, before_ns))
            pings += 1
        if not sys.stdin.readline():
            return
        print(pings, held_ns / 1e6, waited_s * 1000, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
