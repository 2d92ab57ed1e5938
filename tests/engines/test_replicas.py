"""What replicas tell each other through a Valkey: heard by them alone, once, and of no weight while it is away."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from mcp_gateway.core.replicas import ReplicasAway
from mcp_gateway.core.valkey.channels import ChannelLink
from mcp_gateway.core.valkey.client import Valkey
from mcp_gateway.core.valkey.replicas import ValkeyReplicas
from mcp_gateway.core.valkey_address import valkey_address
from tests.engines.joined import joined
from tests.logged import lines_logged
from tests.patience import eventually
from tests.valkey_server import ValkeyServer

pytestmark = pytest.mark.engines


class Heard:
    """One replica, what it has heard, and what it answers."""

    def __init__(self, replica: ValkeyReplicas) -> None:
        self.replica = replica
        self.news: list[bytes] = []
        self.asked: list[bytes] = []
        replica.hear(self.news.append, self.answer)

    async def answer(self, text: bytes) -> bytes:
        self.asked.append(text)
        if text == b"fail":
            raise RuntimeError(text.decode() * 2)
        return text[::-1]


@pytest.fixture
async def group() -> AsyncIterator[asyncio.TaskGroup]:
    tasks: list[asyncio.Task[None]] = []

    class Group(asyncio.TaskGroup):
        def create_task(self, *arguments, **named):  # type: ignore[no-untyped-def]
            tasks.append(super().create_task(*arguments, **named))
            return tasks[-1]

    async with Group() as group:
        yield group
        for task in tasks:
            task.cancel()


@asynccontextmanager
async def valkey_connection(url: str) -> AsyncIterator[Valkey]:
    valkey = Valkey(valkey_address(url), (), client_name="test")
    await valkey.begin()
    yield valkey
    await valkey._hang_up()


async def pair(url: str, group: asyncio.TaskGroup) -> tuple[Heard, Heard]:
    return Heard((await joined(url, group))[0]), Heard((await joined(url, group))[0])


async def test_replicas_hear_each_other_and_not_themselves(valkey_url: str, group: asyncio.TaskGroup) -> None:
    one, other = await pair(valkey_url, group)
    one.replica.tell_all(b"news")
    await eventually(lambda: other.news == [b"news"])
    assert await one.replica.ask(other.replica.own_name, b"hello") == b"olleh"
    assert await other.replica.ask(one.replica.own_name, bytes(1024 * 1024)) == bytes(1024 * 1024)
    assert await one.replica.ask("nobody", b"hello") is None
    assert (one.news, other.asked) == ([], [b"hello"])


async def test_what_is_noted_is_known_to_all_for_a_while(valkey_url: str, group: asyncio.TaskGroup) -> None:
    one, other = await pair(valkey_url, group)
    await one.replica.note("thing", {"a": "1", "b": "é"}, 100)
    await other.replica.note("thing", {"a": None, "c": "3"}, 100)
    assert await one.replica.noted("thing") == {"b": "é", "c": "3"}
    assert await one.replica.noted("another") == {}
    async with valkey_connection(valkey_url) as valkey:
        [name] = cast("list[bytes]", await valkey.ask(("KEYS", "*")))
        assert b"thing" in name
        assert 0 < cast("int", await valkey.ask(("TTL", name))) <= 100


async def test_replicas_of_another_gateway_are_strangers(valkey_url: str, group: asyncio.TaskGroup) -> None:
    one, _ = await pair(valkey_url, group)
    stranger = Heard((await joined(valkey_url, group, secret=32 * b"x"))[0])
    one.replica.tell_all(b"news")
    await one.replica.note("thing", {"a": "1"}, 100)
    assert await one.replica.ask(stranger.replica.own_name, b"hello") is None
    assert await stranger.replica.noted("thing") == {}
    assert stranger.news == []


async def test_what_somebody_else_publishes_or_repeats_is_not_heard(valkey_url: str, group: asyncio.TaskGroup) -> None:
    one, other = await pair(valkey_url, group)
    sealed: list[bytes] = []

    def hear(data: bytes) -> None:
        sealed.append(data)
        other.replica._take(data)

    assert isinstance(other.replica._channels._link, ChannelLink)
    other.replica._channels._link._reader._hear = hear
    one.replica.tell_all(b"once")
    await eventually(lambda: other.news == [b"once"])
    with lines_logged(logging.WARNING) as lines:
        async with valkey_connection(valkey_url) as valkey:
            for forged in (sealed[0], b"", b"nonsense", sealed[0][:-1] + b"x"):
                await valkey.ask(("PUBLISH", other.replica._all, forged))
            await valkey.ask(("PUBLISH", other.replica._own, sealed[0]))
        await eventually(lambda: len(sealed) == 6)
    assert other.news == [b"once"]
    assert any("of no replica" in line for line in lines)


async def test_an_answer_that_fails_is_told_to_nobody(
    valkey_url: str, group: asyncio.TaskGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_gateway.core.valkey.replicas._ANSWER_S", 0.2)
    one, other = await pair(valkey_url, group)
    with lines_logged(logging.ERROR) as lines, pytest.raises(ReplicasAway):
        await one.replica.ask(other.replica.own_name, b"fail")
    assert "RuntimeError" in lines[0]
    assert "failfail" not in lines[0]


async def test_a_user_of_valkey_needs_no_more_rights_than_the_documents_name(
    tmp_path: Path, group: asyncio.TaskGroup
) -> None:
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    of_limits, more = re.search(r"A user needs `([^`]*)`", page), re.search(r"Its user needs, [^`]*`([^`]*)`", page)
    assert of_limits is not None
    assert more is not None
    rights = f"{of_limits[1]} {more[1]}".split()
    server = ValkeyServer(tmp_path, "--user", "gateway", "on", ">secret", *rights)
    try:
        with lines_logged(logging.WARNING) as lines:
            one, other = await pair(server.url().replace("//", "//gateway:secret@"), group)
            assert await one.replica.ask(other.replica.own_name, b"hello") == b"olleh"
            await one.replica.note("thing", {"a": "1", "b": None}, 100)
            assert await other.replica.noted("thing") == {"a": "1"}
            await one.replica._channels.pong()
        assert lines == []
    finally:
        server.end()


async def test_while_valkey_is_away_nothing_is_told_and_then_it_is(
    own_valkey: ValkeyServer, group: asyncio.TaskGroup
) -> None:
    one, other = await pair(own_valkey.url(), group)
    own_valkey.kill()
    await eventually(lambda: not one.replica._valkey.is_up)
    one.replica.tell_all(b"lost")
    for asking in (
        one.replica.ask(other.replica.own_name, b"hello"),
        one.replica.note("thing", {"a": "1"}, 100),
        one.replica.noted("thing"),
    ):
        with pytest.raises(ReplicasAway):
            await asking
    own_valkey.begin()
    everything = [one.replica._valkey, one.replica._channels, other.replica._valkey, other.replica._channels]
    await eventually(lambda: all(each.is_up for each in everything))
    assert await one.replica.ask(other.replica.own_name, b"hello") == b"olleh"
    assert other.news == []
