"""What it costs that several gateways are one: on PostgreSQL and Valkey, one and two, beside one with a file.

    PYTHONPATH=. python benchmarks/replicas.py [SECONDS]

Whole gateways before a mock upstream that answers after 20 ms: requests a second and CPU of the gateways' processes.
Then ledgers alone, each in a process of its own, on one wallet: requests settled a second, and how long a hold takes
beside a commit, with the disk as it is and with 2 ms more for each commit. Where there are four cores, gateways, load
and upstream have their own. Absolute figures belong to one machine.
"""

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import asyncpg
import uvloop
from doors import HERE, Result, chat, cpu_s, gateway_files, load, quantile_ms, running  # type: ignore[import-not-found]

from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.ids import new_id, now_ms
from mcp_gateway.core.ledger.shared import SharedLedger
from mcp_gateway.core.record import RequestRecord
from mcp_gateway.core.store.postgres.executors import EXECUTORS
from mcp_gateway.core.store.postgres.session import WriterSession
from mcp_gateway.core.store.postgres.store import PostgresStore
from tests.postgres_server import PostgresServer
from tests.valkey_server import ValkeyServer

CONNECTIONS = (8, 64)
"""Of each gateway: with few, the upstream is what is waited for."""
AT_ONCE = 64
COMMITS = 200
CORES = sorted(os.sched_getaffinity(0))
ENOUGH = 4
"""Cores, for gateways, load and upstream to have their own."""
URLS = ("GATEWAY_DATABASE_URL", "GATEWAY_VALKEY_URL")


def core(number: int) -> int:
    """Where there are enough; else whichever the system chooses, by a number that no machine has."""
    return CORES[number % len(CORES)] if len(CORES) >= ENOUGH else 10**6


@contextlib.contextmanager
def gateways(count: int, upstream_port: str, engines: dict[str, str]) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """A key, and the process id and the port of each."""
    with contextlib.ExitStack() as stack:
        os.environ.update(engines)
        stack.callback(lambda: [os.environ.pop(name, None) for name in engines])
        found: list[tuple[int, int]] = []
        keys = []
        for number in range(count):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=".")))
            config, key = gateway_files(folder, upstream_port)
            keys.append(key)
            serve = (sys.executable, "-m", "mcp_gateway", "serve", "--config", str(config))
            process, port = stack.enter_context(running(core(number), *serve))
            found.append((process.pid, int(port)))
        yield keys[0], found


async def asked(key: str, found: list[tuple[int, int]], connections: int, seconds: float) -> tuple[float, float, float]:
    """Requests a second of all, microseconds of CPU of a gateway for each, milliseconds that the median takes."""
    request = chat("/v1/chat/completions", key, model="brief")

    async def of_all(seconds: float) -> list[Result]:
        return await asyncio.gather(*(load(port, request, connections, seconds) for _, port in found))

    await of_all(seconds / 4)
    used_s = sum(cpu_s(pid) for pid, _ in found)
    results = await of_all(seconds)
    used_s = sum(cpu_s(pid) for pid, _ in found) - used_s
    assert not sum(one.failed for one in results)
    latencies_s = [latency_s for one in results for latency_s in one.latencies_s]
    return sum(one.rate for one in results), 1e6 * used_s / len(latencies_s), quantile_ms(latencies_s, 0.5)


def whole(server: PostgresServer, valkey: ValkeyServer, seconds: float) -> None:
    """Print what whole gateways do."""
    with running(core(-1), sys.executable, str(HERE / "mock_vllm.py"), "0") as (_, upstream_port):
        shared = dict(zip(URLS, (server.make(), valkey.url()), strict=True))
        cases: Sequence[tuple[str, int, dict[str, str]]] = (
            ("one with a file", 1, {}),
            ("one replica", 1, shared),
            ("two replicas", 2, shared),
        )
        print(f"{'20 ms upstream, connections of each':<40}{'req/s':>8}{'CPU us':>8}{'p50 ms':>8}")
        for name, count, engines in cases:
            with gateways(count, upstream_port, engines) as (key, found):
                for connections in CONNECTIONS:
                    rate, cpu_us, p50_ms = uvloop.run(asked(key, found, connections, seconds))
                    print(f"{name + f', {connections}':<40}{rate:>8.0f}{cpu_us:>8.0f}{p50_ms:>8.1f}", flush=True)


async def settle(url: str, account_id: str, seconds: float) -> dict[str, float]:
    """In a process of its own: requests a second, and what each waited for its hold and for its settlement, in ms."""
    session = WriterSession(url, is_server=True, is_shared=True)
    store = await PostgresStore.open(url, EXECUTORS, session=session, now_ms=now_ms)
    ledger = SharedLedger(store, lambda: store.replica, lambda: True)
    holds_s: list[float] = []
    settlements_s: list[float] = []

    async def client() -> None:
        while time.perf_counter() < end_s:
            request_id, began_s = new_id("req"), time.perf_counter()
            hold = await ledger.hold(request_id, account_id, 1000, 20_000)
            held_s = time.perf_counter()
            record = RequestRecord(
                request_id, None, account_id, "key_benchmark", "model", "vllm-1", "50000/150000", "http", False, 12, 64,
                None, 10_200, now_ms(), 5, None, 200, None, "stop",
            )  # fmt: skip
            await ledger.settle(hold, 10_200, record)
            holds_s.append(held_s - began_s)
            settlements_s.append(time.perf_counter() - held_s)

    for lasts_s in (seconds / 4, seconds):
        holds_s.clear()
        settlements_s.clear()
        began_s = time.perf_counter()
        end_s = began_s + lasts_s
        await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    rate = len(holds_s) / (time.perf_counter() - began_s)
    await store.close()
    return {
        "rate": rate, "hold p99": quantile_ms(holds_s, 0.99), "settled p50": quantile_ms(settlements_s, 0.5),
    }  # fmt: skip


async def made_account(url: str) -> str:
    store = await PostgresStore.open(url, EXECUTORS, session=WriterSession(url, is_server=False), now_ms=now_ms)
    account = await Accounts(store, new_id=new_id, now_ms=now_ms).create("benchmark")
    await SharedLedger(store, lambda: None, lambda: True).credit(account.id, 10**15, "start")
    await store.close()
    return account.id


async def commit_ms(url: str) -> float:
    """What one takes at its median, alone."""
    connection = await asyncpg.connect(url, server_settings={"synchronous_commit": "on"})
    await connection.execute("CREATE TABLE IF NOT EXISTS commits (number int)")
    took_s = []
    for number in range(COMMITS):
        began_s = time.perf_counter()
        await connection.execute(f"INSERT INTO commits VALUES ({number})")
        took_s.append(time.perf_counter() - began_s)
    await connection.execute("DROP TABLE commits")
    await connection.close()
    return statistics.median(took_s) * 1000


def on_one_wallet(server: PostgresServer, seconds: float) -> None:
    """Print what one and two ledgers do."""
    print(f"\n{'one wallet, 64 at once of each':<40}{'settled/s':>10}{'hold p99 ms':>13}{'settled p50':>13}")
    for name, delay_us in (("the disk as it is", 0), ("2 ms more for a commit", 2000)):
        server.admin.run(f"ALTER SYSTEM SET commit_delay = {delay_us}")
        server.admin.run("ALTER SYSTEM SET commit_siblings = 0")
        server.admin.run("SELECT pg_reload_conf()")
        url = server.make()
        account_id = uvloop.run(made_account(url))
        print(f"{name}: a commit takes {uvloop.run(commit_ms(url)):.2f} ms")
        for count in (1, 2):
            command = [sys.executable, __file__, "settle", url, account_id, str(seconds)]
            running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
            told = [json.loads(process.communicate()[0]) for process in running]
            rate, worst_ms = sum(one["rate"] for one in told), max(one["hold p99"] for one in told)
            p50_ms = max(one["settled p50"] for one in told)
            print(f"{f'{count} processes':<40}{rate:>10.0f}{worst_ms:>13.2f}{p50_ms:>13.2f}", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["settle"]:
        _, _, url, account_id, lasts_s = sys.argv
        print(json.dumps(uvloop.run(settle(url, account_id, float(lasts_s)))))
        return
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 4.0
    server = PostgresServer()
    try:
        for setting in ("fsync = on", "full_page_writes = on"):
            server.admin.run(f"ALTER SYSTEM SET {setting}")
        server.admin.run("SELECT pg_reload_conf()")
        with tempfile.TemporaryDirectory() as folder:
            valkey = ValkeyServer(Path(folder))
            try:
                whole(server, valkey, seconds)
            finally:
                valkey.end()
        on_one_wallet(server, seconds)
    finally:
        server.end()


if __name__ == "__main__":
    main()
