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
from mcp_gateway.core.ledger.months import Month
from mcp_gateway.core.ledger.rules import GrantLeft
from mcp_gateway.core.ledger.statement import LedgerTransaction as Entry
from mcp_gateway.core.ledger.statement import NotesOf, TransactionsPage
from mcp_gateway.core.store.names import NAME_OF, NUMBER_OF
from mcp_gateway.core.store.sql.checks import ALL_CHECKS, CHECKS
from mcp_gateway.core.store.transaction import Executors, Row, Rows

_ABOVE_ALL = 2**61
"""No id is so large."""
_KINDS_FROM_OUTSIDE = "kind = 'credit' OR kind = 'grant' OR kind = 'refund' OR kind = 'dispute' OR kind = 'adjustment'"
"""Which apply once, in the words of their index."""
FROM_OUTSIDE = f"FROM ledger_rows WHERE kind = ? AND reference = ? AND ({_KINDS_FROM_OUTSIDE})"
_MOVES = "AND kind NOT IN ('hold', 'void')"
"""Without those of releases whose holds were entries: they change nothing of what an account owns."""
_ARCHIVED = f"""
WITH spans AS (
    SELECT month, last_id, COALESCE(
        (SELECT MAX(last_id) FROM closed_months AS before WHERE before.month < closed.month), 0
    ) AS after_id
    FROM closed_months AS closed WHERE is_archived AND last_id >= :from_id AND last_id < :below_id
),
settled AS (
    SELECT last_id, month, entries, paid_nano, granted_nano, held_nano FROM spans JOIN month_sums USING (month)
    WHERE account_id = :account_id AND kind = 'settle'
    UNION ALL SELECT last_id, month, -1, -paid_nano, -granted_nano, -held_nano FROM spans JOIN ledger_rows
    ON account_number = {NUMBER_OF.format(":account_id")} AND id > after_id AND id <= last_id AND kind = 'settle'
)
SELECT last_id, month, SUM(paid_nano), SUM(granted_nano), SUM(held_nano) FROM settled
GROUP BY last_id, month HAVING SUM(entries) > 0
"""
"""What the settlements come to that were taken out of each month: all that were closed, less those that still stand."""
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
    """In the order of their places; what was archived of a month stands ahead of its last entry."""
    before = 2 * _ABOVE_ALL if read.before is None else read.before
    sql = (
        "SELECT id, kind, reference, paid_nano, granted_nano, held_nano, created_at_ms FROM ledger_rows "
        f"WHERE account_number = {NUMBER_OF.format('?')} AND id < ? {_MOVES if read.only_moves else ''} "
        "ORDER BY id DESC LIMIT ?"
    )
    entries = [Entry(*row) for row in rows.all(sql, (read.account_id, (before + 1) // 2, read.limit))]
    from_id = entries[-1].id if len(entries) == read.limit else 0
    named = {"account_id": read.account_id, "from_id": from_id, "below_id": before // 2}
    archived = [
        Entry(last_id, "archived", month, paid_nano, granted_nano, held_nano, Month.named(month).until_ms - 1)
        for last_id, month, paid_nano, granted_nano, held_nano in rows.all(_ARCHIVED, named)
    ]
    return sorted(entries + archived, key=lambda one: one.place, reverse=True)[: read.limit]


def _notes(rows: Rows, read: NotesOf) -> dict[int, str]:
    listed = "SELECT CAST(value AS BIGINT) FROM json_each(?)"
    sql = f"SELECT transaction_id, note FROM transaction_notes WHERE transaction_id IN ({listed})"
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
