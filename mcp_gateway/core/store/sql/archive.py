"""Settlements of closed months: those that may go, and their end."""

import orjson

from mcp_gateway.core.ledger.archive import ArchivedEntry, BeginArchive, EntriesToArchive, RemoveEntries
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction

_TO_ARCHIVE = f"""
SELECT {", ".join(ArchivedEntry._fields)} FROM ledger_transactions AS entries
WHERE id > :after_id AND kind = 'settle' AND held_nano = 0
    AND id <= (
        SELECT COALESCE(MAX(last_id), 0) FROM closed_months
        WHERE CAST(:before_month AS TEXT) IS NULL OR month < :before_month
    )
    AND id < (SELECT MAX(id) FROM ledger_rows)
    AND NOT EXISTS (
        SELECT 1 FROM ledger_rows AS back
        WHERE back.kind = 'refund_of_request' AND back.reference = entries.reference
    )
ORDER BY id LIMIT :most
"""
_MARK = """
UPDATE closed_months SET is_archived = TRUE
WHERE month <= (SELECT MIN(month) FROM closed_months WHERE last_id >= ?)
"""
_REMOVE = "DELETE FROM ledger_rows WHERE kind = 'settle' AND id IN (SELECT CAST(value AS BIGINT) FROM json_each(?))"


def _to_archive(rows: Rows, read: EntriesToArchive) -> list[ArchivedEntry]:
    named = {"before_month": read.before_month, "after_id": read.after_id, "most": read.most}
    return [ArchivedEntry(*row) for row in rows.all(_TO_ARCHIVE, named)]


def _begin(transaction: Transaction, write: BeginArchive) -> None:
    transaction.execute(_MARK, (write.through_id,))


def _remove(transaction: Transaction, write: RemoveEntries) -> int:
    return transaction.execute(_REMOVE, (orjson.dumps(write.ids).decode(),))


EXECUTORS = Executors(
    alone={BeginArchive: _begin, RemoveEntries: _remove},
    reads={EntriesToArchive: _to_archive},
)
