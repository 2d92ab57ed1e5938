"""How many connections there may be, of one address and in all, and what is done where none can be opened."""

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from itertools import count

import pytest

from http_api.connection.census import Cap, Census
from http_api.descriptors import most_connections
from http_api.serve import _Complaints
from mcp_gateway.core.identity.address import AddressReader
from tests.cases import each
from tests.connections import no_descriptor_left
from tests.http_api.test_connection import HELLO, hello, serving, statuses
from tests.patience import PATIENCE_S, eventually

Refused = list[Cap]


def census_of(*proxies: str, most: int = 100, most_per_address: int = 2) -> tuple[Census, Refused]:
    refused: Refused = []
    is_shared = AddressReader(proxies).is_shared
    census = Census(most=most, most_per_address=most_per_address, is_shared=is_shared, on_refused=refused.append)
    return census, refused


@each(
    ("proxies", "addresses", "taken"),
    [
        ([], ["192.0.2.1"] * 3, [True, True, False]),
        ([], ["192.0.2.1", "192.0.2.1", "192.0.2.2"], [True, True, True]),
        ([], ["2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::3"], [True, True, False]),
        ([], ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::3"], [True, True, True]),
        ([], ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"], [True, True, False]),
        ([], ["127.0.0.1"] * 5, [True] * 5),
        ([], ["::1", "::ffff:127.0.0.1", "::1", "127.0.0.2"], [True] * 4),
        (["10.0.0.0/8"], ["10.1.2.3"] * 5, [True] * 5),
        (["10.0.0.0/8"], ["127.0.0.1"] * 3, [True, True, False]),
        ([], [None] * 5, [True] * 5),
    ],
)
def test_an_address_has_so_many_unless_many_clients_share_it(
    proxies: list[str], addresses: list[str | None], taken: list[bool]
) -> None:
    census, refused = census_of(*proxies)
    assert [census.enter(address) for address in addresses] == taken
    assert refused == ["address"] * taken.count(False)
    assert census.count == taken.count(True)


@pytest.mark.parametrize("address", ["192.0.2.1", "127.0.0.1", None])
def test_all_together_have_so_many_wherever_they_come_from(address: str | None) -> None:
    census, refused = census_of(most=3, most_per_address=3)
    assert [census.enter(address) for _ in range(5)] == [True] * 3 + [False] * 2
    assert refused == ["all"] * 2


def test_who_leaves_makes_room_and_is_forgotten() -> None:
    census, refused = census_of(most=2, most_per_address=1)
    for number in range(1000):
        address = f"192.0.{number >> 8}.{number & 255}"
        assert census.enter(address)
        assert not census.enter(address)
        census.leave(address)
    assert census.count == 0
    assert not census._by_address
    assert len(refused) == 1000


def test_the_log_tells_of_refusals_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    census, _ = census_of(most_per_address=1)
    for _ in range(100):
        census.enter("192.0.2.1")
    assert len(caplog.records) == 1
    assert "max_connections_per_address" in caplog.text
    assert "192.0.2" not in caplog.text


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def answer_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """What one request is answered, nothing where the connection is closed."""
    writer.write(HELLO)
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        async with asyncio.timeout(PATIENCE_S):
            return await reader.readuntil(b"GET /hello  ")
    return b""


async def test_a_connection_beyond_the_cap_is_closed_as_it_comes_and_the_others_go_on() -> None:
    census, refused = census_of("192.0.2.0/24", most_per_address=3)
    async with serving(hello, census=census) as port, contextlib.AsyncExitStack() as stack:
        kept = [await stack.enter_async_context(connected(port)) for _ in range(3)]
        assert [statuses(await answer_on(*connection)) for connection in kept] == [[200]] * 3
        for number in count(1):
            async with connected(port) as beyond:
                assert await answer_on(*beyond) == b""
            if number == 20:
                break
        assert refused == ["address"] * 20
        assert [statuses(await answer_on(*connection)) for connection in kept] == [[200]] * 3
        await stack.aclose()
        await eventually(lambda: not census.count)
        async with connected(port) as again:
            assert statuses(await answer_on(*again)) == [200]
    assert census.count == 0


async def test_without_descriptors_the_log_says_so_once_and_who_is_connected_is_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asyncio.get_running_loop().set_exception_handler(_Complaints())
    clients = [socket.socket() for _ in range(5)]
    async with serving(hello) as port, connected(port) as kept:
        assert statuses(await answer_on(*kept)) == [200]
        with no_descriptor_left():
            for client in clients:
                client.connect(("127.0.0.1", port))
            assert statuses(await answer_on(*kept)) == [200]
        for client in clients:
            client.close()
    said = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1
    assert said[0].exc_info is None
    assert "room for another connection" in said[0].getMessage()


async def test_other_complaints_of_the_loop_are_told_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    _Complaints()(loop, {"message": "something else", "exception": OSError(5, "x")})
    _Complaints()(loop, {"message": "and more"})
    assert [record.getMessage().partition("\n")[0] for record in caplog.records] == ["something else", "and more"]


@pytest.mark.program
def test_the_limit_of_open_files_is_raised_as_far_as_it_goes() -> None:
    program = "from http_api.descriptors import raise_limit; print(raise_limit())"
    shell = 'ulimit -Sn 100; ulimit -Hn 400; exec "$0" -c "$1"'
    told = subprocess.run(["bash", "-c", shell, sys.executable, program], capture_output=True, text=True, check=True)
    assert told.stdout == "400\n"


@pytest.mark.parametrize(
    ("limit", "configured", "most", "lines"),
    [
        (1 << 20, None, 16_384, 0),
        (20_000, None, 9968, 0),
        (1024, None, 480, 1),
        (256, None, 96, 1),
        (64, None, 1, 1),
        (1 << 20, 5000, 5000, 0),
        (1 << 20, 20_000, 20_000, 1),
        (1024, 400, 400, 0),
        (1024, 2000, 2000, 1),
    ],
)
def test_connections_leave_room_for_as_many_to_backends(
    limit: int, configured: int | None, most: int, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert most_connections(limit, configured) == most
    assert len(caplog.records) == lines
