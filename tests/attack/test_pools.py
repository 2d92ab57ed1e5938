"""What all callers share has shares: whatever some take and hold, others get a place, a session and a connection."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.attack.target import CHAT, HONEST_GUEST, MCP, Target, attacked, guest
from tests.attack.test_kept import GENEROUS, begin_event_session, initialize, rpc
from tests.attack.wire import Wire, ask, get, post, wires
from tests.replaying import ReplayingBackend

pytestmark = pytest.mark.slow

GUESTS = 64
"""As many as may have a place at once by default."""


# Places in flight


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/mcp"])
@pytest.mark.parametrize("addresses", [1, GUESTS], ids=["one address", "many addresses"])
async def test_bodies_that_come_slowly_hold_no_place(tmp_path: Path, path: str, addresses: int) -> None:
    """Of each a byte a round; in every round another guest, and one with a key, are served."""
    async with attacked(tmp_path, GENEROUS, keys=2) as target, wires(target.port, GUESTS) as slow:
        for number, wire in enumerate(slow):
            await wire.send(post(path, b"{", guest(number % addresses), length=1000))
        for number in range(5):
            for wire in slow:
                await wire.send(b" ")
            await target.serves(target.key(-1), HONEST_GUEST, guest(1000 + number))


async def test_slow_bodies_of_a_key_hold_none_of_its_own_places(tmp_path: Path) -> None:
    async with attacked(tmp_path, GENEROUS, keys=2) as target, wires(target.port, 200) as slow:
        for wire in slow:
            await wire.send(post("/v1/chat/completions", b"{", target.key(0), length=1000))
        await target.serves(target.key(0), target.key(-1), HONEST_GUEST)


async def test_guests_whose_answers_take_long_leave_places_to_keys(tmp_path: Path) -> None:
    async with attacked(tmp_path, GENEROUS, keys=2) as target, wires(target.port, 300) as waiting:
        paced = CHAT | {"model": "demo/paced", "messages": [{"role": "user", "content": "word " * 200}]}
        for number, wire in enumerate(waiting):
            await wire.send(post("/v1/chat/completions", paced, guest(number)))
        for _ in range(3):
            await target.serves(target.key(0), target.key(-1))


# Sessions and streams

FEW_SESSIONS = f"{GENEROUS}[mcp]\nmax_sessions = 40\n"


async def open_session(target: Target, who: str) -> str:
    """The header of a new session."""
    answer = await ask(target.port, post("/v1/mcp", initialize(), who, MCP))
    assert answer is not None
    assert answer.status == 200, answer.body
    return "mcp-session-id: " + answer.head.decode().lower().partition("mcp-session-id: ")[2].split("\r\n")[0]


async def test_sessions_of_guests_do_not_end_those_of_keys(tmp_path: Path) -> None:
    async with attacked(tmp_path, FEW_SESSIONS, keys=2) as target:
        session = await open_session(target, target.key(-1))
        for number in range(200):
            await ask(target.port, post("/v1/mcp", initialize(), guest(number), MCP))
        answer = await ask(target.port, post("/v1/mcp", rpc("tools/list"), target.key(-1), MCP, session))
        assert answer is not None
        assert answer.status == 200


async def test_streams_of_guests_leave_room_for_those_of_keys(tmp_path: Path) -> None:
    async with attacked(tmp_path, FEW_SESSIONS, keys=2) as target, wires(target.port, 101) as (own, *held):
        for number, wire in enumerate(held):
            await wire.send(get("/v1/mcp/sse", guest(number), "accept: text/event-stream"))
        await begin_event_session(target, own, target.key(-1))


LISTEN = {
    "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "x", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    },
    "notifications": {"resourcesListChanged": True},
}
MODERN = f"{MCP}\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: subscriptions/listen"


async def test_listeners_of_guests_leave_room_for_those_of_keys(tmp_path: Path) -> None:
    async with attacked(tmp_path, FEW_SESSIONS, keys=2) as target, wires(target.port, 101) as (own, *held):
        for number, wire in enumerate(held):
            await wire.send(post("/v1/mcp", rpc("subscriptions/listen", LISTEN), guest(number), MODERN))
        await own.send(post("/v1/mcp", rpc("subscriptions/listen", LISTEN), target.key(-1), MODERN))
        assert b" 200 " in (await own.until(b"\r\n\r\n"))[:20]


# File descriptors


async def chat_on(wire: Wire, who: str) -> int:
    await wire.send(post("/v1/chat/completions", CHAT, who))
    answer = await wire.answer()
    return answer.status if answer else 0


async def test_the_limit_of_open_files_is_raised_to_what_the_system_allows(tmp_path: Path) -> None:
    async with attacked(tmp_path, GENEROUS, keys=2, open_files=(256, 2048)) as target, wires(target.port, 400):
        await target.serves(target.key(-1), HONEST_GUEST)


async def test_idle_connections_leave_descriptors_to_those_that_are_served(tmp_path: Path) -> None:
    """And where they do run out, that is no fault of the backend, and no reason to turn round and round."""
    async with ReplayingBackend("demo/echo") as backend:
        settings = f'vllm_urls = ["{backend.url}"]\n{GENEROUS}[upstream]\nkeep_alive_s = 0.1\n'
        async with attacked(tmp_path, settings, keys=2, open_files=(256, 256)) as target:
            async with wires(target.port, 8) as kept:
                assert [await chat_on(wire, target.key(-1)) for wire in kept] == [200] * len(kept)
                async with wires(target.port, 400):
                    await they_are_served_without_a_descriptor_to_spare(target, kept)
            await target.serves(target.key(-1), HONEST_GUEST)
        assert (tmp_path / "server.log").stat().st_size < 100_000


async def they_are_served_without_a_descriptor_to_spare(target: Target, kept: list[Wire]) -> None:
    for _ in range(3):
        await asyncio.sleep(0.2)  # connections to the backend end, and must be opened again
        statuses = await asyncio.gather(*(chat_on(wire, target.key(-1)) for wire in kept))
        assert statuses == [200] * len(kept)
    await kept[0].send(get("/health"))
    health = await kept[0].answer()
    assert health is not None
    assert [row["status"] for row in json.loads(health.body)["backends"]] == ["up"]
    used_s = target.program.cpu_s()
    await asyncio.sleep(2)
    assert target.program.cpu_s() - used_s < 1
