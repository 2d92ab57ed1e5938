"""Another client, in a process of its own, which asks the server for little and notes how long it was kept waiting.

    python pinger.py PORT PID

For each line that comes in it tells the worst since the last one, as `pings held_ms waited_ms`. `waited_ms` is by the
clock. `held_ms` is the CPU time that the server's event loop used between a ping and its answer: what it did instead of
answering, however busy the machine is. Only the standard library is imported, so that it is there at once.
"""

import contextlib
import select
import socket
import sys
import time
from pathlib import Path

PING = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
END = b'"health"'
INTERVAL_S = 0.005


def loop_cpu_ns(pid: int) -> int:
    """CPU time of the main thread, in which the event loop runs."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])
    return 0


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
            before_ns, began_s = loop_cpu_ns(pid), time.perf_counter()
            ping(connection)
            waited_s = max(waited_s, time.perf_counter() - began_s)
            held_ns = max(held_ns, loop_cpu_ns(pid) - before_ns)
            pings += 1
        if not sys.stdin.readline():
            return
        print(pings, held_ns / 1e6, waited_s * 1000, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
