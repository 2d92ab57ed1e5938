"""Auto top-ups: what accounts have set, and the payments that a low balance begins.

What is written and read of both; amounts in nano-USD, times in Unix milliseconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.engine import Engine, Read, Scan, Write
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.payments.facts import AutoFailed, AutoPaid

MOST_PAYMENTS_A_DAY = 20
"""Of an account, failed ones included: what is switched on again and again after failures asks its bank no more."""

OffReason = Literal[
    "operator", "not_offered", "no_payment_method", "payer_deleted", "payment_refunded", "payment_disputed"
]
"""Why an auto top-up was switched off, where no payment failed; then it is Stripe's code of the failure."""


class AutoTopUpTerms(NamedTuple):
    """Once the balance is below the threshold, pay the amount into the wallet; so much in a UTC day at most."""

    threshold_nano: int
    amount_nano: int
    most_per_day_nano: int


class AutoTopUpStanding(NamedTuple):
    """What an account has set, and what has come of it.

    `paid_today_nano` was asked for since midnight UTC, what is under way included; `due_at_ms` is when the next payment
    is asked for, or was, where one is under way.
    """

    terms: AutoTopUpTerms | None
    off_reason: str | None
    off_at_ms: int | None
    has_payment_method: bool
    paid_today_nano: int
    due_at_ms: int | None

    @property
    def is_on(self) -> bool:
        return self.terms is not None and self.off_reason is None

    def in_words(self) -> str:
        """For people and models."""
        if self.terms is None:
            return "no auto top-up is set"
        if self.off_reason is not None:
            return f"auto top-up is off: {self.off_reason}"
        threshold, amount, most = map(format_usd, self.terms)
        return f"auto top-up adds {amount} USD once the balance is below {threshold} USD, at most {most} USD a day"

    def as_object(self) -> dict[str, Any]:
        """As HTTP and the command line tell it; nulls where it was never set, times in Unix seconds."""
        threshold, amount, most = (None, None, None) if self.terms is None else map(format_usd, self.terms)
        return {
            "enabled": self.is_on,
            "threshold_usd": threshold,
            "amount_usd": amount,
            "max_per_day_usd": most,
            "has_payment_method": self.has_payment_method,
            "off_reason": self.off_reason,
            "off_at": _seconds(self.off_at_ms),
            "paid_today_usd": format_usd(self.paid_today_nano),
            "payment_due_at": _seconds(self.due_at_ms),
        }


class AutoPayment(NamedTuple):
    """What Stripe is asked for, once by its id: by this payment method of this customer."""

    id: str
    account_id: str
    amount_nano: int
    customer_id: str
    method_id: str
    asked_at_ms: int


class DueAutoPayment(NamedTuple):
    """A payment that is to be asked for, or asked after where it is `asked` already.

    `is_wanted` says whether the auto top-up is still on, the account too, and its balance low.
    """

    id: str
    account_id: str
    tries: int
    is_wanted: bool
    asked: AutoPayment | None


class AutoPaymentBegun(NamedTuple):
    """A payment is due. Told by the engine after the commit."""


class AutoPaymentEnded(NamedTuple):
    """A payment was credited, or failed for this reason. Told by the engine after the commit, once for each."""

    account_id: str
    off_reason: str | None


@dataclass(frozen=True, slots=True)
class SetAutoTopUp(Write[bool]):
    """Switched on by these terms; what is due and was not asked for yet is decided anew.

    False where the account has no saved payment method: then nothing is changed.
    """

    account_id: str
    terms: AutoTopUpTerms


@dataclass(frozen=True, slots=True)
class RemoveAutoTopUp(Write[bool]):
    """With what is due and was not asked for yet. False where there is none."""

    account_id: str


@dataclass(frozen=True, slots=True)
class SwitchOffAutoTopUp(Write[bool]):
    """With what is due and was not asked for yet. False where there is none that is on."""

    account_id: str
    reason: OffReason


@dataclass(frozen=True, slots=True)
class SwitchOffAllAutoTopUps(Write[int]):
    """How many were on."""

    reason: OffReason


@dataclass(frozen=True, slots=True)
class AutoTopUpOf(Read[AutoTopUpStanding]):
    account_id: str
    now_ms: int


@dataclass(frozen=True, slots=True)
class DueAutoPayments(Scan[tuple[DueAutoPayment, ...]]):
    """Those that are not among `busy`, at most so many, the longest due first."""

    now_ms: int
    busy: frozenset[str]
    most: int


@dataclass(frozen=True, slots=True)
class AskAutoPayment(Write[AutoPayment | None]):
    """Decide whether a payment that is due is asked for, and for how much; durable before Stripe hears of it.

    None where it is not: the balance is not low any more, or the day's most is reached, and it is put off to the next.
    """

    payment_id: str
    most_nano: int
    most_per_day_nano: int
    now_ms: int


@dataclass(frozen=True, slots=True)
class DropAutoPayment(Write[None]):
    """It was asked for, Stripe has not got it, and it is wanted no more: it is asked for never again.

    Whether another one is due is decided anew.
    """

    payment_id: str


@dataclass(frozen=True, slots=True)
class PutOffAutoPayment(Write[None]):
    """Nobody knows what became of it, or Stripe is still at it: it is asked after at `due_at_ms`."""

    payment_id: str
    due_at_ms: int


@dataclass(frozen=True, slots=True)
class EndAutoPayment(Write[None]):
    """What became of a payment, as Stripe answered; its event says the same, and what comes second changes nothing."""

    outcome: AutoPaid | AutoFailed


def _seconds(at_ms: int | None) -> int | None:
    return None if at_ms is None else at_ms // 1000


def day_of(now_ms: int) -> range:
    """The UTC day around a moment, from midnight until before the next."""
    start_ms = now_ms // DAY_MS * DAY_MS
    return range(start_ms, start_ms + DAY_MS)


class AutoTopUps:
    """What accounts set."""

    def __init__(self, store: Engine, *, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms

    async def of(self, account_id: str) -> AutoTopUpStanding:
        return await self._store.read(AutoTopUpOf(account_id, self._now_ms()))

    async def put(self, account_id: str, terms: AutoTopUpTerms) -> None:
        """Raises GatewayError `conflict` for an account without a saved payment method."""
        if not await self._store.write(SetAutoTopUp(account_id, terms)):
            message = (
                "The account has no saved payment method: pay once by POST /v1/billing/checkout with "
                '"save_payment_method": true, then set this again.'
            )
            raise GatewayError("conflict", message)

    async def remove(self, account_id: str) -> None:
        """Raises GatewayError `not_found`."""
        if not await self._store.write(RemoveAutoTopUp(account_id)):
            raise GatewayError("not_found", "The account has no auto top-up; PUT /v1/billing/auto-topup sets one.")

    async def switch_off(self, account_id: str) -> bool:
        """By the operator; whether it was on."""
        return await self._store.write(SwitchOffAutoTopUp(account_id, "operator"))
