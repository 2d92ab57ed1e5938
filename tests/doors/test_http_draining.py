"""The end of a real process: announced while the port is open, running answers finish, and the log is clean."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from mcp_gateway.core.config import Settings
from mcp_gateway.core.gateway import open_desk
from tests.databases import outside
from tests.patience import PATIENCE_S, becomes
from tests.replaying import DONE, ReplayingBackend
from tests.serving import bearer, environ_of, error_of

pytestmark = pytest.mark.program
FEEDS = 300


@dataclass
class Program:
    """`mcp-gateway serve`, running."""

    process: asyncio.subprocess.Process
    url: str

    async def exit(self) -> tuple[int, str]:
        """Wait for its end; its exit status and what it wrote to stderr."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            log = (await self.process.stderr.read()).decode()
            return await self.process.wait(), log


@contextlib.asynccontextmanager
async def program(tree: Settings, **environ: str) -> AsyncIterator[Program]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    given = environ_of(tree) | {"GATEWAY_PORT": "0", "GATEWAY_LOG_LEVEL": "debug"} | environ
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mcp_gateway", "serve",
        env=own | given, cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            greeting = ""
            while (found := re.search(r"on (http://127\.0\.0\.1:\d+)", greeting)) is None:
                line = await process.stdout.readline()
                assert line, "it ended before it listened"
                greeting += line.decode()
        yield Program(process, found[1])
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def chat(model: str, max_tokens: int, *, is_stream: bool) -> dict[str, object]:
    content = " ".join(["word"] * max_tokens)
    message = {"role": "user", "content": content}
    return {"model": model, "messages": [message], "max_tokens": max_tokens, "stream": is_stream}


async def test_signals_that_mean_something_to_others_end_nothing_and_an_interrupt_ends_it_without_an_announcement(
    served_at: Settings,
) -> None:
    """In one program, since its start takes a second."""
    others = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
    async with (
        program(served_at, GATEWAY_DRAIN_ANNOUNCE_S="60") as gateway,
        httpx2.AsyncClient(base_url=gateway.url, timeout=PATIENCE_S) as http,
    ):
        running = asyncio.create_task(http.post("/v1/chat/completions", json=chat("demo/paced", 5, is_stream=False)))
        for number in others:
            gateway.process.send_signal(number)
        assert (await running).status_code == 200
        gateway.process.send_signal(signal.SIGINT)
        status, log = await gateway.exit()
    assert status == 0
    assert not re.search("Traceback|ERROR", log)
    assert [log.count(f"{number.name} changes nothing") for number in others] == [0, 1, 1]
    assert log.count("the configuration was read again; changed: nothing") == 1


async def test_sigterm_announces_the_end_finishes_what_runs_and_exits_in_good_order(served_at: Settings) -> None:
    async with (
        program(served_at, GATEWAY_DRAIN_ANNOUNCE_S="2") as gateway,
        httpx2.AsyncClient(base_url=gateway.url, timeout=PATIENCE_S) as http,
    ):
        running = [
            asyncio.create_task(http.post("/v1/chat/completions", json=chat("demo/paced", 200, is_stream=is_stream)))
            for is_stream in (True, False)
        ]
        await becomes(lambda: http.get("/metrics"), lambda metrics: "gateway_in_flight 2.0" in metrics.text)
        gateway.process.send_signal(signal.SIGTERM)
        health = await becomes(lambda: http.get("/health"), lambda health: health.status_code != 200)
        assert (health.status_code, health.json()["reasons"]) == (503, ["it is draining"])
        assert int(health.headers["retry-after"]) > 0
        for refused in (
            await http.post("/v1/chat/completions", json=chat("demo/echo", 5, is_stream=False)),
            await http.get("/v1/models"),
        ):
            assert (refused.status_code, error_of(refused)["code"]) == (503, "draining")
            assert int(refused.headers["retry-after"]) > 0
        assert not any(task.done() for task in running)
        stream, whole = await asyncio.gather(*running)
        assert stream.content.endswith(DONE)
        assert b'"error"' not in stream.content
        assert whole.json()["usage"]["completion_tokens"] == 200
        status, log = await gateway.exit()
    assert status == 0
    assert not re.search("Traceback|ERROR|CRITICAL|Exception", log)
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{gateway.url}/health", timeout=PATIENCE_S)


async def test_hundreds_of_open_status_pages_are_ended_at_once_and_in_good_order(served_at: Settings) -> None:
    """Each is told the end of its answer; none waits for the time that running answers would have."""
    async with program(served_at, GATEWAY_DRAIN_ANNOUNCE_S="0.1", GATEWAY_DRAIN_TIMEOUT_S="600") as gateway:
        feeds = [await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2])) for _ in range(FEEDS)]
        for _, writer in feeds:
            writer.write(b"GET /status/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            for reader, _ in feeds:
                await reader.readuntil(b'data: <div id="board">')
        gateway.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            ends = [(await reader.read())[-7:] for reader, _ in feeds]
        for _, writer in feeds:
            writer.close()
        status, log = await gateway.exit()
    assert (status, ends) == (0, [b"\r\n0\r\n\r\n"] * FEEDS)
    assert not re.search("Traceback|ERROR|CRITICAL|Exception", log)


async def test_an_administrator_ends_it_as_sigterm_does(served_at: Settings) -> None:
    async with open_desk(served_at) as desk:
        _, admin = await desk.admin_keys.create("operator")
    async with (
        program(served_at, GATEWAY_DRAIN_ANNOUNCE_S="1") as gateway,
        httpx2.AsyncClient(base_url=gateway.url, timeout=PATIENCE_S) as http,
    ):
        running = asyncio.create_task(http.post("/v1/chat/completions", json=chat("demo/paced", 200, is_stream=False)))
        await becomes(lambda: http.get("/metrics"), lambda metrics: "gateway_in_flight 1.0" in metrics.text)
        asked = await http.post("/v1/admin/drain", headers=bearer(admin))
        assert (asked.status_code, asked.json()["draining"], asked.json()["in_flight"]) == (202, True, 1)
        assert (await running).json()["usage"]["completion_tokens"] == 200
        status, log = await gateway.exit()
    assert status == 0
    assert not re.search("Traceback|ERROR|CRITICAL|Exception", log)


async def test_what_runs_longer_than_it_may_is_cut_off_and_accounted_for_and_the_process_ends(
    served_at: Settings,
) -> None:
    environ = {"GATEWAY_DRAIN_ANNOUNCE_S": "0", "GATEWAY_DRAIN_TIMEOUT_S": "2"}
    async with (
        program(served_at, **environ) as gateway,
        httpx2.AsyncClient(base_url=gateway.url, timeout=PATIENCE_S) as http,
    ):
        body = chat("demo/paced", 256, is_stream=True)
        with contextlib.suppress(httpx2.RemoteProtocolError):
            async with http.stream("POST", "/v1/chat/completions", json=body) as response:
                async for _ in response.aiter_bytes():
                    if gateway.process.returncode is None:
                        gateway.process.send_signal(signal.SIGTERM)
        status, log = await gateway.exit()
    assert status == 0
    assert not re.search("Traceback|ERROR|CRITICAL|Exception", log)
    with outside(served_at) as another:
        ((error_code, tokens),) = another.rows("SELECT error_code, completion_tokens FROM requests")
    assert error_code == "client_closed"
    assert 0 < tokens < 256


async def test_it_ends_after_hundreds_of_clients_that_left_in_a_hurry(served_at: Settings) -> None:
    async with ReplayingBackend() as backend, program(served_at, GATEWAY_VLLM_URLS=backend.url) as gateway:
        host, _, port = gateway.url.removeprefix("http://").partition(":")
        body = b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}'
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        asked = head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)

        async def leave_at_once(turns: int) -> None:
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(asked)
            for _ in range(turns):
                await asyncio.sleep(0)
            writer.transport.abort()

        for _ in range(5):
            await asyncio.gather(*(leave_at_once(turns) for turns in range(60)))
        gateway.process.send_signal(signal.SIGTERM)
        status, log = await gateway.exit()
    assert status == 0
    assert not re.search("Traceback|ERROR|CRITICAL|Exception|did not close", log)
