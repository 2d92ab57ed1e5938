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
    BudgetsOf,
    BudgetSpent,
    BudgetStanding,
    Span,
    Spent,
    span_at,
    zone_of,
)

logger = logging.getLogger(__name__)

Holders = frozenset[str]
"""The ids of whoever a request is spent by: its key, those that made that one, their groups. Its account always is."""


class Spender(NamedTuple):
    """Who spends, and what its budgets must have room for."""

    holders: Holders = frozenset()
    least_nano: int = 0


NOBODY = Spender()


class BudgetBook:
    """Of one account, with nothing in it until it is read."""

    __slots__ = ("_account_id", "_budgets", "_by_holder", "_held", "_is_told", "_spans", "_spent", "_zone", "is_read")

    def __init__(self, account_id: str) -> None:
        self.is_read = False
        self._zone: tzinfo = UTC
        self._is_told = False
        self._account_id = account_id
        self._by_holder: dict[str, list[Budget]] = {}
        self._budgets: dict[str, Budget] = {}
        self._spans: dict[str, Span] = {}
        self._spent: dict[Spent, int] = {}
        self._held = Counter[Spent]()

    def read(self, told: BudgetsOf) -> None:
        """Know them as they stood; what commits have told meanwhile is later, and stays."""
        if self.is_read:
            return
        if not self._is_told:
            self.change(told)
        self._spent = told.spent | self._spent
        self.is_read = True

    def change(self, told: BudgetsOf) -> None:
        """Know which there are from now on; until they are read, it is not known what was spent of them."""
        self._is_told = True
        self._zone = _known(told.zone)
        self._budgets = {budget.id: budget for budget in told.budgets}
        self._by_holder = {}
        for budget in told.budgets:
            self._by_holder.setdefault(budget.holder, []).append(budget)
        self._spent = {window: spent for window, spent in self._spent.items() if window[0] in self._budgets}
        self._spans.clear()

    def note(self, told: BudgetSpent) -> None:
        """Know what a commit has made of what was spent."""
        self._spent[told.window] = told.spent_nano

    def windows_of(self, holders: Holders, now_ms: int) -> tuple[Spent, ...]:
        """The windows that a request of these is spent of."""
        if not self._budgets:
            return ()
        return tuple((one.id, self._span(one, now_ms).starts_at_ms) for one in self._of(holders))

    def most(self, windows: Sequence[Spent], amount_nano: int, held_nano: int = 0) -> int:
        """As much of an amount as each of these windows has room for, beside what `held_nano` has of it already."""
        for window in windows:
            amount_nano = min(amount_nano, held_nano + max(0, self._room_nano(window)))
        return amount_nano

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
        """Of all, or of those that bound what these may spend."""
        bounding = None if holders is None else {one.id for one in self._of(holders)}
        for budget in self._budgets.values():
            if bounding is not None and budget.id not in bounding:
                continue
            yield self._standing(budget, now_ms)

    def held_by(self, holders: Iterable[str], now_ms: int) -> Iterator[BudgetStanding]:
        """Of those that these hold themselves, whatever else bounds them."""
        for budget in chain.from_iterable(self._by_holder.get(holder, ()) for holder in holders):
            yield self._standing(budget, now_ms)

    def _standing(self, budget: Budget, now_ms: int) -> BudgetStanding:
        span = self._span(budget, now_ms)
        window = budget.id, span.starts_at_ms
        return BudgetStanding(budget, span, self._spent.get(window, 0), self._held[window])

    def _of(self, holders: Holders) -> Iterator[Budget]:
        of = self._by_holder
        return chain(of.get(self._account_id, ()), *(of[holder] for holder in holders if holder in of))

    def _room_nano(self, window: Spent) -> int:
        budget = self._budgets.get(window[0])
        if budget is None:
            return 0  # it has ended, and what was held of it stays
        return budget.amount_nano - self._spent.get(window, 0) - self._held[window]

    def _span(self, budget: Budget, now_ms: int) -> Span:
        """The current one; what was spent of an earlier one is forgotten, once nothing is held of it."""
        span = self._spans.get(budget.id)
        if span is None or (span.ends_at_ms is not None and now_ms >= span.ends_at_ms):
            span = self._spans[budget.id] = span_at(budget.window, now_ms, self._zone)
            current = budget.id, span.starts_at_ms
            ended = [one for one in self._spent if one[0] == budget.id and one != current and not self._held[one]]
            for one in ended:
                del self._spent[one]
        return span


def _known(zone: str) -> tzinfo:
    """UTC in place of one that this system does not know any more: an account must not be without service for that."""
    try:
        return zone_of(zone)
    except ValueError as error:
        logger.error("days of an account's budgets begin by UTC: %s", error)
        return UTC
