"""Secrets that all replicas of a gateway have in common."""

from mcp_gateway.core.replicas import KeepSharedSecret
from mcp_gateway.core.store.transaction import Executors, Transaction

_KEEP = "INSERT INTO shared_secrets (name, secret) VALUES (?, ?) ON CONFLICT DO NOTHING"


def _keep(transaction: Transaction, write: KeepSharedSecret) -> bytes:
    transaction.execute(_KEEP, (write.name, write.secret))
    row = transaction.first("SELECT secret FROM shared_secrets WHERE name = ?", (write.name,))
    assert row is not None
    return bytes(row[0])


EXECUTORS = Executors(alone={KeepSharedSecret: _keep})
