"""Random lives of two wallets and their budgets against an auditor that knows nothing of databases or memory."""

import asyncio
import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.identity.keys import digest_of
from mcp_gateway.core.ids import new_id
from mcp_gateway.core.ledger.budgets import Budget, BudgetWindow, EndBudget, MakeBudgets, ReadBudgets
from mcp_gateway.core.ledger.entries import Balance, Move, WalletState
from mcp_gateway.core.ledger.ledger import Ledger, SettlementPending
from mcp_gateway.core.ledger.pending import PendingFile
from mcp_gateway.core.ledger.purse import Hold, NotHeld
from mcp_gateway.core.ledger.rules import Amount
from mcp_gateway.core.store.sqlite.store import Store
from tests.clocks import MsClock
from tests.core.ledger.test_ledger import UNWRITABLE, record
from tests.databases import Query, changing, locked, migrated, open_store, run_by
from tests.examples import examples
from tests.loop_clock import pass_time

AMOUNT = st.integers(1, 100)
WANTED = st.tuples(st.integers(0, 1), AMOUNT, AMOUNT, st.integers(0, 2))
"""Whose hold, of how much, and for how many of its keys: one, and which that made."""
LENGTHS_MS: dict[BudgetWindow, int | None] = {"5h": 5 * 3_600_000, "day": 86_400_000, "total": None}
COST = st.integers(0, 250)
FOREVER = 10**15
PATIENT_S = 60.0


@dataclass(eq=False)
class Grant:
    expires_at_ms: int
    left: int


@dataclass(eq=False)
class Cap:
    """A budget: what it may be spent of in each window, by when that starts, and what was."""

    holder: str
    amount: int
    length_ms: int | None
    """None for good."""
    is_open: bool = True
    spent: Counter[int] = field(default_factory=Counter)

    def start(self, now_ms: int) -> int:
        return 0 if self.length_ms is None else now_ms - now_ms % self.length_ms


Taken = list[tuple[Grant | None, int]]
"""An amount by where it comes from, in order; None is paid money."""


@dataclass
class Wallet:
    """What must be true of one account, as far as the gateway can know: `unseen` is what another process has added."""

    paid: int = 0
    is_refunded: bool = False
    grants: list[Grant] = field(default_factory=list)
    unseen: list["Change"] = field(default_factory=list)
    asked: list["Change"] = field(default_factory=list)
    """What is asked of the database and not committed yet, in order."""
    open: dict[str, Taken] = field(default_factory=dict)
    charging: dict[str, Taken] = field(default_factory=dict)
    """What is charged and not committed yet, and so still held."""
    charged: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Paid and granted money that each settled request was charged."""
    caps: dict[str, Cap] = field(default_factory=dict)
    """By their ids, the first made first."""
    windows: dict[str, list[tuple[Cap, int]]] = field(default_factory=dict)
    """What else each request is spent of."""

    def balance(self, now_ms: int) -> Balance:
        held = sum(part for taken in self._held() for _, part in taken)
        return Balance(self.paid, sum(grant.left for grant in self._living(now_ms)), held)

    def stored(self) -> tuple[int, dict[Grant, int]]:
        """What the database has: paid money, and what is left of each grant; what is held is still there."""
        if self.unseen:
            seen = deepcopy(self)
            seen.see()
            return seen.stored()
        paid, owned = self.paid, {grant: grant.left for grant in self.grants}
        for grant, part in (one for taken in self._held() for one in taken):
            if grant is None:
                paid += part
            else:
                owned[grant] += part
        return paid, owned

    def credit(self, amount: int) -> None:
        self.paid += amount

    def refund(self, amount: int) -> None:
        self.paid -= amount
        self.is_refunded = True

    def grant(self, expires_at_ms: int, amount: int) -> None:
        self.grants.append(Grant(expires_at_ms, amount))

    def expire(self, now_ms: int) -> None:
        for grant in self.grants:
            if grant.expires_at_ms <= now_ms:
                grant.left = 0

    def see(self) -> None:
        """The gateway reads the wallet, or writes it, for which it is read."""
        for change in self.unseen:
            change(self)
        self.unseen.clear()

    def committed(self) -> None:
        """All that was asked of the database, in one transaction."""
        self.see()
        for change in self.asked:
            change(self)
        self.asked.clear()
        for request_id, taken in self.charging.items():
            self.spend(request_id, sum(part for _, part in taken))
        self.charging.clear()

    def spend(self, request_id: str, amount: int) -> None:
        for cap, start in self.windows[request_id]:
            cap.spent[start] += amount

    def bounding(self, holders: frozenset[str], now_ms: int) -> list[tuple[Cap, int]]:
        return [(cap, cap.start(now_ms)) for cap in self.caps.values() if cap.is_open and cap.holder in holders]

    def held_of(self, window: tuple[Cap, int], *, is_open: bool = False) -> int:
        """By all, or by those that still run."""
        holds = self.open.items() if is_open else [*self.open.items(), *self.charging.items()]
        return sum(part for request_id, taken in holds if window in self.windows[request_id] for _, part in taken)

    def room(self, windows: list[tuple[Cap, int]]) -> int:
        """What each of them has left; an ended one nothing."""
        return min((self._left(window) if window[0].is_open else 0 for window in windows), default=FOREVER)

    def _left(self, window: tuple[Cap, int]) -> int:
        cap, start = window
        return cap.amount - cap.spent[start] - self.held_of(window)

    def refusal(self, minimum: int, holders: frozenset[str], now_ms: int) -> tuple[str, Cap | None]:
        """The code, and which budget it is of: of the wallet before budgets, and of what is final first."""
        open_nano = sum(part for taken in self.open.values() for _, part in taken)
        spendable = self.balance(now_ms).spendable_nano
        if spendable + open_nano < minimum:
            return "insufficient_balance", None
        windows = self.bounding(holders, now_ms)
        for window in windows:
            if self._left(window) + self.held_of(window, is_open=True) < minimum:
                return "budget_exhausted", window[0]
        short = next((window[0] for window in windows if self._left(window) < minimum), None)
        return "balance_held", None if spendable < minimum else short

    def covers(self, minimum: int, holders: frozenset[str], now_ms: int) -> bool:
        room = self.room(self.bounding(holders, now_ms))
        return min(room, self.balance(now_ms).spendable_nano) >= minimum

    def hold(self, request_id: str, minimum: int, maximum: int, holders: frozenset[str], now_ms: int) -> Taken | None:
        if not self.covers(minimum, holders, now_ms):
            return None
        windows = self.bounding(holders, now_ms)
        amount = min(self.balance(now_ms).spendable_nano, self.room(windows), maximum)
        self.open[request_id] = taken = self._take_out(amount, now_ms)
        self.windows[request_id] = windows
        return taken

    def resize(self, request_id: str, needed: int, most: int, now_ms: int) -> Taken | None:
        """What is held stays of where it was, and what is more is taken as a hold is."""
        taken = self.open[request_id]
        held = sum(part for _, part in taken)
        most = min(most, held + max(0, self.room(self.windows[request_id])))
        more = min(self.balance(now_ms).spendable_nano, most - held)
        if most < needed or more < max(0, needed - held) <= most - held:
            return None
        self.open[request_id] = new = self._merged(taken, more, now_ms) if most > held else self._cut(taken, most)
        return new

    def _merged(self, taken: Taken, more: int, now_ms: int) -> Taken:
        amounts = dict(taken)
        for grant, part in self._take_out(more, now_ms):
            amounts[grant] = amounts.get(grant, 0) + part
        paid = amounts.pop(None, 0)
        return [*amounts.items(), (None, paid)]

    def _cut(self, taken: Taken, most: int) -> Taken:
        kept: Taken = []
        for grant, part in taken:
            used = min(part, most)
            most -= used
            self._return([(grant, part - used)])
            kept.append((grant, used))
        return kept

    def _take_out(self, amount: int, now_ms: int) -> Taken:
        taken = self._take(self._living(now_ms), amount)
        self.paid -= sum(part for grant, part in taken if grant is None)
        return taken

    def release(self, request_id: str) -> None:
        self._return(self.open.pop(request_id, []))

    def charge(self, request_id: str, cost: int, now_ms: int, *, may_exceed: bool) -> int:
        """Granted credit first of what was held, whose rest is free at once; beyond it of what is free then."""
        room = max(0, self.room(self.windows[request_id]))
        unpaid, charged = min(cost, sum(part for _, part in self.open[request_id]) + room), []
        for grant, part in self.open.pop(request_id):
            used = min(part, unpaid)
            unpaid -= used
            self._return([(grant, part - used)])
            charged.append((grant, used))
        if unpaid and may_exceed:
            more = self._take(self._living(now_ms), unpaid)
            paid = min(sum(part for grant, part in more if grant is None), max(self.paid, 0))
            self.paid -= paid
            charged += [(grant, part) for grant, part in more if grant is not None] + [(None, paid)]
        self.charging[request_id] = charged
        granted = sum(part for grant, part in charged if grant is not None)
        total = sum(part for _, part in charged)
        self.charged[request_id] = total - granted, granted
        return total

    def forget(self, request_id: str) -> None:
        """A charge that never reaches the database."""
        self._return(self.charging.pop(request_id))
        del self.charged[request_id]

    def forget_all(self) -> None:
        """What is known in memory alone, with the process."""
        for request_id in [*self.open]:
            self.release(request_id)
        for request_id in [*self.charging]:
            self.forget(request_id)

    def give_back(self, request_id: str, paid: int, granted: int, now_ms: int) -> None:
        self.spend(request_id, -paid - granted)
        self.paid += paid
        if granted:
            first = min(self.grants, key=lambda grant: (grant.expires_at_ms <= now_ms, grant.expires_at_ms))
            first.left += granted

    def _held(self) -> list[Taken]:
        return [*self.open.values(), *self.charging.values()]

    def _living(self, now_ms: int) -> list[Grant]:
        living = [grant for grant in self.grants if grant.expires_at_ms > now_ms and grant.left]
        return sorted(living, key=lambda grant: grant.expires_at_ms)

    def _take(self, grants: list[Grant], amount: int) -> Taken:
        """From these grants, and the rest of paid money, which stays where it is."""
        taken: Taken = []
        for grant in grants:
            part = min(grant.left, amount)
            grant.left -= part
            amount -= part
            taken.append((grant, part))
        return [*taken, (None, amount)]

    def _return(self, taken: Taken) -> None:
        for grant, part in taken:
            if grant is None:
                self.paid += part
            else:
                grant.left += part


Change = Callable[[Wallet], None]


class LedgerLife(RuleBasedStateMachine):
    """`store` is the gateway's, and `other` that of a process beside it, which only adds."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.clock = MsClock()
        self.wallets: dict[str, Wallet] = {}
        self.holds: list[Hold] = []
        self.open()

    @property
    def path(self) -> Path:
        return Path(self.folder.name) / "gateway.sqlite3"

    @property
    def now_ms(self) -> int:
        return self.clock.now_ms

    def run(self, asked: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await asked

        return self.runner.run(wait())

    def open(self) -> None:
        self.store, self.other = (self.run(self._opened()) for _ in range(2))
        self.ledger = Ledger(self.store)
        self.store.listen(WalletState, self.committed)

    async def _opened(self) -> Store:
        return await open_store(migrated(self.path), now_ms=self.clock, busy_timeout_s=PATIENT_S)

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Another process writes."""
        return run_by(self.run, locked(self.path))

    def hurry(self) -> None:
        """Wait for no lock any more."""
        self.store._writer._busy_timeout_s = 0.0

    def close(self) -> list[Any]:
        self.run(self.other.close())
        unwritten: list[Any] = self.run(self.store.close())
        return unwritten

    def committed(self, state: WalletState) -> None:
        self.ledger._wallet_changed(state)
        self.wallets[state.account_id].committed()

    def teardown(self) -> None:
        self.close()
        self.runner.close()
        self.folder.cleanup()

    def account(self, index: int) -> str:
        return list(self.wallets)[index]

    def wallet_of(self, hold: Hold) -> Wallet:
        return self.wallets[hold.account_id]

    def is_open(self, hold: Hold) -> bool:
        return hold.state == "open" and hold.request_id in self.wallet_of(hold).open

    @initialize()
    def make_accounts(self) -> None:
        accounts = Accounts(self.store, new_id=new_id, now_ms=self.clock)
        self.wallets = {self.run(accounts.create(name)).id: Wallet() for name in ("Ann", "Bob")}
        sql = "INSERT INTO keys VALUES (?, ?, ?, 'gw_live_', '', FALSE, 0, NULL, NULL, NULL, NULL, NULL)"
        for account, name in product(self.wallets, ("maker", "made")):
            key_id = f"key_{name}_{account}"
            self.run(self.other.write(changing(sql, (key_id, account, digest_of(key_id)))))

    def spenders(self, account: str, keys: int) -> frozenset[str]:
        """Nobody, a key, or one that it made with it."""
        return frozenset(f"key_{name}_{account}" for name in ("maker", "made")[:keys])

    def bound_by(self, account: str, keys: int) -> frozenset[str]:
        return self.spenders(account, keys) | {account}

    # Budgets

    @rule(
        index=st.integers(0, 1),
        keys=st.integers(0, 2),
        amount=st.integers(1, 200),
        window=st.sampled_from([*LENGTHS_MS]),
    )
    def make_budget(self, index: int, keys: int, amount: int, window: BudgetWindow) -> None:
        """It bounds what is held from then on, whatever its key has spent before."""
        account = self.account(index)
        holder = (account, f"key_maker_{account}", f"key_made_{account}")[keys]
        budget = Budget(new_id("bud"), account, holder, amount, window)
        self.run(self.store.write(MakeBudgets((budget,))))
        self.wallets[account].caps[budget.id] = Cap(holder, amount, LENGTHS_MS[window])

    @rule(index=st.integers(0, 1), data=st.data())
    def end_budget(self, index: int, data: st.DataObject) -> None:
        """What runs keeps what it holds, and gets no more of it; sometimes twice."""
        account, wallet = self.account(index), self.wallets[self.account(index)]
        if wallet.caps:
            budget_id = data.draw(st.sampled_from([*wallet.caps]))
            is_ended = self.run(self.store.write(EndBudget(account, budget_id, self.now_ms)))
            assert is_ended is wallet.caps[budget_id].is_open
            wallet.caps[budget_id].is_open = False

    @rule(window=st.sampled_from([*LENGTHS_MS]))
    def pass_a_window(self, window: BudgetWindow) -> None:
        """Until the next starts; what runs then was begun in the last."""
        length_ms = LENGTHS_MS[window] or 1
        self.clock.now_ms += length_ms - self.now_ms % length_ms

    # Money from outside

    @rule(index=st.integers(0, 1), amount=AMOUNT, reference=st.integers(0, 9))
    def credit(self, index: int, amount: int, reference: int) -> None:
        account, wallet = self.account(index), self.wallets[self.account(index)]
        wallet.asked.append(lambda wallet: wallet.credit(amount))
        is_new = self.run(self.ledger.credit(account, amount, f"{account}-{reference}"))
        assert bool(wallet.asked) != is_new
        wallet.asked.clear()

    @rule(index=st.integers(0, 1), amount=AMOUNT, lives_ms=st.none() | st.integers(1, 50), is_other=st.booleans())
    def grant(self, index: int, amount: int, lives_ms: int | None, is_other: bool) -> None:
        account, wallet = self.account(index), self.wallets[self.account(index)]
        expires_at_ms = None if lives_ms is None else self.now_ms + lives_ms
        changes = wallet.unseen if is_other else wallet.asked
        changes.append(lambda wallet: wallet.grant(expires_at_ms or FOREVER, amount))
        ledger = Ledger(self.other) if is_other else self.ledger
        assert self.run(ledger.grant(account, amount, new_id("grant"), expires_at_ms=expires_at_ms))

    @rule(index=st.integers(0, 1), amount=AMOUNT)
    def credit_by_another_process(self, index: int, amount: int) -> None:
        """Which the gateway sees as soon as it reads the wallet again, which it does before it refuses anybody."""
        account, wallet = self.account(index), self.wallets[self.account(index)]
        wallet.unseen.append(lambda wallet: wallet.credit(amount))
        assert self.run(Ledger(self.other).credit(account, amount, new_id("credit")))

    @rule(index=st.integers(0, 1), amount=AMOUNT)
    def refund(self, index: int, amount: int) -> None:
        """Money taken back from outside, whatever is left or held; holds are refused from below zero."""
        account, wallet = self.account(index), self.wallets[self.account(index)]
        wallet.asked.append(lambda wallet: wallet.refund(amount))
        self.run(self.store.write(Move(account, "refund", -amount, new_id("refund"))))

    @rule(ms=st.integers(1, 30))
    def wait(self, ms: int) -> None:
        self.clock.now_ms += ms

    @rule()
    def expire(self) -> None:
        """Also while some of it is held, which stays."""
        taken = 0
        for wallet in self.wallets.values():
            _, left = wallet.stored()
            if any(grant.expires_at_ms <= self.now_ms and left[grant] for grant in left):
                wallet.see()
                expired = sum(grant.left for grant in wallet.grants if grant.expires_at_ms <= self.now_ms)
                wallet.asked += [lambda wallet: wallet.expire(self.now_ms)] if expired else []
                taken += expired
        assert self.run(self.ledger.expire_grants()) == taken

    @rule(index=st.integers(0, 1))
    def look(self, index: int) -> None:
        wallet = self.wallets[self.account(index)]
        wallet.see()
        assert self.run(self.ledger.balance(self.account(index))) == wallet.balance(self.now_ms)

    # Requests, one after the other and at once

    @rule(asked=st.lists(WANTED, min_size=1, max_size=5))
    def hold_at_once(self, asked: list[tuple[int, int, int, int]]) -> None:
        self._at_once([lambda want=want: self._hold(*want) for want in asked])  # type: ignore[misc]

    @rule(wanted=WANTED)
    def hold_if_ample(self, wanted: tuple[int, int, int, int]) -> None:
        """Either amount may be the larger."""
        self.run(self._hold_if_ample(*wanted))

    @rule(data=st.data(), cost=COST, may_exceed=st.booleans())
    def settle(self, data: st.DataObject, cost: int, may_exceed: bool) -> None:
        """Sometimes one that has ended already, or for more than was held."""
        if self.holds:
            self.run(self._settle(data.draw(st.sampled_from(self.holds)), cost, may_exceed=may_exceed))

    @rule(data=st.data(), a=COST, b=COST)
    def resize(self, data: st.DataObject, a: int, b: int) -> None:
        """Up and down, as what an answer may cost becomes known; sometimes of one that has ended."""
        if self.holds:
            self.run(self._resize(data.draw(st.sampled_from(self.holds)), min(a, b), max(a, b)))

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """As after a refusal of what was settled; sometimes twice, or of what was never charged."""
        if self.holds:
            self.run(self._give_back(data.draw(st.sampled_from(self.holds))))

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.holds:
            self.run(self._release(data.draw(st.sampled_from(self.holds))))

    @rule(data=st.data(), count=st.integers(2, 8))
    def everything_at_once(self, data: st.DataObject, count: int) -> None:
        """What is decided in memory is as if one came after the other, whatever is committed together."""
        self._at_once([self._step(data) for _ in range(count)])

    def _at_once(self, steps: list[Callable[[], Awaitable[object]]]) -> None:
        async def ask() -> None:
            await asyncio.gather(*(step() for step in steps))

        self.run(ask())

    def _step(self, data: st.DataObject) -> Callable[[], Awaitable[object]]:
        """One thing to ask of the ledger, which is checked against the auditor as it is decided."""
        kind = data.draw(st.sampled_from(["hold", "again", "resize", "settle", "release", "credit", "fail", "back"]))
        if kind == "hold" or not self.holds:
            want = data.draw(WANTED)
            return lambda: self._hold(*want)
        hold = data.draw(st.sampled_from(self.holds))
        if kind == "settle":
            cost, may_exceed = data.draw(COST), data.draw(st.booleans())
            return lambda: self._settle(hold, cost, may_exceed=may_exceed)
        if kind == "resize":
            needed, most = sorted(data.draw(st.tuples(COST, COST)))
            return lambda: self._resize(hold, needed, most)
        if kind == "credit":
            amount = data.draw(AMOUNT)
            return lambda: self._credit(hold.account_id, amount)
        steps: dict[str, Callable[[], Awaitable[object]]] = {
            "again": lambda: self._hold_again(hold),
            "release": lambda: self._release(hold),
            "fail": lambda: self._settle(hold, 1, may_exceed=False, is_broken=True),
            "back": lambda: self._give_back(hold),
        }
        return steps[kind]

    async def _credit(self, account: str, amount: int) -> None:
        wallet = self.wallets[account]
        wallet.asked.append(lambda wallet: wallet.credit(amount))
        assert await self.ledger.credit(account, amount, new_id("credit"))

    async def _hold(self, index: int, a: int, b: int, keys: int) -> None:
        account, minimum, maximum, request_id = self.account(index), min(a, b), max(a, b), new_id("req")
        wallet, holders = self.wallets[account], self.bound_by(account, keys)
        is_known = self.ledger._purses.known(account) is not None
        is_covered = is_known and wallet.covers(minimum, holders, self.now_ms)
        answer: Hold | GatewayError
        try:
            answer = await self.ledger.hold(request_id, account, minimum, maximum, self.spenders(account, keys))
        except GatewayError as refusal:
            answer = refusal.with_traceback(None)
        if not is_covered:
            wallet.see()
        taken = wallet.hold(request_id, minimum, maximum, holders, self.now_ms)
        if isinstance(answer, Hold):
            assert _amounts(answer.parts) == _of(taken)
            self.holds.append(answer)
            return
        code, cap = wallet.refusal(minimum, holders, self.now_ms)
        told = answer.details.get("budget", {}).get("id")
        assert (answer.code, wallet.caps.get(told), taken) == (code, cap, None)

    async def _hold_if_ample(self, index: int, most: int, ample: int, keys: int) -> None:
        account, request_id = self.account(index), new_id("req")
        wallet, purse = self.wallets[account], self.ledger._purses.known(account)
        if purse is None or not purse.is_read:
            wallet.see()
        hold = await self.ledger.hold_if_ample(request_id, account, most, ample, self.spenders(account, keys))
        taken = wallet.hold(request_id, ample, most, self.bound_by(account, keys), self.now_ms)
        assert (hold is None) is (taken is None)
        if hold is not None:
            assert _amounts(hold.parts) == _of(taken)
            self.holds.append(hold)

    async def _resize(self, hold: Hold, needed: int, most: int) -> None:
        if not self.is_open(hold):
            with pytest.raises(NotHeld, match="never was" if hold.state == "open" else "ended already"):
                await self.ledger.resize(hold, needed, most)
            return
        wallet = self.wallet_of(hold)
        taken = wallet.resize(hold.request_id, needed, most, self.now_ms)
        try:
            is_held = await self.ledger.resize(hold, needed, most)
        except NotHeld:  # it has ended while its wallet was read
            assert taken is None
            assert not self.is_open(hold)
            wallet.see()
            return
        if taken is None:
            wallet.see()
            taken = wallet.resize(hold.request_id, needed, most, self.now_ms)
        assert is_held is (taken is not None)
        if taken is not None:
            assert _amounts(hold.parts) == _of(taken)

    async def _hold_again(self, hold: Hold) -> None:
        """The same hold while it is open; otherwise than it was made, or once it is charged, it is refused by name."""
        if self.is_open(hold):
            same = hold.account_id, hold.needed_nano, hold.most_nano
            assert await self.ledger.hold(hold.request_id, *same) is hold
            with pytest.raises(NotHeld, match="another amount"):
                await self.ledger.hold(hold.request_id, hold.account_id, hold.needed_nano, hold.most_nano + 1)
            [other] = self.wallets.keys() - {hold.account_id}
            with pytest.raises(NotHeld, match="hold of another account"):
                await self.ledger.hold(hold.request_id, other, hold.needed_nano, hold.most_nano)
        elif hold.request_id in self.wallet_of(hold).charging:
            with pytest.raises(NotHeld, match="ended already"):
                await self.ledger.hold(hold.request_id, hold.account_id, hold.needed_nano, hold.most_nano)

    async def _settle(self, hold: Hold, cost: int, *, may_exceed: bool, is_broken: bool = False) -> None:
        """`is_broken` is a settlement whose record cannot be written, and which is made without it."""
        settling = self.ledger.settle(hold, cost, UNWRITABLE if is_broken else None, may_exceed=may_exceed)
        if self.is_open(hold):
            charged = self.wallet_of(hold).charge(hold.request_id, cost, self.now_ms, may_exceed=may_exceed)
            assert await settling == charged
        else:
            with pytest.raises(NotHeld, match="never was" if hold.state == "open" else "ended already"):
                await settling

    async def _release(self, hold: Hold) -> None:
        self.ledger.release(hold.request_id)
        if hold.request_id in (wallet := self.wallet_of(hold)).open:
            wallet.release(hold.request_id)

    async def _give_back(self, hold: Hold) -> None:
        wallet = self.wallet_of(hold)
        paid, granted = wallet.charged.pop(hold.request_id, (0, 0))
        if paid + granted:
            wallet.asked.append(lambda wallet: wallet.give_back(hold.request_id, paid, granted, self.now_ms))
        assert await self.ledger.give_back(hold, record(hold.request_id, hold.account_id)) == paid + granted

    # Outages and ends of the process

    @rule(data=st.data(), cost=COST, may_exceed=st.booleans(), end=st.sampled_from(["written", "taken back", "killed"]))
    def settle_while_another_process_writes(self, data: st.DataObject, cost: int, may_exceed: bool, end: str) -> None:
        """What is charged stays held until it is written, taken back, or forgotten with the process."""
        if not (hold := self._an_open_hold(data)):
            return
        with self.locked():
            pending = self.run(self._pending(hold, cost, may_exceed=may_exceed))
            self.what_is_known_in_memory_is_what_the_auditor_says()
            self.run(self._hold(*data.draw(WANTED)))
            self.run(self._release(hold))
            self.what_is_known_in_memory_is_what_the_auditor_says()
            if end == "taken back":
                self.run(self._taken_back(pending))
            elif end == "killed":
                before = self._copied()
        if end == "killed":
            self._begin_again(before)
        self.run(self.store.flushed())

    def _an_open_hold(self, data: st.DataObject) -> Hold | None:
        running = [hold for hold in self.holds if self.is_open(hold)]
        return data.draw(st.sampled_from(running)) if running else None

    async def _pending(self, hold: Hold, cost: int, *, may_exceed: bool) -> SettlementPending:
        self.wallet_of(hold).charge(hold.request_id, cost, self.now_ms, may_exceed=may_exceed)
        settling = asyncio.ensure_future(self.ledger.settle(hold, cost, None, may_exceed=may_exceed))
        await asyncio.sleep(0)
        pass_time(PATIENT_S)
        with pytest.raises(SettlementPending) as caught:
            await settling
        return caught.value

    async def _taken_back(self, pending: SettlementPending) -> None:
        hold = pending.hold
        self.ledger.take_back(pending, record(hold.request_id, hold.account_id))
        self.wallet_of(hold).forget(hold.request_id)

    @rule(data=st.data(), cost=COST, may_exceed=st.booleans(), times=st.integers(1, 2))
    def end_in_an_outage(self, data: st.DataObject, cost: int, may_exceed: bool, times: int) -> None:
        """A settlement waits in a file for the next process, which may be killed before it has removed that."""
        if not (hold := self._an_open_hold(data)):
            return
        charged = self.wallet_of(hold).charge(hold.request_id, cost, self.now_ms, may_exceed=may_exceed)
        file = PendingFile(self.path.parent, self.run(self.store.identity()))
        with self.locked():
            self.hurry()
            file.write(self.run(self._closed_before_it_is_written(hold, cost, may_exceed=may_exceed)))
        self.run(self.other.close())
        self.open()
        for _ in range(times):
            self.run(self.ledger.catch_up(file.read()))
        file.remove()
        assert self.wallet_of(hold).charging == {}
        assert sum(self.wallet_of(hold).charged[hold.request_id]) == charged
        self._forget_holds()

    async def _closed_before_it_is_written(self, hold: Hold, cost: int, *, may_exceed: bool) -> list[Any]:
        settling = asyncio.ensure_future(self.ledger.settle(hold, cost, None, may_exceed=may_exceed))
        await asyncio.sleep(0)
        unwritten: list[Any] = await self.store.close()
        await asyncio.wait([settling])
        return unwritten

    @rule(is_killed=st.booleans())
    def restart(self, is_killed: bool) -> None:
        """What a killed process leaves on the disk is what the next one begins with: no hold."""
        self._begin_again(self._copied() if is_killed else None)

    def _copied(self) -> "tempfile.TemporaryDirectory[str]":
        """The folder as it is; what the process does to it from now on is as if it never was. Returns that one."""
        before, self.folder = self.folder, tempfile.TemporaryDirectory()
        shutil.copytree(before.name, self.folder.name, dirs_exist_ok=True)
        return before

    def _begin_again(self, before: "tempfile.TemporaryDirectory[str] | None") -> None:
        self.store.listen(WalletState, lambda _: None)
        self.close()
        if before is not None:
            before.cleanup()
        self.open()
        self._forget_holds()

    def _forget_holds(self) -> None:
        for wallet in self.wallets.values():
            wallet.forget_all()

    # What holds at all times

    @invariant()
    def what_is_known_in_memory_is_what_the_auditor_says(self) -> None:
        for account, wallet in self.wallets.items():
            balance = wallet.balance(self.now_ms)
            if (purse := self.ledger._purses.known(account)) is not None:
                assert purse.balance(self.now_ms) == balance
            assert balance.paid_nano >= 0 or wallet.is_refunded
            assert min(balance.granted_nano, balance.held_nano) >= 0
        held = self.ledger.held_now()
        balances = [wallet.balance(self.now_ms) for wallet in self.wallets.values()]
        assert held.amount_nano == sum(balance.held_nano for balance in balances)
        assert held.requests == sum(len(wallet.open) + len(wallet.charging) for wallet in self.wallets.values())

    @invariant()
    def no_budget_is_over_its_amount_in_any_window(self) -> None:
        for account, wallet in self.wallets.items():
            told = self.run(self.other.read(ReadBudgets(account, self.now_ms)))
            caps = {one: cap for one, cap in wallet.caps.items() if cap.is_open}
            assert [budget.id for budget in told.budgets] == [*caps]
            for budget_id, cap in caps.items():
                held = Counter({start: wallet.held_of((cap, start)) for start in {*cap.spent, cap.start(self.now_ms)}})
                assert all(0 <= cap.spent[start] + held[start] <= cap.amount for start in held)
                start = cap.start(self.now_ms)
                assert told.spent.get((budget_id, start), 0) == cap.spent[start]
            purse = self.ledger._purses.known(account)
            if purse is not None and purse.budgets.is_read:
                for standing in purse.budgets.standings(self.now_ms):
                    cap = caps[standing.budget.id]
                    window = cap, cap.start(self.now_ms)
                    assert standing.span.starts_at_ms == window[1]
                    assert (standing.spent_nano, standing.held_nano) == (cap.spent[window[1]], wallet.held_of(window))

    @invariant()
    def what_is_stored_is_what_the_auditor_says(self) -> None:
        for account, wallet in self.wallets.items():
            paid, grants = wallet.stored()
            wallets = self.run(self.other.read(Query("SELECT paid_nano FROM wallets WHERE account_id = ?", (account,))))
            assert (wallets or [(0,)]) == [(paid,)]
            left = Query("SELECT remaining_nano FROM grants WHERE account_id = ? ORDER BY id", (account,))
            assert [row[0] for row in self.run(self.other.read(left))] == [*grants.values()]

    @invariant()
    def the_books_agree(self) -> None:
        assert self.run(self.ledger.check()) == []


def _amounts(parts: Amount) -> list[int]:
    """How much of which grant, in their order, and last of paid money."""
    return [part_nano for _, part_nano in parts.grants] + [parts.paid_nano]


def _of(taken: Taken | None) -> list[int] | None:
    return None if taken is None else [part for grant, part in taken if part or grant is None]


TestLedgerLife = pytest.mark.usefixtures("of_sqlite")(LedgerLife.TestCase)
TestLedgerLife.settings = settings(examples(25), stateful_step_count=30)
