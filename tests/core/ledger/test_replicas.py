"""Two replicas spend of the same wallets: exactly what there is, and nobody is refused for what nobody holds."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mcp_gateway.core.engine import Read
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger import shared
from mcp_gateway.core.ledger.allotments import AskForMoney, Draw, MoneyWanted
from mcp_gateway.core.ledger.allotted_purse import AllottedPurse
from mcp_gateway.core.ledger.budget_book import Spender
from mcp_gateway.core.ledger.budgets import Budget, EndBudget, MakeBudgets
from mcp_gateway.core.ledger.checkpoint import verify_since_checkpoint
from mcp_gateway.core.ledger.closing import Closing
from mcp_gateway.core.ledger.entries import Balance, HeldOf, Move, Settle
from mcp_gateway.core.ledger.purse import Hold
from mcp_gateway.core.store.postgres.database import PostgresDatabase
from mcp_gateway.core.store.postgres.session import LOCKS, WRITING
from tests.clocks import MsClock
from tests.core.ledger.replicas import (
    Replica,
    account_in,
    account_with_group,
    cut_off,
    end_session,
    make_old,
    paid_account,
    replica_at,
)
from tests.core.ledger.test_ledger import record
from tests.databases import changing
from tests.logged import lines_logged
from tests.patience import eventually
from tests.postgres_server import Outside

pytestmark = pytest.mark.engines


@pytest.fixture
async def both(lent_url: str, clock: MsClock) -> AsyncIterator[tuple[Replica, Replica]]:
    async with replica_at(lent_url, clock) as one, replica_at(lent_url, clock) as two:
        yield one, two
        for replica in (one, two):
            assert await replica.ledger.check(of_all_entries=True) == []


async def placed(replica: Replica, account_id: str, name: str, amount_nano: int) -> Hold | str:
    try:
        return await replica.ledger.hold(name, account_id, amount_nano, amount_nano)
    except GatewayError as refusal:
        return refusal.code


async def settled(replica: Replica, hold: Hold, cost_nano: int) -> int:
    return await replica.ledger.settle(hold, cost_nano, record(hold.request_id, account_id=hold.account_id))


@pytest.mark.parametrize("replicas", [1, 2])
async def test_of_two_hundred_holds_at_once_a_wallet_for_ten_has_ten(
    both: tuple[Replica, Replica], clock: MsClock, replicas: int
) -> None:
    one, _ = both
    for turn in range(20):
        account_id = await account_in(one.store, clock)
        await one.ledger.credit(account_id, 10_000, f"paid {turn}")
        asked = [placed(both[number % replicas], account_id, f"{turn} {number}", 1000) for number in range(200)]
        outcomes = await asyncio.gather(*asked)
        holds = [one for one in outcomes if isinstance(one, Hold)]
        assert len(holds) == 10
        assert {one for one in outcomes if isinstance(one, str)} == {"balance_held"}
        assert (await one.ledger.balance(account_id)) == Balance(0, 0, 10_000)
        for hold in holds:
            holder = next(one for one in both if hold.request_id in one.ledger._purses._holds)
            assert await settled(holder, hold, 1000) == 1000
        for replica in both:
            assert await replica.ledger.balance(account_id) == Balance(0, 0, 0)
            assert await placed(replica, account_id, f"{turn} late", 1) == "insufficient_balance"


async def test_what_one_does_not_hold_the_other_gets(both: tuple[Replica, Replica], clock: MsClock) -> None:
    one, two = both
    account_id = await paid_account(one, clock, 1_000_000)
    hold = await one.ledger.hold("first", account_id, 1000, 1000)
    assert one.ledger._purse(account_id).surplus()  # more than was asked for
    all_of_it = await two.ledger.hold("second", account_id, 999_000, 999_000)
    assert all_of_it.amount_nano == 999_000
    assert await placed(one, account_id, "third", 1) == "balance_held"
    assert await settled(one, hold, 0) == 0
    await two.ledger.hold("third", account_id, 1000, 1000)


async def test_who_needs_more_soon_draws_more_and_later_less_again(
    both: tuple[Replica, Replica], clock: MsClock
) -> None:
    one, _ = both
    account_id = await paid_account(one, clock, 10**9)
    beside_nano = []
    for number, later_ms in enumerate((0, 0, 3999, 4000, 4000, 4000)):
        clock.now_ms += later_ms
        most_nano = sum(one.ledger._purse(account_id).surplus().values()) + 1000
        await one.ledger.hold(f"{number}", account_id, most_nano, most_nano)
        beside_nano.append(sum(one.ledger._purse(account_id).surplus().values()))
    assert beside_nano == [16_000, 64_000, 256_000, 64_000, 16_000, 16_000]


async def test_holds_of_a_moment_are_allotted_no_more_beside_what_they_hold_than_one_may_be(
    both: tuple[Replica, Replica], clock: MsClock
) -> None:
    one, _ = both
    account_id = await paid_account(one, clock, 1_000_000)
    await asyncio.gather(*(one.ledger.hold(f"{number}", account_id, 1000, 1000) for number in range(100)))
    assert 100_000 < sum(one.ledger._purse(account_id).surplus().values()) <= 125_000  # an eighth, of two replicas


async def test_what_is_idle_goes_back(both: tuple[Replica, Replica], clock: MsClock, lent_url: str) -> None:
    one, _ = both
    account_id = await paid_account(one, clock, 1_000_000)
    hold = await one.ledger.hold("first", account_id, 1000, 1000)
    await one.give_back_idle()
    with Outside(lent_url) as outside:
        assert outside.rows("SELECT SUM(amount_nano) > 1000 FROM allotments") == [(True,)]
        await settled(one, hold, 1000)
        await one.give_back_idle()
        assert outside.rows("SELECT * FROM allotments") == []
    assert not one.ledger._purse(account_id).is_needed


async def test_a_raise_draws_what_it_lacks_and_one_for_which_there_is_nothing_ends(
    both: tuple[Replica, Replica], clock: MsClock
) -> None:
    one, two = both
    account_id = await paid_account(one, clock, 10_000)
    hold = await one.ledger.hold("first", account_id, 1000, 1000)
    other = await two.ledger.hold("second", account_id, 1000, 1000)
    assert await one.ledger.resize(hold, 5000, 9000)
    assert hold.amount_nano == 9000
    assert not await two.ledger.resize(other, 1001, 2000)
    assert two.ledger.what_ends(other, 1001) == "balance"
    assert two.ledger.refusal(account_id, 1001).code == "balance_held"
    assert await one.ledger.resize(hold, 1000, 2000)  # lowered
    assert await two.ledger.resize(other, 1001, 3000)
    assert await settled(one, hold, 2000) == 2000
    assert await settled(two, other, 3000) == 3000
    assert await two.ledger.balance(account_id) == Balance(5000)


async def test_grants_are_spent_first_and_what_expires_is_taken_once_it_is_back(
    both: tuple[Replica, Replica], clock: MsClock
) -> None:
    one, two = both
    account_id = await paid_account(one, clock, 1_000_000)
    await two.ledger.grant(account_id, 500_000, "given", expires_at_ms=clock.now_ms + 1000)
    hold = await one.ledger.hold("first", account_id, 1000, 1000)
    other = await two.ledger.hold("second", account_id, 400_000, 600_000)
    assert other.parts.granted_nano > 400_000
    clock.now_ms += 1000
    assert await two.ledger.expire_grants() + await one.ledger.expire_grants() < 100_000
    assert await settled(one, hold, 1000) == 1000
    assert await settled(two, other, 10_000) == 10_000
    await one.give_back_idle()
    await two.give_back_idle()
    expired = await one.ledger.expire_grants()
    assert expired + await two.ledger.expire_grants() > 400_000
    assert await two.ledger.balance(account_id) == Balance(1_000_000)


async def test_what_a_dead_replica_had_is_taken_back_once_before_anybody_is_refused(
    lent_url: str, clock: MsClock
) -> None:
    async with replica_at(lent_url, clock) as one:
        account_id = await paid_account(one, clock, 10_000)
        with Outside(lent_url) as outside:
            async with replica_at(lent_url, clock) as two:
                hold = await two.ledger.hold("second", account_id, 10_000, 10_000)
                before = two.id
                async with cut_off(two, outside):
                    assert await placed(one, account_id, "early", 1) == "balance_held"  # it may come back
                    make_old(outside, two.id)
                    first = await one.ledger.hold("first", account_id, 4000, 4000)
                    assert await one.ledger.take_from_dead() == 0
                assert await settled(two, hold, 9000) == 6000  # it did, and nobody held the rest
                assert two.id != before
                assert await settled(one, first, 4000) == 4000
                assert await two.ledger.balance(account_id) == Balance(0)
                await one.ledger.credit(account_id, 100, "more")
                late = await two.ledger.hold("third", account_id, 100, 100)
                assert await settled(two, late, 100) == 100
            assert await one.ledger.check(of_all_entries=True) == []
            assert outside.rows("SELECT cost_nano FROM requests WHERE id = 'second'") == [(6000,)]


async def test_what_a_database_says_is_allotted_that_has_lost_how_it_was_given_back_is_everybody_s_again(
    lent_url: str, clock: MsClock
) -> None:
    """As a crash loses what nobody waited for: the replica that gave it back knows nothing of it."""
    async with replica_at(lent_url, clock) as one, replica_at(lent_url, clock) as two:
        account_id = await paid_account(one, clock, 10_000)
        hold = await two.ledger.hold("first", account_id, 10_000, 10_000)
        with Outside(lent_url) as outside:
            rows = outside.rows("SELECT * FROM allotments")
            assert rows
            await settled(two, hold, 0)
            await two.give_back_idle()
            before = two.id
            await end_session(two.session, outside)
            outside.add(f"INSERT INTO allotments VALUES ({', '.join('?' * len(rows[0]))})", rows)
            outside.rows("UPDATE writers SET batch = batch - 1 WHERE id = ? RETURNING id", before)
            await two.store.write(AskForMoney(account_id), in_outage="wait")  # it is back
            make_old(outside, before)
            assert isinstance(await placed(one, account_id, "second", 10_000), Hold)


async def test_one_that_is_taken_for_dead_covers_what_it_holds_anew(lent_url: str, clock: MsClock) -> None:
    async with replica_at(lent_url, clock) as one, replica_at(lent_url, clock) as two:
        account_id = await paid_account(one, clock, 10_000)
        hold = await two.ledger.hold("second", account_id, 5000, 5000)
        with Outside(lent_url) as outside:
            async with cut_off(two, outside):
                make_old(outside, two.id)
                assert await one.ledger.take_from_dead() == 1
        await two.store.write(AskForMoney(account_id), in_outage="wait")  # it is back
        more = await two.ledger.hold("third", account_id, 1000, 1000)
        assert await placed(one, account_id, "first", 4001) == "balance_held"
        assert await settled(two, hold, 5000) == 5000
        assert await settled(two, more, 1000) == 1000
        assert await one.ledger.balance(account_id) == Balance(4000)
        assert await one.ledger.check(of_all_entries=True) == []


# Budgets and leases


async def test_a_budget_that_one_makes_bounds_the_other_at_once_and_is_spent_exactly(
    both: tuple[Replica, Replica], clock: MsClock
) -> None:
    one, two = both
    account_id = await paid_account(one, clock, 10_000_000)
    before = await two.ledger.hold("before", account_id, 1000, 1000)
    await one.leases.make(MakeBudgets((Budget("bud", account_id, account_id, 10_000, "day"),)), one.store.write)
    await eventually(lambda: not two.ledger._purse(account_id).covers(Spender(), 1, clock.now_ms))
    asked = [placed(both[number % 2], account_id, f"{number}", 1000) for number in range(100)]
    outcomes = await asyncio.gather(*asked)
    holds = [outcome for outcome in outcomes if isinstance(outcome, Hold)]
    assert len(holds) == 10
    [standing] = await two.ledger.budgets(account_id)
    assert (standing.spent_nano, standing.held_nano) == (0, 10_000)
    for hold in holds:
        holder = next(one for one in both if hold.request_id in one.ledger._purses._holds)
        assert await settled(holder, hold, 600) == 600
    assert await settled(two, before, 1000) == 1000
    [standing] = await one.ledger.budgets(account_id)
    assert standing.spent_nano == 6000
    rest = await two.ledger.hold("rest", account_id, 4000, 4000)  # what is idle elsewhere is asked for
    assert await placed(one, account_id, "late", 1) == "balance_held"
    assert await settled(two, rest, 4000) == 4000
    assert await placed(one, account_id, "later", 1) == "budget_exhausted"
    clock.now_ms += 86_400_000
    await one.ledger.hold("tomorrow", account_id, 1000, 1000)
    await two.store.write(EndBudget(account_id, "bud", clock.now_ms))
    await two.ledger.hold("without", account_id, 50_000, 50_000)


async def test_who_was_never_drawn_for_is_drawn_for_first(both: tuple[Replica, Replica], clock: MsClock) -> None:
    """So that a budget of a new key is known, whoever made it, before anything is spent."""
    one, two = both
    account_id = await paid_account(one, clock, 10_000_000)
    await one.ledger.hold("before", account_id, 1000, 1000)
    await two.store.write(changing("INSERT INTO key_groups VALUES ('grp', ?, 'team')", (account_id,)))
    await two.store.write(MakeBudgets((Budget("bud", account_id, "grp", 500, "total"),)))
    with pytest.raises(GatewayError, match="budget_exhausted"):
        await one.ledger.hold("new", account_id, 1000, 1000, frozenset({"grp"}))


async def test_a_lease_that_one_makes_is_spent_by_both_and_returns_once_nobody_holds_it(
    both: tuple[Replica, Replica], clock: MsClock
) -> None:
    one, two = both
    account_id = await account_in(one.store, clock)
    await one.ledger.grant(account_id, 3000, "given")
    await one.ledger.credit(account_id, 10_000, "paid")
    for group in ("above", "under"):
        await one.store.write(changing("INSERT INTO key_groups VALUES (?, ?, ?)", (group, account_id, group)))
    budgets = Budget("bud", account_id, "above", 9000, "total"), lease_of("lea", account_id, "under", 8000, clock)
    await one.leases.make(MakeBudgets(budgets[:1]), one.store.write)
    await one.leases.make(MakeBudgets(budgets[1:], above=("above",)), one.store.write)
    assert await two.ledger.balance(account_id) == Balance(5000, 0, 0, 8000)
    under = frozenset({"above", "under"})
    first = await one.ledger.hold("first", account_id, 5000, 5000, under)
    assert first.pocket == "lea"
    second = await two.ledger.hold("second", account_id, 1000, 3000, under)
    assert second.amount_nano == 3000
    with pytest.raises(GatewayError, match="balance_held"):
        await two.ledger.hold("third", account_id, 1, 1, under)
    assert await two.ledger.balance(account_id) == Balance(5000, 0, 8000)
    assert await settled(one, first, 4000) == 4000
    third = await two.ledger.hold("third", account_id, 1000, 1000, under)
    assert await two.leases.end(account_id, "lea")
    assert await one.ledger.balance(account_id) == Balance(5000, 0, 4000)
    assert await settled(two, third, 500) == 500
    assert await settled(two, second, 1500) == 1500
    await one.leases.give_back()
    assert await one.ledger.balance(account_id) == Balance(7000)
    [above] = await two.ledger.budgets_held_by(account_id, ["above"])
    assert above.spent_nano == 6000


def lease_of(name: str, account_id: str, holder: str, amount_nano: int, clock: MsClock) -> Budget:
    return Budget(name, account_id, holder, amount_nano, "total", lease_ends_at_ms=clock.now_ms + 60_000)


async def test_a_lease_ends_while_the_other_holds_of_it_and_is_charged_what_it_delivered(
    lent_url: str, clock: MsClock
) -> None:
    async with replica_at(lent_url, clock) as one, replica_at(lent_url, clock) as two:
        account_id = await account_with_group(one, clock)
        lease = lease_of("lea", account_id, "under", 8000, clock)
        await one.leases.make(MakeBudgets((lease,)), one.store.write)
        hold = await two.ledger.hold("first", account_id, 5000, 5000, frozenset({"under"}))
        with Outside(lent_url) as outside:
            async with cut_off(two, outside):
                make_old(outside, two.id)
                assert await one.ledger.take_from_dead() == 1
                assert await one.leases.end(account_id, "lea")
                assert await one.ledger.balance(account_id) == Balance(10_000)
        await one.ledger.hold("other", account_id, 6000, 6000)
        assert await settled(two, hold, 5000) == 4000
        assert await one.ledger.check(of_all_entries=True) == []


# Ends


async def test_what_an_ended_replica_left_in_a_file_is_charged_of_what_it_was_allotted(
    lent_url: str, clock: MsClock
) -> None:
    async with replica_at(lent_url, clock) as one:
        account_id = await paid_account(one, clock, 10_000)
        with Outside(lent_url) as outside:
            async with replica_at(lent_url, clock) as two:
                hold = await two.ledger.hold("second", account_id, 6000, 6000)
                left_by = two.id
                async with cut_off(two, outside):
                    settling = asyncio.ensure_future(settled(two, hold, 6000))
                    await asyncio.sleep(0)
                    unwritten = await two.store.close()
                    await asyncio.wait([settling])
            assert await placed(one, account_id, "early", 5000) == "balance_held"
            await one.ledger.catch_up([kept for kept in unwritten if isinstance(kept, Settle)], left_by)
            await one.ledger.catch_up([kept for kept in unwritten if isinstance(kept, Settle)], left_by)
            assert await one.ledger.balance(account_id) == Balance(4000)
            assert outside.rows("SELECT cost_nano FROM requests WHERE id = 'second'") == [(6000,)]
        assert await one.ledger.check(of_all_entries=True) == []


async def test_who_serves_alone_finds_nothing_allotted(lent_url: str, clock: MsClock, tmp_path: Path) -> None:
    shared, sole = (
        PostgresDatabase(tmp_path, lent_url, patience_s=0, is_shared=is_shared) for is_shared in (True, False)
    )
    with Outside(lent_url) as outside:
        for database in (shared, sole):
            async with replica_at(lent_url, clock) as one:
                account_id = await account_in(one.store, clock)
                await one.ledger.credit(account_id, 10_000, account_id)
                await one.ledger.hold("first", account_id, 6000, 6000)
                replica, one.session._id = one.id, None  # it dies without a word
            with database.alone() as is_alone:
                assert not is_alone  # for a grace it may come back
            assert outside.rows("SELECT * FROM allotments")
            make_old(outside, replica)
            if database is shared:
                with database.alone() as is_alone:
                    assert is_alone
            else:
                store = await database.open(now_ms=clock, report_timeout_s=1, is_server=True)
                await store.close()
            assert outside.rows("SELECT * FROM allotments") == []


async def test_what_is_taken_back_from_a_wallet_is_not_spent_of_what_replicas_were_allotted(
    both: tuple[Replica, Replica], clock: MsClock, lent_url: str
) -> None:
    one, two = both
    account_id = await paid_account(one, clock, 1_000_000)
    holds = [await replica.ledger.hold(f"{replica.id}", account_id, 1000, 1000) for replica in both]
    assert all(replica.ledger._purse(account_id).surplus() for replica in both)
    with Outside(lent_url) as outside:
        assert await one.store.write(Move(account_id, "adjustment", -500_000, "some of it"))
        allotted = "SELECT SUM(amount_nano) FROM allotments"
        assert outside.rows(allotted)[0][0] > 2000  # enough is left for all of that
        assert await one.store.write(Move(account_id, "dispute", -600_000, "more than there is"))
        assert not await one.store.write(Move(account_id, "dispute", -600_000, "more than there is"))
        await eventually(lambda: outside.rows(allotted) == [(2000,)])  # what is held stays
    for replica, hold in zip(both, holds, strict=True):
        assert await placed(replica, account_id, "late", 1) == "insufficient_balance"
        assert await settled(replica, hold, 1000) == 1000
    assert await two.ledger.balance(account_id) == Balance(-102_000)


async def test_a_balance_that_is_read_while_a_charge_is_written_has_it_once(
    both: tuple[Replica, Replica], clock: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = both
    account_id = await paid_account(one, clock, 100)
    hold = await placed(one, account_id, "req_1", 40)
    assert isinstance(hold, Hold)
    read = one.store.read

    async def late(asked: Read[Any]) -> Any:
        found = await read(asked)
        await settled(one, hold, 30)
        return found

    monkeypatch.setattr(one.store, "read", late)
    balance = await one.ledger.balance(account_id)
    assert (balance.paid_nano, balance.held_nano) == (70, 0)


async def test_what_all_hold_is_told_by_account(both: tuple[Replica, Replica], clock: MsClock) -> None:
    one, two = both
    account_id = await account_in(one.store, clock)
    await one.ledger.grant(account_id, 100, "given")
    await one.ledger.credit(account_id, 10_000, "paid")
    await one.store.write(changing("INSERT INTO key_groups VALUES ('under', ?, 'x')", (account_id,)))
    lease = lease_of("lea", account_id, "under", 500, clock)
    await one.leases.make(MakeBudgets((lease,)), one.store.write)
    await two.ledger.hold("first", account_id, 600, 600)
    await one.ledger.hold("second", account_id, 1000, 1000)
    await two.ledger.hold("third", account_id, 200, 200, frozenset({"under"}))
    assert await one.ledger.held_by_all() == {account_id: HeldOf(1600, 0, 200)}


async def test_who_does_not_answer_is_waited_for_once(lent_url: str, clock: MsClock) -> None:
    async with replica_at(lent_url, clock) as one, replica_at(lent_url, clock) as two:
        account_id = await paid_account(one, clock, 10_000)
        await two.ledger.hold("second", account_id, 6000, 6000)
        two.store._hearing._hear = lambda _: None
        assert await placed(one, account_id, "first", 5000) == "balance_held"
        assert one.ledger._silent.keys() == {two.id}
        assert await placed(one, account_id, "first", 5000) == "balance_held"
        assert not await one.ledger._ask(account_id, {two.id})


async def test_a_request_waits_for_what_the_other_holds(lent_url: str, clock: MsClock) -> None:
    async with replica_at(lent_url, clock, hold_wait_s=60.0) as one, replica_at(lent_url, clock) as two:
        account_id = await paid_account(one, clock, 10_000)
        hold = await two.ledger.hold("second", account_id, 6000, 6000)
        waiting = asyncio.ensure_future(one.ledger.hold("first", account_id, 9000, 9000))
        await eventually(lambda: account_id in two.ledger._shared_list.wanted)
        assert await settled(two, hold, 500) == 500
        assert (await waiting).amount_nano == 9000
        assert not two.ledger._purse(account_id).surplus()


async def test_what_is_ample_is_held_at_once_and_what_is_not_is_not(
    both: tuple[Replica, Replica], clock: MsClock
) -> None:
    one, two = both
    account_id = await paid_account(one, clock, 10_000)
    hold = await one.ledger.hold_if_ample("first", account_id, 1000, 8000)
    assert hold is not None
    assert hold.amount_nano == 1000
    assert await one.ledger.hold_if_ample("second", account_id, 1200, 9600) is None
    again = await one.ledger.hold_if_ample("third", account_id, 1000, 7000)
    assert again is not None
    await two.ledger.check_balance(account_id, 8000)
    with pytest.raises(GatewayError, match="insufficient_balance"):
        await two.ledger.check_balance(account_id, 10_001)
    reach = await two.ledger.reach(account_id)
    assert reach.most_nano == 10_000
    await one.ledger.check_balance(account_id, 100)
    assert await two.ledger.spendable_nano(account_id) < 10_000


async def test_what_exceeds_a_hold_is_charged_of_what_is_free_anywhere(
    both: tuple[Replica, Replica], clock: MsClock
) -> None:
    one, two = both
    account_id = await paid_account(one, clock, 10_000)
    hold = await one.ledger.hold("first", account_id, 1000, 1000)
    await two.ledger.hold("second", account_id, 2000, 2000)
    over = await one.ledger.settle(hold, 9000, record("first", account_id), may_exceed=True)
    assert over == 8000


async def test_what_was_not_heard_is_read_again(both: tuple[Replica, Replica], clock: MsClock) -> None:
    one, _ = both
    account_id = await paid_account(one, clock, 100_000)
    await one.ledger.hold("first", account_id, 100, 100)
    assert one.ledger._purse(account_id).covers(Spender(), 100, clock.now_ms)
    one.ledger._unheard()
    assert not one.ledger._purse(account_id).covers(Spender(), 100, clock.now_ms)
    await one.ledger.hold("second", account_id, 100, 100)


BESIDE = f"""
BEGIN;
SELECT pg_advisory_xact_lock_shared({LOCKS}, {WRITING});
UPDATE wallets SET paid_nano = paid_nano + 5 WHERE account_id = '{{account_id}}';
INSERT INTO ledger_rows (
    account_number, kind, reference, paid_nano, granted_nano, held_nano, revenue_nano, grant_source_nano, clearing_nano,
    created_at_ms
) SELECT number, 'credit', 'beside', 5, 0, 0, 0, 0, -5, 0 FROM names WHERE name = '{{account_id}}'
"""
"""What a batch of requests may do that goes beside others."""


async def test_the_checkpoint_passes_nothing_that_is_not_committed_before_what_has_a_later_number(
    both: tuple[Replica, Replica], clock: MsClock, lent_url: str
) -> None:
    one, _ = both
    account_id, other_id = await paid_account(one, clock, 10_000), await account_in(one.store, clock)
    await one.ledger.credit(other_id, 10_000, "of another")
    hold = await one.ledger.hold("later", account_id, 100, 100)
    with Outside(lent_url) as outside:
        outside.run(BESIDE.format(account_id=other_id))
        await settled(one, hold, 100)
        moving = asyncio.create_task(Closing(one.store, clock, rest_s=0).move_checkpoint())
        await eventually(lambda: moving.done() or outside.rows("SELECT 1 FROM pg_locks WHERE NOT granted"))
        outside.run("COMMIT")
    await moving
    await verify_since_checkpoint(one.store)


async def test_a_balance_is_the_database_s_also_where_that_took_the_place_of_a_later_one(
    both: tuple[Replica, Replica], clock: MsClock
) -> None:
    one, _ = both
    account_id = await paid_account(one, clock, 100_000)
    hold = await one.ledger.hold("first", account_id, 100, 100)
    await one.ledger.hold("second", account_id, 100, 100)
    await one.ledger.settle(hold, 100, record("first", account_id))
    purse = one.ledger._purse(account_id)
    assert isinstance(purse, AllottedPurse)
    assert purse.left is not None
    purse.left = purse.left._replace(paid_nano=1, version=purse.left.version + 1)
    assert (await one.ledger.balance(account_id)).paid_nano <= 1
    one.ledger._unheard()
    assert (await one.ledger.balance(account_id)).paid_nano == 99_800


async def test_of_raises_at_once_each_gets_its_own_where_there_is_enough_for_all(
    both: tuple[Replica, Replica], clock: MsClock
) -> None:
    one, _ = both
    account_id = await paid_account(one, clock, 20_000)
    await one.leases.make(MakeBudgets((Budget("bud", account_id, account_id, 20_000, "day"),)), one.store.write)
    holds = [await both[number % 2].ledger.hold(f"{number}", account_id, 100, 100) for number in range(20)]
    raised = [both[number % 2].ledger.resize(hold, 1000, 1000) for number, hold in enumerate(holds)]
    assert all(await asyncio.gather(*raised))
    more = [both[number % 2].ledger.resize(hold, 1000, 2000) for number, hold in enumerate(holds)]
    assert all(await asyncio.gather(*more))
    assert not await one.ledger.resize(holds[0], 1001, 2000)
    assert one.ledger.what_ends(holds[0], 1001) == "balance"


async def test_nobody_draws_of_a_lease_that_is_over(both: tuple[Replica, Replica], clock: MsClock) -> None:
    one, two = both
    account_id = await account_with_group(one, clock, 20_000)
    lease = lease_of("lea", account_id, "under", 8000, clock)
    await one.leases.make(MakeBudgets((lease,)), one.store.write)
    under = frozenset({"under"})
    running = await two.ledger.hold("running", account_id, 1000, 1000, under)
    clock.now_ms += 60_000
    for replica in both:
        with pytest.raises(GatewayError, match="balance_held"):
            await replica.ledger.hold("late", account_id, 10, 10, under)
    assert not await two.ledger.resize(running, 1001, 2000)
    assert await settled(two, running, 1000) == 1000
    assert await two.leases.give_back() == 7000
    assert await one.ledger.balance(account_id) == Balance(19_000)


async def test_what_a_lease_that_is_over_left_is_given_to_who_needs_it(
    both: tuple[Replica, Replica], clock: MsClock
) -> None:
    one, two = both
    account_id = await account_with_group(one, clock)
    lease = lease_of("lea", account_id, "under", 8000, clock)
    await one.leases.make(MakeBudgets((lease,)), one.store.write)
    under = await one.ledger.hold("under", account_id, 1000, 1000, frozenset({"under"}))
    assert await settled(one, under, 1000) == 1000
    clock.now_ms += 60_000
    hold = await two.ledger.hold("first", account_id, 8000, 8000)
    assert await two.ledger.resize(hold, 9000, 9000)
    assert await two.ledger.balance(account_id) == Balance(0, 0, 9000)


# Whoever is quicker, and what is away


def is_too_late(replica: Replica, account_id: str, times: int) -> None:
    """So often, what it draws is gone before it can be held."""
    draw_all, left = replica.ledger._draw_all, iter(range(times))

    async def drawn(*asked: Any) -> bool:
        is_covered = await draw_all(*asked)
        if next(left, None) is not None:
            await replica.ledger._return_surplus([account_id])
        return is_covered

    replica.ledger._draw_all = drawn  # type: ignore[method-assign, assignment]


async def test_who_finds_what_it_drew_gone_draws_again_and_not_for_ever(
    both: tuple[Replica, Replica], clock: MsClock
) -> None:
    one, _ = both
    account_id = await paid_account(one, clock, 10_000)
    is_too_late(one, account_id, 3)
    hold = await one.ledger.hold("first", account_id, 1000, 1000)
    is_too_late(one, account_id, 3)
    assert await one.ledger.resize(hold, 2000, 2000)
    is_too_late(one, account_id, 20)
    assert not await one.ledger.resize(hold, 3000, 3000)
    is_too_late(one, account_id, 20)
    assert await placed(one, account_id, "second", 1000) == "balance_held"
    assert await one.ledger.balance(account_id) == Balance(8000, 0, 2000)


async def test_a_hold_is_not_drawn_for_for_ever_while_budgets_change(
    both: tuple[Replica, Replica], clock: MsClock
) -> None:
    one, two = both
    account_id = await paid_account(one, clock, 10_000)
    write, names = one.store.write, iter(range(1000))

    async def written(asked: Any, **how: Any) -> Any:
        if isinstance(asked, Draw):
            budget = Budget(f"bud {next(names)}", account_id, account_id, 5000, "total")
            await two.store.write(MakeBudgets((budget,)))
        return await write(asked, **how)

    one.store.write = written  # type: ignore[method-assign, assignment]
    assert await placed(one, account_id, "first", 1000) == "balance_held"
    one.store.write = write  # type: ignore[method-assign]
    assert next(names) == 20
    assert isinstance(await placed(one, account_id, "second", 1000), Hold)


async def test_a_request_waits_on_once_the_other_has_said_that_it_holds_all(lent_url: str, clock: MsClock) -> None:
    async with replica_at(lent_url, clock, hold_wait_s=60.0) as one, replica_at(lent_url, clock) as two:
        account_id = await paid_account(one, clock, 10_000)
        hold = await two.ledger.hold("second", account_id, 10_000, 10_000)
        waiting = asyncio.ensure_future(one.ledger.hold("first", account_id, 9000, 9000))
        await eventually(lambda: one.ledger._wait_list)
        assert await settled(two, hold, 500) == 500
        assert (await waiting).amount_nano == 9000


async def test_while_the_database_is_away_what_is_allotted_is_what_there_is(
    both: tuple[Replica, Replica], clock: MsClock, lent_url: str
) -> None:
    one, two = both
    account_id = await paid_account(one, clock, 10_000)
    hold = await two.ledger.hold("second", account_id, 1000, 1000)
    with Outside(lent_url) as outside:
        async with cut_off(two, outside):
            await eventually(lambda: not two.store.is_available)
            assert not await two.ledger.resize(hold, 1001, 9000)
            assert await two.ledger.resize(hold, 1000, 9000)
            written = record("second", account_id)
            settling = asyncio.ensure_future(two.ledger.settle(hold, 9000, written, may_exceed=True))
            await eventually(lambda: two.store.waiting)
        charged_nano = await settling
    assert charged_nano == hold.amount_nano == 1000
    assert await one.ledger.balance(account_id) == Balance(9000)


# What is done beside requests


async def test_who_is_to_know_that_others_have_heard_while_another_is_asks_after_it(
    both: tuple[Replica, Replica], clock: MsClock
) -> None:
    one, two = both
    account_id = await account_in(one.store, clock)
    heard: list[int] = []

    def hear(wanted: MoneyWanted) -> None:
        heard.append(wanted.replica)
        two.ledger._money_wanted(wanted)

    two.store.listen(MoneyWanted, hear)
    await asyncio.gather(*(one.ledger.have_heard(account_id) for _ in range(3)))
    assert heard == [one.id] * 3
    assert one.ledger._asked == {}
    assert one.ledger._silent == {}


async def test_what_is_idle_and_what_the_dead_have_goes_back_by_itself(
    lent_url: str, clock: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "_IDLE_S", 0.001)
    monkeypatch.setattr(shared, "_WANTED_S", 0.0)
    async with replica_at(lent_url, clock) as one, replica_at(lent_url, clock) as two:
        account_id = await paid_account(one, clock, 1_000_000)
        hold = await one.ledger.hold("first", account_id, 1000, 1000)
        await two.ledger.hold("second", account_id, 1000, 1000)
        await two.ledger.have_heard(account_id)
        with Outside(lent_url) as outside:
            async with cut_off(two, outside):
                make_old(outside, two.id)
                watching = asyncio.ensure_future(one.ledger.watch_allotments())
                await eventually(lambda: outside.rows("SELECT DISTINCT replica FROM allotments") == [(one.id,)])
            assert await settled(one, hold, 1000) == 1000
            await eventually(lambda: not outside.rows(f"SELECT 1 FROM allotments WHERE replica = {one.id}"))
        await eventually(lambda: not one.ledger._shared_list.wanted)
        watching.cancel()
        await asyncio.wait([watching])


async def test_what_comes_free_at_once_goes_back_in_one_write(
    both: tuple[Replica, Replica], clock: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "_WANTED_S", 600.0)
    one, two = both
    account_id = await paid_account(one, clock, 10_000)
    holds = [await two.ledger.hold(f"{number}", account_id, 5000, 5000) for number in range(2)]
    assert await placed(one, account_id, "early", 10_000) == "balance_held"
    assert await two.ledger.resize(holds[0], 5000, 5000)  # as it is
    await two.ledger.return_idle()
    assert two.ledger._shared_list.wanted.keys() == {account_id}
    for hold in holds:
        two.ledger.release(hold.request_id)
    await eventually(lambda: not two.ledger._purse(account_id).is_needed)
    assert isinstance(await placed(one, account_id, "first", 10_000), Hold)


async def test_one_that_hears_nobody_gives_back_unasked_what_it_does_not_hold(
    both: tuple[Replica, Replica], clock: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = both
    account_id = await paid_account(one, clock, 10_000)
    await two.ledger.hold("busy", account_id, 5000, 5000)
    passing = await two.ledger.hold("passing", account_id, 5000, 5000)
    two.ledger.release(passing.request_id)
    monkeypatch.setattr(two.ledger, "_money_wanted", lambda _: None)
    two.store.listen(MoneyWanted, two.ledger._money_wanted)
    assert await placed(one, account_id, "early", 5000) == "balance_held"
    await two.ledger.return_idle()
    assert await placed(one, account_id, "still early", 5000) == "balance_held"
    monkeypatch.setattr(two.ledger, "_hears_others", lambda: False)
    await two.ledger.return_idle()
    assert isinstance(await placed(one, account_id, "first", 5000), Hold)


async def test_what_a_request_is_about_to_hold_is_kept_for_it_unless_another_replica_comes_first(
    both: tuple[Replica, Replica], clock: MsClock
) -> None:
    one, _ = both
    account_id = await paid_account(one, clock, 1_000_000)
    await one.ledger.hold("first", account_id, 1000, 1000)
    purse, write, seen = one.ledger._purse(account_id), one.store.write, []

    def written(asked: Any, **how: Any) -> Any:
        seen.append((purse.surplus(), purse.surplus(yields=True)))
        return write(asked, **how)

    left = purse.surplus()
    one.store.write = written  # type: ignore[method-assign, assignment]
    await one.ledger.hold("second", account_id, 500_000, 500_000)
    one.store.write = write  # type: ignore[method-assign]
    assert left
    assert seen == [({}, left)]


async def test_what_cannot_be_given_back_any_more_is_logged(lent_url: str, clock: MsClock) -> None:
    async with replica_at(lent_url, clock) as one:
        account_id = await account_in(one.store, clock)
        await one.store.close()
        with lines_logged(logging.ERROR) as lines:
            one.ledger._money_wanted(MoneyWanted(account_id, 0))
            await eventually(lambda: lines)
    assert lines == ["what is allotted could not be given back: RuntimeError"]


async def test_grants_that_others_hold_are_told_as_such(both: tuple[Replica, Replica], clock: MsClock) -> None:
    one, two = both
    account_id = await account_in(one.store, clock)
    await one.ledger.grant(account_id, 1000, "given")
    await one.ledger.credit(account_id, 1000, "paid")
    await two.ledger.hold("second", account_id, 1500, 1500)
    assert await one.ledger.held_by_all() == {account_id: HeldOf(500, 1000, 0)}


async def test_of_an_account_that_thousands_spend_all_are_drawn_for_anew_now_and_then(
    both: tuple[Replica, Replica], clock: MsClock
) -> None:
    one, _ = both
    account_id = await paid_account(one, clock, 1_000_000)
    await one.ledger.hold("first", account_id, 100, 100)
    purse = one.ledger._purse(account_id)
    for number in range(999):
        purse.know_spender(frozenset({f"{number}"}))
    assert purse.covers(Spender(), 100, clock.now_ms)
    purse.know_spender(frozenset({"one more"}))
    assert not purse.covers(Spender(), 100, clock.now_ms)
    await one.ledger.hold("second", account_id, 100, 100)
    assert purse.covers(Spender(), 100, clock.now_ms)
