"""The server under attack, honest callers beside the attackers, and what an attack may leave: nothing."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mcp_gateway.core.config import Settings
from mcp_gateway.core.gateway import open_desk
from tests.attack import pinger
from tests.attack.wire import Answer, ask, post
from tests.program import Program, Weight, running_program
from tests.serving import UNLIMITED

MIB = 2**20
CREDIT_NANO = 10**12
MESSAGES = [{"role": "user", "content": "hello"}]
CHAT = {"model": "demo/echo", "messages": MESSAGES}
MCP = "accept: application/json, text/event-stream"
MOST_HELD_MS = 100
"""Twice what one request may hold the event loop on an idle machine: what else runs shares the processor's caches."""
ATTEMPTS = 3
"""A bound on CPU time counts as broken when each of so many attempts has broken it."""
MOST_S = 240
"""No attack may last longer: the server is then stuck."""
LEFT_MIB = 48
"""What the allocator may keep of memory that was used for a while; attacks below try to leave several times that."""


@dataclass(frozen=True)
class Target:
    """The server, the raw keys of as many accounts, and what it weighed before anything was done to it."""

    program: Program
    keys: tuple[str, ...]
    calm: Weight

    @property
    def port(self) -> int:
        return self.program.port

    def key(self, number: int) -> str:
        """The headers of a key, which calls from an address of its own."""
        return f"authorization: Bearer {self.keys[number]}\r\nx-forwarded-for: 192.0.2.{number % len(self.keys)}"

    def most_grown_mib(self) -> float:
        return (self.program.peak_bytes() - self.calm.memory_bytes) / MIB

    async def chat(self, who: str) -> Answer | None:
        """What an honest caller's short request is answered."""
        return await ask(self.port, post("/v1/chat/completions", CHAT, who))

    async def serves(self, *callers: str) -> None:
        for who in callers:
            answer = await self.chat(who)
            assert answer is not None
            assert answer.status == 200, (who[:30], answer.body)


def guest(number: int) -> str:
    """The header of a guest with an address of its own."""
    return f"x-forwarded-for: 198.{18 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


UNBOUNDED = """
enable_vision = true
[guests]
requests_per_minute = 1000000
in_flight = 1000
in_flight_per_address = 1000
[limits]
listing_requests_per_minute = 1000000
keys_per_account = 1000000
minted_keys_per_minute = 1000000
minted_keys_per_account = 1000000
"""
"""No count stands in the way of an attack on something else."""
HONEST_GUEST = "x-forwarded-for: 203.0.113.7"


@contextlib.asynccontextmanager
async def attacked(
    folder: Path,
    settings: str = "",
    *,
    keys: int = 1,
    open_files: tuple[int, int] | None = None,
    left_mib: int = LEFT_MIB,
) -> AsyncIterator[Target]:
    """The real server with these further settings (TOML); when the attack is over, nothing of it may be left.

    Each of the `keys` has an account of its own. `left_mib` is what the allocator may keep of what was allowed.
    """
    config, log = folder / "gateway.toml", folder / "server.log"
    config.write_text(f'data_dir = "{folder}"\nport = 0\ntrusted_proxies = ["127.0.0.1"]\n{settings}')
    raw_keys = [await _make_key(folder) for _ in range(keys)]
    with _log_shown(log):
        async with running_program(config, log, open_files=open_files) as program:
            target = Target(program, tuple(raw_keys), await program.weight())
            await target.serves(target.key(0), HONEST_GUEST)
            target = Target(program, target.keys, await program.weight())
            async with asyncio.timeout(MOST_S):
                yield target
                await nothing_is_left(target, left_mib)
        assert [line for line in log.read_text().splitlines() if " ERROR " in line] == []
    await the_books_are_clean(folder)


@contextlib.contextmanager
def _log_shown(log: Path) -> Iterator[None]:
    """What the server complained of, beside the failure that it explains."""
    try:
        yield
    except BaseException as failure:
        _, error, told = log.read_text().partition(" ERROR ")
        failure.add_note((error + told)[:3000])
        raise


async def _make_key(folder: Path) -> str:
    async with open_desk(Settings.model_validate({"data_dir": folder})) as desk:
        account = (await desk.accounts.create("attacked")).id
        await desk.ledger.credit(account, CREDIT_NANO, account)
        return (await desk.keys.create(account, limits=UNLIMITED, may_mint_over_mcp=True))[1]


async def nothing_is_left(target: Target, left_mib: int) -> None:
    assert target.program.process.returncode is None, "the server died"
    left = await target.program.settled(lambda weight: weight.is_within(target.calm))
    assert left.is_within(target.calm), (target.calm, left)
    assert left.open_holds == 0
    assert (left.memory_bytes - target.calm.memory_bytes) / MIB < left_mib
    await target.program.end()


async def the_books_are_clean(folder: Path) -> None:
    async with open_desk(Settings.model_validate({"data_dir": folder})) as desk:
        assert await desk.ledger.check() == []


@dataclass(frozen=True)
class Pings:
    """Other clients' pings since the last look: how many, and the worst of them; see pinger.py."""

    count: int
    held_ms: float
    waited_ms: float


@dataclass(frozen=True)
class Pinger:
    process: asyncio.subprocess.Process

    async def look(self) -> Pings:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        count, held_ms, waited_ms = (await self.process.stdout.readline()).split()
        return Pings(int(count), float(held_ms), float(waited_ms))

    async def least_held_ms(self, attack: Callable[[], Awaitable[object]]) -> float:
        """What the attack holds the loop for: the least of some attempts, since the machine does other things too."""
        held_ms = []
        for _ in range(ATTEMPTS):
            await self.look()
            await attack()
            held_ms.append((await self.look()).held_ms)
            if held_ms[-1] < MOST_HELD_MS:
                break
        return min(held_ms)


@contextlib.asynccontextmanager
async def pinging(program: Program) -> AsyncIterator[Pinger]:
    """Another client asks all the while."""
    words = (sys.executable, "-IS", pinger.__file__, str(program.port), str(program.pid))
    process = await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    them = Pinger(process)
    try:
        await them.look()
        yield them
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
