"""Ten million requests of one account: what a start, reports, pages and a check of the books cost, beside chats.

    python benchmarks/history.py [REQUESTS] [FOLDER]     (FOLDER on the disk to be measured; 3 GB)

A gateway is served from a folder of its own; between two runs of it 90 days of requests by three keys and four models,
of which one in fifty failed, are written into its database with their entries in the ledger and the sums of hours and
days. Then reports and pages are asked for over HTTP, CPU being that of the gateway's process, and chats one after the
other: alone, while somebody asks for the dearest page all the time, and while the books are checked. Absolute figures
belong to one machine; how they compare travels.
"""

import os
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from mcp_gateway.core.observe.daily_sums import SumUpDays
from mcp_gateway.core.store.names import Numbers
from mcp_gateway.core.store.sqlite.executors import EXECUTORS
from mcp_gateway.core.store.transaction import Transaction

DAYS = 90
KEYS = 3
MODELS = ("demo/echo", "org/large", "org/small", "org/vision:free")
TIMES = 9
CHATS = 300
PASSWORD = "a quiet river in May"  # noqa: S105
FILL = """
INSERT INTO request_rows
WITH RECURSIVE number (n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM number WHERE n + 1 < :requests)
SELECT
    :account, printf('req_%012x%020x', :since_ms + n * :every_ms, n), NULL,
    CASE n % 3 WHEN 0 THEN :k0 WHEN 1 THEN :k1 ELSE :k2 END, 'http',
    CASE n % 4 WHEN 0 THEN :m0 WHEN 1 THEN :m1 WHEN 2 THEN :m2 ELSE :m3 END, :backend, 1,
    500 + n % 700, 100 + n % 300, NULL, IIF(n % 50, 100000 + n % 99999, 0), :price,
    CAST(:since_ms + n * :every_ms AS INTEGER),
    700 + n * 7919 % 9000, 60 + n * 7919 % 900, IIF(n % 50, 200, 502), IIF(n % 50, NULL, 'backend_error'), 'stop', NULL
FROM number
"""
CREDIT_NANO = 10**15
BOOK = """
INSERT INTO ledger_rows (
    account_number, kind, reference, paid_nano, granted_nano, held_nano, revenue_nano, grant_source_nano, clearing_nano,
    created_at_ms
)
SELECT :account, 'credit', 'history', :credit, 0, 0, 0, 0, -:credit, CAST(:since_ms AS INTEGER) UNION ALL
SELECT account_number, 'settle', id, -cost_nano, 0, 0, cost_nano, 0, 0, started_at_ms + latency_ms
FROM request_rows WHERE cost_nano
"""
FUND = """
INSERT INTO wallets VALUES (:account_id, (SELECT SUM(paid_nano) FROM ledger_rows), 0, 0)
ON CONFLICT (account_id) DO UPDATE SET paid_nano = excluded.paid_nano
"""
SUMS = "COUNT(*), SUM(prompt_tokens), SUM(completion_tokens), 0, SUM(cost_nano)"
SUM = f"""
INSERT INTO hourly_usage
SELECT account_id, started_at_ms / 3600000, key_id, model, {SUMS} FROM requests GROUP BY 1, 2, 3, 4
"""
SUM_FAILED = f"""
INSERT INTO hourly_parts SELECT account_id, started_at_ms / 3600000, key_id, model, '', http_status, {SUMS}
FROM requests WHERE http_status <> 200 GROUP BY 1, 2, 3, 4, 6
"""
TRIGGERS = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'request_rows'"
SETTINGS = {
    "GATEWAY_USERS__REGISTRATION": "open",
    "GATEWAY_LIMITS__LISTING_REQUESTS_PER_MINUTE": "1000000",
    "GATEWAY_LIMITS__REQUESTS_PER_MINUTE": "1000000",
    "GATEWAY_LIMITS__REQUESTS_PER_DAY": "100000000",
}


def fill(path: Path, account_id: str, key_ids: list[str], requests: int) -> None:
    """Write them without the triggers that sum each up by itself, which stand again afterwards."""
    since_ms = int(time.time() * 1000) - DAYS * 86_400_000
    values: dict[str, Any] = {"requests": requests, "since_ms": since_ms, "every_ms": DAYS * 86_400_000 / requests}
    names = {"account": account_id, **{f"k{place}": key_id for place, key_id in enumerate(key_ids)}}
    names |= {f"m{place}": model for place, model in enumerate(MODELS)} | {"backend": "vllm-1", "price": "1/2"}
    with sqlite3.connect(path, isolation_level=None) as database:
        triggers = database.execute(TRIGGERS).fetchall()
        database.execute("PRAGMA synchronous = OFF")
        database.execute("BEGIN")
        for name, _ in triggers:
            database.execute(f"DROP TRIGGER {name}")
        numbers = Numbers(database)[tuple(names.values())]
        database.execute(FILL, values | dict(zip(names, numbers, strict=True)))
        database.execute(BOOK, values | {"account": numbers[0], "credit": CREDIT_NANO})
        database.execute(FUND, {"account_id": account_id})
        database.execute(SUM)
        Transaction(database, EXECUTORS, lambda: 0).run(SumUpDays(account_id, 0, int(time.time()) // 86_400))
        database.execute(SUM_FAILED)
        for _, sql in triggers:
            database.execute(sql)
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@contextmanager
def gateway(folder: Path) -> Iterator[tuple[httpx2.Client, int]]:
    """A served one, a client of it, and its process; it prints how long the start took."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mcp_gateway", "serve", "--port", str(port), "--data-dir", str(folder)]
    start_s = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | SETTINGS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
            while True:
                try:
                    client.get("/readyz").raise_for_status()
                    print(f"ready after {time.perf_counter() - start_s:.1f} s")
                    break
                except httpx2.HTTPError:
                    if process.poll() is not None:
                        raise SystemExit("the gateway did not start") from None
                    time.sleep(0.02)
            yield client, process.pid
    finally:
        process.terminate()
        process.wait()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(ask: Callable[[], object], pid: int) -> tuple[float, float, float]:
    """Median and longest time, and CPU for one, in ms."""
    ask()
    before_s, times_s = cpu_s(pid), []
    for _ in range(TIMES):
        start_s = time.perf_counter()
        ask()
        times_s.append(time.perf_counter() - start_s)
    return statistics.median(times_s) * 1000, max(times_s) * 1000, (cpu_s(pid) - before_s) / TIMES * 1000


def chats_ms(client: httpx2.Client, raw: str) -> list[float]:
    times = []
    body = {"model": "demo/echo", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    for _ in range(CHATS):
        start_s = time.perf_counter()
        client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {raw}"}).raise_for_status()
        times.append((time.perf_counter() - start_s) * 1000)
    return sorted(times)


def main() -> None:
    requests = int((sys.argv[1:2] or ["10_000_000"])[0])
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if sys.argv[2:] else None) as name:
        folder = Path(name)
        with gateway(folder) as (client, _):
            someone = {"email": "ada@example.com", "password": PASSWORD}
            told = client.post("/auth/register", json=someone).raise_for_status().json()
            signed_in = {"authorization": f"Bearer {told['token']}"}
            made = [
                client.post("/v1/keys", json={"name": str(place)}, headers=signed_in).raise_for_status().json()
                for place in range(KEYS)
            ]
        start_s = time.perf_counter()
        fill(folder / "gateway.sqlite3", told["user"]["account_id"], [key["id"] for key in made], requests)
        size = (folder / "gateway.sqlite3").stat().st_size
        print(f"{requests:,} requests, {size / 1e9:.1f} GB, written in {time.perf_counter() - start_s:.0f} s")
        with gateway(folder) as (client, pid):
            told = client.post("/auth/login", json=someone).raise_for_status().json()
            measure(client, pid, told["token"], made[0]["key"], made[0]["id"])
            measure_check(client, made[0]["key"], folder)


def measure(client: httpx2.Client, pid: int, token: str, raw: str, key_id: str) -> None:
    def ask(path: str) -> Callable[[], object]:
        return lambda: client.get(path, headers={"authorization": f"Bearer {token}"}).raise_for_status()

    dearest, since_s = "/console/usage?range=90d&by=key", int(time.time()) - DAYS * 86_400
    paths = [
        "/v1/usage?group_by=day,model",
        f"/v1/usage?group_by=day,model&since={since_s}",
        f"/v1/usage?group_by=day,model&latency=true&since={since_s}",
        "/console/usage?range=24h",
        "/console/usage?range=30d",
        dearest,
        f"/console/usage?range=90d&by=status&key={key_id}",
        "/v1/requests",
        "/console/requests",
        f"/console/requests?key={key_id}&status=502",
        "/console/keys",
    ]
    print(f"{'median':>8} {'longest':>8} {'CPU':>8}  ms")
    for path in paths:
        print("{:8.1f} {:8.1f} {:8.1f}".format(*measured(ask(path), pid)), path)
    print_chats("alone", chats_ms(client, raw))
    is_over = threading.Event()

    def press() -> None:
        with httpx2.Client(base_url=client.base_url, timeout=120, trust_env=False) as other:
            while not is_over.is_set():
                other.get(dearest, headers={"authorization": f"Bearer {token}"})

    pressing = threading.Thread(target=press)
    pressing.start()
    try:
        print_chats("beside the dearest page", chats_ms(client, raw))
    finally:
        is_over.set()
        pressing.join()


def measure_check(client: httpx2.Client, raw: str, folder: Path) -> None:
    """Of all entries, as `ledger check --all` reads them, too, once the gateway has closed months."""
    command = [sys.executable, "-m", "mcp_gateway", "ledger", "check", "--all", "--data-dir", str(folder)]
    print(f"ledger check --all, alone: {seconds_of(command):.1f} s")
    checking: list[float] = []
    thread = threading.Thread(target=lambda: checking.append(seconds_of(command)))
    thread.start()
    times: list[float] = []
    while thread.is_alive():
        times += chats_ms(client, raw)
    thread.join()
    print(f"ledger check --all, beside chats: {checking[0]:.1f} s")
    print_chats("beside it", sorted(times))


def seconds_of(command: list[str]) -> float:
    """Raises CalledProcessError where the books differ."""
    start_s = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start_s


def print_chats(name: str, times: list[float]) -> None:
    p95 = times[len(times) * 95 // 100]
    print(f"chats {name}: median {statistics.median(times):.1f}, p95 {p95:.1f}, longest {times[-1]:.1f} ms")


if __name__ == "__main__":
    main()
