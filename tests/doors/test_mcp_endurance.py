"""Large answers, slow readers and restarts, over each transport in each era."""

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any

import orjson
import pytest

from mcp_gateway.mcp_door import http as door_http
from tests.doors.mcp_host import (
    JSON,
    Host,
    call,
    chat,
    http_client,
    open_host,
    text_in,
)
from tests.doors.test_mcp_catalog import ERAS
from tests.doors.test_mcp_lifetimes import sse_session
from tests.doors.test_mcp_transports import PING, modern
from tests.loop_clock import pass_time
from tests.origins import Fixed
from tests.patience import eventually, settled

pytestmark = pytest.mark.gateways
STALL_S = 30.0
LARGE = "ä" * 3_000_000
ARGUMENTS = chat()["params"]["arguments"]


def large_stream() -> bytes:
    """A stream of the demo's, ten times what one message may hold."""
    chunks = [{"content": LARGE[:1_500_000]}, {"content": LARGE[1_500_000:]}]
    frames: list[dict[str, Any]] = [
        {"model": "demo/echo", "choices": [{"index": 0, "delta": delta}]} for delta in chunks
    ]
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    frames += [{"model": "demo/echo", "choices": [last]}, {"model": "demo/echo", "choices": [], "usage": usage}]
    return b"".join(b"data: " + orjson.dumps(frame) + b"\n\n" for frame in frames) + b"data: [DONE]\n\n"


@pytest.mark.parametrize(("transport", "mode"), ERAS)
async def test_a_large_answer_reaches_the_client_cut_to_what_it_takes(
    tmp_path: Path, transport: str, mode: str
) -> None:
    async def note(progress: float, total: float | None, message: str | None) -> None: ...

    async with open_host(tmp_path) as host:
        host.gateway.pool.demo.origin = Fixed(large_stream())
        async with host.client(transport, mode, host.key("alice")) as client:
            answer = await client.call_tool("chat_completion", ARGUMENTS, progress_callback=note)
            assert not answer.is_error
            assert text_in(answer.content[0]).startswith("ää")
            assert "HTTP API" in answer.structured_content["note"]
            assert (await client.list_tools()).tools


async def unread(host: Host, path: str, headers: dict[str, str], message: Any = None) -> socket.socket:
    """A connection whose client sends a request, has hardly any room for the answer, and reads nothing of it."""
    body = b"" if message is None else orjson.dumps(message)
    sent = {"Host": "localhost", "Content-Length": str(len(body))} | headers
    lines = [f"{'GET' if message is None else 'POST'} {path} HTTP/1.1", *(f"{name}: {sent[name]}" for name in sent)]
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, ("127.0.0.1", int(host.url.split(":")[2].split("/")[0])))
    await loop.sock_sendall(connection, "\r\n".join([*lines, "", ""]).encode() + body)
    return connection


async def is_hung_up(connection: socket.socket) -> bool:
    """Whether the connection breaks before much of the answer has come."""
    received = 0
    with connection, contextlib.suppress(ConnectionResetError):
        while piece := await asyncio.get_running_loop().sock_recv(connection, 65536):
            received += len(piece)
    return received < 200_000


@pytest.mark.parametrize("kind", ["session", "modern", "whole"])
async def test_a_client_that_does_not_read_its_answer_is_hung_up_on(tmp_path: Path, kind: str) -> None:
    async with open_host(tmp_path, client_stall_timeout_s=STALL_S, send_buffer_bytes=8192) as host:
        host.gateway.pool.demo.origin = Fixed(large_stream())
        alice = host.key("alice")
        message, headers = call("chat_completion", ARGUMENTS, progressToken=1), JSON | alice
        if kind == "modern":
            message, repeated = modern(message)
            headers |= repeated
        else:
            headers |= await host.open_session(alice)
        if kind == "whole":
            headers["Accept"] = "application/json"
        answered = host.answered
        connection = await unread(host, "/v1/mcp", headers, message)
        while host.answered == answered:
            await settled()
            pass_time(STALL_S)
        assert await is_hung_up(connection)
        assert not host.gateway.limiter.in_flight


async def test_an_sse_client_that_does_not_read_loses_its_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_http, "KEEP_ALIVE_S", 0.05)
    async with open_host(tmp_path, client_stall_timeout_s=STALL_S, send_buffer_bytes=8192) as host:
        host.gateway.pool.demo.origin = Fixed(large_stream())
        with await unread(host, "/v1/mcp/sse", {}):
            await eventually(lambda: len(host.door.event_sessions) == 1)
            [session] = host.door.event_sessions.all()
            message = call("chat_completion", ARGUMENTS, progressToken=1)
            await host.post(message, url=f"{host.url}/messages/?session_id={session.id}")
            while len(host.door.event_sessions):
                await settled()
                pass_time(STALL_S)
        await eventually(lambda: not host.gateway.limiter.in_flight)


async def test_after_a_restart_old_sessions_are_not_found_and_clients_begin_anew(tmp_path: Path) -> None:
    async with open_host(tmp_path) as host, sse_session(host) as (_, url):
        session, messages = await host.open_session(), url.removeprefix(host.url)
    async with open_host(tmp_path) as host:
        assert (await host.post(PING, session)).status_code == 404
        assert (await host.post(PING, url=host.url + messages)).status_code == 404
        assert (await host.post(*modern(chat("hi")))).status_code == 200
        assert (await host.post(PING, await host.open_session())).status_code == 200
        async with sse_session(host) as (_, url), http_client() as http:
            assert (await http.post(url, json=PING)).status_code == 202
