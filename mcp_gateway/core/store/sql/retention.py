"""What is over: found by a reader, deleted by its names."""

from mcp_gateway.core.ids import first_id_at
from mcp_gateway.core.observe.retention import ForgetRequests, ForgetRows, OldRequests, Over, RequestPlace, RowsOver
from mcp_gateway.core.store.names import NUMBER_OF
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction

_OLD_REQUESTS = """
SELECT requests.account_id, requests.id
FROM accounts CROSS JOIN requests ON requests.account_id = accounts.id AND requests.id < ?
WHERE accounts.id >= ? AND started_at_ms < ? ORDER BY accounts.id, requests.id LIMIT ?
"""
"""A look-up for each account, whose oldest requests stand first; CROSS keeps that order. What began later than its id
was made, as a further round does, is told by its time."""
_FORGET_REQUEST = f"DELETE FROM request_rows WHERE account_number = {NUMBER_OF.format('?')} AND id = ?"
_TABLES: dict[Over, tuple[str, tuple[str, ...], str]] = {
    "kept_answer": ("idempotent_answers", ("account_id", "key_sha256"), "created_at_ms"),
    "replaced_secret": ("replaced_secrets", ("sha256",), "ends_at_ms"),
    "sign_in_secret": ("one_time_secrets", ("sha256",), "expires_at_ms"),
    "user_session": ("user_sessions", ("id",), "expires_at_ms"),
}
"""Each with its key, and when it is over; an answer is kept for a day from then."""


def _old_requests(rows: Rows, read: OldRequests) -> list[RequestPlace]:
    below_id = first_id_at("req", max(0, read.before_ms))
    found = rows.all(_OLD_REQUESTS, (below_id, read.from_account_id, read.before_ms, read.most))
    return [RequestPlace(*row) for row in found]


def _forget_requests(transaction: Transaction, write: ForgetRequests) -> int:
    return sum(transaction.execute(_FORGET_REQUEST, place) for place in write.places)


def _rows_over(rows: Rows, read: RowsOver) -> list[tuple[str | bytes, ...]]:
    table, key, over_at = _TABLES[read.kind]
    return rows.all(f"SELECT {', '.join(key)} FROM {table} WHERE {over_at} < ? LIMIT ?", (read.before_ms, read.most))


def _forget_rows(transaction: Transaction, write: ForgetRows) -> int:
    table, key, over_at = _TABLES[write.kind]
    is_one = " AND ".join(f"{column} = ?" for column in key)
    sql = f"DELETE FROM {table} WHERE {is_one} AND {over_at} < ?"
    return sum(transaction.execute(sql, (*name, write.before_ms)) for name in write.names)


EXECUTORS = Executors(
    alone={ForgetRequests: _forget_requests, ForgetRows: _forget_rows},
    reads={OldRequests: _old_requests, RowsOver: _rows_over},
)
