"""Reports: few at once, one of an account, and none that nobody waits for any more; nothing else waits for them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.store.sqlite.store import Store
from tests.databases import AskedBy, Query, changing, migrated, open_store
from tests.patience import eventually

ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"


async def endless(store: Store, account_id: str) -> "asyncio.Task[object]":
    """A report that never ends by itself, once it has been asked for."""
    task: asyncio.Task[object] = asyncio.create_task(store.read(AskedBy(account_id, ENDLESS)))
    await asyncio.sleep(0)
    return task


async def abandon(*tasks: "asyncio.Task[object]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_report_brings_its_rows(store: Store) -> None:
    await store.write(changing("INSERT INTO notes (text) VALUES ('a'), ('b')"))
    assert await store.read(AskedBy("acc_1", "SELECT text FROM notes WHERE text > ?", ("a",))) == [("b",)]
    assert await store.read(AskedBy("acc_1", "SELECT text FROM notes WHERE text < :most", {"most": "b"})) == [("a",)]


async def test_a_report_writes_nothing(store: Store) -> None:
    with pytest.raises(Exception, match="readonly"):
        await store.read(AskedBy("acc_1", "DELETE FROM notes"))
    assert await store.read(AskedBy("acc_1", "SELECT COUNT(*) FROM notes")) == [(0,)]


async def test_reads_and_writes_wait_for_no_report(store: Store) -> None:
    running = [await endless(store, f"acc_{number}") for number in range(5)]
    await store.write(changing("INSERT INTO notes (text) VALUES ('a')"))
    assert (await store.read(Query("SELECT text FROM notes")))[0] == ("a",)
    assert await store.read(Query("SELECT text FROM notes")) == [("a",)]
    assert not any(task.done() for task in running)
    await abandon(*running)


async def test_a_report_ends_when_whoever_asked_is_gone_and_its_place_is_free_again(store: Store) -> None:
    for _ in range(5):
        await abandon(await endless(store, "acc_1"), await endless(store, "acc_2"), await endless(store, "acc_3"))
    assert await store.read(AskedBy("acc_1", "SELECT 1")) == [(1,)]
    await eventually(lambda: not store._readers._reports._asked)
    assert not store._readers._reports._turns


async def test_reports_that_were_abandoned_before_their_turn_are_not_made(store: Store) -> None:
    waiting = [await endless(store, "acc_1") for _ in range(150)]
    await abandon(*waiting)
    assert await store.read(AskedBy("acc_1", "SELECT 1")) == [(1,)]


async def test_one_account_has_one_report_at_a_time_and_takes_no_place_of_another_s(store: Store) -> None:
    first, second, third = [await endless(store, "acc_1") for _ in range(3)]
    assert await store.read(AskedBy("acc_2", "SELECT 1")) == [(1,)]
    await abandon(second, third)
    assert await store.read(AskedBy("acc_3", "SELECT 1")) == [(1,)]
    assert not first.done()
    await abandon(first)


async def test_a_report_that_takes_too_long_is_given_up_and_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path, report_timeout_s=0.01) as store:
        for account_id in ("acc_1", "acc_1", "acc_2"):
            with pytest.raises(GatewayError) as refused:
                await store.read(AskedBy(account_id, ENDLESS))
            assert refused.value.code == "overloaded"
            assert "within 0.01 s" in refused.value.message


async def test_a_store_that_closes_waits_for_no_report(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        running = [await endless(store, f"acc_{number}") for number in range(3)]
    assert [await task for task in running] == [None, None, None]
    with pytest.raises(RuntimeError, match="closed"):
        await store.read(AskedBy("acc_1", "SELECT 1"))


@asynccontextmanager
async def opened(folder: Path, report_timeout_s: float = 30.0) -> AsyncIterator[Store]:
    store = await open_store(migrated(folder / "gateway.sqlite3"), report_timeout_s=report_timeout_s)
    try:
        yield store
    finally:
        await store.close()
