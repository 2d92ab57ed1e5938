"""Random lives of two wallets against an auditor that knows nothing of databases."""

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.ids import new_id
from mcp_gateway.core.ledger.ledger import Balance, Hold, Ledger
from mcp_gateway.core.store.store import Store
from tests.core.ledger.conftest import Clock
from tests.core.ledger.test_ledger import UNWRITABLE

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

    def end(self, request_id: str, cost: int) -> int:
        parts = self.holds.pop(request_id, [])
        charged = unpaid = min(cost, sum(part for _, part in parts))
        for grant, part in parts:
            used = min(part, unpaid)
            unpaid -= used
            if grant is None:
                self.paid += part - used
            else:
                grant.left += part - used
        return charged


class LedgerLife(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.wallets: dict[str, Wallet] = {}
        self.holds: list[Hold] = []
        self.store = self.open()
        self.ledger = Ledger(self.store, now_ms=self.clock)

    def open(self) -> Store:
        return self.runner.run(Store.open(Path(self.folder.name) / "gateway.sqlite3"))

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
        expires_at_ms = None if lives_ms is None else self.clock.ms + lives_ms
        assert self.runner.run(
            self.ledger.grant(self.account(index), amount, new_id("grant"), expires_at_ms=expires_at_ms)
        )
        self.wallets[self.account(index)].grants.append(Grant(expires_at_ms or FOREVER, amount))

    @rule(ms=st.integers(1, 30))
    def wait(self, ms: int) -> None:
        self.clock.ms += ms

    @rule(asked=st.lists(st.tuples(st.integers(0, 1), AMOUNT, AMOUNT), min_size=1, max_size=5))
    def hold_at_once(self, asked: list[tuple[int, int, int]]) -> None:
        steps = [self._hold(new_id("req"), *want) for want in asked]
        self._ask(steps)

    @rule(data=st.data(), cost=st.integers(0, 120))
    def settle(self, data: st.DataObject, cost: int) -> None:
        """Sometimes one that has ended already."""
        if self.holds:
            hold = data.draw(st.sampled_from(self.holds))
            charged = self.runner.run(self.ledger.settle(hold, cost, None))
            assert charged == self.wallets[hold.account_id].end(hold.request_id, cost)

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
        kind = data.draw(st.sampled_from(["hold", "again", "settle", "void", "credit", "fail"]))
        if kind == "hold" or not self.holds:
            return self._hold(new_id("req"), *data.draw(st.tuples(st.integers(0, 1), AMOUNT, AMOUNT)))
        hold = data.draw(st.sampled_from(self.holds))
        ledger, wallet = self.ledger, self.wallets[hold.account_id]
        if kind == "settle":
            return self._settle(hold, data.draw(st.integers(0, 120)))
        if kind == "void":
            return lambda: ledger.void(hold.request_id, None), lambda _: wallet.end(hold.request_id, 0)
        if kind == "credit":
            amount = data.draw(AMOUNT)
            return lambda: ledger.credit(hold.account_id, amount, new_id("credit")), lambda _: wallet.credit(amount)
        if kind == "fail":
            return lambda: ledger.settle(hold, 1, UNWRITABLE), _is_left_out
        return lambda: ledger.hold(hold.request_id, hold.account_id, 1, 1), lambda got: self._held_again(hold, got)

    def _settle(self, hold: Hold, cost: int) -> Step:
        def check(charged: object) -> None:
            assert charged == self.wallets[hold.account_id].end(hold.request_id, cost)

        return lambda: self.ledger.settle(hold, cost, None), check

    def _hold(self, request_id: str, index: int, a: int, b: int) -> Step:
        account, minimum, maximum = self.account(index), min(a, b), max(a, b)

        def check(answer: object) -> None:
            expected = self.wallets[account].hold(request_id, minimum, maximum, self.clock.ms)
            if isinstance(answer, Hold):
                assert answer == Hold(request_id, account, expected if expected is not None else -1)
                self.holds.append(answer)
            else:
                assert isinstance(answer, GatewayError)
                assert (answer.code, expected) == ("insufficient_balance", None)

        return lambda: self.ledger.hold(request_id, account, minimum, maximum), check

    def _held_again(self, hold: Hold, answer: object) -> None:
        """The same hold while it is open; a request that had one cannot be held for again, whatever the balance."""
        wallet = self.wallets[hold.account_id]
        if hold.request_id in wallet.holds:
            assert answer == hold
        elif isinstance(answer, GatewayError):
            wallet.expire(self.clock.ms)  # a refusal keeps what it found out
        else:
            assert isinstance(answer, sqlite3.IntegrityError)

    @rule()
    def fail_halfway(self) -> None:
        """A settlement whose record cannot be written leaves no trace."""
        if self.holds:
            with pytest.raises(sqlite3.IntegrityError):
                self.runner.run(self.ledger.settle(self.holds[-1], 1, UNWRITABLE))

    @rule(index=st.integers(0, 1), amount=AMOUNT)
    def refund(self, index: int, amount: int) -> None:
        """Money taken back from outside, whatever is left; holds are refused from below zero."""
        account, reference = self.account(index), new_id("refund")

        async def take_back() -> None:
            await self.store.write(lambda c: self.ledger.move(c, account, "refund", -amount, reference))

        self.runner.run(take_back())
        self.wallets[account].paid -= amount
        self.wallets[account].is_refunded = True

    @rule()
    def expire(self) -> None:
        self.runner.run(self.ledger.expire_grants())
        for wallet in self.wallets.values():
            wallet.expire(self.clock.ms)

    @rule(is_killed=st.booleans())
    def restart(self, is_killed: bool) -> None:
        """What a killed process leaves on the disk is what the next one begins with."""
        before = self.folder
        if is_killed:
            self.folder = tempfile.TemporaryDirectory()
            shutil.copytree(before.name, self.folder.name, dirs_exist_ok=True)
        self.runner.run(self.store.close())
        self.store = self.open()
        self.ledger = Ledger(self.store, now_ms=self.clock)
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


def _is_left_out(answer: object) -> None:
    assert isinstance(answer, sqlite3.IntegrityError)


TestLedgerLife = LedgerLife.TestCase
TestLedgerLife.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
