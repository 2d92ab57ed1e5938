"""What an account can spend, in memory: no more than was committed less what is held, in whatever order they come."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger import purse as purse_module
from mcp_gateway.core.ledger.budget_book import NOBODY
from mcp_gateway.core.ledger.budgets import BudgetsOf, PocketLeft
from mcp_gateway.core.ledger.entries import Balance, HeldNow, Move, Short, WalletState
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.ledger.purse import Hold, NotHeld, Purse, Purses
from mcp_gateway.core.ledger.rules import NOTHING, Amount, GrantLeft
from mcp_gateway.core.store.sqlite.store import Store
from tests.cases import each
from tests.clocks import MsClock
from tests.core.ledger.test_ledger import checked, refused
from tests.databases import locked, open_store

__all__ = ["checked"]

ANN, BOB = "acc_ann", "acc_bob"
NOW_MS = 1000
LONG_S = 60.0


def state(paid_nano: int, *grants: GrantLeft, version: int = 1) -> WalletState:
    return WalletState(ANN, paid_nano, grants, version)


@pytest.fixture
def purses() -> Purses:
    """One of which is known: Ann's, with 100 nano-USD of paid money."""
    purses = Purses()
    known(purses.of(ANN), state(100))
    return purses


def known(purse: Purse, wallet: WalletState) -> None:
    """Read, with its wallet and that it has no budgets."""
    purse.budgets.read(BudgetsOf(purse.account_id, "UTC", (), {}))
    purse.take(wallet)


def hold(purses: Purses, request_id: str, needed_nano: int, most_nano: int) -> Hold:
    made = purses.place(purses.of(ANN), request_id, needed_nano, most_nano, NOW_MS)
    assert made is not None
    return made


def free_nano(purses: Purses) -> int:
    return purses.of(ANN).balance(NOW_MS).spendable_nano


# What is known of the wallet


def test_of_a_wallet_that_was_never_read_nothing_can_be_spent() -> None:
    assert Purse(ANN).place("req_1", 1, 1, NOW_MS) is None
    assert Purse(ANN).balance(NOW_MS) == Balance()


@each("later", [state(40, version=7), state(0, GrantLeft(1, 9), version=7), state(-5, version=7)])
@each("version", [-1, 0, 1, 6])
def test_what_was_read_earlier_never_takes_the_place_of_what_was_committed_later(
    purses: Purses, later: WalletState, version: int
) -> None:
    purse = purses.of(ANN)
    purse.take(later)
    known = purse.balance(NOW_MS)
    purse.take(state(1000, GrantLeft(2, 500), version=version))
    assert purse.balance(NOW_MS) == known


def test_what_was_committed_later_does_and_what_is_held_stays_held(purses: Purses) -> None:
    hold(purses, "req_1", 1, 70)
    purses.of(ANN).take(state(250, version=2))
    assert purses.of(ANN).balance(NOW_MS) == Balance(180, 0, 70)


# Holds


def test_a_hold_that_is_not_covered_changes_nothing(purses: Purses) -> None:
    assert purses.place(purses.of(ANN), "req_1", 101, 200, NOW_MS) is None
    assert (free_nano(purses), list(purses.holds)) == (100, [])
    hold(purses, "req_1", 100, 200)


def test_misuse_of_a_hold_is_refused_by_its_name_and_changes_nothing(purses: Purses) -> None:
    mine = hold(purses, "req_1", 10, 60)
    assert hold(purses, "req_1", 10, 60) is mine
    with pytest.raises(NotHeld) as caught:
        purses.place(purses.of(BOB), "req_1", 10, 60, NOW_MS)
    assert (caught.value.reason, str(caught.value)) == ("hold of another account", "hold of another account: req_1")
    for needed_nano, most_nano in ((9, 60), (10, 61), (60, 10)):
        with pytest.raises(NotHeld, match="another amount"):
            hold(purses, "req_1", needed_nano, most_nano)
    with pytest.raises(NotHeld, match="never was"):
        purses.charge(Hold("req_1", ANN, 10, 60, NOW_MS, Amount(60)), 5, NOW_MS, may_exceed=False)
    with pytest.raises(NotHeld, match="never was"):
        Purses().charge(mine, 5, NOW_MS, may_exceed=False)
    assert (mine.state, mine.amount_nano, free_nano(purses)) == ("open", 60, 40)


@pytest.mark.parametrize("may_exceed", [False, True])
def test_a_hold_ends_once(purses: Purses, may_exceed: bool) -> None:
    charged, released = hold(purses, "req_1", 10, 60), hold(purses, "req_2", 10, 20)
    purses.charge(charged, 50, NOW_MS, may_exceed=may_exceed)
    purses.release("req_2")
    for ended in (charged, released):
        with pytest.raises(NotHeld, match="ended already"):
            purses.charge(ended, 60, NOW_MS, may_exceed=may_exceed)
    with pytest.raises(NotHeld, match="ended already"):
        hold(purses, "req_1", 10, 60)
    assert (free_nano(purses), charged.amount_nano) == (50, 50)


def test_what_a_request_is_not_charged_is_free_before_anything_is_written(purses: Purses) -> None:
    mine = hold(purses, "req_1", 1, 100)
    assert purses.charge(mine, 30, NOW_MS, may_exceed=False) == Amount(30)
    assert hold(purses, "req_2", 70, 70).amount_nano == 70
    assert purses.place(purses.of(ANN), "req_3", 1, 1, NOW_MS) is None


def test_what_a_request_is_charged_beyond_its_hold_is_nobody_elses_before_it_is_written(purses: Purses) -> None:
    first, second = hold(purses, "req_1", 1, 30), hold(purses, "req_2", 1, 30)
    assert purses.charge(first, 60, NOW_MS, may_exceed=True) == Amount(60)
    assert purses.place(purses.of(ANN), "req_3", 11, 20, NOW_MS) is None
    assert purses.charge(second, 1000, NOW_MS, may_exceed=True) == Amount(40)
    assert purses.of(ANN).balance(NOW_MS) == Balance(0, 0, 100)


def test_a_charge_that_is_committed_leaves_the_wallet_and_is_held_no_more(purses: Purses) -> None:
    mine = hold(purses, "req_1", 1, 50)
    purses.charge(mine, 80, NOW_MS, may_exceed=True)
    purses.of(ANN).take(state(20, version=2))
    purses.end("req_1")
    assert purses.of(ANN).balance(NOW_MS) == Balance(20)
    assert (mine.state, list(purses.holds)) == ("charged", [])
    assert purses.end("req_1") is None


def test_a_release_is_done_once_and_never_of_what_is_charged(purses: Purses) -> None:
    mine, other = hold(purses, "req_1", 1, 50), hold(purses, "req_2", 1, 20)
    purses.charge(mine, 40, NOW_MS, may_exceed=False)
    assert purses.release("req_1") is None
    assert purses.release("req_2") is other
    assert purses.release("req_2") is None
    assert purses.release("never made") is None
    assert (free_nano(purses), other.state) == (60, "released")


def test_grants_return_to_where_a_hold_drew_them_and_expire_there(purses: Purses) -> None:
    purses.of(ANN).take(state(5, GrantLeft(1, 30, NOW_MS + 1), GrantLeft(2, 30), version=2))
    mine = hold(purses, "req_1", 1, 40)
    assert mine.parts == Amount(0, ((1, 30), (2, 10)))
    assert purses.of(ANN).expired(NOW_MS + 1) == Amount()
    purses.charge(mine, 12, NOW_MS + 1, may_exceed=False)
    assert purses.of(ANN).expired(NOW_MS + 1) == Amount(0, ((1, 18),))
    assert purses.of(ANN).balance(NOW_MS + 1) == Balance(5, 30, 12)


def test_what_may_come_free_is_what_runs_and_not_what_waits_to_be_written(purses: Purses) -> None:
    mine = hold(purses, "req_1", 1, 50)
    hold(purses, "req_2", 1, 30)
    assert next(purses.of(ANN).shorts(NOW_MS, NOBODY)) == Short(20, 80)
    purses.charge(mine, 45, NOW_MS, may_exceed=False)
    assert next(purses.of(ANN).shorts(NOW_MS, NOBODY)) == Short(25, 30)


# A hold that is resized while its request runs


def resize(purses: Purses, mine: Hold, needed_nano: int, most_nano: int, now_ms: int = NOW_MS) -> bool:
    return purses.resize(mine, needed_nano, most_nano, now_ms)


@each(
    ("needed_nano", "most_nano", "held_nano"),
    [(60, 60, 60), (1, 80, 80), (80, 80, 80), (1, 500, 80), (0, 59, 59), (20, 20, 20), (0, 0, 0), (81, 81, None),
     (81, 500, None)],
)  # fmt: skip
def test_a_hold_is_from_then_on_what_is_wanted_as_far_as_others_leave_that(
    needed_nano: int, most_nano: int, held_nano: int | None
) -> None:
    purses = Purses()
    known(purses.of(ANN), state(100))
    mine, other = hold(purses, "req_1", 1, 60), hold(purses, "req_2", 1, 20)
    assert resize(purses, mine, needed_nano, most_nano) == (held_nano is not None)
    held_nano = 60 if held_nano is None else held_nano
    assert (mine.amount_nano, other.amount_nano) == (held_nano, 20)
    assert purses.of(ANN).balance(NOW_MS) == Balance(80 - held_nano, 0, 20 + held_nano)


def test_what_a_smaller_hold_gives_back_is_anybodys_at_once(purses: Purses) -> None:
    mine = hold(purses, "req_1", 1, 100)
    assert purses.place(purses.of(ANN), "req_2", 30, 30, NOW_MS) is None
    assert resize(purses, mine, 70, 70)
    other = hold(purses, "req_2", 30, 30)
    assert not resize(purses, mine, 71, 100)
    purses.end(other.request_id)
    assert resize(purses, mine, 71, 100)
    assert (mine.amount_nano, free_nano(purses)) == (100, 0)


def test_a_hold_of_any_size_is_charged_and_let_go_of_as_it_is_then(purses: Purses) -> None:
    mine, other = hold(purses, "req_1", 1, 10), hold(purses, "req_2", 1, 10)
    assert resize(purses, mine, 40, 40)
    assert resize(purses, other, 50, 50)
    assert purses.charge(mine, 70, NOW_MS, may_exceed=False) == Amount(40)
    assert purses.release("req_2") is other
    assert purses.of(ANN).balance(NOW_MS) == Balance(60, 0, 40)


def test_a_hold_keeps_what_it_has_of_a_grant_that_has_expired_and_gains_nothing_of_it(purses: Purses) -> None:
    purses.of(ANN).take(state(5, GrantLeft(1, 30, NOW_MS + 1), GrantLeft(2, 30), version=2))
    mine = hold(purses, "req_1", 1, 20)
    assert mine.parts == Amount(0, ((1, 20),))
    assert not resize(purses, mine, 56, 100, NOW_MS + 1)
    assert resize(purses, mine, 55, 100, NOW_MS + 1)
    assert mine.parts == Amount(5, ((1, 20), (2, 30)))
    assert purses.of(ANN).expired(NOW_MS + 1) == Amount(0, ((1, 10),))
    assert resize(purses, mine, 15, 15, NOW_MS + 1)
    assert mine.parts == Amount(0, ((1, 15),))
    assert purses.of(ANN).expired(NOW_MS + 1) == Amount(0, ((1, 15),))


def test_a_hold_stays_as_it_is_where_money_was_taken_back_from_outside(purses: Purses) -> None:
    mine = hold(purses, "req_1", 1, 60)
    purses.of(ANN).take(state(10, version=2))
    assert resize(purses, mine, 60, 80)
    assert not resize(purses, mine, 61, 80)
    assert mine.amount_nano == 60
    assert resize(purses, mine, 20, 20)
    assert purses.of(ANN).overdrawn_nano == 10


@pytest.mark.parametrize("may_exceed", [False, True])
def test_nothing_but_an_open_hold_is_resized(purses: Purses, may_exceed: bool) -> None:
    charged, released = hold(purses, "req_1", 10, 60), hold(purses, "req_2", 10, 20)
    purses.charge(charged, 50, NOW_MS, may_exceed=may_exceed)
    purses.release("req_2")
    for ended in (charged, released):
        for most_nano in (1, 90):
            with pytest.raises(NotHeld, match="ended already"):
                resize(purses, ended, 1, most_nano)
    with pytest.raises(NotHeld, match="never was"):
        resize(purses, Hold("req_3", ANN, 10, 60, NOW_MS, Amount(60)), 1, 1)
    assert purses.of(ANN).balance(NOW_MS) == Balance(50, 0, 50)


# Money that is taken back from outside while it is held


@pytest.mark.parametrize(
    ("left", "overdrawn_nano"),
    [
        (state(100, version=2), 0),
        (state(60, version=2), 0),
        (state(59, version=2), 1),
        (state(0, version=2), 60),
        (state(-500, version=2), 60),
        (state(-10, GrantLeft(1, 40), version=2), 30),
        (state(-10, GrantLeft(1, 90), version=2), 0),
    ],
)
def test_what_is_held_beyond_the_wallet_is_told_and_stays_held(
    purses: Purses, left: WalletState, overdrawn_nano: int
) -> None:
    mine = hold(purses, "req_1", 1, 60)
    purses.of(ANN).take(left)
    assert purses.of(ANN).overdrawn_nano == overdrawn_nano
    assert mine.amount_nano == 60
    assert purses.charge(mine, 60, NOW_MS, may_exceed=False) == Amount(60)
    purses.end("req_1")
    assert purses.of(ANN).overdrawn_nano == 0


def test_nothing_is_held_nor_charged_beyond_a_hold_from_below_nothing(purses: Purses) -> None:
    mine = hold(purses, "req_1", 1, 60)
    purses.of(ANN).take(state(50, version=2))
    assert purses.place(purses.of(ANN), "req_2", 1, 1, NOW_MS) is None
    assert purses.place(purses.of(ANN), "req_2", 0, 1, NOW_MS) is None
    assert purses.charge(mine, 70, NOW_MS, may_exceed=True) == Amount(60)


# How many are known


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many purses are known at most, in these tests."""
    monkeypatch.setattr(purse_module, "_MOST_PURSES", 5)
    return 5


def test_purses_that_hold_something_or_wait_for_their_wallet_are_never_forgotten(purses: Purses, few: int) -> None:
    mine = hold(purses, "req_1", 1, 30)
    charged = purses.of("acc_charged")
    known(charged, WalletState("acc_charged", 9, (), 1))
    settled = purses.place(charged, "req_2", 1, 9, NOW_MS)
    assert settled is not None
    purses.charge(settled, 4, NOW_MS, may_exceed=False)
    reading = purses.of("acc_reading")
    reading.reads += 1
    idle = [purses.of(f"acc_{number}") for number in range(few * 3)]
    assert purses.known(ANN) is not None
    assert purses.known("acc_charged") is charged
    assert purses.known("acc_reading") is reading
    assert purses.known(idle[0].account_id) is None
    assert sum(1 for _ in purses) <= few
    assert (mine.amount_nano, free_nano(purses)) == (30, 70)
    purses.end("req_2")
    reading.reads -= 1
    for number in range(few):
        purses.of(f"acc_later_{number}")
    assert purses.known("acc_charged") is purses.known("acc_reading") is None


def test_where_all_hold_something_more_are_known_than_there_should_be(purses: Purses, few: int) -> None:
    for number in range(few * 2):
        account_id = f"acc_{number}"
        known(purses.of(account_id), WalletState(account_id, 5, (), 1))
        assert purses.place(purses.of(account_id), f"req_{number}", 5, 5, NOW_MS) is not None
    assert sum(hold.amount_nano for hold in purses.holds) == few * 2 * 5
    for number in range(few * 2):
        assert purses.place(purses.of(f"acc_{number}"), "req_more", 1, 1, NOW_MS) is None


def test_ten_thousand_are_known() -> None:
    purses = Purses()
    first = purses.of("acc_first")
    for number in range(9_999):
        purses.of(f"acc_{number}")
    assert purses.known("acc_first") is first
    purses.of("acc_last")
    assert purses.known("acc_first") is None


# Reads and commits that pass each other


class LateReads:
    """Answers of the database that reach who asked once the test says so."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self._read: Callable[[Any], Awaitable[Any]] = store.read
        monkeypatch.setattr(store, "read", self.read)

    async def read(self, asked: Any) -> Any:
        answer = await self._read(asked)
        self.begun.set()
        await self.may_end.wait()
        return answer


async def test_what_is_read_while_a_charge_is_committed_gives_nothing_of_it_back(
    ledger: Ledger, account: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.credit(account, 100, "p")
    held = await ledger.hold("req_1", account, 1, 60)
    late = LateReads(store, monkeypatch)
    asking = asyncio.ensure_future(ledger.hold("req_2", account, 70, 70))
    await late.begun.wait()
    await ledger.settle(held, 60, None)
    late.may_end.set()
    assert (await refused(asking)).details["balance_usd"] == "0.00000004"
    assert ledger._purses.of(account).balance(0) == Balance(40)


async def test_what_was_held_while_the_wallet_was_read_stays_held(
    ledger: Ledger, account: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.credit(account, 100, "p")
    await ledger.balance(account)
    late = LateReads(store, monkeypatch)
    looking = asyncio.ensure_future(ledger.balance(account))
    await late.begun.wait()
    await ledger.hold("req_1", account, 60, 60)
    late.may_end.set()
    assert await looking == Balance(40, 0, 60)


async def test_a_purse_whose_first_read_is_on_its_way_is_not_forgotten_with_what_is_placed_in_it(
    store: Store, account: str, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    ledger = Ledger(store)
    await ledger.credit(account, 100, "p")
    late = LateReads(store, monkeypatch)
    asking = [asyncio.ensure_future(ledger.hold(f"req_{number}", account, 60, 60)) for number in range(2)]
    await late.begun.wait()
    for number in range(few * 2):
        ledger._purses.of(f"acc_{number}")
    late.may_end.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [getattr(answer, "amount_nano", None) for answer in answers] in ([60, None], [None, 60])
    assert ledger.held_now().amount_nano == 60
    assert await ledger.balance(account) == Balance(40, 0, 60)


async def test_a_read_that_fails_leaves_no_mark(
    ledger: Ledger, account: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr(store, "read", fail)
        with pytest.raises(ZeroDivisionError):
            await ledger.balance(account)
    assert ledger._purses.of(account).reads == 0
    assert await ledger.balance(account) == Balance()


# Many at once


async def test_between_a_charge_and_its_commit_its_money_is_spent_by_nobody_else(
    ledger: Ledger, account: str, store: Store, database: Path
) -> None:
    store._writer._busy_timeout_s = LONG_S
    await ledger.credit(account, 1000, "p")
    holds = [await ledger.hold(f"req_{number}", account, 50, 50) for number in range(10)]
    async with locked(database):
        settling = [asyncio.ensure_future(ledger.settle(held, 200, None, may_exceed=True)) for held in holds]
        await asyncio.sleep(0)
        assert ledger.held_now() == HeldNow(10, 1000, 0.0, 0)
        assert (await refused(ledger.hold("req_late", account, 1, 1))).code == "insufficient_balance"
    charged = await asyncio.gather(*settling)
    assert charged == [200, 200, 200, 100, 50, 50, 50, 50, 50, 50]
    assert await ledger.balance(account) == Balance()


@pytest.mark.parametrize("seed", range(3))
async def test_of_200_racers_no_nano_is_spent_twice_and_none_lost(
    store: Store, account: str, database: Path, clock: MsClock, seed: int
) -> None:
    """Some hold, charge, charge beyond, or leave; others add, also from another process; nothing is ever below zero."""
    random, ledger = Random(seed), Ledger(store)
    other = await open_store(database, now_ms=clock)
    beside = Ledger(other)
    charged: list[int] = []
    added: list[int] = []
    await ledger.credit(account, 2000, "paid")
    await ledger.grant(account, 1000, "gift")

    def look(state: WalletState) -> None:
        ledger._wallet_changed(state)
        assert min(state.paid_nano, *(grant.left_nano for grant in state.grants), 0) == 0

    async def race(number: int) -> None:
        least_nano, most_nano = sorted(random.choices(range(1, 200), k=2))
        try:
            held = await ledger.hold(f"req_{number}", account, least_nano, most_nano)
        except GatewayError:
            return
        for _ in range(random.randrange(8)):
            await asyncio.sleep(0)
        if random.random() < 0.25:
            ledger.release(held.request_id)
        else:
            cost_nano, may_exceed = random.randrange(300), random.random() < 0.5
            charged.append(await ledger.settle(held, cost_nano, None, may_exceed=may_exceed))

    async def add(number: int) -> None:
        added.append(random.randrange(1, 200))
        await (beside if number % 2 else ledger).credit(account, added[-1], f"more {number}")

    store.listen(WalletState, look)
    racers = [*map(race, range(200)), *map(add, range(10))]
    random.shuffle(racers)
    await asyncio.gather(*racers)
    balance = await ledger.balance(account)
    assert balance.spendable_nano == 3000 + sum(added) - sum(charged)
    assert (balance.held_nano, ledger.held_now()) == (0, HeldNow(0, 0, 0.0, 0))
    assert 10 < len(charged) < 200
    assert await ledger.check() == []
    await other.close()


async def test_a_refund_beyond_what_is_free_is_told_until_the_requests_have_ended(
    ledger: Ledger, account: str, store: Store
) -> None:
    await ledger.credit(account, 100, "p")
    held = await ledger.hold("req_1", account, 1, 80)
    await store.write(Move(account, "refund", -50, "back"))
    assert ledger.held_now() == HeldNow(1, 80, 0.0, 30)
    assert await ledger.settle(held, 80, None) == 80
    assert ledger.held_now() == HeldNow(0, 0, 0.0, 0)
    assert await ledger.balance(account) == Balance(-30)


def test_what_is_told_of_a_leases_money_before_its_account_is_read_is_later_than_the_read() -> None:
    purse = Purse(ANN)
    purse.note_pocket(PocketLeft(ANN, "bud_1", Amount(30)))
    purse.note_pocket(PocketLeft(ANN, "bud_2", NOTHING))
    pockets = (("bud_1", Amount(50)), ("bud_2", Amount(20)), ("bud_3", Amount(10)))
    purse.take_budgets(BudgetsOf(ANN, "UTC", (), {}, (), pockets))
    purse.take(state(100))
    assert purse.balance(NOW_MS) == Balance(60, 0, 0, 40)
    purse.take_budgets(BudgetsOf(ANN, "UTC", (), {}, (), (("bud_4", Amount(5)),)))
    assert purse.balance(NOW_MS) == Balance(60, 0, 0, 40)
