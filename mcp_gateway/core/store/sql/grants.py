"""Granted credit by grant: what is left of each, and where what was charged goes back to.

Runs inside the writer's transaction; amounts in nano-USD.
"""

from mcp_gateway.core.ledger.rules import GrantLeft
from mcp_gateway.core.store.connection import EngineConnection

ORDER = "expires_at_ms IS NULL, expires_at_ms, id"
"""The first to expire is the first to be drawn on."""
TAKE = "UPDATE grants SET remaining_nano = remaining_nano - ? WHERE id = ?"
_LEFT = (
    f"SELECT id, remaining_nano, expires_at_ms FROM grants WHERE account_id = ? AND remaining_nano > 0 ORDER BY {ORDER}"
)
_FIRST_TO_EXPIRE = (
    f"SELECT id FROM grants WHERE account_id = ? ORDER BY COALESCE(expires_at_ms <= ?, FALSE), {ORDER} LIMIT 1"
)


def left(connection: EngineConnection, account_id: str) -> tuple[GrantLeft, ...]:
    """The account's that have some left, the first to expire first."""
    return tuple(GrantLeft(*row) for row in connection.execute(_LEFT, (account_id,)))


def return_charged(connection: EngineConnection, account_id: str, amount_nano: int, now_ms: int) -> int:
    """Return what was charged to grants once: which of them is forgotten by then, so to the first to expire that lives.

    Returns its id. Where none lives any more, to the last that expired, whose rest is taken back in its turn.
    """
    (grant_id,) = connection.execute(_FIRST_TO_EXPIRE, (account_id, now_ms)).fetchone()
    connection.execute(TAKE, (-amount_nano, grant_id))
    return int(grant_id)
