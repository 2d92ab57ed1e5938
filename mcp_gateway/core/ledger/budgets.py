"""Budgets: what a key, a group of keys or an account may spend in a window of time.

Amounts in nano-USD, times in milliseconds.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict

from mcp_gateway.core.engine import Read, Scan, Write
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger.rules import NOTHING, Amount
from mcp_gateway.core.money import format_usd, parse_usd
from mcp_gateway.core.text import check_one_line

BudgetWindow = Literal["5h", "day", "week", "month", "total"]
BUDGET_WINDOWS: tuple[BudgetWindow, ...] = get_args(BudgetWindow)
LONGEST_WINDOW_MS = 32 * 86_400_000
"""More than any has that ends."""
_FIVE_HOURS_MS = 5 * 3_600_000
_MAX_GROUP_NAME_CHARS = 200
_TEXT = re.compile(r"(\S+) USD/(\S+)")


class Budget(NamedTuple):
    """`holder` is the id of the key, group or account that it bounds, with whatever the keys have made."""

    id: str
    account_id: str
    holder: str
    amount_nano: int
    window: BudgetWindow
    group: str | None = None
    """The name of a group that holds it."""
    lease_ends_at_ms: int | None = None
    """Of a lease: all of it is set aside when it is made, and what is left of it returns then."""

    def is_over_at(self, now_ms: int) -> bool:
        """Whether nothing may be spent of it any more; it bounds what its holder spends all the same."""
        return self.lease_ends_at_ms is not None and self.lease_ends_at_ms <= now_ms


class BudgetGroup(NamedTuple):
    """Keys of an account that spend of budgets together; which ones, identity knows."""

    id: str
    account_id: str
    name: str


class Span(NamedTuple):
    """One window of a budget; without an end where it is for good."""

    starts_at_ms: int
    ends_at_ms: int | None


LEASES_ARE_TOTAL = "A lease has the window `total`: all of it is set aside at once."
ONE_LEASE = "A key or a group has one lease at a time."
Spent = tuple[str, int]
"""A budget's id and when one of its windows started: what is spent is counted by both."""


class Lease(NamedTuple):
    """Where what a lease has was set aside from: these windows of budgets above it, and money."""

    budget_id: str
    windows: tuple[Spent, ...]
    pocket: str
    """The id of the lease whose money it spends: its own, set aside from the wallet, or that of a lease above it."""
    set_aside: Amount = NOTHING
    """When it is made, the money of its own pocket."""
    is_ended: bool = False
    """It bounds its holder no more, as one does whose time alone is over."""


class BudgetObject(BaseModel):
    """What a caller is told of a budget; amounts are decimal strings in USD, times in Unix seconds.

    `group` is the name of the group of keys that it is of; a lease ends at `ends_at`, and does not start anew.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    amount_usd: str
    window: BudgetWindow
    group: str | None
    spent_usd: str
    held_usd: str
    left_usd: str
    starts_anew_at: int | None
    lease: bool
    ends_at: int | None


class BudgetStanding(NamedTuple):
    """What a budget has in its window as of now."""

    budget: Budget
    span: Span
    spent_nano: int
    held_nano: int
    is_over: bool = False

    @property
    def left_nano(self) -> int:
        """Not below nothing, as after the budget was lowered."""
        return 0 if self.is_over else max(0, self.budget.amount_nano - self.spent_nano - self.held_nano)

    def as_object(self) -> BudgetObject:
        """What a caller is told of it."""
        return BudgetObject(
            id=self.budget.id,
            amount_usd=format_usd(self.budget.amount_nano),
            window=self.budget.window,
            group=self.budget.group,
            spent_usd=format_usd(self.spent_nano),
            held_usd=format_usd(self.held_nano),
            left_usd=format_usd(self.left_nano),
            starts_anew_at=_seconds(self.span.ends_at_ms),
            lease=self.budget.lease_ends_at_ms is not None,
            ends_at=_seconds(self.budget.lease_ends_at_ms),
        )


def _seconds(at_ms: int | None) -> int | None:
    return None if at_ms is None else at_ms // 1000


def parse_budget(text: str) -> tuple[int, BudgetWindow]:
    """Of `"5 USD/day"`. Raises ValueError that says what to write."""
    found = _TEXT.fullmatch(text)
    window = next((one for one in BUDGET_WINDOWS if found is not None and one == found[2]), None)
    if found is None or window is None:
        windows = ", ".join(BUDGET_WINDOWS)
        raise ValueError(f"a budget is an amount and a window, such as '5 USD/day'; windows are {windows}")
    amount_nano = parse_usd(found[1])
    if amount_nano <= 0:
        raise ValueError("a budget is more than nothing")
    return amount_nano, window


def check_group_name(name: str, param: str) -> None:
    """Raises GatewayError `invalid_value` for what cannot be a group's name."""
    check_one_line(name, param)
    if not name or len(name) > _MAX_GROUP_NAME_CHARS or name.startswith(("acc_", "key_")):
        message = f"a group's name has up to {_MAX_GROUP_NAME_CHARS} characters, and is no id of a key or an account"
        raise GatewayError("invalid_value", f"`{param}`: {message}.", param=param)


def in_words(budget: Budget) -> str:
    return f"{format_usd(budget.amount_nano)} USD {window_in_words(budget.window)}"


def window_in_words(window: BudgetWindow) -> str:
    return "in all" if window == "total" else f"for each {_NAMES[window]}"


_NAMES: dict[BudgetWindow, str] = {"5h": "5 hours", "day": "day", "week": "week", "month": "month", "total": ""}


def span_at(window: BudgetWindow, now_ms: int, zone: tzinfo) -> Span:
    """The one that a moment falls in. Days, weeks (from Monday) and months begin at midnight in the zone."""
    if window == "total":
        return Span(0, None)
    if window == "5h":
        starts_at_ms = now_ms - now_ms % _FIVE_HOURS_MS
        return Span(starts_at_ms, starts_at_ms + _FIVE_HOURS_MS)
    today = datetime.fromtimestamp(now_ms / 1000, zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    first, after = _days(window, today)
    return Span(_ms(first), _ms(after))


def _days(window: BudgetWindow, today: datetime) -> tuple[datetime, datetime]:
    """By the calendar, whatever hours a day has."""
    if window == "day":
        return today, today + timedelta(days=1)
    if window == "week":
        monday = today - timedelta(days=today.weekday())
        return monday, monday + timedelta(days=7)
    first = today.replace(day=1)
    return first, (first + timedelta(days=31)).replace(day=1)


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


class BudgetsOf(NamedTuple):
    """All open ones of an account, and what was spent of each in the windows that may still count.

    `leases` are those of which something has not returned yet, `pockets` what is left of the money set aside for them.
    """

    account_id: str
    zone: str
    budgets: tuple[Budget, ...]
    spent: dict[Spent, int]
    leases: tuple[Lease, ...] = ()
    pockets: tuple[tuple[str, Amount], ...] = ()


class BudgetsChanged(NamedTuple):
    """What a commit has made of an account's budgets. Told by the engine after it, before what was spent of them."""

    account_id: str
    made: tuple[Budget, ...] = ()
    leases: tuple[Lease, ...] = ()
    ended: tuple[str, ...] = ()
    returned: tuple[str, ...] = ()
    """Leases of which all has been given back."""
    over: tuple[tuple[str, int], ...] = ()
    """Leases whose time is over at a moment, if it is not before."""
    zone: str | None = None


class BudgetSpent(NamedTuple):
    """What was spent of a window of a budget. Told by the engine after each commit that changed it."""

    account_id: str
    window: Spent
    spent_nano: int


class PocketLeft(NamedTuple):
    """What is left of the money set aside for a lease. Told by the engine after each commit that changed it, last."""

    account_id: str
    pocket: str
    left: Amount


@dataclass(frozen=True, slots=True)
class ReadBudgets(Read[BudgetsOf]):
    """`now_ms` says which windows may still count."""

    account_id: str
    now_ms: int


@dataclass(frozen=True, slots=True)
class MakeBudgets(Write[None]):
    """All of them or none; with leases by way of Leases.make, which decides them.

    Raises GatewayError: `not_found` where an account, a group or a key is not there, `conflict` for a second lease of
    one holder, and where its key or a lease above has ended, `invalid_value` for one that ends later than its key.
    """

    budgets: tuple[Budget, ...]
    group: BudgetGroup | None = None
    """Made, too, unless it is there."""
    above: tuple[str, ...] = ()
    """Who is bound together with the holder of leases, and is above it: its makers, and their groups and its own."""
    leases: tuple[Lease, ...] = ()
    """What is set aside for each lease among them; nothing before the ledger has decided that."""
    keep: Write[None] | None = None
    """Written ahead of them, in their transaction; for a process that makes them by itself."""


@dataclass(frozen=True, slots=True)
class GroupByName(Read[BudgetGroup | None]):
    account_id: str
    name: str


@dataclass(frozen=True, slots=True)
class EndBudget(Write[bool]):
    """The time of leases under it, where it is one, is over then. False where there is none that is open."""

    account_id: str
    budget_id: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class ReturnLeases(Write[int]):
    """Give back what is left of leases that nothing is held of, each after those under it; comes to the nano-USD."""

    account_id: str
    lease_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LeasesOver(Scan[tuple[tuple[str, str, bool], ...]]):
    """Accounts with their leases that are over and not given back, and whether each has ended."""

    now_ms: int


@dataclass(frozen=True, slots=True)
class SetZone(Write[bool]):
    """In which an account's days begin. Whether it is another one than was set before."""

    account_id: str
    zone: str
