"""Clients that vanish leave nothing: no session, no task, no place in flight, no hold, no line in the log.

A smaller number of them runs with all tests, the full one with `make leaks`.
"""

import asyncio
import gc
import time
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from mcp_gateway.mcp_door.http import MessageStream
from mcp_gateway.mcp_door.sessions import Session
from mcp_gateway.mcp_door.subscriptions import Listener
from tests.doors.mcp_host import JSON, Host, call, gated, initialize, open_host
from tests.doors.test_mcp_tools import funded
from tests.doors.test_mcp_transports import modern
from tests.patience import PATIENCE_S, eventually

CONNECTIONS = 50
PACED = {
    "id": "shop/paced",
    "backend_model": "demo/paced",
    "context_window": 4096,
    "pricing": {"prompt": "0.0000003", "completion": "0.0000007"},
}
ARGUMENTS = {"model": "shop/paced", "messages": [{"role": "user", "content": "hello"}]}


def expire_sessions(host: Host) -> None:
    """As if nobody had used any for more than an hour."""
    host.door.sessions._monotonic_s = lambda: time.monotonic() + 3601
    host.door.sessions.expire()


async def nothing_is_left(host: Host, tasks: int) -> None:
    await eventually(lambda: not (len(host.door.sessions) or len(host.door.event_sessions)))
    await eventually(lambda: not (len(host.door.subscriptions) or host.gateway.limiter.in_flight))
    assert await host.gateway.lifecycle.wait_until_idle(PATIENCE_S)
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
    assert host.gateway.pool.demo.work.in_flight == 0
    assert await host.gateway.ledger.check() == []
    assert (await host.gateway.ledger.balance("acc_test")).held_nano == 0
    gc.collect()
    assert not [it for it in gc.get_objects() if isinstance(it, Session | MessageStream | Listener)]
    assert host.errors == []


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_sessions_that_are_opened_and_abandoned_expire(tmp_path: Path, count: int) -> None:
    settings = {"session_idle_timeout_s": 3600, "max_sessions": 2 * count, "max_sessions_per_guest_address": count}
    async with open_host(tmp_path, mcp=settings) as host:
        tasks = len(asyncio.all_tasks())
        limits = httpx2.Limits(max_connections=CONNECTIONS)
        async with httpx2.AsyncClient(timeout=PATIENCE_S, limits=limits) as http, asyncio.TaskGroup() as opening:

            async def open_some() -> None:
                for _ in range(count // CONNECTIONS):
                    opened = await http.post(host.url, json=initialize(), headers=JSON)
                    session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
                    uri = {"uri": "models://catalog"}
                    subscribe = {"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": uri}
                    await http.post(host.url, json=subscribe, headers=JSON | session)

            for _ in range(CONNECTIONS):
                opening.create_task(open_some())
        assert len(host.door.sessions) == count
        expire_sessions(host)
        await nothing_is_left(host, tasks)


class Raw:
    """A connection that is cut without a word."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, host: Host) -> "Raw":
        port = int(host.url.split(":")[2].split("/")[0])
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def request(
        self, method: str, path: str, headers: dict[str, str], until: bytes, message: Any = None
    ) -> bytes:
        """Send a request; its answer up to and with `until`."""
        body = b"" if message is None else orjson.dumps(message)
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        return await self._reader.readuntil(until)

    def cut(self) -> None:
        self._writer.transport.abort()


async def begun_over_sse(host: Host, key: dict[str, str]) -> Raw:
    stream, posting = await Raw.open(host), await Raw.open(host)
    await stream.request("GET", "/v1/mcp/sse", key, b"session_id=")
    session_id = (await stream._reader.readuntil(b"\n")).strip().decode()
    path = f"/v1/mcp/messages/?session_id={session_id}"
    await posting.request("POST", path, JSON | key, b"\r\n\r\n", call("chat_completion", ARGUMENTS, progressToken=1))
    await stream._reader.readuntil(b"notifications/progress")
    posting.cut()
    return stream


async def begun_in_a_session(host: Host, key: dict[str, str]) -> Raw:
    raw = await Raw.open(host)
    session = await host.open_session(key)
    message = call("chat_completion", ARGUMENTS, progressToken=1)
    await raw.request("POST", "/v1/mcp", JSON | session, b"notifications/progress", message)
    return raw


async def begun_modern(host: Host, key: dict[str, str]) -> Raw:
    raw = await Raw.open(host)
    message, headers = modern(call("chat_completion", ARGUMENTS, progressToken=1))
    await raw.request("POST", "/v1/mcp", JSON | headers | key, b"notifications/progress", message)
    return raw


async def begun_to_listen(host: Host, key: dict[str, str]) -> Raw:
    raw = await Raw.open(host)
    wanted = {"notifications": {"resourcesListChanged": True}}
    listen = {"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": wanted}
    message, headers = modern(listen)
    await raw.request("POST", "/v1/mcp", JSON | headers | key, b"acknowledged", message)
    return raw


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
async def test_connections_that_are_cut_in_the_middle_of_a_call_leave_nothing(tmp_path: Path, count: int) -> None:
    settings = {"session_idle_timeout_s": 3600, "disconnect_grace_s": 0.05}
    async with open_host(tmp_path, mcp=settings, models=(PACED,)) as host:
        gated(host)
        key = host.key("alice", account_id=await funded(host, 10**12))
        tasks = len(asyncio.all_tasks())
        begin = [begun_over_sse, begun_in_a_session, begun_modern, begun_to_listen]
        for _ in range(count // 100):
            cut = await asyncio.gather(*(begin[number % len(begin)](host, key) for number in range(100)))
            assert host.gateway.limiter.in_flight >= 75
            for raw in cut:
                raw.cut()
            await eventually(lambda: not host.gateway.limiter.in_flight)
        del cut, raw
        expire_sessions(host)
        await nothing_is_left(host, tasks)
