"""A request that its account's own running requests leave no money for: it waits for one to end, or is told when."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger.entries import Balance, HeldNow
from mcp_gateway.core.ledger.hold_refusals import _expected_wait_s as expected_wait_s
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.ledger.purse import Hold
from mcp_gateway.core.ledger.rules import Amount
from mcp_gateway.core.ledger.wait_list import WaitList
from mcp_gateway.core.store.sqlite.store import Store
from tests.clocks import MsClock
from tests.core.ledger.test_ledger import record, refused
from tests.databases import locked, open_store
from tests.loop_clock import pass_time

LONG_S = 1000.0


@pytest.fixture
def patient(store: Store) -> Ledger:
    return Ledger(store, hold_wait_s=LONG_S)


@asynccontextmanager
async def waiting(ledger: Ledger, store: Store, account: str, amount_nano: int) -> "AsyncIterator[asyncio.Task[Hold]]":
    """A request that has asked in vain and waits."""
    asked = asyncio.create_task(ledger.hold(f"req_waiting_{amount_nano}", account, amount_nano, amount_nano))
    await decided(store)
    assert not asked.done()
    yield asked
    with suppress(GatewayError, asyncio.CancelledError):
        await asked


async def decided(store: Store) -> None:
    """What was asked until now has been answered, also what was asked again because of that."""
    for _ in range(3):
        await store.flushed()
        await asyncio.sleep(0)


async def held(ledger: Ledger, account: str, *amounts_nano: int) -> list[Hold]:
    await ledger.credit(account, sum(amounts_nano), "p")
    return [
        await ledger.hold(f"req_{number}", account, amount_nano, amount_nano)
        for number, amount_nano in enumerate(amounts_nano)
    ]


async def test_it_is_held_for_as_soon_as_a_settlement_leaves_enough(
    patient: Ledger, account: str, store: Store
) -> None:
    [hold] = await held(patient, account, 100)
    async with waiting(patient, store, account, 60) as asked:
        await patient.settle(hold, 40, record(hold.request_id, account))
        assert (await asked).amount_nano == 60
    assert await patient.balance(account) == Balance(held_nano=60)


async def test_it_is_held_for_as_soon_as_a_running_request_needs_less(
    patient: Ledger, account: str, store: Store
) -> None:
    """As where its prompt is shorter than it was held for."""
    [hold] = await held(patient, account, 100)
    async with waiting(patient, store, account, 60) as asked:
        assert await patient.resize(hold, 10, 41)
        await decided(store)
        assert not asked.done()
        assert await patient.resize(hold, 10, 40)
        assert (await asked).amount_nano == 60
    assert await patient.balance(account) == Balance(held_nano=100)


async def test_it_waits_on_where_a_settlement_left_too_little_yet(patient: Ledger, account: str, store: Store) -> None:
    small, large = await held(patient, account, 30, 70)
    async with waiting(patient, store, account, 80) as asked:
        await patient.settle(small, 10, record(small.request_id, account))
        await decided(store)
        assert not asked.done()
        patient.release(large.request_id)
        assert (await asked).amount_nano == 80


async def test_it_is_402_at_once_when_what_is_held_was_spent(patient: Ledger, account: str, store: Store) -> None:
    """No time is waited for: once nothing that is held can cover it, waiting helps nobody."""
    [hold] = await held(patient, account, 100)
    async with waiting(patient, store, account, 60) as asked:
        await patient.settle(hold, 100, record(hold.request_id, account))
        assert (await refused(asked)).code == "insufficient_balance"


@pytest.mark.parametrize("kind", ["credit", "grant", "adjust"])
async def test_money_that_is_paid_in_ends_the_wait(patient: Ledger, account: str, store: Store, kind: str) -> None:
    await held(patient, account, 100)
    async with waiting(patient, store, account, 60) as asked:
        assert await getattr(patient, kind)(account, 60, "more")
        assert (await asked).amount_nano == 60


async def test_what_another_process_paid_in_is_seen_when_the_time_is_over(
    patient: Ledger, account: str, store: Store, database: Path, clock: MsClock
) -> None:
    await held(patient, account, 100)
    other = await open_store(database, now_ms=clock)
    async with waiting(patient, store, account, 60) as asked:
        await Ledger(other).credit(account, 60, "more")
        await other.close()
        pass_time(LONG_S)
        assert (await asked).amount_nano == 60


@pytest.mark.parametrize("kind", ["credit", "grant"])
@pytest.mark.parametrize("waiting", [1, 3])
async def test_what_another_process_paid_in_is_seen_before_anybody_is_refused_since_what_was_held_is_spent(
    patient: Ledger, account: str, store: Store, database: Path, clock: MsClock, kind: str, waiting: int
) -> None:
    [hold] = await held(patient, account, 100)
    asked = [asyncio.create_task(patient.hold(f"req_w{number}", account, 20, 20)) for number in range(waiting)]
    await decided(store)
    other = await open_store(database, now_ms=clock)
    await getattr(Ledger(other), kind)(account, 60, "more")
    await other.close()
    store._writer._busy_timeout_s = LONG_S
    async with locked(database):  # so that the settlement does not tell of it
        settling = asyncio.ensure_future(patient.settle(hold, 100, record(hold.request_id, account)))
        assert [hold.amount_nano for hold in await asyncio.gather(*asked)] == [20] * waiting
    assert await settling == 100


async def test_all_that_one_settlement_leaves_enough_for_are_served_in_their_order(
    patient: Ledger, account: str, store: Store
) -> None:
    [hold] = await held(patient, account, 100)
    asked = [asyncio.create_task(patient.hold(f"req_w{number}", account, 30, 30)) for number in range(4)]
    await decided(store)
    await patient.settle(hold, 5, record(hold.request_id, account))
    await asyncio.gather(*asked[:3])
    await decided(store)
    assert not asked[3].done()
    patient.release("req_w0")
    assert (await asked[3]).amount_nano == 30


async def test_one_account_is_not_woken_by_another(patient: Ledger, account: str, store: Store) -> None:
    [hold] = await held(patient, account, 100)
    async with waiting(patient, store, account, 60) as asked:
        patient._wait_list.wake("acc_other")
        await decided(store)
        assert not asked.done()
        patient.release(hold.request_id)


async def test_who_leaves_while_it_waits_holds_nothing(patient: Ledger, account: str, store: Store) -> None:
    [hold] = await held(patient, account, 100)
    async with waiting(patient, store, account, 60) as asked:
        asked.cancel()
    patient.release(hold.request_id)
    assert await patient.balance(account) == Balance(paid_nano=100)
    await decided(store)
    assert not patient._wait_list


@pytest.mark.parametrize(("age_s", "told_s"), [(0, 1), (1, 1), (7, 7), (59, 59), (3600, 60)])
async def test_after_that_it_is_told_how_long_the_others_are_expected_to_run(
    ledger: Ledger, account: str, clock: MsClock, age_s: int, told_s: int
) -> None:
    await held(ledger, account, 100)
    clock.now_ms += age_s * 1000
    error = await refused(ledger.hold("req_late", account, 60, 60))
    assert (error.status, error.code, error.retry_after_s) == (429, "balance_held", told_s)
    assert error.details == {"balance_usd": "0.00", "held_usd": "0.0000001", "holding_requests": 1}


async def test_it_is_told_to_wait_for_those_alone_that_would_leave_enough(
    ledger: Ledger, account: str, clock: MsClock
) -> None:
    await ledger.credit(account, 100, "p")
    for number, amount_nano in enumerate((50, 30, 20)):
        await ledger.hold(f"req_{number}", account, amount_nano, amount_nano)
        clock.now_ms += 10_000
    for missing_nano, wait_s in ((20, 10), (21, 20), (50, 20), (51, 30), (100, 30)):
        error = await refused(ledger.hold("req_late", account, missing_nano, missing_nano))
        assert error.retry_after_s == wait_s, missing_nano


async def test_what_waits_to_be_written_is_none_of_those_that_hold_what_is_missing(
    ledger: Ledger, account: str, store: Store, database: Path, clock: MsClock
) -> None:
    """It may be the oldest, and never comes free."""
    store._writer._busy_timeout_s = LONG_S
    first, _ = await held(ledger, account, 60, 40)
    clock.now_ms += 7000
    async with locked(database):
        settling = asyncio.ensure_future(ledger.settle(first, 50, record(first.request_id, account)))
        await asyncio.sleep(0)
        error = await refused(ledger.hold("req_late", account, 50, 50))
        assert error.details == {"balance_usd": "0.00000001", "held_usd": "0.00000004", "holding_requests": 1}
        assert (await refused(ledger.hold("req_dear", account, 51, 51))).code == "insufficient_balance"
        assert ledger.held_now() == HeldNow(2, 90, 7.0, 0)
    assert await settling == 50


def test_where_some_have_ended_meanwhile_it_is_told_to_wait_as_long_as_the_first_of_the_rest_has_run() -> None:
    rest = [Hold(f"req_{since_ms}", "acc_1", 2, 2, since_ms, Amount(2)) for since_ms in (1000, 3000)]
    assert expected_wait_s(rest, 10, 5000) == 4
    assert expected_wait_s([], 10, 5000) == 1


async def test_what_no_hold_would_cover_is_402_whoever_runs(ledger: Ledger, account: str) -> None:
    await held(ledger, account, 100)
    error = await refused(ledger.hold("req_dear", account, 101, 101))
    assert (error.status, error.code, error.retry_after_s) == (402, "insufficient_balance", None)
    assert error.details["holding_requests"] == 1


async def test_a_minimum_balance_that_running_requests_hold_is_waited_for_too(store: Store, account: str) -> None:
    ledger = Ledger(store, minimum_balance_nano=50)
    await held(ledger, account, 100)
    assert (await refused(ledger.hold("req_late", account, 1, 1))).code == "balance_held"


async def test_who_began_to_wait_first_looks_first() -> None:
    wait_list, looked = WaitList(), []

    async def look(name: str) -> None:
        await asyncio.wait({wait_list.freed("acc_1")})
        looked.append(name)

    async with asyncio.TaskGroup() as tasks:
        for name in "abc":
            tasks.create_task(look(name))
        await asyncio.sleep(0)
        wait_list.wake("acc_1")
    assert looked == ["a", "b", "c"]
    assert not wait_list
