"""Which replica answers a request that bears an Idempotency-Key; of one that is dead, whoever is asked next takes it.

Two claims are never decided at once: the transaction is the only one that writes.
"""

from mcp_gateway.core.idempotency import KEPT_MS, ClaimRequest, EndClaim, still_answering
from mcp_gateway.core.ledger.allotments import TakeFromDead
from mcp_gateway.core.store.transaction import Executors, Transaction

_CLAIM = """
INSERT INTO claims (name, replica, request_id, at_ms) VALUES (?, ?, ?, ?)
ON CONFLICT (name) DO UPDATE SET replica = EXCLUDED.replica RETURNING request_id
"""
_FORGET = "DELETE FROM claims WHERE at_ms <= ?"
_END = "UPDATE claims SET replica = NULL WHERE name = ? AND replica = ?"
_TAKE_BACK = "DELETE FROM claims WHERE name = ? AND replica = ? AND request_id = ?"


def _claim(transaction: Transaction, write: ClaimRequest) -> str | None:
    row = transaction.first("SELECT replica FROM claims WHERE name = ?", (write.name,))
    own = transaction.replica
    if row is not None and row[0] not in (None, own) and _lives(transaction, row[0]):
        raise still_answering()
    transaction.execute(_FORGET, (write.at_ms - KEPT_MS,))
    first = transaction.first(_CLAIM, (write.name, own, write.request_id, write.at_ms))
    assert first is not None
    return None if first[0] == write.request_id else str(first[0])


def _lives(transaction: Transaction, replica: int) -> bool:
    transaction.run(TakeFromDead())
    return transaction.first("SELECT 1 FROM writers WHERE id = ? AND NOT is_over", (replica,)) is not None


def _end(transaction: Transaction, write: EndClaim) -> None:
    own = transaction.replica
    if not write.remembers:
        transaction.execute(_TAKE_BACK, (write.name, own, write.request_id))
    transaction.execute(_END, (write.name, own))


EXECUTORS = Executors(alone={ClaimRequest: _claim, EndClaim: _end})
