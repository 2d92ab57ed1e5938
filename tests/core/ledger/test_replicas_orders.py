"""What a command leaves where several serve: each order reaches whom it is for, and is carried out once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from mcp_gateway.core.audit.auditing import Auditing
from mcp_gateway.core.audit.log import Actor
from mcp_gateway.core.clock import HOUR_MS
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger import orders as orders_module
from mcp_gateway.core.ledger.budgets import Budget, BudgetGroup, EndBudget, MakeBudgets
from mcp_gateway.core.ledger.entries import Balance, HeldOf
from mcp_gateway.core.ledger.orders import AnswerOf, LeaveOrder, Orderer, Orders, ReplicasThere, RunningServer
from mcp_gateway.core.store.postgres.session import GRACE_S
from mcp_gateway.core.store.sql.orders import LASTS_MS
from tests.clocks import MsClock
from tests.core.ledger.replicas import Replica, end_session, make_old, paid_account, replica_at
from tests.databases import Query, changing
from tests.patience import becomes, eventually
from tests.postgres_server import Outside

pytestmark = pytest.mark.engines

BY = Actor("shell", "alice", "here")


class Server:
    """A replica that looks for orders."""

    def __init__(self, replica: Replica, clock: MsClock) -> None:
        self.replica = replica
        self.reloads: list[Sequence[Any]] = []
        self.refusal: GatewayError | None = None
        self.changed = ["models"]
        self.orders = Orders(
            replica.store,
            replica.ledger,
            replica.leases,
            lambda by: Auditing(replica.store, Actor(*by)),
            self._reload,
            now_ms=clock,
            replica=lambda: replica.store.replica,
        )

    async def _reload(self, by: Sequence[Any]) -> dict[str, Any]:
        if self.refusal is not None:
            raise self.refusal
        self.reloads.append(by)
        return {"changed": self.changed, "needs_restart": ["port"]}


@pytest.fixture
async def both(lent_url: str, clock: MsClock) -> AsyncIterator[tuple[Server, Server]]:
    """The first of which is elected."""
    async with replica_at(lent_url, clock) as one:
        await eventually(lambda: one.store.is_elected)
        async with replica_at(lent_url, clock) as two:
            yield Server(one, clock), Server(two, clock)
            assert await one.ledger.check(of_all_entries=True) == []


@pytest.fixture
def running(both: tuple[Server, Server], clock: MsClock) -> RunningServer:
    """As a command finds them; it has a store and a ledger of its own, which no test asks for money."""
    one, _ = both

    @contextlib.contextmanager
    def alone() -> Iterator[bool]:
        yield False

    return RunningServer(one.replica.store, one.replica.ledger, one.replica.leases, alone, BY, now_ms=clock)


async def while_looking(both: Sequence[Server], asked: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What comes of it, while each of these looks for orders all the time."""
    monkeypatch.setattr(orders_module, "_LOOK_INTERVAL_S", 0.0)
    loops = [asyncio.ensure_future(server.orders.watch()) for server in both]
    try:
        return await asked
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.wait(loops)


async def test_a_configuration_is_read_again_by_each_and_told_of_all(
    both: tuple[Server, Server], running: RunningServer, clock: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    both[1].changed = ["models", "incident"]
    told = await while_looking(both, running.reload(), monkeypatch)
    assert told == {"changed": ["models", "incident"], "needs_restart": ["port"]}
    assert [len(server.reloads) for server in both] == [1, 1]
    assert tuple(both[1].reloads[0]) == BY
    orderer = Orderer(both[0].replica.store, now_ms=clock)
    told = await while_looking(both, orderer.reload_of(BY, [both[1].replica.id]), monkeypatch)
    assert told["changed"] == ["models", "incident"]
    assert [len(server.reloads) for server in both] == [1, 2]


async def test_it_is_carried_out_however_the_clocks_of_who_leaves_it_and_who_decides_differ_and_stands_for_a_while(
    both: tuple[Server, Server], clock: MsClock, lent_url: str
) -> None:
    decide, store = both[0].orders.decide, both[0].replica.store
    for behind_ms in (HOUR_MS, -HOUR_MS):
        left = await store.write(LeaveOrder("tell_held", "{}", clock() - behind_ms))
        await decide()
        assert await store.read(AnswerOf(left)) == "{}"
    late = await store.write(LeaveOrder("tell_held", "{}", clock()))
    with Outside(lent_url) as outside:
        outside.rows("UPDATE orders SET asked_at_ms = asked_at_ms - ? WHERE id = ? RETURNING id", LASTS_MS, late)
    await decide()
    assert await store.read(AnswerOf(late)) is None


async def test_one_that_cannot_be_used_anywhere_is_told_once_and_one_that_some_refuse_by_whom(
    both: tuple[Server, Server], running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    both[1].refusal = GatewayError("invalid_value", "models.0.id: is missing")
    with pytest.raises(GatewayError) as caught:
        await while_looking(both, running.reload(), monkeypatch)
    second = both[1].replica.id
    assert (caught.value.code, f"replica {second}: models.0.id" in caught.value.message) == ("conflict", True)
    assert len(both[0].reloads) == 1
    both[0].refusal = both[1].refusal
    with pytest.raises(GatewayError) as caught:
        await while_looking(both, running.reload(), monkeypatch)
    assert (caught.value.code, caught.value.message) == ("invalid_value", "models.0.id: is missing")


async def test_one_that_does_not_answer_is_named(
    both: tuple[Server, Server], running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders_module, "LASTS_S", 0.2)
    with pytest.raises(GatewayError) as caught:
        await while_looking(both[:1], running.reload(), monkeypatch)
    assert f"replica {both[1].replica.id}: It did not answer within" in caught.value.message
    assert len(both[0].reloads) == 1


async def test_who_is_there_is_who_has_a_session_or_had_one_just_now(
    both: tuple[Server, Server], lent_url: str
) -> None:
    one, two = (server.replica for server in both)
    with Outside(lent_url) as outside:
        assert await one.store.read(ReplicasThere()) == (one.id, two.id)
        make_old(outside, two.id)  # frozen, say
        assert await one.store.read(ReplicasThere()) == (one.id, two.id)
        await end_session(two.session, outside)
        outside.rows(f"UPDATE writers SET at = now() - interval '{GRACE_S + 1} s' WHERE id = ? RETURNING id", two.id)
        found = await one.store.read(ReplicasThere())
        assert found in ((one.id,), (one.id, two.id))  # it may be back already


async def test_what_one_has_to_do_is_done_by_the_elected_one_and_once(
    both: tuple[Server, Server], running: RunningServer, clock: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would set aside for the same lease, and one of them lack what the other has."""
    one, two = both
    account_id = await paid_account(one.replica, clock, 100)
    group = BudgetGroup("grp_1", account_id, "agents")
    lease = Budget("bud_1", account_id, group.id, 70, "total", None, clock() + 1000)
    await while_looking(both, running.decide(MakeBudgets((lease,), group)), monkeypatch)
    assert await two.replica.ledger.balance(account_id) == Balance(30, 0, 0, 70)
    assert await while_looking(both, running.adjust(account_id, -10, "cash"), monkeypatch)

    async def end() -> None:
        """What is left of it returns a little later."""
        assert await running.decide(EndBudget(account_id, lease.id, clock()))
        await becomes(partial(two.replica.ledger.balance, account_id), lambda left: left == Balance(90))

    await while_looking(both, end(), monkeypatch)


async def test_an_order_is_left_alone_by_who_is_not_elected_whatever_it_says(
    both: tuple[Server, Server], clock: MsClock
) -> None:
    one, two = both
    kinds: list[tuple[Any, str]] = [("tell_held", "{}"), ("make_tea", "no JSON"), ("make_tea", "[1]")]
    ids = [await one.replica.store.write(LeaveOrder(kind, asked, clock.now_ms)) for kind, asked in kinds]
    await two.orders.decide()
    assert [await one.replica.store.read(AnswerOf(one_id)) for one_id in ids] == [None, None, None]
    await one.orders.decide()
    assert None not in [await one.replica.store.read(AnswerOf(one_id)) for one_id in ids]


async def test_what_is_held_is_told_of_all(
    both: tuple[Server, Server], running: RunningServer, clock: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = both
    account_id = await paid_account(one.replica, clock, 100)
    await one.replica.ledger.hold("req_1", account_id, 30, 30)
    await two.replica.ledger.hold("req_2", account_id, 50, 50)
    told = await while_looking(both, running.held(), monkeypatch)
    assert told == {account_id: HeldOf(80)}


async def test_what_is_left_of_a_lease_that_a_command_has_ended_returns_though_another_replica_is_allotted_of_it(
    both: tuple[Server, Server], running: RunningServer, clock: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = both
    account_id = await paid_account(one.replica, clock, 100)
    await one.replica.store.write(changing("INSERT INTO key_groups VALUES ('grp_1', ?, 'x')", (account_id,)))
    lease = Budget("bud_1", account_id, "grp_1", 70, "total", None, clock() + 1000)
    await one.replica.leases.make(MakeBudgets((lease,)), one.replica.store.write)
    hold = await two.replica.ledger.hold("req_1", account_id, 20, 20, frozenset({"grp_1"}))
    two.replica.ledger.release(hold.request_id)
    await one.replica.store.write(EndBudget(account_id, lease.id, 1))
    await while_looking(both, running.give_back(), monkeypatch)
    assert await two.replica.ledger.balance(account_id) == Balance(100)


async def test_an_order_for_one_alone_goes_by_the_database(
    both: tuple[Server, Server], clock: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command of an earlier version leaves one for nobody in particular."""
    orderer = Orderer(both[0].replica.store, now_ms=clock)
    asked = orderer.ask("reload", {"by": BY}, 10.0)
    assert await while_looking(both, asked, monkeypatch) == {"changed": ["models"], "needs_restart": ["port"]}
    assert [len(server.reloads) for server in both] == [1, 0]
    assert await both[0].replica.store.read(Query("SELECT * FROM orders")) == []
