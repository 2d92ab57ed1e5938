"""Sums by the day: up to when they stand, which are due, and how they are made of those by the hour."""

from mcp_gateway.core.clock import DAY_MS, HOUR_MS
from mcp_gateway.core.observe.daily_sums import DaysToSum, SumUpDays
from mcp_gateway.core.store.names import NUMBER_OF
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction

HOURS_A_DAY = DAY_MS // HOUR_MS
_DAYS_AT_ONCE = 4
_UNTIL = f"SELECT until_ms FROM summed_days WHERE account_number = {NUMBER_OF.format('?')}"
_DUE = f"""
SELECT id, since_ms, (
    SELECT MIN(hour) FROM hourly_usage WHERE account_id = id AND hour >= since_ms / {HOUR_MS} AND hour < ?2
) AS hour
FROM (
    SELECT accounts.id AS id, COALESCE((
        SELECT until_ms FROM summed_days WHERE account_number = {NUMBER_OF.format("accounts.id")}
    ), 0) AS since_ms FROM accounts WHERE accounts.id >= ?1
) AS reached
WHERE EXISTS (
    SELECT 1 FROM hourly_usage WHERE account_id = id AND hour >= since_ms / {HOUR_MS} AND hour < ?2
)
ORDER BY id LIMIT 1
"""
_FORGET = "DELETE FROM daily_usage WHERE account_id = ? AND day >= ? AND day < ?"
_SUM_UP = f"""
INSERT INTO daily_usage
SELECT account_id, hour / {HOURS_A_DAY}, key_id, model, SUM(requests), SUM(prompt_tokens), SUM(completion_tokens),
    SUM(cached_tokens), SUM(cost_nano)
FROM hourly_usage WHERE account_id = ? AND hour >= ? AND hour < ?
GROUP BY account_id, hour / {HOURS_A_DAY}, key_id, model
"""
_REACH = "INSERT INTO summed_days VALUES (?, ?) ON CONFLICT (account_number) DO UPDATE SET until_ms = excluded.until_ms"
_LEAVE = f"""
UPDATE summed_days SET until_ms = ?1 WHERE account_number = {NUMBER_OF.format("?2")} AND until_ms > ?1
"""


def summed_until_day(rows: Rows, account_id: str) -> int:
    """The day, since the Unix epoch, before which all of an account's stand in `daily_usage`."""
    row = rows.first(_UNTIL, (account_id,))
    return 0 if row is None else int(row[0]) // DAY_MS


def leave_summed_days(transaction: Transaction, account_id: str, day: int) -> None:
    """Take this day of an account out, and all later ones."""
    transaction.execute(_LEAVE, (day * DAY_MS, account_id))


def _due(rows: Rows, read: DaysToSum) -> SumUpDays | None:
    row = rows.first(_DUE, (read.from_account_id, read.until_day * HOURS_A_DAY))
    if row is None:
        return None
    account_id, since_ms, hour = row
    return SumUpDays(account_id, since_ms // DAY_MS, min(read.until_day, hour // HOURS_A_DAY + _DAYS_AT_ONCE))


def _sum_up(transaction: Transaction, write: SumUpDays) -> None:
    account_id, since_day, until_day = write.account_id, write.since_day, write.until_day
    if summed_until_day(transaction, account_id) == since_day:
        transaction.execute(_FORGET, (account_id, since_day, until_day))
        transaction.execute(_SUM_UP, (account_id, since_day * HOURS_A_DAY, until_day * HOURS_A_DAY))
        transaction.execute(_REACH, (transaction.numbers[(account_id,)][0], until_day * DAY_MS))


EXECUTORS = Executors(alone={SumUpDays: _sum_up}, reads={DaysToSum: _due})
