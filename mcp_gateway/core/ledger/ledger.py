"""The wallet of each account: integers in nano-USD, append-only facts in the database, holds in memory.

A hold counts against the balance at once. Granted credit is used before what was paid, that which expires first before
the rest; a hold fixes which grants it draws on. It ends once, by its settlement, its release, or with the process.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from mcp_gateway.core.batches import in_batches
from mcp_gateway.core.caller import GUEST_ACCOUNT_ID
from mcp_gateway.core.engine import DatabaseError, Engine, unavailable
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger.budget_book import Holders, Spender
from mcp_gateway.core.ledger.budgets import (
    Budget,
    BudgetGroup,
    BudgetsChanged,
    BudgetSpent,
    BudgetStanding,
    GroupByName,
    PocketLeft,
    ReadBudgets,
    ReturnLeases,
)
from mcp_gateway.core.ledger.entries import (
    AccountsWithExpiredGrants,
    Applied,
    AppliedBy,
    Balance,
    CatchUp,
    Departure,
    Discrepancies,
    Ended,
    Entry,
    ExpireGrants,
    GiveBack,
    Grant,
    HeldNow,
    HeldOf,
    Move,
    Settle,
    WalletOf,
    WalletState,
)
from mcp_gateway.core.ledger.hold_refusals import HoldRefusals
from mcp_gateway.core.ledger.purse import Hold, Purse, Purses
from mcp_gateway.core.ledger.wait_limit import TooLong, WaitLimit
from mcp_gateway.core.ledger.wait_list import WaitList
from mcp_gateway.core.money import OutsideKind, PaidKind
from mcp_gateway.core.record import AddRecord, EndedBy, RequestRecord
from mcp_gateway.core.shared_reads import SharedReads

logger = logging.getLogger(__name__)

_EXPIRY_INTERVAL_S = 10.0
_SWEEP_INTERVAL_S = 60.0
_MOST_RETURNED_AT_ONCE = 500
"""Leases in one transaction, which takes some 20 ms for so many."""


class SettlementPending(Exception):
    """A settlement has not reached the disk in time. It is carried out as soon as that can be, unless taken back."""

    def __init__(self, hold: Hold, written: "asyncio.Future[Any]") -> None:
        super().__init__()
        self.hold = hold
        self.written = written


class Spendable(NamedTuple):
    """What is free to spend, and what would be once running requests hold nothing of it; 0 where less is left."""

    free_nano: int
    most_nano: int


class Ledger:
    """All wallets."""

    def __init__(
        self,
        store: Engine,
        *,
        minimum_balance_nano: int = 0,
        hold_wait_s: float = 0.0,
        settle_wait_s: float = 30.0,
        longest_hold_s: float = 86_400.0,
        topup_url: str | None = None,
    ) -> None:
        self._store = store
        self._now_ms = store.now_ms
        self._refusals = HoldRefusals(minimum_balance_nano, topup_url)
        self._hold_wait_s = hold_wait_s
        self._purses, self._wait_list = self._known_nothing()
        self._first_reads = SharedReads[Purse]()
        """Of wallets that are not known yet, by account."""
        self._wait_limit = WaitLimit(settle_wait_s)
        self._longest_hold_s = longest_hold_s
        store.listen(WalletState, self._wallet_changed)
        store.listen(Ended, self._ended)
        store.listen(BudgetsChanged, self._budgets_changed)
        store.listen(BudgetSpent, self._budget_spent)
        store.listen(PocketLeft, self._pocket_changed)

    def _known_nothing(self) -> tuple[Purses, WaitList]:
        """What is known in memory, at first."""
        return Purses(), WaitList()

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
        """Set aside up to `maximum_nano`, at least `minimum_nano`, for a request; asked again, the same hold.

        Of the wallet, and of each budget of its `holders` and its account. What these cover as they are known is
        decided at once; else the wallet is read again. Where they have the money but running requests hold it, that is
        waited for up to `hold_wait_s`, less what was waited before. Raises GatewayError `insufficient_balance`,
        `below_minimum_balance` or `budget_exhausted` (402), `balance_held` (429), `ledger_unavailable` (503).
        """
        if not self._store.is_available:
            raise unavailable()
        by = Spender(holders, minimum_nano)
        purse, needed_nano = self._purses.of(account_id), self._refusals.needed_nano(by)
        hold = self._purses.place(purse, request_id, needed_nano, maximum_nano, self._now_ms(), by)
        if hold is None:
            hold = await self._hold_after_reading(
                request_id, account_id, maximum_nano, by, self._hold_wait_s - waited_s
            )
        return hold

    async def hold_if_ample(
        self, request_id: str, account_id: str, most_nano: int, ample_nano: int, holders: Holders = frozenset()
    ) -> Hold | None:
        """Set aside `most_nano` where an ample amount is free to spend, as the wallet is known; one that never was is
        read. Nothing is waited for. Raises GatewayError `ledger_unavailable`.
        """
        if not self._store.is_available:
            raise unavailable()
        by, purse = Spender(holders, ample_nano), self._purses.of(account_id)
        if not purse.is_read:
            purse = await self._known(account_id)
        return self._purses.place(purse, request_id, self._refusals.needed_nano(by), most_nano, self._now_ms(), by)

    async def check_balance(self, account_id: str, minimum_nano: int, holders: Holders = frozenset()) -> None:
        """Raise what `hold` would, where not even what comes free could be so much; the wallet is read again first."""
        by = Spender(holders, minimum_nano)
        purse = self._purses.of(account_id)
        if purse.is_read and self._may_come_free(purse, by):
            return
        if not self._may_come_free(await self._read_returned(account_id), by):
            raise self.refusal(account_id, minimum_nano, holders)

    async def spendable_nano(self, account_id: str, holders: Holders = frozenset()) -> int:
        """What is free to spend, as the wallet is known; one that never was is read."""
        return (await self._known(account_id)).spendable_nano(self._now_ms(), holders)

    async def reach(self, account_id: str, holders: Holders = frozenset()) -> Spendable:
        """What may be spent now and in the end, by the same."""
        purse, now_ms = await self._known(account_id), self._now_ms()
        shorts = purse.shorts(now_ms, Spender(holders, 0))
        most_nano = min(one.spendable_nano + one.held_nano for one in shorts)
        return Spendable(max(0, purse.spendable_nano(now_ms, holders)), max(0, most_nano))

    async def _known(self, account_id: str) -> Purse:
        purse = self._purses.of(account_id)
        if purse.is_read:
            return purse
        return await self._first_reads.of(account_id, lambda: self._read_wallet(account_id))

    async def resize(self, hold: Hold, needed_nano: int, most_nano: int) -> bool:
        """Hold up to `most_nano` from now on; False, changing nothing, where less than `needed_nano` can be.

        What the wallet covers as it is known is decided at once; else it is read again, if it can be.
        """
        held_nano = hold.amount_nano
        if self._purses.resize(hold, needed_nano, most_nano, self._now_ms()):
            if hold.amount_nano < held_nano:
                self._wait_list.wake(hold.account_id)
            return True
        with suppress(DatabaseError, GatewayError):  # what was known before is what there is
            await self._read_returned(hold.account_id)
        return self._purses.resize(hold, needed_nano, most_nano, self._now_ms())

    def what_ends(self, hold: Hold, needed_nano: int) -> EndedBy:
        """Why the hold could not be raised so far just now: of the wallet before budgets, as refusals are."""
        is_paid = self._purses.of(hold.account_id).can_pay(hold, needed_nano, self._now_ms())
        return "budget" if is_paid else "balance"

    async def _hold_after_reading(
        self, request_id: str, account_id: str, most_nano: int, by: Spender, wait_s: float
    ) -> Hold:
        """As another process may have added to the wallet; then whenever money comes free, until the wait is over.

        What was waited for in vain is read again, so that nobody is refused by what was known before the wait.
        """
        needed_nano = self._refusals.needed_nano(by)
        if not self._purses.of(account_id).is_read:  # as of all of a burst that comes first
            purse = await self._known(account_id)
            hold = self._purses.place(purse, request_id, needed_nano, most_nano, self._now_ms(), by)
            if hold is not None:
                return hold
        loop = asyncio.get_running_loop()
        until_s, has_waited = loop.time() + wait_s, True
        while has_waited:
            await self._read_returned(account_id)
            has_waited = False
            while True:
                purse, now_ms = self._purses.of(account_id), self._now_ms()
                hold = self._purses.place(purse, request_id, needed_nano, most_nano, now_ms, by)
                if hold is not None:
                    return hold
                left_s = until_s - loop.time()
                if left_s <= 0 or not self._may_come_free(purse, by):
                    break
                has_waited = True
                freed = self._wait_list.freed(account_id)  # no await since the look, so that nothing is missed between
                await asyncio.wait({freed}, timeout=left_s)
        raise self._refusals.of(self._purses.of(account_id), by, self._now_ms())

    def _may_come_free(self, purse: Purse, by: Spender) -> bool:
        """Whether all that is short would have enough, once running requests hold nothing of it."""
        return all(one.may_cover(self._refusals.needed_of(one, by)) for one in purse.shorts(self._now_ms(), by))

    async def _read_wallet(self, account_id: str) -> Purse:
        """The account's purse, with its wallet as of the last commit; its budgets are read once."""
        purse = self._purses.of(account_id)
        purse.reads += 1
        try:
            if not purse.budgets.is_read:
                purse.take_budgets(await self._store.read(ReadBudgets(account_id, self._now_ms())))
            state = await self._store.read(WalletOf(account_id))
        finally:
            purse.reads -= 1
        purse.take(state)
        return purse

    async def settle(
        self, hold: Hold, cost_nano: int, record: RequestRecord | None, *, may_exceed: bool = False
    ) -> int:
        """End a hold by charging `cost_nano`; returns what was charged.

        At most what is held is charged, or where the cost `may_exceed` that, also what the wallet has free just then.
        What is not charged comes free at once. `record` is written with it, with what was charged as its cost. Returns
        once it is on the disk. Raises SettlementPending where that takes longer than `settle_wait_s`, NotHeld for a
        hold that has ended.
        """
        charge = self._purses.charge(hold, cost_nano, self._now_ms(), may_exceed=may_exceed)
        if record is not None and record.cost_nano != charge.amount_nano:
            record = record._replace(cost_nano=charge.amount_nano)
        settle = Settle(hold.request_id, hold.account_id, charge, record, hold.windows, hold.pocket)
        written = self._store.write(settle, in_outage="wait")
        self._wait_list.wake(hold.account_id)
        try:
            charged: int = await self._wait_limit.wait_for(written)
        except TooLong:
            raise SettlementPending(hold, written) from None
        return charged

    def take_back(self, pending: SettlementPending, record: RequestRecord) -> None:
        """Charge nothing after all, since the answer is refused; `record` says so in the request log.

        Certain from this call on: a settlement that still waits is withdrawn, one that is committed is given back by an
        entry of its own, which is queued behind it.
        """
        if self._store.withdraw(pending.written):
            self._end(pending.hold.request_id)
            _keep(self._store.write(AddRecord(record), is_durable=False, in_outage="keep"))
        else:
            self.give_back(pending.hold, record)

    def release(self, request_id: str) -> None:
        """Hold nothing for a request any more, if anything was held; a charge stays."""
        if (hold := self._purses.release(request_id)) is not None:
            self._wait_list.wake(hold.account_id)

    def give_back(self, hold: Hold, record: RequestRecord) -> "asyncio.Future[int]":
        """Return what a request was charged, if anything, once; `record` says why in the request log."""
        back = GiveBack(hold.request_id, hold.account_id, record, hold.windows, hold.pocket)
        return _keep(self._store.write(back, in_outage="keep"))

    def note_departure(self, record: RequestRecord) -> "asyncio.Future[int]":
        """Have the request log say that the client had left, whose settlement was queued before."""
        return _keep(self._store.write(Departure(record.id, record), is_durable=False, in_outage="keep"))

    async def credit(self, account_id: str, amount_nano: int, reference: str, *, note: str | None = None) -> bool:
        """Add paid money from outside; False if `reference` was applied before.

        `note` is a line for the operator. Raises GatewayError: `conflict` for the guests' account, which pays for
        nothing, `invalid_value` for more than a wallet can hold.
        """
        if amount_nano <= 0:
            raise ValueError("a credit is more than nothing")
        return await self._move_by_hand(account_id, "credit", amount_nano, reference, note)

    async def adjust(self, account_id: str, amount_nano: int, reference: str, *, note: str | None = None) -> bool:
        """Correct what was paid by hand, up or down, below nothing too. Returns and raises as `credit`."""
        return await self._move_by_hand(account_id, "adjustment", amount_nano, reference, note)

    async def _move_by_hand(
        self, account_id: str, kind: PaidKind, amount_nano: int, reference: str, note: str | None
    ) -> bool:
        check_can_own(account_id)
        return await self._store.write(Move(account_id, kind, amount_nano, reference, note))

    async def grant(
        self,
        account_id: str,
        amount_nano: int,
        reference: str,
        *,
        expires_at_ms: int | None = None,
        note: str | None = None,
    ) -> bool:
        """Give credit that nobody paid for; False if `reference` was applied before. Raises as `credit`."""
        if amount_nano <= 0:
            raise ValueError("a grant is more than nothing")
        check_can_own(account_id)
        return await self._store.write(Grant(account_id, amount_nano, reference, expires_at_ms, note))

    async def budgets(self, account_id: str, holders: Holders | None = None) -> list[BudgetStanding]:
        """All of an account as they stand now, or those that bound what these spend."""
        purse = await self._read_wallet(account_id)
        return list(purse.budgets.standings(self._now_ms(), holders))

    async def budgets_held_by(self, account_id: str, holders: Iterable[str]) -> list[BudgetStanding]:
        """Those that these hold themselves, as they stand now: an account may have as many as its keys."""
        purse = await self._read_wallet(account_id)
        return list(purse.budgets.held_by(holders, self._now_ms()))

    async def group(self, account_id: str, name: str) -> BudgetGroup | None:
        """An account's group of keys that has this name; None where there is none."""
        return await self._store.read(GroupByName(account_id, name))

    def new_budget(self, budget: Budget) -> BudgetStanding:
        """One that is about to be made, as it will stand."""
        return self._purses.of(budget.account_id).budgets.new(budget, self._now_ms())

    async def set_aside(self, budget: Budget, ends_at_ms: int, above: Holders) -> Hold:
        """Hold all of a lease until it is made, of what is above it, as for a request; money that lasts until its end.

        Nothing is waited for. Raises as `hold`; GatewayError `invalid_value` about `expires_at` for an end that is
        past, or later than one above has.
        """
        if ends_at_ms <= self._now_ms():
            raise GatewayError("invalid_value", "A lease ends later than now.", param="expires_at")
        by = Spender(above, budget.amount_nano, ends_at_ms)
        hold = await self._hold_after_reading(budget.id, budget.account_id, budget.amount_nano, by, 0.0)
        last_ms = self._purses.of(budget.account_id).budgets.ends_at_ms(hold.windows)
        if last_ms is not None and ends_at_ms > last_ms:
            self.release(budget.id)
            message = f"A lease ends with the one that it is set aside from, at {last_ms // 1000} at the latest."
            raise GatewayError("invalid_value", message, param="expires_at")
        return hold

    async def have_heard(self, account_id: str) -> None:
        """Wait until whoever else spends of an account knows its budgets as they were just committed: nobody does."""

    async def return_leases(self, account_id: str, ended: Sequence[str] = ()) -> int:
        """Give back what is left of an account's leases that are over, and that nothing is held of; nano-USD.

        Of the `ended` ones this process need not have heard, as where a command has ended their key.
        """
        purse = await self._read_wallet(account_id)
        purse.budgets.change(BudgetsChanged(account_id, ended=tuple(ended)))
        return await self._return(account_id, purse.budgets.leases_over(self._now_ms()))

    async def _read_returned(self, account_id: str) -> Purse:
        """As `_read_wallet`, with what is left of leases that are over by now."""
        purse = await self._read_wallet(account_id)
        over = purse.budgets.leases_over(self._now_ms())
        if not over:
            return purse
        await self._return(account_id, over)
        return await self._read_wallet(account_id)

    async def _return(self, account_id: str, over: Sequence[str]) -> int:
        """Thousands some at a time, since others wait for the writer."""
        returned_nano = 0
        for some in in_batches(over, _MOST_RETURNED_AT_ONCE):
            returned_nano += await self._store.write(ReturnLeases(account_id, some))
        return returned_nano

    async def applied(self, kind: OutsideKind, reference: str) -> Applied | None:
        """The entry from outside that has this reference; None where there is none."""
        return await self._store.read(AppliedBy(kind, reference))

    async def balance(self, account_id: str) -> Balance:
        """The account's wallet as of the last commit, less what is held now; empty for an account without one."""
        return (await self._read_wallet(account_id)).balance(self._now_ms())

    async def zone(self, account_id: str) -> str:
        """In which the account's days begin."""
        return (await self._read_wallet(account_id)).budgets.zone

    async def catch_up(self, entries: Iterable[Entry | RequestRecord], left_by: int | None = None) -> None:
        """Carry out what an earlier process, or replica, could not; what it had done is not done again. Durable."""
        await self._store.write(CatchUp(tuple(entries), left_by))

    def release_stale_holds(self) -> int:
        """Release the holds that are older than any request can be, and so nobody's. Returns how many."""
        since_ms = self._now_ms() - int(self._longest_hold_s * 1000)
        stale = [hold.request_id for hold in self._purses.holds if hold.state == "open" and hold.since_ms < since_ms]
        for request_id in stale:
            self.release(request_id)
        return len(stale)

    def held_now(self) -> HeldNow:
        """By all running requests, and by those whose charge is not written yet."""
        holds = tuple(self._purses.holds)
        oldest_s = (self._now_ms() - holds[0].since_ms) / 1000 if holds else 0.0
        overdrawn_nano = sum(purse.overdrawn_nano for purse in self._purses)
        return HeldNow(len(holds), sum(hold.amount_nano for hold in holds), oldest_s, overdrawn_nano)

    def held_by_account(self) -> dict[str, HeldOf]:
        """Of each account whose requests hold any."""
        return {purse.account_id: held for purse in self._purses if (held := purse.held)}

    async def held_by_all(self) -> dict[str, HeldOf]:
        """The same by the requests of every server."""
        return self.held_by_account()

    async def expire_grants(self) -> int:
        """Take back what is left, and not held, of every grant whose time is over; returns nano-USD."""
        now_ms = self._now_ms()
        account_ids = await self._store.read(AccountsWithExpiredGrants(now_ms))
        left = [(one, (await self._read_wallet(one)).expired(now_ms)) for one in account_ids]
        taken = tuple((account_id, parts) for account_id, parts in left if parts.grants)
        return await self._store.write(ExpireGrants(taken)) if taken else 0

    @property
    def is_writable(self) -> bool:
        """Whether holds and settlements go through now."""
        return self._store.is_available

    def backlog(self) -> tuple[int, int]:
        """How many writes wait for the database, and the bytes of its log. Raises OSError."""
        return self._store.waiting, self._store.log_bytes

    async def watch_grants(self) -> None:
        """Expire grants as their time comes, until cancelled; a hold does not wait for this."""
        while True:
            with suppress(GatewayError):  # the database cannot be written: the next round does it
                if self._store.is_elected:
                    await self.expire_grants()
            await asyncio.sleep(_EXPIRY_INTERVAL_S)

    async def watch_holds(self) -> None:
        """Release stale holds now and then, until cancelled: a bug must not keep a customer's money until a restart."""
        while True:
            await asyncio.sleep(_SWEEP_INTERVAL_S)
            if count := self.release_stale_holds():
                logger.critical("released %d holds that no request can still have", count)

    async def check(self, *, of_all_entries: bool = False) -> list[str]:
        """Every discrepancy between the facts and what is derived from them, in words; empty is good."""
        found = await self._store.read(Discrepancies(of_all_entries))
        return [f"{what}: {', '.join(map(str, row))}" for what, row in found]

    def refusal(self, account_id: str, minimum_nano: int, holders: Holders = frozenset()) -> GatewayError:
        """What a program can tell apart: money is missing, which is final, or the account's own requests hold it.

        `minimum_nano` is what its request may cost at least. Of the wallet before budgets, and of what is final first.
        """
        by = Spender(holders, minimum_nano)
        return self._refusals.of(self._purses.of(account_id), by, self._now_ms())

    def _wallet_changed(self, state: WalletState) -> None:
        """A commit has changed it: what is spent from now on is decided by this."""
        if (purse := self._purses.known(state.account_id)) is not None:
            purse.take(state)
            self._wait_list.wake(state.account_id)

    def _budgets_changed(self, told: BudgetsChanged) -> None:
        if (purse := self._purses.known(told.account_id)) is not None:
            purse.budgets.change(told)
            self._wait_list.wake(told.account_id)

    def _budget_spent(self, told: BudgetSpent) -> None:
        if (purse := self._purses.known(told.account_id)) is not None:
            purse.budgets.note(told)

    def _pocket_changed(self, told: PocketLeft) -> None:
        if (purse := self._purses.known(told.account_id)) is not None:
            purse.note_pocket(told)
            self._wait_list.wake(told.account_id)

    def _ended(self, ended: Ended) -> None:
        for request_id in ended.request_ids:
            self._end(request_id)

    def _end(self, request_id: str) -> None:
        if (hold := self._purses.end(request_id)) is not None:
            self._wait_list.wake(hold.account_id)


def check_can_own(account_id: str) -> None:
    """Raises GatewayError `conflict` for the guests' account."""
    if account_id == GUEST_ACCOUNT_ID:
        raise GatewayError("conflict", "Guests have no money: they are served free of charge, or not at all.")


def _keep(written: "asyncio.Future[Any]") -> "asyncio.Future[Any]":
    """What is carried out whoever waits for it; its failure is logged by the store, and not reported as forgotten."""
    written.add_done_callback(lambda done: done.cancelled() or done.exception())
    return written
