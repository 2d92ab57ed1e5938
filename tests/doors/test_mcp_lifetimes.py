"""How calls, streams and sessions end: by cancel, by leaving, by time, by a revoked key, by the gateway's own end."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from mcp_gateway.core.json_bounds import JsonBounds
from mcp_gateway.mcp_door import http as door_http
from mcp_gateway.mcp_door.http import await_departure
from mcp_gateway.mcp_door.sessions import Sessions
from mcp_gateway.mcp_door.shares import Caps
from mcp_gateway.tools.progress import Progress, ProgressReports
from tests.doors.mcp_host import Gate, Host, call, chat, gated, http_client, initialize, open_host
from tests.doors.test_mcp_shares import owner, session
from tests.doors.test_mcp_transports import MODERN, PING, modern
from tests.loop_clock import pass_time
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.gateways
PACED = "demo/paced"


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with open_host(tmp_path, mcp={"disconnect_grace_s": 0.01}) as host:
        yield host
        await eventually(lambda: not host.gateway.limiter.in_flight)
        assert await host.gateway.lifecycle.wait_until_idle(5)


@pytest.fixture
def gate(host: Host) -> Gate:
    return gated(host)


@asynccontextmanager
async def sse_session(host: Host, headers: dict[str, str] | None = None) -> AsyncIterator[tuple[Any, str]]:
    """The lines of an open HTTP+SSE stream, and the address that its messages go to."""
    async with (
        http_client() as http,
        http.stream("GET", f"{host.url}/sse", headers={"Accept": "text/event-stream"} | (headers or {})) as stream,
    ):
        lines = stream.aiter_lines()
        await anext(lines)
        yield lines, host.messages_url(await anext(lines))


async def next_message(lines: Any) -> dict[str, Any]:
    while not (line := await anext(lines)).startswith("data: {"):
        pass
    message: dict[str, Any] = orjson.loads(line.removeprefix("data: "))
    return message


# Leaving and cancelling


@pytest.mark.parametrize("kind", ["modern", "stateless", "session", "with progress"])
async def test_a_client_that_leaves_ends_its_call_at_the_backend(host: Host, gate: Gate, kind: str) -> None:
    message = chat(model=PACED)
    headers: dict[str, str] = {}
    if kind == "modern":
        message, headers = modern(message)
    elif kind == "session":
        headers = await host.open_session()
    elif kind == "with progress":
        message = call("chat_completion", message["params"]["arguments"], progressToken=1)
    posting = asyncio.create_task(host.post(message, headers))
    await gate.is_reached.wait()
    posting.cancel()
    async with asyncio.timeout(PATIENCE_S):
        await gate.was_cancelled.wait()


async def test_a_call_is_not_begun_whose_client_has_left_meanwhile(
    host: Host, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_checked, may_go_on = asyncio.Event(), asyncio.Event()

    async def check(*_: object) -> None:
        is_checked.set()
        await may_go_on.wait()

    monkeypatch.setattr(JsonBounds, "check", check)
    answered, posting = host.answered, asyncio.create_task(host.post(chat(model=PACED)))
    await is_checked.wait()
    posting.cancel()
    await asyncio.gather(posting, return_exceptions=True)
    async with http_client() as http:
        await http.delete(host.url)  # which comes behind the departure
    may_go_on.set()
    await eventually(lambda: host.answered == answered + 2)
    assert not gate.is_reached.is_set()


async def test_a_client_that_leaves_a_session_has_a_grace(tmp_path: Path) -> None:
    async with open_host(tmp_path, mcp={"disconnect_grace_s": 60}) as host:
        gate = gated(host)
        posting = asyncio.create_task(host.post(chat(model=PACED), await host.open_session()))
        await gate.is_reached.wait()
        posting.cancel()
        await asyncio.gather(posting, return_exceptions=True)
        assert (await host.post(PING)).status_code == 200
        assert not gate.was_cancelled.is_set()
        gate.is_open.set()


async def test_an_sse_client_that_leaves_ends_all_its_calls(host: Host, gate: Gate) -> None:
    async with sse_session(host) as (_, url):
        for number in (1, 2, 3):
            await host.post(chat(model=PACED, request_id=number), url=url)
        await eventually(lambda: host.gateway.limiter.in_flight == 3)
    async with asyncio.timeout(PATIENCE_S):
        await gate.was_cancelled.wait()
    await eventually(lambda: not len(host.door.event_sessions))


@pytest.mark.parametrize("accept", ["application/json", "application/json, text/event-stream"])
async def test_a_cancelled_call_of_a_session_ends_without_an_answer(host: Host, gate: Gate, accept: str) -> None:
    session = await host.open_session()
    posting = asyncio.create_task(host.post(chat(model=PACED, request_id="a"), session | {"Accept": accept}))
    await gate.is_reached.wait()
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "a"}}
    assert (await host.post(cancelled, session)).status_code == 202
    async with asyncio.timeout(PATIENCE_S):
        await gate.was_cancelled.wait()
        assert (await posting).content == b""
    assert (await host.post(PING, session)).status_code == 200


@pytest.mark.parametrize("accept", ["application/json", "application/json, text/event-stream"])
async def test_a_session_that_its_client_ends_ends_its_calls(host: Host, gate: Gate, accept: str) -> None:
    session = await host.open_session()
    posting = asyncio.create_task(host.post(chat(model=PACED, request_id="a"), session | {"Accept": accept}))
    await gate.is_reached.wait()
    async with http_client() as http:
        assert (await http.delete(host.url, headers=session)).status_code == 200
    async with asyncio.timeout(PATIENCE_S):
        await gate.was_cancelled.wait()
        assert (await posting).content == b""
    assert (await host.post(PING, session)).status_code == 404


async def test_a_cancelled_call_over_sse_gets_no_answer_and_the_stream_goes_on(host: Host, gate: Gate) -> None:
    async with sse_session(host) as (lines, url):
        await host.post(chat(model=PACED, request_id=1), url=url)
        await gate.is_reached.wait()
        await host.post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}, url=url)
        async with asyncio.timeout(PATIENCE_S):
            await gate.was_cancelled.wait()
        await host.post(PING, url=url)
        assert (await next_message(lines))["id"] == PING["id"]


async def test_cancelling_what_is_not_there_is_no_error(host: Host) -> None:
    session = await host.open_session()
    for params in ({"requestId": 99}, {"requestId": None}, {}):
        message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        assert (await host.post(message, session)).status_code == 202


@pytest.mark.parametrize(
    ("transport", "mode"), [("http", "legacy"), ("http", MODERN), ("sse", "legacy"), ("sse", "auto")]
)
async def test_a_client_that_times_out_frees_the_backend(host: Host, gate: Gate, transport: str, mode: str) -> None:
    async with host.client(transport, mode) as client:
        arguments = chat(model=PACED)["params"]["arguments"]
        calling = asyncio.create_task(client.call_tool("chat_completion", arguments, read_timeout_seconds=20))
        await gate.is_reached.wait()
        pass_time(20)
        with pytest.raises(Exception, match=r"(?i)timed out"):
            await calling
        async with asyncio.timeout(PATIENCE_S):
            await gate.was_cancelled.wait()


async def test_a_silent_call_is_kept_alive_by_comments(host: Host, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_http, "KEEP_ALIVE_S", 0.01)
    async with http_client() as http, http.stream(
        "POST", host.url, json=chat(model=PACED), headers={"Accept": "application/json, text/event-stream"}
    ) as stream:  # fmt: skip
        lines = stream.aiter_lines()
        assert await anext(lines) == ": ping"
        gate.is_open.set()
        assert (await next_message(lines))["id"] == 1


async def test_departure_is_told_apart_from_more_of_the_request() -> None:
    messages = iter([{"type": "http.request"}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    await await_departure(receive, None)
    assert next(messages, None) is None


# Sessions in number and time


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_an_idle_session_expires_and_a_used_one_does_not() -> None:
    clock = Clock()
    sessions = Sessions(Caps(100, 100, 100), idle_timeout_s=60, monotonic_s=clock)
    for number in (1, 2, 3):
        sessions.add(session(number, owner("a")))
    clock.now_s = 50
    sessions.find("s1", owner("a"))
    busy = sessions.find("s2", owner("a"))
    assert busy is not None
    scope = busy.begin(1)
    clock.now_s = 61
    sessions.expire()
    assert [found.id for found in sessions.all()] == ["s1", "s2"]
    clock.now_s = 200
    sessions.expire()
    assert [found.id for found in sessions.all()] == ["s2"]
    busy.end(scope)
    clock.now_s = 300
    sessions.expire()
    assert not len(sessions)


async def test_abandoned_sessions_are_swept(tmp_path: Path) -> None:
    async with open_host(tmp_path, mcp={"session_idle_timeout_s": 0.05}) as host:
        for _ in range(20):
            await host.open_session()
        await eventually(lambda: not len(host.door.sessions))


async def test_too_many_sse_connections_of_one_caller_are_refused(tmp_path: Path) -> None:
    async with open_host(tmp_path, mcp={"max_sessions_per_guest_address": 1}) as host, sse_session(host):
        async with http_client() as http:
            answer = await http.get(f"{host.url}/sse")
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
        async with sse_session(host, {"X-Test-Address": "192.0.2.9"}):
            assert len(host.door.event_sessions) == 2


# Ends from outside


async def test_a_revoked_key_loses_its_sessions_and_streams_and_others_keep_theirs(host: Host) -> None:
    alice, bob = host.key("alice"), host.key("bob")
    kept, lost = await host.open_session(bob), await host.open_session(alice)
    async with sse_session(host, alice) as (lines, _), sse_session(host, bob):
        host.door.close_key("alice")
        assert [line async for line in lines] == [""]
        await eventually(lambda: len(host.door.event_sessions) == 1)
    assert (await host.post(PING, kept)).status_code == 200
    assert (await host.post(PING, lost)).status_code == 404


async def test_draining_closes_waiting_streams_and_lets_calls_end_first(host: Host, gate: Gate) -> None:
    listening = await host.open_session() | {"Accept": "text/event-stream"}
    async with (
        sse_session(host) as (idle_lines, _),
        sse_session(host) as (busy_lines, url),
        http_client() as http,
        http.stream("GET", host.url, headers=listening) as listener,
    ):
        await host.post(chat(model=PACED), url=url)
        await gate.is_reached.wait()
        host.gateway.lifecycle.begin_draining()
        assert [piece async for piece in listener.aiter_bytes()] == [b": open\n\n"]
        gate.is_open.set()
        assert (await next_message(busy_lines))["id"] == 1
        assert [line async for line in busy_lines] == [""]
        assert [line async for line in idle_lines] == [""]


async def test_a_stream_that_will_not_end_is_cut_when_the_time_to_drain_is_over(tmp_path: Path) -> None:
    async with open_host(tmp_path, drain_timeout_s=0.01) as host:
        gate = gated(host)
        async with sse_session(host) as (lines, url):
            await host.post(chat(model=PACED), url=url)
            await gate.is_reached.wait()
            host.gateway.lifecycle.begin_draining()
            async with asyncio.timeout(PATIENCE_S):
                await gate.was_cancelled.wait()
                assert [line async for line in lines] == [""]


# Progress


async def test_progress_is_told_at_once_then_with_new_words_and_sometimes_in_silence() -> None:
    told: list[str] = []
    news = asyncio.Event()

    async def report(message: str) -> None:
        told.append(message)
        news.set()

    words = [""]
    async with Progress(report, lambda: words[0], interval_s=0.001, silence_s=60) as progress:
        await news.wait()
        assert told == ["Waiting for the model."]
        news.clear()
        words[0] = "ä" * 5000
        progress.note()
        await news.wait()
        assert 2000 < len(told[1].encode()) <= 2048
        assert told[1] == "ä" * len(told[1])
    told.clear()
    async with Progress(report, lambda: "same", interval_s=0.001, silence_s=0.002):
        async with asyncio.timeout(PATIENCE_S):
            while len(told) < 3:
                news.clear()
                await news.wait()


async def test_the_numbers_of_reports_begin_at_nothing_and_grow_however_fast_they_come() -> None:
    told: list[float] = []

    async def send(progress: float, _: str) -> None:
        told.append(progress)

    report = ProgressReports(send)
    for _ in range(5):
        await report("x")
    assert told[0] == 0
    assert all(one < other for one, other in pairwise(told))


# Nothing of a request is logged


async def test_no_words_of_a_request_are_logged_at_any_level(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    canary = "xyzzy-canary-4711"
    caplog.set_level(logging.DEBUG)
    for name in ("httpx2", "httpcore2", "mcp.client"):  # the test's own client
        caplog.set_level(logging.WARNING, name)
    alice = host.key("alice")
    arguments = chat(canary)["params"]["arguments"]
    bad = {"model": canary, "messages": [{"role": canary, "content": [{"type": canary}]}], canary: canary}
    session = await host.open_session(alice)
    for headers in ({}, session):
        await host.post(call("chat_completion", arguments, progressToken=canary), headers)
        await host.post(call("chat_completion", bad), headers)
        await host.post(call(canary, {}), headers)
        await host.post({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": [canary]}}, headers)
        await host.post({"jsonrpc": "2.0", "method": "notifications/initialized", "params": {"_meta": canary}}, headers)
        await host.post(b'{"' + canary.encode(), headers)
    async with sse_session(host) as (lines, url):
        await host.post(initialize(), url=url)
        await host.post(call("chat_completion", arguments), url=url)
        assert canary in orjson.dumps([await next_message(lines), await next_message(lines)]).decode()
    assert canary not in caplog.text
