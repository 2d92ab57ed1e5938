"""Budgets set aside at once: nobody else can spend them, and what is left of them goes back where it came from."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.keys import digest_of
from mcp_gateway.core.ledger import ledger as module_of_ledger
from mcp_gateway.core.ledger.budgets import Budget, BudgetWindow, MakeBudgets, ReadBudgets, ReturnLeases
from mcp_gateway.core.ledger.entries import Balance, HeldOf, Move, Settle
from mcp_gateway.core.ledger.leases import Leases
from mcp_gateway.core.ledger.ledger import Ledger, SettlementPending
from mcp_gateway.core.ledger.rules import Amount
from mcp_gateway.core.store.sqlite.store import Store
from tests.clocks import MsClock
from tests.core.ledger.test_ledger import checked, record, refused
from tests.databases import changing, explained, locked, open_store
from tests.loop_clock import pass_time
from tests.patience import eventually, settled

__all__ = ["checked"]

HOUR_MS = 3_600_000
TOP, CHILD, GRANDCHILD = "key_top", "key_child", "key_grandchild"
LINES = {
    TOP: {TOP},
    CHILD: {CHILD, TOP},
    GRANDCHILD: {GRANDCHILD, CHILD, TOP},
    "key_other": {"key_other"},
    "key_third": {"key_third"},
}
"""Each key with those that made it."""


@pytest.fixture(autouse=True)
async def lines(store: Store, account: str) -> None:
    for key_id in LINES:
        sql = "INSERT INTO keys VALUES (?, ?, ?, 'gw_live_', '', FALSE, 0, NULL, NULL, NULL, NULL, NULL)"
        await store.write(changing(sql, (key_id, account, digest_of(key_id))))


@pytest.fixture
def leases(store: Store, ledger: Ledger) -> Leases:
    return Leases(store, ledger)


@pytest.fixture
def lease(store: Store, leases: Leases, account: str, clock: MsClock) -> Callable[..., Awaitable[Budget]]:
    async def make(key_id: str, amount_nano: int, lasts_ms: int = HOUR_MS, window: BudgetWindow = "total") -> Budget:
        budget = Budget(f"bud_{key_id}", account, key_id, amount_nano, window, None, clock() + lasts_ms)
        above = tuple(LINES.get(key_id, {key_id}) - {key_id})
        await leases.make(MakeBudgets((budget,), above=above), store.write)
        return budget

    return make


Lend = Callable[..., Awaitable[Budget]]


async def bound(store: Store, account: str, holder: str, amount_nano: int, window: BudgetWindow = "day") -> str:
    """A budget that is shared; returns its id."""
    budget = Budget(f"bud_shared_{holder}_{window}", account, holder, amount_nano, window)
    await store.write(MakeBudgets((budget,)))
    return budget.id


async def spend(ledger: Ledger, account: str, key_id: str, amount_nano: int) -> int:
    """By one request, which may be charged less."""
    request_id = f"req_{key_id}_{amount_nano}_{spend.count}"  # type: ignore[attr-defined]
    spend.count += 1  # type: ignore[attr-defined]
    hold = await ledger.hold(request_id, account, 1, amount_nano, frozenset(LINES[key_id]))
    return await ledger.settle(hold, amount_nano, record(request_id, account, cost_nano=amount_nano))


spend.count = 0  # type: ignore[attr-defined]


async def left(ledger: Ledger, account: str) -> dict[str, tuple[int, int, int]]:
    """Spent, held and left of each budget."""
    return {one.budget.id: (one.spent_nano, one.held_nano, one.left_nano) for one in await ledger.budgets(account)}


async def test_what_is_set_aside_of_the_wallet_no_other_can_spend(ledger: Ledger, account: str, lease: Lend) -> None:
    await ledger.credit(account, 100, "p")
    await lease(TOP, 70)
    assert await ledger.balance(account) == Balance(30, 0, 0, 70)
    assert await spend(ledger, account, "key_other", 100) == 30
    assert (
        await refused(ledger.hold("req_no", account, 1, 1, frozenset({"key_other"})))
    ).code == "insufficient_balance"
    assert await spend(ledger, account, TOP, 50) == 50
    assert await spend(ledger, account, CHILD, 50) == 20
    refusal = await refused(ledger.hold("req_no", account, 1, 1, frozenset({TOP})))
    assert (refusal.code, refusal.details["budget"]["id"]) == ("budget_exhausted", "bud_key_top")
    assert await ledger.balance(account) == Balance()


async def test_what_is_left_returns_when_it_ends(
    ledger: Ledger, leases: Leases, account: str, lease: Lend, clock: MsClock
) -> None:
    await ledger.credit(account, 100, "p")
    lent = await lease(TOP, 70)
    await spend(ledger, account, TOP, 25)
    assert await leases.end(account, lent.id)
    assert await ledger.balance(account) == Balance(75)
    assert not await leases.end(account, lent.id)
    assert await spend(ledger, account, TOP, 5) == 5  # of the account's, since nothing bounds it any more
    again = Budget("bud_2", account, "key_other", 60, "total", None, clock() + HOUR_MS)
    await leases.make(MakeBudgets((again,)), leases._store.write)
    clock.now_ms += HOUR_MS
    assert await leases.give_back() == 60
    assert await ledger.balance(account) == Balance(70)
    assert await leases.give_back() == 0


async def test_a_lease_whose_time_is_over_still_bounds_its_holder(
    ledger: Ledger, leases: Leases, account: str, lease: Lend, clock: MsClock
) -> None:
    """Else its keys would spend of the whole wallet from then on."""
    await ledger.credit(account, 100, "p")
    lent = await lease(TOP, 70)
    clock.now_ms += HOUR_MS
    for _ in range(2):  # before it is given back, and after
        refusal = await refused(ledger.hold("req_1", account, 1, 1, frozenset({TOP})))
        assert (refusal.code, "lease of 0.00000007 USD ended at" in refusal.message) == ("budget_exhausted", True)
        await leases.give_back()
    assert (await left(ledger, account))[lent.id] == (0, 0, 0)
    assert await spend(ledger, account, "key_other", 100) == 100


async def test_whoever_lacks_money_has_what_is_over_at_once(
    ledger: Ledger, account: str, lease: Lend, clock: MsClock
) -> None:
    await ledger.credit(account, 100, "p")
    await lease(TOP, 70)
    clock.now_ms += HOUR_MS
    assert (await ledger.hold("req_1", account, 100, 100, frozenset({"key_other"}))).amount_nano == 100


async def test_a_lease_takes_its_amount_of_each_window_above_when_it_is_made(
    ledger: Ledger, leases: Leases, store: Store, account: str, lease: Lend, clock: MsClock
) -> None:
    await ledger.credit(account, 1000, "p")
    day, month = await bound(store, account, TOP, 100), await bound(store, account, account, 300, "month")
    lent = await lease(CHILD, 60, lasts_ms=40 * HOUR_MS)
    assert await left(ledger, account) == {day: (60, 0, 40), month: (60, 0, 240), lent.id: (0, 0, 60)}
    assert await spend(ledger, account, CHILD, 25) == 25
    assert await left(ledger, account) == {day: (60, 0, 40), month: (60, 0, 240), lent.id: (25, 0, 35)}
    assert await spend(ledger, account, TOP, 100) == 40
    clock.now_ms += 24 * HOUR_MS
    assert await left(ledger, account) == {day: (0, 0, 100), month: (100, 0, 200), lent.id: (25, 0, 35)}
    await leases.end(account, lent.id)  # of the day before what returns is lost, of the month it is not
    assert await left(ledger, account) == {day: (0, 0, 100), month: (65, 0, 235)}
    assert await ledger.balance(account) == Balance(935)


async def test_a_lease_under_a_lease_is_of_its_money(ledger: Ledger, leases: Leases, account: str, lease: Lend) -> None:
    await ledger.credit(account, 100, "p")
    outer, inner = await lease(TOP, 70), await lease(CHILD, 50)
    assert await ledger.balance(account) == Balance(30, 0, 0, 70)
    assert await left(ledger, account) == {outer.id: (50, 0, 20), inner.id: (0, 0, 50)}
    assert await spend(ledger, account, TOP, 70) == 20
    assert await spend(ledger, account, GRANDCHILD, 45) == 45
    assert await leases.end(account, inner.id)
    assert await left(ledger, account) == {outer.id: (65, 0, 5)}
    assert await spend(ledger, account, CHILD, 70) == 5
    assert await ledger.balance(account) == Balance(30)


async def test_with_a_lease_the_time_of_those_under_it_is_over(
    ledger: Ledger, leases: Leases, account: str, lease: Lend, database: Path, clock: MsClock
) -> None:
    """They bound their keys on, which could spend all of the wallet otherwise."""
    await ledger.credit(account, 100, "p")
    outer, inner = await lease(TOP, 70), await lease(CHILD, 50)
    running = await ledger.hold("req_1", account, 1, 30, frozenset(LINES[GRANDCHILD]))
    assert await leases.end(account, outer.id)
    assert await ledger.balance(account) == Balance(30, 0, 30, 40)  # nothing returns of what a request holds still
    assert await ledger.settle(running, 30, record("req_1", account, cost_nano=30)) == 30
    assert await leases.give_back() == 20 + 40
    assert await ledger.balance(account) == Balance(70)
    other = await open_store(database, now_ms=clock)
    for one in (ledger, Ledger(other)):
        for key_id in (CHILD, GRANDCHILD):
            refusal = await refused(one.hold("req_no", account, 1, 1, frozenset(LINES[key_id])))
            assert (refusal.code, refusal.details["budget"]["id"]) == ("budget_exhausted", inner.id)
        assert await left(one, account) == {inner.id: (30, 0, 0)}
        assert (await one.hold("req_top", account, 70, 70, frozenset({TOP}))).amount_nano == 70
        one.release("req_top")
    await other.close()


@pytest.mark.parametrize("is_by_a_parents_end", [False, True])
async def test_a_lease_whose_time_is_over_makes_room_for_a_new_one(
    ledger: Ledger, leases: Leases, account: str, lease: Lend, clock: MsClock, is_by_a_parents_end: bool
) -> None:
    """In one step: its holder is bound by one of them at any time."""
    await ledger.credit(account, 100, "p")
    outer, inner = await lease(TOP, 70), await lease(CHILD, 50)
    if is_by_a_parents_end:
        await leases.end(account, outer.id)
    else:
        clock.now_ms += HOUR_MS
        again = outer._replace(id="bud_top_again", lease_ends_at_ms=clock() + HOUR_MS)
        await leases.make(MakeBudgets((again,)), leases._store.write)
    renewed = inner._replace(id="bud_child_again", amount_nano=40, lease_ends_at_ms=clock() + HOUR_MS)
    await leases.make(MakeBudgets((renewed,), above=(TOP,)), leases._store.write)
    assert (
        await refused(leases.make(MakeBudgets((renewed._replace(id="bud_no", amount_nano=1),)), leases._store.write))
    ).code == ("conflict")
    assert await spend(ledger, account, CHILD, 100) == 40
    assert (await left(ledger, account))[renewed.id] == (40, 0, 0)
    assert inner.id not in await left(ledger, account)
    clock.now_ms += HOUR_MS
    await leases.give_back()
    assert await ledger.balance(account) == Balance(60)


async def test_a_lease_is_refused_without_room_money_or_time(
    ledger: Ledger, store: Store, account: str, lease: Lend
) -> None:
    await ledger.credit(account, 100, "p")
    assert (await refused(lease(TOP, 101))).code == "insufficient_balance"
    await bound(store, account, TOP, 50)
    assert (await refused(lease(CHILD, 51))).code == "budget_exhausted"
    running = await ledger.hold("req_1", account, 1, 20, frozenset({TOP}))
    assert (await refused(lease(CHILD, 31))).code == "balance_held"
    odd = {"expires_at": lease(CHILD, 1, lasts_ms=0), "budgets.0.window": lease(CHILD, 1, window="day")}
    for param, asked in (odd | {None: lease(account, 1)}).items():
        refusal = await refused(asked)
        assert (refusal.code, refusal.param) == ("invalid_value", param)
    ledger.release(running.request_id)
    await lease(CHILD, 30)
    assert (await refused(lease(CHILD, 1))).code == "conflict"
    refusal = await refused(lease(GRANDCHILD, 1, lasts_ms=HOUR_MS + 1))
    assert (refusal.code, refusal.param) == ("invalid_value", "expires_at")
    assert ledger.held_now().requests == 0
    assert await ledger.balance(account) == Balance(70, 0, 0, 30)


async def test_no_lease_outlives_its_key(
    ledger: Ledger, store: Store, account: str, lease: Lend, clock: MsClock
) -> None:
    """Else nobody could spend what is set aside."""
    await ledger.credit(account, 100, "p")
    rights = (TOP, "inference", clock() + HOUR_MS)
    await store.write(changing("INSERT INTO key_rights VALUES (?, ?, ?, NULL)", rights))
    refusal = await refused(lease(TOP, 70, lasts_ms=HOUR_MS + 1))
    assert (refusal.code, str((clock() + HOUR_MS) // 1000) in refusal.message) == ("invalid_value", True)
    await store.write(changing("UPDATE keys SET revoked_at_ms = 1 WHERE id = ?", (CHILD,)))
    assert (await refused(lease(CHILD, 1))).code == "conflict"
    assert await ledger.balance(account) == Balance(100)
    await lease(TOP, 70)
    assert await ledger.balance(account) == Balance(30, 0, 0, 70)


async def test_of_granted_credit_a_lease_takes_what_outlives_it(
    ledger: Ledger, leases: Leases, account: str, lease: Lend, clock: MsClock
) -> None:
    ends_at_ms = clock() + HOUR_MS
    await ledger.grant(account, 20, "short", expires_at_ms=ends_at_ms)
    await ledger.grant(account, 30, "long", expires_at_ms=ends_at_ms + 1)
    assert (await refused(lease(TOP, 31))).code == "insufficient_balance"
    await ledger.credit(account, 5, "p")
    await lease(TOP, 33)
    assert await ledger.balance(account) == Balance(2, 20, 0, 33)
    assert await spend(ledger, account, "key_other", 100) == 22
    assert await spend(ledger, account, TOP, 31) == 31
    clock.now_ms = ends_at_ms
    assert await leases.give_back() == 2
    assert await ledger.expire_grants() == 0
    assert await ledger.balance(account) == Balance(2)


async def test_money_taken_back_from_outside_is_missing_to_leases_too(
    ledger: Ledger, store: Store, account: str, lease: Lend
) -> None:
    await ledger.credit(account, 100, "p")
    await lease(TOP, 70)
    running = await ledger.hold("req_1", account, 1, 10, frozenset({TOP}))
    assert not await ledger.resize(running, 71, 71)
    assert ledger.what_ends(running, 71) == "budget"
    await store.write(Move(account, "refund", -60, "r"))
    assert not await ledger.resize(running, 41, 41)
    assert ledger.what_ends(running, 41) == "balance"
    ledger.release("req_1")
    assert (await ledger.balance(account)).paid_nano == -30
    assert await spend(ledger, account, TOP, 100) == 40
    assert (await refused(ledger.hold("req_1", account, 1, 1, frozenset({TOP})))).code == "insufficient_balance"


async def test_a_lease_that_cannot_be_written_takes_nothing(
    ledger: Ledger, leases: Leases, store: Store, account: str, clock: MsClock
) -> None:
    await ledger.credit(account, 100, "p")

    async def fail(_: MakeBudgets) -> None:
        raise GatewayError("conflict", "no")

    budget = Budget("bud_1", account, TOP, 70, "total", None, clock() + HOUR_MS)
    assert (await refused(leases.make(MakeBudgets((budget,)), fail))).code == "conflict"
    nobody = budget._replace(holder="key_nobody")
    assert (await refused(leases.make(MakeBudgets((nobody,)), store.write))).code == "not_found"
    assert await ledger.balance(account) == Balance(100)
    assert ledger.held_now().requests == 0


async def test_who_asks_for_a_lease_and_leaves_has_it_made_or_not_at_all(
    ledger: Ledger, leases: Leases, store: Store, account: str, clock: MsClock
) -> None:
    await ledger.credit(account, 100, "p")
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def write(decided: MakeBudgets) -> None:
        begun.set()
        await go_on.wait()
        await store.write(decided)

    budget = Budget("bud_1", account, TOP, 70, "total", None, clock() + HOUR_MS)
    asking = asyncio.ensure_future(leases.make(MakeBudgets((budget,)), write))
    await begun.wait()
    asking.cancel()
    await asyncio.wait([asking])
    assert await ledger.balance(account) == Balance(30, 0, 70)
    go_on.set()
    while ledger.held_now().requests:
        await store.flushed()
    assert await ledger.balance(account) == Balance(30, 0, 0, 70)


async def test_what_comes_back_of_a_charge_is_the_grants_that_the_lease_had(
    ledger: Ledger, leases: Leases, account: str, lease: Lend
) -> None:
    await ledger.grant(account, 100, "g")
    only = await lease(TOP, 70)
    hold = await ledger.hold("req_1", account, 1, 40, frozenset(LINES[TOP]))
    await ledger.settle(hold, 40, record("req_1", account, cost_nano=40))
    assert await ledger.give_back(hold, record("req_1", account, cost_nano=0)) == 40
    assert await left(ledger, account) == {only.id: (0, 0, 70)}
    assert await leases.end(account, only.id)
    assert await ledger.balance(account) == Balance(granted_nano=100)


@pytest.mark.parametrize("is_ended", [False, True])
async def test_what_comes_back_of_a_charge_is_the_leases_or_whose_it_went_back_to(
    ledger: Ledger, leases: Leases, account: str, lease: Lend, is_ended: bool
) -> None:
    await ledger.credit(account, 100, "p")
    outer, inner = await lease(TOP, 70), await lease(CHILD, 50)
    hold = await ledger.hold("req_1", account, 1, 40, frozenset(LINES[CHILD]))
    await ledger.settle(hold, 40, record("req_1", account, cost_nano=40))
    if is_ended:
        await leases.end(account, inner.id)
    assert await ledger.give_back(hold, record("req_1", account, cost_nano=0)) == 40
    if is_ended:
        assert await left(ledger, account) == {outer.id: (0, 0, 70)}
    else:
        assert await left(ledger, account) == {outer.id: (50, 0, 20), inner.id: (0, 0, 50)}
    assert await spend(ledger, account, CHILD, 100) == (70 if is_ended else 50)
    assert await leases.end(account, outer.id)
    assert await ledger.balance(account) == Balance(30 if is_ended else 50)


async def test_a_restart_knows_what_is_set_aside(
    ledger: Ledger, store: Store, account: str, lease: Lend, database: Path, clock: MsClock
) -> None:
    await ledger.credit(account, 100, "p")
    await ledger.grant(account, 20, "g")
    outer, inner = await lease(TOP, 70), await lease(CHILD, 50)
    await spend(ledger, account, CHILD, 25)
    await ledger.hold("req_lost", account, 1, 10, frozenset(LINES[TOP]))
    other = await open_store(database, now_ms=clock)
    again = Ledger(other)
    assert await again.balance(account) == Balance(50, 0, 0, 45)
    assert await left(again, account) == {outer.id: (50, 0, 20), inner.id: (25, 0, 25)}
    clock.now_ms += HOUR_MS
    assert await Leases(other, again).give_back() == 25 + 45  # one into the other
    assert await again.balance(account) == Balance(95)
    await other.close()


@pytest.mark.parametrize("is_ended", [False, True])
async def test_a_charge_that_an_earlier_process_left_is_of_what_its_lease_went_back_to(
    ledger: Ledger, leases: Leases, store: Store, account: str, lease: Lend, is_ended: bool
) -> None:
    """As where a command ends the lease before the next server writes what the last one could not."""
    await ledger.credit(account, 100, "p")
    day, outer, inner = await bound(store, account, account, 80), await lease(TOP, 70), await lease(CHILD, 50)
    if is_ended:
        await leases.end(account, outer.id)
    charge = Settle("req_1", account, Amount(30), record("req_1", account, cost_nano=30), ((inner.id, 0),), outer.id)
    for _ in range(2):
        await ledger.catch_up([charge])
    assert await ledger.check() == []
    if not is_ended:
        assert (await left(ledger, account))[inner.id] == (30, 0, 20)
        await leases.end(account, outer.id)
    assert await left(ledger, account) == {day: (30, 0, 50), inner.id: (30, 0, 0)}
    assert await ledger.balance(account) == Balance(70)


async def test_a_charge_that_waits_for_the_disk_keeps_a_lease_out(
    ledger: Ledger, leases: Leases, store: Store, account: str, lease: Lend, database: Path, clock: MsClock
) -> None:
    await ledger.credit(account, 100, "p")
    await lease(TOP, 70)
    patient = Ledger(store, settle_wait_s=0)
    hold = await patient.hold("req_1", account, 1, 40, frozenset({TOP}))
    async with locked(database):
        with pytest.raises(SettlementPending):
            await patient.settle(hold, 40, record("req_1", account, cost_nano=40))
        clock.now_ms += HOUR_MS
        assert await Leases(store, patient).give_back() == 0
    await store.flushed()
    assert await Leases(store, patient).give_back() == 30
    assert await patient.balance(account) == Balance(60)


async def test_a_holder_in_a_lease_and_in_a_groups_spends_of_both(
    ledger: Ledger, account: str, store: Store, lease: Lend
) -> None:
    """Of the money of one alone; the rest returns from the other."""
    await ledger.credit(account, 100, "p")
    await lease(TOP, 30)
    await lease("key_other", 20)
    hold = await ledger.hold("req_1", account, 1, 50, frozenset({TOP, "key_other"}))
    assert hold.amount_nano == 20
    assert await ledger.settle(hold, 20, record("req_1", account, cost_nano=20)) == 20
    assert await ledger.balance(account) == Balance(50, 0, 0, 30)


async def test_the_check_finds_what_a_lease_lacks(ledger: Ledger, store: Store, account: str, lease: Lend) -> None:
    await ledger.credit(account, 100, "p")
    await lease(TOP, 70)
    assert await ledger.check() == []
    await store.write(changing("UPDATE pockets SET left_nano = 69", ()))
    [found] = await ledger.check()
    assert found.startswith("a lease has less money than may be spent of it")
    await store.write(changing("UPDATE pockets SET left_nano = 70", ()))
    await spend(ledger, account, TOP, 1)
    await store.write(changing("UPDATE budget_windows SET spent_nano = 71", ()))
    assert (await ledger.check())[0].startswith("a budget was spent beyond its amount")
    await store.write(changing("UPDATE budget_windows SET spent_nano = 1", ()))


async def test_the_parts_of_a_pocket_are_of_the_wallet(ledger: Ledger, account: str, lease: Lend, store: Store) -> None:
    await ledger.grant(account, 20, "g")
    await ledger.credit(account, 100, "p")
    lent = await lease(TOP, 70)
    hold = await ledger.hold("req_1", account, 1, 100, frozenset({TOP}))
    assert (hold.pocket, hold.parts.paid_nano, hold.parts.granted_nano) == (lent.id, 50, 20)
    assert isinstance(hold.parts, Amount)


async def test_a_request_that_lacks_money_is_refused_or_cut_by_none_that_is_over(
    ledger: Ledger, account: str, lease: Lend, clock: MsClock
) -> None:
    """Neither before its body has come nor while its hold grows."""
    await ledger.credit(account, 100, "p")
    await lease(TOP, 70), await lease("key_other", 20)
    hold = await ledger.hold("req_1", account, 10, 10, frozenset({"key_none"}))
    assert not await ledger.resize(hold, 11, 11)
    assert (await refused(ledger.check_balance(account, 20))).code == "insufficient_balance"
    clock.now_ms += HOUR_MS
    await ledger.check_balance(account, 20)
    assert await ledger.balance(account) == Balance(90, 0, 10)
    await lease("key_third", 90)
    clock.now_ms += HOUR_MS
    assert await ledger.resize(hold, 100, 100)


async def test_a_refusal_says_that_it_was_a_lease(ledger: Ledger, store: Store, account: str, lease: Lend) -> None:
    await ledger.credit(account, 10**9, "p")
    assert "does not cover a lease of 2.00 USD." in (await refused(lease(TOP, 2 * 10**9))).message
    await bound(store, account, TOP, 10**8)
    assert "do not cover a lease of 0.20 USD." in (await refused(lease(CHILD, 2 * 10**8))).message
    await ledger.hold("req_1", account, 1, 10**8, frozenset({TOP}))
    assert (
        "do not cover a lease of 0.10 USD: 0.10 USD are held for 1 of" in (await refused(lease(CHILD, 10**8))).message
    )


async def test_who_comes_after_a_restart_has_what_was_over_before(
    ledger: Ledger, account: str, lease: Lend, database: Path, clock: MsClock
) -> None:
    """As a command that works beside no server, whose purse is unread."""
    await ledger.credit(account, 100, "p")
    await lease(TOP, 70)
    clock.now_ms += HOUR_MS
    other = await open_store(database, now_ms=clock)
    assert (await Ledger(other).hold("req_1", account, 100, 100, frozenset({"key_other"}))).amount_nano == 100
    again = Budget("bud_2", account, "key_other", 90, "total", None, clock() + HOUR_MS)
    await Leases(other, Ledger(other)).make(MakeBudgets((again,)), other.write)
    await other.close()


async def test_many_leases_return_some_at_a_time(
    ledger: Ledger, leases: Leases, account: str, lease: Lend, clock: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each after those under it."""
    monkeypatch.setattr(module_of_ledger, "_MOST_RETURNED_AT_ONCE", 1)
    await ledger.credit(account, 100, "p")
    for key_id, amount_nano in (("key_other", 20), (TOP, 70), (CHILD, 50), (GRANDCHILD, 30)):
        await lease(key_id, amount_nano)
    await spend(ledger, account, GRANDCHILD, 5)
    clock.now_ms += HOUR_MS
    assert await leases.give_back() == 20 + 25 + 45 + 65
    assert await ledger.balance(account) == Balance(95)


async def test_what_was_given_back_is_given_back_once_also_where_nobody_has_asked_for_the_account(
    ledger: Ledger, store: Store, account: str, lease: Lend
) -> None:
    await ledger.credit(account, 100, "p")
    lent = await lease(TOP, 70)
    later = Ledger(store)
    assert [await store.write(ReturnLeases(account, (lent.id,))) for _ in range(2)] == [70, 0]
    assert (await later.balance(account)).spendable_nano == 100


async def test_a_lease_that_something_is_held_of_is_looked_for_again(
    ledger: Ledger, leases: Leases, account: str, lease: Lend, clock: MsClock
) -> None:
    await ledger.credit(account, 100, "p")
    await lease(TOP, 40), await lease("key_other", 30, lasts_ms=2 * HOUR_MS)
    running = await ledger.hold("req_1", account, 1, 10, frozenset({TOP}))
    for hours, returned_nano in ((1, 0), (1, 30), (1, 0)):
        clock.now_ms += hours * HOUR_MS
        assert await leases.give_back() == returned_nano
    ledger.release(running.request_id)
    assert await leases.give_back() == 40
    assert await leases.give_back() == 0


@pytest.mark.usefixtures("of_sqlite")
async def test_the_leases_of_an_account_are_read_without_those_of_others(
    store: Store, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = explained(monkeypatch)
    await store.read(ReadBudgets(account, 0))
    assert steps
    assert not [step for step in steps if step.startswith("SCAN")]


async def test_a_lease_below_one_that_has_ended_meanwhile_is_not_made(
    ledger: Ledger, leases: Leases, store: Store, account: str, lease: Lend, clock: MsClock
) -> None:
    await ledger.credit(account, 100, "p")
    outer = await lease(TOP, 70)

    async def write(decided: MakeBudgets) -> None:
        await leases.end(account, outer.id)
        await store.write(decided)

    budget = Budget("bud_late", account, CHILD, 50, "total", None, clock() + HOUR_MS)
    assert (await refused(leases.make(MakeBudgets((budget,), above=(TOP,)), write))).code == "conflict"
    await leases.give_back()
    assert await ledger.balance(account) == Balance(100)
    assert await left(ledger, account) == {}


async def test_what_requests_hold_is_told_apart_by_whose_money_it_is(ledger: Ledger, account: str, lease: Lend) -> None:
    await ledger.credit(account, 100, "p")
    await ledger.grant(account, 20, "g")
    await lease(TOP, 70)
    await ledger.hold("req_1", account, 1, 40, frozenset({TOP}))
    await ledger.hold("req_2", account, 1, 15, frozenset({"key_other"}))
    assert ledger.held_by_account() == {account: HeldOf(15, 0, 40)}


async def test_leases_return_as_their_time_comes_also_after_an_outage(
    ledger: Ledger, leases: Leases, account: str, lease: Lend, clock: MsClock, database: Path
) -> None:
    await ledger.credit(account, 100, "p")
    await lease(TOP, 70)
    watching = asyncio.ensure_future(leases.watch())
    await settled()
    async with locked(database):
        clock.now_ms += HOUR_MS
        while ledger.is_writable:
            pass_time(10)
            await settled()
    await eventually(lambda: ledger.is_writable)
    while await ledger.balance(account) != Balance(100):
        pass_time(10)
        await settled()
    assert not watching.done()
    watching.cancel()
