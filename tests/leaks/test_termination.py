"""SIGTERM while streams of every kind are open: the real program ends in time, by itself and with a clean log."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from tests.doors.mcp_host import JSON, call, initialize
from tests.doors.test_mcp_transports import modern
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.slow

DRAIN_S = 1
"""Less than the calls take: they are cut."""
ARGUMENTS = {"model": "demo/paced", "messages": [{"role": "user", "content": "hello " * 400}], "max_tokens": 256}
COMPLAINTS = (b"Traceback", b"ERROR", b"ASGI", b"Exception", b"never retrieved", b"was destroyed")


@contextlib.asynccontextmanager
async def running_gateway(tmp_path: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    environ |= {
        "GATEWAY_PORT": "0",
        "GATEWAY_DATA_DIR": str(tmp_path),
        "GATEWAY_DRAIN_ANNOUNCE_S": "0.1",
        "GATEWAY_DRAIN_TIMEOUT_S": str(DRAIN_S),
        "GATEWAY_GUESTS__REQUESTS_PER_MINUTE": "100",
        "GATEWAY_GUESTS__IN_FLIGHT_PER_ADDRESS": "100",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mcp_gateway", "serve",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environ, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            while b" on http://" not in (line := await process.stdout.readline()):
                assert line, "the server ended before it served"
        yield process, line.split()[-1].decode() + "/v1/mcp"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def opened(http: httpx2.AsyncClient, url: str, stack: contextlib.AsyncExitStack) -> list[Any]:
    """The lines of one stream of each kind, with a call in flight where there can be one."""
    opened: list[Any] = []

    async def stream(method: str, headers: dict[str, str], message: Any = None, path: str = "") -> Any:
        answer = await stack.enter_async_context(http.stream(method, url + path, headers=headers, json=message))
        assert answer.status_code == 200
        lines = answer.aiter_lines()
        await anext(lines)
        opened.append(lines)  # one that nobody refers to is closed
        return lines

    session = {"Mcp-Session-Id": (await http.post(url, json=initialize(), headers=JSON)).headers["mcp-session-id"]}
    with_progress = call("chat_completion", ARGUMENTS, progressToken=1)
    await stream("GET", {"Accept": "text/event-stream"} | session)
    await stream("POST", JSON | session, with_progress)
    message, headers = modern(with_progress)
    await stream("POST", JSON | headers, message)
    wanted = {"notifications": {"resourcesListChanged": True}}
    message, headers = modern({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": wanted})
    await stream("POST", JSON | headers, message)
    lines = await stream("GET", {"Accept": "text/event-stream"}, path="/sse")
    path = (await anext(lines)).removeprefix("data: ")
    assert (await http.post(f"{url}/{path}", json=with_progress, headers=JSON)).status_code == 202
    while "notifications/progress" not in await anext(lines):
        pass
    return opened


async def test_sigterm_with_open_streams_ends_within_the_drain_time_and_without_a_complaint(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as (process, url):
        async with httpx2.AsyncClient(timeout=PATIENCE_S) as http, contextlib.AsyncExitStack() as stack:
            lines = await opened(http, url, stack)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(DRAIN_S + PATIENCE_S):
                assert await process.wait() == 0
            assert len(lines) == 5
            stack.pop_all()  # the connections are gone; there is nothing to read to the end
        assert process.stderr is not None
        log = await process.stderr.read()
    assert b"3 are in flight" in log
    assert [complaint for complaint in COMPLAINTS if complaint in log] == [], log.decode()
    assert orjson.dumps(ARGUMENTS["messages"]) not in log
