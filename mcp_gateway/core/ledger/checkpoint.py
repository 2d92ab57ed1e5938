"""The books compared at start: wallets against a checkpoint and what came since, so that starting stays fast."""

import sqlite3
from typing import Any

from mcp_gateway.core.engine import Engine

DIFFERENCES = """
SELECT accounts.id, w.paid_nano, w.granted_nano, w.held_nano,
    IFNULL(c.paid_nano, 0) + IFNULL(t.paid, 0),
    IFNULL(c.granted_nano, 0) + IFNULL(t.granted, 0),
    IFNULL(c.held_nano, 0) + IFNULL(t.held, 0)
FROM accounts
LEFT JOIN wallets AS w ON w.account_id = accounts.id
LEFT JOIN ledger_checkpoint AS c ON c.account_id = accounts.id
LEFT JOIN (
    SELECT account_id, SUM(paid_nano) AS paid, SUM(granted_nano) AS granted, SUM(held_nano) AS held
    FROM ledger_transactions WHERE id > (SELECT transaction_id FROM ledger_checkpoint_position)
    GROUP BY +account_id -- the plus keeps the planner off the account's index, which would read all transactions
) AS t ON t.account_id = accounts.id
WHERE IFNULL(w.paid_nano, 0) <> IFNULL(c.paid_nano, 0) + IFNULL(t.paid, 0)
    OR IFNULL(w.granted_nano, 0) <> IFNULL(c.granted_nano, 0) + IFNULL(t.granted, 0)
    OR IFNULL(w.held_nano, 0) <> IFNULL(c.held_nano, 0) + IFNULL(t.held, 0)
"""


class LedgerBroken(Exception):
    """Balances differ from their entries; the text says which, in nano-USD."""


async def verify_since_checkpoint(store: Engine) -> None:
    """Compare every wallet, then move the checkpoint here. Raises LedgerBroken, moving nothing, where one differs."""
    differences = await store.write(_verify)
    if differences:
        rows = "; ".join(", ".join(map(str, row)) for row in differences)
        raise LedgerBroken(
            "balances differ from their entries (account; paid, granted, held by the wallet; by the entries): "
            f"{rows}. Run `mcp-gateway ledger check`, and restore a backup or ask for help before serving"
        )


def _verify(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    differences = connection.execute(DIFFERENCES).fetchall()
    if not differences:
        connection.execute("DELETE FROM ledger_checkpoint")
        connection.execute(
            "INSERT INTO ledger_checkpoint SELECT account_id, paid_nano, granted_nano, held_nano FROM wallets"
        )
        last = "SELECT IFNULL(MAX(id), 0) FROM ledger_transactions"
        connection.execute(f"UPDATE ledger_checkpoint_position SET transaction_id = ({last})")
    return differences
