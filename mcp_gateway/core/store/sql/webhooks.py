"""Who is told of what: events are written in the transaction of what caused them, once for each receiver."""

import orjson

from mcp_gateway.core.ids import new_id
from mcp_gateway.core.ledger.budgets import Spent
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction
from mcp_gateway.core.webhooks import events
from mcp_gateway.core.webhooks.outbox import (
    OPERATOR,
    Delivery,
    DueDeliveries,
    EndDelivery,
    OutboxGrew,
    PutOffDelivery,
    PutWebhook,
    RemoveWebhook,
    RotateSecret,
    SetLowBalance,
    SetOperatorWebhook,
    Webhook,
    WebhookOf,
    WebhookStanding,
)

MARK = "(SELECT mark_nano FROM low_balances AS low WHERE low.account_id = wallets.account_id AND NOT is_told)"
"""Of a row of wallets: below what its account is to be told so; NULL where it is not, or was told."""
_ADD = """
INSERT INTO webhook_outbox SELECT receiver, ?, ?, 0, ? FROM webhooks WHERE receiver = ? OR receiver = ?
"""
_TELL_ONCE = "INSERT INTO told_thresholds VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_BUDGET = "SELECT id, holder, window, amount_nano FROM budgets WHERE id = ?"
_SET_OPERATOR = """
INSERT INTO webhooks VALUES (?, ?, ?, NULL, NULL, NULL) ON CONFLICT (receiver) DO UPDATE SET url = excluded.url
"""
_PUT = "UPDATE webhooks SET url = ? WHERE receiver = ?"
_NEW = "INSERT INTO webhooks VALUES (?, ?, ?, ?, NULL, NULL)"
_ROTATE = """
UPDATE webhooks SET former_secret = secret, former_until_ms = ?, secret = ? WHERE receiver = ?
"""
_REMOVE_WAITING = "DELETE FROM webhook_outbox WHERE receiver = ?"
_REMOVE = "DELETE FROM webhooks WHERE receiver = ?"
_SET_MARK = """
INSERT INTO low_balances VALUES (?, ?, 0)
ON CONFLICT (account_id) DO UPDATE SET mark_nano = excluded.mark_nano, is_told = 0
"""
_TOLD = "UPDATE low_balances SET is_told = 1 WHERE account_id = ?"
_REARM = """
UPDATE low_balances SET is_told = 0 WHERE account_id = ?1 AND is_told
AND mark_nano <= (SELECT paid_nano + granted_nano FROM wallets WHERE wallets.account_id = ?1)
"""
_OWNED = "SELECT paid_nano + granted_nano FROM wallets WHERE account_id = ?"
_WEBHOOK = (
    "SELECT url, set_at_ms, CASE WHEN former_until_ms > ? THEN former_until_ms END FROM webhooks WHERE receiver = ?"
)
_DUE = """
SELECT receiver, event_id, body, tries, url, secret, CASE WHEN former_until_ms > ?1 THEN former_secret END
FROM webhook_outbox AS due JOIN webhooks USING (receiver)
WHERE due_at_ms <= ?1 AND receiver NOT IN (SELECT value FROM json_each(?2)) AND NOT EXISTS (
    SELECT 1 FROM webhook_outbox AS other
    WHERE other.receiver = due.receiver AND (other.due_at_ms, other.event_id) < (due.due_at_ms, due.event_id)
)
ORDER BY due_at_ms LIMIT ?3
"""
_END = "DELETE FROM webhook_outbox WHERE receiver = ? AND event_id = ?"
_PUT_OFF = "UPDATE webhook_outbox SET tries = tries + 1, due_at_ms = ? WHERE receiver = ? AND event_id = ?"


def tell_of_budget(
    transaction: Transaction, account_id: str, window: Spent, amount_nano: int, spent_nano: int, more_nano: int
) -> None:
    """Of the thresholds that a budget has crossed as so much `more_nano` was spent of it; each once in a window."""
    for percent in events.crossed(spent_nano - more_nano, spent_nano, amount_nano):
        if not transaction.execute(_TELL_ONCE, (*window, percent)):
            continue  # told before something was given back
        budget_id, starts_at_ms = window
        row = transaction.first(_BUDGET, (budget_id,))
        assert row is not None
        budget = dict(zip(("id", "holder", "window", "amount_nano"), row, strict=True))
        at_ms = transaction.now_ms()
        _add(
            transaction,
            account_id,
            events.budget_threshold(at_ms, account_id, budget, starts_at_ms, spent_nano, percent),
        )


def tell_of_low_balance(transaction: Transaction, account_id: str, balance_nano: int, mark_nano: int) -> None:
    """Once, until money comes in from outside."""
    transaction.execute(_TOLD, (account_id,))
    _add(transaction, account_id, events.low_balance(transaction.now_ms(), account_id, balance_nano, mark_nano))


def note_money_in(transaction: Transaction, account_id: str) -> None:
    """Have an account told again of a low balance, if it has more again by money from outside."""
    transaction.execute(_REARM, (account_id,))


def _add(transaction: Transaction, account_id: str, body: str) -> None:
    if transaction.execute(_ADD, (new_id("evt"), body, transaction.now_ms(), account_id, OPERATOR)):
        transaction.tell(OutboxGrew())


def _set_operator(transaction: Transaction, write: SetOperatorWebhook) -> None:
    if write.url is None:
        _remove(transaction, RemoveWebhook(OPERATOR))
    else:
        transaction.execute(_SET_OPERATOR, (OPERATOR, write.url, transaction.now_ms()))


def _put(transaction: Transaction, write: PutWebhook) -> bool:
    if transaction.execute(_PUT, (write.url, write.account_id)):
        return False
    transaction.execute(_NEW, (write.account_id, write.url, transaction.now_ms(), write.secret))
    return True


def _rotate(transaction: Transaction, write: RotateSecret) -> bool:
    return bool(transaction.execute(_ROTATE, (write.former_until_ms, write.secret, write.account_id)))


def _remove(transaction: Transaction, write: RemoveWebhook) -> bool:
    transaction.execute(_REMOVE_WAITING, (write.account_id,))
    return bool(transaction.execute(_REMOVE, (write.account_id,)))


def _set_low_balance(transaction: Transaction, write: SetLowBalance) -> None:
    account_id, mark_nano = write.account_id, write.mark_nano
    if mark_nano is None:
        transaction.execute("DELETE FROM low_balances WHERE account_id = ?", (account_id,))
        return
    transaction.execute(_SET_MARK, (account_id, mark_nano))
    (owned_nano,) = transaction.first(_OWNED, (account_id,)) or (0,)
    if owned_nano < mark_nano:
        tell_of_low_balance(transaction, account_id, owned_nano, mark_nano)


def _webhook_of(rows: Rows, read: WebhookOf) -> WebhookStanding:
    row = rows.first(_WEBHOOK, (read.now_ms, read.account_id))
    mark = rows.first("SELECT mark_nano FROM low_balances WHERE account_id = ?", (read.account_id,))
    return WebhookStanding(None if row is None else Webhook(*row), None if mark is None else mark[0])


def _due(rows: Rows, read: DueDeliveries) -> tuple[Delivery, ...]:
    busy = orjson.dumps(sorted(read.busy)).decode()
    return tuple(Delivery(*row) for row in rows.all(_DUE, (read.now_ms, busy, read.most)))


def _end(transaction: Transaction, write: EndDelivery) -> None:
    transaction.execute(_END, (write.receiver, write.event_id))


def _put_off(transaction: Transaction, write: PutOffDelivery) -> None:
    transaction.execute(_PUT_OFF, (write.due_at_ms, write.receiver, write.event_id))


EXECUTORS = Executors(
    alone={
        SetOperatorWebhook: _set_operator,
        PutWebhook: _put,
        RotateSecret: _rotate,
        RemoveWebhook: _remove,
        SetLowBalance: _set_low_balance,
        EndDelivery: _end,
        PutOffDelivery: _put_off,
    },
    reads={WebhookOf: _webhook_of, DueDeliveries: _due},
)
