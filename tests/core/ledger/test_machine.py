"""Random lives of two wallets against an auditor that knows nothing of databases."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.ids import new_id
from mcp_gateway.core.ledger.entries import Balance, Hold, Move
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.store.sqlite.store import Store
from tests.clocks import MsClock
from tests.core.ledger.test_ledger import UNWRITABLE, record
from tests.databases import migrated, open_store

AMOUNT = st.integers(1, 100)
FOREVER = 10**15

Step = tuple[Callable[[], Coroutine[Any, Any, object]], Callable[[object], object]]


@dataclass
class Grant:
    expires_at_ms: int
    left: int


@dataclass
class Wallet:
    """What must be true of one account."""

    paid: int = 0
    is_refunded: bool = False
    grants: list[Grant] = field(default_factory=list)
    holds: dict[str, list[tuple[Grant | None, int]]] = field(default_factory=dict)
    """What each open hold took from which grant, in order; None is paid money."""
    charged: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Paid and granted money that each settled request was charged."""

    def balance(self) -> Balance:
        held = sum(part for parts in self.holds.values() for _, part in parts)
        return Balance(self.paid, sum(grant.left for grant in self.grants), held)

    def expire(self, now_ms: int) -> None:
        for grant in self.grants:
            if grant.expires_at_ms <= now_ms:
                grant.left = 0

    def credit(self, amount: int) -> None:
        self.paid += amount

    def hold(self, request_id: str, minimum: int, maximum: int, now_ms: int) -> int | None:
        self.expire(now_ms)
        spendable = self.balance().spendable_nano
        if spendable < minimum:
            return None
        amount = missing = min(spendable, maximum)
        parts = self.holds[request_id] = []
        for grant in sorted(self.grants, key=lambda grant: grant.expires_at_ms):
            part = min(grant.left, missing)
            grant.left -= part
            missing -= part
            parts.append((grant, part))
        self.paid -= missing
        parts.append((None, missing))
        return amount

    def end(self, request_id: str, cost: int, *, exceeds_at_ms: int | None = None) -> int:
        """What is charged: beyond the hold, where that is allowed at a moment, from what is free then."""
        parts = self.holds.pop(request_id, None)
        if parts is None:
            return 0
        unpaid, granted = cost, 0
        for grant, part in parts:
            used = min(part, unpaid)
            unpaid -= used
            if grant is None:
                self.paid += part - used
            else:
                grant.left += part - used
                granted += used
        charged = cost - unpaid
        if unpaid and exceeds_at_ms is not None:
            more_granted, more_paid = self._take_free(unpaid, exceeds_at_ms)
            granted += more_granted
            charged += more_granted + more_paid
        self.charged[request_id] = charged - granted, granted
        return charged

    def _take_free(self, amount: int, now_ms: int) -> tuple[int, int]:
        self.expire(now_ms)
        missing = amount
        for grant in sorted(self.grants, key=lambda grant: grant.expires_at_ms):
            part = min(grant.left, missing)
            grant.left -= part
            missing -= part
        paid = min(missing, max(self.paid, 0))
        self.paid -= paid
        return amount - missing, paid

    def give_back(self, request_id: str, now_ms: int) -> None:
        paid, granted = self.charged.pop(request_id, (0, 0))
        self.paid += paid
        if granted:
            first = min(self.grants, key=lambda grant: (grant.expires_at_ms <= now_ms, grant.expires_at_ms))
            first.left += granted


class LedgerLife(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.clock = MsClock()
        self.wallets: dict[str, Wallet] = {}
        self.holds: list[Hold] = []
        self.store = self.open()
        self.ledger = Ledger(self.store)

    def open(self) -> Store:
        return self.runner.run(open_store(migrated(Path(self.folder.name) / "gateway.sqlite3"), now_ms=self.clock))

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()
        self.folder.cleanup()

    def account(self, index: int) -> str:
        return list(self.wallets)[index]

    @initialize()
    def make_accounts(self) -> None:
        accounts = Accounts(self.store, new_id=new_id, now_ms=self.clock)
        self.wallets = {self.runner.run(accounts.create(name)).id: Wallet() for name in ("Ann", "Bob")}

    @rule(index=st.integers(0, 1), amount=AMOUNT, reference=st.integers(0, 9))
    def credit(self, index: int, amount: int, reference: int) -> None:
        account = self.account(index)
        if self.runner.run(self.ledger.credit(account, amount, f"{account}-{reference}")):
            self.wallets[account].paid += amount

    @rule(index=st.integers(0, 1), amount=AMOUNT, lives_ms=st.none() | st.integers(1, 50))
    def grant(self, index: int, amount: int, lives_ms: int | None) -> None:
        expires_at_ms = None if lives_ms is None else self.clock.now_ms + lives_ms
        assert self.runner.run(
            self.ledger.grant(self.account(index), amount, new_id("grant"), expires_at_ms=expires_at_ms)
        )
        self.wallets[self.account(index)].grants.append(Grant(expires_at_ms or FOREVER, amount))

    @rule(ms=st.integers(1, 30))
    def wait(self, ms: int) -> None:
        self.clock.now_ms += ms

    @rule(asked=st.lists(st.tuples(st.integers(0, 1), AMOUNT, AMOUNT), min_size=1, max_size=5))
    def hold_at_once(self, asked: list[tuple[int, int, int]]) -> None:
        steps = [self._hold(new_id("req"), *want) for want in asked]
        self._ask(steps)

    @rule(data=st.data(), cost=st.integers(0, 250), may_exceed=st.booleans())
    def settle(self, data: st.DataObject, cost: int, may_exceed: bool) -> None:
        """Sometimes one that has ended already, or for more than was held."""
        if self.holds:
            asked, check = self._settle(data.draw(st.sampled_from(self.holds)), cost, may_exceed=may_exceed)
            check(self.runner.run(asked()))

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """As after a refusal of what was settled; sometimes twice, or of what was never charged."""
        if self.holds:
            hold = data.draw(st.sampled_from(self.holds))
            if hold.request_id not in self.wallets[hold.account_id].holds:
                asked, check = self._give_back(hold)
                check(self.runner.run(asked()))

    @rule(data=st.data())
    def void(self, data: st.DataObject) -> None:
        if self.holds:
            hold = data.draw(st.sampled_from(self.holds))
            self.runner.run(self.ledger.void(hold.request_id, None))
            self.wallets[hold.account_id].end(hold.request_id, 0)

    @rule(data=st.data(), count=st.integers(2, 8))
    def everything_at_once(self, data: st.DataObject, count: int) -> None:
        """Holds, settlements, voids, credits and one that fails, in one burst: as if one came after the other."""
        self._ask([self._step(data) for _ in range(count)])

    def _ask(self, steps: list[Step]) -> None:
        async def ask() -> list[object]:
            return await asyncio.gather(*(asked() for asked, _ in steps), return_exceptions=True)

        for answer, (_, check) in zip(self.runner.run(ask()), steps, strict=True):
            check(answer)

    def _step(self, data: st.DataObject) -> Step:
        """One thing to ask of the ledger, and the check of its answer against the auditor."""
        kind = data.draw(st.sampled_from(["hold", "again", "settle", "void", "credit", "fail", "back"]))
        if kind == "hold" or not self.holds:
            return self._hold(new_id("req"), *data.draw(st.tuples(st.integers(0, 1), AMOUNT, AMOUNT)))
        hold = data.draw(st.sampled_from(self.holds))
        ledger, wallet = self.ledger, self.wallets[hold.account_id]
        if kind == "settle":
            return self._settle(hold, data.draw(st.integers(0, 250)), may_exceed=data.draw(st.booleans()))
        if kind == "void":
            return lambda: ledger.void(hold.request_id, None), lambda _: wallet.end(hold.request_id, 0)
        if kind == "credit":
            amount = data.draw(AMOUNT)
            return lambda: ledger.credit(hold.account_id, amount, new_id("credit")), lambda _: wallet.credit(amount)
        if kind == "fail":
            return lambda: ledger.settle(hold, 1, UNWRITABLE), lambda got: _is(got, wallet.end(hold.request_id, 1))
        if kind == "back":
            return self._give_back(hold)
        return lambda: ledger.hold(hold.request_id, hold.account_id, 1, 1), lambda got: self._held_again(hold, got)

    def _settle(self, hold: Hold, cost: int, *, may_exceed: bool) -> Step:
        def check(charged: object) -> None:
            at_ms = self.clock.now_ms if may_exceed else None
            assert charged == self.wallets[hold.account_id].end(hold.request_id, cost, exceeds_at_ms=at_ms)

        return lambda: self.ledger.settle(hold, cost, None, may_exceed=may_exceed), check

    def _give_back(self, hold: Hold) -> Step:
        async def give_back() -> object:
            return await self.ledger.give_back(hold, record(hold.request_id, hold.account_id))

        def check(answer: object) -> None:
            assert not isinstance(answer, BaseException)
            self.wallets[hold.account_id].give_back(hold.request_id, self.clock.now_ms)

        return give_back, check

    def _hold(self, request_id: str, index: int, a: int, b: int) -> Step:
        account, minimum, maximum = self.account(index), min(a, b), max(a, b)

        def check(answer: object) -> None:
            expected = self.wallets[account].hold(request_id, minimum, maximum, self.clock.now_ms)
            if isinstance(answer, Hold):
                assert answer == Hold(request_id, account, expected if expected is not None else -1)
                self.holds.append(answer)
            else:
                assert isinstance(answer, GatewayError)
                balance = self.wallets[account].balance()
                is_held = balance.spendable_nano + balance.held_nano >= minimum
                assert (answer.code, expected) == ("balance_held" if is_held else "insufficient_balance", None)

        return lambda: self.ledger.hold(request_id, account, minimum, maximum), check

    def _held_again(self, hold: Hold, answer: object) -> None:
        """The same hold while it is open; a request that had one cannot be held for again, whatever the balance."""
        wallet = self.wallets[hold.account_id]
        if hold.request_id in wallet.holds:
            assert answer == hold
        elif isinstance(answer, GatewayError):
            wallet.expire(self.clock.now_ms)  # a refusal keeps what it found out
        else:
            assert isinstance(answer, DatabaseError)

    @rule()
    def fail_halfway(self) -> None:
        """A settlement whose record cannot be written is made without it."""
        if self.holds:
            hold = self.holds[-1]
            charged = self.runner.run(self.ledger.settle(hold, 1, UNWRITABLE))
            assert charged == self.wallets[hold.account_id].end(hold.request_id, 1)

    @rule(index=st.integers(0, 1), amount=AMOUNT)
    def refund(self, index: int, amount: int) -> None:
        """Money taken back from outside, whatever is left; holds are refused from below zero."""
        account, reference = self.account(index), new_id("refund")

        async def take_back() -> None:
            await self.store.write(Move(account, "refund", -amount, reference))

        self.runner.run(take_back())
        self.wallets[account].paid -= amount
        self.wallets[account].is_refunded = True

    @rule()
    def expire(self) -> None:
        self.runner.run(self.ledger.expire_grants())
        for wallet in self.wallets.values():
            wallet.expire(self.clock.now_ms)

    @rule(is_killed=st.booleans())
    def restart(self, is_killed: bool) -> None:
        """What a killed process leaves on the disk is what the next one begins with."""
        before = self.folder
        if is_killed:
            self.folder = tempfile.TemporaryDirectory()
            shutil.copytree(before.name, self.folder.name, dirs_exist_ok=True)
        self.runner.run(self.store.close())
        self.store = self.open()
        self.ledger = Ledger(self.store)
        if is_killed:
            before.cleanup()
        open_holds = [(wallet, request_id) for wallet in self.wallets.values() for request_id in wallet.holds]
        assert self.runner.run(self.ledger.void_open_holds()) == len(open_holds)
        for wallet, request_id in open_holds:
            wallet.end(request_id, 0)

    @invariant()
    def balances_are_what_the_auditor_says(self) -> None:
        for account, wallet in self.wallets.items():
            balance = self.runner.run(self.ledger.balance(account))
            assert balance == wallet.balance()
            assert balance.paid_nano >= 0 or wallet.is_refunded
            assert min(balance.granted_nano, balance.held_nano) >= 0

    @invariant()
    def the_books_agree(self) -> None:
        assert self.runner.run(self.ledger.check()) == []


def _is(answer: object, expected: object) -> None:
    assert answer == expected


TestLedgerLife = LedgerLife.TestCase
TestLedgerLife.settings = settings(max_examples=25, stateful_step_count=30)
