"""Leases, give-backs and charges of nothing where two replicas spend of one wallet."""

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger.budgets import Lease, MakeBudgets, ReturnLeases
from mcp_gateway.core.ledger.entries import Balance
from mcp_gateway.core.ledger.rules import Amount
from tests.clocks import MsClock
from tests.core.ledger.replicas import Replica, account_with_group, cut_off, make_old, replica_at
from tests.core.ledger.test_ledger import record
from tests.core.ledger.test_replicas import both, lease_of, settled
from tests.postgres_server import Outside

__all__ = ["both"]

pytestmark = pytest.mark.engines
UNDER = frozenset({"under"})


async def test_what_a_replica_that_was_taken_for_dead_delivered_of_a_lease_is_charged_of_that(
    lent_url: str, clock: MsClock
) -> None:
    async with replica_at(lent_url, clock) as one, replica_at(lent_url, clock) as two:
        account_id = await account_with_group(one, clock)
        lease = lease_of("lea", account_id, "under", 8000, clock)
        await one.leases.make(MakeBudgets((lease,)), one.store.write)
        hold = await two.ledger.hold("first", account_id, 5000, 5000, UNDER)
        with Outside(lent_url) as outside:
            async with cut_off(two, outside):
                make_old(outside, two.id)
                assert await one.ledger.take_from_dead() == 1
        assert await settled(two, hold, 5000) == 5000
        assert await one.ledger.balance(account_id) == Balance(2000, 0, 0, 3000)
        assert await one.ledger.check(of_all_entries=True) == []


async def test_a_lease_whose_money_is_not_set_aside_is_not_made(both: tuple[Replica, Replica], clock: MsClock) -> None:
    one, _ = both
    account_id = await account_with_group(one, clock)
    lease = lease_of("lea", account_id, "under", 8000, clock)
    made = MakeBudgets((lease,), leases=(Lease("lea", (), "lea", Amount(8000)),))
    with pytest.raises(GatewayError, match="conflict"):
        await one.store.write(made)
    assert await one.ledger.balance(account_id) == Balance(10_000)


async def test_a_lease_returns_with_what_was_allotted_of_it_and_not_while_another_is_allotted_some(
    both: tuple[Replica, Replica], clock: MsClock
) -> None:
    one, two = both
    account_id = await account_with_group(one, clock)
    await one.leases.make(MakeBudgets((lease_of("lea", account_id, "under", 8000, clock),)), one.store.write)
    await one.ledger.hold("one", account_id, 1000, 1000, UNDER)
    of_two = await two.ledger.hold("two", account_id, 1000, 1000, UNDER)
    one.ledger.release("one")
    assert await one.leases.end(account_id, "lea")
    assert await one.store.write(ReturnLeases(account_id, ("lea",))) == 0
    assert (await one.ledger.balance(account_id)).spendable_nano == 2000  # the other still holds of it
    assert await settled(two, of_two, 1000) == 1000
    await two.give_back_idle()
    assert await one.store.write(ReturnLeases(account_id, ("lea",))) == 7000
    assert await one.ledger.balance(account_id) == Balance(9000)


async def test_what_is_given_back_and_what_costs_nothing_goes_beside_what_is_charged(
    both: tuple[Replica, Replica], clock: MsClock
) -> None:
    one, _ = both
    account_id = await account_with_group(one, clock)
    hold = await one.ledger.hold("first", account_id, 1000, 1000)
    assert await settled(one, hold, 1000) == 1000
    free, dear = [await one.ledger.hold(name, account_id, 1000, 1000) for name in ("free", "dear")]
    back = one.ledger.give_back(hold, record("first", account_id=account_id))
    assert await settled(one, free, 0) == 0
    assert await settled(one, dear, 500) == 500
    assert await back == 1000
    assert await one.ledger.balance(account_id) == Balance(9500)
