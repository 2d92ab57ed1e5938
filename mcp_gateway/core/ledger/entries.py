"""What is asked of the books, as values: charges, money from outside, and what is read; and what a commit tells."""

import logging
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from mcp_gateway.core.engine import Read, Scan, Write
from mcp_gateway.core.ledger.budgets import BudgetStanding, Spent
from mcp_gateway.core.ledger.rules import Amount, GrantLeft
from mcp_gateway.core.money import OutsideKind, PaidKind, format_usd
from mcp_gateway.core.record import RequestRecord
from mcp_gateway.core.wallet import WalletObject

logger = logging.getLogger(__name__)


class Short(NamedTuple):
    """What a wallet, or a budget, has too little of for a hold; what its own running requests hold may come back."""

    spendable_nano: int
    held_nano: int
    budget: BudgetStanding | None = None
    pocket: str | None = None
    """The lease whose money it is, where it is no budget and not the wallet."""

    def covers(self, needed_nano: int) -> bool:
        return self.spendable_nano >= needed_nano

    def may_cover(self, needed_nano: int) -> bool:
        """Once what is held comes free."""
        return self.spendable_nano + self.held_nano >= needed_nano


class WalletState(NamedTuple):
    """A wallet as of a commit. A higher `version` is a later one; grants are those that have some left, in their order.

    Told by the engine after each commit that changed it, before the results of its writes.
    """

    account_id: str
    paid_nano: int
    grants: tuple[GrantLeft, ...]
    version: int


class Ended(NamedTuple):
    """Requests whose charge is committed, or can never be. Told by the engine, after the wallets."""

    request_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WalletOf(Read[WalletState]):
    """Empty for an account without one. Raises AssertionError where the wallet and its grants differ."""

    account_id: str


@dataclass(slots=True)  # to freeze it takes a hundredth of what a request takes
class Settle(Write[int]):
    """A request's charge, decided where its hold was, and its record, in one transaction. Comes to the charge."""

    request_id: str
    account_id: str
    charge: Amount
    record: RequestRecord | None
    windows: tuple[Spent, ...] = ()
    """Of the budgets that it is spent of, too."""
    pocket: str | None = None
    """The lease whose money it is."""

    def stand_in(self) -> "Settle | LeaveUncharged":
        """Without its record, then nothing, so that no hold stays for ever."""
        if self.record is not None:
            return replace(self, record=None)
        logger.critical("the settlement of request %s fails, so that it is not charged", self.request_id)
        return LeaveUncharged(self.request_id)


@dataclass(frozen=True, slots=True)
class LeaveUncharged(Write[int]):
    """A settlement that can't be written: its hold ends. Comes to nothing charged."""

    request_id: str


@dataclass(frozen=True, slots=True)
class GiveBack(Write[int]):
    """What a request was charged, to be returned, since its answer was refused; `record` says so in its log."""

    request_id: str
    account_id: str
    record: RequestRecord
    windows: tuple[Spent, ...] = ()
    pocket: str | None = None


@dataclass(frozen=True, slots=True)
class Departure(Write[int]):
    """A client that left while its answer was settled, which it pays; `record` says in the request log that it left."""

    request_id: str
    record: RequestRecord


@dataclass(frozen=True, slots=True)
class SettleLate:
    """As releases with holds in the database left it in a file: at most what was held, unless it `may_exceed` that.

    From where it is paid was not said: from what the wallet has.
    """

    request_id: str
    cost_nano: int
    record: RequestRecord | None
    may_exceed: bool


Entry = Settle | SettleLate | GiveBack | Departure
"""What is carried out in the end, whatever lies between."""


@dataclass(frozen=True, slots=True)
class CatchUp(Write[None]):
    """Entries and records that an earlier process could not write; what it had written is not written again.

    `left_by` is which replica that process was, which holds nothing any more.
    """

    entries: tuple[Entry | RequestRecord, ...]
    left_by: int | None = None


@dataclass(frozen=True, slots=True)
class Move(Write[bool]):
    """Paid money from outside, or what is taken back where it is negative; may leave less than nothing.

    False where its `reference` was applied before. Raises GatewayError `invalid_value` for more than a wallet can hold.
    """

    account_id: str
    kind: PaidKind
    amount_nano: int
    reference: str
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Grant(Write[bool]):
    """Credit that nobody paid for. As Move."""

    account_id: str
    amount_nano: int
    reference: str
    expires_at_ms: int | None
    note: str | None


@dataclass(frozen=True, slots=True)
class ExpireGrants(Write[int]):
    """Of these accounts, so much of which grant. Comes to the nano-USD that were taken back."""

    left: tuple[tuple[str, Amount], ...]


@dataclass(frozen=True, slots=True)
class AccountsWithExpiredGrants(Scan[tuple[str, ...]]):
    now_ms: int


class Applied(NamedTuple):
    """An entry that brought money in or took it back."""

    account_id: str
    amount_nano: int


@dataclass(frozen=True, slots=True)
class AppliedBy(Read[Applied | None]):
    kind: OutsideKind
    reference: str


@dataclass(frozen=True, slots=True)
class Balance:
    """Nano-USD of an account: spendable are `paid_nano` and `granted_nano`; the others are set aside already.

    `held_nano` for requests that run, `leased_nano` for the holders of leases. `grants` are the parts of
    `granted_nano`, the first to expire first.
    """

    paid_nano: int = 0
    granted_nano: int = 0
    held_nano: int = 0
    leased_nano: int = 0
    grants: tuple[GrantLeft, ...] = field(default=(), compare=False)

    @property
    def spendable_nano(self) -> int:
        return self.paid_nano + self.granted_nano

    def as_object(self) -> WalletObject:
        """What both doors tell of a wallet."""
        return WalletObject(
            currency="USD",
            balance_usd=format_usd(self.spendable_nano),
            granted_usd=format_usd(self.granted_nano),
            held_usd=format_usd(self.held_nano),
            leased_usd=format_usd(self.leased_nano),
        )


class HeldOf(NamedTuple):
    """What an account's requests hold, in nano-USD: paid and granted money of the wallet, and money of leases."""

    paid_nano: int = 0
    granted_nano: int = 0
    leased_nano: int = 0


class HeldNow(NamedTuple):
    """How many requests hold money, how much, for how long the oldest, and what of it the wallets do not cover."""

    requests: int
    amount_nano: int
    oldest_s: float
    overdrawn_nano: int


@dataclass(frozen=True, slots=True)
class Discrepancies(Scan[list[tuple[str, tuple[Any, ...]]]]):
    """What should hold in the books and does not, with a row that shows it; empty is good.

    For the entries of closed months stand their sums, but for `of_all_entries`, or of all that are not archived.
    """

    of_all_entries: bool = False


@dataclass(frozen=True, slots=True)
class VerifySinceCheckpoint(Write[list[tuple[Any, ...]]]):
    """Wallets that differ from the checkpoint and what came since; the checkpoint moves here where none does."""
