"""Heads that a connection brings again, of which the parser sees the first alone: told as the first is, or refused."""

import asyncio
import gc
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from http_api.connection.head import KnownHead
from mcp_gateway.core.context import SENT
from tests.http_api.test_connection import assert_refused, hello, raw, serving, statuses
from tests.patience import PATIENCE_S

LAST = b"GET /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
HEADS = [
    b"POST /a?q=1 HTTP/1.1\r\nhost: x\r\ncontent-length: %b\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHOST: x\r\nContent-Length:%b\r\nX-Content-Length: 1\r\nX-Twice: a\r\nx-twice: b\r\n\r\n",
    b"PUT /%%41 HTTP/1.1\r\nHost: x\r\nCONTENT-LENGTH: \t %b \r\nX-Text: content-length: 9\r\n\r\n",
    b"\r\nPOST / HTTP/1.1\r\nHost: x\r\nX-Length: 2\r\ncontent-length: %b\r\nX-Behind: 2\r\n\r\n",
    b"POST http://y/b HTTP/1.1\r\nHost: x\r\ncontent-length: %b\r\n\r\n",
    b"POST /c HTTP/1.1\r\nHost: x\r\nconnection: Upgrade\r\nupgrade: h2c\r\ncontent-length: %b\r\n\r\n",
]
BODIES = [b"one", b"three", b"", b"x" * 12_345, b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", b"one"]


class Telling:
    """An app that keeps what it was asked, and then writes into what it was given."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        names = ("http_version", "method", "path", "raw_path", "query_string")
        self.asked.append(([scope[name] for name in names], [*scope["headers"]], [*scope[SENT].items()], body))
        scope["headers"].append((b"x-own", b"1"))
        scope[SENT][b"authorization"] = b"of this request"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


def request(head: bytes, body: bytes) -> bytes:
    return head % (b"%d" % len(body)) + body


async def in_turn(port: int, *requests: bytes) -> bytes:
    """What comes back of the last one, sent as each is once all of those before it have been answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(PATIENCE_S):
        for one in requests[:-1]:
            writer.write(one)
            await reader.readuntil(b"one")
        writer.write(requests[-1])
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("cut_bytes", [None, 1, 7, 64, 500])
async def test_a_head_that_comes_again_is_told_as_on_a_connection_of_its_own(
    head: bytes, cut_bytes: int | None
) -> None:
    ours, alone = Telling(), Telling()
    together = b"".join(request(head, body) for body in BODIES) + LAST
    size = cut_bytes or len(together)
    async with serving(ours) as port:
        pieces = [together[start : start + size] for start in range(0, len(together), size)]
        answers = await raw(port, *pieces, at_once=cut_bytes is None)
    async with serving(alone) as port:
        for body in BODIES:
            await raw(port, request(head, body) + LAST)
    expected = [one for one in alone.asked if one[0][2] != "/last"]
    assert [one for one in ours.asked if one[0][2] != "/last"] == expected
    assert statuses(answers) == [200] * len(ours.asked)


@pytest.mark.parametrize(
    ("between", "body"), [(LAST.replace(b"close", b"keep-alive"), b""), (request(HEADS[1], b"other"), b"other")]
)
async def test_another_head_in_between_is_told_as_it_is(between: bytes, body: bytes) -> None:
    app, one = Telling(), request(HEADS[0], b"one")
    async with serving(app) as port:
        await raw(port, one * 3 + between + one + between * 2 + one + LAST)
    assert [asked[3] for asked in app.asked] == [*[b"one"] * 3, body, b"one", body, body, b"one", b""]


@pytest.mark.parametrize(
    "length",
    [
        b"", b" ", b"+3", b"-3", b"0x3", b"3 3", b"3,3", b"3.0", b"\xb3", b"1_0", b"99999999999999999999999",
        b"3\r\ncontent-length: 4", b"3\r\ntransfer-encoding: chunked", b"3\r\nhost: y", b"3\r\n x",
    ],
)  # fmt: skip
async def test_what_is_no_length_is_refused_as_it_is_on_a_connection_of_its_own(length: bytes) -> None:
    one, broken = request(HEADS[0], b"one"), HEADS[0] % length + b"one"
    async with serving(hello) as port:
        alone = await raw(port, broken)
        assert statuses(alone)[0] in (400, 501)
        assert await in_turn(port, one, one, one, broken) == alone


async def test_a_head_that_is_known_is_no_way_around_the_limit_of_a_head() -> None:
    one = request(HEADS[0], b"one")
    spare = 1000 - (len(one) - 3)
    filled = HEADS[0].replace(b"host: x", b"host: x\r\nx-filler: " + b"a" * (spare - 14))
    largest, too_large = (filled % (b"0" * zeros + b"3") + b"one" for zeros in (2, 3))
    async with serving(hello, max_header_bytes=1000) as port:
        repeated = [request(filled, b"one")] * 3
        assert_refused(await in_turn(port, *repeated, largest, too_large), 431, "headers_too_large")


@pytest.mark.parametrize("filler", [b"x-filler: %b\r\n" % (b"a" * 5000), b"x:\r\n" * 50])
async def test_a_large_head_is_told_and_not_kept(filler: bytes) -> None:
    """Connections are many, and idle for long."""
    app, head = Telling(), HEADS[0].replace(b"host: x\r\n", b"host: x\r\n" + filler)
    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(request(head, b"one"))
            await reader.readuntil(b"\r\n\r\n")
        kept = [one for one in gc.get_objects() if isinstance(one, KnownHead)]
        writer.close()
        await writer.wait_closed()
    assert [asked[3] for asked in app.asked] == [b"one"] * 3
    assert kept == []
