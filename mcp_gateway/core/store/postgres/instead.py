"""Statements of any engine that need words of their own in PostgreSQL, by those that they take the place of.

`is_told` of low balances is a number there, too, and no number is a condition.
"""

from collections.abc import Mapping

from mcp_gateway.core.store.sql import journal, webhooks

INSTEAD: Mapping[str, str] = {
    journal._TRANSACTION: f"{journal._TRANSACTION} RETURNING id",
    webhooks._SET_MARK: """
        INSERT INTO low_balances VALUES (?1, ?2, 0)
        ON CONFLICT (account_id) DO UPDATE SET mark_nano = ?2,
            is_told = CASE WHEN low_balances.is_told <> 0 AND ?3 < ?2 THEN 1 ELSE 0 END
    """,
    webhooks._CLEAR_MARK: "UPDATE low_balances SET is_told = 2 WHERE account_id = ? AND is_told <> 0",
}
