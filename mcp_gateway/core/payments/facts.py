"""What Stripe's events say about money, as plain values. Knows Stripe's field names, and not what follows from them.

Event types and fields: https://docs.stripe.com/api/events/types. Only USD is ours; Stripe counts it in cents.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mcp_gateway.core.money import NANO_PER_CENT
from mcp_gateway.core.text import is_one_line

ACCOUNT = "gateway_account_id"
"""The name under which our sessions carry the account that they are for."""

_MAX_ID_CHARS = 255
_MAX_CENTS = 10**10
"""A hundred times the most that Stripe charges at once, and little enough for the ledger."""

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


class Unreadable(Exception):
    """An event of a kind that concerns a wallet, in which something is missing or is not of its kind."""


def fact_of(event: Any) -> Paid | Reversal | None:
    """What an event says that concerns a wallet; None for most events. Raises Unreadable."""
    try:
        read = _READERS.get(event["type"])
        if read is None:
            return None
        _text(event["id"])
        stated = event["data"]["object"]
        return read(stated) if stated["currency"] == "usd" and stated["payment_intent"] else None
    except (LookupError, TypeError, AttributeError, ValueError):
        raise Unreadable from None


def _paid(session: Stated) -> Paid | None:
    account_id = (session["metadata"] or {}).get(ACCOUNT)
    if account_id is None or session["mode"] != "payment" or session["payment_status"] != "paid":
        return None
    payment_id = _text(session["payment_intent"])
    return Paid(_text(session["id"]), payment_id, _text(account_id), _nano(session["amount_total"]))


def _refunded(charge: Stated) -> Reversal:
    amount_nano = _nano(charge["amount_refunded"])
    return Reversal(_text(charge["id"]), "refund", _text(charge["payment_intent"]), amount_nano)


def _disputed(dispute: Stated) -> Reversal | None:
    """An inquiry (`warning_...`) and a dispute that was prevented move no money."""
    status = dispute["status"]
    if status == "won":
        return _reinstated(dispute)
    return None if status == "prevented" or status.startswith("warning_") else _withdrawn(dispute)


def _withdrawn(dispute: Stated, *, is_returned: bool = False) -> Reversal:
    payment_id, amount_nano = _text(dispute["payment_intent"]), _nano(dispute["amount"])
    return Reversal(_text(dispute["id"]), "dispute", payment_id, amount_nano, is_returned)


def _reinstated(dispute: Stated) -> Reversal:
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


_READERS: dict[str, Callable[[Stated], Paid | Reversal | None]] = {
    "checkout.session.completed": _paid,
    "checkout.session.async_payment_succeeded": _paid,
    "charge.refunded": _refunded,
    "charge.dispute.created": _disputed,
    "charge.dispute.closed": _disputed,
    "charge.dispute.funds_withdrawn": _withdrawn,
    "charge.dispute.funds_reinstated": _reinstated,
}
