"""`kill -9` of an archive beside the real server under load: what left the ledger is in a file, and every sum is right.

Run by `make crash`.
"""

import asyncio
import contextlib
import json
import signal
import sqlite3
import sys
from pathlib import Path

import httpx2
import pytest

from mcp_gateway.core.config import Settings
from mcp_gateway.core.gateway import open_desk
from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.store.sqlite.database import DATABASE
from tests.crash.test_kill import write_config
from tests.patience import eventually
from tests.program import running_program
from tests.replaying import ReplayingBackend
from tests.serving import PRICED, bearer, chat_body

pytestmark = pytest.mark.slow

SETTLED = 20_000
LONG_AGO_MS = 100 * 86_400_000
SETTLE = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
INSERT INTO ledger_transactions
SELECT NULL, ?, 'settle', printf('req_%012x%020x', ?, n), -n, 0, 0, n, 0, 0, ? FROM numbers
"""


async def test_what_left_the_ledger_is_in_a_file_whenever_an_archive_is_killed(tmp_path: Path) -> None:
    async with ReplayingBackend() as backend:
        config = write_config(tmp_path, backend)
        async with open_desk(Settings.model_validate({"data_dir": tmp_path})) as desk:
            account = (await desk.accounts.create("crash")).id
            key = (await desk.keys.create(account, limits=OwnLimits(-1, -1, -1, -1)))[1]
            with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
                at_ms = now_ms() - LONG_AGO_MS
                connection.execute(SETTLE, (SETTLED, account, at_ms, at_ms))
                spent = -SETTLED * (SETTLED + 1) // 2
                connection.execute("INSERT INTO wallets VALUES (?, ?, 0, 0)", (account, spent))
                connection.commit()
            await desk.ledger.credit(account, 10**12, "start")
        async with running_program(config) as program, httpx2.AsyncClient(base_url=program.url, timeout=60) as http:
            asking = asyncio.create_task(ask_without_end(http, key))
            killed = await archive(config, tmp_path / "1.jsonl")
            await eventually(lambda: settled(tmp_path) < SETTLED)
            killed.send_signal(signal.SIGKILL)
            await killed.wait()
            assert settled(tmp_path) > 0
            assert archived(tmp_path) == set(range(1, SETTLED + 1))
            await check(config)
            assert await (await archive(config, tmp_path / "2.jsonl")).wait() == 0
            assert settled(tmp_path) == 0
            await check(config)
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking
            await program.end()
        async with running_program(config) as program:  # whose start adds up what came since
            await program.end()
        await check(config, "--all")


async def ask_without_end(http: httpx2.AsyncClient, key: str) -> None:
    while True:
        response = await http.post("/v1/chat/completions", json=chat_body(model=PRICED["id"]), headers=bearer(key))
        assert response.status_code == 200


async def archive(config: Path, file: Path) -> asyncio.subprocess.Process:
    command = ("-m", "mcp_gateway", "ledger", "archive", str(file), "--config", str(config))
    return await asyncio.create_subprocess_exec(sys.executable, *command)


async def check(config: Path, *options: str) -> None:
    command = ("-m", "mcp_gateway", "ledger", "check", *options, "--config", str(config))
    assert await (await asyncio.create_subprocess_exec(sys.executable, *command)).wait() == 0


def settled(folder: Path) -> int:
    """How many of those of long ago are in the database."""
    with contextlib.closing(sqlite3.connect(folder / DATABASE)) as connection:
        sql = "SELECT COUNT(*) FROM ledger_transactions WHERE kind = 'settle' AND created_at_ms < ?"
        return int(connection.execute(sql, (now_ms() - LONG_AGO_MS // 2,)).fetchone()[0])


def archived(folder: Path) -> set[int]:
    lines = (folder / "1.jsonl").read_text().splitlines()
    return {json.loads(line)["revenue_nano"] for line in lines}
