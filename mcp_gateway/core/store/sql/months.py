"""The books by month. Each is one statement, so that it tells of one moment, whatever is written meanwhile."""

from mcp_gateway.core.ledger.months import (
    Earned,
    EarnedIn,
    ModelUse,
    MonthlyStatement,
    Moves,
    StatementOf,
    statement_of,
)
from mcp_gateway.core.store.transaction import Executors, Rows

_OF_REQUESTS = "('settle', 'refund_of_request')"
_COUNTS_AS = "CASE kind WHEN 'settle' THEN 1 ELSE -1 END"
"""How often a request counts by such an entry: one that was given back was none."""
_STATEMENT = f"""
WITH entries AS MATERIALIZED (
    SELECT kind, reference, paid_nano + granted_nano + held_nano AS amount_nano, created_at_ms >= :until_ms AS is_later
    FROM ledger_transactions
    WHERE account_id = :account_id AND created_at_ms >= :since_ms AND kind NOT IN ('hold', 'void')
),
used AS (
    SELECT model, {_COUNTS_AS} AS times, amount_nano, prompt_tokens, completion_tokens, cached_tokens
    FROM entries LEFT JOIN requests ON requests.account_id = :account_id AND requests.id = reference
    WHERE NOT is_later AND kind IN {_OF_REQUESTS}
)
SELECT 'now' AS part, NULL, 0, 0, 0, 0, paid_nano + granted_nano FROM wallets WHERE account_id = :account_id
UNION ALL
SELECT 'later', NULL, COUNT(*), 0, 0, 0, COALESCE(SUM(amount_nano), 0) FROM entries WHERE is_later
UNION ALL
SELECT 'moves', kind, COUNT(*), 0, 0, 0, SUM(amount_nano) FROM entries
WHERE NOT is_later AND kind NOT IN {_OF_REQUESTS} GROUP BY kind
UNION ALL
SELECT 'use', model, SUM(times), SUM(times * prompt_tokens), SUM(times * completion_tokens), SUM(times * cached_tokens),
    -SUM(amount_nano)
FROM used GROUP BY model
ORDER BY part, 7 DESC, 2
"""
_EARNED = f"""
SELECT entries.account_id, model, SUM({_COUNTS_AS}), SUM(revenue_nano),
    SUM(granted_part_nano)
FROM (
    SELECT account_id, kind, reference, revenue_nano,
        -granted_nano - COALESCE((
            SELECT hold.granted_nano FROM ledger_transactions AS hold
            WHERE hold.kind = 'hold' AND hold.reference = ended.reference AND ended.kind = 'settle'
                AND ended.held_nano <> 0 -- else its hold was voided before it was settled
        ), 0) AS granted_part_nano
    FROM ledger_transactions AS ended
    WHERE created_at_ms >= ? AND created_at_ms < ? AND kind IN {_OF_REQUESTS}
) AS entries
LEFT JOIN requests ON requests.account_id = entries.account_id AND requests.id = entries.reference
GROUP BY 1, 2 ORDER BY 4 DESC, 1, 2
"""


def _statement_of(rows: Rows, read: StatementOf) -> MonthlyStatement:
    month = read.month
    named = {"account_id": read.account_id, "since_ms": month.since_ms, "until_ms": month.until_ms}
    found = rows.all(_STATEMENT, named)
    parts = {part: [row[1:] for row in found if row[0] == part] for part in ("now", "later", "moves", "use")}
    [(*_, later_nano)] = parts["later"]
    return statement_of(
        parts["now"][0][-1] if parts["now"] else 0,
        later_nano,
        tuple(Moves(kind, count, amount_nano) for kind, count, *_, amount_nano in parts["moves"]),
        tuple(ModelUse(model, *(number or 0 for number in numbers)) for model, *numbers in parts["use"]),
    )


def _earned_in(rows: Rows, read: EarnedIn) -> tuple[Earned, ...]:
    return tuple(Earned(*row) for row in rows.all(_EARNED, (read.month.since_ms, read.month.until_ms)))


EXECUTORS = Executors(reads={StatementOf: _statement_of, EarnedIn: _earned_in})
