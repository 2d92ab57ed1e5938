"""Two replicas under load on a PostgreSQL that is killed, frozen and locked, and one that is away: the books hold."""

import asyncio
from collections.abc import Iterator

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger.budgets import Budget, MakeBudgets
from mcp_gateway.core.ledger.entries import Balance
from mcp_gateway.core.ledger.ledger import SettlementPending
from tests.clocks import MsClock
from tests.core.ledger.replicas import Replica, account_in, cut_off, make_old, replica_at
from tests.core.ledger.test_ledger import record
from tests.patience import PATIENCE_S, eventually, settled
from tests.postgres_server import Outside, PostgresServer
from tests.postgres_stores import NOTES

pytestmark = [pytest.mark.engines, pytest.mark.usefixtures("answers_in_time")]

_CREDIT_NANO = 10**12
_REFUSALS = {"ledger_unavailable", "balance_held"}


@pytest.fixture(scope="module")
def own() -> Iterator[PostgresServer]:
    """A server that tests may freeze and kill."""
    server = PostgresServer()
    yield server
    server.end()


class Load:
    """Requests of two replicas, of which each holds and settles one after the other."""

    def __init__(self, replicas: tuple[Replica, ...], account_id: str) -> None:
        self._account_id = account_id
        self._is_over = False
        self.told: dict[str, int] = {}
        """What requests were told that they were charged."""
        self.refused: set[str] = set()
        self._tasks = [asyncio.create_task(self._ask(replica, one)) for one in range(8) for replica in replicas]

    async def _ask(self, replica: Replica, one: int) -> None:
        for number in range(1_000_000):
            if self._is_over:
                return
            name = f"{id(replica)} {one} {number}"
            try:
                hold = await replica.ledger.hold(name, self._account_id, 1000 + number, 2000 + number)
                assert await replica.ledger.resize(hold, 1000, 3000 + number) or not replica.store.is_available
            except GatewayError as refusal:
                self.refused.add(refusal.code)
                replica.ledger.release(name)
                await settled()
                continue
            self.told[name] = await replica.ledger.settle(hold, 700 + number, record(name, self._account_id))

    async def have_told(self, more: int = 30) -> None:
        most = len(self.told) + more
        await eventually(lambda: len(self.told) >= most)

    async def end(self) -> None:
        self._is_over = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), PATIENCE_S)
        assert self.refused <= _REFUSALS


async def charged(replica: Replica, outside: Outside, load: Load, account_id: str) -> None:
    """Each settlement that was told is in the books once, with what was told; nothing is held in the end."""
    rows = dict(outside.rows("SELECT reference, revenue_nano FROM ledger_rows WHERE kind = 'settle'"))
    assert rows == load.told
    assert await replica.ledger.check(of_all_entries=True) == []
    balance = await replica.ledger.balance(account_id)
    assert balance.paid_nano + balance.held_nano == _CREDIT_NANO - sum(rows.values())


@pytest.mark.parametrize("befalls", ["killed", "connections", "frozen", "locked"])
async def test_what_was_told_is_charged_once_whatever_befalls_the_server(own: PostgresServer, befalls: str) -> None:
    clock, url = MsClock(), own.make(NOTES)
    async with replica_at(url, clock) as one, replica_at(url, clock) as two:
        account_id = await account_in(one.store, clock)
        await one.ledger.credit(account_id, _CREDIT_NANO, "paid")
        await one.leases.make(
            MakeBudgets((Budget("bud", account_id, account_id, _CREDIT_NANO // 2, "day"),)), one.store.write
        )
        load = Load((one, two), account_id)
        await load.have_told()
        if befalls == "killed":
            await asyncio.to_thread(own.stop, "immediate")
            await asyncio.to_thread(own.start)
        elif befalls == "connections":
            with Outside(url) as outside:
                outside.rows(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
        elif befalls == "frozen":
            with own.frozen():
                await eventually(lambda: not one.store.is_available and not two.store.is_available)
        else:
            with Outside(url) as outside:
                outside.rows("SELECT 1")
                outside.run("BEGIN; SELECT 1 FROM wallets FOR UPDATE")
                await eventually(lambda: bool(one.store.waiting and two.store.waiting))
                outside.run("ROLLBACK")
        await load.have_told()
        await load.end()
        with Outside(url) as outside:
            await charged(two, outside, load, account_id)


async def test_a_replica_that_is_away_for_too_long_charges_what_it_delivered_and_no_more_than_there_is(
    own: PostgresServer,
) -> None:
    clock, url = MsClock(), own.make(NOTES)
    async with replica_at(url, clock) as one, replica_at(url, clock, settle_wait_s=60.0) as two:
        account_id = await account_in(one.store, clock)
        await one.ledger.credit(account_id, 100_000, "paid")
        holds = [await two.ledger.hold(f"away {number}", account_id, 10_000, 10_000) for number in range(5)]
        with Outside(url) as outside:
            async with cut_off(two, outside):
                settling = [
                    asyncio.ensure_future(two.ledger.settle(hold, 10_000, record(hold.request_id, account_id)))
                    for hold in holds
                ]
                make_old(outside, two.id)
                mine = await one.ledger.hold("mine", account_id, 80_000, 80_000)
            told = await asyncio.gather(*settling)
            assert sum(told) == 20_000
            assert await one.ledger.settle(mine, 80_000, record("mine", account_id)) == 80_000
            assert await two.ledger.balance(account_id) == Balance(0)
            assert outside.rows("SELECT SUM(cost_nano) FROM requests") == [(100_000,)]
        assert await one.ledger.check(of_all_entries=True) == []


async def test_what_is_taken_back_while_the_server_is_away_is_charged_nothing(own: PostgresServer) -> None:
    clock, url = MsClock(), own.make(NOTES)
    async with replica_at(url, clock) as one, replica_at(url, clock, settle_wait_s=0.01) as two:
        account_id = await account_in(one.store, clock)
        await one.ledger.credit(account_id, 100_000, "paid")
        hold = await two.ledger.hold("away", account_id, 10_000, 10_000)
        with Outside(url) as outside:
            async with cut_off(two, outside):
                with pytest.raises(SettlementPending) as pending:
                    await two.ledger.settle(hold, 10_000, record("away", account_id))
                calls = two.ledger.hold, two.ledger.hold_if_ample
                for call in calls:
                    with pytest.raises(GatewayError, match="ledger_unavailable"):
                        await call("late", account_id, 1, 1)
                two.ledger.take_back(pending.value, record("away", account_id))
            await eventually(lambda: not two.ledger.held_now().requests)
            await two.give_back_idle()
            await eventually(lambda: outside.rows("SELECT 1 FROM allotments") == [])
        assert await one.ledger.balance(account_id) == Balance(100_000)
