"""Orders as rows: one that was taken back, or has its answer, is never carried out, whatever was read of it before."""

import orjson
import pytest

from mcp_gateway.core.ledger.entries import Balance, Move
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.ledger.orders import AnswerOf, AnswerOrder, CarryOut, LeaveOrder, OrdersLeft, TakeOrder
from mcp_gateway.core.store.sqlite.store import Store
from tests.clocks import MsClock

HOUR_MS = 3_600_000


@pytest.fixture
async def left(store: Store, clock: MsClock) -> int:
    """An order's id."""
    return await store.write(LeaveOrder("move", "{}", clock.now_ms))


def carried_out(left: int, account: str, reference: str = "cash") -> CarryOut:
    return CarryOut(left, Move(account, "adjustment", -60, reference))


async def test_an_order_is_carried_out_and_answered_once(store: Store, ledger: Ledger, account: str, left: int) -> None:
    await store.write(carried_out(left, account))
    await store.write(carried_out(left, account, "again"))
    assert await ledger.balance(account) == Balance(-60)
    assert await store.read(AnswerOf(left)) == '{"outcome":true}'
    assert await store.read(OrdersLeft(0)) == ()


async def test_one_that_was_taken_back_since_it_was_read_moves_nothing(
    store: Store, ledger: Ledger, account: str, left: int
) -> None:
    (read,) = await store.read(OrdersLeft(0))
    assert await store.write(TakeOrder(left)) is None
    await store.write(carried_out(read.id, account))
    await store.write(AnswerOrder(read.id, "{}"))
    assert await ledger.balance(account) == Balance()
    assert await store.read(AnswerOf(left)) is None


async def test_one_that_is_refused_is_answered_with_that_and_moves_nothing(
    store: Store, ledger: Ledger, account: str, left: int
) -> None:
    await ledger.adjust(account, -(2**63 - 1), "all there is")
    await store.write(carried_out(left, account))
    answer = await store.write(TakeOrder(left))
    assert answer is not None
    assert orjson.loads(answer)["refusal"]["code"] == "invalid_value"
    assert await ledger.balance(account) == Balance(-(2**63 - 1))


async def test_what_nobody_waits_for_any_more_goes_with_the_next_order(store: Store, clock: MsClock, left: int) -> None:
    later_ms = clock.now_ms + HOUR_MS
    second = await store.write(LeaveOrder("move", "{}", later_ms))
    assert [order.id for order in await store.read(OrdersLeft(0))] == [left, second]
    third = await store.write(LeaveOrder("tell_held", "{}", later_ms + 1))
    assert [order.id for order in await store.read(OrdersLeft(0))] == [second, third]
