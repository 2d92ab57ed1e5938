"""The sessions in which people pay, as plain values, and what this room asks of whoever opens them."""

from dataclasses import dataclass
from typing import Any, Protocol


class UnknownCustomer(Exception):
    """Stripe does not know this customer: deleted there, or of another Stripe account."""


@dataclass(frozen=True, slots=True)
class Pages:
    """Where a browser goes when the person has paid, or has not."""

    success_url: str
    cancel_url: str


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
        self, account_id: str, customer_id: str, amount_nano: int, pages: Pages, idempotency_key: str | None
    ) -> Checkout: ...

    async def create_portal(self, customer_id: str, return_url: str) -> str: ...

    def verified_event(self, raw: bytes, signature: str) -> Any: ...
