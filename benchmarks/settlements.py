"""What a settled request costs on PostgreSQL, beside SQLite: requests a second, waits, CPU of both sides, trips.

    python -m benchmarks.settlements [SECONDS]

Each request holds, settles durably and is recorded, as under the gateway. CPU is that of this process with all of its
threads, and, apart from it, that of PostgreSQL's process for the writer, by /proc. A trip is one wait for PostgreSQL's
answer. PostgreSQL is on the same machine, its data on the disk of the temporary folder and flushed at each commit.
Absolute figures belong to one machine; what travels is how the engines compare, and how many trips a batch takes.
"""

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import psutil
import uvloop

from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.ids import new_id, now_ms
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.ledger.shared import SharedLedger
from mcp_gateway.core.record import RequestRecord
from mcp_gateway.core.store.postgres.executors import EXECUTORS as OF_POSTGRES
from mcp_gateway.core.store.postgres.link import PostgresLink
from mcp_gateway.core.store.postgres.session import WriterSession
from mcp_gateway.core.store.postgres.store import PostgresStore
from mcp_gateway.core.store.sqlite.executors import EXECUTORS as OF_SQLITE
from mcp_gateway.core.store.sqlite.store import Store
from tests.postgres_server import PostgresServer

CONCURRENCIES = (1, 64)
ACCOUNTS = (1, 100)
OpenEngine = Store | PostgresStore


class Counted(NamedTuple):
    """What was used until now."""

    cpu_s: float
    server_cpu_s: float
    trips: int
    batches: int


class CountedLink(PostgresLink):
    """One whose waits for answers are counted."""

    trips = 0

    def _run(self, work):  # type: ignore[no-untyped-def]
        self.trips += 1
        return super()._run(work)


class CountedSession(WriterSession):
    """One that knows how often it was begun."""

    def __init__(self, url: str) -> None:
        super().__init__(url, is_server=False)
        self.counted_link = self.link = CountedLink(self.link._where)

    def counted(self) -> Counted:
        times = psutil.Process(self.link.process_id).cpu_times()
        return Counted(time.process_time(), times.user + times.system, self.counted_link.trips, self._batch)


async def request(ledger: Ledger, account_id: str) -> float:
    """Returns how long its settlement took."""
    request_id = new_id("req")
    hold = await ledger.hold(request_id, account_id, 1000, 20_000)
    began_s = time.perf_counter()
    record = RequestRecord(
        request_id, None, account_id, "key_benchmark", "model", "vllm-1", "50000/150000", "http", False, 12, 64, None,
        10_200, now_ms(), 5, None, 200, None, "stop",
    )  # fmt: skip
    await ledger.settle(hold, 10_200, record)
    return time.perf_counter() - began_s


async def measure(store: OpenEngine, session: CountedSession | None, accounts: int, concurrency: int, s: float) -> str:
    """A line of the table."""
    made = [await Accounts(store, new_id=new_id, now_ms=now_ms).create(f"account {one}") for one in range(accounts)]
    ledger = Ledger(store)
    for account in made:
        await ledger.credit(account.id, 10**15, f"credit of {account.id}")
    waits_s: list[float] = []

    async def client(number: int) -> None:
        while time.perf_counter() < end_s:
            number += concurrency
            waits_s.append(await request(ledger, made[number % accounts].id))

    def counted() -> Counted:
        return Counted(time.process_time(), 0, 0, 0) if session is None else session.counted()

    end_s = time.perf_counter() + s / 4
    await asyncio.gather(*(client(number) for number in range(concurrency)))
    waits_s.clear()
    before, began_s = counted(), time.perf_counter()
    end_s = began_s + s
    await asyncio.gather(*(client(number) for number in range(concurrency)))
    elapsed_s, after = time.perf_counter() - began_s, counted()
    assert await ledger.check() == []
    count, batches = len(waits_s), max(1, after.batches - before.batches)
    waits_s.sort()
    us = 1e6 * (after.cpu_s - before.cpu_s)
    line = (
        f"{count / elapsed_s:>10.0f}{waits_s[count // 2] * 1000:>9.2f}{waits_s[count * 99 // 100] * 1000:>9.2f}"
        f"{us / count:>10.1f}"
    )
    if session is None:
        return line
    server_us = 1e6 * (after.server_cpu_s - before.server_cpu_s) / count
    return f"{line}{server_us:>10.1f}{us / batches:>10.0f}{(after.trips - before.trips) / batches:>8.1f}"


@contextlib.asynccontextmanager
async def embedded(folder: Path) -> AsyncIterator[tuple[Store, None]]:
    store = await Store.open(folder / "ledger.sqlite3", OF_SQLITE, now_ms=now_ms)
    yield store, None
    await store.close()


@contextlib.asynccontextmanager
async def on_postgres(server: PostgresServer) -> AsyncIterator[tuple[PostgresStore, CountedSession]]:
    url = server.make()
    session = CountedSession(url)
    store = await PostgresStore.open(url, OF_POSTGRES, session=session, now_ms=now_ms)
    yield store, session
    await store.close()


async def run(server: PostgresServer | None, accounts: int, concurrency: int, s: float) -> str:
    with tempfile.TemporaryDirectory() as name:
        opened = embedded(Path(name)) if server is None else on_postgres(server)
        async with opened as (store, session):
            return await measure(store, session, accounts, concurrency, s)


async def of_replicas(server: PostgresServer, replicas: int, accounts: int, concurrency: int, s: float) -> float:
    """Requests settled a second by so many servers that share a database, all in this process."""
    async with contextlib.AsyncExitStack() as opened:
        url, ledgers = server.make(), []
        for _ in range(replicas):
            session = WriterSession(url, is_server=True, is_shared=True)
            store = await PostgresStore.open(url, OF_POSTGRES, session=session, now_ms=now_ms)
            opened.push_async_callback(store.close)
            ledgers.append(SharedLedger(store, lambda store=store: store.replica, lambda: True))  # type: ignore[misc]
        made = [await Accounts(store, new_id=new_id, now_ms=now_ms).create(f"account {one}") for one in range(accounts)]
        for account in made:
            await ledgers[0].credit(account.id, 10**15, f"credit of {account.id}")
        counts = 0

        async def client(ledger: Ledger, number: int) -> None:
            nonlocal counts
            while time.perf_counter() < end_s:
                number += concurrency
                await request(ledger, made[number % accounts].id)
                counts += 1

        end_s = time.perf_counter() + s / 4
        for _ in range(2):
            began_s, counts = time.perf_counter(), 0
            await asyncio.gather(*(client(ledger, one) for ledger in ledgers for one in range(concurrency)))
            elapsed_s = time.perf_counter() - began_s
            end_s = time.perf_counter() + s
        assert await ledgers[0].check() == []
        return counts / elapsed_s


def main() -> None:
    s = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    server = PostgresServer()
    try:
        for setting in ("fsync = on", "full_page_writes = on"):
            server.admin.run(f"ALTER SYSTEM SET {setting}")
        server.admin.run("SELECT pg_reload_conf()")
        heads = ("settled/s", "p50 ms", "p99 ms", "CPU us", "server's", "us/batch", "trips")
        print(
            f"{'':<32}{heads[0]:>10}{heads[1]:>9}{heads[2]:>9}{heads[3]:>10}{heads[4]:>10}{heads[5]:>10}{heads[6]:>8}"
        )
        for accounts in ACCOUNTS:
            for concurrency in CONCURRENCIES:
                for engine, where in (("SQLite", None), ("PostgreSQL", server)):
                    told = uvloop.run(run(where, accounts, concurrency, s))
                    print(f"{engine:<12}{accounts:>4} wallets {concurrency:>3} at once {told}", flush=True)
        server.admin.run("ALTER SYSTEM SET commit_delay = 2000")
        server.admin.run("ALTER SYSTEM SET commit_siblings = 0")
        server.admin.run("SELECT pg_reload_conf()")
        print("\nServers that share a database, 64 requests at once each, 2 ms more for a commit:")
        for accounts in ACCOUNTS:
            for replicas in (1, 2):
                rate = uvloop.run(of_replicas(server, replicas, accounts, CONCURRENCIES[-1], s))
                print(f"{replicas} servers {accounts:>4} wallets {rate:>10.0f} a second", flush=True)
    finally:
        server.end()


if __name__ == "__main__":
    main()
