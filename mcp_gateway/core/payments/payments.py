"""Top-ups: who pays in which session, and events that become entries in the ledger, each once, in any order."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from mcp_gateway.core.caller import GUEST_ACCOUNT_ID
from mcp_gateway.core.engine import Engine, Read, Write
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.payments.checkout import Checkout, Till, UnknownCustomer, WantedCheckout
from mcp_gateway.core.payments.facts import Fact, Uncreditable, Uncredited, Unreadable, fact_of
from mcp_gateway.core.text import shown

logger = logging.getLogger(__name__)

T = TypeVar("T")

_REASONS: dict[Uncreditable, str] = {
    "currency": "it is not in USD",
    "account": "it names no account of this gateway",
    "payment": "it names no payment",
}


@dataclass(frozen=True, slots=True)
class NoteEvent(Write[Uncredited | None]):
    """What an event says, and what follows from it for wallets; what comes twice changes nothing.

    Comes to a session that was paid for in vain, the first time that its event comes.
    """

    event_id: str
    event_type: str
    fact: Fact
    at_ms: int


@dataclass(frozen=True, slots=True)
class NoteCustomer(Write[str]):
    """Who an account is at Stripe, in place of who it was. Comes to whom others have noted meanwhile, else to this."""

    account_id: str
    customer_id: str
    instead_of: str | None


@dataclass(frozen=True, slots=True)
class CustomerOf(Read[str | None]):
    account_id: str


class OpenReversal(NamedTuple):
    """Of what went back to a payer, how much the wallet has been charged for, and how much it must have been."""

    id: str
    kind: Literal["refund", "dispute"]
    account_id: str
    taken_nano: int
    due_nano: int

    @property
    def change_nano(self) -> int:
        """For the wallet: less where more went back, more where some has returned since."""
        return self.taken_nano - self.due_nano

    @property
    def reference(self) -> str:
        """Of its entry, which is made once for each sum."""
        return f"{self.id} {format_usd(self.due_nano)}"


def may_be_credited(account_id: str, *, is_known: bool) -> bool:
    """Whether an account can own money here."""
    return is_known and account_id != GUEST_ACCOUNT_ID


class Payments:
    """All top-ups, and what was taken back of them.

    What an event says is noted, and the ledger brought to what all notes together amount to: a refund or dispute that
    is heard of before its payment waits for it.
    """

    def __init__(
        self,
        store: Engine,
        till: Till,
        *,
        now_ms: Callable[[], int],
        on_uncredited: Callable[[Uncreditable | Literal["unreadable"]], None],
    ) -> None:
        """`on_uncredited` is told why an event about money brought none."""
        self._store = store
        self._till = till
        self._now_ms = now_ms
        self._on_uncredited = on_uncredited
        self._making_customer = asyncio.Lock()

    async def start_checkout(self, wanted: WantedCheckout, *, idempotency_key: str | None) -> Checkout:
        """A session to pay in; the same one for the same key. Raises GatewayError `payments_unavailable`."""

        async def start(customer_id: str) -> Checkout:
            key = idempotency_key and f"{idempotency_key} {customer_id}"
            return await self._till.create_checkout(customer_id, wanted, key)

        return await self._for_customer(wanted.account_id, start)

    async def open_portal(self, account_id: str, return_url: str) -> str:
        """The address where a person sees an account's payments. Raises GatewayError `payments_unavailable`."""
        return await self._for_customer(
            account_id, lambda customer_id: self._till.create_portal(customer_id, return_url)
        )

    async def receive(self, raw: bytes, signature: str) -> None:
        """Apply the event in a webhook's body; durable on return.

        Raises GatewayError for a wrong signature, and for an event that cannot be read: Stripe's pages show those then.
        """
        event = self._till.verified_event(raw, signature)
        try:
            fact = fact_of(event)
        except Unreadable:
            logger.error("an event that Stripe signed cannot be read: look for it on Stripe's pages")
            self._on_uncredited("unreadable")
            raise GatewayError("invalid_value", "This event is not of the shape that its type has.") from None
        if fact is not None:
            await self._apply(event["id"], event["type"], fact)

    async def _apply(self, event_id: str, event_type: str, fact: Fact) -> None:
        left_out = await self._store.write(NoteEvent(event_id, event_type, fact, self._now_ms()))
        if left_out is not None:
            message = "%s was paid at Stripe and credits nothing: %s; look for it on Stripe's pages"
            logger.warning(message, shown(left_out.stripe_id), _REASONS[left_out.reason])
            self._on_uncredited(left_out.reason)

    # Customers

    async def _for_customer(self, account_id: str, ask: Callable[[str], Awaitable[T]]) -> T:
        """Ask Stripe with the account's customer, who is made where there is none, or none any more."""
        customer_id = await self._customer(account_id)
        try:
            return await ask(customer_id)
        except UnknownCustomer:
            return await ask(await self._customer(account_id, instead_of=customer_id))

    async def _customer(self, account_id: str, *, instead_of: str | None = None) -> str:
        known = await self._known_customer(account_id)
        if known is not None and known != instead_of:
            return known
        async with self._making_customer:
            known = await self._known_customer(account_id)
            if known is not None and known != instead_of:  # made while this one waited
                return known
            made_id = await self._till.create_customer(account_id)
            return await self._store.write(NoteCustomer(account_id, made_id, instead_of))

    async def _known_customer(self, account_id: str) -> str | None:
        return await self._store.read(CustomerOf(account_id))
