"""What is read of the ledger: wallets, entries and their notes, and whether the books agree."""

import orjson

from mcp_gateway.core.ledger.entries import (
    AccountsWithExpiredGrants,
    Applied,
    AppliedBy,
    Discrepancies,
    WalletOf,
    WalletState,
)
from mcp_gateway.core.ledger.rules import GrantLeft
from mcp_gateway.core.ledger.statement import LedgerTransaction as Entry
from mcp_gateway.core.ledger.statement import NotesOf, TransactionsPage
from mcp_gateway.core.store.names import NAME_OF, NUMBER_OF
from mcp_gateway.core.store.sql.checks import ALL_CHECKS, CHECKS
from mcp_gateway.core.store.transaction import Executors, Row, Rows

_KINDS_FROM_OUTSIDE = "kind = 'credit' OR kind = 'grant' OR kind = 'refund' OR kind = 'dispute' OR kind = 'adjustment'"
"""Which apply once, in the words of their index."""
FROM_OUTSIDE = f"FROM ledger_rows WHERE kind = ? AND reference = ? AND ({_KINDS_FROM_OUTSIDE})"
_MOVES = "AND kind NOT IN ('hold', 'void')"
"""Without those of releases whose holds were entries: they change nothing of what an account owns."""
_WALLET = f"""
SELECT w.paid_nano, w.granted_nano,
    (SELECT MAX(id) FROM ledger_rows WHERE account_number = {NUMBER_OF.format("w.account_id")}),
    g.id, g.remaining_nano, g.expires_at_ms
FROM wallets AS w LEFT JOIN grants AS g ON g.account_id = w.account_id AND g.remaining_nano > 0
WHERE w.account_id = ? ORDER BY g.expires_at_ms IS NULL, g.expires_at_ms, g.id
"""
"""One statement, so that it tells of one moment."""


def _applied(rows: Rows, read: AppliedBy) -> Applied | None:
    sql = f"SELECT {NAME_OF.format('account_number')}, paid_nano + granted_nano {FROM_OUTSIDE}"
    row = rows.first(sql, (read.kind, read.reference))
    return None if row is None else Applied(*row)


def _wallet(rows: Rows, read: WalletOf) -> WalletState:
    found = rows.all(_WALLET, (read.account_id,))
    if not found:
        return WalletState(read.account_id, 0, (), 0)
    paid_nano, granted_nano, version, *_ = found[0]
    grants = tuple(GrantLeft(*row[3:]) for row in found if row[3] is not None)
    assert sum(grant.left_nano for grant in grants) == granted_nano, "grants hold other than the wallet says"
    return WalletState(read.account_id, paid_nano, grants, version)


def _with_expired_grants(rows: Rows, read: AccountsWithExpiredGrants) -> tuple[str, ...]:
    sql = "SELECT DISTINCT account_id FROM grants WHERE remaining_nano > 0 AND expires_at_ms <= ?"
    return tuple(account_id for (account_id,) in rows.all(sql, (read.now_ms,)))


def _discrepancies(rows: Rows, read: Discrepancies) -> list[tuple[str, Row]]:
    checks = ALL_CHECKS if read.of_all_entries else CHECKS
    return [(what, row) for what, sql in checks.items() for row in rows.all(sql)]


def _page(rows: Rows, read: TransactionsPage) -> list[Entry]:
    sql = (
        "SELECT id, kind, reference, paid_nano, granted_nano, held_nano, created_at_ms FROM ledger_rows "
        f"WHERE account_number = {NUMBER_OF.format('?')} AND id < ? {_MOVES if read.only_moves else ''} "
        "ORDER BY id DESC LIMIT ?"
    )
    below_id = 2**63 - 1 if read.before_id is None else read.before_id
    return [Entry(*row) for row in rows.all(sql, (read.account_id, below_id, read.limit))]


def _notes(rows: Rows, read: NotesOf) -> dict[int, str]:
    sql = "SELECT transaction_id, note FROM transaction_notes WHERE transaction_id IN (SELECT value FROM json_each(?))"
    return dict(rows.all(sql, (orjson.dumps(read.transaction_ids).decode(),)))


EXECUTORS = Executors(
    reads={
        AppliedBy: _applied,
        WalletOf: _wallet,
        AccountsWithExpiredGrants: _with_expired_grants,
        Discrepancies: _discrepancies,
        TransactionsPage: _page,
        NotesOf: _notes,
    }
)
