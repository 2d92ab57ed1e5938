"""What a replica can spend of an account: what is allotted to it, less what its requests hold.

A purse like any other, for which the wallet is the allotment and a window has room for as much as is allotted of it.
"""

from collections.abc import Iterator

from mcp_gateway.core.ledger import rules
from mcp_gateway.core.ledger.allotments import (
    LEAST_TIMES,
    MOST_TIMES,
    AllMoney,
    Allotted,
    Amounts,
    Draw,
    Fund,
    Lack,
    money_in,
    of_money,
    of_windows,
    with_more,
    without,
)
from mcp_gateway.core.ledger.budget_book import BudgetBook, Holders, Spender
from mcp_gateway.core.ledger.budgets import PocketLeft, Spent
from mcp_gateway.core.ledger.entries import Short, WalletState
from mcp_gateway.core.ledger.purse import Hold, Purse
from mcp_gateway.core.ledger.rules import NOTHING, Amount, Free, GrantLeft

_MOST_KNOWN = 1000
"""Of those who have spent: all are forgotten then, and drawn for once more."""
_STEP = 4
_LASTS_MS = 4000
"""For how long what is drawn is to last: whoever needs more sooner draws more, so that few holds wait for a commit."""


class AllottedBook(BudgetBook):
    """Budgets of which a replica may hold what is allotted to it."""

    __slots__ = ("_allotted",)

    def __init__(self, account_id: str) -> None:
        super().__init__(account_id)
        self._allotted: dict[Spent, int] = {}

    def allot(self, amounts: dict[Spent, int]) -> None:
        self._allotted = amounts

    def room_nano(self, window: Spent, now_ms: int) -> int:
        """What is allotted of a window and not held; nothing once nothing may be spent of it."""
        budget = self._budgets.get(window[0])
        if budget is None or budget.is_over_at(now_ms):
            return 0
        return self._allotted.get(window, 0) - self._held[window]

    _room_nano = room_nano


class AllottedPurse(Purse):
    """One account's, of one replica."""

    __slots__ = (
        "_allotted",
        "_drawn_at_ms",
        "_expiries",
        "_known",
        "_returning",
        "_times",
        "is_idle",
        "left",
        "promised_nano",
        "version",
        "whole",
    )

    budgets: AllottedBook

    def __init__(self, account_id: str) -> None:
        super().__init__(account_id)
        self.budgets = AllottedBook(account_id)
        self.version = -1
        """Of the budgets, as they were read."""
        self.whole: AllMoney | None = None
        """All of the account, as it was seen last."""
        self.left: WalletState | None = None
        """The wallet as this replica's latest commit has left it."""
        self.promised_nano = 0
        """To those who draw now: they will hold so much of what is allotted and not held yet."""
        self.is_idle = False
        """Whether nothing was held when that was looked at last."""
        self._version = 0
        self._times = LEAST_TIMES
        self._drawn_at_ms = -_LASTS_MS
        self._known: set[Holders] = set()
        """Who was drawn for since the budgets were read."""
        self._allotted: Amounts = {}
        self._expiries: dict[int, int | None] = {}
        self._returning: dict[int, Amounts] = {}
        """What is about to be given back, by the numbers of these writes."""

    @property
    def is_needed(self) -> bool:
        return bool(self.holds or self.reads or self._allotted or self._returning)

    def know(self, told: Allotted) -> None:
        """What is allotted from now on."""
        if told.returned is not None:
            self._returning.pop(told.returned, None)
        self._allotted = told.amounts
        self._expiries.update(told.expiries)
        self._take_allotted()

    def forget_allotted(self) -> None:
        """Nothing is allotted any more; what is held is settled from what is free then."""
        self._allotted = {}
        self._returning.clear()
        self._take_allotted()

    def know_budgets(self, whole: AllMoney) -> None:
        """Know the account's budgets as they are, in the place of those that were known."""
        if whole.version == self.version and self.budgets.is_read:
            return
        book = AllottedBook(self.account_id)
        book.read(whole.budgets)
        for hold in self.holds.values():
            book.hold(hold.windows, hold.amount_nano)
        self.budgets, self.version = book, whole.version
        self._known.clear()
        self._take_allotted()

    def outdate(self) -> None:
        """Whatever is known of budgets may not be so any more: it is read again before anything is spent."""
        self.version = -1
        self._known.clear()

    def covers(self, by: Spender, amount_nano: int, now_ms: int) -> bool:
        """Whether what is allotted does, for somebody who was drawn for before."""
        return by.holders in self._known and self.spendable_nano(now_ms, by.holders) >= amount_nano

    def begin_to_draw(self, now_ms: int) -> None:
        """Whoever draws while others do draws as they do."""
        is_soon = now_ms - self._drawn_at_ms < _LASTS_MS
        self._times = min(_STEP * self._times, MOST_TIMES) if is_soon else max(self._times // _STEP, LEAST_TIMES)
        self._drawn_at_ms = now_ms

    def lacks(self, needed_nano: int, most_nano: int, by: Spender, now_ms: int, *, beside_others: bool = True) -> Draw:
        """What is to be drawn so that this can be held, beside what is promised to others of this replica or not."""
        windows = self.budgets.windows_of(by.holders, now_ms)
        pocket = self.budgets.pocket_of(windows)
        promised_nano = self.promised_nano if beside_others else 0
        free_nano = _less(rules.spendable_nano(self._free_of(pocket, by.until_ms), now_ms), promised_nano)
        lacks = []
        for window in windows:
            room_nano = _less(self.budgets.room_nano(window, now_ms), promised_nano)
            lacks.append(Lack(window, max(0, by.least_nano - room_nano), max(0, most_nano - room_nano)))
        least_nano = needed_nano if pocket is None else by.least_nano
        return Draw(
            self.account_id,
            self.version,
            pocket,
            max(0, least_nano - free_nano),
            max(0, most_nano - free_nano),
            tuple(lacks),
            by.until_ms,
            self._times,
        )

    def lacks_of(self, hold: Hold, needed_nano: int, most_nano: int, now_ms: int) -> Draw:
        """The same so that a hold can be raised."""
        free_nano = rules.spendable_nano(self._free_of(hold.pocket), now_ms)
        lacks, held_nano = [], hold.amount_nano
        for window in hold.windows:
            room_nano = held_nano + self.budgets.room_nano(window, now_ms)
            lacks.append(Lack(window, max(0, needed_nano - room_nano), max(0, most_nano - room_nano)))
        least_nano, wanted_nano = needed_nano - held_nano - free_nano, most_nano - held_nano - free_nano
        return Draw(self.account_id, self.version, hold.pocket, max(0, least_nano), max(0, wanted_nano), tuple(lacks))

    def know_spender(self, holders: Holders) -> None:
        """Whoever was drawn for by the budgets as they are known now."""
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known.add(holders)

    def surplus(self, *, yields: bool = False) -> dict[Fund, int]:
        """What is allotted and not held; what is promised, too, where this replica `yields`."""
        left = without(self._current(), self.held_funds())
        if yields or not self.promised_nano:
            return left
        kept = {fund: min(nano, self.promised_nano) for fund, nano in left.items()}
        return without(left, kept)

    def give(self, number: int, amounts: Amounts) -> None:
        """This is not to be held from now on: it is about to be given back."""
        self._returning[number] = amounts
        self._take_allotted()

    def held_funds(self) -> dict[Fund, int]:
        held: dict[Fund, int] = {}
        for hold in self.holds.values():
            held = with_more(held, of_money(hold.pocket, hold.parts))
            held = with_more(held, of_windows(hold.windows, hold.amount_nano))
        return held

    def _current(self) -> Amounts:
        left = self._allotted
        for amounts in self._returning.values():
            left = without(left, amounts)
        return left

    def _take_allotted(self) -> None:
        """Have the purse be what is allotted; a pocket of which more is held than that is no smaller than what is."""
        left = self._current()
        all_money, lease_ids = money_in(left, "wallet"), {fund.id for fund in left if fund.kind == "pocket"}
        for lease_id in lease_ids | self._pockets.keys():
            of_lease = money_in(left, "pocket", lease_id)
            pocket = self._pockets.get(lease_id)
            if pocket is not None:
                of_lease = _most_of(of_lease, pocket.held)
            self._fill(lease_id, of_lease)
            if of_lease == NOTHING:
                del self._pockets[lease_id]
            all_money = rules.added(all_money, of_lease)
        grants = [GrantLeft(one, nano, self._expiries.get(one)) for one, nano in all_money.grants]
        self._wallet = Free(all_money.paid_nano, tuple(sorted(grants, key=_order)))
        self.budgets.allot({(fund.id, fund.part): nano for fund, nano in left.items() if fund.kind == "window"})

    def note_pocket(self, told: PocketLeft) -> None:
        """What is left of it is not this replica's alone: what is allotted of it is told by itself."""

    def _change_held(self, hold: Hold, ended: Amount, begun: Amount) -> None:
        super()._change_held(hold, ended, begun)
        if hold.pocket is not None:
            self._take_allotted()


def _less(free_nano: int, promised_nano: int) -> int:
    """What is free beside what is promised: not below nothing for that."""
    return min(free_nano, max(0, free_nano - promised_nano))


def _order(grant: GrantLeft) -> tuple[bool, int, int]:
    """The first to expire first."""
    return grant.expires_at_ms is None, grant.expires_at_ms or 0, grant.id


def _most_of(one: Amount, other: Amount) -> Amount:
    """Of each part the larger."""
    parts = dict(one.grants)
    for grant_id, nano in other.grants:
        parts[grant_id] = max(parts.get(grant_id, 0), nano)
    return Amount(max(one.paid_nano, other.paid_nano), tuple(parts.items()))


class WholePurse(Purse):
    """All of an account as one replica sees it: its own requests, and what others are allotted as if they held it."""

    __slots__ = ("_elsewhere", "others")

    def __init__(self, purse: AllottedPurse, whole: AllMoney, replica: int | None) -> None:
        super().__init__(purse.account_id)
        self.take(whole.wallet)
        self.budgets.read(whole.budgets)
        self.holds = dict(purse.holds)
        self._elsewhere: dict[Fund, int] = {}
        self.others = {other for other, amounts in whole.allotted.items() if amounts} - {replica}
        """Replicas that are allotted something."""
        for other in self.others:
            self._elsewhere = with_more(self._elsewhere, whole.allotted[other])
        held = with_more(purse.held_funds(), self._elsewhere)
        for fund, nano in held.items():
            if fund.kind == "window":
                self.budgets.hold(((fund.id, fund.part),), nano)
        self._held = money_in(held, "wallet")
        for lease_id, left in whole.budgets.pockets:
            of_lease = money_in(held, "pocket", lease_id)
            self._held = rules.added(self._held, of_lease)
            self._fill(lease_id, _most_of(left, of_lease))
            self._pockets[lease_id].held = of_lease
            self._in_pockets = rules.without(self._in_pockets, of_lease)

    def shorts(self, now_ms: int, by: Spender) -> Iterator[Short]:
        """As of any purse; what others are allotted may come free, too."""
        for short in super().shorts(now_ms, by):
            yield short._replace(held_nano=short.held_nano + self._held_elsewhere(short))

    def _held_elsewhere(self, short: Short) -> int:
        if short.budget is not None:
            return self._elsewhere.get(Fund("window", short.budget.budget.id, short.budget.span.starts_at_ms), 0)
        kind = "wallet" if short.pocket is None else "pocket"
        return money_in(self._elsewhere, kind, short.pocket or "").amount_nano
