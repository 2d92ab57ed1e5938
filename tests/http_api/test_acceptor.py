"""Connections that come together are taken in together, whichever event loop the gateway is served on."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from starlette.types import Receive, Scope, Send

from http_api.connection import Acceptor, Bounds, Census
from http_api.serve import DrainingServer, config_of
from mcp_gateway.core.lifecycle import Lifecycle
from tests.connections import uncapped, unheard
from tests.patience import eventually

MANY = 60
FEW_TURNS = 12
"""Of the event loop, the look at its sockets included: one would be taken in by each otherwise."""
HELLO = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def hello(_: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


@contextlib.asynccontextmanager
async def serving(census: Census | None = None) -> AsyncIterator[tuple[DrainingServer, int]]:
    """A server, with the port that it listens on; whoever is connected afterwards is hung up on."""
    config = config_of(
        hello, host="127.0.0.1", port=0, bounds=Bounds(65536, 60.0), census=census or uncapped(), note_refusal=unheard,
        drain_timeout_s=5,
    )  # fmt: skip
    config.load()
    ports: list[int] = []
    server = DrainingServer(config, Lifecycle(), 0, 0, lambda _, port: ports.append(port))
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield server, ports[0]
    finally:
        server.servers[0].close()
        for connection in list(server.server_state.connections):
            connection.shutdown()
        await eventually(lambda: not (server.server_state.connections or server.server_state.tasks))


@contextlib.contextmanager
def clients(port: int, many: int = MANY) -> Iterator[list[socket.socket]]:
    """Connected by the system, while the event loop stands still."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(many)]


async def a_few_turns() -> None:
    for _ in range(FEW_TURNS):
        await asyncio.sleep(0)


async def test_all_that_wait_are_taken_in_within_a_few_turns() -> None:
    async with serving() as (server, port):
        with clients(port):
            await a_few_turns()
            assert len(server.server_state.connections) == MANY


async def test_each_is_served_as_one_that_comes_alone() -> None:
    async with serving() as (server, port):
        with clients(port) as connected:
            for client in connected:
                client.setblocking(False)
                await asyncio.get_running_loop().sock_sendall(client, HELLO)
            for client in connected:
                answer = await asyncio.get_running_loop().sock_recv(client, 1000)
                assert answer.startswith(b"HTTP/1.1 200")
                assert answer.endswith(b"hi")
            made = list(server.server_state.connections)
            assert {one.transport.get_extra_info("peername")[0] for one in made} == {"127.0.0.1"}
            no_delay = {_has_no_delay(one.transport.get_extra_info("socket")) for one in made}
            assert no_delay == {True}


def _has_no_delay(connected: socket.socket) -> bool:
    return bool(connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


async def test_none_is_taken_in_beyond_the_cap() -> None:
    refused: list[str] = []
    census = Census(most=MANY // 2, most_per_address=MANY, is_shared=lambda _: False, on_refused=refused.append)
    async with serving(census) as (server, port):
        with clients(port):
            await eventually(lambda: len(refused) == MANY - MANY // 2)
            assert len(server.server_state.connections) == MANY // 2
            assert census.count == MANY // 2


async def test_nobody_is_taken_in_once_the_port_is_closed() -> None:
    async with serving() as (server, port):
        with clients(port, 2):
            await eventually(lambda: len(server.server_state.connections) == 2)
            server.servers[0].close()
            await a_few_turns()
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", port))


async def test_one_that_is_lost_as_it_comes_costs_a_line_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """As where the protocol could not be made: the loop would have reported it of one that it accepted itself."""

    def make(**_: object) -> asyncio.Protocol:
        raise RuntimeError("no protocol")

    acceptor = Acceptor(make)
    ours, theirs = socket.socketpair()
    with theirs, caplog.at_level(logging.WARNING):
        acceptor._enter(ours, {})
        await eventually(lambda: "a connection was lost as it came: no protocol" in caplog.text)
        ours.close()
