"""What a request pays for limits that are shared, and how long it waits when Valkey fails.

    python -m benchmarks.limits

A pair is what one request needs: its admission and the end of its place; "with tokens" also their reservation and what
was used in the end, as for a chat whose tokens a minute are limited. CPU is that of this process, less that of the same
loop without limits; Valkey's is its own; of both it is the least of many short rounds, as others may use the
machine. Beside them the limiter in memory, and two PINGs, which are what asking costs at all. Absolute figures belong
to one machine; what travels is how many times that a pair costs.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import uvloop

from mcp_gateway.core.caller import Allowance, Caller, KeyHolder, Quota
from mcp_gateway.core.limits.limiter import Limiter, Turn
from mcp_gateway.core.limits.scripts import SCRIPTS
from mcp_gateway.core.limits.shared import SharedLimiter
from mcp_gateway.core.valkey.client import ANSWER_S, Valkey
from mcp_gateway.core.valkey_address import valkey_address
from tests.valkey_server import ValkeyServer

PAIRS = 6_400
CONCURRENCIES = (1, 8, 64)
ROUNDS = 15
MUCH = Allowance(10**9, 10**9, 10**12, 10**6, 10**9)
MICRO = 1_000_000
KEY = Caller("acc_1", KeyHolder("key_1"), (Quota("key", "key_1", MUCH),))
KEY_AND_ACCOUNT = Caller("acc_1", KeyHolder("key_2"), (Quota("key", "key_2", MUCH), Quota("account", "acc_1", MUCH)))
RESERVED, USED = 100, 70
"""Tokens."""
Admit = Callable[[Caller], Awaitable[Turn | None]]


class Replica:
    """A limiter on a Valkey, with what goes on beside it."""

    def __init__(self, server: ValkeyServer, answer_s: float = ANSWER_S) -> None:
        self.valkey = Valkey(valkey_address(server.url()), SCRIPTS, client_name="benchmark", answer_s=answer_s)
        self.limiter = SharedLimiter(self.valkey, time.time, guest_addresses_per_minute=1000)

    async def __aenter__(self) -> "Replica":
        await self.valkey.begin()
        self._loops = [asyncio.ensure_future(loop()) for loop in (self.limiter.watch, self.valkey.watch)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    async def server_cpu_s(self) -> float:
        told = await self.valkey.ask(("INFO", "cpu"))
        assert isinstance(told, bytes)
        facts = dict(line.split(b":", 1) for line in told.splitlines() if b":" in line)
        return float(facts[b"used_cpu_user"]) + float(facts[b"used_cpu_sys"])


async def nothing(_: Caller) -> None:
    await asyncio.sleep(0)


async def pairs(admit: Admit, who: Caller, concurrency: int, *, has_tokens: bool) -> tuple[float, float, list[float]]:
    """Seconds, CPU seconds, and what each admission waited for."""
    waits_s: list[float] = []

    async def client() -> None:
        for _ in range(PAIRS // concurrency // (4 if concurrency == 1 else 1)):
            began_s = time.perf_counter()
            turn = await admit(who)
            waits_s.append(time.perf_counter() - began_s)
            if turn is None:
                continue
            if has_tokens:
                if (pending := turn.reserve_tokens(RESERVED)) is not None:
                    await pending
                turn.true_up(USED)
            turn.release()

    began_s, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    return time.perf_counter() - began_s, time.process_time() - cpu_s, waits_s


async def cost(server: ValkeyServer) -> None:
    """A table of what a pair costs."""
    print(
        "| subjects | at once | Python us | in memory us | two PINGs us | Valkey us | pairs/s | admission p50/p99 us |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    memory = Limiter(time.time, guest_addresses_per_minute=1000)

    async def admit_in_memory(who: Caller) -> Turn:
        return memory.admit(who)

    async with Replica(server, answer_s=30) as replica:

        async def ping_twice(_: Caller) -> None:
            await replica.valkey.ask(("PING",))
            await replica.valkey.ask(("PING",))

        for who, has_tokens in ((KEY, False), (KEY_AND_ACCOUNT, False), (KEY_AND_ACCOUNT, True)):
            pairs_of = partial(pairs, who=who, has_tokens=has_tokens)
            for concurrency in CONCURRENCIES:
                costs, speeds = [], []
                for _ in range(ROUNDS):
                    _, floor_s, floors = await pairs_of(nothing, concurrency=concurrency)
                    _, memory_s, _ = await pairs_of(admit_in_memory, concurrency=concurrency)
                    _, pings_s, _ = await pairs_of(ping_twice, concurrency=concurrency)
                    before_s = await replica.server_cpu_s()
                    took_s, cpu_s, waits_s = await pairs_of(replica.limiter.admitted, concurrency=concurrency)
                    server_s = await replica.server_cpu_s() - before_s
                    number = len(floors)
                    waits_s.sort()
                    costs.append((cpu_s, floor_s, memory_s, pings_s, server_s))
                    speeds.append((number / took_s, waits_s[number // 2], waits_s[number * 99 // 100]))
                cpu_s, floor_s, memory_s, pings_s, server_s = map(min, zip(*costs, strict=True))
                python, pings = ((one_s - floor_s) / number * MICRO for one_s in (cpu_s, pings_s))
                alone, valkey = (one_s / number * MICRO for one_s in (memory_s, server_s))
                rate, p50_s, p99_s = map(statistics.median, zip(*speeds, strict=True))
                subjects = f"{len(who.quotas)}{', with tokens' * has_tokens}"
                print(
                    f"| {subjects} | {concurrency} | {python:.1f} | {alone:.1f} | {pings:.1f} | {valkey:.1f} "
                    f"| {rate:,.0f} | {p50_s * MICRO:.0f}/{p99_s * MICRO:.0f} |",
                    flush=True,
                )


async def failure(server: ValkeyServer, name: str, begin: Callable[[], None], end: Callable[[], None]) -> None:
    """The longest wait of 16 clients while Valkey is away for two seconds, and when it decides again."""
    waits: list[tuple[float, float]] = []
    is_over = False

    async with Replica(server) as replica:

        async def client() -> None:
            while not is_over:
                began_s = time.perf_counter()
                (await replica.limiter.admitted(KEY)).release()
                waits.append((began_s, time.perf_counter() - began_s))
                await asyncio.sleep(0.01)

        clients = [asyncio.ensure_future(client()) for _ in range(16)]
        await asyncio.sleep(0.5)
        waits.clear()
        began_s = time.perf_counter()
        begin()
        await asyncio.sleep(2)
        settled = sorted(wait_s for at_s, wait_s in waits if at_s > began_s + 0.5)
        await asyncio.to_thread(end)
        ended_s = time.perf_counter()
        while replica.limiter.is_alone or replica.limiter.owed:  # noqa: ASYNC110 - what is told has no event
            await asyncio.sleep(0.001)
        back_s = time.perf_counter() - ended_s
        is_over = True
        await asyncio.gather(*clients)
        print(
            f"{name}: the longest wait {max(wait_s for _, wait_s in waits) * 1000:.0f} ms, the median once it is known "
            f"{statistics.median(settled) * 1000:.2f} ms, exact again after {back_s * 1000:.0f} ms"
        )


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = ValkeyServer(Path(folder))
        try:
            await cost(server)
            await failure(server, "killed", server.kill, server.begin)
            await failure(server, "frozen", server.freeze, server.thaw)
        finally:
            server.end()


if __name__ == "__main__":
    uvloop.run(main())
