"""What a request pays for its ledger: settled requests a second, waits and CPU, and a bare fsync beside them.

    python benchmarks/ledger.py [FOLDER]     (FOLDER on the disk that is to be measured)

Each request holds, settles durably and is recorded, as under the gateway; CPU counts the client's few microseconds too.
Absolute figures belong to one machine; what travels is how the wait compares with the fsync, and how throughput grows
with requests at once. p99 is of the settlement. Then what a priced request leaves in the database, by table and index:
20 accounts with two keys each and three models, at the pace of a million requests in 30 days.
"""

import asyncio
import contextlib
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.ids import first_id_at, new_id, now_ms
from mcp_gateway.core.ledger.entries import Settle
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.ledger.rules import Amount
from mcp_gateway.core.record import RequestRecord
from mcp_gateway.core.store.sqlite.executors import EXECUTORS
from mcp_gateway.core.store.sqlite.store import Store

SECONDS = 3.0
CONCURRENCIES = (1, 4, 16, 32, 128)
KEPT_REQUESTS = 60_000
AT_ONCE = 500
PACE_MS = 30 * 86_400_000 / 1_000_000
BACKEND_MODELS = ("gwmm/gemma-4-12b-it", "gwmm/qwen3-30b-a3b", "gwmm/llama-3.3-70b")


def fsync_ms(folder: Path) -> float:
    """The median time of a write of 4 KiB and its fsync."""
    times = []
    with (folder / "fsync").open("wb") as file:
        for _ in range(200):
            file.write(b"x" * 4096)
            file.flush()
            start_s = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - start_s)
    return statistics.median(times) * 1000


async def request(ledger: Ledger, account_id: str, holds_s: list[float], settles_s: list[float]) -> None:
    request_id = new_id("req")
    start_s = time.perf_counter()
    hold = await ledger.hold(request_id, account_id, 1000, 20_000)
    held_s = time.perf_counter()
    record = RequestRecord(
        request_id, None, account_id, "key_benchmark", "model", "vllm-1", "50000/150000", "http", False, 12, 64, None,
        10_200, now_ms(), 5, None, 200, None, "stop",
    )  # fmt: skip
    await ledger.settle(hold, 10_200, record)
    holds_s.append(held_s - start_s)
    settles_s.append(time.perf_counter() - held_s)


async def measure(folder: Path, concurrency: int) -> tuple[float, float, float, float, float]:
    """Requests a second, waits in ms (hold's median, settlement's median and p99), and CPU microseconds a request."""
    store = await Store.open(folder / f"ledger-{concurrency}.sqlite3", EXECUTORS, now_ms=now_ms)
    account = await Accounts(store, new_id=new_id, now_ms=now_ms).create("benchmark")
    ledger = Ledger(store)
    await ledger.credit(account.id, 10**15, "benchmark")
    holds_s: list[float] = []
    settles_s: list[float] = []
    end_s = time.perf_counter() + SECONDS

    async def client() -> None:
        while time.perf_counter() < end_s:
            await request(ledger, account.id, holds_s, settles_s)

    start_s, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    elapsed_s, used_s = time.perf_counter() - start_s, time.process_time() - cpu_s
    assert await ledger.check() == []
    await store.close()
    count = len(holds_s)
    settles_s.sort()
    hold_ms, settle_ms = statistics.median(holds_s) * 1000, settles_s[count // 2] * 1000
    return count / elapsed_s, hold_ms, settle_ms, settles_s[count * 99 // 100] * 1000, used_s / count * 1e6


def record_of(number: int, account_id: str, key_id: str) -> RequestRecord:
    """The request with this number, in the shape that a gateway with a few backends records."""
    at_ms = 1_800_000_000_000 + int(number * PACE_MS)
    request_id = f"{first_id_at('req', at_ms)}{os.urandom(10).hex()}"
    return RequestRecord(
        request_id, None, account_id, key_id, BACKEND_MODELS[number % 3], "10.0.0.5:8000", "50000/150000", "http",
        True, 300 + number % 700, 150 + number % 350, 128, 1_000_000 + number, at_ms, 2345, 123, 200, None,
        "stop",
    )  # fmt: skip


async def fill(path: Path) -> float:
    """Settled and recorded requests a second, as many at once as a burst takes."""
    store = await Store.open(path, EXECUTORS, now_ms=now_ms)
    accounts = [await Accounts(store, new_id=new_id, now_ms=now_ms).create(f"account {number}") for number in range(20)]
    ledger = Ledger(store)
    for account in accounts:
        await ledger.credit(account.id, 10**16, f"credit of {account.id}")
    keys = [(account.id, new_id("key")) for account in accounts for _ in range(2)]
    records = [record_of(number, *keys[number * 7 % len(keys)]) for number in range(KEPT_REQUESTS)]
    start_s = time.perf_counter()
    for first in range(0, KEPT_REQUESTS, AT_ONCE):
        await asyncio.gather(*(
            store.write(Settle(record.id, record.account_id, Amount(record.cost_nano), record))
            for record in records[first : first + AT_ONCE]
        ))  # fmt: skip
    elapsed_s = time.perf_counter() - start_s
    assert await ledger.check() == []
    await store.close()
    return KEPT_REQUESTS / elapsed_s


def bytes_of_each(path: Path) -> dict[str, float]:
    """What each table and index has for a request, of those that have grown."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT name, SUM(pgsize) FROM dbstat GROUP BY name ORDER BY 2 DESC").fetchall()
    return {name: size / KEPT_REQUESTS for name, size in found if size / KEPT_REQUESTS >= 1}


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else ".") as name:
        folder = Path(name)
        print(f"bare fsync of 4 KiB: {fsync_ms(folder):.3f} ms (median)\n")
        print(f"{'at once':>8}{'settled/s':>12}{'hold ms':>10}{'settle ms':>11}{'p99':>9}{'CPU us':>9}")
        for concurrency in CONCURRENCIES:
            rate, hold_ms, settle_ms, p99_ms, cpu_us = uvloop.run(measure(folder, concurrency))
            print(f"{concurrency:>8}{rate:>12.0f}{hold_ms:>10.3f}{settle_ms:>11.3f}{p99_ms:>9.3f}{cpu_us:>9.0f}")
        path = folder / "kept.sqlite3"
        rate = uvloop.run(fill(path))
        sizes = bytes_of_each(path)
        print(f"\n{KEPT_REQUESTS} requests kept: {rate:.0f} a second, {sum(sizes.values()):.0f} bytes each:")
        for name, size in sizes.items():
            print(f"{size:>8.0f}  {name}")


if __name__ == "__main__":
    main()
