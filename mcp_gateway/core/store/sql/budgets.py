"""Budgets: which there are of an account, and what was spent of their windows."""

from collections.abc import Sequence

import orjson

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger.budgets import (
    LONGEST_WINDOW_MS,
    Budget,
    BudgetGroup,
    BudgetsOf,
    EndBudget,
    GroupByName,
    MakeBudgets,
    ReadBudgets,
    SetZone,
)
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction
from mcp_gateway.core.text import shown

_OPEN = """
SELECT budgets.id, budgets.account_id, holder, amount_nano, window, name
FROM budgets LEFT JOIN key_groups ON key_groups.id = holder
WHERE budgets.account_id = ? AND ended_at_ms IS NULL ORDER BY budgets.rowid
"""
_SPENT = """
SELECT budget_id, starts_at_ms, spent_nano FROM budgets JOIN budget_windows ON budget_id = id
WHERE account_id = ? AND ended_at_ms IS NULL AND (window = 'total' OR starts_at_ms >= ?)
"""
_HOLDER = """
SELECT 1 FROM accounts WHERE id = ?1 AND id = ?2 UNION ALL SELECT 1 FROM keys WHERE id = ?2 AND account_id = ?1
UNION ALL SELECT 1 FROM key_groups WHERE id = ?2 AND account_id = ?1
"""
_END_WITH_KEYS = """
UPDATE budgets SET ended_at_ms = ?1 WHERE account_id = ?2 AND ended_at_ms IS NULL AND holder IN (
    WITH RECURSIVE behind (one) AS (
        SELECT value FROM json_each(?3)
        UNION SELECT made_by FROM behind JOIN key_rights ON key_id = one WHERE made_by IS NOT NULL
    )
    SELECT one FROM behind
)
AND EXISTS (SELECT 1 FROM keys WHERE id = holder AND revoked_at_ms IS NOT NULL)
AND (EXISTS (SELECT 1 FROM minted_keys WHERE key_id = holder) OR holder NOT IN (
    WITH RECURSIVE spending (one) AS (
        SELECT id FROM keys WHERE account_id = ?2 AND revoked_at_ms IS NULL
        UNION SELECT made_by FROM spending JOIN key_rights ON key_id = one WHERE made_by IS NOT NULL
    )
    SELECT one FROM spending
))
"""
"""Those that no live key spends of: its own, or that of a key behind it. What a minted key has made ended with it."""
_GROUP = "SELECT id, account_id, name FROM key_groups WHERE account_id = ? AND name = ?"
_ZONE = "SELECT zone FROM account_zones WHERE account_id = ?"
_SET_ZONE = "INSERT INTO account_zones VALUES (?, ?) ON CONFLICT (account_id) DO UPDATE SET zone = excluded.zone"


def _read(rows: Rows, read: ReadBudgets) -> BudgetsOf:
    found = rows.all(_SPENT, (read.account_id, read.now_ms - LONGEST_WINDOW_MS))
    spent = {(budget_id, starts_at_ms): spent_nano for budget_id, starts_at_ms, spent_nano in found}
    return _open(rows, read.account_id)._replace(spent=spent)


def _open(rows: Rows, account_id: str) -> BudgetsOf:
    zone = rows.first(_ZONE, (account_id,))
    budgets = tuple(Budget(*row) for row in rows.all(_OPEN, (account_id,)))
    return BudgetsOf(account_id, "UTC" if zone is None else zone[0], budgets, {})


def _make(transaction: Transaction, write: MakeBudgets) -> None:
    for budget in write.budgets:
        if not _is_held(transaction, budget, write.group):
            raise GatewayError("not_found", f"There is no account or key '{shown(budget.holder)}'.")
    if write.group is not None:
        transaction.execute("INSERT INTO key_groups VALUES (?, ?, ?) ON CONFLICT DO NOTHING", write.group)
    for budget in write.budgets:
        row = budget.id, budget.account_id, budget.holder, budget.amount_nano, budget.window
        transaction.execute("INSERT INTO budgets VALUES (?, ?, ?, ?, ?, ?, NULL)", (*row, transaction.now_ms()))
    for account_id in {budget.account_id for budget in write.budgets}:
        transaction.tell(_open(transaction, account_id))


def _is_held(rows: Rows, budget: Budget, new: BudgetGroup | None) -> bool:
    """Whether its holder is there, or is the new group, whose name no other has taken meanwhile."""
    if new is None or budget.holder != new.id:
        return rows.first(_HOLDER, (budget.account_id, budget.holder)) is not None
    return _group_by_name(rows, GroupByName(new.account_id, new.name)) in (None, new)


def _end(transaction: Transaction, write: EndBudget) -> bool:
    sql = "UPDATE budgets SET ended_at_ms = ? WHERE id = ? AND account_id = ? AND ended_at_ms IS NULL"
    is_ended = transaction.execute(sql, (write.at_ms, write.budget_id, write.account_id)) > 0
    transaction.tell(_open(transaction, write.account_id))
    return is_ended


def end_with_keys(transaction: Transaction, account_id: str, ended_ids: Sequence[str], at_ms: int) -> None:
    """End the budgets of keys that have ended, and of those behind them, that no live key of the account spends of."""
    if transaction.execute(_END_WITH_KEYS, (at_ms, account_id, orjson.dumps(ended_ids).decode())):
        transaction.tell(_open(transaction, account_id))


def _set_zone(transaction: Transaction, write: SetZone) -> None:
    transaction.execute(_SET_ZONE, (write.account_id, write.zone))
    transaction.tell(_open(transaction, write.account_id))


def _group_by_name(rows: Rows, read: GroupByName) -> BudgetGroup | None:
    row = rows.first(_GROUP, (read.account_id, read.name))
    return None if row is None else BudgetGroup(*row)


EXECUTORS = Executors(
    alone={MakeBudgets: _make, EndBudget: _end, SetZone: _set_zone},
    reads={ReadBudgets: _read, GroupByName: _group_by_name},
)
