"""Budgets: which there are of an account, and what was spent of their windows."""

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger.budgets import (
    LONGEST_WINDOW_MS,
    Budget,
    BudgetsOf,
    EndBudget,
    MakeBudget,
    ReadBudgets,
    SetZone,
)
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction
from mcp_gateway.core.text import shown

_OPEN = """
SELECT id, account_id, holder, amount_nano, window FROM budgets
WHERE account_id = ? AND ended_at_ms IS NULL ORDER BY rowid
"""
_SPENT = """
SELECT budget_id, starts_at_ms, spent_nano FROM budgets JOIN budget_windows ON budget_id = id
WHERE account_id = ? AND ended_at_ms IS NULL AND (window = 'total' OR starts_at_ms >= ?)
"""
_HOLDER = """
SELECT 1 FROM accounts WHERE id = ?1 AND id = ?2 UNION ALL SELECT 1 FROM keys WHERE id = ?2 AND account_id = ?1
"""
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


def _make(transaction: Transaction, write: MakeBudget) -> None:
    budget = write.budget
    if transaction.first(_HOLDER, (budget.account_id, budget.holder)) is None:
        raise GatewayError("not_found", f"There is no account or key '{shown(budget.holder)}'.")
    sql = "INSERT INTO budgets VALUES (?, ?, ?, ?, ?, ?, NULL)"
    transaction.execute(sql, (*budget, transaction.now_ms()))
    transaction.tell(_open(transaction, budget.account_id))


def _end(transaction: Transaction, write: EndBudget) -> bool:
    sql = "UPDATE budgets SET ended_at_ms = ? WHERE id = ? AND account_id = ? AND ended_at_ms IS NULL"
    is_ended = transaction.execute(sql, (write.at_ms, write.budget_id, write.account_id)) > 0
    transaction.tell(_open(transaction, write.account_id))
    return is_ended


def _set_zone(transaction: Transaction, write: SetZone) -> None:
    transaction.execute(_SET_ZONE, (write.account_id, write.zone))
    transaction.tell(_open(transaction, write.account_id))


EXECUTORS = Executors(alone={MakeBudget: _make, EndBudget: _end, SetZone: _set_zone}, reads={ReadBudgets: _read})
