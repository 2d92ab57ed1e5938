"""Auto top-ups: payments that are begun in the transaction which makes a balance low, one at a time for an account."""

import orjson

from mcp_gateway.core.ids import new_id
from mcp_gateway.core.payments.auto_topups import (
    MOST_PAYMENTS_A_DAY,
    AskAutoPayment,
    AutoPayment,
    AutoPaymentBegun,
    AutoPaymentEnded,
    AutoTopUpOf,
    AutoTopUpStanding,
    AutoTopUpTerms,
    DropAutoPayment,
    DueAutoPayment,
    DueAutoPayments,
    OffReason,
    PutOffAutoPayment,
    RemoveAutoTopUp,
    SetAutoTopUp,
    SwitchOffAllAutoTopUps,
    SwitchOffAutoTopUp,
    day_of,
)
from mcp_gateway.core.payments.facts import AutoFailed, AutoPaid, MethodRemoved, MethodSaved
from mcp_gateway.core.store.sql.webhooks import tell_of_auto_topup, tell_of_switch_off
from mcp_gateway.core.store.transaction import Executors, Row, Rows, Transaction

_OPEN = "state IN ('due', 'asked')"
THRESHOLD = (
    "(SELECT threshold_nano FROM auto_topups AS auto WHERE auto.account_id = wallets.account_id AND off_reason IS NULL "
    f"AND NOT EXISTS (SELECT 1 FROM auto_payments AS open WHERE open.account_id = wallets.account_id AND {_OPEN}))"
)
"""Of a row of wallets: the balance below which a payment is begun; NULL where none is, or one is under way."""
_BEGIN = """
INSERT INTO auto_payments (id, account_id, state, tries, due_at_ms) VALUES (?, ?, 'due', 0, ?) ON CONFLICT DO NOTHING
"""
_LOW = f"SELECT 1 FROM wallets WHERE account_id = ? AND paid_nano + granted_nano < {THRESHOLD}"
_SET = """
INSERT INTO auto_topups VALUES (?, ?, ?, ?, NULL, NULL)
ON CONFLICT (account_id) DO UPDATE SET threshold_nano = excluded.threshold_nano, amount_nano = excluded.amount_nano,
    most_per_day_nano = excluded.most_per_day_nano, off_reason = NULL, off_at_ms = NULL
"""
_DROP_DUE = "DELETE FROM auto_payments WHERE account_id = ? AND state = 'due'"
_SWITCH_OFF = "UPDATE auto_topups SET off_reason = ?, off_at_ms = ? WHERE account_id = ? AND off_reason IS NULL"
_SAVE = """
INSERT INTO saved_payment_methods
SELECT accounts.id, ?, ?, ?, payer.id FROM accounts LEFT JOIN users AS payer ON payer.id = ?
WHERE accounts.id = ? AND (payer.id IS NOT NULL OR NOT ?)
ON CONFLICT (account_id) DO UPDATE SET customer_id = excluded.customer_id, method_id = excluded.method_id,
    saved_at_s = excluded.saved_at_s, user_id = excluded.user_id
WHERE excluded.saved_at_s >= saved_payment_methods.saved_at_s
"""
_FORGET = "DELETE FROM saved_payment_methods WHERE method_id = ? RETURNING account_id"
_FORGET_PAYER = "DELETE FROM saved_payment_methods WHERE user_id = ? RETURNING account_id"
_STANDING = (
    "SELECT threshold_nano, amount_nano, most_per_day_nano, off_reason, off_at_ms FROM auto_topups WHERE account_id = ?"
)
_HAS_METHOD = "SELECT 1 FROM saved_payment_methods WHERE account_id = ?"
_OPENED = f"SELECT due_at_ms FROM auto_payments WHERE account_id = ? AND {_OPEN}"
_TODAY = """
SELECT COUNT(*), COALESCE(SUM(CASE WHEN state <> 'failed' THEN amount_nano END), 0) FROM auto_payments
WHERE account_id = ? AND asked_at_ms >= ?
"""
_IS_WANTED = "off_reason IS NULL AND is_active AND paid_nano + granted_nano < threshold_nano"
_DUE = f"""
SELECT id, account_id, tries, EXISTS (
    SELECT 1 FROM auto_topups AS auto JOIN wallets USING (account_id) JOIN accounts ON accounts.id = auto.account_id
    WHERE auto.account_id = auto_payments.account_id AND {_IS_WANTED}
), state = 'asked', amount_nano, customer_id, method_id, asked_at_ms
FROM auto_payments WHERE {_OPEN} AND due_at_ms <= ? AND id NOT IN (SELECT value FROM json_each(?))
ORDER BY due_at_ms, id LIMIT ?
"""
_DECIDED = f"""
SELECT pay.account_id, auto.amount_nano, most_per_day_nano, saved.customer_id, saved.method_id
FROM auto_payments AS pay JOIN auto_topups AS auto USING (account_id) JOIN wallets USING (account_id)
JOIN accounts ON accounts.id = pay.account_id LEFT JOIN saved_payment_methods AS saved USING (account_id)
WHERE pay.id = ? AND state = 'due' AND {_IS_WANTED}
"""
_ASK = """
UPDATE auto_payments SET state = 'asked', asked_at_ms = ?, amount_nano = ?, customer_id = ?, method_id = ?
WHERE id = ?
"""
_PUT_OFF = f"UPDATE auto_payments SET tries = tries + 1, due_at_ms = ? WHERE id = ? AND {_OPEN}"
_FAILED = "UPDATE auto_payments SET state = 'failed' WHERE id = ? AND state = 'asked' RETURNING account_id, amount_nano"


def begin_auto_payment(transaction: Transaction, account_id: str) -> None:
    """For an account whose balance has come below its threshold, and that has no payment under way."""
    transaction.execute(_BEGIN, (new_id("atp"), account_id, transaction.now_ms()))
    transaction.tell(AutoPaymentBegun())


def begin_if_low(transaction: Transaction, account_id: str) -> None:
    """The same for one whose balance may be low already."""
    if transaction.first(_LOW, (account_id,)) is not None:
        begin_auto_payment(transaction, account_id)


def switch_off(transaction: Transaction, account_id: str, reason: OffReason) -> bool:
    """Though no payment failed. False where it was not on; what was asked for already goes on."""
    is_new = _switched_off(transaction, account_id, reason)
    if is_new:
        tell_of_switch_off(transaction, account_id, reason)
    return is_new


def _switched_off(transaction: Transaction, account_id: str, reason: str) -> bool:
    transaction.execute(_DROP_DUE, (account_id,))
    return bool(transaction.execute(_SWITCH_OFF, (reason, transaction.now_ms(), account_id)))


def save_method(transaction: Transaction, saved: MethodSaved) -> None:
    """The last one that was saved counts, in whatever order their events come; none of a user who is deleted."""
    payer = saved.user_id
    row = (saved.customer_id, saved.method_id, saved.at_s, payer, saved.account_id, payer is not None)
    transaction.execute(_SAVE, row)


def forget_payer(transaction: Transaction, user_id: str) -> bool:
    """Charge nobody any more by what a user saved, who is deleted. Whether an account was topped up by itself so."""
    accounts = transaction.all(_FORGET_PAYER, (user_id,))
    return bool([one for (one,) in accounts if switch_off(transaction, one, "payer_deleted")])


def remove_method(transaction: Transaction, removed: MethodRemoved) -> None:
    for (account_id,) in transaction.all(_FORGET, (removed.method_id,)):
        switch_off(transaction, account_id, "no_payment_method")


def end_auto_payment(transaction: Transaction, paid: AutoPaid) -> None:
    transaction.execute("UPDATE auto_payments SET state = 'paid' WHERE id = ?", (paid.id,))


def tell_of_auto_payment(transaction: Transaction, paid: AutoPaid) -> None:
    """It has been credited."""
    tell_of_auto_topup(transaction, paid.account_id, paid.amount_nano, None)
    transaction.tell(AutoPaymentEnded(paid.account_id, None))


def fail_auto_payment(transaction: Transaction, failed: AutoFailed) -> None:
    """Switch off whose payment it was; nothing where it has ended already."""
    row = transaction.first(_FAILED, (failed.id,))
    if row is None:
        return
    account_id, amount_nano = row
    _switched_off(transaction, account_id, failed.reason)
    tell_of_auto_topup(transaction, account_id, amount_nano, failed.reason)
    transaction.tell(AutoPaymentEnded(account_id, failed.reason))


def _set(transaction: Transaction, write: SetAutoTopUp) -> bool:
    account_id = write.account_id
    if transaction.first(_HAS_METHOD, (account_id,)) is None:
        return False
    transaction.execute(_SET, (account_id, *write.terms))
    transaction.execute(_DROP_DUE, (account_id,))
    begin_if_low(transaction, account_id)
    return True


def _remove(transaction: Transaction, write: RemoveAutoTopUp) -> bool:
    transaction.execute(_DROP_DUE, (write.account_id,))
    return bool(transaction.execute("DELETE FROM auto_topups WHERE account_id = ?", (write.account_id,)))


def _switch_off(transaction: Transaction, write: SwitchOffAutoTopUp) -> bool:
    return switch_off(transaction, write.account_id, write.reason)


def _switch_off_all(transaction: Transaction, write: SwitchOffAllAutoTopUps) -> int:
    on = transaction.all("SELECT account_id FROM auto_topups WHERE off_reason IS NULL")
    for (account_id,) in on:
        switch_off(transaction, account_id, write.reason)
    return len(on)


def _ask(transaction: Transaction, write: AskAutoPayment) -> AutoPayment | None:
    row = transaction.first(_DECIDED, (write.payment_id,))
    if row is None:
        transaction.execute("DELETE FROM auto_payments WHERE id = ? AND state = 'due'", (write.payment_id,))
        return None
    account_id, amount_nano, most_per_day_nano, customer_id, method_id = row
    if method_id is None or amount_nano > write.most_nano:
        switch_off(transaction, account_id, "no_payment_method" if method_id is None else "not_offered")
        return None
    payments, asked_nano = _today(transaction, account_id, write.now_ms)
    if asked_nano + amount_nano > min(most_per_day_nano, write.most_per_day_nano) or payments >= MOST_PAYMENTS_A_DAY:
        _put_off(transaction, PutOffAutoPayment(write.payment_id, day_of(write.now_ms).stop))
        return None
    transaction.execute(_ASK, (write.now_ms, amount_nano, customer_id, method_id, write.payment_id))
    return AutoPayment(write.payment_id, account_id, amount_nano, customer_id, method_id, write.now_ms)


def _today(rows: Rows, account_id: str, now_ms: int) -> Row:
    """How many payments were asked for since midnight, and for how much in all, without those that failed."""
    row = rows.first(_TODAY, (account_id, day_of(now_ms).start))
    assert row is not None
    return row


def _drop(transaction: Transaction, write: DropAutoPayment) -> None:
    row = transaction.first(_FAILED, (write.payment_id,))
    if row is not None:
        begin_if_low(transaction, row[0])


def _put_off(transaction: Transaction, write: PutOffAutoPayment) -> None:
    transaction.execute(_PUT_OFF, (write.due_at_ms, write.payment_id))


def _standing(rows: Rows, read: AutoTopUpOf) -> AutoTopUpStanding:
    account_id = read.account_id
    row = rows.first(_STANDING, (account_id,))
    terms, off_reason, off_at_ms = (None, None, None) if row is None else (AutoTopUpTerms(*row[:3]), *row[3:])
    has_method = rows.first(_HAS_METHOD, (account_id,)) is not None
    opened = rows.first(_OPENED, (account_id,))
    _, asked_nano = _today(rows, account_id, read.now_ms)
    due_at_ms = None if opened is None else opened[0]
    return AutoTopUpStanding(terms, off_reason, off_at_ms, has_method, asked_nano, due_at_ms)


def _due(rows: Rows, read: DueAutoPayments) -> tuple[DueAutoPayment, ...]:
    busy = orjson.dumps(sorted(read.busy)).decode()
    return tuple(map(_due_of, rows.all(_DUE, (read.now_ms, busy, read.most))))


def _due_of(row: Row) -> DueAutoPayment:
    payment_id, account_id, tries, is_wanted, is_asked, *asked = row
    return DueAutoPayment(
        payment_id,
        account_id,
        tries,
        bool(is_wanted),
        AutoPayment(payment_id, account_id, *asked) if is_asked else None,
    )


EXECUTORS = Executors(
    alone={
        SetAutoTopUp: _set,
        RemoveAutoTopUp: _remove,
        SwitchOffAutoTopUp: _switch_off,
        SwitchOffAllAutoTopUps: _switch_off_all,
        AskAutoPayment: _ask,
        DropAutoPayment: _drop,
        PutOffAutoPayment: _put_off,
    },
    reads={AutoTopUpOf: _standing, DueAutoPayments: _due},
)
