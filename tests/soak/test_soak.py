"""A long run at half the rate that this machine can, with backends and clients that fail in every way at random.

An attacker has a share of the traffic (attacker.py). Afterwards nothing may be left: no memory, socket, task, hold or
slot. Run by `make soak`, for SOAK_SECONDS (600).
"""

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx2
import orjson
import pytest

from mcp_gateway.core.config import Settings
from mcp_gateway.core.gateway import open_desk
from mcp_gateway.core.identity.own_limits import OwnLimits
from tests.captured import captured
from tests.patience import PATIENCE_S
from tests.program import Program, Weight, running_program
from tests.replaying import DONE, Answer, Asked, ReplayingBackend, chunk, events, held, silence, stream, unary, whole
from tests.serving import PRICED, UNLIMITED
from tests.soak.attacker import Attacker

pytestmark = pytest.mark.slow

SOAK_S = float(os.environ.get("SOAK_SECONDS", "600"))
MEASURE_S = 8.0
CLIENTS = 32
SLOTS = 200
MOST_GROWTH_BYTES = 16 * 1024 * 1024
EXPECTED = {200, 429, 502, 503}
CONFIG = """
vllm_urls = [{urls}]
data_dir = "{folder}"
port = 0
trusted_proxies = ["127.0.0.1"]
client_stall_timeout_s = 2
[upstream]
first_token_timeout_s = 0.5
unary_timeout_s = 2
idle_timeout_s = 0.5
queue_comment_s = 0.1
[[models]]
id = "{id}"
backend_model = "tiny"
context_window = 2048
[models.pricing]
prompt = "{prompt}"
completion = "{completion}"
"""


async def cut(asked: Asked) -> None:
    asked.start_stream()
    asked.send_event(chunk("a", 10, 1))
    asked.transport.abort()


async def lie(asked: Asked) -> None:
    """Promise more bytes than come."""
    asked.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
    asked.transport.close()


async def garbage(asked: Asked) -> None:
    asked.send(b"\x00\x01garbage\r\n\r\n")


async def half_close(asked: Asked) -> None:
    asked.start_stream()
    asked.transport.write_eof()


async def trickle(asked: Asked) -> None:
    asked.start_stream()
    for frame in stream(10, 8):
        await asyncio.sleep(0.05)
        asked.send_event(frame)
    asked.end_stream()


async def late(asked: Asked) -> None:
    await asyncio.sleep(0.2)
    await (events(*stream()) if asked.json.get("stream") else unary())(asked)


FAULTS: list[Answer] = [
    cut, lie, garbage, half_close, trickle, late, silence,
    whole(b"{}", 500),
    whole(captured("863_queue_full").body, 503),
    whole(b'{"error":{"message":"no","type":"BadRequestError","param":null,"code":400}}', 400),
    events(chunk("", 10, 0), b'data: {"error": {"message": "EngineCore failed", "code": 500}}\n\n', DONE),
    whole(captured("100_chat").body.replace(b'"finish_reason":"length"', b'"finish_reason":"abort"')),
]  # fmt: skip


@dataclass
class Sickness:
    """What a backend answers: well, but for a share of chats that it fails in one way or another."""

    dice: random.Random
    share: float = 0.0

    async def __call__(self, asked: Asked) -> None:
        if self.dice.random() < self.share:
            await self.dice.choice(FAULTS)(asked)
        elif asked.json.get("stream"):
            await events(*stream(10, self.dice.randint(1, 20)))(asked)
        else:
            await unary()(asked)


@dataclass
class Load:
    """Clients of a gateway: most read their answers, some leave on the way, with or without having read."""

    http: httpx2.AsyncClient
    dice: random.Random
    statuses: Counter[int] = field(default_factory=Counter)
    left: int = 0
    torn: int = 0
    unsent: int = 0

    def body(self) -> dict[str, Any]:
        messages = [{"role": "user", "content": f"topic {self.dice.randint(1, 50)}"}]
        return {"model": PRICED["id"], "messages": messages, "max_tokens": 64, "stream": self.dice.random() < 0.6}

    async def chat(self) -> None:
        body = self.body()
        response = await self.http.post("/v1/chat/completions", json=body)
        self.statuses[response.status_code] += 1
        self.torn += body["stream"] and response.status_code == 200 and not response.content.endswith(DONE)

    async def leave(self) -> None:
        """Ask on a connection of its own, and drop that at some moment; half of them read until then."""
        url, body = self.http.base_url, orjson.dumps(self.body())
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
        head += f"content-type: application/json\r\nauthorization: {self.http.headers['authorization']}\r\n\r\n"
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(head.encode() + body)
        if self.dice.random() < 0.5:
            cast("asyncio.Transport", writer.transport).pause_reading()
        await asyncio.sleep(self.dice.random() ** 3 * 0.5)
        writer.transport.abort()
        self.left += 1

    async def closed(self, seconds: float) -> float:
        """As fast as it goes; the rate that was reached, a second."""
        end_s = time.monotonic() + seconds

        async def client() -> None:
            while time.monotonic() < end_s:
                await self.chat()

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        return self.statuses.total() / seconds

    async def opened(self, rate: float, seconds: float) -> None:
        """At this rate, whatever the answers take, as far as the slots allow."""
        chats: set[asyncio.Task[None]] = set()
        began_s = time.monotonic()
        due = 0
        while (passed_s := time.monotonic() - began_s) < seconds:
            for _ in range(int(passed_s * rate) - due):
                due += 1
                if len(chats) >= SLOTS:
                    self.unsent += 1
                    continue
                chats.add(task := asyncio.create_task(self.leave() if self.dice.random() < 0.05 else self.chat()))
                task.add_done_callback(chats.discard)
            await asyncio.sleep(0.01)
        await asyncio.gather(*chats)


async def torment(servers: list[ReplayingBackend], dice: random.Random) -> None:
    """Time and again let one backend die and come back, or be unwell, or full for a while."""
    while True:
        await asyncio.sleep(3 + 4 * dice.random())
        server = dice.choice(servers)
        match dice.randrange(3):
            case 0:
                server.die()
                await asyncio.sleep(2 * dice.random())
                await server.__aenter__()
            case 1:
                server.health_status = 503
                await asyncio.sleep(2)
                server.health_status = 200
            case 2:
                server.waiting = 100
                await asyncio.sleep(2)
                server.waiting = 0


async def remember(program: Program, seen: list[int]) -> None:
    while True:
        seen.append(program.memory_bytes())
        await asyncio.sleep(1)


@contextlib.asynccontextmanager
async def alongside(*loops: Any) -> AsyncIterator[None]:
    tasks = [asyncio.ensure_future(loop) for loop in loops]
    yield
    for task in tasks:
        assert not task.done(), task
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def client_of(url: str, key: str) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=SLOTS, max_keepalive_connections=CLIENTS)
    return httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30, limits=limits)


async def every_slot_is_free(http: httpx2.AsyncClient, servers: list[ReplayingBackend]) -> None:
    """As many requests as the key may have at once, all at the same time."""
    is_released = asyncio.Event()
    for server in servers:
        server.answer_with()
        server.standing = held(is_released, unary())
    body = {"model": PRICED["id"], "messages": [{"role": "user", "content": "hi"}], "max_tokens": 16}
    chats = [asyncio.create_task(http.post("/v1/chat/completions", json=body)) for _ in range(SLOTS)]
    async with asyncio.timeout(PATIENCE_S):
        while sum(len(server.chats) for server in servers) < SLOTS:  # noqa: ASYNC110 - three servers, three events
            await asyncio.sleep(0.01)
    is_released.set()
    assert Counter([(await chat).status_code for chat in chats]) == {200: SLOTS}


async def test_a_long_run_with_faults_leaves_nothing_behind(tmp_path: Path) -> None:
    dice = random.Random(5)
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(ReplayingBackend()) for _ in range(3)]
        sick = [Sickness(random.Random(number)) for number in range(3)]
        for server, sickness in zip(servers, sick, strict=True):
            server.standing = sickness
        async with open_desk(Settings.model_validate({"data_dir": tmp_path})) as desk:
            account = (await desk.accounts.create("soak")).id
            await desk.ledger.credit(account, 10**15, "start")
            key = (await desk.keys.create(account, limits=OwnLimits(None, None, None, SLOTS)))[1]
            hostile = (await desk.accounts.create("hostile")).id
            await desk.ledger.credit(hostile, 10**15, "start of the hostile")
            hostile_key = (await desk.keys.create(hostile, limits=UNLIMITED))[1]
        config = tmp_path / "gateway.toml"
        urls = ", ".join(f'"{server.url}"' for server in servers)
        config.write_text(CONFIG.format(urls=urls, folder=tmp_path, id=PRICED["id"], **PRICED["pricing"]))
        log = tmp_path / "server.log"
        program = await stack.enter_async_context(running_program(config, log))
        async with client_of(program.url, key) as http:
            rate = await Load(http, dice).closed(MEASURE_S)
        calm = await program.settled(lambda weight: weight.sockets < 8 and not weight.in_flight)
        for sickness in sick:
            sickness.share = 0.1
        memory: list[int] = []
        attacker = Attacker(program.port, hostile_key, PRICED["id"], random.Random(6))
        loops = torment(servers, dice), remember(program, memory), attacker.rage()
        async with client_of(program.url, key) as http, alongside(*loops):
            load = Load(http, dice)
            await load.opened(rate / 2, SOAK_S)
        for server in servers:
            server.answer_with()
        end = await program.settled(lambda weight: weight.is_within(calm))
        early = max(memory[: max(1, len(memory) // 4)])
        report(rate, load, attacker, calm, end, memory)
        assert load.statuses.keys() <= EXPECTED | {400}
        assert load.torn == 0
        assert attacker.statuses[500] == 0
        assert [line for line in log.read_text().splitlines() if " ERROR " in line] == []
        assert load.left
        assert load.statuses[200] > 0.9 * load.statuses.total()
        assert end.is_within(calm), (calm, end)
        assert end.open_holds == 0
        assert end.memory_bytes - early < MOST_GROWTH_BYTES
        async with client_of(program.url, key) as http:
            health = (await http.get("/health")).json()["backends"]
            assert [row["in_flight"] for row in health] == [0, 0, 0]
            await every_slot_is_free(http, servers)
        await program.end()
    async with open_desk(Settings.model_validate({"data_dir": tmp_path})) as desk:
        assert await desk.ledger.check() == []


def report(rate: float, load: Load, attacker: Attacker, calm: Weight, end: Weight, memory: list[int]) -> None:
    mib = [round(memory[index * (len(memory) - 1) // 8] / 2**20, 1) for index in range(9)]
    print(
        f"\nhighest rate {rate:.0f}/s; {load.statuses.total()} answers {dict(load.statuses)}, {load.left} clients left"
    )
    print(f"the attacker did {dict(attacker.done)} and was answered {dict(attacker.statuses)}")
    print(f"before {calm}\nafter  {end}\nmemory over the run, MiB: {mib}")
