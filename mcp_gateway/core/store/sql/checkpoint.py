"""Wallets against a checkpoint and what came since it, so that a start reads the latest transactions alone."""

from mcp_gateway.core.ledger.entries import VerifySinceCheckpoint
from mcp_gateway.core.store.names import NUMBER_OF
from mcp_gateway.core.store.transaction import Row, Transaction

DIFFERENCES = f"""
SELECT accounts.id, w.paid_nano, w.granted_nano,
    IFNULL(c.paid_nano, 0) + IFNULL(t.paid, 0),
    IFNULL(c.granted_nano, 0) + IFNULL(t.granted, 0)
FROM accounts
LEFT JOIN wallets AS w ON w.account_id = accounts.id
LEFT JOIN ledger_checkpoint AS c ON c.account_id = accounts.id
LEFT JOIN (
    SELECT account_number, SUM(paid_nano) AS paid, SUM(granted_nano) AS granted
    FROM ledger_rows WHERE id > (SELECT transaction_id FROM ledger_checkpoint_position)
    GROUP BY +account_number -- the plus keeps the planner off the account's index, which would read all transactions
) AS t ON t.account_number = {NUMBER_OF.format("accounts.id")}
WHERE IFNULL(w.paid_nano, 0) <> IFNULL(c.paid_nano, 0) + IFNULL(t.paid, 0)
    OR IFNULL(w.granted_nano, 0) <> IFNULL(c.granted_nano, 0) + IFNULL(t.granted, 0)
"""


def verify_since_checkpoint(transaction: Transaction, _: VerifySinceCheckpoint) -> list[Row]:
    """Move the checkpoint here where no wallet differs; returns those that do."""
    differences = transaction.all(DIFFERENCES)
    if not differences:
        transaction.execute("DELETE FROM ledger_checkpoint")
        transaction.execute("INSERT INTO ledger_checkpoint SELECT account_id, paid_nano, granted_nano FROM wallets")
        last = "SELECT IFNULL(MAX(id), 0) FROM ledger_rows"
        transaction.execute(f"UPDATE ledger_checkpoint_position SET transaction_id = ({last})")
    return differences
