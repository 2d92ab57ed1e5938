"""What is read of the ledger: wallets, holds, entries and their notes, and whether the books agree."""

import orjson

from mcp_gateway.core.ledger.entries import (
    AccountsWithExpiredGrants,
    Applied,
    AppliedBy,
    Balance,
    BalanceOf,
    Discrepancies,
    HeldNow,
    HoldsOf,
    OneHold,
    OpenHolds,
)
from mcp_gateway.core.ledger.statement import LedgerTransaction as Entry
from mcp_gateway.core.ledger.statement import NotesOf, TransactionsPage
from mcp_gateway.core.store.sql.checks import CHECKS
from mcp_gateway.core.store.transaction import Executors, Row, Rows

_KINDS_FROM_OUTSIDE = "kind = 'credit' OR kind = 'grant' OR kind = 'refund' OR kind = 'dispute' OR kind = 'adjustment'"
"""Which apply once, in the words of their index."""
FROM_OUTSIDE = f"FROM ledger_transactions WHERE kind = ? AND reference = ? AND ({_KINDS_FROM_OUTSIDE})"
_MOVES = "AND kind NOT IN ('hold', 'void')"
"""Setting aside and giving back change nothing of what an account owns."""


def _applied(rows: Rows, read: AppliedBy) -> Applied | None:
    sql = f"SELECT account_id, paid_nano + granted_nano {FROM_OUTSIDE}"
    row = rows.first(sql, (read.kind, read.reference))
    return None if row is None else Applied(*row)


def _balance(rows: Rows, read: BalanceOf) -> Balance:
    sql = "SELECT paid_nano, granted_nano, held_nano FROM wallets WHERE account_id = ?"
    row = rows.first(sql, (read.account_id,))
    return Balance(*row) if row else Balance()


def _holds_of(rows: Rows, read: HoldsOf) -> tuple[OneHold, ...]:
    """All holds are looked through, which are as many as requests run: an index would cost every request more."""
    sql = (
        "SELECT paid_nano + granted_nano, created_at_ms FROM holds WHERE account_id = ? "
        "ORDER BY created_at_ms DESC, request_id DESC"
    )
    return tuple(OneHold(*row) for row in rows.all(sql, (read.account_id,)))


def _open_holds(rows: Rows, _: OpenHolds) -> HeldNow:
    row = rows.first("SELECT COUNT(*), COALESCE(SUM(paid_nano + granted_nano), 0), MIN(created_at_ms) FROM holds")
    assert row is not None
    return HeldNow(*row)


def _with_expired_grants(rows: Rows, read: AccountsWithExpiredGrants) -> tuple[str, ...]:
    sql = "SELECT DISTINCT account_id FROM grants WHERE remaining_nano > 0 AND expires_at_ms <= ?"
    return tuple(account_id for (account_id,) in rows.all(sql, (read.now_ms,)))


def _discrepancies(rows: Rows, _: Discrepancies) -> list[tuple[str, Row]]:
    return [(what, row) for what, sql in CHECKS.items() for row in rows.all(sql)]


def _page(rows: Rows, read: TransactionsPage) -> list[Entry]:
    sql = (
        "SELECT id, kind, reference, paid_nano, granted_nano, held_nano, created_at_ms FROM ledger_transactions "
        f"WHERE account_id = ? AND id < ? {_MOVES if read.only_moves else ''} ORDER BY id DESC LIMIT ?"
    )
    below_id = 2**63 - 1 if read.before_id is None else read.before_id
    return [Entry(*row) for row in rows.all(sql, (read.account_id, below_id, read.limit))]


def _notes(rows: Rows, read: NotesOf) -> dict[int, str]:
    sql = "SELECT transaction_id, note FROM transaction_notes WHERE transaction_id IN (SELECT value FROM json_each(?))"
    return dict(rows.all(sql, (orjson.dumps(read.transaction_ids).decode(),)))


EXECUTORS = Executors(
    reads={
        AppliedBy: _applied,
        BalanceOf: _balance,
        HoldsOf: _holds_of,
        OpenHolds: _open_holds,
        AccountsWithExpiredGrants: _with_expired_grants,
        Discrepancies: _discrepancies,
        TransactionsPage: _page,
        NotesOf: _notes,
    }
)
