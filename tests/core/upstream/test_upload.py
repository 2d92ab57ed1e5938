"""A body that is sent while it comes, against a backend that takes it slowly, answers before its end, or goes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from mcp_gateway.core.upstream.transport import ConnectionDied, TimedOut, Timeouts
from tests.cases import each
from tests.patience import PATIENCE_S

from .misbehaving import Behaviour, Peer, be_deaf, close, reset
from .test_transport import SHORT_S, exchange_with

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone"
LONG = bytes(range(256)) * 4096


class Pieces:
    """A body of these pieces; before each of them it is awaited what `before` says."""

    def __init__(
        self,
        pieces: Sequence[bytes],
        size_bytes: int | None = None,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.size_bytes = size_bytes
        self.is_whole = False
        self.taken = 0
        self._pieces = list(pieces)
        self._before = before

    async def next_piece(self) -> bytes:
        if self._before is not None:
            await self._before()
        if not self._pieces:
            self.is_whole = True
            return b""
        self.taken += 1
        return self._pieces.pop(0)


def read_up_to(end: bytes, then: Callable[[Peer], Awaitable[None]], seen: list[bytes]) -> Behaviour:
    """Reads until that has come, and goes on from there."""

    async def behave(peer: Peer) -> None:
        seen.append(await peer.reader.readuntil(end))
        await then(peer)

    return behave


def saying(answer: bytes) -> Callable[[Peer], Awaitable[None]]:
    async def say(peer: Peer) -> None:
        await peer.send(answer)
        await peer.drain_until_gone()

    return say


@each(
    ("pieces", "size_bytes", "framing", "sent"),
    [
        ((b"one", b"two"), None, b"transfer-encoding: chunked", b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"),
        ((b"one", b"two"), 6, b"content-length: 6", b"onetwo"),
        ((), None, b"transfer-encoding: chunked", b"0\r\n\r\n"),
        ((LONG, b"end"), None, b"transfer-encoding: chunked", b"%x\r\n%b\r\n3\r\nend\r\n0\r\n\r\n" % (len(LONG), LONG)),
        ((LONG, b"end"), len(LONG) + 3, b"content-length: %d" % (len(LONG) + 3), LONG + b"end"),
    ],
)
async def test_a_body_is_framed_by_its_length_or_in_chunks(
    pieces: tuple[bytes, ...], size_bytes: int | None, framing: bytes, sent: bytes
) -> None:
    heads: list[bytes] = []

    async def read_body(peer: Peer) -> None:
        heads.append(await peer.reader.readexactly(len(sent)))
        await saying(OK)(peer)

    async with exchange_with(read_up_to(b"\r\n\r\n", read_body, heads)) as (_, transport):
        response = await transport.upload("POST", "/x", [(b"a", b"b")], Pieces(pieces, size_bytes))
        assert (response.status, await response.read()) == (200, b"done")
        head, body = heads
        assert head.lower().count(b"content-length") + head.lower().count(b"transfer-encoding") == 1
        assert framing in head
        assert body == sent
        assert transport.idle == 1  # and may be used again


async def test_it_is_on_a_connection_of_its_own() -> None:
    async with exchange_with(saying(OK), saying(OK)) as (_, transport):
        first = await transport.upload("POST", "/x", [], Pieces([b"a"]))
        await first.read()
        assert transport.idle == 1
        second = await transport.upload("POST", "/x", [], Pieces([b"a"]))
        await second.read()
        assert transport.idle == 2


async def test_no_more_is_taken_than_the_backend_takes() -> None:
    body = Pieces([LONG] * 64)
    async with exchange_with(be_deaf, timeouts=Timeouts(first_token_s=SHORT_S)) as (_, transport):
        with pytest.raises(TimedOut) as timed_out:
            await transport.upload("POST", "/x", [], body)
        assert timed_out.value.which == "first_token"
        assert 0 < body.taken < 64


async def test_an_answer_that_comes_first_ends_it_and_its_connection_is_not_used_again() -> None:
    answered = asyncio.Event()

    async def refuse(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 413 No\r\ncontent-length: 0\r\n\r\n")
        answered.set()
        await peer.drain_until_gone()

    body = Pieces([b"piece"] * 10_000, before=lambda: asyncio.wait_for(asyncio.sleep(0), PATIENCE_S))
    async with exchange_with(read_up_to(b"piece", refuse, [])) as (_, transport):
        response = await transport.upload("POST", "/x", [], body)
        assert response.status == 413
        response.close()
        assert not body.is_whole
        assert transport.idle == 0


@pytest.mark.parametrize("end", [close, reset])
async def test_a_backend_that_goes_amid_a_body_is_dead(end: Behaviour) -> None:
    body = Pieces([LONG] * 1000)
    async with exchange_with(read_up_to(b"\r\n\r\n", end, [])) as (_, transport):
        with pytest.raises(ConnectionDied):
            await transport.upload("POST", "/x", [], body)
        assert not body.is_whole


async def test_a_body_that_fails_ends_its_connection() -> None:
    async def fail() -> None:
        raise LookupError("the caller has left")

    async with exchange_with(be_deaf) as (server, transport):
        with pytest.raises(LookupError):
            await transport.upload("POST", "/x", [], Pieces([], before=fail))
        assert transport.in_flight == 0
        assert server is not None
