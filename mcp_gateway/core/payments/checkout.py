"""The sessions in which people pay, as plain values, and what this room asks of whoever opens them."""

from dataclasses import dataclass
from typing import Any, Protocol

from mcp_gateway.core.payments.auto_topups import AutoPayment
from mcp_gateway.core.payments.facts import AutoFailed, AutoPaid, AutoPending


class UnknownCustomer(Exception):
    """Stripe does not know this customer: deleted there, or of another Stripe account."""


@dataclass(frozen=True, slots=True)
class Pages:
    """Where a browser goes when the person has paid, or has not."""

    success_url: str
    cancel_url: str


@dataclass(frozen=True, slots=True)
class WantedCheckout:
    """A session to pay `amount_nano`, whole cents, into an account; `saves_method` asks to charge it again later.

    `user_id` is who pays, where somebody is signed in.
    """

    account_id: str
    amount_nano: int
    pages: Pages
    saves_method: bool = False
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class Checkout:
    """A session in which a person pays at `url`, until `expires_at_s` (Unix time)."""

    id: str
    url: str
    expires_at_s: int


class Till(Protocol):
    """An account at Stripe. All calls raise GatewayError `payments_unavailable` where Stripe does not do as asked."""

    async def create_customer(self, account_id: str) -> str: ...

    async def create_checkout(
        self, customer_id: str, wanted: WantedCheckout, idempotency_key: str | None
    ) -> Checkout: ...

    async def create_portal(self, customer_id: str, return_url: str) -> str: ...

    async def make_payment(self, payment: AutoPayment, return_url: str) -> AutoPaid | AutoFailed | AutoPending:
        """Charge a saved payment method, once by the payment's id."""

    async def find_payment(self, payment: AutoPayment) -> AutoPaid | AutoFailed | AutoPending | None:
        """What became of it; None where Stripe has not heard of it."""

    def verified_event(self, raw: bytes, signature: str) -> Any: ...
