"""Random lives of a tree of budgets that two replicas spend of, against the auditor of one process that knows all."""

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.identity.keys import digest_of
from mcp_gateway.core.ids import new_id
from mcp_gateway.core.ledger.allotments import AskForMoney
from mcp_gateway.core.ledger.budgets import Budget, BudgetWindow, MakeBudgets
from mcp_gateway.core.ledger.leases import Leases
from mcp_gateway.core.ledger.purse import Hold
from mcp_gateway.core.ledger.shared import SharedLedger
from mcp_gateway.core.store.postgres.executors import EXECUTORS
from mcp_gateway.core.store.postgres.session import WriterSession
from mcp_gateway.core.store.postgres.store import PostgresStore
from mcp_gateway.core.store.sqlite.store import Store
from tests.clocks import MsClock
from tests.core.ledger.auditor import ACCOUNT, HOUR_MS, PAID, Auditor
from tests.core.ledger.replicas import end_session, make_old
from tests.core.ledger.test_ledger import record
from tests.core.ledger.test_tree import AMOUNT, COST, GROUPS, HOLDERS, KEY, KEYS, PICK, WINDOWS, AuditedLedger, spenders
from tests.databases import FOR_TESTS, Query, changing
from tests.logged import lines_logged
from tests.patience import eventually
from tests.postgres_server import Outside, postgres_server
from tests.postgres_stores import NOTES

pytestmark = pytest.mark.engines
WHO = st.integers(0, 1)


class _OfReplica(SharedLedger):
    def __init__(self, store: Any) -> None:
        super().__init__(store, lambda: store.replica, lambda: store.hears_others)


class AuditedReplica(AuditedLedger, _OfReplica):
    """Each decision of a replica is compared with that of an auditor which knows what both hold."""


class ReplicasLife(RuleBasedStateMachine):
    """One step after the other, each by one of the two."""

    def __init__(self) -> None:
        super().__init__()
        self.url = postgres_server().make(NOTES)
        self.outside = Outside(self.url)
        self.runner = asyncio.Runner()
        self.clock = MsClock()
        self.auditor = Auditor()
        self.holds: list[tuple[int, Hold]] = []
        self.names = 0
        self._logging = lines_logged(logging.CRITICAL)
        self.critical = self._logging.__enter__()
        self.stores = [self.run(self._opened()) for _ in range(2)]
        self.ledgers = [AuditedReplica(cast(Store, store), self.auditor) for store in self.stores]
        self.ledgers[1].asked, self.ledgers[1].asked_back = self.ledgers[0].asked, self.ledgers[0].asked_back
        self.leases = [Leases(ledger._store, ledger) for ledger in self.ledgers]
        self.run(self._hear())

    async def _opened(self) -> PostgresStore:
        session = WriterSession(self.url, is_server=True, is_shared=True)
        return await PostgresStore.open(self.url, FOR_TESTS | EXECUTORS, session=session, now_ms=self.clock)

    async def _hear(self) -> None:
        for store in self.stores:
            await eventually(lambda store=store: store.hears_others)  # type: ignore[misc]

    def run(self, asked: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await asked

        return self.runner.run(wait())

    def name(self, kind: str) -> str:
        self.names += 1
        return f"{kind}_{self.names:06}"

    @initialize()
    def make_tree(self) -> None:
        store = self.stores[0]
        self.account = self.run(Accounts(store, new_id=new_id, now_ms=self.clock).create("Ann")).id
        sql = "INSERT INTO keys VALUES (?, ?, ?, 'gw_live_', '', FALSE, 0, NULL, NULL, NULL, NULL, NULL)"
        for key in KEYS:
            self.run(store.write(changing(sql, (key, self.account, digest_of(key)))))
        for group in dict.fromkeys(GROUPS.values()):
            self.run(store.write(changing("INSERT INTO key_groups VALUES (?, ?, ?)", (group, self.account, group))))
        self.pass_hours(0)
        self.credit(0, 700)
        for who, (holder, amount, window) in enumerate(((ACCOUNT, 900, "week"), ("a", 700, "day"))):
            self.share(who, holder, amount, cast(BudgetWindow, window))
        for who, (holder, amount, hours) in enumerate((("ab", 300, 90), ("abc", 100, 80))):
            self.lease(who, holder, amount, hours)

    def teardown(self) -> None:
        for who, hold in self.holds:
            self.run(self._release(who, hold))
        self.pass_hours(1000)
        self.what_is_told_is_what_the_auditor_says()
        for store in self.stores:
            self.run(store.close())
        assert self.outside.rows("SELECT * FROM allotments") == []
        self.outside.close()
        self._logging.__exit__(None, None, None)
        self.runner.close()
        postgres_server().give_back(self.url)

    @rule(who=WHO, amount=st.integers(50, 400))
    def credit(self, who: int, amount: int) -> None:
        self.run(self.ledgers[who].credit(self.account, amount, self.name("credit")))
        self.auditor.wallet[PAID] += amount
        self.auditor.from_outside += amount

    @rule(hours=st.integers(1, 30))
    def pass_hours(self, hours: int) -> None:
        self.clock.now_ms += hours * HOUR_MS
        self.auditor.now_ms = self.clock.now_ms

    @rule(who=WHO, holder=st.sampled_from(HOLDERS), amount=st.integers(1, 200), window=st.sampled_from(WINDOWS))
    def share(self, who: int, holder: str, amount: int, window: BudgetWindow) -> None:
        self.run(self._make(who, holder, amount, window))

    @rule(who=WHO, holder=st.sampled_from(HOLDERS[1:]), amount=AMOUNT, hours=st.integers(0, 120))
    def lease(self, who: int, holder: str, amount: int, hours: int) -> None:
        with suppress(GatewayError):
            self.run(self._make(who, holder, amount, "total", self.clock() + hours * HOUR_MS))

    async def _make(self, who: int, holder: str, amount: int, window: BudgetWindow, ends_ms: int | None = None) -> None:
        named = self.account if holder == ACCOUNT else holder
        budget = Budget(self.name("bud"), self.account, named, amount, window, None, ends_ms)
        self.ledgers[0].asked[budget.id] = budget
        above = spenders(named) - {named} if named in KEYS else ()
        await self.leases[who].make(MakeBudgets((budget,), above=tuple(above)), self.stores[who].write)

    @rule(who=WHO, pick=PICK)
    def end(self, who: int, pick: int) -> None:
        if self.auditor.nodes:
            budget_id = [*self.auditor.nodes][pick % len(self.auditor.nodes)]
            was_open = self.auditor.nodes[budget_id].is_open
            assert self.run(self.leases[who].end(self.account, budget_id)) is was_open
            self.run(self.ledgers[who].have_heard(self.account))

    @rule(who=WHO)
    def give_back_leases(self, who: int) -> None:
        self.run(self.leases[who].give_back())
        self.run(self.ledgers[who].have_heard(self.account))
        assert not self.auditor.returnable()

    @rule(who=WHO, key=KEY, a=AMOUNT, b=AMOUNT)
    def hold(self, who: int, key: str, a: int, b: int) -> None:
        self.run(self._hold(who, key, min(a, b), max(a, b)))

    async def _hold(self, who: int, key: str, least: int, most: int) -> None:
        with suppress(GatewayError):
            hold = await self.ledgers[who].hold(self.name("req"), self.account, least, most, spenders(key))
            self.holds.append((who, hold))

    def _picked(self, pick: int) -> tuple[int, Hold] | None:
        running = [one for one in self.holds if one[1].state == "open"]
        return running[pick % len(running)] if running else None

    @rule(pick=PICK, cost=COST, may_exceed=st.booleans())
    def settle(self, pick: int, cost: int, may_exceed: bool) -> None:
        if found := self._picked(pick):
            who, hold = found
            written = record(hold.request_id, self.account, cost_nano=cost)
            self.run(self.ledgers[who].settle(hold, cost, written, may_exceed=may_exceed))

    @rule(pick=PICK, a=COST, b=COST)
    def resize(self, pick: int, a: int, b: int) -> None:
        if found := self._picked(pick):
            self.run(self.ledgers[found[0]].resize(found[1], min(a, b), max(a, b)))

    @rule(pick=PICK)
    def release(self, pick: int) -> None:
        if found := self._picked(pick):
            self.run(self._release(*found))

    async def _release(self, who: int, hold: Hold) -> None:
        self.ledgers[who].release(hold.request_id)

    @rule(pick=PICK)
    def give_back(self, pick: int) -> None:
        """By the other one, too: whoever refuses the answer has served it, but what was charged is in the books."""
        kept = [(who, hold) for who, hold in self.holds if hold.request_id in self.auditor.kept]
        if kept:
            who, hold = kept[pick % len(kept)]
            charged = self.auditor.kept[hold.request_id].amount
            self.ledgers[0].asked_back.append(hold.request_id)
            assert self.run(self.ledgers[who].give_back(hold, record(hold.request_id, self.account))) == charged
            self.ledgers[0].asked_back.clear()

    @rule(who=WHO)
    def have_nothing_idle(self, who: int) -> None:
        self.run(self.ledgers[who].return_idle())

    @rule(who=WHO)
    def cut_a_connection(self, who: int) -> None:
        """The other one sees no end in that."""
        replica = self.stores[who].replica
        self.run(end_session(self.stores[who]._session, self.outside))
        self.run(self.ledgers[1 - who].take_from_dead())
        self.run(self.stores[who].write(AskForMoney(self.account), in_outage="wait"))
        assert self.stores[who].replica == replica

    @rule(who=WHO)
    def die(self, who: int) -> None:
        """Without a word; another one takes its place, and what it held is nobody's."""
        session, replica = self.stores[who]._session, self.stores[who].replica
        for mine, hold in self.holds:
            if mine == who and hold.request_id in self.auditor.held:
                del self.auditor.held[hold.request_id]
        self.holds = [(mine, hold) for mine, hold in self.holds if mine != who or hold.state != "open"]
        session._id = None  # so that its end deletes nothing
        self.run(self.stores[who].close())
        assert replica is not None
        make_old(self.outside, replica)
        self.stores[who] = self.run(self._opened())
        before, self.ledgers[who] = self.ledgers[who], AuditedReplica(cast(Store, self.stores[who]), self.auditor)
        self.ledgers[who].asked, self.ledgers[who].asked_back = before.asked, before.asked_back
        self.leases[who] = Leases(self.stores[who], self.ledgers[who])
        self.run(self._hear())

    @rule()
    def what_is_told_is_what_the_auditor_says(self) -> None:
        """By each of them, once neither has more than it holds."""
        for ledger in self.ledgers:
            self.run(ledger._return_surplus([self.account]))
        self.run(self.ledgers[0].take_from_dead())
        auditor = self.auditor
        standing = {node.id: node for node in auditor.nodes.values() if node.is_open}
        held = sum(taken.amount for taken in auditor.held.values())
        of_pockets = sum(taken.amount for taken in auditor.held.values() if taken.pocket is not None)
        leased = sum(sum(node.left.values()) for node in auditor.nodes.values()) - of_pockets
        for ledger in self.ledgers:
            balance = self.run(ledger.balance(self.account))
            told = balance.paid_nano, balance.granted_nano, balance.held_nano, balance.leased_nano
            assert told == (auditor.free(None)[PAID], 0, held, leased)
            found = {one.budget.id: one for one in self.run(ledger.budgets(self.account))}
            assert [*found] == [*standing]
            for one in found.values():
                window = one.budget.id, auditor.start(standing[one.budget.id])
                assert one.span.starts_at_ms == window[1]
                assert (one.spent_nano, one.held_nano) == (auditor.spent(window), auditor.held_of(window))

    @invariant()
    def the_books_agree(self) -> None:
        self.auditor.check()
        assert self.critical == []
        assert self.run(self.ledgers[0].check()) == []

    @invariant()
    def what_is_stored_is_what_the_auditor_says(self) -> None:
        wallets = self.run(self.stores[0].read(Query("SELECT paid_nano FROM wallets")))
        assert (wallets or [(0,)]) == [(self.auditor.wallet[PAID],)]
        windows = self.run(self.stores[0].read(Query("SELECT * FROM budget_windows")))
        spent = {(one, start): nano for one, start, nano in windows}
        assert spent == {one: self.auditor.spent(one) for one in spent}


TestReplicasLife = ReplicasLife.TestCase
TestReplicasLife.settings = settings(max_examples=6, stateful_step_count=25)
