"""What Stripe's events say, and the entries of the ledger that follow from all of them together."""

from mcp_gateway.core.ledger.entries import Move
from mcp_gateway.core.payments.auto_topups import EndAutoPayment
from mcp_gateway.core.payments.facts import AutoFailed, AutoPaid, MethodRemoved, MethodSaved, Paid, Reversal, Uncredited
from mcp_gateway.core.payments.payments import CustomerOf, NoteCustomer, NoteEvent, OpenReversal, may_be_credited
from mcp_gateway.core.store.sql.auto_topups import (
    end_auto_payment,
    fail_auto_payment,
    remove_method,
    save_method,
    switch_off,
    tell_of_auto_payment,
)
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction

_NOTE_REVERSAL = """
INSERT INTO stripe_reversals (id, kind, payment_id, amount_nano, is_returned) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    amount_nano = MAX(stripe_reversals.amount_nano, excluded.amount_nano),
    is_returned = MAX(stripe_reversals.is_returned, excluded.is_returned)
"""
_OPEN_REVERSALS = """
SELECT r.id, r.kind, p.account_id, r.taken_nano, CASE WHEN r.is_returned THEN 0 ELSE r.amount_nano END
FROM stripe_reversals AS r JOIN stripe_payments AS p ON p.id = r.payment_id
WHERE r.payment_id = ? AND r.taken_nano <> CASE WHEN r.is_returned THEN 0 ELSE r.amount_nano END
"""


def _note_event(transaction: Transaction, write: NoteEvent) -> Uncredited | None:
    sql = "INSERT INTO stripe_events VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING"
    if not transaction.execute(sql, (write.event_id, write.event_type, write.at_ms)):
        return None
    fact = write.fact
    if isinstance(fact, Uncredited):
        return fact
    if isinstance(fact, Paid | AutoPaid):
        return None if _credit(transaction, fact) else Uncredited(fact.reference, "account")
    _note(transaction, fact)
    return None


def _note(transaction: Transaction, fact: Reversal | AutoFailed | MethodSaved | MethodRemoved) -> None:
    match fact:
        case Reversal():
            row = (fact.id, fact.kind, fact.payment_id, fact.amount_nano, fact.is_returned)
            transaction.execute(_NOTE_REVERSAL, row)
            _take_back(transaction, fact.payment_id)
        case AutoFailed():
            fail_auto_payment(transaction, fact)
        case MethodSaved():
            save_method(transaction, fact)
        case _:
            removed: MethodRemoved = fact  # all that is left, as the type checker sees
            remove_method(transaction, removed)


def _end_auto_payment(transaction: Transaction, write: EndAutoPayment) -> None:
    if isinstance(write.outcome, AutoFailed):
        fail_auto_payment(transaction, write.outcome)
    else:
        _credit(transaction, write.outcome)


def _credit(transaction: Transaction, paid: Paid | AutoPaid) -> bool:
    """What was paid, once, whoever tells of it, less what has gone back. False for an account that can own no money."""
    if isinstance(paid, AutoPaid):  # first, so that a balance that stays low begins the next one
        end_auto_payment(transaction, paid)
    is_known = transaction.first("SELECT 1 FROM accounts WHERE id = ?", (paid.account_id,)) is not None
    if not may_be_credited(paid.account_id, is_known=is_known):
        return False
    row = (paid.payment_id, paid.account_id)
    transaction.execute("INSERT INTO stripe_payments VALUES (?, ?) ON CONFLICT (id) DO NOTHING", row)
    is_new = transaction.run(Move(paid.account_id, "credit", paid.amount_nano, paid.reference))
    if is_new and isinstance(paid, AutoPaid):
        tell_of_auto_payment(transaction, paid)
    _take_back(transaction, paid.payment_id)
    return True


def _take_back(transaction: Transaction, payment_id: str) -> None:
    """Charge the wallet for what has gone back to the payer, or give it what has returned since.

    Whose money went back is not topped up by itself any more: else what was just given back would be charged again.
    """
    for row in transaction.all(_OPEN_REVERSALS, (payment_id,)):
        one = OpenReversal(*row)
        if one.change_nano < 0:
            switch_off(transaction, one.account_id, "payment_refunded" if one.kind == "refund" else "payment_disputed")
        transaction.run(Move(one.account_id, one.kind, one.change_nano, one.reference))
        transaction.execute("UPDATE stripe_reversals SET taken_nano = ? WHERE id = ?", (one.due_nano, one.id))


def _note_customer(transaction: Transaction, write: NoteCustomer) -> str:
    """Of two servers that make one at a time the first counts: the other's has nothing at Stripe."""
    sql = (
        "INSERT INTO stripe_customers VALUES (?, ?) ON CONFLICT (account_id) DO UPDATE SET customer_id = "
        "CASE WHEN stripe_customers.customer_id = ? THEN excluded.customer_id ELSE stripe_customers.customer_id END "
        "RETURNING customer_id"
    )
    row = transaction.first(sql, (write.account_id, write.customer_id, write.instead_of))
    assert row is not None
    return str(row[0])


def _customer(rows: Rows, read: CustomerOf) -> str | None:
    row = rows.first("SELECT customer_id FROM stripe_customers WHERE account_id = ?", (read.account_id,))
    return None if row is None else row[0]


EXECUTORS = Executors(
    alone={NoteEvent: _note_event, EndAutoPayment: _end_auto_payment, NoteCustomer: _note_customer},
    reads={CustomerOf: _customer},
)
