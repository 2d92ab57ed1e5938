"""What Stripe's events say about money, as plain values. Knows Stripe's field names, and not what follows from them.

Event types and fields: https://docs.stripe.com/api/events/types. Only USD is ours; Stripe counts it in cents.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mcp_gateway.core.money import NANO_PER_CENT

ACCOUNT = "gateway_account_id"
"""The name under which our sessions carry the account that they are for."""

Stated = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Paid:
    """A session whose money has arrived."""

    session_id: str
    payment_id: str
    account_id: str
    amount_nano: int


@dataclass(frozen=True, slots=True)
class Reversal:
    """Money of a payment that went back to the payer: all of it so far, or none any more if it `is_returned`."""

    id: str
    kind: Literal["refund", "dispute"]
    payment_id: str
    amount_nano: int
    is_returned: bool = False


def fact_of(event: Stated) -> Paid | Reversal | None:
    """What an event says that concerns a wallet; None for most events."""
    read = _READERS.get(event.get("type", ""))
    if read is None:
        return None
    stated = event["data"]["object"]
    return read(stated) if stated["currency"] == "usd" and stated["payment_intent"] else None


def _paid(session: Stated) -> Paid | None:
    account_id = (session["metadata"] or {}).get(ACCOUNT)
    if account_id is None or session["mode"] != "payment" or session["payment_status"] != "paid":
        return None
    return Paid(session["id"], session["payment_intent"], account_id, session["amount_total"] * NANO_PER_CENT)


def _refunded(charge: Stated) -> Reversal:
    amount_nano = charge["amount_refunded"] * NANO_PER_CENT
    return Reversal(charge["id"], "refund", charge["payment_intent"], amount_nano)


def _disputed(dispute: Stated) -> Reversal | None:
    """An inquiry (`warning_...`) and a dispute that was prevented move no money."""
    status = dispute["status"]
    if status == "won":
        return _reinstated(dispute)
    return None if status == "prevented" or status.startswith("warning_") else _withdrawn(dispute)


def _withdrawn(dispute: Stated, *, is_returned: bool = False) -> Reversal:
    amount_nano = dispute["amount"] * NANO_PER_CENT
    return Reversal(dispute["id"], "dispute", dispute["payment_intent"], amount_nano, is_returned)


def _reinstated(dispute: Stated) -> Reversal:
    return _withdrawn(dispute, is_returned=True)


_READERS: dict[str, Callable[[Stated], Paid | Reversal | None]] = {
    "checkout.session.completed": _paid,
    "checkout.session.async_payment_succeeded": _paid,
    "charge.refunded": _refunded,
    "charge.dispute.created": _disputed,
    "charge.dispute.closed": _disputed,
    "charge.dispute.funds_withdrawn": _withdrawn,
    "charge.dispute.funds_reinstated": _reinstated,
}
