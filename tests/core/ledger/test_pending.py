"""What could not be written before the process ended: kept in a file, and written once by the next."""

import asyncio
import json
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mcp_gateway.core.ledger.entries import Balance, Departure, GiveBack, HeldNow, Settle
from mcp_gateway.core.ledger.ledger import Ledger, SettlementPending
from mcp_gateway.core.ledger.pending import PENDING, ForeignPending, PendingFile
from mcp_gateway.core.ledger.rules import Amount
from mcp_gateway.core.observe.records import Records
from mcp_gateway.core.record import Attribution, RoutingFacts
from mcp_gateway.core.store.sqlite.store import Store
from tests.clocks import MsClock
from tests.core.ledger.test_ledger import record
from tests.databases import Query, locked, open_store


@asynccontextmanager
async def opened(database: Path, clock: MsClock) -> AsyncIterator[tuple[Store, Ledger, PendingFile]]:
    store = await open_store(database, now_ms=clock, busy_timeout_s=0.02)
    yield store, Ledger(store, settle_wait_s=0.01), PendingFile(database.parent, await store.identity())
    await store.close()


async def left_in_an_outage(database: Path, clock: MsClock, account: str) -> list[object]:
    """What a process cannot write that ends in an outage: two bills, one of them left, a refused answer, a free one."""
    async with opened(database, clock) as (store, ledger, pending):
        pending.set_aside()
        await ledger.credit(account, 100, "p")
        await ledger.grant(account, 12, "g")
        holds = [await ledger.hold(name, account, 1, 10) for name in ("req_stream", "req_refused", "req_left")]
        async with locked(database):
            leaving = asyncio.ensure_future(ledger.settle(holds.pop(), 5, record("req_left", account, cost_nano=5)))
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.wait([leaving])
            await asyncio.wait([ledger.note_departure(record("req_left", account)._replace(http_status=499))])
            for hold in holds:
                with pytest.raises(SettlementPending) as caught:
                    await ledger.settle(hold, 7, record(hold.request_id, account, cost_nano=7))
            ledger.take_back(caught.value, record("req_refused", account)._replace(http_status=503))
            Records(store).add(record("req_free", account))
            unwritten = await store.close()
        pending.write(unwritten)
        return unwritten


async def test_it_is_written_once_whoever_stops_in_between(database: Path, clock: MsClock, account: str) -> None:
    await left_in_an_outage(database, clock, account)
    async with opened(database, clock) as (store, ledger, pending):
        for _ in range(2):  # the second time as after a crash between the commit and the removal
            await ledger.catch_up(pending.read())
        pending.remove()
        assert pending.read() == []
        assert await ledger.balance(account) == Balance(paid_nano=95, granted_nano=5)
        rows = await store.read(Query("SELECT id, cost_nano, http_status FROM requests ORDER BY id"))
        assert rows == [("req_free", 0, 200), ("req_left", 5, 499), ("req_refused", 0, 503), ("req_stream", 7, 200)]
        assert await ledger.check() == []


async def test_the_file_says_no_more_than_the_request_log_and_is_its_owners_alone(
    database: Path, clock: MsClock, account: str
) -> None:
    unwritten = await left_in_an_outage(database, clock, account)
    file = database.with_name(PENDING)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    head, *lines = map(json.loads, file.read_bytes().splitlines())
    assert list(head) == ["database"]
    assert [line["kind"] for line in lines] == ["charge", "charge", "record", "record", "departure"]
    assert len(unwritten) == 5


async def test_each_kind_of_entry_comes_back_as_it_was(tmp_path: Path, account: str) -> None:
    charge = Amount(4, ((1, 2), (7, 1)))
    settle = Settle("req_1", account, charge, record("req_1", account, cost_nano=7))
    bare, back = Settle("req_2", account, Amount(1), None), GiveBack("req_3", account, record("req_3", account))
    free, left = record("req_4", account)._replace(surface="score"), Departure("req_6", record("req_6", account))
    pending = PendingFile(tmp_path, "db")
    pending.write([left, free, settle, lambda connection: None, bare, back])
    assert pending.read() == [settle, bare, back, free, left]


async def test_how_a_request_was_routed_is_kept_with_its_record(database: Path, clock: MsClock, account: str) -> None:
    routed = record("req_1", account)._replace(routing=RoutingFacts("code", "simple", 0.75))
    entries = [Settle("req_1", account, Amount(1), routed), routed._replace(id="req_2")]
    async with opened(database, clock) as (store, ledger, pending):
        pending.write(entries)
        assert pending.read() == entries
        await ledger.catch_up(pending.read())
        rows = await store.read(
            Query("SELECT id, task, complexity, confidence, score FROM routed_requests ORDER BY id")
        )
        assert rows == [(name, "code", "simple", 0.75, None) for name in ("req_1", "req_2")]


async def test_whom_a_request_was_for_is_kept_with_its_record(database: Path, clock: MsClock, account: str) -> None:
    attributed = record("req_1", account)._replace(attribution=Attribution("ann", ("red", "blue")))
    bare = attributed._replace(id="req_2", attribution=Attribution(None, ("red",)))
    entries = [Settle("req_1", account, Amount(1), attributed), bare]
    async with opened(database, clock) as (store, ledger, pending):
        pending.write(entries)
        assert pending.read() == entries
        await ledger.catch_up(pending.read())
        rows = await store.read(Query("SELECT id, end_user, tags FROM attributed_requests ORDER BY id"))
        assert rows == [("req_1", "ann", '["red","blue"]'), ("req_2", "", '["red"]')]


async def test_what_an_earlier_version_left_was_asked_as_a_chat(tmp_path: Path, account: str) -> None:
    entries = [Settle("req_1", account, Amount(7), record("req_1", account, cost_nano=7)), record("req_2", account)]
    pending = PendingFile(tmp_path, "db")
    pending.write(entries)
    file = tmp_path / PENDING
    text = file.read_text()
    for added in (',"surface":"chat"', ',"routing":null'):
        assert text.count(added) == 2
        text = text.replace(added, "")
    file.write_text(text)
    assert pending.read() == entries


async def test_another_databases_file_is_refused(tmp_path: Path, account: str) -> None:
    PendingFile(tmp_path, "one").write([record("req_1", account)])
    with pytest.raises(ForeignPending, match="another database"):
        PendingFile(tmp_path, "two").read()


def test_the_room_is_set_aside_while_there_is_some_and_given_up_after_a_good_end(tmp_path: Path) -> None:
    pending = PendingFile(tmp_path, "db")
    pending.set_aside()
    (reserve,) = tmp_path.glob("settlements.*")
    assert reserve.stat().st_size == 1024 * 1024
    pending.write([])
    assert list(tmp_path.glob("settlements.*")) == []


async def test_every_database_has_an_id_of_its_own(tmp_path: Path) -> None:
    ids = set()
    for name in ("one", "two"):
        store = await open_store(tmp_path / name)
        ids.add(await store.identity())
        await store.close()
    assert len(ids) == 2


async def test_a_hold_that_no_request_can_still_have_is_released(store: Store, account: str, clock: MsClock) -> None:
    ledger = Ledger(store, longest_hold_s=10)
    await ledger.credit(account, 100, "p")
    await ledger.hold("req_old", account, 1, 10)
    clock.now_ms += 10_000
    await ledger.hold("req_young", account, 1, 10)
    assert ledger.held_now() == HeldNow(2, 20, 10.0, 0)
    assert ledger.release_stale_holds() == 0
    clock.now_ms += 1
    assert ledger.release_stale_holds() == 1
    assert await ledger.balance(account) == Balance(90, 0, 10)


@pytest.mark.usefixtures("of_sqlite")
def test_the_new_kind_is_in_the_check_of_a_database_that_was_there_before(database: Path, account: str) -> None:
    with sqlite3.connect(database) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        sql = "INSERT INTO ledger_transactions VALUES (NULL, ?, ?, 'req_1', 1, 0, 0, -1, 0, 0, 1)"
        connection.execute(sql, (account, "refund_of_request"))
        for kind in ("odd", "refund_of_request"):  # unknown; given back twice
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute(sql, (account, kind))
        connection.rollback()


def test_what_cannot_be_kept_is_told_by_its_number_and_nothing_else(
    tmp_path: Path, account: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "settlements.reserve").mkdir()
    pending = PendingFile(tmp_path, "db")
    pending.set_aside()
    pending.write([record("req_1", account), record("req_2", account)])
    assert [line.levelname for line in caplog.records] == ["WARNING", "CRITICAL"]
    assert "2 settlements and records are lost" in caplog.text
    assert account not in caplog.text
