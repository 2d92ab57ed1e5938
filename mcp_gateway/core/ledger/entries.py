"""What is asked of the ledger, as values: holds and their ends, money from outside, and what is read of the books."""

import logging
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from mcp_gateway.core.engine import Read, Scan, Write
from mcp_gateway.core.money import OutsideKind, PaidKind, format_usd
from mcp_gateway.core.record import RequestRecord
from mcp_gateway.core.wallet import WalletObject

logger = logging.getLogger(__name__)


class Hold(NamedTuple):
    """What is set aside for a request."""

    request_id: str
    account_id: str
    amount_nano: int


class Short(NamedTuple):
    """A wallet that has too little for a hold; what its own running requests hold may come back."""

    spendable_nano: int
    held_nano: int


@dataclass(frozen=True, slots=True)
class PlaceHold(Write[Hold | Short]):
    """A hold of up to `maximum_nano`, where the wallet has `needed_nano`; asked again, the same one."""

    request_id: str
    account_id: str
    needed_nano: int
    maximum_nano: int


@dataclass(frozen=True, slots=True)
class End(Write[int]):
    """A settlement or a void, and the record of the request, which goes into the same transaction.

    Where `may_exceed`, what the cost is above the hold is taken from what the wallet has free. Comes to the charge.
    """

    request_id: str
    kind: Literal["settle", "void"]
    cost_nano: int
    record: RequestRecord | None
    may_exceed: bool = False

    def stand_in(self) -> "End | None":
        """Without its record, then a void, so that no hold stays for ever."""
        if self.record is not None:
            return replace(self, record=None)
        if self.kind == "void":
            return None
        logger.critical("the settlement of request %s fails, so that its hold is voided", self.request_id)
        return End(self.request_id, "void", 0, None)


@dataclass(frozen=True, slots=True)
class GiveBack(Write[int]):
    """What a request was charged, to be returned, since its answer was refused; `record` says so in its log."""

    request_id: str
    account_id: str
    record: RequestRecord


@dataclass(frozen=True, slots=True)
class Departure(Write[int]):
    """A client that left while its answer was settled, which it pays; `record` says in the request log that it left."""

    request_id: str
    record: RequestRecord


Entry = End | GiveBack | Departure
"""What is carried out in the end, whatever lies between."""


@dataclass(frozen=True, slots=True)
class CatchUp(Write[None]):
    """Entries and records that an earlier process could not write; what it had written is not written again."""

    entries: tuple[Entry | RequestRecord, ...]


@dataclass(frozen=True, slots=True)
class VoidHolds(Write[int]):
    """All holds that were made before a time, or all for None. Comes to how many."""

    made_before_ms: int | None


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
    """Of these accounts. Comes to the nano-USD that were taken back."""

    account_ids: tuple[str, ...]


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
    """Nano-USD of an account: spendable are `paid_nano` and `granted_nano`; `held_nano` is set aside already."""

    paid_nano: int = 0
    granted_nano: int = 0
    held_nano: int = 0

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
        )


@dataclass(frozen=True, slots=True)
class BalanceOf(Read[Balance]):
    """Empty for an account without a wallet."""

    account_id: str


class OneHold(NamedTuple):
    """What one running request holds, and since when."""

    amount_nano: int
    since_ms: int


@dataclass(frozen=True, slots=True)
class HoldsOf(Read[tuple[OneHold, ...]]):
    """An account's, the latest first."""

    account_id: str


class HeldNow(NamedTuple):
    """How many requests hold money, how much, and since when the oldest; None where none does."""

    requests: int
    amount_nano: int
    since_ms: int | None


@dataclass(frozen=True, slots=True)
class OpenHolds(Read[HeldNow]):
    """Of all accounts."""


@dataclass(frozen=True, slots=True)
class Discrepancies(Scan[list[tuple[str, tuple[Any, ...]]]]):
    """What should hold in the books and does not, with a row that shows it; empty is good."""


@dataclass(frozen=True, slots=True)
class VerifySinceCheckpoint(Write[list[tuple[Any, ...]]]):
    """Wallets that differ from the checkpoint and what came since; the checkpoint moves here where none does."""
