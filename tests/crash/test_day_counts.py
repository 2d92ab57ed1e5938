"""`kill -9` of the real server while streams run: the next one counts them in the day's limits, free and priced alike.

Run by `make crash`.
"""

import asyncio
import contextlib
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from mcp_gateway.core.config import Settings
from mcp_gateway.core.gateway import open_desk
from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.store.sqlite.database import DATABASE
from tests.crash.test_kill import write_config
from tests.patience import PATIENCE_S, eventually
from tests.program import Program, running_program
from tests.replaying import ReplayingBackend, in_two, stream
from tests.serving import FREE, PRICED, bearer, chat_body

pytestmark = pytest.mark.slow

KILLS, STREAMS = 3, 4


@contextlib.asynccontextmanager
async def streams(program: Program, key: str) -> AsyncIterator[None]:
    """As many of each model that have begun, and end with the server."""
    async with httpx2.AsyncClient(base_url=program.url, headers=bearer(key), timeout=60) as http:
        bodies = [chat_body(model=model["id"], stream=True) for model in (FREE, PRICED) for _ in range(STREAMS)]
        running = [asyncio.create_task(http.post("/v1/chat/completions", json=body)) for body in bodies]
        yield
        for ended in await asyncio.gather(*running, return_exceptions=True):
            assert isinstance(ended, httpx2.HTTPError)


async def test_streams_that_ran_at_each_kill_count_in_the_day(tmp_path: Path) -> None:
    async with ReplayingBackend() as backend:
        backend.standing = in_two(stream()[:2], asyncio.Event(), [])
        config = write_config(tmp_path, backend)
        with config.open("a") as file:
            file.write(f'[[models]]\nid = "{FREE["id"]}"\nbackend_model = "tiny"\nfree = true\n')
        async with open_desk(Settings.model_validate({"data_dir": tmp_path})) as desk:
            account = (await desk.accounts.create("crash")).id
            await desk.ledger.credit(account, 10**12, "start")
            key = (await desk.keys.create(account, limits=OwnLimits(None, 100, None, None)))[1]
        for kill in range(1, KILLS + 1):
            backend.answer_with()
            async with running_program(config) as program, streams(program, key):
                await backend.chats_asked(2 * STREAMS)
                await is_admitted(tmp_path, account, 2 * STREAMS * kill)
                program.process.send_signal(signal.SIGKILL)
            assert recorded(tmp_path) == 0
        async with (
            running_program(config) as program,
            httpx2.AsyncClient(base_url=program.url, timeout=PATIENCE_S) as http,
        ):
            response = await http.get("/v1/limits", headers=bearer(key))
            assert response.headers["x-ratelimit-remaining"] == str(100 - 2 * STREAMS * KILLS)
            await program.end()


async def is_admitted(folder: Path, subject: str, count: int) -> None:
    """Wait until the database says so."""
    sql = "SELECT SUM(requests) FROM admitted_requests WHERE subject = ?"
    with contextlib.closing(sqlite3.connect(folder / DATABASE)) as connection:
        await eventually(lambda: connection.execute(sql, (subject,)).fetchone() == (count,))


def recorded(folder: Path) -> int:
    with contextlib.closing(sqlite3.connect(folder / DATABASE)) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM requests").fetchone()[0])
