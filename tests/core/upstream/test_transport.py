"""The upstream transport against a backend that keeps to HTTP, and against one that does not."""

import asyncio
import errno
import gc
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.core.config import UpstreamSettings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.upstream.attempt import Attempt
from mcp_gateway.core.upstream.backend import Backend
from mcp_gateway.core.upstream.transport import (
    BadResponse,
    ConnectFailed,
    ConnectionDied,
    NoResources,
    Response,
    ResponseTooLarge,
    TimedOut,
    Timeouts,
    Transport,
    TransportLimits,
    UpstreamError,
)
from mcp_gateway.core.upstream.transport.errors import is_of_this_machine
from mcp_gateway.core.upstream.transport.transport import _MOST_RESTING
from tests.connections import no_descriptor_left
from tests.examples import examples
from tests.loop_clock import pass_time
from tests.patience import PATIENCE_S, eventually, settled

from .misbehaving import (
    Behaviour,
    MisbehavingServer,
    Peer,
    answer,
    be_deaf,
    close,
    half_close,
    keep_replying,
    make_certificate,
    read_then_stall,
    reply,
    reset,
    stall,
)

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
USUAL_TIMES = Timeouts()
USUAL_LIMITS = TransportLimits()
SHORT_S = 0.05  # a limit that is meant to run out
LONG_BODY = bytes(range(256)) * 32 * 1024  # 8 MiB


@asynccontextmanager
async def exchange_with(
    *behaviours: Behaviour,
    timeouts: Timeouts = USUAL_TIMES,
    limits: TransportLimits = USUAL_LIMITS,
    tls: tuple[ssl.SSLContext, ssl.SSLContext] | tuple[None, None] = (None, None),
) -> AsyncIterator[tuple[MisbehavingServer, Transport]]:
    """A server and a transport to it, which at the end holds no exchange and has left nothing to the loop's log."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with MisbehavingServer(*behaviours, ssl_context=tls[0]) as server, asyncio.timeout(2 * PATIENCE_S):
        transport = Transport(server.base_url, timeouts=timeouts, limits=limits, ssl_context=tls[1])
        yield server, transport
        assert transport.in_flight == 0
        await transport.aclose()
        assert transport.idle == 0
    assert complaints == []


async def get(transport: Transport, method: str = "GET", *, is_stream: bool = False) -> tuple[int, bytes]:
    response = await transport.request(method, "/x", [], is_stream=is_stream)
    try:
        return response.status, bytes(await response.read())
    finally:
        response.close()


async def open_stream(transport: Transport) -> Response:
    return await transport.request("POST", "/x", [], b"{}", is_stream=True)


# -- the end


@pytest.fixture(params=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> asyncio.Runner:
    return asyncio.Runner(loop_factory=uvloop.new_event_loop if request.param == "uvloop" else None)


def test_a_request_cancelled_as_its_connection_is_made_leaves_nothing_to_wait_for(runner: asyncio.Runner) -> None:
    """uvloop has a turn in between, in which it has made the connection and its opener does not know."""

    async def cancel_in_between() -> None:
        async with MisbehavingServer(stall) as server:
            transport = Transport(server.base_url, timeouts=USUAL_TIMES, limits=USUAL_LIMITS)
            asking = asyncio.ensure_future(transport.request("GET", "/x", ()))
            opened = transport.opened

            def cancelled_at_once(connection: Any) -> None:
                opened(connection)
                asking.cancel()

            transport.opened = cancelled_at_once  # type: ignore[method-assign]
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert (transport.in_flight, transport._open) == (0, set())
            async with asyncio.timeout(PATIENCE_S):
                await transport.aclose()

    with runner:
        runner.run(cancel_in_between())


async def test_closing_does_not_wait_for_ever_for_a_socket_that_was_forgotten(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mcp_gateway.core.upstream.transport.transport._CLOSE_S", 0.01)
    async with MisbehavingServer(keep_replying(answer(b"hi"))) as server:
        transport = Transport(server.base_url, timeouts=USUAL_TIMES, limits=USUAL_LIMITS)
        await get(transport)
        monkeypatch.setattr(transport, "lost", lambda connection: None)
        await transport.aclose()
    assert f"1 connections to {server.base_url} did not close" in caplog.text


# -- requests and the pool


async def test_a_request_arrives_whole_in_one_read() -> None:
    first_read = asyncio.get_running_loop().create_future()

    async def behaviour(peer: Peer) -> None:
        first_read.set_result(await peer.reader.read(65536))
        await peer.send(answer(b"hi"))
        await stall(peer)

    async with MisbehavingServer(behaviour) as server:
        transport = Transport(server.base_url + "/base/", timeouts=USUAL_TIMES, limits=USUAL_LIMITS)
        response = await transport.request("POST", "/v1/x?y=z", [(b"a", b"b"), (b"c", b"")], b"{}")
        assert await response.read() == b"hi"
        await transport.aclose()
    host = server.base_url.removeprefix("http://").encode()
    assert await first_read == (
        b"POST /base/v1/x?y=z HTTP/1.1\r\nhost: " + host + b"\r\na: b\r\nc: \r\ncontent-length: 2\r\n\r\n{}"
    )


async def test_small_writes_are_not_held_back_by_the_kernel() -> None:
    async with exchange_with(keep_replying(answer(b"hi"))) as (_, transport):
        await get(transport)
        (connection,) = transport._idle
        sock = connection._socket.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_whole_answer_returns_its_connection_to_the_pool() -> None:
    async with exchange_with(keep_replying(answer(b"hi", 503, b"X-A: 1\r\nx-a: 2\r\n"))) as (server, transport):
        for _ in range(3):
            response = await transport.request("GET", "/x", [])
            assert repr(transport) == f"<Transport {server.base_url} in_flight=1 idle=0>"
            assert (response.status, await response.read()) == (503, b"hi")
            assert response.header(b"x-a") == b"1, 2"
            assert response.header(b"x-b") is None
            assert repr(transport) == f"<Transport {server.base_url} in_flight=0 idle=1>"
            assert await response.next_chunk() == b""
            response.close()
        assert len(server.peers) == 1


async def test_the_connection_used_last_is_used_first() -> None:
    async with exchange_with(keep_replying(answer(b"hi"))) as (server, transport):
        responses = [await transport.request("GET", "/x", []) for _ in range(3)]
        for index in (0, 2, 1):
            await responses[index].read()
        assert (transport.idle, transport.in_flight) == (3, 0)
        await get(transport)
        assert [len(peer.requests) for peer in server.peers] == [1, 2, 1]


async def test_the_pool_keeps_no_more_connections_than_its_limit() -> None:
    limits = TransportLimits(max_idle_connections=1)
    async with exchange_with(keep_replying(answer(b"hi")), limits=limits) as (server, transport):
        first, second = [await transport.request("GET", "/x", []) for _ in range(2)]
        await first.read()
        await second.read()
        assert transport.idle == 1
        await server.peers[1].gone()


async def test_idle_connections_are_closed_when_their_time_is_up() -> None:
    limits = TransportLimits(max_idle_s=SHORT_S)
    async with exchange_with(keep_replying(answer(b"hi")), limits=limits) as (server, transport):
        first, second = [await transport.request("GET", "/x", []) for _ in range(2)]
        await first.read()
        await second.read()
        for peer in server.peers:
            await peer.gone()
        assert transport.idle == 0


async def test_a_connection_past_its_idle_time_is_not_used_even_if_the_loop_was_held_up() -> None:
    limits = TransportLimits(max_idle_s=SHORT_S)
    async with exchange_with(keep_replying(answer(b"hi")), limits=limits) as (server, transport):
        await get(transport)
        time.sleep(1.2 * SHORT_S)  # noqa: ASYNC251 - time has to pass: holding up the loop is the point
        await get(transport)
        assert len(server.peers) == 2


async def test_a_connection_closed_by_the_backend_leaves_the_pool() -> None:
    async with exchange_with(reply(answer(b"hi"), then=close)) as (_, transport):
        await get(transport)
        await eventually(lambda: transport.idle == 0)


async def test_a_line_break_or_a_stray_space_in_the_head_is_refused_before_anything_is_sent() -> None:
    async with exchange_with(stall) as (server, transport):
        for path, header in [
            ("/x\r\ny: z", b"v"),
            ("/x y", b"v"),
            ("/x", b"v\nw: u"),
            ("/x", b"v\rw"),
            ("/\xe9", b"v"),
        ]:
            with pytest.raises(ValueError):  # noqa: PT011 - also UnicodeEncodeError
                await transport.request("GET", path, [(b"n", header)])
        assert server.peers == []


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://h", "http://", "http://u:p@h", "http://h?q", "http://h:x"])
def test_a_base_url_that_is_no_plain_origin_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|[Pp]ort"):
        Transport(url, timeouts=USUAL_TIMES, limits=USUAL_LIMITS)


async def test_closing_the_transport_ends_what_is_under_way() -> None:
    async with exchange_with(keep_replying(answer(b"hi")), read_then_stall) as (server, transport):
        await get(transport)
        response = await transport.request("GET", "/x", [])
        waiting = asyncio.create_task(transport.request("GET", "/x", []))
        await eventually(lambda: len(server.requests) == 3)
        await transport.aclose()
        with pytest.raises(ConnectionDied):
            await waiting
        assert await response.read() == b"hi"  # it had come whole
        with pytest.raises(ConnectFailed):
            await transport.request("GET", "/x", [])
        for peer in server.peers:
            await peer.gone()


# -- one more try, and no more


def dying_on_second_request(*pieces: bytes, then: Behaviour) -> Behaviour:
    return reply(answer(b"hi"), then=reply(*pieces, then=then))


@pytest.mark.parametrize("ending", [close, reset])
async def test_a_reused_connection_that_dies_before_any_byte_is_replaced_once(ending: Behaviour) -> None:
    async with exchange_with(dying_on_second_request(then=ending), keep_replying(answer(b"ho"))) as (server, transport):
        assert await get(transport, "POST") == (200, b"hi")
        assert await get(transport, "POST") == (200, b"ho")
        assert [len(peer.requests) for peer in server.peers] == [2, 1]


async def test_the_replacement_is_fresh_and_not_replaced_again() -> None:
    first = dying_on_second_request(then=close)
    async with exchange_with(first, first, reply(then=close)) as (server, transport):
        responses = [await transport.request("GET", "/x", []) for _ in range(2)]
        for response in responses:
            await response.read()
        with pytest.raises(ConnectionDied) as caught:
            await get(transport)
        assert caught.value.before_first_byte
        assert [len(peer.requests) for peer in server.peers] == [1, 2, 1]


async def test_a_fresh_connection_that_dies_is_not_replaced() -> None:
    async with exchange_with(reply(then=close)) as (server, transport):
        with pytest.raises(ConnectionDied) as caught:
            await get(transport)
        assert caught.value.before_first_byte
        assert len(server.peers) == 1


async def test_a_reused_connection_that_dies_after_a_byte_is_not_replaced() -> None:
    async with exchange_with(dying_on_second_request(b"H", then=close)) as (server, transport):
        await get(transport)
        with pytest.raises(ConnectionDied) as caught:
            await get(transport)
        assert not caught.value.before_first_byte
        assert len(server.peers) == 1


async def test_the_second_try_has_only_the_time_the_first_has_left() -> None:
    async def die_late(peer: Peer) -> None:
        await asyncio.sleep(SHORT_S)  # time has to pass: of what is left, this is gone

    async with exchange_with(dying_on_second_request(then=die_late), read_then_stall) as (server, transport):
        await get(transport)
        request = asyncio.create_task(get(transport))
        await eventually(lambda: len(server.requests) == 3)
        (connection,) = transport._busy
        assert connection.waiting.budget_left_s < USUAL_TIMES.unary_s - SHORT_S / 2
        request.cancel()
        await asyncio.wait([request])


# -- framing


@pytest.mark.parametrize(
    ("method", "raw", "expected", "idle"),
    [
        ("GET", answer(b"hi"), (200, b"hi"), 1),
        ("GET", answer(b""), (200, b""), 1),
        ("GET", CHUNKED + b"2\r\nhi\r\n3;a=b\r\nho!\r\n0\r\nx: y\r\n\r\n", (200, b"hiho!"), 1),
        ("GET", b"HTTP/1.1 200 OK\r\n\r\nuntil the end", (200, b"until the end"), 0),
        ("GET", b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", (200, b"hi"), 0),
        ("GET", answer(b"hi", headers=b"Connection: close\r\n"), (200, b"hi"), 0),
        ("GET", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nlink: y\r\n\r\n" + answer(b"hi"), (200, b"hi"), 1),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", (204, b""), 1),
        ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", (304, b""), 1),
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", (200, b""), 0),
        ("HEAD", answer(b"a body that is not due"), (200, b""), 0),
        ("GET", answer(b"hi") + b"x", (200, b"hi"), 0),
        ("GET", answer(b"hi") + answer(b"ho"), (200, b"hi"), 0),
    ],
)
async def test_an_answer_is_read_to_its_end_however_it_is_framed(
    method: str, raw: bytes, expected: tuple[int, bytes], idle: int
) -> None:
    is_ended_by_closing = raw.startswith(b"HTTP/1.1 200 OK\r\n\r\n")
    async with exchange_with(reply(raw, then=half_close if is_ended_by_closing else stall)) as (server, transport):
        assert await get(transport, method) == expected
        assert transport.idle == idle
        if not idle:
            await server.peers[0].gone()


async def test_bytes_that_come_after_the_end_close_the_connection() -> None:
    behaviour = reply(answer(b"hi"), b"HTTP/1.1 408 Late\r\n\r\n")
    async with exchange_with(behaviour, limits=TransportLimits(max_idle_s=2 * PATIENCE_S)) as (server, transport):
        await get(transport)
        await server.peers[0].gone()
        assert transport.idle == 0


async def test_headers_of_an_interim_answer_and_trailers_are_no_headers_of_the_answer() -> None:
    raw = b"HTTP/1.1 103 Early\r\na: 1\r\n\r\n" + CHUNKED + b"0\r\nb: 2\r\n\r\n"
    async with exchange_with(keep_replying(raw)) as (_, transport):
        response = await transport.request("GET", "/x", [])
        assert await response.read() == b""
        assert response.headers == {b"transfer-encoding": b"chunked"}


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"\x16\x03\x01\x02\x00",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 600 OK\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na b: c\r\ncontent-length: 2\r\n\r\nhi",
        CHUNKED + b"zz\r\nhi\r\n",
        CHUNKED + b"2\r\nhi!!\r\n0\r\n\r\n",
        CHUNKED + b"fffffffffffffffff\r\n",
    ],
)
async def test_what_is_not_an_answer_is_one_clean_error(raw: bytes) -> None:
    async with exchange_with(reply(raw)) as (server, transport):
        with pytest.raises(BadResponse):
            await get(transport)
        await server.peers[0].gone()


async def test_a_backend_that_talks_before_it_is_asked_is_not_used() -> None:
    async def greet(peer: Peer) -> None:
        await peer.send(b"220 mail ESMTP\r\n")
        await stall(peer)

    async with exchange_with(greet) as (server, transport):
        with pytest.raises(BadResponse):
            await get(transport)
        await server.peers[0].gone()


@pytest.mark.parametrize("ending", [close, reset, half_close])
@pytest.mark.parametrize("raw", [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi", CHUNKED + b"2\r\nhi\r\n"])
async def test_a_response_cut_in_the_middle_is_one_clean_error(raw: bytes, ending: Behaviour) -> None:
    async with exchange_with(reply(raw, then=ending)) as (_, transport):
        with pytest.raises(ConnectionDied) as caught:
            await get(transport)
        assert not caught.value.before_first_byte


async def test_what_arrived_before_the_death_is_handed_out_before_the_error() -> None:
    async with exchange_with(reply(CHUNKED, b"2\r\nhi\r\n", then=close)) as (server, transport):
        response = await open_stream(transport)
        await server.peers[0].gone()
        assert await response.next_chunk() == b"hi"
        for _ in range(2):
            with pytest.raises(ConnectionDied):
                await response.next_chunk()


# -- sizes


def endless(start: bytes, again: bytes) -> Behaviour:
    async def behaviour(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(start)
        while True:
            await peer.send(again)

    return behaviour


@pytest.mark.parametrize(
    "behaviour",
    [
        endless(b"HTTP/1.1 200 ", b"O" * 999),
        endless(b"HTTP/1.1 200 OK\r\na: ", b"v" * 999),
        endless(b"HTTP/1.1 200 OK\r\n", b"a: v\r\n" * 99),
        endless(b"", b"HTTP/1.1 100 Continue\r\na: v\r\n\r\n" * 9),
        endless(CHUNKED + b"0\r\n", b"a: v\r\n" * 99),
        endless(CHUNKED + b"0\r\na: ", b"v" * 999),
        endless(CHUNKED + b"2;a=", b"v" * 999),
        reply(b"HTTP/1.1 200 OK\r\na: %b\r\ncontent-length: 2\r\n\r\nhi" % (b"v" * 4100)),
    ],
)
async def test_a_head_without_measure_is_refused(behaviour: Behaviour) -> None:
    async with exchange_with(behaviour, limits=TransportLimits(max_head_bytes=4096)) as (_, transport):
        with pytest.raises(ResponseTooLarge):
            await get(transport)


async def test_a_long_stream_of_small_chunks_is_not_taken_for_a_large_head() -> None:
    raw = CHUNKED + b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n"
    async with exchange_with(keep_replying(raw), limits=TransportLimits(max_head_bytes=4096)) as (_, transport):
        assert await get(transport, is_stream=True) == (200, b"x" * 5000)


@pytest.mark.parametrize("raw", [answer(b"x" * 1001), CHUNKED + b"1\r\nx\r\n" * 1001, answer(LONG_BODY)])
async def test_a_body_above_its_limit_is_refused(raw: bytes) -> None:
    async with exchange_with(reply(raw), limits=TransportLimits(max_body_bytes=1000)) as (server, transport):
        with pytest.raises(ResponseTooLarge):
            await get(transport)
        if not transport.idle:  # it was too long, yet had come whole
            await server.peers[0].gone()


async def test_room_is_asked_for_before_a_long_body_is_taken_and_the_backend_waits_meanwhile() -> None:
    body = b"x" * 4_000_000
    may_go_on = asyncio.Event()
    asked: list[int] = []

    async def keep(size_bytes: int) -> None:
        asked.append(size_bytes)
        await may_go_on.wait()

    async with exchange_with(keep_replying(answer(body))) as (_, transport):
        response = await transport.request("GET", "/x", [])
        reading = asyncio.ensure_future(response.read(keep))
        await eventually(lambda: asked)
        assert asked == [len(body)]
        assert not reading.done()
        may_go_on.set()
        assert await reading == body
        assert set(asked) == {len(body)}


async def test_room_is_asked_for_as_a_body_of_no_announced_length_comes() -> None:
    raw = CHUNKED + b"80000\r\n%b\r\n" % (b"x" * 0x80000) * 4 + b"0\r\n\r\n"
    asked: list[int] = []

    async def keep(size_bytes: int) -> None:
        asked.append(size_bytes)

    async with exchange_with(keep_replying(raw)) as (_, transport):
        response = await transport.request("GET", "/x", [])
        assert len(await response.read(keep)) == 4 * 0x80000
    assert asked == sorted(asked)
    assert 0 < asked[0] < asked[-1] <= len(raw)


@pytest.fixture
def long_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections in doubt rest for as long as a test may take."""
    monkeypatch.setattr("mcp_gateway.core.upstream.transport.connection._DOUBT_S", PATIENCE_S)


KEPT_LONG = TransportLimits(max_idle_s=3 * PATIENCE_S)


@pytest.mark.usefixtures("long_doubt")
async def test_a_connection_in_doubt_rests_before_it_is_used_again() -> None:
    async with exchange_with(*[keep_replying(answer(b"hi"))] * 2, limits=KEPT_LONG) as (server, transport):
        response = await transport.request("GET", "/x", [])
        assert await response.read() == b"hi"
        response.doubt()
        assert await get(transport) == (200, b"hi")  # over another
        assert (len(server.peers), transport.idle) == (2, 2)
        assert await get(transport) == (200, b"hi")  # over that one, which is in no doubt
        (resting,) = [connection for connection in transport._idle if connection.is_doubted]
        resting.idle_since -= PATIENCE_S
        transport._idle.sort(key=lambda connection: connection is resting)  # as if it had been used last
        assert await get(transport) == (200, b"hi")
        assert (len(server.peers), transport.idle, resting.is_doubted) == (2, 2, False)


@pytest.mark.usefixtures("long_doubt")
async def test_of_several_that_rest_the_one_that_has_rested_longest_is_used() -> None:
    async with exchange_with(*[keep_replying(answer(b"hi"))] * 3, limits=KEPT_LONG) as (server, transport):
        for count in (1, 2, 3):
            response = await transport.request("GET", "/x", [])
            assert await response.read() == b"hi"
            response.doubt()
            assert len(server.peers) == count
        longest = transport._idle[0]
        longest.idle_since -= PATIENCE_S
        assert await get(transport) == (200, b"hi")
        assert (len(server.peers), transport._idle[-1]) == (3, longest)


@pytest.mark.usefixtures("long_doubt")
async def test_where_many_rest_the_one_that_has_rested_longest_is_used_and_none_opened() -> None:
    """At thousands of requests a second there would be hundreds of connections."""
    async with exchange_with(*[keep_replying(answer(b"hi"))] * _MOST_RESTING) as (server, transport):
        for _ in range(_MOST_RESTING):
            response = await transport.request("GET", "/x", [])
            assert await response.read() == b"hi"
            response.doubt()
        assert len(server.peers) == transport.idle == _MOST_RESTING
        longest = transport._idle[0]
        assert await get(transport) == (200, b"hi")
        assert (len(server.peers), transport._idle[-1]) == (_MOST_RESTING, longest)


@pytest.mark.usefixtures("long_doubt")
async def test_what_comes_on_a_connection_that_rests_ends_it() -> None:
    may_come = asyncio.Event()

    async def unasked(peer: Peer) -> None:
        await peer.read_request()
        peer.writer.write(answer(b"hi"))
        await may_come.wait()
        peer.writer.write(answer(b"smuggled"))
        await stall(peer)

    async with exchange_with(unasked, keep_replying(answer(b"yours"))) as (server, transport):
        response = await transport.request("GET", "/x", [])
        assert await response.read() == b"hi"
        response.doubt()
        assert await get(transport) == (200, b"yours")
        may_come.set()
        await server.peers[0].gone()
        await eventually(lambda: transport.idle == 1)
        assert await get(transport) == (200, b"yours")


@pytest.mark.parametrize(
    "raw",
    [answer(LONG_BODY), CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(LONG_BODY), LONG_BODY)],
    ids=["whole", "chunks"],
)
async def test_while_room_is_waited_for_little_of_a_body_is_there(raw: bytes) -> None:
    may_go_on, most_bytes = asyncio.Event(), 0

    async def keep(_: int) -> None:
        nonlocal most_bytes
        (connection,) = transport._busy
        if not may_go_on.is_set():
            await eventually(lambda: connection._is_paused)
        most_bytes = max(most_bytes, connection.unread_bytes)
        may_go_on.set()

    async with exchange_with(keep_replying(raw)) as (_, transport):
        response = await transport.request("GET", "/x", [])
        assert await response.read(keep) == LONG_BODY
    assert USUAL_LIMITS.high_water_bytes < most_bytes < USUAL_LIMITS.high_water_bytes + 128 * 1024


async def test_a_body_without_room_is_not_read_on_and_one_that_comes_at_once_asks_for_none() -> None:
    class NoRoomError(Exception):
        pass

    async def keep(size_bytes: int) -> None:
        raise NoRoomError

    async with exchange_with(reply(answer(b"x" * 4_000_000)), keep_replying(answer(b"short"))) as (server, transport):
        response = await transport.request("GET", "/x", [])
        with pytest.raises(NoRoomError):
            await response.read(keep)
        response.close()
        await server.peers[0].gone()
        response = await transport.request("GET", "/x", [])
        assert await response.read(keep) == b"short"


async def test_a_body_at_its_limit_is_read() -> None:
    limits = TransportLimits(max_body_bytes=len(LONG_BODY))
    async with exchange_with(keep_replying(answer(LONG_BODY)), limits=limits) as (_, transport):
        assert await get(transport) == (200, LONG_BODY)
        assert await get(transport, is_stream=True) == (200, LONG_BODY)
        assert transport.idle == 1


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (answer(LONG_BODY), LONG_BODY),
        (CHUNKED + b"8\r\na chunk \r\n" * 2**19 + b"0\r\n\r\n", b"a chunk " * 2**19),
    ],
    ids=["whole", "chunks"],
)
async def test_a_reader_that_does_not_read_stops_the_backend_and_loses_nothing(raw: bytes, body: bytes) -> None:
    async def send_much(peer: Peer) -> None:
        await peer.read_request()
        peer.writer.write(raw)
        await stall(peer)

    limits = TransportLimits(high_water_bytes=1024)
    async with exchange_with(send_much, limits=limits) as (server, transport):
        response = await open_stream(transport)
        (connection,) = transport._busy
        await eventually(lambda: not connection._socket.is_reading())
        assert server.peers[0].writer.transport.get_write_buffer_size() > 0
        assert 0 < connection.unread_bytes <= 1024 + 2 * 64 * 1024
        assert await response.read() == body
        assert transport.idle == 1


async def test_a_long_request_arrives_whole() -> None:
    async with exchange_with(keep_replying(answer(b"hi"))) as (server, transport):
        for _ in range(2):
            response = await transport.request("POST", "/x", [], LONG_BODY)
            assert await response.read() == b"hi"
        assert [request.partition(b"\r\n\r\n")[2] == LONG_BODY for request in server.requests] == [True, True]
        assert len(server.peers) == 1


async def test_a_long_request_waits_for_a_backend_that_does_not_read() -> None:
    async with exchange_with(be_deaf) as (_, transport):
        request = asyncio.create_task(transport.request("POST", "/x", [], 4 * LONG_BODY))
        await eventually(lambda: any(connection._is_write_paused for connection in transport._busy))
        (connection,) = transport._busy
        assert connection._socket.get_write_buffer_size() < 1024 * 1024
        request.cancel()
        await asyncio.wait([request])


async def test_an_answer_before_the_request_was_read_ends_the_sending() -> None:
    async def refuse(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(answer(b"too long", 413))
        await be_deaf(peer)

    async with exchange_with(refuse) as (_, transport):
        response = await transport.request("POST", "/x", [], 4 * LONG_BODY)
        assert (response.status, await response.read()) == (413, b"too long")
        assert transport.idle == 0


# -- times


def trickle(start: bytes, again: bytes) -> Behaviour:
    async def behaviour(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(start)
        while True:
            await peer.send(again)
            await asyncio.sleep(SHORT_S / 10)  # time has to pass: a limit that this does not prolong runs out

    return behaviour


@pytest.mark.parametrize(
    ("behaviour", "is_stream", "which"),
    [
        (read_then_stall, True, "first_token"),
        (reply(CHUNKED), True, "first_token"),
        (trickle(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), True, "first_token"),
        (trickle(CHUNKED + b"2;", b"a"), True, "first_token"),
        (reply(CHUNKED, b"2\r\nhi\r\n"), True, "idle"),
        (trickle(CHUNKED, b"2\r\nhi\r\n"), True, "total"),
        (read_then_stall, False, "unary"),
        (trickle(CHUNKED, b"2\r\nhi\r\n"), False, "unary"),
        (be_deaf, False, "unary"),
    ],
)
async def test_waiting_has_an_end(behaviour: Behaviour, is_stream: bool, which: str) -> None:
    timeouts = replace(USUAL_TIMES, **{f"{which}_s": SHORT_S})
    async with exchange_with(behaviour, timeouts=timeouts) as (server, transport):
        with pytest.raises(TimedOut) as caught:
            await get(transport, is_stream=is_stream)
        assert caught.value.which == which
        if behaviour is not be_deaf:
            await eventually(lambda: server.peers)
            await server.peers[0].gone()


async def test_an_early_limit_holds_after_a_later_one_on_the_same_connection() -> None:
    async with exchange_with(reply(answer(b"hi"), then=read_then_stall), timeouts=Timeouts(first_token_s=SHORT_S)) as (
        _,
        transport,
    ):
        await get(transport)
        with pytest.raises(TimedOut):
            await open_stream(transport)


async def read_all(response: Response) -> None:
    while await response.next_chunk():
        pass


class Counted:
    """Waits on for so many looks, and then gives up."""

    look_s = SHORT_S / 4

    def __init__(self, looks: int) -> None:
        self.left = looks
        self.silences_s: list[float] = []

    def look(self, silent_s: float) -> float:
        self.silences_s.append(silent_s)
        self.left -= 1
        if self.left < 0:
            raise TimedOut("queue")
        return self.look_s


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    "behaviour", [read_then_stall, reply(CHUNKED), reply(CHUNKED, b"2\r\nhi\r\n")], ids=["silence", "head", "amid"]
)
async def test_patience_decides_after_each_silence_how_long_to_wait_on(behaviour: Behaviour, is_stream: bool) -> None:
    patience = Counted(2)
    async with exchange_with(behaviour, timeouts=Timeouts(first_token_s=0, idle_s=0)) as (_, transport):
        with pytest.raises(TimedOut) as caught:
            await read_all(await transport.request("GET", "/x", [], is_stream=is_stream, patience=patience))
        assert caught.value.which == "queue"
        assert len(patience.silences_s) == 3
        assert min(patience.silences_s) > 0


@pytest.mark.parametrize(("is_stream", "which"), [(False, "unary"), (True, "total")])
async def test_patience_prolongs_nothing_beyond_the_time_in_all(is_stream: bool, which: str) -> None:
    timeouts = Timeouts(unary_s=SHORT_S, total_s=SHORT_S)
    async with exchange_with(read_then_stall, timeouts=timeouts) as (_, transport):
        with pytest.raises(TimedOut) as caught:
            await transport.request("GET", "/x", [], is_stream=is_stream, patience=Counted(10**6))
        assert caught.value.which == which


async def test_no_patience_is_left_behind_for_the_next_exchange() -> None:
    async with exchange_with(reply(answer(b"hi"), then=read_then_stall)) as (_, transport):
        patience = Counted(10**6)  # however long the answer takes to come
        response = await transport.request("GET", "/x", [], patience=patience)
        assert await response.read() == b"hi"
        patience.left = 0
        transport.timeouts = Timeouts(unary_s=SHORT_S)
        with pytest.raises(TimedOut) as caught:
            await get(transport)
        assert caught.value.which == "unary"


async def test_time_in_which_the_reader_does_not_read_does_not_count() -> None:
    proceed = asyncio.Event()

    async def wait_for_the_reader(peer: Peer) -> None:
        await proceed.wait()
        await peer.send(b"2\r\nho\r\n0\r\n\r\n")
        await stall(peer)

    timeouts = Timeouts(first_token_s=40, idle_s=40, total_s=40)
    behaviour = reply(CHUNKED, b"2\r\nhi\r\n", then=wait_for_the_reader)
    async with exchange_with(behaviour, timeouts=timeouts) as (_, transport):
        response = await open_stream(transport)
        pass_time(50)
        await settled()
        assert await response.next_chunk() == b"hi"
        pass_time(50)
        await settled()
        proceed.set()
        assert await response.read() == b"ho"


async def test_connecting_has_an_end(tmp_path: Path) -> None:
    async with MisbehavingServer(stall) as server:  # listens, and never answers the TLS handshake
        url = server.base_url.replace("http://", "https://")
        transport = Transport(url, timeouts=Timeouts(connect_s=SHORT_S), limits=USUAL_LIMITS)
        with pytest.raises(TimedOut) as caught:
            await transport.request("GET", "/x", [])
        assert caught.value.which == "connect"
        await eventually(lambda: server.peers)
        await server.peers[0].gone()
        assert transport.in_flight == 0


# -- what this machine lacks


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "no-such-host.invalid"])
async def test_a_connection_for_which_there_is_no_descriptor_says_nothing_of_the_backend(host: str) -> None:
    async with MisbehavingServer(stall) as server:
        url = server.base_url.replace("127.0.0.1", host)
        backend = Backend("vllm-1", Transport(url, timeouts=USUAL_TIMES, limits=USUAL_LIMITS))
        backend.fault = ""
        with no_descriptor_left():
            with pytest.raises(NoResources):
                await backend.origin.request("GET", "/x", [])
            with pytest.raises(GatewayError, match="overloaded") as caught:
                await backend.infer("/v1/chat/completions", b"{}", [], is_stream=False)
            await backend.discover()
        assert caught.value.status == 503
        assert caught.value.retry_after_s
        for _ in range(20):
            Attempt(backend, "m", UpstreamSettings(), 0, is_stream=False).end(caught.value)
        assert (backend.fault, backend.breaker.is_closed, backend.status) == ("", True, "up")


async def test_a_backend_that_could_never_be_asked_tells_why() -> None:
    backend = Backend("vllm-1", Transport("http://127.0.0.1:9", timeouts=USUAL_TIMES, limits=USUAL_LIMITS))
    with no_descriptor_left():
        await backend.discover()
    assert backend.fault == "The gateway has no room for another connection to a backend now."
    assert not backend.is_probed


def several(*numbers: int) -> OSError:
    """As event loops join them."""
    return OSError("Multiple exceptions: " + ", ".join(f"[Errno {number}] Connect call failed" for number in numbers))


OURS = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL]


@pytest.mark.parametrize("error", [*(OSError(number, "x") for number in OURS), several(*OURS), several(errno.EMFILE)])
def test_what_this_machine_lacks_is_known_by_its_number(error: OSError) -> None:
    assert is_of_this_machine(error)


THEIRS = [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNRESET, errno.EPIPE]


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, "x") for number in THEIRS),
        several(errno.EADDRNOTAVAIL, errno.ECONNREFUSED),
        several(*THEIRS),
        OSError("no number"),
        socket.gaierror(socket.EAI_NONAME, "unknown"),
    ],
)
def test_what_the_other_machine_does_is_its_own(error: OSError) -> None:
    assert not is_of_this_machine(error)


# -- leaving


async def test_a_cancelled_request_closes_its_connection_at_once() -> None:
    async with exchange_with(read_then_stall) as (server, transport):
        request = asyncio.create_task(transport.request("GET", "/x", []))
        await eventually(lambda: server.requests)
        request.cancel()
        await asyncio.wait([request])
        assert request.cancelled()
        assert transport.in_flight == 0
        await server.peers[0].gone()


async def test_a_request_cancelled_while_connecting_leaves_nothing() -> None:
    async with MisbehavingServer(stall) as server:
        transport = Transport(server.base_url.replace("http://", "https://"), timeouts=USUAL_TIMES, limits=USUAL_LIMITS)
        request = asyncio.create_task(transport.request("GET", "/x", []))
        await eventually(lambda: server.peers)
        request.cancel()
        await asyncio.wait([request])
        assert request.cancelled()
        await server.peers[0].gone()
        assert transport.in_flight == 0


async def test_a_cancelled_reader_that_closes_closes_the_connection_at_once() -> None:
    async with exchange_with(reply(CHUNKED, b"2\r\nhi\r\n")) as (server, transport):
        response = await open_stream(transport)
        assert await response.next_chunk() == b"hi"
        reading = asyncio.create_task(response.next_chunk())
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        assert transport.in_flight == 1
        response.close()
        response.close()
        assert transport.in_flight == 0
        await server.peers[0].gone()


async def test_a_response_closed_by_another_task_ends_the_reader_with_an_error() -> None:
    async with exchange_with(reply(CHUNKED)) as (_, transport):
        response = await open_stream(transport)
        reading = asyncio.create_task(response.next_chunk())
        await asyncio.sleep(0)
        response.close()
        with pytest.raises(ConnectionDied):
            await reading
        with pytest.raises(ConnectionDied):
            await response.next_chunk()


PARTS = {"OriginConnection", "AnswerParser", "BoundedWait"}


def connections_in_memory() -> list[Any]:
    return [thing for thing in gc.get_objects() if type(thing).__name__ in PARTS]


@contextmanager
def no_connection_left() -> Iterator[None]:
    """Nothing of a connection that was made within may be there afterwards, not even as garbage to be collected."""
    gc.collect()
    others = connections_in_memory()  # kept, so that none of theirs is taken for a new one
    known = set(map(id, others))
    gc.disable()
    try:
        yield
        assert [left for left in connections_in_memory() if id(left) not in known] == []
    finally:
        gc.enable()


async def test_a_closed_connection_leaves_nothing_behind() -> None:
    async with exchange_with(reply(CHUNKED, b"2\r\nhi\r\n")) as (server, transport):
        with no_connection_left():
            response = await open_stream(transport)
            await response.next_chunk()
            response.close()
            await server.peers[0].gone()
            await eventually(lambda: not transport._open)
            del response


@pytest.mark.parametrize("ending", [reply(then=reset), reply(b"x"), read_then_stall], ids=["died", "garbage", "late"])
async def test_a_connection_that_failed_leaves_nothing_behind(ending: Behaviour) -> None:
    async with exchange_with(ending, timeouts=Timeouts(unary_s=SHORT_S)) as (_, transport):
        with no_connection_left():
            with suppress(UpstreamError):
                await get(transport)
            await eventually(lambda: not transport._open)


@pytest.mark.parametrize("ending", [reply(then=reset), reply(b"x"), read_then_stall], ids=["died", "garbage", "late"])
async def test_an_exchange_that_failed_keeps_nothing_of_its_request(ending: Behaviour) -> None:
    async with exchange_with(ending, timeouts=Timeouts(unary_s=SHORT_S)) as (_, transport):
        body = bytes(1000)
        before = sys.getrefcount(body)
        gc.disable()  # else it might hide a cycle
        try:
            with suppress(UpstreamError):
                await transport.request("POST", "/x", [], body)
            assert sys.getrefcount(body) == before
        finally:
            gc.enable()


async def test_an_answer_that_came_whole_but_is_not_read_keeps_its_connection() -> None:
    async with exchange_with(keep_replying(answer(b"hi"))) as (server, transport):
        for _ in range(2):
            response = await transport.request("GET", "/x", [])
            response.close()
        assert (len(server.peers), transport.idle) == (1, 1)


# -- connecting and TLS


async def test_a_refused_connection_is_one_clean_error() -> None:
    async with MisbehavingServer(stall) as server:
        pass
    transport = Transport(server.base_url, timeouts=USUAL_TIMES, limits=USUAL_LIMITS)
    with pytest.raises(ConnectFailed):
        await get(transport)
    assert transport.in_flight == 0


async def test_a_host_name_that_cannot_be_one_is_one_clean_error() -> None:
    transport = Transport(f"http://{'a' * 70}", timeouts=USUAL_TIMES, limits=USUAL_LIMITS)
    with pytest.raises(ConnectFailed):
        await get(transport)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


async def test_tls_carries_requests_and_reuses_connections(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with exchange_with(keep_replying(answer(LONG_BODY)), tls=tls) as (server, transport):
        for _ in range(2):
            response = await transport.request("POST", "/x", [], LONG_BODY)
            assert await response.read() == LONG_BODY
        assert len(server.peers) == 1


async def test_an_abandoned_tls_stream_is_closed_at_once(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with exchange_with(reply(CHUNKED, b"2\r\nhi\r\n"), tls=tls) as (server, transport):
        response = await open_stream(transport)
        assert await response.next_chunk() == b"hi"
        response.close()
        await server.peers[0].gone()


async def test_a_certificate_nobody_vouches_for_is_refused(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with MisbehavingServer(stall, ssl_context=tls[0]) as server:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's own complaint
        transport = Transport(server.base_url, timeouts=USUAL_TIMES, limits=USUAL_LIMITS)
        with pytest.raises(ConnectFailed):
            await get(transport)


async def test_tls_to_a_backend_without_it_is_one_clean_error() -> None:
    async def talk_plainly(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stall(peer)

    async with MisbehavingServer(talk_plainly) as server:
        url = server.base_url.replace("http://", "https://")
        transport = Transport(url, timeouts=USUAL_TIMES, limits=USUAL_LIMITS)
        with pytest.raises(ConnectFailed):
            await get(transport)


# -- any bytes, in any pieces


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def chunked(pieces: list[bytes]) -> bytes:
    return CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"


FRAMED = [
    answer(b"hello", headers=b"a: b\r\n"),
    chunked([b"he", b"llo"]),
    b"HTTP/1.1 100 x\r\n\r\n" + answer(b"hello"),
]


@pytest.mark.parametrize("raw", FRAMED)
async def test_an_answer_cut_in_two_at_any_byte_is_the_same_answer(raw: bytes) -> None:
    behaviours = [reply(raw[:at], raw[at:]) for at in range(len(raw))]
    async with exchange_with(*behaviours, limits=TransportLimits(max_idle_connections=0)) as (_, transport):
        for at in range(len(raw)):
            assert await get(transport, is_stream=bool(at % 2)) == (200, b"hello")


@pytest.mark.parametrize("raw", FRAMED)
async def test_an_answer_that_ends_at_any_byte_before_its_last_is_an_error(raw: bytes) -> None:
    async with exchange_with(*[reply(raw[:at], then=close) for at in range(len(raw))]) as (_, transport):
        for at in range(len(raw)):
            with pytest.raises(ConnectionDied) as caught:
                await get(transport, is_stream=bool(at % 2))
            assert caught.value.before_first_byte == (at == 0)


@examples(60)
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=300), max_size=8),
    places=st.lists(st.integers(0, 4000), max_size=12),
    is_chunked=st.booleans(),
    is_stream=st.booleans(),
)
async def test_a_valid_answer_in_any_chunks_and_any_pieces_is_the_same_answer(
    pieces: list[bytes], places: list[int], is_chunked: bool, is_stream: bool
) -> None:
    body = b"".join(pieces)
    raw = chunked(pieces) if is_chunked else answer(body)
    async with exchange_with(reply(*cut(raw, places))) as (_, transport):
        assert await get(transport, is_stream=is_stream) == (200, body)
        assert transport.idle == 1


@given(
    raw=st.sampled_from([*FRAMED, b""]),
    at=st.integers(0, 200),
    dropped=st.integers(0, 20),
    garbage=st.one_of(
        st.binary(max_size=40), st.sampled_from([b"\r\n", b"\r\n\r\n", b"HTTP/1.1 ", b"0", b": ", b"\0"])
    ),
    places=st.lists(st.integers(0, 400), max_size=4),
    ending=st.sampled_from([close, reset]),
)
async def test_garbage_anywhere_is_an_answer_or_one_clean_error(
    raw: bytes, at: int, dropped: int, garbage: bytes, places: list[int], ending: Behaviour
) -> None:
    at = min(at, len(raw))
    spoilt = raw[:at] + garbage + raw[at + dropped :]
    async with exchange_with(reply(*cut(spoilt, places), then=ending)) as (_, transport):
        try:
            status, _ = await get(transport, is_stream=bool(at % 2))
            assert 200 <= status < 600
        except UpstreamError:
            assert transport.idle == 0
