"""Settlements that share a burst, between holds and releases: read and written together, each for itself.

What is asked without an await between shares one.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.ledger.budgets import ReadBudgets
from mcp_gateway.core.ledger.entries import Balance, HeldNow, Move, WalletOf
from mcp_gateway.core.ledger.ledger import Ledger, SettlementPending
from mcp_gateway.core.ledger.purse import NotHeld
from mcp_gateway.core.observe.records import Records
from mcp_gateway.core.store.sqlite.executors import EXECUTORS
from mcp_gateway.core.store.sqlite.store import Store
from mcp_gateway.core.store.transaction import Transaction
from tests.clocks import MsClock
from tests.core.ledger.test_ledger import UNWRITABLE, checked, record, refused
from tests.databases import Query, Work, open_store, reads_of
from tests.disk import Disk
from tests.patience import eventually

__all__ = ["checked"]


@pytest.fixture
async def watched(database: Path, clock: MsClock) -> AsyncIterator[tuple[Ledger, Disk]]:
    """A ledger, and the disk that its settlements wait for."""
    disk = Disk()
    store = await open_store(database, now_ms=clock, sync=disk)
    yield Ledger(store), disk
    await store.close()


async def traced(store: Store) -> list[str]:
    """Every statement that the writer runs from now on."""
    statements: list[str] = []
    await store.write(Work(lambda connection: connection.set_trace_callback(statements.append)))
    return statements


def count(statements: list[str], words: str) -> int:
    return sum(statement.strip().startswith(words) for statement in statements)


@pytest.mark.usefixtures("of_sqlite")
async def test_a_wallet_is_read_and_written_once_however_much_happens_to_it(
    ledger: Ledger, account: str, store: Store
) -> None:
    await ledger.credit(account, 10_000, "p")
    holds = [await ledger.hold(f"old_{number}", account, 1, 10) for number in range(20)]
    statements = await traced(store)
    await asyncio.gather(
        *(ledger.settle(hold, 7, record(hold.request_id, account, cost_nano=7)) for hold in holds),
        *(ledger.hold(f"new_{number}", account, 1, 10) for number in range(20)),
    )
    assert count(statements, "BEGIN") == 1
    assert count(statements, "SELECT paid_nano") == count(statements, "UPDATE wallets") == 1
    assert await ledger.balance(account) == Balance(10_000 - 20 * 7 - 20 * 10, 0, 20 * 10)


@pytest.mark.usefixtures("of_sqlite")
async def test_holds_given_refused_and_released_run_no_statement_of_the_writer(
    ledger: Ledger, account: str, store: Store
) -> None:
    await ledger.credit(account, 5, "p")
    statements = await traced(store)
    await refused(ledger.hold("req_1", account, 10, 10))
    await ledger.hold("req_2", account, 5, 5)
    ledger.release("req_2")
    await store.flushed()
    assert count(statements, "UPDATE wallets") == count(statements, "INSERT") == count(statements, "DELETE") == 0
    assert count(statements, "BEGIN") == 1  # of what was waited for above


async def test_what_a_release_gives_back_pays_for_the_next_hold(ledger: Ledger, account: str) -> None:
    await ledger.credit(account, 100, "p")
    await ledger.hold("req_1", account, 100, 100)
    answers = [await refused(ledger.hold("req_2", account, 60, 60))]
    ledger.release("req_1")
    given = await ledger.hold("req_3", account, 60, 60)
    answers.append(await refused(ledger.hold("req_4", account, 60, 60)))
    assert [answer.code for answer in answers] == ["balance_held", "balance_held"]
    assert (given.request_id, given.amount_nano) == ("req_3", 60)


async def test_a_hold_that_ends_at_once_leaves_one_fact(ledger: Ledger, account: str, store: Store) -> None:
    await ledger.credit(account, 100, "p")
    hold = await ledger.hold("req_1", account, 1, 30)
    settling = asyncio.ensure_future(ledger.settle(hold, 20, None))
    await asyncio.sleep(0)
    ledger.release("req_1")
    assert await settling == 20
    facts = await store.read(Query("SELECT kind FROM ledger_transactions WHERE reference = 'req_1' ORDER BY id"))
    assert facts == [("settle",)]
    assert ledger.held_now() == HeldNow(0, 0, 0.0, 0)
    assert await ledger.balance(account) == Balance(80)


async def test_a_burst_on_a_wallet_that_is_not_known_yet_reads_it_once(
    store: Store, ledger: Ledger, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.credit(account, 100, "start")
    asked = reads_of(store, monkeypatch)
    new = Ledger(store)
    holds = await asyncio.gather(*(new.hold(f"req_{number}", account, 1, 1) for number in range(100)))
    assert [hold.amount_nano for hold in holds] == [1] * 100
    assert [type(one) for one in asked] == [ReadBudgets, WalletOf]


async def test_of_a_burst_on_an_unknown_wallet_as_many_are_placed_as_it_pays(
    store: Store, ledger: Ledger, account: str
) -> None:
    await ledger.credit(account, 10, "start")
    new = Ledger(store)
    asking = (new.hold(f"req_{number}", account, 1, 1) for number in range(100))
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert sorted(type(one).__name__ for one in outcomes) == ["GatewayError"] * 90 + ["Hold"] * 10
    assert {one.code for one in outcomes if isinstance(one, GatewayError)} == {"balance_held"}


async def test_the_same_hold_asked_for_twice_at_once_is_one(ledger: Ledger, account: str) -> None:
    await ledger.credit(account, 100, "p")
    first, second = await asyncio.gather(*(ledger.hold("req_1", account, 1, 30) for _ in range(2)))
    assert first is second
    assert await ledger.balance(account) == Balance(70, 0, 30)


async def test_granted_credit_goes_first_and_returns_within_a_burst_too(
    ledger: Ledger, account: str, clock: MsClock, store: Store
) -> None:
    await ledger.credit(account, 100, "p")
    await ledger.grant(account, 50, "g", expires_at_ms=clock.now_ms + 10)
    first, _ = [await ledger.hold(f"req_{number}", account, 1, 40) for number in (1, 2)]
    await asyncio.gather(ledger.settle(first, 15, None), ledger.hold("req_3", account, 1, 20))
    assert await ledger.balance(account) == Balance(100 - 30, 5, 40 + 20)
    assert await store.read(Query("SELECT remaining_nano FROM grants")) == [(50 - 15,)]
    clock.now_ms += 10
    await ledger.hold("req_4", account, 1, 10)
    ledger.release("req_3")
    assert await ledger.balance(account) == Balance(100 - 30 - 10, 0, 40 + 10)
    assert await ledger.expire_grants() == 25
    assert await store.read(Query("SELECT remaining_nano FROM grants")) == [(10,)]


async def test_a_record_that_cannot_be_written_is_left_out_of_its_own_settlement_alone(
    ledger: Ledger, account: str, store: Store
) -> None:
    await ledger.credit(account, 100, "p")
    holds = [await ledger.hold(f"req_{number}", account, 1, 10) for number in range(5)]
    insertions = [record(hold.request_id, account, cost_nano=4) for hold in holds]
    insertions[2] = UNWRITABLE
    settled = (ledger.settle(hold, 4, insertion) for hold, insertion in zip(holds, insertions, strict=True))
    results = await asyncio.gather(*settled, return_exceptions=True)
    assert results == [4] * 5
    assert await ledger.balance(account) == Balance(100 - 5 * 4)
    assert await store.read(Query("SELECT COUNT(*) FROM requests")) == [(4,)]


async def test_a_request_that_is_charged_again_after_its_end_costs_nobody_else_in_the_burst(
    ledger: Ledger, account: str
) -> None:
    await ledger.credit(account, 100, "p")
    await ledger.settle(await ledger.hold("old", account, 1, 10), 10, None)
    holds = [await ledger.hold(name, account, 1, 10) for name in ("new_1", "old", "new_2")]
    assert await asyncio.gather(*(ledger.settle(hold, 5, None) for hold in holds)) == [5, 0, 5]
    assert ledger.held_now() == HeldNow(0, 0, 0.0, 0)
    assert await ledger.balance(account) == Balance(80)


@pytest.mark.usefixtures("of_sqlite")
async def test_a_settlement_that_waits_for_another_process_sees_what_that_one_credits(
    ledger: Ledger, account: str, database: Path, store: Store
) -> None:
    store._writer._busy_timeout_s = 60
    await ledger.credit(account, 10, "p")
    hold = await ledger.hold("req_1", account, 1, 10)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        settling = asyncio.ensure_future(ledger.settle(hold, 10, None))
        await eventually(lambda: store._writer._pause is not None)
        Transaction(other, EXECUTORS, now_ms).run(Move(account, "credit", 25, "from the command line"))
        assert (await refused(ledger.hold("req_2", account, 1, 10))).code == "insufficient_balance"
        other.execute("COMMIT")
    asked = [await ledger.hold(f"req_{number}", account, 1, 10) for number in range(2, 5)]
    assert [hold.amount_nano for hold in asked] == [10, 10, 5]
    assert await settling == 10


@pytest.mark.usefixtures("of_sqlite")
async def test_a_hold_and_a_release_do_not_wait_for_the_disk_and_a_settlement_does(
    watched: tuple[Ledger, Disk], account: str
) -> None:
    ledger, disk = watched
    await ledger.credit(account, 100, "p")
    disk.hold()
    hold = await ledger.hold("req_1", account, 1, 10)
    settling = asyncio.ensure_future(ledger.settle(hold, 4, None))
    other = await ledger.hold("req_2", account, 1, 10)
    ledger.release(other.request_id)
    assert not settling.done()
    disk.release()
    assert await settling == 4


@pytest.mark.usefixtures("of_sqlite")
async def test_a_settlement_that_the_disk_failed_to_take_is_told_once_the_disk_has_it(
    watched: tuple[Ledger, Disk], account: str
) -> None:
    ledger, disk = watched
    await ledger.credit(account, 100, "p")
    hold = await ledger.hold("req_1", account, 1, 10)
    disk.failures = 2
    assert await ledger.settle(hold, 4, record("req_1", account, cost_nano=4)) == 4
    assert disk.begun >= 3
    with pytest.raises(NotHeld, match="ended already"):
        await ledger.settle(hold, 4, None)
    assert await ledger.balance(account) == Balance(96)


@pytest.mark.usefixtures("of_sqlite")
async def test_a_settlement_that_is_committed_and_not_on_the_disk_in_time_is_given_back_once(
    watched: tuple[Ledger, Disk], account: str
) -> None:
    ledger, disk = watched
    ledger._wait_limit.limit_s = 0.01
    await ledger.credit(account, 60, "p")
    await ledger.grant(account, 7, "g")
    hold = await ledger.hold("req_1", account, 1, 10)
    disk.hold()
    with pytest.raises(SettlementPending) as pending:
        await ledger.settle(hold, 9, record("req_1", account, cost_nano=9))
    assert await ledger.balance(account) == Balance(60 - 2)  # committed
    refusal = record("req_1", account)._replace(http_status=503, error_code="ledger_unavailable")
    ledger.take_back(pending.value, refusal)
    disk.release()
    await ledger.give_back(hold, refusal)  # again: nothing more
    assert await ledger.balance(account) == Balance(60, 7)
    rows = await ledger._store.read(Query("SELECT cost_nano, http_status, error_code FROM requests"))
    assert rows == [(0, 503, "ledger_unavailable")]
    kinds = await ledger._store.read(Query("SELECT kind FROM ledger_transactions WHERE reference = 'req_1'"))
    assert kinds == [("settle",), ("refund_of_request",)]


async def test_what_is_settled_and_given_back_in_one_burst_is_as_if_nothing_was_charged(
    ledger: Ledger, account: str
) -> None:
    await ledger.credit(account, 60, "p")
    await ledger.grant(account, 7, "g")
    holds = [await ledger.hold(f"req_{number}", account, 1, 10) for number in range(2)]
    settled = [ledger.settle(hold, 9, record(hold.request_id, account, cost_nano=9)) for hold in holds]
    charged = asyncio.gather(*settled)
    await asyncio.sleep(0)
    back = ledger.give_back(holds[0], record("req_0", account)._replace(http_status=503))
    assert await charged == [9, 9]
    assert await back == 9
    rows = await ledger._store.read(Query("SELECT id, cost_nano, http_status FROM requests ORDER BY id"))
    assert rows == [("req_0", 0, 503), ("req_1", 9, 200)]
    assert (await ledger.balance(account)).spendable_nano == 67 - 9


@pytest.mark.usefixtures("of_sqlite")
async def test_records_of_free_requests_are_written_together_and_a_broken_one_alone_is_lost(
    store: Store, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    records = Records(store)
    statements = await traced(store)
    for number in range(5):
        records.add(record(f"req_{number}", "acc_x"))
    await store.flushed()
    assert count(statements, "BEGIN") == 1
    for number in range(5, 8):
        made = record(f"req_{number}", "acc_x")
        records.add(made if number != 6 else made._replace(model="\ud800"))
    await store.flushed()
    kept = await store.read(Query("SELECT id FROM requests ORDER BY id"))
    assert [row[0] for row in kept] == [f"req_{number}" for number in (0, 1, 2, 3, 4, 5, 7)]
    assert "UnicodeEncodeError" in caplog.text


async def test_a_refusal_in_a_burst_names_the_balance_of_its_moment(ledger: Ledger, account: str) -> None:
    await ledger.credit(account, 100, "p")
    asked = [ledger.hold(f"req_{number}", account, 40, 40) for number in range(3)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(answers[2], GatewayError)
    assert answers[2].details["balance_usd"] == "0.00000002"


@pytest.mark.usefixtures("of_sqlite")
async def test_what_a_request_writes_builds_no_table_in_memory(store: Store, ledger: Ledger, account: str) -> None:
    """As a list of three values or more does in a CHECK or an index, for every row."""
    await ledger.credit(account, 1000, "cash")
    statements = await traced(store)
    for request_id in ("req_1", "req_2"):
        await ledger.settle(await ledger.hold(request_id, account, 1, 10), 5, record(request_id, account, cost_nano=5))
    written = [sql for sql in statements if sql.split()[0] in {"SELECT", "INSERT", "UPDATE", "DELETE"}]
    assert len(written) >= 2 * 7
    for sql in written:
        steps = {step[1] for step in await store.read(Query(f"EXPLAIN {sql}"))}
        assert not steps & {"OpenEphemeral", "OpenAutoindex"}, sql
