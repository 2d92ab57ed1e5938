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
    EventsDropped,
    ForgetFormerSecrets,
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
MOST_WAITING = 10_000
"""Events for one receiver: what is written beyond them takes the place of the oldest."""
_ADD = "INSERT INTO webhook_outbox SELECT receiver, ?, ?, 0, ? FROM webhooks WHERE receiver = ?"
_WAITING = "SELECT count(*) FROM webhook_outbox INDEXED BY webhook_outbox_due WHERE receiver = ?"
_DROP_OLDEST = """
DELETE FROM webhook_outbox WHERE receiver = ?1
AND event_id IN (SELECT event_id FROM webhook_outbox WHERE receiver = ?1 ORDER BY event_id LIMIT ?2)
"""
_TELL_ONCE = "INSERT INTO told_thresholds VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_BUDGET = "SELECT id, holder, budgets.window, amount_nano FROM budgets WHERE id = ?"
_SET_OPERATOR = """
INSERT INTO webhooks VALUES (?, ?, ?, NULL, NULL, NULL) ON CONFLICT (receiver) DO UPDATE SET url = excluded.url
"""
_PUT = "UPDATE webhooks SET url = ? WHERE receiver = ?"
_NEW = "INSERT INTO webhooks VALUES (?, ?, ?, ?, NULL, NULL)"
_ROTATE = """
UPDATE webhooks SET former_secret = secret, former_until_ms = ?, secret = ? WHERE receiver = ?
"""
_FORGET_FORMER = """
UPDATE webhooks SET former_secret = NULL, former_until_ms = NULL WHERE former_until_ms <= ?
"""
_REMOVE_WAITING = "DELETE FROM webhook_outbox WHERE receiver = ?"
_REMOVE = "DELETE FROM webhooks WHERE receiver = ?"
_SET_MARK = """
INSERT INTO low_balances VALUES (?1, ?2, 0)
ON CONFLICT (account_id) DO UPDATE SET mark_nano = ?2, is_told = low_balances.is_told AND ?3 < ?2
"""
_CLEAR_MARK = "UPDATE low_balances SET is_told = 2 WHERE account_id = ? AND is_told"
"""Left behind, as told and cleared since, so that to set one again tells nothing anew."""
_REMOVE_MARK = "DELETE FROM low_balances WHERE account_id = ? AND NOT is_told"
_TELL_OF_MARK = "UPDATE low_balances SET is_told = 1 WHERE account_id = ? AND NOT is_told"
_REARM = """
UPDATE low_balances SET is_told = 0 WHERE account_id = ?1 AND is_told = 1
AND mark_nano <= (SELECT paid_nano + granted_nano FROM wallets WHERE wallets.account_id = ?1)
"""
_FORGET_CLEARED = "DELETE FROM low_balances WHERE account_id = ? AND is_told = 2"
_OWNED = "SELECT paid_nano + granted_nano FROM wallets WHERE account_id = ?"
_WEBHOOK = (
    "SELECT url, set_at_ms, CASE WHEN former_until_ms > ? THEN former_until_ms END FROM webhooks WHERE receiver = ?"
)
_DUE = """
SELECT receiver, event_id, body, tries, url, secret, CASE WHEN former_until_ms > ?1 THEN former_secret END
FROM webhooks CROSS JOIN webhook_outbox USING (receiver)
WHERE receiver NOT IN (SELECT value FROM json_each(?2)) AND event_id = (
    SELECT first.event_id FROM webhook_outbox AS first
    WHERE first.receiver = webhooks.receiver AND first.due_at_ms <= ?1
    ORDER BY first.due_at_ms, first.event_id LIMIT 1
)
ORDER BY receiver <> ?4, due_at_ms LIMIT ?3 + 1
"""
"""One look-up in the index for each receiver, however much waits for it; CROSS JOIN keeps them in this order."""
_END = "DELETE FROM webhook_outbox WHERE receiver = ? AND event_id = ?"
_PUT_OFF = """
UPDATE webhook_outbox SET tries = tries + 1, due_at_ms = ? WHERE receiver = ? AND event_id = ? AND tries = ?
"""


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
        body = events.budget_threshold(at_ms, account_id, budget, starts_at_ms, spent_nano, percent)
        _add(transaction, body, account_id, OPERATOR)


def tell_of_low_balance(transaction: Transaction, account_id: str, balance_nano: int, mark_nano: int) -> None:
    """Once, until money comes in from outside."""
    _tell_of_mark(transaction, account_id, balance_nano, mark_nano, account_id, OPERATOR)


def note_money_in(transaction: Transaction, account_id: str) -> None:
    """Have an account told again of a low balance, if it has more again by money from outside."""
    transaction.execute(_REARM, (account_id,))
    transaction.execute(_FORGET_CLEARED, (account_id,))


def tell_of_auto_topup(transaction: Transaction, account_id: str, amount_nano: int, reason: str | None) -> None:
    """A payment was credited, or failed for this reason."""
    (balance_nano,) = transaction.first(_OWNED, (account_id,)) or (0,)
    body = events.auto_topup(transaction.now_ms(), account_id, amount_nano, balance_nano, reason)
    _add(transaction, body, account_id, OPERATOR)


def tell_of_switch_off(transaction: Transaction, account_id: str, reason: str) -> None:
    """An account is topped up by itself no more, for a reason that is no payment's."""
    _add(transaction, events.auto_topup_off(transaction.now_ms(), account_id, reason), account_id, OPERATOR)


def _tell_of_mark(
    transaction: Transaction, account_id: str, balance_nano: int, mark_nano: int, *receivers: str
) -> None:
    if transaction.execute(_TELL_OF_MARK, (account_id,)):
        row = transaction.first("SELECT off_reason FROM auto_topups WHERE account_id = ?", (account_id,))
        topped_up = None if row is None else events.AutoTopUpSwitch(row[0])
        body = events.low_balance(transaction.now_ms(), account_id, balance_nano, mark_nano, topped_up)
        _add(transaction, body, *receivers)


def _add(transaction: Transaction, body: str, *receivers: str) -> None:
    """For those among them that have a webhook."""
    event_id = new_id("evt")
    for receiver in receivers:
        if transaction.execute(_ADD, (event_id, body, transaction.now_ms(), receiver)):
            _drop_oldest(transaction, receiver)
            transaction.tell(OutboxGrew())


def _drop_oldest(transaction: Transaction, receiver: str) -> None:
    """What is more than may wait for a receiver, so that nobody fills the disk with what nobody takes."""
    (waiting,) = transaction.first(_WAITING, (receiver,)) or (0,)
    if waiting > MOST_WAITING:
        dropped = transaction.execute(_DROP_OLDEST, (receiver, waiting - MOST_WAITING))
        transaction.tell(EventsDropped(receiver, dropped))


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


def _forget_former(transaction: Transaction, write: ForgetFormerSecrets) -> None:
    transaction.execute(_FORGET_FORMER, (write.now_ms,))


def _remove(transaction: Transaction, write: RemoveWebhook) -> bool:
    transaction.execute(_REMOVE_WAITING, (write.account_id,))
    return bool(transaction.execute(_REMOVE, (write.account_id,)))


def _set_low_balance(transaction: Transaction, write: SetLowBalance) -> None:
    """What this tells goes to the account alone: it may set marks as often as it likes."""
    account_id, mark_nano = write.account_id, write.mark_nano
    if mark_nano is None:
        transaction.execute(_REMOVE_MARK, (account_id,))
        transaction.execute(_CLEAR_MARK, (account_id,))
        return
    (owned_nano,) = transaction.first(_OWNED, (account_id,)) or (0,)
    transaction.execute(_SET_MARK, (account_id, mark_nano, owned_nano))
    if owned_nano < mark_nano:
        _tell_of_mark(transaction, account_id, owned_nano, mark_nano, account_id)


def _webhook_of(rows: Rows, read: WebhookOf) -> WebhookStanding:
    row = rows.first(_WEBHOOK, (read.now_ms, read.account_id))
    mark = rows.first("SELECT mark_nano FROM low_balances WHERE account_id = ? AND is_told < 2", (read.account_id,))
    return WebhookStanding(None if row is None else Webhook(*row), None if mark is None else mark[0])


def _due(rows: Rows, read: DueDeliveries) -> tuple[Delivery, ...]:
    busy = orjson.dumps(sorted(read.busy)).decode()
    found = [Delivery(*row) for row in rows.all(_DUE, (read.now_ms, busy, read.most_accounts, OPERATOR))]
    has_operator = bool(found) and found[0].receiver == OPERATOR
    return tuple(found[: read.most_accounts + has_operator])


def _end(transaction: Transaction, write: EndDelivery) -> None:
    transaction.execute(_END, (write.receiver, write.event_id))


def _put_off(transaction: Transaction, write: PutOffDelivery) -> None:
    transaction.execute(_PUT_OFF, (write.due_at_ms, write.receiver, write.event_id, write.tries))


EXECUTORS = Executors(
    alone={
        SetOperatorWebhook: _set_operator,
        PutWebhook: _put,
        RotateSecret: _rotate,
        ForgetFormerSecrets: _forget_former,
        RemoveWebhook: _remove,
        SetLowBalance: _set_low_balance,
        EndDelivery: _end,
        PutOffDelivery: _put_off,
    },
    reads={WebhookOf: _webhook_of, DueDeliveries: _due},
)
