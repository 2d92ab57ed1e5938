"""Random lives of a tree of budgets, shared ones and leases, against an auditor that knows no memory and no database.

Two hundred race on it at once, leases end between, and the process is killed in the midst of that.
"""

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.identity.keys import digest_of
from mcp_gateway.core.ids import new_id
from mcp_gateway.core.ledger.budget_book import Holders
from mcp_gateway.core.ledger.budgets import Budget, BudgetsChanged, BudgetStanding, BudgetWindow, MakeBudgets, SetZone
from mcp_gateway.core.ledger.entries import Balance, Ended, Move, WalletState
from mcp_gateway.core.ledger.leases import Leases
from mcp_gateway.core.ledger.ledger import Ledger, SettlementPending
from mcp_gateway.core.ledger.pending import PendingFile
from mcp_gateway.core.ledger.purse import Hold
from mcp_gateway.core.ledger.rules import Amount
from mcp_gateway.core.record import RequestRecord
from mcp_gateway.core.store.sqlite.store import Store
from tests.clocks import MsClock
from tests.core.ledger.auditor import ACCOUNT, FOREVER_MS, HOUR_MS, LENGTHS_MS, PAID, Auditor, Money, Node
from tests.core.ledger.test_ledger import record
from tests.databases import Query, changing, locked, migrated, open_store, run_by
from tests.examples import examples
from tests.logged import lines_logged
from tests.loop_clock import pass_time

T = TypeVar("T")
KEYS = {
    "a": "", "ab": "a", "abc": "ab", "abcd": "abc", "abx": "ab", "ay": "a", "ayz": "ay", "o": "",
}  # fmt: skip
"""Each with the key that made it."""
GROUPS = {"ab": "mid", "abx": "team", "ayz": "team"}
HOLDERS = [ACCOUNT, *KEYS, "mid", "team"]
ZONES_MS = {"UTC": 0, "Etc/GMT-5": 5 * HOUR_MS, "Etc/GMT+9": -9 * HOUR_MS}
WINDOWS: list[BudgetWindow] = [*LENGTHS_MS, "total"]
AMOUNT = st.integers(1, 100)
COST = st.integers(0, 150)
KEY = st.sampled_from([*KEYS])
RACERS = 200
PATIENT_S = 60.0
PICK = st.integers(0, 10_000)
"""Which of what there is: a race has no outcome that is certain, so that what is drawn may not depend on it."""


def line(key: str) -> list[str]:
    """A key, the one that made it, and so on."""
    return [key, *line(KEYS[key])] if key else []


def spenders(key: str) -> frozenset[str]:
    """Whose budgets bound a key: its line and the groups of that."""
    return frozenset(line(key)) | {GROUPS[one] for one in line(key) if one in GROUPS}


class AuditedLedger(Ledger):
    """Each decision is compared with the auditor's as it is made, and each commit is told to it."""

    def __init__(self, store: Store, auditor: Auditor) -> None:
        super().__init__(store)
        self.auditor = auditor
        self.asked: dict[str, Budget] = {}
        """Budgets that are to be made."""
        self.asked_back: list[str] = []

    async def hold(
        self,
        request_id: str,
        account_id: str,
        minimum_nano: int,
        maximum_nano: int,
        holders: Holders = frozenset(),
        *,
        waited_s: float = 0.0,
    ) -> Hold:
        try:
            hold = await super().hold(request_id, account_id, minimum_nano, maximum_nano, holders, waited_s=waited_s)
        except GatewayError as refused:
            self._agree(refused, minimum_nano, holders)
            raise
        assert self.auditor.place(request_id, minimum_nano, maximum_nano, holders)
        self._compare(hold)
        return hold

    async def set_aside(self, budget: Budget, ends_at_ms: int, above: Holders) -> Hold:
        try:
            hold = await super().set_aside(budget, ends_at_ms, above)
        except GatewayError as refused:
            self._agree(refused, budget.amount_nano, above, ends_at_ms)
            raise
        assert not self._ends_before(ends_at_ms, above)
        assert self.auditor.place(budget.id, budget.amount_nano, budget.amount_nano, above, ends_at_ms)
        self._compare(hold)
        return hold

    def _agree(self, refused: GatewayError, least: int, holders: Holders, until_ms: int | None = None) -> None:
        if refused.code == "invalid_value":
            assert until_ms is not None
            assert until_ms <= self.auditor.now_ms or self._ends_before(until_ms, holders)
            return
        assert not self.auditor.place("nobody", least, least, holders, until_ms)
        told = refused.code, refused.details.get("budget", {}).get("id")
        assert told == self.auditor.refusal(least, holders, until_ms)

    def _ends_before(self, ends_ms: int, above: Holders) -> bool:
        return any(node.ends_ms is not None and node.ends_ms < ends_ms for node in self.auditor.bounding(above))

    def _compare(self, hold: Hold) -> None:
        taken = self.auditor.held[hold.request_id]
        assert money(hold.parts) == {source: part for source, part in taken.parts.items() if part}
        assert (frozenset(hold.windows), hold.pocket) == (taken.windows, taken.pocket)

    async def resize(self, hold: Hold, needed_nano: int, most_nano: int) -> bool:
        is_held = await super().resize(hold, needed_nano, most_nano)
        assert is_held is self.auditor.resize(hold.request_id, needed_nano, most_nano)
        self._compare(hold)
        return is_held

    async def settle(
        self, hold: Hold, cost_nano: int, record: RequestRecord | None, *, may_exceed: bool = False
    ) -> int:
        charged = self.auditor.charge(hold.request_id, cost_nano, may_exceed=may_exceed)
        assert await super().settle(hold, cost_nano, record, may_exceed=may_exceed) == charged
        return charged

    def release(self, request_id: str) -> None:
        super().release(request_id)
        self.auditor.release(request_id)

    def _wallet_changed(self, state: WalletState) -> None:
        super()._wallet_changed(state)
        for request_id in self.asked_back:
            self.auditor.give_back(request_id)
        self.asked_back.clear()

    def _ended(self, ended: Ended) -> None:
        super()._ended(ended)
        for request_id in ended.request_ids:
            self.auditor.commit(request_id)

    def _budgets_changed(self, told: BudgetsChanged) -> None:
        super()._budgets_changed(told)
        for budget in told.made:
            asked = self.asked.pop(budget.id)
            self.auditor.make(Node(asked.id, _holder(asked), asked.amount_nano, asked.window, asked.lease_ends_at_ms))
        for budget_id in told.ended:
            assert self.auditor.end(budget_id) == {lease_id for lease_id, _ in told.over}
        for lease_id in told.returned:
            self.auditor.take_in(lease_id)


def _holder(budget: Budget) -> str:
    return ACCOUNT if budget.holder == budget.account_id else budget.holder


def _picked(found: Sequence[T], pick: int) -> T:
    return found[pick % len(found)]


def money(parts: Amount) -> Money:
    return {source: part for source, part in (*parts.grants, (PAID, parts.paid_nano)) if part}


class TreeLife(RuleBasedStateMachine):
    """`other` is the database as another process sees it."""

    withdraws = True
    """Whether what waits for another process can be taken back before it is written, or only given back after that."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.clock = MsClock()
        self.auditor = Auditor()
        self.account = ""
        self.holds: list[Hold] = []
        self.names = 0
        self._logging = lines_logged(logging.CRITICAL)
        self.critical = self._logging.__enter__()
        self.open()

    @property
    def path(self) -> Path:
        return Path(self.folder.name) / "gateway.sqlite3"

    def run(self, asked: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await asked

        return self.runner.run(wait())

    def name(self, kind: str) -> str:
        self.names += 1
        return f"{kind}_{self.names:06}"

    def open(self) -> None:
        self.store, self.other = (self.run(self._opened()) for _ in range(2))
        self.ledger = AuditedLedger(self.store, self.auditor)
        self.leases = Leases(self.store, self.ledger)

    async def _opened(self) -> Store:
        return await open_store(migrated(self.path), now_ms=self.clock, busy_timeout_s=PATIENT_S)

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Another process writes."""
        return run_by(self.run, locked(self.path))

    def hurry(self) -> None:
        """Wait for no lock any more."""
        self.store._writer._busy_timeout_s = 0.0

    def close(self) -> None:
        self.run(self.other.close())
        self.run(self.store.close())

    @initialize(is_grown=st.booleans())
    def make_tree(self, is_grown: bool) -> None:
        """With budgets, or with none."""
        self.account = self.run(Accounts(self.store, new_id=new_id, now_ms=self.clock).create("Ann")).id
        sql = "INSERT INTO keys VALUES (?, ?, ?, 'gw_live_', '', FALSE, 0, NULL, NULL, NULL, NULL, NULL)"
        for key in KEYS:
            self.run(self.store.write(changing(sql, (key, self.account, digest_of(key)))))
        for group in dict.fromkeys(GROUPS.values()):
            insert = "INSERT INTO key_groups VALUES (?, ?, ?)"
            self.run(self.store.write(changing(insert, (group, self.account, group))))
        self.pass_hours(0)
        if is_grown:
            self.grow()

    def grow(self) -> None:
        self.credit(700)
        self.grant(100, 30)
        self.grant(200, 200)
        for holder, amount, window in ((ACCOUNT, 900, "week"), ("a", 700, "day"), ("team", 300, "total")):
            self.share(holder, amount, window)
        for holder, amount, hours in (("ab", 300, 90), ("abc", 100, 80), ("abcd", 40, 50), ("ayz", 60, 70)):
            self.lease(holder, amount, hours)
        self.lease("abx", 10, 91)  # it would outlive the one that it is of

    def teardown(self) -> None:
        """Whatever was, once nothing runs and all leases are over, all that was not charged is the wallet's."""
        self.everything_returns_at_last()
        self.close()
        self._logging.__exit__(None, None, None)
        self.runner.close()
        self.folder.cleanup()

    def everything_returns_at_last(self) -> None:
        for request_id in [*self.auditor.held]:
            self.ledger.release(request_id)
        self.pass_hours(1000)
        self.give_back_leases()
        assert not any(node.is_out or node.left for node in self.auditor.nodes.values())
        self.what_is_known_in_memory_is_what_the_auditor_says()
        self.what_is_stored_is_what_the_auditor_says()
        balance = self.run(self.ledger.balance(self.account))
        assert (balance.held_nano, balance.leased_nano) == (0, 0)

    # Money from outside, and time

    @rule(amount=st.integers(50, 400))
    def credit(self, amount: int) -> None:
        self.run(self.ledger.credit(self.account, amount, self.name("credit")))
        self.auditor.wallet[PAID] += amount
        self.auditor.from_outside += amount

    @rule(amount=AMOUNT, hours=st.none() | st.integers(1, 40))
    def grant(self, amount: int, hours: int | None) -> None:
        expires_ms = None if hours is None else self.clock() + hours * HOUR_MS
        self.run(self.ledger.grant(self.account, amount, self.name("grant"), expires_at_ms=expires_ms))
        grant = len(self.auditor.expiries) + 1
        self.auditor.expiries[grant] = expires_ms or FOREVER_MS
        self.auditor.wallet[grant] += amount
        self.auditor.from_outside += amount

    @rule(amount=AMOUNT, dice=st.integers(0, 9))
    def refund(self, amount: int, dice: int) -> None:
        """Money taken back from outside, whatever is held or set aside; in few lives, for much is not certain then."""
        if dice == 0 or self.auditor.is_refunded:
            self.run(self.store.write(Move(self.account, "refund", -amount, self.name("refund"))))
            self.auditor.wallet[PAID] -= amount
            self.auditor.from_outside -= amount
            self.auditor.is_refunded = True

    @rule(hours=st.integers(1, 30))
    def pass_hours(self, hours: int) -> None:
        self._pass_to(self.clock() + hours * HOUR_MS)

    def _pass_to(self, now_ms: int) -> None:
        self.clock.now_ms = self.auditor.now_ms = now_ms

    @rule(window=st.sampled_from([*LENGTHS_MS]))
    def pass_a_window(self, window: BudgetWindow) -> None:
        """To the very moment at which the next starts."""
        self._pass_to(self.auditor.start(Node("", "", 0, window)) + LENGTHS_MS[window])

    @rule(pick=PICK)
    def pass_to_the_end_of_a_lease(self, pick: int) -> None:
        ends = [node.ends_ms for node in self.auditor.nodes.values() if node.is_out and node.ends_ms]
        if ahead := [ends_ms for ends_ms in ends if ends_ms > self.clock()]:
            self._pass_to(_picked(ahead, pick))

    @rule()
    def expire(self) -> None:
        """Of what is held or set aside nothing."""
        free = self.auditor.free(None)
        over = [one for one, expires_ms in self.auditor.expiries.items() if expires_ms <= self.clock()]
        assert self.run(self.ledger.expire_grants()) == sum(free[grant] for grant in over)
        for grant in over:
            self.auditor.wallet[grant] -= free[grant]
            self.auditor.from_outside -= free[grant]

    @rule(zone=st.sampled_from([*ZONES_MS]), is_taken_back=st.booleans())
    def change_zone(self, zone: str, is_taken_back: bool) -> None:
        before = next(name for name, zone_ms in ZONES_MS.items() if zone_ms == self.auditor.zone_ms)
        for name in (zone, before) if is_taken_back else (zone,):
            self.run(self.store.write(SetZone(self.account, name)))
            self.auditor.zone_ms = ZONES_MS[name]
            self.what_is_known_in_memory_is_what_the_auditor_says()

    # Budgets

    @rule(holder=st.sampled_from(HOLDERS), amount=st.integers(1, 200), window=st.sampled_from(WINDOWS))
    def share(self, holder: str, amount: int, window: BudgetWindow) -> None:
        self.run(self._make(self._budget(holder, amount, window)))

    @rule(holder=st.sampled_from(HOLDERS[1:]), amount=AMOUNT, hours=st.integers(0, 120))
    def lease(self, holder: str, amount: int, hours: int) -> None:
        """In place of one that it has, once the time of that is over."""
        had_one = any(
            node.is_open and node.ends_ms is not None and not node.is_over(self.clock()) and node.holder == holder
            for node in self.auditor.nodes.values()
        )
        code = self.run(self._lease(holder, amount, hours))
        assert code is not None if had_one else code != "conflict"

    def _budget(self, holder: str, amount: int, window: BudgetWindow, ends_ms: int | None = None) -> Budget:
        named = self.account if holder == ACCOUNT else holder
        budget = Budget(self.name("bud"), self.account, named, amount, window, None, ends_ms)
        self.ledger.asked[budget.id] = budget
        return budget

    async def _make(self, budget: Budget) -> None:
        above = spenders(budget.holder) - {budget.holder} if budget.holder in KEYS else ()
        await self.leases.make(MakeBudgets((budget,), above=tuple(above)), self.store.write)

    async def _lease(self, holder: str, amount: int, hours: int) -> str | None:
        """The code that it is refused with."""
        budget = self._budget(holder, amount, "total", self.clock() + hours * HOUR_MS)
        try:
            await self._make(budget)
        except GatewayError as refused:
            return refused.code
        finally:
            assert budget.id not in self.auditor.held, "a lease that was made or refused is held"
        return None

    @rule(pick=PICK)
    def end(self, pick: int) -> None:
        """What runs keeps what it holds; sometimes twice."""
        if self.auditor.nodes:
            self.run(self._end(_picked([*self.auditor.nodes], pick)))
            assert not self.auditor.returnable()

    async def _end(self, budget_id: str) -> None:
        was_open = self.auditor.nodes[budget_id].is_open
        assert await self.leases.end(self.account, budget_id) is was_open
        assert not self.auditor.nodes[budget_id].is_open

    @rule()
    def give_back_leases(self) -> None:
        over = {one: self.auditor.nodes[one] for one in self.auditor.returnable()}
        left = sum(node.amount for node in over.values())
        returned = self.run(self.leases.give_back())
        assert all(node.is_returned for node in over.values())
        assert returned == left - sum(self.auditor.spent((one, 0)) for one in over)
        assert not self.auditor.returnable()

    @rule(key=KEY, cost=COST, is_early=st.booleans())
    def outlast_a_lease(self, key: str, cost: int, is_early: bool) -> None:
        """It returns once what was begun in its time has ended, whose charge is given back before that or after it."""
        hold = self.run(self._hold(key, 1, 50))
        if hold is None or hold.pocket is None:
            return
        self._pass_to(max(self.clock(), *(self.auditor.nodes[one].ends_ms or 0 for one, _ in hold.windows)))
        self.give_back_leases()
        self.run(self._settle(hold, cost, may_exceed=True))
        if is_early:
            self._give_back(hold)
        self.give_back_leases()
        self._give_back(hold)

    # Requests, one after the other and at once

    @rule(key=KEY, a=AMOUNT, b=AMOUNT)
    def hold(self, key: str, a: int, b: int) -> None:
        """One that is refused has been given whatever is over."""
        if self.run(self._hold(key, min(a, b), max(a, b))) is None:
            assert not self.auditor.returnable()

    async def _hold(self, key: str, least: int, most: int) -> Hold | None:
        try:
            hold = await self.ledger.hold(self.name("req"), self.account, least, most, spenders(key))
        except GatewayError:
            return None
        self.holds.append(hold)
        return hold

    def _an_open_hold(self, pick: int) -> Hold | None:
        running = [hold for hold in self.holds if hold.state == "open"]
        return _picked(running, pick) if running else None

    @rule(pick=PICK, cost=COST, may_exceed=st.booleans())
    def settle(self, pick: int, cost: int, may_exceed: bool) -> None:
        if hold := self._an_open_hold(pick):
            self.run(self._settle(hold, cost, may_exceed=may_exceed))

    async def _settle(self, hold: Hold, cost: int, *, may_exceed: bool) -> None:
        written = record(hold.request_id, self.account, cost_nano=cost)
        await self.ledger.settle(hold, cost, written, may_exceed=may_exceed)

    @rule(pick=PICK, a=COST, b=COST)
    def resize(self, pick: int, a: int, b: int) -> None:
        if hold := self._an_open_hold(pick):
            self.run(self.ledger.resize(hold, min(a, b), max(a, b)))

    @rule(pick=PICK)
    def release(self, pick: int) -> None:
        if hold := self._an_open_hold(pick):
            self.ledger.release(hold.request_id)

    @rule(pick=PICK)
    def give_back(self, pick: int) -> None:
        """As after a refusal of what was settled, whatever its leases did since; sometimes twice, or of what runs."""
        charged_ones = [hold for hold in self.holds if hold.request_id in self.auditor.kept and pick % 5]
        if self.holds:
            self._give_back(_picked(charged_ones or self.holds, pick))

    def _give_back(self, hold: Hold) -> None:
        kept = self.auditor.kept.get(hold.request_id)
        charged = 0 if kept is None else kept.amount
        self.ledger.asked_back.append(hold.request_id)
        back = self.ledger.give_back(hold, record(hold.request_id, self.account))
        assert self.run(back) == charged
        self.ledger.asked_back.clear()

    @rule(seed=st.integers(0, 2**32), is_killed=st.booleans())
    def race(self, seed: int, is_killed: bool) -> None:
        """Two hundred requests and a dozen leases at once; killed when some of them are through."""
        self.run_race(Random(seed), is_killed=is_killed)

    def run_race(self, dice: Random, *, is_killed: bool) -> None:
        steps = [self._racer(dice) for _ in range(RACERS)]
        steps += [self._leaser(dice) for _ in range(8)] + [self._ender(dice) for _ in range(4)]
        left: list[tuple[Auditor, tempfile.TemporaryDirectory[str]]] = []
        if is_killed:
            steps.append(lambda: self._keep_copy(dice.randint(1, 6), left))
        dice.shuffle(steps)

        async def ask() -> None:
            await asyncio.gather(*(step() for step in steps))

        self.run(ask())
        self.what_is_known_in_memory_is_what_the_auditor_says()
        for auditor, folder in left:
            self._begin_again(auditor, folder)

    def _racer(self, dice: Random) -> Callable[[], Awaitable[None]]:
        key, (least, most) = dice.choice([*KEYS]), sorted((dice.randint(1, 30), dice.randint(1, 30)))
        end, costs = dice.choice(["settle", "settle", "raise", "release", "stay"]), dice.choices(range(60), k=2)

        async def run() -> None:
            hold = await self._hold(key, least, most)
            if hold is None or end == "stay":
                return
            if end == "raise":
                await self.ledger.resize(hold, min(costs), max(costs))
            await asyncio.sleep(0)  # a turn of the loop
            if end == "release":
                self.ledger.release(hold.request_id)
            else:
                await self._settle(hold, costs[0], may_exceed=costs[1] % 2 == 0)

        return run

    def _leaser(self, dice: Random) -> Callable[[], Awaitable[None]]:
        wanted = dice.choice(HOLDERS[1:]), dice.randint(1, 60), dice.randint(1, 30)

        async def run() -> None:
            await self._lease(*wanted)

        return run

    def _ender(self, dice: Random) -> Callable[[], Awaitable[None]]:
        """Ends one that stands when its turn comes."""
        at = dice.random()

        async def run() -> None:
            standing = [node.id for node in self.auditor.nodes.values() if node.is_open]
            if standing:
                await self.leases.end(self.account, standing[int(at * len(standing))])

        return run

    async def _keep_copy(self, turns: int, left: list[Any]) -> None:
        for _ in range(turns):
            await self.store.flushed()
        left.append((deepcopy(self.auditor), self._copied()))

    # Outages and ends of the process

    def _copied(self) -> "tempfile.TemporaryDirectory[str]":
        """The folder as it is now."""
        copy = tempfile.TemporaryDirectory()
        shutil.copytree(self.folder.name, copy.name, dirs_exist_ok=True)
        return copy

    def _begin_again(self, auditor: Auditor, folder: "tempfile.TemporaryDirectory[str] | None" = None) -> None:
        """With what a process left on the disk."""
        self.close()
        if folder is not None:
            self.folder.cleanup()
            self.folder = folder
        self.auditor = auditor
        self.auditor.forget()
        self.holds = [hold for hold in self.holds if hold.request_id in self.auditor.kept]
        self.open()

    @rule(is_killed=st.booleans())
    def restart(self, is_killed: bool) -> None:
        self._begin_again(self.auditor, self._copied() if is_killed else None)

    @rule(pick=PICK, cost=COST, end=st.sampled_from(["written", "taken back", "killed"]))
    def settle_while_another_process_writes(self, pick: int, cost: int, end: str) -> None:
        """What is charged stays held, and keeps its leases out."""
        if not (hold := self._an_open_hold(pick)):
            return
        copy = None
        with self.locked():
            pending = self.run(self._pending(hold, cost))
            self.what_is_known_in_memory_is_what_the_auditor_says()
            if end == "taken back" and self.withdraws:
                self.ledger.take_back(pending, record(hold.request_id, self.account))
                del self.auditor.held[hold.request_id]
            elif end == "killed":
                copy, auditor = self._copied(), deepcopy(self.auditor)
        self.run(self.store.flushed())
        if copy is not None:
            self._begin_again(auditor, copy)

    async def _pending(self, hold: Hold, cost: int) -> SettlementPending:
        settling = asyncio.ensure_future(self.ledger.settle(hold, cost, None))
        await asyncio.sleep(0)
        pass_time(PATIENT_S)
        with pytest.raises(SettlementPending) as caught:
            await settling
        return caught.value

    @rule(pick=PICK, cost=COST, times=st.integers(1, 2))
    def end_in_an_outage(self, pick: int, cost: int, times: int) -> None:
        """A settlement waits in a file for the next process, which carries it out before leases return."""
        if not (hold := self._an_open_hold(pick)):
            return
        file = PendingFile(self.path.parent, self.run(self.store.identity()))
        with self.locked():
            self.hurry()
            file.write(self.run(self._closed_before_it_is_written(hold, cost)))
        self.run(self.other.close())
        self.auditor.held = {hold.request_id: self.auditor.held[hold.request_id]}
        self.holds = [one for one in self.holds if one is hold or one.request_id in self.auditor.kept]
        self.open()
        for _ in range(times):
            self.run(self.ledger.catch_up(file.read()))
        file.remove()
        assert not self.auditor.held

    async def _closed_before_it_is_written(self, hold: Hold, cost: int) -> Sequence[Any]:
        settling = asyncio.ensure_future(self.ledger.settle(hold, cost, None))
        await asyncio.sleep(0)
        unwritten: Sequence[Any] = await self.store.close()
        await asyncio.wait([settling])
        return unwritten

    # What holds at all times

    @invariant()
    def the_auditor_agrees_with_itself(self) -> None:
        self.auditor.check()
        assert self.critical == []

    @invariant()
    def what_is_known_in_memory_is_what_the_auditor_says(self) -> None:
        purse = self.ledger._purses.known(self.account)
        if purse is None or not purse.is_read:
            return
        self._compare(purse.balance(self.clock()), [*purse.budgets.standings(self.clock())])
        for key in KEYS:
            assert purse.spendable_nano(self.clock(), spenders(key)) == self.auditor.spendable(spenders(key))
        assert self.ledger.held_now().requests == len(self.auditor.held)

    def _compare(self, balance: Balance, standings: Sequence[BudgetStanding]) -> None:
        auditor = self.auditor
        assert balance == self._balance()
        standing = {node.id: node for node in auditor.nodes.values() if node.is_open}
        assert [one.budget.id for one in standings] == [*standing]
        for one in standings:
            window = one.budget.id, auditor.start(standing[one.budget.id])
            assert one.span.starts_at_ms == window[1]
            assert (one.spent_nano, one.held_nano) == (auditor.spent(window), auditor.held_of(window))

    def _balance(self) -> Balance:
        auditor = self.auditor
        living = auditor.living(auditor.free(None))
        paid = living.pop(PAID)
        of_pockets = sum(taken.amount for taken in auditor.held.values() if taken.pocket is not None)
        leased = sum(sum(node.left.values()) for node in auditor.nodes.values()) - of_pockets
        return Balance(paid, sum(living.values()), sum(taken.amount for taken in auditor.held.values()), leased)

    @invariant()
    def what_is_stored_is_what_the_auditor_says(self) -> None:
        auditor, nodes = self.auditor, self.auditor.nodes
        wallets = self._rows("SELECT paid_nano FROM wallets")
        assert (wallets or [(0,)]) == [(auditor.wallet[PAID],)]
        grants = self._rows("SELECT id, remaining_nano FROM grants ORDER BY id")
        assert grants == [(grant, auditor.wallet[grant]) for grant in auditor.expiries]
        spent = {(one, start): nano for one, start, nano in self._rows("SELECT * FROM budget_windows")}
        windows = {*spent} | {(node.id, auditor.start(node)) for node in nodes.values()}
        assert {one: spent.get(one, 0) for one in windows} == {one: auditor.spent(one) for one in windows}
        is_returned = dict(self._rows("SELECT budget_id, returned_nano IS NOT NULL FROM leases"))
        assert is_returned == {node.id: node.is_returned for node in nodes.values() if node.ends_ms is not None}
        pockets = {(one, grant): nano for one, grant, nano in self._rows("SELECT * FROM pockets WHERE left_nano > 0")}
        assert pockets == {
            (node.id, source): part for node in nodes.values() for source, part in node.left.items() if part
        }

    def _rows(self, sql: str) -> list[Any]:
        rows: list[Any] = self.run(self.other.read(Query(sql)))
        return rows

    @invariant()
    def the_books_agree(self) -> None:
        found = self.run(self.ledger.check())
        assert found == [] or self.auditor.is_refunded

    @invariant()
    def a_new_process_knows_the_same(self) -> None:
        """Once nothing is held, all that there is to know is in the database."""
        if not self.auditor.held and self.account:
            again = Ledger(self.other)
            self._compare(self.run(again.balance(self.account)), self.run(again.budgets(self.account)))


TestTreeLife = pytest.mark.usefixtures("of_sqlite")(TreeLife.TestCase)
TestTreeLife.settings = settings(examples(25), stateful_step_count=30)
