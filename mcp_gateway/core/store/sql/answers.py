"""Answers that are kept for whoever sends a request again, and requests for inference that were sent again."""

import orjson

from mcp_gateway.core.idempotency import KEPT_MS, AnswerKept, KeepAnswer, Kept, NoteRepeat, still_answering
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction


def _keep(transaction: Transaction, write: KeepAnswer) -> None:
    transaction.execute("DELETE FROM idempotent_answers WHERE created_at_ms <= ?", (write.at_ms - KEPT_MS,))
    status, body = write.kept.status, orjson.dumps(write.kept.body).decode()
    row = (write.account_id, write.key, write.request_sha256, status, body, write.at_ms)
    sql = "INSERT INTO idempotent_answers VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
    if not transaction.execute(sql, row):
        raise still_answering()


def _note_repeat(transaction: Transaction, write: NoteRepeat) -> None:
    row = (write.account_id, write.request_id, write.first_id)
    transaction.execute("INSERT INTO request_repeats VALUES (?, ?, ?)", row)


def _kept(rows: Rows, read: AnswerKept) -> tuple[bytes, Kept] | None:
    sql = (
        "SELECT request_sha256, status, body FROM idempotent_answers "
        "WHERE account_id = ? AND key_sha256 = ? AND created_at_ms > ?"
    )
    row = rows.first(sql, (read.account_id, read.key, read.after_ms))
    return None if row is None else (row[0], Kept(row[1], orjson.loads(row[2])))


EXECUTORS = Executors(alone={KeepAnswer: _keep, NoteRepeat: _note_repeat}, reads={AnswerKept: _kept})
