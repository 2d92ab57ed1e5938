"""Orders stand by the database's clock: who leaves one and who decides it may be on machines whose clocks differ."""

from dataclasses import replace

from mcp_gateway.core.ledger.orders import LeaveOrder, Order, OrdersLeft
from mcp_gateway.core.store.postgres.words import NOW_S
from mcp_gateway.core.store.sql.orders import EXECUTORS as OF_ANY_ENGINE
from mcp_gateway.core.store.sql.orders import LASTS_MS, left_at
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction

_NOW_MS = f"CAST({NOW_S} * 1000 AS bigint)"
_LEFT = left_at(_NOW_MS)


def _leave(transaction: Transaction, write: LeaveOrder) -> int:
    now = transaction.first(f"SELECT {_NOW_MS}")
    assert now is not None
    order_id: int = OF_ANY_ENGINE.alone[LeaveOrder](transaction, replace(write, at_ms=now[0]))
    return order_id


def _left(rows: Rows, _: OrdersLeft) -> tuple[Order, ...]:
    return tuple(Order(*row) for row in rows.all(_LEFT, (LASTS_MS,)))


EXECUTORS = Executors(alone={LeaveOrder: _leave}, reads={OrdersLeft: _left})
