"""`serve --workers` as a program, on a PostgreSQL and a Valkey: one gateway of several processes."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.bridge.process import bridge_process
from tests.doors.mcp_host import LEGACY, initialize
from tests.patience import PATIENCE_S, becomes, eventually
from tests.postgres_stores import lent_database

pytestmark = pytest.mark.engines
PING = {"jsonrpc": "2.0", "id": 7, "method": "ping"}
CALL = {
    "name": "chat_completion",
    "arguments": {"model": "demo/echo", "messages": [{"role": "user", "content": "Hello"}]},
}
SIGNED_IN = {"email": "ann@example.com", "password": "correct horse battery staple, and more"}
WORKERS = 2


@asynccontextmanager
async def workers(folder: Path, valkey_url: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The program, once all of its workers serve, and its address."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    with lent_database() as url:
        environ |= {"GATEWAY_DATABASE_URL": url, "GATEWAY_VALKEY_URL": valkey_url, "GATEWAY_DATA_DIR": str(folder)}
        environ["GATEWAY_DRAIN_ANNOUNCE_S"] = "0"
        with (folder.parent / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "mcp_gateway", "serve", "--workers", str(WORKERS), "--port", "0",
                stdout=asyncio.subprocess.PIPE, stderr=log, env=environ,
            )  # fmt: skip
        assert process.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE_S):
                while b" on http://" not in (line := await process.stdout.readline()):
                    assert line, (folder.parent / "log").read_text()
                base_url = line.split()[-1].decode()
                await all_serve(base_url)
                yield process, base_url
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def killed(process: asyncio.subprocess.Process, worker: psutil.Process, base_url: str) -> None:
    """A worker, whose place another has taken by then."""
    worker.kill()

    def is_begun_again() -> bool:
        found = [child.pid for child in psutil.Process(process.pid).children()]
        return len(found) == WORKERS and worker.pid not in found

    await eventually(is_begun_again)
    await all_serve(base_url)


async def all_serve(base_url: str) -> set[str]:
    """The series that are told, once all workers tell of theirs."""
    page = await becomes(
        lambda: once("GET", f"{base_url}/metrics"),
        lambda told: all(f'gateway_connections{{worker="{number + 1}"}}' in told.text for number in range(WORKERS)),
    )
    return {line.rpartition(" ")[0] for line in page.text.splitlines() if not line.startswith("#")}


async def once(method: str, url: str, **more: Any) -> httpx2.Response:
    """On a connection of its own, which any of them may take."""
    async with httpx2.AsyncClient(timeout=PATIENCE_S) as http:
        return await http.request(method, url, **more)


async def test_workers_are_one_gateway_and_one_that_is_killed_costs_nothing_that_waits(
    tmp_path: Path, valkey_url: str
) -> None:
    async with workers(tmp_path / "data", valkey_url) as (process, base_url):
        told = [await all_serve(base_url) for _ in range(6)]
        assert all(one == told[0] for one in told)

        opened = await once("POST", f"{base_url}/v1/mcp", json=initialize(), headers=LEGACY)
        session = LEGACY | {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
        for _ in range(8):
            assert (await once("POST", f"{base_url}/v1/mcp", json=PING, headers=session)).status_code == 200

        before = psutil.Process(process.pid).children()
        assert len(before) == WORKERS
        await killed(process, before[0], base_url)
        for _ in range(8):
            assert (await once("POST", f"{base_url}/v1/mcp", json=PING, headers=session)).status_code == 200

        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    log = (tmp_path / "log").read_text()
    assert "worker 1 " in log
    assert "was ended by SIGKILL: begun again" in log


async def test_a_bridge_goes_on_at_another_worker_and_who_signs_in_at_one_is_signed_in_at_all(
    tmp_path: Path, valkey_url: str
) -> None:
    async with workers(tmp_path / "data", valkey_url) as (process, base_url):
        registered = await once("POST", f"{base_url}/v1/auth/register", json=SIGNED_IN)
        assert registered.status_code == 201, registered.text
        token = {"Authorization": f"Bearer {registered.json()['token']}"}
        for _ in range(8):
            assert (await once("GET", f"{base_url}/v1/auth/me", headers=token)).status_code == 200
        made = (await once("POST", f"{base_url}/v1/auth/keys", json={}, headers=token)).json()
        key = {"Authorization": f"Bearer {made['key']}"}
        for _ in range(8):
            assert (await once("GET", f"{base_url}/v1/credits", headers=key)).status_code == 200
        async with bridge_process(f"{base_url}/v1/mcp", GATEWAY_API_KEY=made["key"]) as bridge:
            await bridge.open()
            for number, worker in enumerate(psutil.Process(process.pid).children()):
                called = await bridge.call("tools/call", CALL, id=2 * number)
                assert not called["result"]["isError"]
                await killed(process, worker, base_url)
                called = await bridge.call("tools/call", CALL, id=2 * number + 1)
                assert not called["result"]["isError"]
