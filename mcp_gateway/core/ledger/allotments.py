"""What one replica of several may hold of an account's money: allotments, as values.

An allotment is set aside in the database before anything is held of it, so that a purse decides by it alone; what it
has and does not hold goes back. Amounts in nano-USD.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from mcp_gateway.core.engine import Announcement, Read, Scan, Write
from mcp_gateway.core.ledger.budgets import BudgetsOf, Spent
from mcp_gateway.core.ledger.entries import WalletState
from mcp_gateway.core.ledger.rules import NOTHING, Amount

PAID = 0
"""In place of a grant's id, of paid money."""
NOBODY = 0
"""In place of a replica's id."""
LEAST_TIMES, MOST_TIMES = 16, 4096
"""Of what is asked for: how much more is allotted at once, where there is plenty."""


class Fund(NamedTuple):
    """Where an allotted amount is from: `part` is a grant's id, or PAID, and of a budget when its window started."""

    kind: Literal["wallet", "pocket", "window"]
    id: str = ""
    """Of the lease whose pocket it is, or of the budget."""
    part: int = PAID


Amounts = Mapping[Fund, int]


def of_money(pocket: str | None, money: Amount) -> dict[Fund, int]:
    """An amount of the wallet's money, or of a pocket's."""
    kind: Literal["wallet", "pocket"] = "wallet" if pocket is None else "pocket"
    parts = ((PAID, money.paid_nano), *money.grants)
    return {Fund(kind, pocket or "", part): nano for part, nano in parts if nano}


def of_windows(windows: tuple[Spent, ...], amount_nano: int) -> dict[Fund, int]:
    """The same amount of each window."""
    return {Fund("window", *window): amount_nano for window in windows if amount_nano}


def with_more(amounts: Amounts, more: Amounts) -> dict[Fund, int]:
    """Both together; what comes to nothing is left out."""
    both = dict(amounts)
    for fund, nano in more.items():
        both[fund] = both.get(fund, 0) + nano
    return {fund: nano for fund, nano in both.items() if nano}


def without(amounts: Amounts, less: Amounts) -> dict[Fund, int]:
    """The first without the second, and nothing below nothing."""
    left = {fund: nano - less.get(fund, 0) for fund, nano in amounts.items()}
    return {fund: nano for fund, nano in left.items() if nano > 0}


def money_in(amounts: Amounts, kind: str, lease_id: str = "") -> Amount:
    """Of the wallet or of a pocket."""
    parts = {fund.part: nano for fund, nano in amounts.items() if fund.kind == kind and fund.id == lease_id and nano}
    if not parts:
        return NOTHING
    return Amount(parts.pop(PAID, 0), tuple(parts.items()))


class Allotted(NamedTuple):
    """All that this replica is allotted of an account. Told by the engine after each commit that changed it.

    `expiries` are those of the grants among it; `returned` is the number of a return that is done with this.
    """

    account_id: str
    amounts: Amounts
    expiries: Mapping[int, int | None]
    returned: int | None = None


class StartedAnew(NamedTuple):
    """This replica was taken for dead: nothing is allotted to it any more. Told ahead of what commits tell."""


class AllMoney(NamedTuple):
    """All of an account, as of one moment, with what every replica is allotted of it."""

    wallet: WalletState
    budgets: BudgetsOf
    version: int
    """Of its budgets: another one once any was made, changed or ended."""
    allotted: Mapping[int, Amounts]
    """By replica."""


@dataclass(frozen=True, slots=True)
class AllMoneyOf(Read[AllMoney]):
    """`now_ms` says which windows may still count."""

    account_id: str
    now_ms: int


@dataclass(frozen=True, slots=True)
class AllAllotted(Scan[dict[str, dict[int, Amounts]]]):
    """By account and replica."""


class Lack(NamedTuple):
    """Of a window of a budget: how much more it has to have, and how much is wanted."""

    window: Spent
    least_nano: int
    most_nano: int


class Drawn(NamedTuple):
    """What has come of a draw; where not all that was wanted is free, the `whole` of which the replica is told why."""

    is_covered: bool
    """Whether the least that was needed was allotted; else nothing was."""
    whole: AllMoney | None = None
    is_outdated: bool = False
    """Whether budgets have changed since those were read by which it was asked; then nothing was allotted."""


@dataclass(frozen=True, slots=True)
class Draw(Write[Drawn]):
    """Have so much of an account's money, and of windows of its budgets, allotted to this replica, if that is free.

    All that is needed or nothing; and so many `times` more than is wanted where the account is rich. `until_ms` is how
    long grants must live, `version` that of the budgets by which it is asked.
    """

    account_id: str
    version: int
    pocket: str | None
    least_nano: int
    most_nano: int
    lacks: tuple[Lack, ...] = ()
    until_ms: int | None = None
    times: int = LEAST_TIMES


@dataclass(frozen=True, slots=True)
class ReturnAllotted(Write[None]):
    """Give back what this replica does not hold, of several accounts; the other replicas are told so of each."""

    number: int
    amounts: tuple[tuple[str, Amounts], ...]


@dataclass(frozen=True, slots=True)
class AskForMoney(Write[tuple[int, ...]]):
    """Have the other replicas give back what they do not hold of an account. Comes to those who are to answer."""

    account_id: str


@dataclass(frozen=True, slots=True)
class TakeFromDead(Write[int]):
    """Give back what replicas were allotted that are dead, each once. Comes to how many there were."""


@dataclass(frozen=True, slots=True)
class MoneyWanted(Announcement):
    """A replica asks the others for what they do not hold of an account; each answers with MoneyReturned.

    By NOBODY it is wanted of all where more was taken from the account than nobody was allotted.
    """

    account_id: str
    replica: int
    word: ClassVar[str] = "money_wanted"


@dataclass(frozen=True, slots=True)
class MoneyReturned(Announcement):
    """A replica holds all that is allotted to it of an account, or has use for it."""

    account_id: str
    replica: int
    word: ClassVar[str] = "money_returned"


@dataclass(frozen=True, slots=True)
class BudgetsMoved(Announcement):
    """Budgets of an account were made or have ended: who spends of it reads them again."""

    account_id: str
    word: ClassVar[str] = "budgets_moved"
