"""The books by month. Each is one statement, so that it tells of one moment, whatever is written meanwhile."""

from mcp_gateway.core.ledger.months import (
    Earned,
    EarnedIn,
    ModelUse,
    Month,
    MonthlyStatement,
    Moves,
    StatementOf,
    statement_of,
)
from mcp_gateway.core.store.names import NAME_OF, NUMBER_OF
from mcp_gateway.core.store.sql.closing import CHARGED_GRANTS
from mcp_gateway.core.store.transaction import Executors, Rows

_OF_REQUESTS = "('settle', 'refund_of_request')"
_COUNTS_AS = "CASE kind WHEN 'settle' THEN 1 ELSE -1 END"
"""How often a request counts by such an entry: one that was given back was none."""
_MODEL = NAME_OF.format("model_number")
_AFTER = "(SELECT COALESCE(MAX(last_id), 0) FROM closed_months)"
_IS_CLOSED = "EXISTS (SELECT 1 FROM closed_months WHERE month = :month)"
_STATEMENT = f"""
WITH entries AS MATERIALIZED (
    SELECT kind, reference, paid_nano + granted_nano + held_nano AS amount_nano,
        created_at_ms >= :until_ms OR {_IS_CLOSED} AS is_later
    FROM ledger_rows
    WHERE account_number = {NUMBER_OF.format(":account_id")} AND id > {_AFTER}
        AND (created_at_ms >= :since_ms OR {_IS_CLOSED})
        AND kind NOT IN ('hold', 'void')
),
closed AS MATERIALIZED (
    SELECT kind, model, entries, paid_nano + granted_nano + held_nano AS amount_nano,
        month_sums.month > :month AS is_later, prompt_tokens, completion_tokens, cached_tokens
    FROM closed_months JOIN month_sums USING (month)
    WHERE account_id = :account_id AND month_sums.month >= :month AND kind NOT IN ('hold', 'void')
),
used AS (
    SELECT {_MODEL} AS model, {_COUNTS_AS} AS times, amount_nano, prompt_tokens, completion_tokens, cached_tokens
    FROM entries LEFT JOIN request_rows ON account_number = {NUMBER_OF.format(":account_id")} AND id = reference
    WHERE NOT is_later AND kind IN {_OF_REQUESTS}
),
use AS (
    SELECT model, times, amount_nano, times * prompt_tokens AS prompt_tokens,
        times * completion_tokens AS completion_tokens, times * cached_tokens AS cached_tokens
    FROM used
    UNION ALL SELECT NULLIF(model, ''), {_COUNTS_AS} * entries, amount_nano, {_COUNTS_AS} * prompt_tokens,
        {_COUNTS_AS} * completion_tokens, {_COUNTS_AS} * cached_tokens
    FROM closed WHERE NOT is_later AND kind IN {_OF_REQUESTS}
),
moves AS (
    SELECT kind, 1 AS entries, amount_nano FROM entries WHERE NOT is_later AND kind NOT IN {_OF_REQUESTS}
    UNION ALL SELECT kind, entries, amount_nano FROM closed WHERE NOT is_later AND kind NOT IN {_OF_REQUESTS}
)
SELECT 'now' AS part, NULL, 0, 0, 0, 0, paid_nano + granted_nano FROM wallets WHERE account_id = :account_id
UNION ALL
SELECT 'later', NULL, 0, 0, 0, 0, COALESCE(SUM(amount_nano), 0) FROM (
    SELECT amount_nano FROM entries WHERE is_later UNION ALL SELECT amount_nano FROM closed WHERE is_later
)
UNION ALL
SELECT 'moves', kind, SUM(entries), 0, 0, 0, SUM(amount_nano) FROM moves GROUP BY kind
UNION ALL
SELECT 'use', model, SUM(times), SUM(prompt_tokens), SUM(completion_tokens), SUM(cached_tokens), -SUM(amount_nano)
FROM use GROUP BY model
UNION ALL
SELECT 'archived', NULL, 0, 0, 0, 0, COUNT(*) FROM closed_months WHERE month = :month AND is_archived
ORDER BY part, 7 DESC, 2 NULLS FIRST
"""
_PARTS = ("now", "later", "moves", "use", "archived")
_EARNED = f"""
SELECT account_id, model, SUM(times), SUM(revenue_nano), SUM(charged_grants_nano) FROM (
    SELECT {NAME_OF.format("entries.account_number")} AS account_id, {_MODEL} AS model, SUM({_COUNTS_AS}) AS times,
        SUM(revenue_nano) AS revenue_nano, SUM({CHARGED_GRANTS}) AS charged_grants_nano
    FROM ledger_rows AS entries LEFT JOIN request_rows
    ON request_rows.account_number = entries.account_number AND request_rows.id = entries.reference
    WHERE entries.id > {_AFTER} AND created_at_ms >= :since_ms AND created_at_ms < :until_ms
        AND kind IN {_OF_REQUESTS} AND NOT {_IS_CLOSED}
    GROUP BY +entries.account_number, model_number
    UNION ALL SELECT account_id, NULLIF(model, ''), {_COUNTS_AS} * entries, revenue_nano, charged_grants_nano
    FROM closed_months JOIN month_sums USING (month) WHERE month = :month AND kind IN {_OF_REQUESTS}
)
GROUP BY 1, 2 ORDER BY 4 DESC, 1, 2 NULLS FIRST
"""


def _statement_of(rows: Rows, read: StatementOf) -> MonthlyStatement:
    month = read.month
    named = {"account_id": read.account_id, **_named(month)}
    found = rows.all(_STATEMENT, named)
    parts = {part: [row[1:] for row in found if row[0] == part] for part in _PARTS}
    [(*_, later_nano)] = parts["later"]
    [(*_, archived)] = parts["archived"]
    return statement_of(
        parts["now"][0][-1] if parts["now"] else 0,
        later_nano,
        tuple(Moves(kind, count, amount_nano) for kind, count, *_, amount_nano in parts["moves"]),
        tuple(ModelUse(model, *(number or 0 for number in numbers)) for model, *numbers in parts["use"]),
        is_archived=bool(archived),
    )


def _earned_in(rows: Rows, read: EarnedIn) -> tuple[Earned, ...]:
    return tuple(Earned(*row) for row in rows.all(_EARNED, _named(read.month)))


def _named(month: Month) -> dict[str, str | int]:
    return {"month": month.name, "since_ms": month.since_ms, "until_ms": month.until_ms}


EXECUTORS = Executors(reads={StatementOf: _statement_of, EarnedIn: _earned_in})
