"""What a command leaves for the running server: decided where it is known what requests hold, or not at all."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from mcp_gateway.core.audit.auditing import Auditing
from mcp_gateway.core.audit.log import Actor
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger.budgets import Budget, BudgetGroup, EndBudget, MakeBudgets, SetZone
from mcp_gateway.core.ledger.entries import Balance, HeldOf
from mcp_gateway.core.ledger.leases import Leases
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.ledger.orders import LASTS_S, AnswerOf, LeaveOrder, Orders, RunningServer, TakeOrder, Undecided
from mcp_gateway.core.store.sole import AlreadyServed, alone, sole_server
from mcp_gateway.core.store.sqlite.store import Store
from tests.clocks import MsClock
from tests.databases import Query, changing, locked, open_store
from tests.loop_clock import pass_time
from tests.patience import settled

BY = Actor("shell", "alice", "here")


async def reloaded(by: Sequence[Any]) -> dict[str, Any]:
    return {"by": by}


@pytest.fixture
async def other(database: Path, clock: MsClock) -> AsyncIterator[Store]:
    """The database as another process has it open."""
    store = await open_store(database, now_ms=clock)
    yield store
    await store.close()


@pytest.fixture
def orders(store: Store, ledger: Ledger, clock: MsClock) -> Orders:
    return Orders(store, ledger, Leases(store, ledger), lambda by: Auditing(store, Actor(*by)), reloaded, now_ms=clock)


def _running(other: Store, folder: Path, clock: MsClock) -> RunningServer:
    ledger = Ledger(other)
    return RunningServer(other, ledger, Leases(other, ledger), partial(alone, folder), BY, now_ms=clock)


@pytest.fixture
def running(other: Store, database: Path, clock: MsClock) -> Iterator[RunningServer]:
    """As a command finds it while one runs."""
    with sole_server(database.parent):
        yield _running(other, database.parent, clock)


@contextmanager
def watching(orders: Orders) -> Iterator[None]:
    watch = asyncio.ensure_future(orders.watch())
    try:
        yield
    finally:
        watch.cancel()


async def decided(asked: "asyncio.Future[Any]") -> None:
    """Until it was answered, whatever time that takes."""
    while not asked.done():
        pass_time(0.1)
        await settled()


async def test_the_server_takes_away_what_it_is_told_to_and_nothing_more_is_held_of_that(
    ledger: Ledger, account: str, orders: Orders, running: RunningServer
) -> None:
    await ledger.credit(account, 100, "p")
    await ledger.hold("req_1", account, 1, 30)
    with watching(orders):
        asked = asyncio.ensure_future(running.adjust(account, -60, "cash", note="by hand"))
        await decided(asked)
        assert asked.result()
        assert (await ledger.hold("req_2", account, 1, 1000)).amount_nano == 10
        again = asyncio.ensure_future(running.adjust(account, -60, "cash"))
        await decided(again)
        assert not again.result()
    assert await ledger.balance(account) == Balance(0, 0, 40)


async def test_a_purse_that_was_full_knows_of_it_before_the_command_ends(
    ledger: Ledger, account: str, orders: Orders, running: RunningServer
) -> None:
    """Or it would hold what is no longer there."""
    await ledger.credit(account, 100, "p")
    await ledger.balance(account)
    with watching(orders):
        asked = asyncio.ensure_future(running.adjust(account, -100, "cash"))
        await decided(asked)
    with pytest.raises(GatewayError):
        await ledger.hold("req_1", account, 1, 1)


async def test_what_the_ledger_refuses_is_told_as_it_words_it(
    ledger: Ledger, account: str, orders: Orders, running: RunningServer
) -> None:
    await ledger.adjust(account, -(2**63 - 1), "all there is")
    with watching(orders):
        asked = asyncio.ensure_future(running.adjust(account, -1, "too much"))
        await decided(asked)
    with pytest.raises(GatewayError) as caught:
        asked.result()
    assert (caught.value.code, "more than the ledger can hold" in caught.value.message) == ("invalid_value", True)
    with pytest.raises(GatewayError, match="conflict"):
        await running.adjust("acc_guest", -1, "guests")


async def test_budgets_and_zones_are_decided_by_the_server_from_its_next_request_on(
    ledger: Ledger, account: str, orders: Orders, running: RunningServer
) -> None:
    await ledger.credit(account, 100, "p")
    await ledger.balance(account)
    budget, group = Budget("bud_1", account, account, 30, "day"), BudgetGroup("grp_1", account, "agents")
    with watching(orders):
        for write, outcome, held_nano in (
            (MakeBudgets((budget,), group), None, 30), (SetZone(account, "Asia/Kolkata"), True, 30),
            (EndBudget(account, "bud_1", 1), True, 100), (EndBudget(account, "bud_1", 1), False, 100),
        ):  # fmt: skip
            asked = asyncio.ensure_future(running.decide(write))
            await decided(asked)
            assert asked.result() is outcome
            assert (await ledger.hold("req_1", account, 1, 100)).amount_nano == held_nano
            ledger.release("req_1")


async def test_an_order_that_nobody_decides_is_taken_back_and_never_carried_out(
    ledger: Ledger, account: str, orders: Orders, running: RunningServer, store: Store
) -> None:
    await ledger.credit(account, 100, "p")
    asked = asyncio.ensure_future(running.adjust(account, -60, "cash"))
    await decided(asked)
    with pytest.raises(Undecided, match="within 10 s: nothing was changed"):
        asked.result()
    await orders.decide()
    assert await ledger.balance(account) == Balance(100)
    assert await store.read(Query("SELECT * FROM orders")) == []


async def test_one_that_is_taken_back_while_it_is_being_decided_changes_nothing(
    ledger: Ledger, account: str, orders: Orders, running: RunningServer, other: Store, store: Store
) -> None:
    await ledger.credit(account, 100, "p")
    asked = asyncio.ensure_future(running.adjust(account, -60, "cash"))
    while not (left := await store.read(Query("SELECT id FROM orders"))):
        await settled()
    assert await other.write(TakeOrder(left[0][0])) is None
    await orders.decide()
    assert await ledger.balance(account) == Balance(100)
    await decided(asked)
    assert isinstance(asked.exception(), Undecided)


async def test_one_that_an_ended_command_left_is_not_decided_later(
    ledger: Ledger, account: str, orders: Orders, running: RunningServer, store: Store
) -> None:
    await ledger.credit(account, 100, "p")
    asked = asyncio.ensure_future(running.adjust(account, -60, "cash"))
    while not await store.read(Query("SELECT id FROM orders")):
        await settled()
    await store.write(changing("UPDATE orders SET asked_at_ms = asked_at_ms - ?", (int(LASTS_S * 1000) + 1,)))
    await orders.decide()
    assert await ledger.balance(account) == Balance(100)
    await decided(asked)
    assert isinstance(asked.exception(), Undecided)


@pytest.mark.parametrize("is_served", [True, False])
async def test_what_is_left_of_a_lease_that_a_command_ends_with_its_key_returns_before_that_is_over(
    ledger: Ledger, account: str, orders: Orders, other: Store, database: Path, clock: MsClock, is_served: bool
) -> None:
    """The server has not heard of that end."""
    await ledger.credit(account, 100, "p")
    group = BudgetGroup("grp_1", account, "agents")
    lease = Budget("bud_1", account, group.id, 70, "total", None, clock() + 1000)
    await orders._leases.make(MakeBudgets((lease,), group), orders._store.write)
    folder = database.parent if is_served else database.parent / "unserved"
    folder.mkdir(exist_ok=True)
    command = _running(other, folder, clock)
    await command.give_back()  # asks for nothing where nothing is over
    with sole_server(database.parent), watching(orders):
        await other.write(EndBudget(account, lease.id, 1))
        giving_back = asyncio.ensure_future(command.give_back())
        await decided(giving_back)
        giving_back.result()
    assert await (ledger if is_served else command._ledger).balance(account) == Balance(100)


async def test_a_command_ends_whether_or_not_a_server_gives_back(
    ledger: Ledger, account: str, orders: Orders, running: RunningServer, other: Store, clock: MsClock
) -> None:
    await ledger.credit(account, 100, "p")
    group = BudgetGroup("grp_1", account, "agents")
    lease = Budget("bud_1", account, group.id, 70, "total", None, clock() + 1000)
    await orders._leases.make(MakeBudgets((lease,), group), orders._store.write)
    await other.write(EndBudget(account, lease.id, 1))
    giving_back = asyncio.ensure_future(running.give_back())
    await decided(giving_back)
    giving_back.result()
    assert await ledger._store.read(Query("SELECT * FROM orders")) == []
    assert await ledger.balance(account) == Balance(30, 0, 0, 70)


async def test_what_is_held_is_told_by_account_and_by_where_it_came_from(
    ledger: Ledger, account: str, orders: Orders, running: RunningServer
) -> None:
    await ledger.credit(account, 100, "p")
    await ledger.grant(account, 30, "g")
    await ledger.hold("req_1", account, 1, 50)
    with watching(orders):
        asked = asyncio.ensure_future(running.held())
        await decided(asked)
        assert asked.result() == {account: HeldOf(20, 30)}
        ledger.release("req_1")
        asked = asyncio.ensure_future(running.held())
        await decided(asked)
        assert asked.result() == {}


async def test_a_configuration_is_read_again_by_the_server_that_there_is(
    orders: Orders, running: RunningServer, other: Store, clock: MsClock, tmp_path: Path
) -> None:
    with watching(orders):
        asked = asyncio.ensure_future(running.reload())
        await decided(asked)
        assert asked.result() == {"by": [*BY]}

        async def refused(_: Sequence[Any]) -> dict[str, Any]:
            raise GatewayError("invalid_value", "models.0.id: is missing")

        orders._reload = refused
        asked = asyncio.ensure_future(running.reload())
        await decided(asked)
        with pytest.raises(GatewayError) as caught:
            asked.result()
        assert (caught.value.code, caught.value.message) == ("invalid_value", "models.0.id: is missing")
    (tmp_path / "unserved").mkdir()
    with pytest.raises(GatewayError) as caught:
        await _running(other, tmp_path / "unserved", clock).reload()
    assert "No server runs" in caught.value.message


async def test_it_is_unknown_where_no_server_answers_and_where_none_is(
    running: RunningServer, other: Store, clock: MsClock, tmp_path: Path
) -> None:
    asked = asyncio.ensure_future(running.held())
    await decided(asked)
    assert asked.result() is None
    (tmp_path / "unserved").mkdir()
    unserved = _running(other, tmp_path / "unserved", clock)
    assert await unserved.held() is None


async def test_without_a_server_a_command_decides_itself_and_none_begins_meanwhile(
    ledger: Ledger, account: str, other: Store, clock: MsClock, database: Path
) -> None:
    await ledger.credit(account, 100, "p")
    here = _running(other, database.parent, clock)
    with alone(database.parent) as is_alone, pytest.raises(AlreadyServed), sole_server(database.parent, patience_s=0):
        pass
    assert is_alone
    assert await here.adjust(account, -130, "cash")
    assert await ledger.balance(account) == Balance(-30)


async def test_the_watch_goes_on_after_an_outage(
    ledger: Ledger, account: str, orders: Orders, running: RunningServer, database: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    await ledger.credit(account, 100, "p")
    asked = asyncio.ensure_future(running.adjust(account, -60, "cash"))
    while not await ledger._store.read(Query("SELECT id FROM orders")):
        await settled()
    async with AsyncExitStack() as outage:
        await outage.enter_async_context(locked(database))
        with watching(orders):
            while "could not be decided" not in caplog.text:
                pass_time(0.1)
                await settled()
            await outage.aclose()
            await decided(asked)
    assert asked.done()


async def test_a_budget_that_is_ordered_binds_the_server_until_it_is_ended_by_order(
    ledger: Ledger, account: str, orders: Orders, running: RunningServer
) -> None:
    await ledger.credit(account, 100, "p")
    budget = Budget("bud_1", account, account, 30, "total")
    with watching(orders):
        for write, left in ((MakeBudgets((budget,)), 30), (EndBudget(account, budget.id, 1), 100)):
            asked = asyncio.ensure_future(running.decide(write))
            await decided(asked)
            assert (await ledger.hold("req_1", account, 1, 1000)).amount_nano == left
            ledger.release("req_1")


async def test_an_order_of_another_version_is_refused_and_holds_up_no_other(
    store: Store, orders: Orders, clock: MsClock
) -> None:
    odd = [
        ("make_tea", "{}"), ("move", '{"cups":2}'), ("make_budgets", "{}"), ("end_budget", "{}"), ("move", "no JSON"),
        ("move", "null"), ("set_zone", "[1]"), ("make_budgets", '{"budgets":[[]],"group":null}'),
        ("make_budgets", '{"budgets":[1],"group":null}'),
    ]  # fmt: skip
    ids = [await store.write(LeaveOrder(cast(Any, kind), asked, clock.now_ms)) for kind, asked in odd]
    last = await store.write(LeaveOrder("tell_held", "{}", clock.now_ms))
    await orders.decide()
    for order_id in ids:
        assert "does not know this order" in (await store.read(AnswerOf(order_id)) or "")
    assert await store.read(AnswerOf(last)) == "{}"


async def test_an_order_that_fails_is_answered_and_costs_no_other(
    store: Store, orders: Orders, account: str, ledger: Ledger, clock: MsClock, caplog: pytest.LogCaptureFixture
) -> None:
    odd: list[tuple[str, dict[str, Any]]] = [
        ("make_budgets", {"budgets": [["bud_1", account, account, -5, "day"]], "group": None}),
        ("end_budget", {"account_id": account, "budget_id": [], "at_ms": 1}),
        ("set_zone", {"account_id": "acc_nobody", "zone": "UTC"}),
        ("move", {"account_id": account, "kind": "adjustment", "amount_nano": "x", "reference": "r"}),
    ]
    leave = [
        LeaveOrder(cast(Any, kind), orjson.dumps(asked | {"by": BY}, default=tuple).decode(), clock.now_ms)
        for kind, asked in odd
    ]
    ids = [await store.write(one) for one in leave]
    last = await store.write(LeaveOrder("tell_held", "{}", clock.now_ms))
    await orders.decide()
    for order_id in ids:
        assert "could not carry out" in (await store.read(AnswerOf(order_id)) or "")
    assert await store.read(AnswerOf(last)) == "{}"
    assert caplog.text.count("an order of the command line failed") == len(odd)
    assert await ledger.budgets(account) == []
