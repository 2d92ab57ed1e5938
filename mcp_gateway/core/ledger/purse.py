"""What an account can spend, known in memory: its wallet as it was last committed, less what its requests hold.

Exact since only this process takes money out of a wallet: others can only add, so that a purse which is behind refuses
too early and never too late. Awaits nothing, so that no decision stands between a look and a change.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from mcp_gateway.core.ledger import rules
from mcp_gateway.core.ledger.budget_book import NOBODY, BudgetBook, Holders, Spender
from mcp_gateway.core.ledger.budgets import BudgetsOf, PocketLeft, Spent
from mcp_gateway.core.ledger.entries import Balance, HeldOf, Short, WalletState
from mcp_gateway.core.ledger.rules import NOTHING, Amount, Free

_MOST_PURSES = 10_000
"""Beyond it those are forgotten that nothing is held of: a wallet that is asked for again is read again."""

Misuse = Literal["hold of another account", "another amount", "ended already", "never was"]


class NotHeld(Exception):
    """A hold is asked for, or ended, otherwise than it was made: a bug of ours, by its name."""

    def __init__(self, reason: Misuse, request_id: str) -> None:
        super().__init__(f"{reason}: {request_id}")
        self.reason = reason


@dataclass(slots=True, eq=False)
class Hold:
    """What is set aside for a running request; once its settlement waits to be written, what it is charged."""

    request_id: str
    account_id: str
    needed_nano: int
    most_nano: int
    since_ms: int
    parts: Amount
    windows: tuple[Spent, ...] = ()
    """Of the budgets that it is held of, too."""
    holders: Holders = frozenset()
    pocket: str | None = None
    """The lease whose money it holds; None where it is the wallet's."""
    state: Literal["open", "charged", "released"] = "open"

    @property
    def amount_nano(self) -> int:
        return self.parts.amount_nano


class _Pocket:
    """What is left of the money that was set aside for a lease, and what is held of that."""

    __slots__ = ("held", "left")

    def __init__(self, left: Amount) -> None:
        self.left = left
        self.held = NOTHING


class Purse:
    """One account's."""

    __slots__ = ("_held", "_in_pockets", "_pockets", "_version", "_wallet", "account_id", "budgets", "holds", "reads")

    def __init__(self, account_id: str) -> None:
        self.account_id = account_id
        self.holds: dict[str, Hold] = {}
        """By request, the first made first."""
        self.reads = 0
        """How many of its wallet are on their way, which would be lost on another purse."""
        self.budgets = BudgetBook(account_id)
        self._wallet = Free(0)
        self._version = -1
        self._held = NOTHING
        self._pockets: dict[str, _Pocket] = {}
        self._in_pockets = NOTHING
        """What is left in all of them, and not held."""

    def take(self, state: WalletState) -> None:
        """Know the wallet as it is in the database, unless a later state is known."""
        if state.version >= self._version:
            self._wallet, self._version = Free(state.paid_nano, state.grants), state.version

    def take_budgets(self, told: BudgetsOf) -> None:
        """Know the account's budgets, and what is set aside for leases, as they stood before what commits have told."""
        if not self.budgets.is_read:
            for lease_id, left in told.pockets:
                if lease_id not in self._pockets:
                    self._fill(lease_id, left)
            self._pockets = {one: pocket for one, pocket in self._pockets.items() if pocket.left != NOTHING}
            self.budgets.read(told)

    def note_pocket(self, told: PocketLeft) -> None:
        """Know what a commit has made of the money set aside for a lease."""
        self._fill(told.pocket, told.left)
        if told.left == NOTHING and self.budgets.is_read:  # until it is read, that it is empty is to be known
            del self._pockets[told.pocket]

    def _fill(self, lease_id: str, left: Amount) -> None:
        pocket = self._pockets.get(lease_id)
        if pocket is None:
            pocket = self._pockets[lease_id] = _Pocket(NOTHING)
        free = rules.without(rules.added(self._in_pockets, pocket.held), pocket.left)
        pocket.left = left
        self._in_pockets = rules.without(rules.added(free, left), pocket.held)

    @property
    def is_needed(self) -> bool:
        """Whether what it knows would be lost on another one."""
        return bool(self.holds or self.reads)

    @property
    def is_read(self) -> bool:
        """Whether its wallet and its budgets are known; else it has nothing."""
        return self._version >= 0 and self.budgets.is_read

    @property
    def free(self) -> Free:
        """Of the wallet itself: what is set aside for leases is not."""
        free = rules.less(self._wallet, self._held)
        return rules.less(free, self._in_pockets) if self._pockets else free

    def _free_of(self, pocket: str | None, until_ms: int | None = None) -> Free:
        """Of the wallet or of a pocket; of grants those that live so long."""
        if pocket is None:
            free = self.free
        else:
            own = self._pockets.get(pocket) or _Pocket(NOTHING)
            free = rules.of_pocket(self._wallet, own.left, own.held, self._held)
        return free if until_ms is None else rules.outliving(free, until_ms)

    def place(
        self, request_id: str, needed_nano: int, most_nano: int, now_ms: int, by: Spender = NOBODY
    ) -> Hold | None:
        """Hold up to `most_nano` for a request; None where the wallet has less than `needed_nano` free.

        Or where a budget of who spends it has less room than that needs. Both may be more than is held.
        """
        if not self.is_read:
            return None
        windows, pocket, room_nano = self.budgets.windows_of(by.holders, now_ms), None, most_nano
        if windows:
            room_nano = self.budgets.most(windows, max(most_nano, by.least_nano), now_ms)
            if room_nano < by.least_nano:
                return None
            pocket = self.budgets.pocket_of(windows)
        least_nano = needed_nano if pocket is None else by.least_nano
        parts = rules.place(self._free_of(pocket, by.until_ms), least_nano, min(most_nano, room_nano), now_ms)
        if parts is None:
            return None
        hold = Hold(request_id, self.account_id, needed_nano, most_nano, now_ms, parts, windows, by.holders, pocket)
        self.holds[request_id] = hold
        self._change_held(hold, NOTHING, parts)
        return hold

    def charge(self, hold: Hold, cost_nano: int, now_ms: int, *, may_exceed: bool) -> Amount:
        """What the request is charged, which alone is held from now on; the rest is free at once."""
        free = None
        if may_exceed and cost_nano > hold.amount_nano:
            free = self._free_of(hold.pocket)
            cost_nano = self.budgets.most(hold.windows, cost_nano, now_ms, hold.amount_nano)
        charged = rules.charge(hold.parts, cost_nano, free, now_ms)
        self._change_held(hold, hold.parts, charged)
        hold.parts, hold.state = charged, "charged"
        return charged

    def resize(self, hold: Hold, needed_nano: int, most_nano: int, now_ms: int) -> bool:
        """Hold up to `most_nano` for the request from now on; False where less than `needed_nano` can be held."""
        most_nano = self.budgets.most(hold.windows, most_nano, now_ms, hold.amount_nano)
        if most_nano < needed_nano:
            return False
        parts = rules.resize(hold.parts, self._free_of(hold.pocket), needed_nano, most_nano, now_ms)
        if parts is None:
            return False
        self._change_held(hold, hold.parts, parts)
        hold.parts = parts
        return True

    def can_pay(self, hold: Hold, needed_nano: int, now_ms: int) -> bool:
        """Whether the wallet covers so much for the request, whatever its budgets do.

        The money of a lease is as much as may be spent of it, so that it is this budget which ends, unless some was
        taken back from outside.
        """
        if hold.pocket is not None:
            return self.budgets.most(hold.windows, needed_nano, now_ms, hold.amount_nano) < needed_nano
        return rules.resize(hold.parts, self.free, needed_nano, needed_nano, now_ms) is not None

    def release(self, hold: Hold) -> None:
        """Nothing is held for the request any more."""
        del self.holds[hold.request_id]
        if hold.state == "open":
            hold.state = "released"
        self._change_held(hold, hold.parts, NOTHING)

    def _change_held(self, hold: Hold, ended: Amount, begun: Amount) -> None:
        """Have one amount be held for the request in the place of another, of all that it is held of."""
        self._held = rules.replaced(self._held, ended, begun)
        if hold.windows:
            self.budgets.hold(hold.windows, begun.amount_nano - ended.amount_nano)
        if hold.pocket is not None and (pocket := self._pockets.get(hold.pocket)) is not None:  # else it is spent
            pocket.held = rules.replaced(pocket.held, ended, begun)
            self._in_pockets = rules.without(rules.added(self._in_pockets, ended), begun)

    def expired(self, now_ms: int) -> Amount:
        return rules.expired(self.free, now_ms)

    def balance(self, now_ms: int) -> Balance:
        """What is set aside for leases is for their holders alone."""
        free, leased_nano = self.free, self._in_pockets.amount_nano
        granted_nano, grants = rules.granted_nano(free, now_ms), rules.living(free, now_ms)
        return Balance(free.paid_nano, granted_nano, self._held.amount_nano, leased_nano, grants)

    def spendable_nano(self, now_ms: int, holders: Holders = frozenset()) -> int:
        """What these have free in the wallet, or in their lease, and each of their budgets has room for."""
        windows = self.budgets.windows_of(holders, now_ms)
        free = self._free_of(self.budgets.pocket_of(windows))
        return self.budgets.most(windows, rules.spendable_nano(free, now_ms), now_ms)

    def shorts(self, now_ms: int, by: Spender) -> Iterator[Short]:
        """What is free of the wallet, and then of each budget, and what may come free; of a lease's money at last.

        A charge that waits to be written will not.
        """
        pocket = self.budgets.pocket_of(self.budgets.windows_of(by.holders, now_ms))
        money = Short(rules.spendable_nano(self._free_of(pocket, by.until_ms), now_ms), 0, pocket=pocket)
        budgets = (Short(one.left_nano, 0, one) for one in self.budgets.standings(now_ms, by.holders))
        for short in (money, *budgets) if pocket is None else (*budgets, money):
            yield short._replace(held_nano=sum(hold.amount_nano for hold in self.holds_of(short)))

    def holds_of(self, short: Short) -> tuple[Hold, ...]:
        """Those that may come free for it, the first made first."""
        standing = short.budget
        if standing is None:
            return tuple(hold for hold in self.open_holds if hold.pocket == short.pocket)
        window = standing.budget.id, standing.span.starts_at_ms
        return tuple(hold for hold in self.open_holds if window in hold.windows)

    @property
    def open_holds(self) -> Iterator[Hold]:
        """Those that may come free, the first made first."""
        return (hold for hold in self.holds.values() if hold.state == "open")

    @property
    def held(self) -> HeldOf | None:
        """By all requests together; None where there are none."""
        if not self.holds:
            return None
        leased = rules.NOTHING
        for pocket in self._pockets.values():
            leased = rules.added(leased, pocket.held)
        of_wallet = rules.without(self._held, leased)
        return HeldOf(of_wallet.paid_nano, of_wallet.granted_nano, leased.amount_nano)

    @property
    def overdrawn_nano(self) -> int:
        """By how much what is held is more than the wallet has, as after money that was taken back from outside."""
        wallet_nano = self._wallet.paid_nano + sum(grant.left_nano for grant in self._wallet.grants)
        return max(0, self._held.amount_nano - max(wallet_nano, 0))


class Purses:
    """Those of all accounts that were asked for, and the hold of each running request."""

    def __init__(self, make: Callable[[str], Purse] = Purse) -> None:
        self._make = make
        self._purses: dict[str, Purse] = {}
        self._holds: dict[str, Hold] = {}

    def of(self, account_id: str) -> Purse:
        """The account's; a new one knows nothing of the wallet yet, and so has nothing."""
        purse = self._purses.get(account_id)
        if purse is None:
            if len(self._purses) >= _MOST_PURSES:
                self._purses = {one: kept for one, kept in self._purses.items() if kept.is_needed}
            purse = self._purses[account_id] = self._make(account_id)
        return purse

    def known(self, account_id: str) -> Purse | None:
        return self._purses.get(account_id)

    def place(
        self,
        purse: Purse,
        request_id: str,
        needed_nano: int,
        most_nano: int,
        now_ms: int,
        by: Spender = NOBODY,
    ) -> Hold | None:
        """The request's hold, which is the same where it is asked for again. Raises NotHeld where that is not so."""
        if (before := self._holds.get(request_id)) is not None:
            return _same(before, purse.account_id, needed_nano, most_nano)
        hold = purse.place(request_id, needed_nano, most_nano, now_ms, by)
        if hold is not None:
            self._holds[request_id] = hold
        return hold

    def charge(self, hold: Hold, cost_nano: int, now_ms: int, *, may_exceed: bool) -> Amount:
        """As Purse.charge, once. Raises NotHeld."""
        return self._of_open(hold).charge(hold, cost_nano, now_ms, may_exceed=may_exceed)

    def resize(self, hold: Hold, needed_nano: int, most_nano: int, now_ms: int) -> bool:
        """As Purse.resize. Raises NotHeld."""
        return self._of_open(hold).resize(hold, needed_nano, most_nano, now_ms)

    def _of_open(self, hold: Hold) -> Purse:
        if hold.state != "open":
            raise NotHeld("ended already", hold.request_id)
        if self._holds.get(hold.request_id) is not hold:
            raise NotHeld("never was", hold.request_id)
        return self._purses[hold.account_id]

    def release(self, request_id: str) -> Hold | None:
        """Hold nothing for a running request any more; returns what was held, None where nothing was.

        What it is charged stays held until that is written, else others would spend it.
        """
        hold = self._holds.get(request_id)
        return self.end(request_id) if hold is not None and hold.state == "open" else None

    def end(self, request_id: str) -> Hold | None:
        """As `release`, also of a charge, which is written or never will be."""
        hold = self._holds.pop(request_id, None)
        if hold is not None:
            self._purses[hold.account_id].release(hold)
        return hold

    @property
    def holds(self) -> Iterable[Hold]:
        """Of all running requests, the first made first."""
        return self._holds.values()

    def __iter__(self) -> Iterator[Purse]:
        return iter(self._purses.values())


def _same(hold: Hold, account_id: str, needed_nano: int, most_nano: int) -> Hold:
    if hold.account_id != account_id:
        raise NotHeld("hold of another account", hold.request_id)
    if (hold.needed_nano, hold.most_nano) != (needed_nano, most_nano):
        raise NotHeld("another amount", hold.request_id)
    if hold.state != "open":
        raise NotHeld("ended already", hold.request_id)
    return hold
