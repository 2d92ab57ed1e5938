"""Closed months: found, summed up and kept; and the checkpoint of the books."""

from mcp_gateway.core.ledger.closing import (
    CloseMonth,
    DueMonth,
    EntriesPassed,
    ForgetSums,
    KeepSums,
    MonthSum,
    MonthToClose,
    MoveCheckpoint,
    PassedEntries,
    SumsOfEntries,
    SumsOfMonth,
)
from mcp_gateway.core.ledger.months import Month
from mcp_gateway.core.store.names import NAME_OF
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction

_LAST_CLOSED = "SELECT month, last_id FROM closed_months ORDER BY month DESC LIMIT 1"
_FIRST_ENTRY = "SELECT created_at_ms FROM ledger_rows WHERE id > ? ORDER BY id LIMIT 1"
_FIRST_AFTER = "SELECT id FROM ledger_rows WHERE id > ? AND created_at_ms >= ? ORDER BY id LIMIT 1"
_LAST_ID = "SELECT COALESCE(MAX(id), 0) FROM ledger_rows"
_BOOKS = ("paid_nano", "granted_nano", "held_nano", "revenue_nano", "grant_source_nano", "clearing_nano")
_TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens")
CHARGED_GRANTS = """
-entries.granted_nano - COALESCE((
    SELECT hold.granted_nano FROM ledger_rows AS hold
    WHERE hold.kind = 'hold' AND hold.reference = entries.reference AND entries.kind = 'settle'
        AND entries.held_nano <> 0 -- else its hold was voided before it was settled
), 0)
"""
_SUMS_OF_ENTRIES = f"""
SELECT {NAME_OF.format("entries.account_number")} AS account_id, kind,
    COALESCE({NAME_OF.format("model_number")}, '') AS model, COUNT(*),
    {", ".join(f"SUM(entries.{book})" for book in _BOOKS)},
    SUM(CASE WHEN kind = 'settle' OR kind = 'refund_of_request' THEN {CHARGED_GRANTS} ELSE 0 END),
    {", ".join(f"SUM(COALESCE({count}, 0))" for count in _TOKENS)}
FROM ledger_rows AS entries LEFT JOIN request_rows
    ON request_rows.account_number = entries.account_number AND request_rows.id = reference
    AND (kind = 'settle' OR kind = 'refund_of_request')
WHERE entries.id > ? AND entries.id <= ?
GROUP BY +entries.account_number, kind, model_number ORDER BY 1, 2, 3
"""
_SUMS_OF_MONTH = f"""
SELECT {", ".join(MonthSum._fields)} FROM month_sums WHERE month = ? ORDER BY account_id, kind, model
"""
_PASSED = f"""
WITH passed AS MATERIALIZED (
    SELECT id, account_number, paid_nano, granted_nano FROM ledger_rows
    WHERE id > (SELECT transaction_id FROM ledger_checkpoint_position) ORDER BY id LIMIT ?
)
SELECT NULL, (SELECT transaction_id FROM ledger_checkpoint_position), MAX(id), COUNT(*) FROM passed
UNION ALL
SELECT {NAME_OF.format("account_number")}, SUM(paid_nano), SUM(granted_nano), 0 FROM passed GROUP BY account_number
"""
_ADD_PASSED = """
INSERT INTO ledger_checkpoint VALUES (?, ?, ?) ON CONFLICT (account_id) DO UPDATE SET
paid_nano = ledger_checkpoint.paid_nano + excluded.paid_nano,
granted_nano = ledger_checkpoint.granted_nano + excluded.granted_nano
"""
_MOVE = """
UPDATE ledger_checkpoint_position SET transaction_id = ?2 WHERE transaction_id = ?1
AND (SELECT COUNT(*) FROM ledger_rows WHERE id > ?1 AND id <= ?2) = ?3
"""


def _due(rows: Rows, read: MonthToClose) -> DueMonth | None:
    closed = rows.first(_LAST_CLOSED)
    after_id = 0 if closed is None else closed[1]
    if closed is not None:
        month = Month.at(Month.named(closed[0]).until_ms)
    elif (first := rows.first(_FIRST_ENTRY, (0,))) is not None:
        month = Month.at(first[0])
    else:
        return None
    if month.until_ms > read.over_by_ms:
        return None
    later = rows.first(_FIRST_AFTER, (after_id, month.until_ms))
    last = (later[0] - 1,) if later is not None else rows.first(_LAST_ID)
    assert last is not None
    return DueMonth(month.name, after_id, max(after_id, last[0]))


def _sums_of_entries(rows: Rows, read: SumsOfEntries) -> list[MonthSum]:
    return [MonthSum(*row) for row in rows.all(_SUMS_OF_ENTRIES, (read.due.after_id, read.due.last_id))]


def _sums_of_month(rows: Rows, read: SumsOfMonth) -> list[MonthSum]:
    return [MonthSum(*row) for row in rows.all(_SUMS_OF_MONTH, (read.month,))]


def _forget(transaction: Transaction, write: ForgetSums) -> None:
    transaction.execute("DELETE FROM month_sums WHERE month = ?", (write.month,))


def _keep(transaction: Transaction, write: KeepSums) -> None:
    columns = ("month", *MonthSum._fields)
    sql = f"INSERT INTO month_sums ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    transaction.execute_many(sql, [(write.month, *one) for one in write.sums])


def _close(transaction: Transaction, write: CloseMonth) -> None:
    row = (write.due.month, write.due.last_id, transaction.now_ms())
    transaction.execute("INSERT INTO closed_months VALUES (?, ?, ?, FALSE)", row)


def _passed(rows: Rows, read: EntriesPassed) -> PassedEntries:
    found = rows.all(_PASSED, (read.most,))
    [(_, after_id, last_id, entries)] = [row for row in found if row[0] is None]
    sums = tuple(row[:3] for row in found if row[0] is not None)
    return PassedEntries(after_id, after_id if last_id is None else last_id, entries, sums)


def _move(transaction: Transaction, write: MoveCheckpoint) -> None:
    passed = write.passed
    if transaction.execute(_MOVE, (passed.after_id, passed.last_id, passed.entries)):
        transaction.execute_many(_ADD_PASSED, passed.sums)


EXECUTORS = Executors(
    alone={ForgetSums: _forget, KeepSums: _keep, CloseMonth: _close, MoveCheckpoint: _move},
    reads={
        MonthToClose: _due,
        SumsOfEntries: _sums_of_entries,
        SumsOfMonth: _sums_of_month,
        EntriesPassed: _passed,
    },
)
