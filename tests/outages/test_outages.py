"""Outages of the ledger under mixed traffic: what clients were told, what is recorded and what is billed are one.

Run by `make outages`, apart from the other tests, for it takes its time.
"""

import asyncio
import contextlib
import errno
import random
import shutil
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client

from mcp_gateway.core.ledger.pending import PENDING
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.store.sqlite.database import DATABASE
from mcp_gateway.core.store.sqlite.write_ahead_log import sync_data
from tests.crash.test_kill import Tokens
from tests.databases import full, store_of
from tests.doors.test_money_both_doors import TRANSPORTS
from tests.patience import eventually
from tests.replaying import ReplayingBackend
from tests.serving import PRICED, Door, bearer, open_door
from tests.surfaces import MODEL, WAYS, ChatTool, Spoken

pytestmark = pytest.mark.slow

CREDIT_USD = "1000"
LONGEST_S = 60
BUSY_TIMEOUT_S = 5
"""How long the store waits for another process before it says that it cannot write."""
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 16}


@dataclass
class Told:
    """What a client was told of one try. A refusal over MCP bears no id of the request."""

    door: str
    status: int
    cost_usd: str
    request_id: str | None


@dataclass
class Traffic:
    """All clients of one account: each wants one answer after the other, and tries again as a 503 tells it to."""

    door: Door
    account: str
    key: str
    told: list[Told] = field(default_factory=list)
    answers: list[list[Told]] = field(default_factory=list)
    """The tries of each answer that was wanted, the last of which was delivered."""
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    async def want(self, ask: Callable[[], Any]) -> None:
        """Want answers until it is over; the one that is wanted then is still waited for."""
        while not self.is_over.is_set():
            tries: list[Told] = []
            while not tries or tries[-1].status == 503:
                told, wait_s = await ask()
                tries.append(told)
                self.told.append(told)
                if wait_s:
                    await asyncio.sleep(wait_s)
            assert tries[-1].status == 200
            self.answers.append(tries)

    async def over_http(self, spoken: Spoken, *, is_stream: bool) -> tuple[Told, int]:
        response = await spoken.ask(self.door, self.key, is_stream=is_stream)
        cost_usd, wait_s = "0.00", 0
        if response.status_code == 503:
            assert spoken.refusal_of(response) == spoken.word_for("ledger_unavailable")
            wait_s = int(response.headers["retry-after"])
        elif response.status_code == 200:
            assert not is_stream or not any(map(spoken.failure_in, spoken.events(response.content)))
            cost_usd = spoken.told(response, is_stream=is_stream)[1]
        return Told("http", response.status_code, cost_usd, spoken.request_id_in(response)), wait_s

    def by_each_surface(self) -> list[Callable[[], Any]]:
        """A client of each surface in each way; the tool's come by their own transports."""
        return [
            partial(self.over_http, spoken, is_stream=is_stream)
            for spoken, is_stream in WAYS
            if not isinstance(spoken, ChatTool)
        ]

    async def clients(self, stack: contextlib.AsyncExitStack) -> list[Callable[[], Any]]:
        """Ways to ask, by every door."""
        headers = bearer(self.key)
        http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=LONGEST_S))
        asks = self.by_each_surface()
        for transport in TRANSPORTS.values():
            client = await stack.enter_async_context(transport(self.door, headers, http))
            asks += [_calls(client, has_progress=has_progress) for has_progress in (False, True)]
        return asks


def _calls(client: Client, *, has_progress: bool) -> Callable[[], Any]:
    async def note(progress: float, total: float | None, message: str | None) -> None:
        pass

    async def call() -> tuple[Told, int]:
        called = await client.call_tool("chat_completion", BODY, progress_callback=note if has_progress else None)
        facts = called.structured_content
        assert facts is not None
        if not called.is_error:
            return Told("mcp", 200, facts["cost_usd"], facts["request_id"]), 0
        assert facts["code"] == "ledger_unavailable", facts
        return Told("mcp", 503, "0.00", None), facts["retry_after_s"]

    return call


@contextlib.asynccontextmanager
async def traffic(door: Door) -> AsyncIterator[Traffic]:
    """Clients that have begun to be served on entry, and have all been served after it."""
    account = await door.account(CREDIT_USD)
    load = Traffic(door, account, await door.key(account))
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        for ask in await load.clients(stack):
            group.create_task(load.want(ask))
        await eventually(lambda: len(load.answers) >= len(WAYS))
        yield load
        await eventually(lambda: door.gateway.ledger.is_writable)
        load.is_over.set()


# Outages: each is a context manager in which the ledger cannot be written


@contextlib.asynccontextmanager
async def locked(door: Door) -> AsyncIterator[None]:
    """Another process writes, without end."""
    hold = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)\n"
        "connection.execute('BEGIN IMMEDIATE')\nprint(flush=True)\nsys.stdin.read()"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", hold, str(door.data_dir / DATABASE),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield
    finally:
        await process.communicate(b"")  # which closes its stdin, and so ends it


@contextlib.asynccontextmanager
async def full_disk(door: Door) -> AsyncIterator[None]:
    """The database may not grow any more, and its pages are full."""
    async with full(store_of(door.gateway), await door.account("1")):
        yield


@contextlib.asynccontextmanager
async def failing_fsync(door: Door) -> AsyncIterator[None]:
    """Every fsync of the log fails."""

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    store = store_of(door.gateway)
    store._writer._sync = fail
    try:
        yield
    finally:
        store._writer._sync = sync_data


Outage = Callable[[Door], Any]


def opened(data_dir: Path, backend: ReplayingBackend, settle_wait_s: float) -> Any:
    """A door with a backend behind it that tells how many tokens it made."""
    backend.standing = backend.standing or Tokens(random.Random(11).randrange(2**32))
    return open_door(
        data_dir, vllm_urls=[backend.url], models=[PRICED], wallet={"settle_wait_s": settle_wait_s},
        limits={"listing_requests_per_minute": 1_000_000},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("outage", "lasts_s", "settle_wait_s"),
    [
        (locked, 1, 30),
        (locked, 6, 2),
        (locked, 6, 30),
        (locked, 20, 2),
        (full_disk, 5, 2),
        (full_disk, 3, 30),
        (failing_fsync, 5, 2),
        (failing_fsync, 3, 30),
    ],
)
async def test_what_is_told_is_what_is_recorded_and_billed(
    tmp_path: Path, backend: ReplayingBackend, outage: Outage, lasts_s: float, settle_wait_s: float
) -> None:
    async with opened(tmp_path, backend, settle_wait_s) as door:
        async with asyncio.TaskGroup() as late, traffic(door) as load, outage(door):
            await asyncio.sleep(lasts_s)
            for ask in load.by_each_surface():  # who was served before may wait for a bill, and so ask nothing
                late.create_task(load.want(ask))
            if not (outage is locked and lasts_s < BUSY_TIMEOUT_S):
                await eventually(lambda: any(told.status == 503 for told in load.told))
        await eventually(lambda: not door.gateway.lifecycle.in_flight)
        door.errors.clear()  # the outage is logged
        await check_books(door, load)
        await door.nothing_is_left()
    assert not (tmp_path / PENDING).exists()


@pytest.mark.parametrize("outage", [locked, full_disk, failing_fsync])
async def test_an_end_in_the_middle_of_an_outage_is_made_up_for_once_by_the_next_start(
    tmp_path: Path, backend: ReplayingBackend, outage: Outage
) -> None:
    async with contextlib.AsyncExitStack() as until_started:
        async with opened(tmp_path, backend, 1) as door:
            account = await door.account(CREDIT_USD)
            load = Traffic(door, account, await door.key(account))
            asking = [asyncio.create_task(ask()) for ask in load.by_each_surface() for _ in range(3)]
            await backend.chats_asked(len(asking))
            await until_started.enter_async_context(outage(door))
            load.told += [told for told, _ in await asyncio.gather(*asking)]
            door.errors.clear()
        if (left := tmp_path / PENDING).exists():
            shutil.copy(left, tmp_path / "again")
    for _ in range(2):
        async with opened(tmp_path, backend, 1) as door:
            assert not left.exists()
            load.door = door
            await check_books(door, load)
            await door.nothing_is_left()
        if (again := tmp_path / "again").exists():
            shutil.copy(again, left)


async def check_books(door: Door, load: Traffic) -> None:
    """Compare what clients were told with the request log and the ledger, for each request of the account."""
    sql = "SELECT id, door, http_status, cost_nano FROM requests WHERE account_id = ?"
    rows = {row[0]: row[1:] for row in await door.rows(sql, load.account)}
    charged = dict(
        await door.rows(
            "SELECT reference, SUM(revenue_nano) FROM ledger_transactions WHERE account_id = ? "
            "AND kind IN ('settle', 'refund_of_request') GROUP BY reference",
            load.account,
        )
    )
    for told in load.told:
        if told.request_id is not None:
            assert rows[told.request_id][1] == told.status
            assert format_usd(rows[told.request_id][2]) == told.cost_usd == format_usd(charged.get(told.request_id, 0))
            assert (told.cost_usd == "0.00") == (told.status != 200)
    outcomes = Counter((door_name, status) for door_name, status, _ in rows.values())
    assert outcomes == Counter((told.door, told.status) for told in load.told)
    for request_id, (_, status, cost_nano) in rows.items():
        assert cost_nano == charged.get(request_id, 0)
        assert (cost_nano > 0) == (status == 200)
    assert set(charged) <= set(rows)
    for tries in load.answers:
        assert [told.status for told in tries] == [503] * (len(tries) - 1) + [200]
    spent_nano = (await door.gateway.ledger.balance(load.account)).spendable_nano
    assert spent_nano == int(CREDIT_USD) * 10**9 - sum(cost for _, _, cost in rows.values())
