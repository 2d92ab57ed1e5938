"""The connection to Valkey: how it is made, that answers are those of their questions, and that nobody waits long."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

import pytest

from mcp_gateway.core.valkey import link as links
from mcp_gateway.core.valkey.client import Script, Valkey, bulk
from mcp_gateway.core.valkey.link import ValkeyDown
from mcp_gateway.core.valkey_address import valkey_address
from tests.core.upstream.misbehaving import make_certificate
from tests.listening import streams
from tests.logged import lines_logged
from tests.patience import eventually
from tests.valkey_server import ValkeyServer

pytestmark = pytest.mark.engines
ECHO = Script("return ARGV[1]")


@asynccontextmanager
async def connected(
    url: str, *, answer_s: float = 30, scripts: Iterable[Script] = (), ca_file: Path | None = None
) -> AsyncIterator[Valkey]:
    """`answer_s` is long where nothing is to be late."""
    valkey = Valkey(valkey_address(url), scripts, client_name="a-test", answer_s=answer_s, ca_file=ca_file)
    await valkey.begin()
    watching = asyncio.ensure_future(valkey.watch())
    yield valkey
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching


async def test_answers_are_those_of_their_questions_and_a_turn_of_the_loop_is_one_write(valkey_url: str) -> None:
    async with connected(valkey_url) as valkey:
        assert valkey._link is not None
        writes: list[bytes] = []
        transport = cast("asyncio.Transport", valkey._link._transport)

        class Counted:
            """The connection's own, whose writes are noted."""

            def write(self, data: bytes) -> None:
                writes.append(data)
                transport.write(data)

            def close(self) -> None:
                transport.close()

            def abort(self) -> None:
                transport.abort()

        valkey._link._transport = Counted()  # type: ignore[assignment]
        numbers = [str(number).encode() for number in range(1000)]
        assert await asyncio.gather(*(valkey.ask(("ECHO", number)) for number in numbers)) == numbers
        assert len(writes) == 1


async def test_scripts_are_loaded_again_whatever_the_server_has_forgotten(valkey_url: str) -> None:
    async with connected(valkey_url, scripts=[ECHO]) as valkey:
        call = ("EVALSHA", ECHO.name, 0, "said")
        assert await valkey.ask(call) == b"said"
        await valkey.ask(("SCRIPT", "FLUSH", "SYNC"))
        with pytest.raises(ValkeyDown, match="NOSCRIPT"):
            await valkey.ask(call)
        assert not valkey.is_up
        await eventually(lambda: valkey.is_up)
        assert await valkey.ask(call) == b"said"


async def test_a_password_a_user_and_a_database_are_said_at_once(tmp_path: Path) -> None:
    server = ValkeyServer(
        tmp_path, "--requirepass", "se cret", "--user", "gateway", "on", ">other", "~*", "&*", "+@all"
    )
    try:
        for credentials in (":se%20cret@", "gateway:other@"):
            async with connected(f"redis://{credentials}127.0.0.1:{server.port}/7") as valkey:
                told = await valkey.ask(("CLIENT", "INFO"))
                assert isinstance(told, bytes)
                facts = dict(fact.split(b"=", 1) for fact in told.split())
                assert (facts[b"name"], facts[b"db"]) == (b"a-test", b"7")
        with lines_logged(logging.WARNING) as lines:
            async with connected(f"valkey://gateway:wr0ng@127.0.0.1:{server.port}") as valkey:
                assert not valkey.is_up
                with pytest.raises(ValkeyDown):
                    valkey.ask(("PING",))
        assert "WRONGPASS" in lines[0]
        assert "wr0ng" not in "".join(lines)
    finally:
        server.end()


async def test_a_connection_is_encrypted_and_its_server_must_be_known(
    valkey_server: ValkeyServer, tmp_path: Path
) -> None:
    server_side, _ = make_certificate(tmp_path)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", valkey_server.port)

        async def piped(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                target.write(data)

        both = [asyncio.ensure_future(piped(reader, to_writer)), asyncio.ensure_future(piped(to_reader, writer))]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            to_writer.close()
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async with streams(pass_on, tls=server_side) as port:
        url = f"valkeys://127.0.0.1:{port}"
        async with connected(url, ca_file=tmp_path / "server.pem") as valkey:
            assert await valkey.ask(("ECHO", "said")) == b"said"
        with lines_logged(logging.WARNING) as lines:
            async with connected(url) as valkey:
                assert not valkey.is_up
        assert "certificate verify failed" in lines[0]


async def test_a_killed_server_fails_what_waits_and_what_comes_next_at_once(own_valkey: ValkeyServer) -> None:
    async with connected(own_valkey.url()) as valkey:
        changes: list[bool] = []
        valkey.on_change(changes.append)
        blocked = valkey.ask(("BLPOP", "nothing", 0))
        own_valkey.kill()
        with pytest.raises(ValkeyDown):
            await blocked
        with pytest.raises(ValkeyDown):
            valkey.ask(("PING",))
        own_valkey.begin()
        await eventually(lambda: valkey.is_up)
        assert await valkey.ask(("PING",)) == b"PONG"
        assert changes == [False, True]


async def test_a_frozen_server_is_waited_for_once(own_valkey: ValkeyServer) -> None:
    async with connected(own_valkey.url(), answer_s=0.05) as valkey:
        own_valkey.freeze()
        with pytest.raises(ValkeyDown, match="not answered"):
            await valkey.ask(("PING",))
        with pytest.raises(ValkeyDown, match="away"):
            valkey.ask(("PING",))
        own_valkey.thaw()
        await eventually(lambda: valkey.is_up)


async def test_no_more_waits_than_there_is_room_for(own_valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(own_valkey.url()) as valkey:
        monkeypatch.setattr(links, "_MOST_WAITING", 3)
        own_valkey.freeze()
        waiting = [valkey.ask(("PING",)) for _ in range(3)]
        with pytest.raises(ValkeyDown, match="any more"):
            valkey.ask(("PING",))
        lost: list[bytes] = []
        valkey.tell(b"never sent", lost.append)
        assert lost == [b"never sent"]
        own_valkey.thaw()
        assert await asyncio.gather(*waiting) == [b"PONG"] * 3


async def test_what_does_not_fit_into_the_socket_is_bounded(own_valkey: ValkeyServer) -> None:
    async with connected(own_valkey.url()) as valkey:
        own_valkey.freeze()
        said = b"*2\r\n" + bulk(b"PING") + bulk(b"x" * 1_000_000)

        async def fill() -> None:
            while True:
                valkey.tell(said)
                await asyncio.sleep(0)
                valkey.ask(("PING",)).cancel()

        with pytest.raises(ValkeyDown, match="any more"):
            await fill()
        own_valkey.thaw()


async def test_an_answer_that_is_none_ends_the_connection() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async with streams(greet) as port:
        with lines_logged(logging.WARNING) as lines:
            async with connected(f"valkey://127.0.0.1:{port}") as valkey:
                assert not valkey.is_up
        assert "not understood" in lines[0]


async def test_who_no_longer_waits_leaves_the_order_as_it_is(valkey_url: str) -> None:
    async with connected(valkey_url) as valkey:
        left, asked = valkey.ask(("ECHO", "left")), valkey.ask(("ECHO", "asked"))
        left.cancel()
        assert await asked == b"asked"
