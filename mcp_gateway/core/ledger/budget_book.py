"""One account's budgets in memory: what was spent of each window as it was last committed, and what is held of it.

Exact as a purse is: only this process spends, and only it makes, changes and ends budgets while it runs.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, tzinfo
from itertools import chain
from typing import NamedTuple

from mcp_gateway.core.ledger.budgets import (
    Budget,
    BudgetsChanged,
    BudgetsOf,
    BudgetSpent,
    BudgetStanding,
    Lease,
    Span,
    Spent,
    span_at,
)
from mcp_gateway.core.zones import zone_of

logger = logging.getLogger(__name__)

_NEVER_MS = 2**63

Holders = frozenset[str]
"""The ids of whoever a request is spent by: its key, those that made that one, their groups. Its account always is."""


class Spender(NamedTuple):
    """Who spends, and what its budgets must have room for.

    `until_ms` is how long the money must last that is set aside for a lease: a grant that expires by then does not.
    """

    holders: Holders = frozenset()
    least_nano: int = 0
    until_ms: int | None = None


NOBODY = Spender()


class BudgetBook:
    """Of one account, with nothing in it until it is read."""

    __slots__ = (
        "_account_id", "_budgets", "_by_holder", "_covered", "_first_over_ms", "_held", "_leases", "_places", "_spans",
        "_spent", "_told", "_zone", "is_read",
    )  # fmt: skip

    def __init__(self, account_id: str) -> None:
        self.is_read = False
        self._zone: tzinfo = UTC
        self._told: list[BudgetsChanged] = []
        self._account_id = account_id
        self._by_holder: dict[str, list[Budget]] = {}
        self._budgets: dict[str, Budget] = {}
        self._places: dict[str, int] = {}
        """Of each budget: one that was made later has a higher one."""
        self._leases: dict[str, Lease] = {}
        self._covered: dict[str, frozenset[str]] = {}
        self._spans: dict[str, Span] = {}
        self._first_over_ms = _NEVER_MS
        """No lease is over before, so that thousands of them are not gone through whenever money is lacking."""
        self._spent: dict[str, dict[int, int]] = {}
        """Of each budget, by the start of the window."""
        self._held = Counter[Spent]()

    @property
    def zone(self) -> str:
        """The name of the one in which days begin."""
        return str(self._zone)

    def read(self, told: BudgetsOf) -> None:
        """Know them as they stood, once; what commits have told meanwhile is later, and stays."""
        later, self._told = self._told, []
        self.is_read = True
        self.change(BudgetsChanged(told.account_id, told.budgets, told.leases, zone=told.zone))
        for change in later:
            self.change(change)
        for (budget_id, starts_at_ms), spent_nano in told.spent.items():
            self._spent.setdefault(budget_id, {}).setdefault(starts_at_ms, spent_nano)
        self._spent = {budget_id: spent for budget_id, spent in self._spent.items() if budget_id in self._budgets}

    def change(self, told: BudgetsChanged) -> None:
        """Know which there are from now on; until they are read, what is told is kept for then."""
        if not self.is_read:
            self._told.append(told)
            return
        if told.zone is not None:
            self._zone = _known(told.zone)
            self._spans.clear()
        for budget in told.made:
            if budget.id not in self._budgets:  # which a read may have told that began before and ended after it
                self._budgets[budget.id] = budget
                self._places[budget.id] = 1 + next(reversed(self._places.values()), 0)
                self._by_holder.setdefault(budget.holder, []).append(budget)
        for lease in told.leases:
            self._leases[lease.budget_id] = lease
            self._covered[lease.budget_id] = self._covered_by(lease)
            self._first_over_ms = min(self._first_over_ms, self._over_at_ms(lease))
        self._end(told.ended)
        for lease_id, at_ms in told.over:
            self._have_over(lease_id, at_ms)
        for lease_id in told.returned:
            self._leases.pop(lease_id, None)
            self._covered.pop(lease_id, None)

    def _covered_by(self, lease: Lease) -> frozenset[str]:
        """The budgets above that its amount was spent of already, or that of a lease which that was spent of."""
        above = frozenset(budget_id for budget_id, _ in lease.windows)
        return above.union(*(self._covered.get(budget_id, ()) for budget_id in above))

    def _end(self, ended: Iterable[str]) -> None:
        for budget_id in ended:
            if (lease := self._leases.get(budget_id)) is not None:
                self._leases[budget_id] = lease._replace(is_ended=True)
                self._first_over_ms = 0
            if (budget := self._budgets.pop(budget_id, None)) is not None:
                self._forget_holder_of(budget)
                del self._places[budget_id]
            self._spans.pop(budget_id, None)
            self._spent.pop(budget_id, None)

    def _have_over(self, lease_id: str, at_ms: int) -> None:
        """Unless its time was over before."""
        budget = self._budgets.get(lease_id)
        if budget is None or budget.lease_ends_at_ms is None or budget.lease_ends_at_ms <= at_ms:
            return
        over = self._budgets[lease_id] = budget._replace(lease_ends_at_ms=at_ms)
        of_holder = self._by_holder[budget.holder]
        of_holder[of_holder.index(budget)] = over
        self._first_over_ms = min(self._first_over_ms, at_ms)

    def _forget_holder_of(self, budget: Budget) -> None:
        of_holder = self._by_holder[budget.holder]
        of_holder.remove(budget)
        if not of_holder:
            del self._by_holder[budget.holder]

    def note(self, told: BudgetSpent) -> None:
        """Know what a commit has made of what was spent; nothing of a budget that has ended."""
        if not self.is_read or told.window[0] in self._budgets:
            budget_id, starts_at_ms = told.window
            self._spent.setdefault(budget_id, {})[starts_at_ms] = told.spent_nano

    def windows_of(self, holders: Holders, now_ms: int) -> tuple[Spent, ...]:
        """The windows that a request of these is spent of."""
        if not self._budgets:
            return ()
        return tuple((one.id, self._span(one, now_ms).starts_at_ms) for one in self._of(holders))

    def pocket_of(self, windows: Sequence[Spent]) -> str | None:
        """The lease whose money is spent with these windows; None for the wallet's. Of several the deepest."""
        if not self._leases:
            return None
        found = [budget_id for budget_id, _ in windows if budget_id in self._leases]
        if not found:
            return None
        return self._leases[max(found, key=lambda one: (len(self._covered[one]), one))].pocket

    def most(self, windows: Sequence[Spent], amount_nano: int, now_ms: int, held_nano: int = 0) -> int:
        """As much of an amount as each of these windows has room for, beside what `held_nano` has of it already."""
        for window in windows:
            amount_nano = min(amount_nano, held_nano + max(0, self._room_nano(window, now_ms)))
        return amount_nano

    def ends_at_ms(self, windows: Sequence[Spent]) -> int | None:
        """When the first of the leases is over whose windows are among these; None where none is."""
        ends = [self._budgets[one].lease_ends_at_ms for one, _ in windows if one in self._budgets]
        return min((ends_at_ms for ends_at_ms in ends if ends_at_ms is not None), default=None)

    def leases_over(self, now_ms: int) -> tuple[str, ...]:
        """Those that can be given back: ended or over, with nothing held of them, each after all that are under it."""
        if now_ms < self._first_over_ms:
            return ()
        over = {one.budget_id: one for one in self._leases.values() if self._is_returnable(one, now_ms)}
        self._first_over_ms = min(map(self._over_at_ms, self._leases.values()), default=_NEVER_MS)
        blocked = {above for one in self._leases.values() if one.budget_id not in over for above, _ in one.windows}
        returnable = []
        for lease_id in sorted(over, key=lambda one: len(self._covered[one]), reverse=True):
            if lease_id in blocked:
                blocked.update(above for above, _ in over[lease_id].windows)
            else:
                returnable.append(lease_id)
        return tuple(returnable)

    def _is_returnable(self, lease: Lease, now_ms: int) -> bool:
        return self._over_at_ms(lease) <= now_ms and not self._held[lease.budget_id, 0]

    def _over_at_ms(self, lease: Lease) -> int:
        """When nothing may be spent of it any more; 0 where it has ended."""
        budget = None if lease.is_ended else self._budgets.get(lease.budget_id)
        return 0 if budget is None or budget.lease_ends_at_ms is None else budget.lease_ends_at_ms

    def hold(self, windows: Sequence[Spent], amount_nano: int) -> None:
        """So much more is held of these windows, or less."""
        for window in windows:
            self._held[window] += amount_nano
            if not self._held[window]:
                del self._held[window]

    def new(self, budget: Budget, now_ms: int) -> BudgetStanding:
        """One of which nothing was spent."""
        return BudgetStanding(budget, span_at(budget.window, now_ms, self._zone), 0, 0)

    def standings(self, now_ms: int, holders: Holders | None = None) -> Iterator[BudgetStanding]:
        """Of all, or of those that bound what these may spend, in the order in which they were made."""
        found: Iterable[Budget] = self._budgets.values()
        if holders is not None:
            found = sorted(self._of(holders), key=lambda budget: self._places[budget.id])
        for budget in found:
            yield self._standing(budget, now_ms)

    def held_by(self, holders: Iterable[str], now_ms: int) -> Iterator[BudgetStanding]:
        """Of those that these hold themselves, whatever else bounds them."""
        for budget in chain.from_iterable(self._by_holder.get(holder, ()) for holder in holders):
            yield self._standing(budget, now_ms)

    def _standing(self, budget: Budget, now_ms: int) -> BudgetStanding:
        span = self._span(budget, now_ms)
        window = budget.id, span.starts_at_ms
        return BudgetStanding(budget, span, self._spent_of(window), self._held[window], budget.is_over_at(now_ms))

    def _of(self, holders: Holders) -> Iterable[Budget]:
        """Those that bound these; what a lease is of was spent of those above it already, when it was made."""
        of = self._by_holder
        found = chain(of.get(self._account_id, ()), *(of[holder] for holder in holders if holder in of))
        if not self._covered:
            return found
        bounding = tuple(found)
        covered = frozenset[str]().union(*(self._covered.get(budget.id, ()) for budget in bounding))
        return [budget for budget in bounding if budget.id not in covered]

    def _room_nano(self, window: Spent, now_ms: int) -> int:
        budget = self._budgets.get(window[0])
        if budget is None or budget.is_over_at(now_ms):
            return 0  # and what was held of it stays
        return budget.amount_nano - self._spent_of(window) - self._held[window]

    def _spent_of(self, window: Spent) -> int:
        spent = self._spent.get(window[0])
        return 0 if spent is None else spent.get(window[1], 0)

    def _span(self, budget: Budget, now_ms: int) -> Span:
        """The current one."""
        span = self._spans.get(budget.id)
        if span is None or (span.ends_at_ms is not None and now_ms >= span.ends_at_ms):
            span = self._spans[budget.id] = span_at(budget.window, now_ms, self._zone)
            self._forget_before(budget.id, span)
        return span

    def _forget_before(self, budget_id: str, span: Span) -> None:
        """What was spent of windows that are over in every zone, since an account may take back the zone that it had.

        Unless something is held of them.
        """
        spent = self._spent.get(budget_id)
        if spent is None or span.ends_at_ms is None:
            return
        over_ms = span.starts_at_ms - 2 * (span.ends_at_ms - span.starts_at_ms)
        over = [one for one in spent if one < over_ms and not self._held[budget_id, one]]
        for starts_at_ms in over:
            del spent[starts_at_ms]


def _known(zone: str) -> tzinfo:
    """UTC in place of one that this system does not know any more: an account must not be without service for that."""
    try:
        return zone_of(zone)
    except ValueError as error:
        logger.error("days of an account's budgets begin by UTC: %s", error)
        return UTC
