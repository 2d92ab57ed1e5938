"""Keys of administrators."""

from mcp_gateway.core.identity.admin_keys import (
    AdminKey,
    AdminKeyByDigest,
    AdminKeyById,
    AllAdminKeys,
    CreateAdminKey,
    RevokeAdminKey,
)
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction

_SELECT = "SELECT id, prefix, name, created_at_ms, expires_at_ms, revoked_at_ms FROM admin_keys"


def _create(transaction: Transaction, write: CreateAdminKey) -> None:
    key = write.key
    sql = "INSERT INTO admin_keys (id, sha256, prefix, name, created_at_ms, expires_at_ms) VALUES (?, ?, ?, ?, ?, ?)"
    row = (key.id, write.digest, key.prefix, key.name, key.created_at_ms, key.expires_at_ms)
    transaction.execute(sql, row)


def _revoke(transaction: Transaction, write: RevokeAdminKey) -> bool:
    sql = (
        "UPDATE admin_keys SET revoked_at_ms = COALESCE(revoked_at_ms, MIN(?1, COALESCE(expires_at_ms, ?1))) "
        "WHERE id = ?2"
    )
    return bool(transaction.execute(sql, (write.at_ms, write.key_id)))


def _by_digest(rows: Rows, read: AdminKeyByDigest) -> AdminKey | None:
    row = rows.first(f"{_SELECT} WHERE sha256 = ?", (read.digest,))
    return None if row is None else AdminKey(*row)


def _by_id(rows: Rows, read: AdminKeyById) -> AdminKey | None:
    row = rows.first(f"{_SELECT} WHERE id = ?", (read.key_id,))
    return None if row is None else AdminKey(*row)


def _all(rows: Rows, _: AllAdminKeys) -> list[AdminKey]:
    return [AdminKey(*row) for row in rows.all(f"{_SELECT} ORDER BY created_at_ms, id")]


EXECUTORS = Executors(
    alone={CreateAdminKey: _create, RevokeAdminKey: _revoke},
    reads={AdminKeyByDigest: _by_digest, AdminKeyById: _by_id, AllAdminKeys: _all},
)
