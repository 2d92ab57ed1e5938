"""Top-ups: who pays in which session, and events that become entries in the ledger, each once, in any order."""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol, TypeVar

from mcp_gateway.core.caller import GUEST_ACCOUNT_ID
from mcp_gateway.core.engine import Engine
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.money import PaidKind, format_usd
from mcp_gateway.core.payments.facts import Fact, Paid, Reversal, Uncreditable, Uncredited, Unreadable, fact_of
from mcp_gateway.core.payments.sessions import Checkout, Pages, Till, UnknownCustomer
from mcp_gateway.core.text import shown

logger = logging.getLogger(__name__)

T = TypeVar("T")

_NOTE_REVERSAL = """
INSERT INTO stripe_reversals (id, kind, payment_id, amount_nano, is_returned) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    amount_nano = MAX(amount_nano, excluded.amount_nano), is_returned = MAX(is_returned, excluded.is_returned)
"""
_OPEN_REVERSALS = """
SELECT r.id, r.kind, p.account_id, r.taken_nano, IIF(r.is_returned, 0, r.amount_nano) AS due_nano
FROM stripe_reversals AS r JOIN stripe_payments AS p ON p.id = r.payment_id
WHERE r.payment_id = ? AND r.taken_nano <> due_nano
"""
_REASONS: dict[Uncreditable, str] = {
    "currency": "it is not in USD",
    "account": "it names no account of this gateway",
    "payment": "it names no payment",
}


class Books(Protocol):
    """The ledger, as this room sees it; see Ledger.move."""

    def move(
        self, connection: sqlite3.Connection, account_id: str, kind: PaidKind, amount_nano: int, reference: str
    ) -> bool: ...


class Payments:
    """All top-ups, and what was taken back of them.

    What an event says is noted, and the ledger brought to what all notes together amount to: a refund or dispute that
    is heard of before its payment waits for it.
    """

    def __init__(
        self,
        store: Engine,
        books: Books,
        till: Till,
        *,
        now_ms: Callable[[], int],
        on_uncredited: Callable[[Uncreditable | Literal["unreadable"]], None],
    ) -> None:
        """`on_uncredited` is told why an event that may be about money brought none into a wallet."""
        self._store = store
        self._books = books
        self._till = till
        self._now_ms = now_ms
        self._on_uncredited = on_uncredited
        self._making_customer = asyncio.Lock()

    async def start_checkout(
        self, account_id: str, amount_nano: int, pages: Pages, *, idempotency_key: str | None
    ) -> Checkout:
        """A session to pay `amount_nano`, whole cents, into an account; the same one for the same key.

        Raises GatewayError `payments_unavailable`.
        """

        async def start(customer_id: str) -> Checkout:
            key = idempotency_key and f"{idempotency_key} {customer_id}"
            return await self._till.create_checkout(account_id, customer_id, amount_nano, pages, key)

        return await self._for_customer(account_id, start)

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
        left_out = await self._store.write(lambda connection: self._note(connection, event_id, event_type, fact))
        if left_out is not None:
            message = "Stripe session %s was paid and credits nothing: %s; look for it on Stripe's pages"
            logger.warning(message, shown(left_out.session_id), _REASONS[left_out.reason])
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
            customer_id = await self._till.create_customer(account_id)
            await self._store.write(lambda connection: _note_customer(connection, account_id, customer_id))
            return customer_id

    async def _known_customer(self, account_id: str) -> str | None:
        sql = "SELECT customer_id FROM stripe_customers WHERE account_id = ?"
        row = await self._store.fetch_one(sql, (account_id,))
        return None if row is None else row[0]

    # Inside the writer's transaction

    def _note(self, connection: sqlite3.Connection, event_id: str, event_type: str, fact: Fact) -> Uncredited | None:
        """What a session was paid for in vain, the first time that its event comes."""
        sql = "INSERT INTO stripe_events VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING"
        if not connection.execute(sql, (event_id, event_type, self._now_ms())).rowcount:
            return None
        if isinstance(fact, Uncredited):
            return fact
        if isinstance(fact, Reversal):
            row = (fact.id, fact.kind, fact.payment_id, fact.amount_nano, fact.is_returned)
            connection.execute(_NOTE_REVERSAL, row)
        elif not self._credit(connection, fact):
            return Uncredited(fact.session_id, "account")
        self._take_back(connection, fact.payment_id)
        return None

    def _credit(self, connection: sqlite3.Connection, paid: Paid) -> bool:
        """False where the account is none that can own money here."""
        is_known = connection.execute("SELECT 1 FROM accounts WHERE id = ?", (paid.account_id,)).fetchone()
        if not is_known or paid.account_id == GUEST_ACCOUNT_ID:
            return False
        row = (paid.payment_id, paid.account_id)
        connection.execute("INSERT INTO stripe_payments VALUES (?, ?) ON CONFLICT (id) DO NOTHING", row)
        self._books.move(connection, paid.account_id, "credit", paid.amount_nano, paid.session_id)
        return True

    def _take_back(self, connection: sqlite3.Connection, payment_id: str) -> None:
        """Charge the wallet for what has gone back to the payer, or give it what has returned since."""
        for reversal_id, kind, account_id, taken_nano, due_nano in connection.execute(
            _OPEN_REVERSALS, (payment_id,)
        ).fetchall():
            reference = f"{reversal_id} {format_usd(due_nano)}"
            self._books.move(connection, account_id, kind, taken_nano - due_nano, reference)
            connection.execute("UPDATE stripe_reversals SET taken_nano = ? WHERE id = ?", (due_nano, reversal_id))


def _note_customer(connection: sqlite3.Connection, account_id: str, customer_id: str) -> None:
    sql = (
        "INSERT INTO stripe_customers VALUES (?, ?) "
        "ON CONFLICT (account_id) DO UPDATE SET customer_id = excluded.customer_id"
    )
    connection.execute(sql, (account_id, customer_id))
