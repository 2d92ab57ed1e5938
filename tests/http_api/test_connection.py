"""HTTP/1.1 as a client may send it, on real sockets, in front of small ASGI apps."""

import asyncio
import contextlib
import gc
import logging
import re
import socket
import struct
from collections.abc import AsyncIterator
from itertools import pairwise, product
from random import Random
from typing import Any

import orjson
import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from http_api.connection import Bounds, Census, ahead, departure, http_exchange, idle_clock, request_reader
from http_api.serve import config_of
from mcp_gateway.core.context import CLIENT
from mcp_gateway.core.errors import GatewayError
from tests.connections import uncapped, unheard
from tests.loop_clock import pass_time
from tests.patience import PATIENCE_S, eventually, settled

STALL_S = 60.0
SECRET = "a secret"
HELLO = b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp, *, stall_timeout_s: float = STALL_S, census: Census | None = None, max_header_bytes: int = 65536
) -> AsyncIterator[int]:
    """The port at which the app is served; afterwards no connection and no task of it is left."""
    bounds, census = Bounds(max_header_bytes, stall_timeout_s), census or uncapped()
    config = config_of(
        app, host="127.0.0.1", port=0, bounds=bounds, census=census, note_refusal=unheard, drain_timeout_s=5
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        await server.startup([listener])
        yield listener.getsockname()[1]
        server.servers[0].close()
        for connection in list(server.server_state.connections):
            connection.shutdown()
        await eventually(lambda: not (server.server_state.connections or server.server_state.tasks))


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the request and tells what it was."""
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    told = f"{scope['method']} {scope['path']} {scope['query_string'].decode()} ".encode() + body
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(told))]})
    await send({"type": "http.response.body", "body": told})


async def in_pieces(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for piece in (b"one", b"two"):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
    """Without a look at the body."""
    await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


def assert_refused(answer: bytes, status: int, code: str) -> None:
    """One answer, in the one shape of errors, and the last on its connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert statuses(answer) == [status]
    assert b"\r\ncontent-type: application/json\r\n" in head
    assert head.endswith(b"\r\nconnection: close")
    error = orjson.loads(body)["error"]
    assert (error["code"], error["type"], error["param"]) == (code, "invalid_request", None)
    assert error["message"]


async def parsed(port: int) -> None:
    """Wait until the server has read what was sent before: another client has been answered twice since."""
    for _ in range(2):
        await asyncio.sleep(0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"nonsense\r\n\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()


async def raw(port: int, *pieces: bytes, at_once: bool = True) -> bytes:
    """Send the pieces, each once the one before has left or is read; all that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            if not at_once:
                await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S):
            return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def closing(request: bytes) -> bytes:
    return request.replace(b"host: x\r\n", b"host: x\r\nconnection: close\r\n")


@pytest.mark.parametrize("cut", range(1, 120, 7))
async def test_a_request_may_come_in_any_two_pieces(cut: int) -> None:
    request = closing(b"POST /hello HTTP/1.1\r\nhost: x\r\ncontent-length: 40\r\n\r\n") + b"x" * 40
    async with serving(hello) as port:
        answer = await raw(port, request[:cut], request[cut:])
    assert answer.endswith(b"POST /hello  " + b"x" * 40)


async def test_a_body_in_chunks_is_put_together() -> None:
    head = closing(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    async with serving(hello) as port:
        assert (await raw(port, head, b"2\r\nab\r\n", b"3\r\ncde\r\n0\r\n\r\n")).endswith(b"POST /  abcde")


async def test_an_answer_without_a_length_comes_in_chunks_and_the_connection_goes_on() -> None:
    async with serving(in_pieces) as port:
        answer = await raw(port, HELLO + closing(HELLO))
    assert answer.count(b"transfer-encoding: chunked") == 2
    assert answer.count(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n") == 2


async def test_to_http_1_0_an_answer_without_a_length_ends_with_the_connection() -> None:
    async with serving(in_pieces) as port:
        answer = await raw(port, HELLO.replace(b"1.1", b"1.0"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert b"connection: close" in head
    assert body == b"onetwo"


async def test_an_answer_to_head_has_the_headers_alone() -> None:
    async with serving(hello) as port:
        answer = await raw(port, HELLO.replace(b"GET", b"HEAD") + closing(HELLO))
    first, second = answer.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert b"content-length: 13" in first
    assert first.endswith(b"\r\n\r\n")
    assert second.endswith(b"GET /hello  ")


async def test_a_client_that_waits_to_be_asked_for_its_body_is_asked() -> None:
    head = closing(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
    async with serving(hello) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        async with asyncio.timeout(PATIENCE_S):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"ok")
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"POST /  ok")


async def test_a_refusal_ends_the_connection_of_a_client_that_waits_to_be_asked_for_its_body() -> None:
    """It may go on with the body or with another request, and one could be taken for the other."""

    async with serving(refuses) as port:
        answer = await raw(port, b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 32\r\n\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"connection: close" in answer


async def test_a_client_that_waited_to_be_asked_and_sends_all_the_same_gets_its_refusal() -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 300000\r\n\r\n"
    async with serving(refuses) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        await parsed(port)  # which has answered and closed its half by now
        writer.write(b"x" * 300_000)
        await writer.drain()
        async with asyncio.timeout(PATIENCE_S):
            assert statuses(await reader.read()) == [413]
        writer.close()
        await writer.wait_closed()


async def test_a_client_that_does_not_wait_is_not_asked_for_what_it_has_sent() -> None:
    request = closing(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nok")
    async with serving(hello) as port:
        assert (await raw(port, request)).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_an_offer_to_upgrade_is_declined_by_serving_the_request_and_the_next() -> None:
    upgrade = b"host: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
    request = b"POST /one HTTP/1.1\r\n" + upgrade + b"content-length: 2\r\n\r\nok"
    async with serving(hello) as port:
        answer = await raw(port, request + closing(HELLO))
        assert b"POST /one  ok" in answer
        assert answer.endswith(b"GET /hello  ")


async def test_an_offer_to_upgrade_is_no_way_around_the_limit_of_a_head() -> None:
    upgrade = b"host: x\r\nconnection: upgrade\r\nupgrade: h2c\r\nx-filler: " + b"a" * 70_000
    async with serving(hello) as port:
        assert (await raw(port, b"GET / HTTP/1.1\r\n" + upgrade + b"\r\n\r\n")).startswith(b"HTTP/1.1 431 ")


async def test_a_trailer_does_not_pass_for_a_header() -> None:
    seen: list[Scope] = []

    async def sees(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await hello(scope, receive, send)

    head = closing(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    async with serving(sees) as port:
        answer = await raw(port, head + b"2\r\nok\r\n0\r\nauthorization: Bearer x\r\n\r\n")
    assert answer.endswith(b"POST /  ok")
    assert b"authorization" not in dict(seen[0]["headers"])


async def test_trailers_without_an_end_are_refused() -> None:
    async with serving(hello) as port:
        answer = await raw(port, CHUNKED + b"0\r\n" + b"".join(b"x-t: %b\r\n" % (b"a" * 1000) for _ in range(70)))
    assert_refused(answer, 431, "headers_too_large")


async def test_what_follows_the_last_request_of_a_connection_is_ignored() -> None:
    async with serving(hello) as port:
        answer = await raw(port, closing(HELLO) + HELLO + b"garbage")
    assert answer.count(b"HTTP/1.1") == 1
    assert answer.endswith(b"GET /hello  ")


async def test_what_is_not_http_behind_a_request_does_not_cost_that_request_its_answer() -> None:
    async with serving(hello) as port:
        answer = await raw(port, HELLO + b"\x00garbage\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"GET /hello  ")


BROKEN_CHUNKS = [
    b"not a length\r\n",
    b" 2\r\nab",
    b"0x2\r\nab",
    b"-1\r\n",
    b"2\r\nabc\r\n",
    b"2\nab\r\n",
    b"1" + b"0" * 16,
]


@pytest.mark.parametrize("broken", BROKEN_CHUNKS)
async def test_a_body_that_breaks_its_framing_is_refused_before_any_app_is_asked(broken: bytes) -> None:
    asked: list[Scope] = []

    async def counts(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope)

    async with serving(counts) as port:
        answer = await raw(port, CHUNKED + b"2\r\nab\r\n" + broken + HELLO)
    assert_refused(answer, 400, "invalid_json")
    assert asked == []


@pytest.mark.parametrize("broken", BROKEN_CHUNKS)
async def test_an_app_that_reads_a_body_which_breaks_off_is_told_and_answers(broken: bytes) -> None:
    has_begun = asyncio.Event()

    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        has_begun.set()
        with pytest.raises(GatewayError, match="invalid_json"):
            await hello(scope, receive, send)
        await refuses(scope, receive, send)

    async with serving(reads) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CHUNKED + b"2\r\nab\r\n")
        async with asyncio.timeout(PATIENCE_S):
            await has_begun.wait()
            writer.write(broken)
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer


async def test_a_broken_body_behind_other_requests_is_refused_in_its_turn() -> None:
    async with serving(hello) as port:
        answer = await raw(port, HELLO + HELLO + CHUNKED + b"nonsense\r\n")
    assert statuses(answer) == [200, 200, 400]


async def test_a_broken_body_cuts_off_an_answer_that_has_begun() -> None:
    async def early(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        await asyncio.Event().wait()

    async def leaves(scope: Scope, receive: Receive, send: Send) -> None:
        scope[CLIENT].is_cancelled_on_departure = True
        await early(scope, receive, send)

    async with serving(leaves) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CHUNKED)
        async with asyncio.timeout(PATIENCE_S):
            await reader.readuntil(b"begun")
            writer.write(b"nonsense\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert b"0\r\n\r\n" not in await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_more_requests_ahead_than_are_read_at_once_are_all_answered_in_order() -> None:
    count = 500
    requests = [HELLO.replace(b"hello", b"%03d" % number) for number in range(count)]
    requests[-1] = closing(requests[-1])
    async with serving(hello) as port:
        answer = await raw(port, b"".join(requests))
    assert [int(line[5:8]) for line in answer.split(b"\r\n") if line.startswith(b"GET /")] == [
        int(f"{n:03}") for n in range(count)
    ]


LARGE = b"x-filler: " + b"a" * 66_000 + b"\r\n"
MANY = b"a:b\r\n" * 14_000


@pytest.mark.parametrize("lines", [LARGE, MANY, LARGE[:-2]], ids=["one large line", "many lines", "without an end"])
@pytest.mark.parametrize("before", [1, 3])
async def test_the_limit_of_a_head_counts_each_head_of_one_read(lines: bytes, before: int) -> None:
    async with serving(hello) as port:
        answer = await raw(port, HELLO * before + HELLO[:-2] + lines + b"\r\n")
    assert statuses(answer) == [200] * before  # behind what is being answered, no answer of its own


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
@pytest.mark.parametrize("first", [HELLO, CHUNKED + b"2\r\nok\r\n0\r\n\r\n"], ids=["a head", "chunks"])
async def test_the_limit_of_a_head_counts_one_behind_a_blank_line_that_two_reads_brought(
    first: bytes, cut: int
) -> None:
    async with serving(hello) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HELLO)
        async with asyncio.timeout(PATIENCE_S):
            await reader.readuntil(b"GET /hello  ")
            writer.write(first[:-cut])
            await parsed(port)
            writer.write(first[-cut:] + HELLO[:-2] + LARGE + b"\r\n" + HELLO)
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert statuses(answer) == [200]


async def test_heads_that_are_each_within_the_limit_may_be_more_together() -> None:
    request = HELLO[:-2] + b"x-filler: " + b"a" * 60_000 + b"\r\n\r\n"
    async with serving(hello) as port:
        assert statuses(await raw(port, request * 5 + closing(HELLO))) == [200] * 6


async def test_of_hundreds_of_requests_in_one_read_a_few_are_begun_and_the_rest_stay_bytes() -> None:
    may_answer = asyncio.Event()
    scopes: list[Scope] = []

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await may_answer.wait()
        await hello(scope, receive, send)

    count = 500
    async with serving(waits) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HELLO * (count - 1) + closing(HELLO))
        async with asyncio.timeout(PATIENCE_S):
            await parsed(port)
            assert len(scopes) == 1
            assert len(scopes[0][CLIENT]._connection.ahead) == ahead.MOST
            may_answer.set()
            assert statuses(await reader.read()) == [200] * count
        writer.close()
        await writer.wait_closed()


async def test_of_the_bodies_that_wait_for_their_turn_a_few_are_kept_and_the_rest_stays_unread() -> None:
    may_answer = asyncio.Event()
    scopes: list[Scope] = []

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await may_answer.wait()
        await hello(scope, receive, send)

    heads = [b"POST /%d HTTP/1.1\r\nhost: x\r\ncontent-length: 60000\r\n\r\n" % number for number in range(16)]
    async with serving(waits) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HELLO + b"".join(head + b"x" * 60_000 for head in heads) + closing(HELLO))
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(5):
                await parsed(port)
            connection = scopes[0][CLIENT]._connection
            assert sum(exchange.waiting_bytes for exchange, _ in connection.ahead) <= 2 * 64 * 1024
            assert len(connection._requests._unparsed) <= (64 + 256) * 1024
            may_answer.set()
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert statuses(answer) == [200] * 18
    assert [answer.count(b"POST /%d  x" % number) for number in range(16)] == [1] * 16
    assert connection.ahead.body_bytes == 0


@pytest.mark.parametrize(("behind", "is_reset"), [*product((0, 15, 16, 17, 2000, 4000), (False, True)), (20_000, True)])
async def test_a_client_that_leaves_is_noticed_however_many_requests_wait(
    behind: int, is_reset: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(departure, "_LOOK_S", 0.01)
    has_begun, is_cancelled = asyncio.Event(), asyncio.Event()

    async def works(scope: Scope, receive: Receive, send: Send) -> None:
        scope[CLIENT].is_cancelled_on_departure = True
        has_begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            is_cancelled.set()

    async with serving(works) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HELLO * (1 + behind))
        async with asyncio.timeout(PATIENCE_S):
            await has_begun.wait()
            await parsed(port)
            if is_reset:  # or what the server does not read stays before the end of the connection
                no_wait = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_wait)
            writer.transport.abort()
            await is_cancelled.wait()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def mixed(random: Random, number: int) -> tuple[bytes, bytes]:
    """A request of some kind, and what `hello` says to it."""
    body = b"\r\n\r\n".join([b"%d" % number] * random.randrange(4)) + b"\r\n" * random.randrange(3)
    path = b"/%d" % number
    match random.randrange(3):
        case 0:
            return b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path, b"GET %b  " % path
        case 1:
            head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (path, len(body))
            return head + body, b"POST %b  " % path + body
    pieces = [body[start : start + 3] for start in range(0, len(body), 3)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n"
    trailers = b"x-trailer: y\r\n" * random.randrange(2)
    return CHUNKED.replace(b" / ", b" %b " % path) + chunks + trailers + b"\r\n", b"POST %b  " % path + body


@pytest.mark.parametrize("seed", range(20))
async def test_requests_of_all_kinds_cut_anywhere_are_answered_in_order(seed: int) -> None:
    random = Random(seed)
    requests = [mixed(random, number) for number in range(60)]
    sent = b"".join(request for request, _ in requests) + closing(HELLO)
    cuts = sorted(random.sample(range(1, len(sent)), random.choice((0, 1, 5, 40, 400))))
    async with serving(hello) as port:
        answer = await raw(port, *[sent[start:end] for start, end in pairwise([0, *cuts, len(sent)])], at_once=False)
    bodies = [part.partition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert bodies == [told for _, told in requests] + [b"GET /hello  "]


@pytest.mark.parametrize("is_small", [True, False])
async def test_a_body_full_of_blank_lines_takes_turns_with_others_and_arrives_whole(
    is_small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_reader, "_SLICES_A_TURN", 3)
    body = b"\r\n\r\n" * (1000 if is_small else 80_000)
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    async with serving(hello) as port:
        answer = await raw(port, CHUNKED + chunks + HELLO + closing(HELLO))
    assert statuses(answer) == [200, 200, 200]
    assert answer.count(b"\r\n\r\n\r\n\r\n") >= len(body) // 16


async def test_a_long_body_is_not_read_ahead_of_the_app() -> None:
    may_read = asyncio.Event()
    transports: list[asyncio.Transport] = []

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        transports.append(scope[CLIENT]._connection.transport)
        await may_read.wait()
        await hello(scope, receive, send)

    size = 20_000_000
    async with serving(slow) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(closing(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size) + b"x" * size)
        await eventually(lambda: transports and not transports[0].is_reading())
        assert writer.transport.get_write_buffer_size() > 0
        may_read.set()
        async with asyncio.timeout(PATIENCE_S):
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert len(answer.partition(b"\r\n\r\n")[2]) == len(b"POST /  ") + size


async def test_a_body_that_no_app_takes_is_dropped_and_the_connection_goes_on() -> None:
    request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n" + b"x" * 300_000
    async with serving(refuses) as port:
        answer = await raw(port, request, closing(request))
    assert answer.count(b"HTTP/1.1 413") == 2


@pytest.mark.parametrize("sent", [b"", b"GET / HT", HELLO], ids=["nothing", "half a head", "one request"])
async def test_a_connection_without_a_request_is_closed_in_the_end(sent: bytes) -> None:
    async with serving(hello) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        if sent == HELLO:
            assert (await reader.readuntil(b"GET /hello  ")).startswith(b"HTTP/1.1 200")
        reading = asyncio.create_task(reader.read())
        while not reading.done():
            pass_time(idle_clock.KEEP_ALIVE_S)
            await settled()
        assert await reading == b""
        writer.close()
        await writer.wait_closed()


async def test_a_connection_is_not_closed_while_it_is_answered() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(5):
            pass_time(idle_clock.KEEP_ALIVE_S)
            await settled()
        await hello(scope, receive, send)

    async with serving(slow) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(closing(HELLO))
        assert (await reader.read()).endswith(b"GET /hello  ")
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("is_whole", [True, False], ids=["in one piece", "in pieces"])
async def test_a_client_that_does_not_read_its_answer_is_hung_up_on(is_whole: bool) -> None:
    connections: list[Any] = []
    is_over = asyncio.Event()

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        connections.append(scope[CLIENT]._connection)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1 if is_whole else 400):
            body = b"x" * (40_000_000 if is_whole else 100_000)
            await send({"type": "http.response.body", "body": body, "more_body": not is_whole})
        is_over.set()

    async with serving(large, stall_timeout_s=STALL_S) as port:
        with socket.socket() as client:
            client.connect(("127.0.0.1", port))
            client.sendall(HELLO)
            await eventually(lambda: connections and connections[0].unread is not None)
            pass_time(STALL_S)
            await is_over.wait()


async def test_a_client_that_reads_slowly_but_steadily_gets_a_large_answer_whole() -> None:
    size = 20_000_000
    transports: list[asyncio.Transport] = []

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        transports.append(scope[CLIENT]._connection.transport)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": b"x" * size})

    loop = asyncio.get_running_loop()
    async with serving(large) as port:
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", port))
            await loop.sock_sendall(client, closing(HELLO))
            received, pauses, unsent_bytes = 0, 0, size
            while piece := await loop.sock_recv(client, 1_000_000):
                received += len(piece)
                await asyncio.sleep(0)  # the server's turn
                if 0 < (left_bytes := transports[0].get_write_buffer_size()) < unsent_bytes:
                    pauses, unsent_bytes = pauses + 1, left_bytes
                    pass_time(40)
    assert received > size
    assert pauses > 1


async def test_an_app_whose_client_leaves_learns_it_from_receive() -> None:
    has_left = asyncio.Event()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        has_left.set()

    async with serving(waits) as port:
        with socket.socket() as client:
            client.connect(("127.0.0.1", port))
            client.sendall(HELLO)
        async with asyncio.timeout(PATIENCE_S):
            await has_left.wait()


@pytest.mark.parametrize("half", [False, True], ids=["wholly", "by half"])
@pytest.mark.parametrize("body_bytes", [0, 1000, 66_000, 70_000, 150_000, 200_000, 300_000, 1_000_000])
async def test_an_app_that_asks_for_it_is_cancelled_when_its_client_leaves(body_bytes: int, half: bool) -> None:
    is_cancelled = asyncio.Event()
    has_begun = asyncio.Event()

    async def works(scope: Scope, receive: Receive, send: Send) -> None:
        scope[CLIENT].is_cancelled_on_departure = True
        while (await receive())["more_body"]:
            pass
        has_begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            is_cancelled.set()

    async with serving(works) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % body_bytes + b"x" * body_bytes)
        async with asyncio.timeout(PATIENCE_S):
            await has_begun.wait()
            writer.write_eof() if half else writer.close()
            await is_cancelled.wait()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_client_that_closes_its_half_and_reads_nothing_leaves_no_connection() -> None:
    connections: list[Any] = []
    is_over = asyncio.Event()

    async def sends(scope: Scope, receive: Receive, send: Send) -> None:
        scope[CLIENT].is_cancelled_on_departure = True
        connections.append(scope[CLIENT]._connection)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
                await asyncio.sleep(0)
        finally:
            is_over.set()

    async with serving(sends) as port:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            client.sendall(HELLO)
            await eventually(lambda: connections and connections[0].unread is not None)
            client.shutdown(socket.SHUT_WR)
            await is_over.wait()


async def test_a_client_that_still_sends_what_nobody_wants_has_time_to_read_its_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(idle_clock, "KEEP_ALIVE_S", 40)

    async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
        pass_time(30)
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    head = closing(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n")
    async with serving(refuses) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        async with asyncio.timeout(PATIENCE_S):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413")
            pass_time(20)
            await settled()
            writer.write(b"x" * 9)
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("has_started", [False, True])
async def test_an_app_that_fails_leaves_no_answer_that_could_be_taken_for_whole(
    has_started: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        if has_started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ZeroDivisionError(SECRET)

    async with serving(fails) as port:
        with contextlib.suppress(ConnectionResetError):
            assert not (await raw(port, HELLO)).endswith(b"0\r\n\r\n")
    assert "ZeroDivisionError" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("header", [(b"x-a", b"1\r\nx-b: 2"), (b"x-a\n", b"1"), (b"x-a", b"1\r")])
async def test_a_line_break_in_a_header_never_reaches_the_client(
    header: tuple[bytes, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    async def injects(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [header]})
        await send({"type": "http.response.body", "body": b""})

    async with serving(injects) as port:
        with contextlib.suppress(ConnectionResetError):
            assert await raw(port, HELLO) == b""
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_an_answer_of_another_length_than_its_head_says_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    async def short(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"1234"})

    async with serving(short) as port:
        with contextlib.suppress(ConnectionResetError):
            assert await raw(port, HELLO) == b""
    assert "RuntimeError" in caplog.text


SLOW_HEADS = [b"content-length: 1000\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n1\r\n \r\n"]


@pytest.mark.parametrize("framing", SLOW_HEADS)
async def test_a_body_that_takes_longer_than_its_size_allows_is_hung_up_on(
    framing: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_exchange, "_BODY_GRACE_S", 0.0)
    async with serving(hello) as port:
        assert await raw(port, b"POST / HTTP/1.1\r\nhost: x\r\n" + framing) == b""


async def test_a_body_that_comes_at_the_least_rate_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_exchange, "_BODY_GRACE_S", 0.0)
    monkeypatch.setattr(http_exchange, "_LEAST_BYTES_PER_S", 1)
    request = closing(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 200\r\n\r\n") + b"x" * 100
    async with serving(hello) as port:
        answer = await raw(port, request, b"x" * 50, b"x" * 50)
    assert answer.endswith(b"x" * 200)


async def test_what_a_body_may_take_is_not_used_up_while_the_app_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def busy(scope: Scope, receive: Receive, send: Send) -> None:
        await eventually(lambda: scope[CLIENT].is_whole)
        await hello(scope, receive, send)

    monkeypatch.setattr(http_exchange, "_BODY_GRACE_S", 0.0)
    request = closing(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n")
    async with serving(busy) as port:
        assert (await raw(port, request, b"x" * 100)).endswith(b"x" * 100)


async def test_a_large_piece_of_an_answer_is_not_copied() -> None:
    body = b"x" * 100_000
    written: list[bytes] = []

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        transport = scope[CLIENT]._connection.transport
        scope[CLIENT]._connection.transport = Recorder(transport, written)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100000")]})
        await send({"type": "http.response.body", "body": body})

    async with serving(large) as port:
        assert (await raw(port, closing(HELLO))).endswith(body)
    assert any(piece is body for piece in written)


class Recorder:
    """A transport that notes what is written to it."""

    def __init__(self, transport: asyncio.Transport, written: list[bytes]) -> None:
        self._transport = transport
        self._written = written

    def write(self, data: bytes) -> None:
        self._written.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


UPGRADING = HELLO.replace(b"host: x\r\n", b"host: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n")
PARTS = {"AnswerWriter", "Connection", "HttpExchange", "IdleClock", "RequestReader", "Unread"}


@pytest.mark.parametrize(
    "last",
    [closing(HELLO), b"nonsense\r\n\r\n", UPGRADING, b"GET /cut off"],
    ids=["closed", "refused", "upgrade", "cut"],
)
async def test_a_connection_that_has_ended_leaves_nothing_behind(last: bytes) -> None:
    """Not even as garbage that is to be collected."""
    async with serving(hello) as port:
        await raw(port, closing(HELLO))
        gc.collect()
        others = connections_in_memory()
        known = set(map(id, others))
        gc.disable()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HELLO + last)
            await parsed(port)
            writer.close()
            await writer.wait_closed()
            await eventually(lambda: {id(thing) for thing in connections_in_memory()} <= known)
        finally:
            gc.enable()


def connections_in_memory() -> list[Any]:
    return [thing for thing in gc.get_objects() if type(thing).__name__ in PARTS]
