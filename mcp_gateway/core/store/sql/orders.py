"""What other processes leave for the running server to decide."""

import orjson

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger.orders import (
    LASTS_S,
    AnswerOf,
    AnswerOrder,
    CarryOut,
    LeaveOrder,
    Order,
    OrdersLeft,
    TakeOrder,
)
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction

LASTS_MS = int(LASTS_S * 1000)
_FORGOTTEN_MS = 3_600_000
"""After so long nobody waits for an answer any more."""


def left_at(now_ms: str) -> str:
    """The statement that reads those which stand by a clock: the words for its time, or for a parameter."""
    return f"SELECT id, kind, asked FROM orders WHERE answer IS NULL AND asked_at_ms + ? >= {now_ms} ORDER BY id"


_LEFT = left_at("?")


def _leave(transaction: Transaction, write: LeaveOrder) -> int:
    transaction.execute("DELETE FROM orders WHERE asked_at_ms < ?", (write.at_ms - _FORGOTTEN_MS,))
    sql = "INSERT INTO orders (kind, asked, asked_at_ms) VALUES (?, ?, ?) RETURNING id"
    row = transaction.first(sql, (write.kind, write.asked, write.at_ms))
    assert row is not None
    return int(row[0])


def _left(rows: Rows, read: OrdersLeft) -> tuple[Order, ...]:
    return tuple(Order(*row) for row in rows.all(_LEFT, (LASTS_MS, read.at_ms)))


def _answer_of(rows: Rows, read: AnswerOf) -> str | None:
    row = rows.first("SELECT answer FROM orders WHERE id = ?", (read.order_id,))
    return None if row is None else row[0]


def _take(transaction: Transaction, write: TakeOrder) -> str | None:
    row = transaction.first("DELETE FROM orders WHERE id = ? RETURNING answer", (write.order_id,))
    return None if row is None else row[0]


def _carry_out(transaction: Transaction, write: CarryOut) -> None:
    if transaction.first("SELECT 1 FROM orders WHERE id = ? AND answer IS NULL", (write.order_id,)) is None:
        return
    try:
        answer: dict[str, object] = {"outcome": transaction.run(write.write)}
    except GatewayError as refusal:
        answer = {"refusal": {"code": refusal.code, "message": refusal.message}}
    _answer(transaction, AnswerOrder(write.order_id, orjson.dumps(answer).decode()))


def _answer(transaction: Transaction, write: AnswerOrder) -> None:
    transaction.execute("UPDATE orders SET answer = ? WHERE id = ? AND answer IS NULL", (write.answer, write.order_id))


EXECUTORS = Executors(
    alone={LeaveOrder: _leave, TakeOrder: _take, CarryOut: _carry_out, AnswerOrder: _answer},
    reads={OrdersLeft: _left, AnswerOf: _answer_of},
)
