"""`kill -9` of the real server while budgets are used up: each threshold that was crossed is delivered, and no other.

Run by `make crash`, apart from the other tests, for it takes its time.
"""

import asyncio
import contextlib
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import orjson
import pytest

from mcp_gateway.core.config import Settings
from mcp_gateway.core.gateway import open_desk
from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.store.sqlite.database import DATABASE
from tests.crash.test_kill import CREDIT_NANO, mint, write_config
from tests.listening import streams
from tests.patience import eventually
from tests.program import running_program
from tests.replaying import ReplayingBackend
from tests.serving import bearer
from tests.surfaces import CHAT_SPOKEN, answers

pytestmark = pytest.mark.slow

KILLS = 8
KEYS = 6
BUDGET_USD = "0.0002"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
Crossed = tuple[str, int]
"""A budget's id, and a percentage."""


@dataclass
class Receiver:
    """Takes every event, and notes it by its id before it answers."""

    port: int = 0
    events: dict[str, Crossed] = field(default_factory=dict)
    sent: Counter[str] = field(default_factory=Counter)

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        headers = dict(line.split(": ", 1) for line in head.strip().split("\r\n")[1:])
        event = orjson.loads(await reader.readexactly(int(headers["content-length"])))
        event_id = headers["webhook-id"]
        self.events[event_id] = (event["data"]["budget"]["id"], event["data"]["percent"])
        self.sent[event_id] += 1
        writer.write(b"HTTP/1.1 204 x\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    async with streams(receiver.take) as receiver.port:
        yield receiver


async def spend_all(http: httpx2.AsyncClient, key: str) -> None:
    """Ask by a key until its budget has no more, or the server is gone."""
    with contextlib.suppress(httpx2.HTTPError):
        body, status = orjson.dumps(CHAT_SPOKEN.body()), 200
        while status == 200:
            status = (
                await http.post(CHAT_SPOKEN.path, content=body, headers=bearer(key) | CHAT_SPOKEN.sent_headers)
            ).status_code


async def killed_while_budgets_are_used_up(config: Path, key: str, receiver: Receiver) -> None:
    async with running_program(config) as program, httpx2.AsyncClient(base_url=program.url, timeout=30) as http:
        known = len(receiver.events)
        keys = [(await mint(http, key, BUDGET_USD, is_lease=False))["key"] for _ in range(KEYS)]
        load = [asyncio.create_task(spend_all(http, one)) for one in keys]
        await eventually(lambda: len(receiver.events) >= known + 2)
        program.process.send_signal(signal.SIGKILL)
        await asyncio.gather(*load)


def crossed(database: Path) -> list[Crossed]:
    """By what was spent of each budget."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        spent = connection.execute(
            "SELECT budget_id, 100 * spent_nano / amount_nano FROM budget_windows JOIN budgets ON id = budget_id"
        ).fetchall()
    return sorted((budget_id, one) for budget_id, percent in spent for one in (50, 80, 100) if one <= percent)


def waiting(database: Path) -> int:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        (count,) = connection.execute("SELECT COUNT(*) FROM webhook_outbox").fetchone()
    return int(count)


async def test_each_threshold_is_delivered_at_least_once_and_is_one_event_however_often_the_server_is_killed(
    tmp_path: Path,
) -> None:
    async with ReplayingBackend() as backend, receiving() as receiver:
        backend.standing = answers(CHAT_SPOKEN, 9, 3)
        config = write_config(tmp_path, backend)
        address = f"http://127.0.0.1:{receiver.port}/"
        config.write_text(f'{config.read_text()}[webhooks]\nurl = "{address}"\nsecret = "{SECRET}"\n')
        async with open_desk(Settings.model_validate({"data_dir": tmp_path})) as desk:
            account = (await desk.accounts.create("crash")).id
            await desk.ledger.credit(account, CREDIT_NANO, "start")
            _, key = await desk.keys.create(account, limits=OwnLimits(None, None, None, None))
        for _ in range(KILLS):
            await killed_while_budgets_are_used_up(config, key, receiver)
        async with running_program(config) as program:
            await eventually(lambda: waiting(tmp_path / DATABASE) == 0)
            await program.end()
    expected = crossed(tmp_path / DATABASE)
    assert len(expected) >= 2 * KILLS
    assert sorted(receiver.events.values()) == expected
