"""What must hold between the ledger's facts and everything that is derived from them, as queries that find nothing."""

from mcp_gateway.core.store.names import NAME_OF

_CLOSED = "COALESCE((SELECT MAX(last_id) FROM closed_months), 0)"
_ARCHIVED = "COALESCE((SELECT MAX(last_id) FROM closed_months WHERE is_archived), 0)"
_CHECKS = {
    "a transaction does not sum to zero (id)": """
        SELECT id FROM ledger_rows
        WHERE id > {after}
            AND paid_nano + granted_nano + held_nano + revenue_nano + grant_source_nano + clearing_nano <> 0""",
    "a wallet differs from its transactions (account, paid, granted by the wallet; by the transactions)": """
        SELECT id, w.paid_nano, w.granted_nano, t.paid, t.granted
        FROM accounts LEFT JOIN wallets AS w ON w.account_id = id LEFT JOIN (
            SELECT account_id, SUM(paid_nano) AS paid, SUM(granted_nano) AS granted FROM (
                SELECT {account} AS account_id, SUM(paid_nano) AS paid_nano, SUM(granted_nano) AS granted_nano
                FROM ledger_rows WHERE id > {after} GROUP BY +account_number
                UNION ALL SELECT account_id, paid_nano, granted_nano FROM month_sums JOIN closed_months USING (month)
                WHERE last_id <= {after}
            ) GROUP BY account_id
        ) AS t ON t.account_id = id
        WHERE w.paid_nano IS NOT t.paid OR w.granted_nano IS NOT t.granted""",
    "grants differ from what a wallet was granted (account, wallet, grants)": """
        SELECT account_id, granted_nano, total FROM (
            SELECT w.account_id, w.granted_nano, COALESCE(
                (SELECT SUM(remaining_nano) FROM grants AS g WHERE g.account_id = w.account_id), 0) AS total
            FROM wallets AS w)
        WHERE granted_nano <> total""",
    "a hold of an earlier release was not ended (request, still held)": """
        SELECT reference, SUM(held_nano) AS held FROM ledger_rows
        WHERE held_nano <> 0 GROUP BY reference HAVING SUM(held_nano) <> 0""",
    "a budget was spent beyond its amount (budget, start of its window, amount, spent)": """
        SELECT id, starts_at_ms, amount_nano, spent_nano FROM budgets JOIN budget_windows ON budget_id = id
        WHERE spent_nano > amount_nano""",
    "a lease has less money than may be spent of it and those under it (lease, money, left to spend)": """
        SELECT pocket, money, may_spend FROM (
            SELECT pocket, SUM(amount_nano - IFNULL(spent_nano, 0)) AS may_spend,
                (SELECT IFNULL(SUM(left_nano), 0) FROM pockets WHERE lease_id = pocket) AS money
            FROM leases JOIN budgets ON id = leases.budget_id
            LEFT JOIN budget_windows AS spent ON spent.budget_id = id
            WHERE returned_nano IS NULL GROUP BY pocket)
        WHERE money < may_spend""",
    "leases have more of a grant than is left of it (grant, in leases, left)": """
        SELECT grant_id, SUM(left_nano) AS leased, remaining_nano FROM pockets JOIN grants ON id = grant_id
        GROUP BY grant_id, remaining_nano HAVING SUM(left_nano) > remaining_nano""",
    "a lease that was given back has money (lease)": """
        SELECT lease_id FROM pockets JOIN leases ON budget_id = lease_id WHERE returned_nano IS NOT NULL""",
    "a request's record differs from its settlement (request, recorded, charged)": """
        SELECT t.reference, cost_nano, t.revenue_nano + IFNULL(back.revenue_nano, 0) AS kept
        FROM ledger_rows AS t JOIN request_rows AS r ON r.id = t.reference AND r.account_number = t.account_number
        LEFT JOIN ledger_rows AS back ON back.reference = t.reference AND back.kind = 'refund_of_request'
        WHERE t.id > {after} AND t.kind = 'settle' AND cost_nano <> t.revenue_nano + IFNULL(back.revenue_nano, 0)""",
    "a request was settled or voided twice (request, times)": """
        SELECT reference, COUNT(*) FROM ledger_rows WHERE id > {after} AND kind IN ('settle', 'void')
        GROUP BY reference, kind HAVING COUNT(*) > 1""",
    "a request was given back more or less than it was charged (request, charged, given back)": """
        SELECT back.reference, t.revenue_nano, back.revenue_nano FROM ledger_rows AS back
        LEFT JOIN ledger_rows AS t ON t.reference = back.reference AND t.kind = 'settle'
        WHERE back.id > {after} AND back.kind = 'refund_of_request' AND t.revenue_nano IS NOT -back.revenue_nano""",
    "sums of closed months differ from their entries (account, kind, entries more in the sums, paid, granted)": """
        SELECT account_id, kind, SUM(entries) AS more, SUM(paid_nano) AS paid, SUM(granted_nano) AS granted FROM (
            SELECT account_id, kind, entries, paid_nano, granted_nano, held_nano, revenue_nano
            FROM month_sums JOIN closed_months USING (month) WHERE last_id > {after}
            UNION ALL SELECT {account}, kind, -COUNT(*), -SUM(paid_nano), -SUM(granted_nano), -SUM(held_nano),
                -SUM(revenue_nano)
            FROM ledger_rows WHERE id > {after} AND id <= {closed} GROUP BY +account_number, kind
        ) GROUP BY account_id, kind
        HAVING SUM(entries) <> 0 OR SUM(paid_nano) <> 0 OR SUM(granted_nano) <> 0 OR SUM(held_nano) <> 0
            OR SUM(revenue_nano) <> 0""",
}


def _beginning(after: str) -> dict[str, str]:
    account = NAME_OF.format("account_number")
    return {what: sql.format(after=after, closed=_CLOSED, account=account) for what, sql in _CHECKS.items()}


CHECKS = _beginning(_CLOSED)
"""By the sums of closed months, and the entries since."""
ALL_CHECKS = _beginning(_ARCHIVED)
"""By all entries that there are: sums stand for those alone that are archived."""
