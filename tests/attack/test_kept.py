"""What callers can make the server keep in memory is bounded, whoever they are and however many connections they have.

Each attack would leave several times what is allowed if nothing bounded it, and meanwhile others are served.
"""

import asyncio
import itertools
from pathlib import Path

import orjson
import pytest

from mcp_gateway.core.ids import new_id
from tests.attack.target import CHAT, HONEST_GUEST, LEFT_MIB, MCP, MIB, Target, attacked, guest
from tests.attack.wire import Answer, Wire, ask, get, post, request, wires
from tests.replaying import Asked, ReplayingBackend, chunk

pytestmark = pytest.mark.slow

ONE_CALLERS_MIB = 96
"""An eighth of max_in_flight_bytes is 32 MiB; the rest is for the copy in use, and for what the allocator keeps."""
EVERYBODYS_MIB = 448
"""max_in_flight_bytes is 256 MiB."""
HEADS_MIB = 56
"""400 heads of 60 kB, each in two copies, are 46: the allocator keeps about 48 of them, however often they come."""
GENEROUS = """
[guests]
requests_per_minute = 1000000
[limits]
listing_requests_per_minute = 1000000
"""
UNHURRIED = """
[upstream]
discovery_interval_s = 600
discovery_timeout_s = 60
"""
"""For a backend that is busy with an attack in the very process of the attackers."""


def rpc(method: str, params: object = None) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": new_id("call"), "method": method} | ({} if params is None else {"params": params})


def initialize(name: str = "x", **capabilities: object) -> dict[str, object]:
    client = {"name": name, "version": "1"}
    return rpc("initialize", {"protocolVersion": "2025-06-18", "capabilities": capabilities, "clientInfo": client})


async def everybody_is_served(target: Target) -> None:
    """A caller with a key and a guest, of whom neither did anything before."""
    await target.serves(target.key(-1), HONEST_GUEST)


# Answers that nobody reads


async def begin_event_session(target: Target, stream: Wire, who: str) -> str:
    """Open an HTTP+SSE session whose stream is not read any more; where its messages go."""
    await stream.send(get("/v1/mcp/sse", who, "accept: text/event-stream"))
    told = await stream.until(b"session_id=") + await stream.until(b"\n\r\n")
    path = told.partition(b"data: ")[2].split(b"\n")[0].decode()
    await ask(target.port, post(path, initialize(), who))
    return path


async def pour(target: Target, path: str, who: str, messages: int) -> None:
    """Post calls whose answers go into a stream, sixteen in a write, for as long as they are answered at all."""
    burst = b"".join(post(path, rpc("tools/list"), who) for _ in range(16))
    async with wires(target.port, 1) as (wire,):
        for _ in range(messages // 16):
            if not await wire.send(burst):
                return
            for _ in range(16):
                if await soon(wire) is None:
                    return


async def soon(wire: Wire) -> Answer | None:
    """The next answer; None where it is kept back, so that an attack comes to its end."""
    try:
        async with asyncio.timeout(2):
            return await wire.answer()
    except TimeoutError:
        return None


@pytest.mark.parametrize("drips", [False, True], ids=["never read", "read a little"])
async def test_answers_in_an_event_stream_that_nobody_reads_are_bounded(tmp_path: Path, drips: bool) -> None:
    async with attacked(tmp_path, GENEROUS, keys=2) as target, wires(target.port, 1, 4096) as (stream,):
        who = guest(1)
        path = await begin_event_session(target, stream, who)
        for _ in range(5):
            await asyncio.gather(*(pour(target, path, who, 2000) for _ in range(3)))
            if drips:
                await stream.receive(8192)
            await everybody_is_served(target)
        assert target.most_grown_mib() < ONE_CALLERS_MIB


async def test_event_sessions_of_one_key_share_what_their_unread_answers_may_take(tmp_path: Path) -> None:
    async with attacked(tmp_path, GENEROUS, keys=2) as target, wires(target.port, 64, 4096) as streams:
        who = target.key(0)
        paths = [await begin_event_session(target, stream, who) for stream in streams]
        await asyncio.gather(*(pour(target, path, who, 480) for path in paths))
        await everybody_is_served(target)
        assert target.most_grown_mib() < ONE_CALLERS_MIB


HUGE_BYTES = 10_000_000
CHATS_A_KEY = 16


async def huge(asked: Asked) -> None:
    """Ten megabytes as fast as the gateway takes them, in frames or in one piece."""
    frame = chunk("x" * 20_000, 10, 1)
    if asked.json.get("stream"):
        asked.start_stream()
        return await pour_into(asked, b"%x\r\n%b\r\n" % (len(frame), frame))
    asked.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % HUGE_BYTES)
    return await pour_into(asked, b'{"model":"demo/echo","choices":[{"index":0,"message":{"content":"', b"x" * 50_000)


async def pour_into(asked: Asked, *pieces: bytes) -> None:
    """The pieces, the last one again and again."""
    for piece in itertools.chain(pieces, itertools.repeat(pieces[-1], HUGE_BYTES // len(pieces[-1]))):
        while asked.transport.get_write_buffer_size() > 100_000:  # noqa: ASYNC110 - the far side of a socket
            await asyncio.sleep(0.01)
        asked.send(piece)


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("keys", "most_mib"), [(1, ONE_CALLERS_MIB), (10, EVERYBODYS_MIB)], ids=["one", "many"])
async def test_chats_whose_answers_nobody_reads_are_bounded(
    tmp_path: Path, is_stream: bool, keys: int, most_mib: int
) -> None:
    """What is allowed to be held for a while, the allocator may keep."""
    async with ReplayingBackend("demo/echo", max_model_len=10**8) as backend:
        settings = f'vllm_urls = ["{backend.url}"]\n{GENEROUS}{UNHURRIED}'
        async with attacked(tmp_path, settings, keys=keys + 1, left_mib=most_mib) as target:
            backend.standing = huge
            async with wires(target.port, CHATS_A_KEY * keys, 4096) as unread:
                for number, wire in enumerate(unread):
                    await wire.send(
                        post("/v1/chat/completions", CHAT | {"stream": is_stream}, target.key(number % keys))
                    )
                await backend.chats_asked(keys)
                await asyncio.sleep(3)  # the time that such answers are given to pile up in
                backend.standing = None
                await target.serves(target.key(-1))
            assert target.most_grown_mib() < most_mib


UNFINISHED_BYTES = 2**20


async def unfinished(asked: Asked) -> None:
    """An answer of a mebibyte, all but its end."""
    frame = chunk("x" * 20_000, 10, 1)
    if asked.json.get("stream"):
        asked.start_stream()
        piece = b"%x\r\n%b\r\n" % (len(frame), frame)
    else:
        asked.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1100000\r\n\r\n")
        piece = b"{" + b"x" * 20_000
    for _ in range(UNFINISHED_BYTES // 20_000):
        while asked.transport.get_write_buffer_size() > 100_000:  # noqa: ASYNC110 - the far side of a socket
            await asyncio.sleep(0.1)
        asked.send(piece)
    await asyncio.Event().wait()


@pytest.mark.parametrize("asked_for", [{"max_tokens": 100}, {}], ids=["in one piece", "put together"])
async def test_large_answers_that_come_for_hundreds_of_calls_at_once_are_bounded(
    tmp_path: Path, asked_for: dict[str, int]
) -> None:
    """Several times what there is room for: some wait for room, and of those some are refused."""
    keys = 40
    async with ReplayingBackend("demo/echo", max_model_len=10**8) as backend:
        settings = f'vllm_urls = ["{backend.url}"]\n{GENEROUS}{UNHURRIED}'
        async with attacked(tmp_path, settings, keys=keys + 1, left_mib=EVERYBODYS_MIB) as target:
            backend.standing = unfinished
            async with wires(target.port, CHATS_A_KEY * keys) as waiting:
                for number, wire in enumerate(waiting):
                    await wire.send(post("/v1/chat/completions", CHAT | asked_for, target.key(number % keys)))
                await backend.chats_asked(CHATS_A_KEY * keys)
                await asyncio.sleep(8)  # longer than room is waited for
                backend.standing = None
                await target.serves(target.key(-1))
            assert target.most_grown_mib() < EVERYBODYS_MIB


# Requests that are never finished


BEGINNINGS = {
    "announced": lambda path, who: post(path, b"[" * 30_000_000, who, length=31_000_000),
    "in chunks": lambda path, who: (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{who}\r\ncontent-type: application/json\r\n"
        "transfer-encoding: chunked\r\n\r\n".encode()
        + (b"100000\r\n" + b"[" * 2**20 + b"\r\n") * 29
    ),
}


@pytest.mark.parametrize("path", ["/v1/mcp", "/v1/chat/completions", "/v1/keys"])
@pytest.mark.parametrize("how", BEGINNINGS)
@pytest.mark.parametrize("keys", [0, 1, 10], ids=["a guest", "a key", "many keys"])
async def test_bodies_that_are_never_finished_are_bounded(tmp_path: Path, path: str, how: str, keys: int) -> None:
    async with attacked(tmp_path, GENEROUS, keys=keys + 1) as target:
        callers = [target.key(number) for number in range(keys)] or [guest(1)]
        async with wires(target.port, 20) as unfinished:
            for wire, who in zip(unfinished, itertools.cycle(callers), strict=False):
                await wire.send(BEGINNINGS[how](path, who))
            await everybody_is_served(target)
            assert target.most_grown_mib() < (EVERYBODYS_MIB if keys > 1 else ONE_CALLERS_MIB)


async def test_heads_that_are_never_finished_are_bounded(tmp_path: Path) -> None:
    async with attacked(tmp_path, GENEROUS, keys=2, left_mib=HEADS_MIB) as target:
        for _ in range(2):  # what the allocator has kept of the first ones serves the second
            async with wires(target.port, 400) as unfinished:
                for wire in unfinished:
                    await wire.send(get("/", "x: " + "a" * 60_000)[:-4])
                await everybody_is_served(target)
        assert target.most_grown_mib() < ONE_CALLERS_MIB


# Requests that nobody waits for


@pytest.mark.parametrize("behind", [15, 16, 17, 5000])
async def test_requests_behind_one_that_is_answered_for_ever_stay_bytes(tmp_path: Path, behind: int) -> None:
    async with attacked(tmp_path, GENEROUS, keys=2) as target:
        burst = get("/v1/mcp/sse", guest(1), "accept: text/event-stream") + get("/", guest(1)) * behind
        async with wires(target.port, 40) as bursting:
            await asyncio.gather(*(wire.send(burst) for wire in bursting))
            await everybody_is_served(target)
            weight = await target.program.weight()
            assert weight.tasks - target.calm.tasks < 20 * len(bursting)
            assert target.most_grown_mib() < ONE_CALLERS_MIB


async def test_bursts_whose_answers_nobody_reads_are_bounded(tmp_path: Path) -> None:
    async with attacked(tmp_path, GENEROUS, keys=2) as target:
        burst = get("/v1/models", target.key(0)) * 5000
        async with wires(target.port, 40, 4096) as bursting:
            await asyncio.gather(*(wire.send(burst) for wire in bursting))
            await everybody_is_served(target)
            assert target.most_grown_mib() < ONE_CALLERS_MIB


# Sessions, subscriptions, keys


SAID_OF_ITSELF = {
    "a long name": lambda: initialize("x" * 20_000_000),
    "a name that fits": lambda: initialize("x" * 60_000),
    "many capabilities": lambda: initialize(experimental={"x": {f"key{n}": 0 for n in range(200_000)}}),
    "capabilities that fit": lambda: initialize(experimental={"x": {f"key{n}": 0 for n in range(4_000)}}),
}


@pytest.mark.parametrize("said", SAID_OF_ITSELF)
@pytest.mark.parametrize("is_guest", [False, True], ids=["a key", "a guest"])
async def test_sessions_keep_little_of_what_clients_say_of_themselves(
    tmp_path: Path, said: str, is_guest: bool
) -> None:
    async with attacked(tmp_path, GENEROUS, keys=2) as target:
        who = guest(1) if is_guest else target.key(0)
        message = SAID_OF_ITSELF[said]()
        body = post("/v1/mcp", message, who, MCP)
        for _ in range(20 if len(body) > 1_000_000 else 1000):
            await ask(target.port, body)
        await everybody_is_served(target)
        assert target.program.memory_bytes() - target.calm.memory_bytes < LEFT_MIB * MIB


async def test_subscriptions_of_one_caller_are_bounded(tmp_path: Path) -> None:
    async with attacked(tmp_path, GENEROUS, keys=2) as target:
        who = guest(1)
        for _ in range(20):
            begun = await ask(target.port, post("/v1/mcp", initialize(), who, MCP))
            assert begun is not None
            session = begun.head.decode().lower().partition("mcp-session-id: ")[2].split("\r\n")[0]
            async with wires(target.port, 1) as (wire,):
                for number in range(300):
                    body = rpc("resources/subscribe", {"uri": f"models://{number}" + "x" * 20_000})
                    await wire.send(post("/v1/mcp", body, who, MCP, f"mcp-session-id: {session}"))
                    await wire.answer()
        await everybody_is_served(target)
        assert target.program.memory_bytes() - target.calm.memory_bytes < LEFT_MIB * MIB


async def test_keys_that_are_made_and_revoked_leave_memory(tmp_path: Path) -> None:
    """However many the limits of a day let through."""
    async with attacked(tmp_path, f"{GENEROUS}keys_per_account = 1000000", keys=2) as target:
        who = target.key(0)
        async with wires(target.port, 1) as (wire,):
            for _ in range(2000):
                await wire.send(post("/v1/keys", {"name": "x" * 100}, who))
                made = await wire.answer()
                assert made is not None
                if made.status != 201:
                    assert made.status in (409, 429)
                    break
                await wire.send(request("DELETE", f"/v1/keys/{orjson.loads(made.body)['id']}", None, who))
                await wire.answer()
        await everybody_is_served(target)
        assert target.program.memory_bytes() - target.calm.memory_bytes < LEFT_MIB * MIB / 4
