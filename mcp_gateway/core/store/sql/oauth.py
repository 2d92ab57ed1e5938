"""The authorization server's clients, what people have let them do, and their tokens."""

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.key_ring import EndKeys, KeyById
from mcp_gateway.core.identity.keys import ACCESS_PREFIX
from mcp_gateway.core.identity.oauth.clients import CLIENT_AUTHS, ClientById, OAuthClient, RegisterClient
from mcp_gateway.core.identity.oauth.grants import (
    GrantByToken,
    GrantExchange,
    MakeGrant,
    OAuthGrant,
    RedeemCode,
    RefreshGrant,
    access_ends_at_ms,
    useless,
)
from mcp_gateway.core.store.sql import ALL_ROWS
from mcp_gateway.core.store.sql.accounts import note_change
from mcp_gateway.core.store.transaction import Executors, Row, Rows, Transaction

_MOST_ACCESS_TOKENS = 4
"""Of one grant: a client that refreshes again and again leaves no more."""
_GRANT = """
SELECT key_id, client_id, client_name, redirect_uri, resource, challenge, ends_at_ms, family_sha256 IS NOT NULL,
    refresh_sha256
FROM oauth_grants
"""
_KEY_SHOWN = "(SELECT key_id FROM oauth_access_tokens WHERE sha256 = ?)"
_FORGET_TOKENS = f"""
DELETE FROM oauth_access_tokens WHERE ends_at_ms <= :at_ms OR sha256 IN (
    SELECT sha256 FROM oauth_access_tokens WHERE key_id = :key_id
    ORDER BY ends_at_ms DESC LIMIT {ALL_ROWS} OFFSET {_MOST_ACCESS_TOKENS - 1}
)
"""


def _register(transaction: Transaction, write: RegisterClient) -> None:
    unused = "SELECT COUNT(*) FROM oauth_clients WHERE NOT is_used AND registered_at_ms >= ?"
    if transaction.all(unused, (write.forgotten_before_ms,)) >= [(write.most_unused,)]:
        raise GatewayError("overloaded", "Too many clients have registered and were let in by nobody; try again later.")
    gone = "DELETE FROM oauth_clients WHERE NOT is_used AND registered_at_ms < ?"
    transaction.execute(gone, (write.forgotten_before_ms,))
    client = write.client
    row = (client.id, client.name, " ".join(client.redirect_uris), client.auth, client.secret_sha256, write.at_ms)
    sql = (
        "INSERT INTO oauth_clients (id, name, redirect_uris, auth, secret_sha256, registered_at_ms) "
        "VALUES (?, ?, ?, ?, ?, ?)"
    )
    transaction.execute(sql, row)


def _client(rows: Rows, read: ClientById) -> OAuthClient | None:
    sql = (
        "SELECT id, name, redirect_uris, auth, secret_sha256 FROM oauth_clients "
        "WHERE id = ? AND (is_used OR registered_at_ms >= ?)"
    )
    row = rows.first(sql, (read.client_id, read.forgotten_before_ms))
    if row is None:
        return None
    client_id, name, redirect_uris, stored_auth, secret_sha256 = row
    auth = next(auth for auth in CLIENT_AUTHS if auth == stored_auth)
    return OAuthClient(client_id, name, tuple(redirect_uris.split(" ")), auth, secret_sha256)


def _make(transaction: Transaction, write: MakeGrant) -> None:
    grant = write.grant
    row = (
        grant.key_id, grant.client_id, grant.client_name, grant.redirect_uri, grant.resource, grant.challenge,
        grant.ends_at_ms, write.code_sha256,
    )  # fmt: skip
    transaction.execute("INSERT INTO oauth_grants VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)", row)
    transaction.execute("UPDATE keys SET prefix = ? WHERE id = ?", (ACCESS_PREFIX, grant.key_id))
    transaction.execute("UPDATE oauth_clients SET is_used = TRUE WHERE id = ?", (grant.client_id,))


def _redeem(transaction: Transaction, write: RedeemCode) -> GrantExchange:
    grant = _read(transaction.first(f"{_GRANT} WHERE code_sha256 = ?", (write.code_sha256,)))
    if grant.is_redeemed:
        return _replayed(transaction, grant, write.at_ms)
    write.check(grant, transaction.ask(KeyById(grant.key_id)))
    transaction.execute(
        "UPDATE oauth_grants SET family_sha256 = ?, refresh_sha256 = ? WHERE key_id = ?",
        (write.family_sha256, write.refresh_sha256, grant.key_id),
    )
    ends = "UPDATE key_rights SET expires_at_ms = ? WHERE key_id = ?"
    transaction.execute(ends, (grant.ends_at_ms, grant.key_id))
    note_change(transaction, grant.key_id)
    _keep_access_token(transaction, grant, write.access_sha256, write.at_ms)
    return GrantExchange(grant)


def _refresh(transaction: Transaction, write: RefreshGrant) -> GrantExchange:
    grant = _read(transaction.first(f"{_GRANT} WHERE family_sha256 = ?", (write.family_sha256,)))
    if grant.refresh_sha256 != write.refresh_sha256:
        return _replayed(transaction, grant, write.at_ms)
    write.check(grant, transaction.ask(KeyById(grant.key_id)))
    sql = "UPDATE oauth_grants SET refresh_sha256 = ? WHERE key_id = ?"
    transaction.execute(sql, (write.next_refresh_sha256, grant.key_id))
    _keep_access_token(transaction, grant, write.access_sha256, write.at_ms)
    return GrantExchange(grant)


def _replayed(transaction: Transaction, grant: OAuthGrant, at_ms: int) -> GrantExchange:
    transaction.run(EndKeys((grant.key_id,), at_ms, most=1))
    return GrantExchange(grant, is_replayed=True)


def _keep_access_token(transaction: Transaction, grant: OAuthGrant, sha256: bytes, at_ms: int) -> None:
    transaction.execute(_FORGET_TOKENS, {"key_id": grant.key_id, "at_ms": at_ms})
    row = (sha256, grant.key_id, access_ends_at_ms(grant, at_ms))
    transaction.execute("INSERT INTO oauth_access_tokens VALUES (?, ?, ?)", row)


def _by_token(rows: Rows, read: GrantByToken) -> OAuthGrant | None:
    row = rows.first(f"{_GRANT} WHERE family_sha256 = ?1 OR code_sha256 = ?1", (read.sha256,))
    row = row or rows.first(f"{_GRANT} WHERE key_id = {_KEY_SHOWN}", (read.sha256,))
    return None if row is None else _read(row)


def _read(row: Row | None) -> OAuthGrant:
    """Raises OAuthRefusal where there is none."""
    if row is None:
        raise useless()
    return OAuthGrant(*row)


EXECUTORS = Executors(
    alone={RegisterClient: _register, MakeGrant: _make, RedeemCode: _redeem, RefreshGrant: _refresh},
    reads={ClientById: _client, GrantByToken: _by_token},
)
