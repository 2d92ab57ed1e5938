"""Whatever bytes a client sends in place of HTTP, the server answers others meanwhile and nothing stays behind."""

import asyncio
import re
from pathlib import Path
from random import Random

import orjson
import pytest

from tests.attack.at_random import OUR_FAULT, others_are_served_during
from tests.attack.mutations import cut, mutated_bytes
from tests.attack.target import CHAT, MCP, UNBOUNDED, Target, attacked
from tests.attack.wire import Wire, get, post, request, wires

pytestmark = pytest.mark.slow

PACED = CHAT | {"model": "demo/paced", "max_tokens": 3, "stream": True}
IN_CHUNKS = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b"transfer-encoding: chunked\r\ntrailer: x\r\n\r\n%x\r\n%b\r\n0\r\nx: y\r\n\r\n"
)
HEADERS = (
    "Expect: 100-continue", "Connection: close", "Connection: keep-alive", "Content-Encoding: gzip", "Range: bytes=0-1",
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings", "Upgrade: websocket\r\nConnection: Upgrade",
    "Accept-Encoding: gzip", "Origin: http://localhost", "X-Forwarded-For: 1.2.3.4, 127.0.0.1", "X-API-Key: x",
    "Authorization: Bearer gw_live_x", "Idempotency-Key: a", "X-Client-Request-Id: a", "Mcp-Session-Id: x",
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "Last-Event-ID: 1",
)  # fmt: skip
PATHS = ("/", "/v1/models", "/v1/models/demo%2Fecho", "/health", "/stats", "/v1/nothing", "//", "/v1/limits?a=b")
METHODS = ("HEAD", "OPTIONS", "DELETE", "PATCH", "TRACE", "CONNECT", "PURGE")
REQUESTS = [
    *(get(path) for path in PATHS),
    *(request(method, "/v1/models") for method in METHODS),
    *(post("/v1/chat/completions", CHAT, header) for header in HEADERS),
    *(get("/", header) for header in HEADERS),
    post("/v1/chat/completions", PACED),
    post("/v1/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, MCP),
    post("/v1/mcp", {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}, MCP),
    get("/v1/mcp/sse", "accept: text/event-stream"),
    get("http://localhost/v1/models"),
    get("/v1/models").replace(b"HTTP/1.1", b"HTTP/1.0"),
    post("/v1/chat/completions", CHAT).replace(b"HTTP/1.1", b"HTTP/1.0"),
    IN_CHUNKS % (len(orjson.dumps(CHAT)), orjson.dumps(CHAT)),
]  # fmt: skip


async def send_raw(target: Target, dice: Random) -> None:
    """A few changed requests in a write or several, then one of the ways in which clients leave."""
    data = b"".join(mutated_bytes(dice, dice.choice(REQUESTS)) for _ in range(dice.choice((1, 1, 2, 4))))
    async with wires(target.port, 1) as (wire,):
        for piece in cut(dice, data):
            if not await wire.send(piece):
                break
        match dice.randrange(4):
            case 0:
                wire.half_close()
            case 1:
                return wire.reset()
            case 2:
                return None
        got = await all_that_comes(wire)
        assert not OUR_FAULT.search(got), (data, got)
        assert statuses_in(got) <= {100, 501, 503, 505} | set(range(200, 500)), (data, got)
    return None


async def all_that_comes(wire: Wire) -> bytes:
    """Until the server hangs up, or has said nothing for a moment."""
    got = b""
    while True:
        try:
            async with asyncio.timeout(0.1):
                piece = await wire.receive()
        except TimeoutError:
            return got
        if not piece:
            return got
        got += piece


def statuses_in(answers: bytes) -> set[int]:
    return {int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)}


async def test_whatever_bytes_clients_send_the_server_answers_and_keeps_nothing(tmp_path: Path) -> None:
    async with attacked(tmp_path, UNBOUNDED, keys=2) as target:
        await others_are_served_during(target, lambda dice: send_raw(target, dice))
