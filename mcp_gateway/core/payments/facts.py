"""What Stripe's events say about money, as plain values. Knows Stripe's field names, and not what follows from them.

Event types and fields: https://docs.stripe.com/api/events/types. Only USD is ours; Stripe counts it in cents.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mcp_gateway.core.money import NANO_PER_CENT
from mcp_gateway.core.text import is_one_line

ACCOUNT = "gateway_account_id"
"""The name under which our sessions and payments carry the account that they are for."""
USER = "gateway_user_id"
"""The name under which a payment whose method is saved carries who pays, where somebody is signed in."""
AUTO_PAYMENT = "gateway_auto_payment_id"
"""The name under which a payment that a low balance began carries its id here."""

_CURRENCY = "usd"
_MAX_ID_CHARS = 255
_CODE = re.compile(r"[a-z][a-z_]{0,63}")
_MAX_CENTS = 10**10
"""A hundred times the most that Stripe charges at once, and little enough for the ledger."""

_MAX_S = 10**11
_FAILED_BY = {"canceled": "canceled", "requires_action": "authentication_required"}
"""Why a payment comes to nothing, by statuses of Stripe's that end one whose payer is away."""

Stated = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Paid:
    """A session whose money has arrived."""

    session_id: str
    payment_id: str
    account_id: str
    amount_nano: int

    @property
    def reference(self) -> str:
        """Of its entry: two events may tell of one session."""
        return self.session_id


Uncreditable = Literal["currency", "account", "payment"]
"""What keeps money from a wallet: another currency than USD, no account of ours, no payment that can be refunded."""


@dataclass(frozen=True, slots=True)
class Uncredited:
    """A session or payment whose money has arrived and is nobody's here: a person must look at it."""

    stripe_id: str
    reason: Uncreditable


@dataclass(frozen=True, slots=True)
class Reversal:
    """Money of a payment that went back to the payer: all of it so far, or none any more if it `is_returned`."""

    id: str
    kind: Literal["refund", "dispute"]
    payment_id: str
    amount_nano: int
    is_returned: bool = False


@dataclass(frozen=True, slots=True)
class AutoPaid:
    """A payment that a low balance began, whose money has arrived."""

    id: str
    payment_id: str
    account_id: str
    amount_nano: int

    @property
    def reference(self) -> str:
        """Of its entry: an answer and an event tell of one payment."""
        return self.payment_id


@dataclass(frozen=True, slots=True)
class AutoFailed:
    """A payment that a low balance began and that comes to nothing; `reason` is Stripe's code, or one of ours."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class AutoPending:
    """A payment that a low balance began, of which nobody knows yet what becomes of it."""

    id: str


@dataclass(frozen=True, slots=True)
class MethodSaved:
    """By what a session was paid, which its payer let be charged again; `at_s` is Unix time by Stripe's clock.

    `user_id` is the payer, where one was signed in.
    """

    account_id: str
    customer_id: str
    method_id: str
    at_s: int
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class MethodRemoved:
    """A payment method that may not be charged any more."""

    method_id: str


Fact = Paid | Uncredited | Reversal | AutoPaid | AutoFailed | MethodSaved | MethodRemoved


class Unreadable(Exception):
    """An event of a kind that concerns a wallet, in which something is missing or is not of its kind."""


def fact_of(event: Any) -> Fact | None:
    """What an event says that concerns a wallet; None for most events. Raises Unreadable."""
    try:
        read = _READERS.get(event["type"])
        if read is None:
            return None
        _text(event["id"])
        return read(event["data"]["object"])
    except (LookupError, TypeError, AttributeError, ValueError):
        raise Unreadable from None


def auto_payment_of(intent: Any) -> AutoPaid | AutoFailed | AutoPending:
    """What an answer of Stripe's says of a payment that a low balance began. Raises Unreadable."""
    try:
        told = _auto_payment(intent)
    except (LookupError, TypeError, AttributeError, ValueError):
        raise Unreadable from None
    if isinstance(told, Uncredited):
        raise Unreadable
    return told


def failure_code(code: Any) -> str:
    """A code of Stripe's by which a payment failed, where it is one word."""
    return code if isinstance(code, str) and _CODE.fullmatch(code) else "declined"


def _auto_payment(intent: Stated) -> AutoPaid | AutoFailed | AutoPending | Uncredited:
    """A payment that asks for its payer has failed: nobody is there."""
    auto_id, status = _text(intent["metadata"][AUTO_PAYMENT]), intent["status"]
    if status == "succeeded":
        payment_id = _text(intent["id"])
        if intent["currency"] != _CURRENCY:
            return Uncredited(payment_id, "currency")
        account_id = _text(intent["metadata"][ACCOUNT])
        return AutoPaid(auto_id, payment_id, account_id, _nano(intent["amount_received"]))
    if status == "requires_payment_method" and (error := intent["last_payment_error"]) is not None:
        return AutoFailed(auto_id, failure_code(error.get("code")))
    code = _FAILED_BY.get(status)
    return AutoPending(auto_id) if code is None else AutoFailed(auto_id, code)


def _intent(intent: Stated) -> Fact | None:
    """Of a payment: one that a low balance began, or by what a session was paid that lets it be charged again."""
    metadata = intent["metadata"] or {}
    if AUTO_PAYMENT in metadata:
        told = _auto_payment(intent)
        return None if isinstance(told, AutoPending) else told
    if intent["status"] != "succeeded" or intent["setup_future_usage"] != "off_session" or ACCOUNT not in metadata:
        return None
    customer_id, method_id, at_s = _text(intent["customer"]), _text(intent["payment_method"]), intent["created"]
    if not isinstance(at_s, int) or not 0 <= at_s < _MAX_S:
        raise ValueError
    user_id = _text(metadata[USER]) if USER in metadata else None
    return MethodSaved(_text(metadata[ACCOUNT]), customer_id, method_id, at_s, user_id)


def _detached(method: Stated) -> MethodRemoved:
    return MethodRemoved(_text(method["id"]))


def _paid(session: Stated) -> Paid | Uncredited | None:
    if session["mode"] != "payment" or session["payment_status"] != "paid":
        return None
    session_id, account_id = _text(session["id"]), (session["metadata"] or {}).get(ACCOUNT)
    if account_id is None:
        return Uncredited(session_id, "account")
    if not _is_ours(session):
        return Uncredited(session_id, "payment" if session["currency"] == _CURRENCY else "currency")
    payment_id = _text(session["payment_intent"])
    return Paid(session_id, payment_id, _text(account_id), _nano(session["amount_total"]))


def _is_ours(stated: Stated) -> bool:
    """Whether money of a kind that wallets hold is meant, of a payment that can be found again."""
    return bool(stated["currency"] == _CURRENCY and stated["payment_intent"])


def _refunded(charge: Stated) -> Reversal | None:
    if not _is_ours(charge):
        return None
    amount_nano = _nano(charge["amount_refunded"])
    return Reversal(_text(charge["id"]), "refund", _text(charge["payment_intent"]), amount_nano)


def _disputed(dispute: Stated) -> Reversal | None:
    """An inquiry (`warning_...`) and a dispute that was prevented move no money."""
    status = dispute["status"]
    if status == "won":
        return _reinstated(dispute)
    return None if status == "prevented" or status.startswith("warning_") else _withdrawn(dispute)


def _withdrawn(dispute: Stated, *, is_returned: bool = False) -> Reversal | None:
    if not _is_ours(dispute):
        return None
    payment_id, amount_nano = _text(dispute["payment_intent"]), _nano(dispute["amount"])
    return Reversal(_text(dispute["id"]), "dispute", payment_id, amount_nano, is_returned)


def _reinstated(dispute: Stated) -> Reversal | None:
    return _withdrawn(dispute, is_returned=True)


def _text(value: Any) -> str:
    """An id. Raises ValueError for anything else."""
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_ID_CHARS or not is_one_line(value):
        raise ValueError
    return value


def _nano(cents: Any) -> int:
    """Nano-USD. Raises ValueError for what is no number of cents that Stripe can charge."""
    if not isinstance(cents, int) or isinstance(cents, bool) or not 0 <= cents <= _MAX_CENTS:
        raise ValueError
    return cents * NANO_PER_CENT


_READERS: dict[str, Callable[[Stated], Fact | None]] = {
    "checkout.session.completed": _paid,
    "checkout.session.async_payment_succeeded": _paid,
    "payment_intent.succeeded": _intent,
    "payment_intent.payment_failed": _intent,
    "payment_intent.canceled": _intent,
    "payment_method.detached": _detached,
    "charge.refunded": _refunded,
    "charge.dispute.created": _disputed,
    "charge.dispute.closed": _disputed,
    "charge.dispute.funds_withdrawn": _withdrawn,
    "charge.dispute.funds_reinstated": _reinstated,
}
