"""The ledger through its own doors, against a real database file."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any, cast

import pytest

from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger.entries import Balance, HeldNow, Move
from mcp_gateway.core.ledger.ledger import Ledger, SettlementPending
from mcp_gateway.core.ledger.purse import Hold, NotHeld
from mcp_gateway.core.record import RequestRecord
from mcp_gateway.core.store.sqlite.store import Store
from tests import databases
from tests.clocks import MsClock
from tests.databases import Query, Work, changing, copied, locked, open_store, outside_of
from tests.loop_clock import pass_time
from tests.patience import eventually, settled


def record(request_id: str, account_id: str, *, cost_nano: int = 0, key_id: str | None = None) -> RequestRecord:
    return RequestRecord(
        id=request_id,
        client_request_id=None,
        account_id=account_id,
        key_id=key_id,
        door="http",
        model="m",
        backend="b",
        is_stream=False,
        prompt_tokens=3,
        completion_tokens=5,
        cached_tokens=None,
        cost_nano=cost_nano,
        price_version="v1",
        started_at_ms=1,
        latency_ms=2,
        first_token_ms=None,
        http_status=200,
        error_code=None,
        finish_reason="stop",
    )


UNWRITABLE = record("req_unwritable", "acc_unwritable")._replace(door=cast(Any, None))
"""A record that lacks what its row must have."""


async def refused(asked: Awaitable[object]) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await asked
    return caught.value


@pytest.fixture(autouse=True)
async def checked(ledger: Ledger) -> AsyncIterator[None]:
    """Whatever a test does through the ledger, the books agree afterwards."""
    yield
    assert await ledger.check() == []


async def test_guests_are_given_no_money(ledger: Ledger) -> None:
    for given in (ledger.credit("acc_guest", 1, "one"), ledger.grant("acc_guest", 1, "two")):
        with pytest.raises(GatewayError) as caught:
            await given
        assert caught.value.code == "conflict"
    assert (await ledger.balance("acc_guest")).spendable_nano == 0


async def test_a_credit_is_spendable_and_applied_once(ledger: Ledger, account: str) -> None:
    assert await ledger.credit(account, 500, "payment-1")
    assert not await ledger.credit(account, 500, "payment-1")
    assert await ledger.credit(account, 7, "payment-2")
    assert await ledger.balance(account) == Balance(paid_nano=507)


async def test_the_same_payment_reported_many_times_at_once_is_one_credit(ledger: Ledger, account: str) -> None:
    applied = await asyncio.gather(*(ledger.credit(account, 500, "payment-1") for _ in range(5)))
    assert sorted(applied) == [False] * 4 + [True]
    assert (await ledger.balance(account)).paid_nano == 500


@pytest.mark.parametrize("amount_nano", [0, -1])
async def test_a_credit_or_grant_is_more_than_nothing(ledger: Ledger, account: str, amount_nano: int) -> None:
    with pytest.raises(ValueError, match="more than nothing"):
        await ledger.credit(account, amount_nano, "x")
    with pytest.raises(ValueError, match="more than nothing"):
        await ledger.grant(account, amount_nano, "x")


async def test_a_credit_beyond_what_a_balance_can_hold_fails_whole(ledger: Ledger, account: str) -> None:
    await ledger.credit(account, 2**63 - 1, "all there is")
    too_many = ledger.credit(account, 1000, "a"), ledger.adjust(account, 1, "b"), ledger.grant(account, 1, "c")
    for one_too_many in too_many:
        with pytest.raises(GatewayError) as caught:
            await one_too_many
        assert caught.value.code == "invalid_value"
    assert await ledger.balance(account) == Balance(paid_nano=2**63 - 1)
    assert await ledger.check() == []


async def test_an_adjustment_applies_once_up_or_down_and_below_nothing(ledger: Ledger, account: str) -> None:
    await ledger.credit(account, 100, "same")
    assert await ledger.adjust(account, -130, "same", note="paid back in cash")
    assert not await ledger.adjust(account, -130, "same", note="paid back in cash")
    assert await ledger.adjust(account, 7, "other")
    assert await ledger.balance(account) == Balance(paid_nano=-23)
    assert await ledger.applied("adjustment", "same") == (account, -130)
    assert await ledger.applied("credit", "same") == (account, 100)
    assert await ledger.applied("dispute", "same") is None
    assert await ledger.check() == []


async def test_a_hold_counts_at_once_and_settling_returns_the_rest(ledger: Ledger, account: str) -> None:
    await ledger.credit(account, 1000, "p")
    hold = await ledger.hold("req_1", account, 10, 400)
    assert hold.amount_nano == 400
    assert await ledger.balance(account) == Balance(paid_nano=600, held_nano=400)
    assert await ledger.settle(hold, 150, None) == 150
    assert await ledger.balance(account) == Balance(paid_nano=850)


async def test_a_hold_is_clamped_to_what_is_left(ledger: Ledger, account: str) -> None:
    await ledger.credit(account, 300, "p")
    assert (await ledger.hold("req_1", account, 300, 10**30)).amount_nano == 300


async def test_a_hold_is_resized_by_the_wallet_as_it_is_also_where_another_process_added_to_it(
    ledger: Ledger, account: str, database: Path, clock: MsClock
) -> None:
    await ledger.credit(account, 300, "p")
    hold = await ledger.hold("req_1", account, 10, 200)
    assert await ledger.resize(hold, 250, 1000)
    assert not await ledger.resize(hold, 301, 1000)
    assert hold.amount_nano == 300
    other = await open_store(database, now_ms=clock)
    await Ledger(other).credit(account, 50, "from elsewhere")
    await other.close()
    assert await ledger.resize(hold, 301, 310)
    assert await ledger.balance(account) == Balance(paid_nano=40, held_nano=310)
    assert await ledger.settle(hold, 305, None) == 305
    with pytest.raises(NotHeld, match="ended already"):
        await ledger.resize(hold, 1, 1)
    assert await ledger.balance(account) == Balance(paid_nano=45)


async def test_below_the_minimum_the_answer_is_402_with_the_balance(ledger: Ledger, account: str) -> None:
    await ledger.credit(account, 299, "p")
    error = await refused(ledger.hold("req_1", account, 300, 1000))
    assert (error.status, error.code) == (402, "insufficient_balance")
    assert error.details == {"balance_usd": "0.000000299", "held_usd": "0.00", "holding_requests": 0}
    assert await ledger.balance(account) == Balance(paid_nano=299)


async def test_an_account_that_never_had_money_gets_402(ledger: Ledger, account: str) -> None:
    assert (await refused(ledger.hold("req_1", account, 1, 1))).code == "insufficient_balance"


async def test_holds_are_refused_below_the_minimum_balance(store: Store, clock: MsClock, account: str) -> None:
    ledger = Ledger(store, minimum_balance_nano=1000)
    await ledger.credit(account, 999, "p1")
    error = await refused(ledger.hold("req_1", account, 10, 20))
    assert (error.status, error.code) == (402, "below_minimum_balance")
    await ledger.credit(account, 1, "p2")
    assert (await ledger.hold("req_1", account, 10, 20)).amount_nano == 20


async def test_where_an_ample_amount_is_free_what_is_asked_for_is_held_and_else_nothing(
    store: Store, account: str
) -> None:
    ledger = Ledger(store, minimum_balance_nano=500)
    assert await ledger.hold_if_ample("req_1", account, 1, 1000) is None
    await ledger.credit(account, 1000, "p")
    hold = await ledger.hold_if_ample("req_1", account, 400, 1000)
    assert hold is not None
    assert await ledger.balance(account) == Balance(600, 0, 400)
    assert await ledger.hold_if_ample("req_2", account, 1, 601) is None
    assert await ledger.hold_if_ample("req_2", account, 101, 600) is not None
    assert await ledger.hold_if_ample("req_3", account, 1, 1) is None  # below the least balance
    assert await ledger.balance(account) == Balance(499, 0, 501)


async def test_a_cost_above_the_hold_is_charged_at_the_hold(ledger: Ledger, account: str) -> None:
    await ledger.credit(account, 1000, "p")
    hold = await ledger.hold("req_1", account, 10, 400)
    assert await ledger.settle(hold, 401, None) == 400
    assert await ledger.balance(account) == Balance(paid_nano=600)


async def test_a_hold_ends_once_whatever_is_asked_again(ledger: Ledger, account: str) -> None:
    await ledger.credit(account, 1000, "p")
    first, second = [await ledger.hold(f"req_{n}", account, 10, 100) for n in (1, 2)]
    await ledger.settle(first, 60, None)
    ledger.release("req_1")
    ledger.release("req_2")
    ledger.release("req_2")
    for ended in (first, second):
        with pytest.raises(NotHeld, match="ended already"):
            await ledger.settle(ended, 60, None)
    assert (first.state, second.state) == ("charged", "released")
    assert await ledger.balance(account) == Balance(paid_nano=940)


async def test_asking_again_for_an_open_hold_gives_the_same_hold(ledger: Ledger, account: str) -> None:
    await ledger.credit(account, 100, "p")
    hold = await ledger.hold("req_1", account, 10, 100)
    assert await ledger.hold("req_1", account, 10, 100) is hold
    assert (await ledger.balance(account)).held_nano == 100


async def test_a_hold_that_is_asked_for_otherwise_than_it_was_made_is_refused_by_name(
    ledger: Ledger, account: str
) -> None:
    await ledger.credit(account, 100, "p")
    await ledger.hold("req_1", account, 10, 100)
    with pytest.raises(NotHeld, match="hold of another account"):
        await ledger.hold("req_1", "acc_guest", 10, 100)
    for amounts_nano in ((11, 100), (10, 99)):
        with pytest.raises(NotHeld, match="another amount"):
            await ledger.hold("req_1", account, *amounts_nano)
    assert await ledger.balance(account) == Balance(held_nano=100)


async def test_a_request_that_was_charged_cannot_be_charged_again(
    ledger: Ledger, account: str, caplog: pytest.LogCaptureFixture
) -> None:
    await ledger.credit(account, 100, "p")
    await ledger.settle(await ledger.hold("req_1", account, 1, 10), 10, None)
    assert await ledger.settle(await ledger.hold("req_1", account, 1, 10), 10, None) == 0
    assert await ledger.balance(account) == Balance(paid_nano=90)
    assert "CRITICAL" in {log.levelname for log in caplog.records}


async def test_a_release_gives_everything_back_to_where_it_came_from(ledger: Ledger, account: str) -> None:
    await ledger.credit(account, 100, "p")
    await ledger.grant(account, 50, "g")
    await ledger.hold("req_1", account, 10, 120)
    ledger.release("req_1")
    assert await ledger.balance(account) == Balance(paid_nano=100, granted_nano=50)


async def test_a_release_of_a_request_without_a_hold_does_nothing(ledger: Ledger, account: str, store: Store) -> None:
    ledger.release("req_1")
    assert ledger.held_now() == HeldNow(0, 0, 0.0, 0)
    assert await store.read(Query("SELECT * FROM ledger_transactions")) == []


async def test_neither_a_hold_nor_its_release_is_written(ledger: Ledger, account: str, store: Store) -> None:
    await ledger.credit(account, 100, "p")
    await ledger.hold("req_1", account, 10, 100)
    assert ledger.backlog()[0] == 0
    ledger.release("req_1")
    assert ledger.backlog()[0] == 0
    assert await store.read(Query("SELECT kind FROM ledger_transactions")) == [("credit",)]


async def test_a_charge_that_waits_to_be_written_is_not_released(
    ledger: Ledger, account: str, database: Path, store: Store
) -> None:
    """Else it would be spent by another request before it is taken out of the wallet."""
    store._writer._busy_timeout_s = 60
    await ledger.credit(account, 100, "p")
    hold = await ledger.hold("req_1", account, 10, 100)
    async with locked(database):
        settling = asyncio.ensure_future(ledger.settle(hold, 60, None))
        await asyncio.sleep(0)
        ledger.release("req_1")
        assert await ledger.balance(account) == Balance(40, 0, 60)
    assert await settling == 60
    assert await ledger.balance(account) == Balance(40)


async def test_granted_credit_goes_first(ledger: Ledger, account: str) -> None:
    await ledger.credit(account, 100, "p")
    await ledger.grant(account, 50, "g")
    hold = await ledger.hold("req_1", account, 10, 120)
    assert await ledger.balance(account) == Balance(paid_nano=30, granted_nano=0, held_nano=120)
    await ledger.settle(hold, 60, None)
    assert await ledger.balance(account) == Balance(paid_nano=90, granted_nano=0)


async def test_what_a_hold_did_not_need_of_a_grant_returns_to_the_grant(ledger: Ledger, account: str) -> None:
    await ledger.credit(account, 100, "p")
    await ledger.grant(account, 50, "g")
    await ledger.settle(await ledger.hold("req_1", account, 10, 120), 20, None)
    assert await ledger.balance(account) == Balance(paid_nano=100, granted_nano=30)


async def remaining(store: Store) -> dict[int | None, int]:
    return dict(await store.read(Query("SELECT expires_at_ms, remaining_nano FROM grants")))


def drawn(hold: Hold) -> list[int]:
    """How much it holds of which grant, in their order, and last of paid money."""
    return [part_nano for _, part_nano in hold.parts.grants] + [hold.parts.paid_nano]


async def test_the_grant_that_expires_first_is_used_first_and_refilled_last(
    ledger: Ledger, account: str, store: Store, clock: MsClock
) -> None:
    soon, later = clock.now_ms + 10, clock.now_ms + 1000
    for number, expires_at_ms in enumerate((later, soon, None)):
        await ledger.grant(account, 100, f"g{number}", expires_at_ms=expires_at_ms)
    hold = await ledger.hold("req_1", account, 10, 250)
    assert drawn(hold) == [100, 100, 50, 0]
    assert await ledger.balance(account) == Balance(granted_nano=50, held_nano=250)
    assert await remaining(store) == {soon: 100, later: 100, None: 100}
    await ledger.settle(hold, 120, None)
    assert await remaining(store) == {soon: 0, later: 80, None: 100}


async def test_an_expired_grant_pays_for_nothing(ledger: Ledger, account: str, clock: MsClock) -> None:
    await ledger.grant(account, 100, "g", expires_at_ms=clock.now_ms + 10)
    clock.now_ms += 10
    assert (await refused(ledger.hold("req_1", account, 1, 1))).code == "insufficient_balance"
    assert await ledger.balance(account) == Balance()


async def test_expiry_takes_what_is_not_held_when_its_time_comes_and_the_rest_when_the_hold_ends(
    ledger: Ledger, account: str, clock: MsClock
) -> None:
    await ledger.grant(account, 1000, "gift", expires_at_ms=clock.now_ms + 10)
    hold = await ledger.hold("one", account, 1, 400)
    assert await ledger.expire_grants() == 0
    clock.now_ms += 10
    assert await ledger.expire_grants() == 600
    assert await ledger.balance(account) == Balance(0, 0, 400)
    assert await ledger.settle(hold, 150, None) == 150
    assert await ledger.expire_grants() == 250
    assert await ledger.balance(account) == Balance()
    assert await ledger.check() == []


async def test_a_hold_keeps_what_it_drew_from_a_grant_that_expires_meanwhile(
    ledger: Ledger, account: str, clock: MsClock
) -> None:
    await ledger.credit(account, 5, "p")
    await ledger.grant(account, 100, "g", expires_at_ms=clock.now_ms + 10)
    hold = await ledger.hold("req_1", account, 10, 60)
    clock.now_ms += 10
    await ledger.hold("req_2", account, 5, 50)
    assert await ledger.balance(account) == Balance(paid_nano=0, granted_nano=0, held_nano=65)
    assert await ledger.settle(hold, 60, None) == 60


async def test_a_settlement_and_its_record_are_one_write(ledger: Ledger, account: str, store: Store) -> None:
    await ledger.credit(account, 100, "p")
    hold = await ledger.hold("req_1", account, 1, 10)
    await ledger.settle(hold, 10, record("req_1", account, cost_nano=10))
    with pytest.raises(NotHeld, match="ended already"):
        await ledger.settle(hold, 9, record("req_1", account, cost_nano=9))
    assert await store.read(Query("SELECT id, cost_nano, prompt_tokens FROM requests")) == [("req_1", 10, 3)]
    assert await ledger.balance(account) == Balance(paid_nano=90)


async def test_a_settlement_whose_record_cannot_be_written_is_made_without_it(
    ledger: Ledger, account: str, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    await ledger.credit(account, 100, "p")
    assert await ledger.settle(await ledger.hold("req_1", account, 1, 10), 10, UNWRITABLE) == 10
    assert await ledger.balance(account) == Balance(paid_nano=90)
    assert await store.read(Query("SELECT * FROM requests")) == []
    assert len(re.findall(r"a write failed with (Integrity|NotNullViolation)Error", caplog.text)) == 1


ODD = "CREATE TRIGGER odd BEFORE INSERT ON ledger_rows WHEN NEW.kind = 'settle' BEGIN SELECT RAISE(ABORT, 'odd'); END"
ODD_ON_POSTGRES = "ALTER TABLE ledger_rows ADD CONSTRAINT odd CHECK (kind <> 'settle')"


async def test_a_settlement_that_fails_for_an_unknown_reason_is_not_charged_and_its_hold_ends(
    ledger: Ledger, account: str, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    await ledger.credit(account, 100, "p")
    hold = await ledger.hold("req_1", account, 1, 10)
    await store.write(changing(ODD_ON_POSTGRES if databases.is_on_postgres else ODD))
    assert await ledger.settle(hold, 4, record("req_1", account, cost_nano=4)) == 0
    assert await ledger.balance(account) == Balance(paid_nano=100)
    assert [log.levelname for log in caplog.records if "req_1" in log.getMessage()] == ["CRITICAL"]


async def test_a_cost_above_the_hold_is_taken_as_far_as_the_wallet_has_it_free(
    ledger: Ledger, account: str, store: Store
) -> None:
    await ledger.credit(account, 100, "p")
    await ledger.grant(account, 30, "g")
    held = [await ledger.hold(f"req_{number}", account, 1, 40) for number in range(2)]  # 50 are free
    charged = await ledger.settle(held[0], 75, record("req_0", account, cost_nano=75), may_exceed=True)
    assert charged == 75
    assert await ledger.balance(account) == Balance(15, 0, 40)
    assert await ledger.settle(held[1], 1000, record("req_1", account, cost_nano=1000), may_exceed=True) == 55
    assert await ledger.balance(account) == Balance()
    assert await store.read(Query("SELECT cost_nano FROM requests ORDER BY id")) == [(75,), (55,)]


async def test_an_excess_is_never_taken_from_what_others_hold_nor_from_below_zero(
    ledger: Ledger, account: str, store: Store
) -> None:
    await ledger.credit(account, 100, "p")
    mine, _other = [await ledger.hold(f"req_{number}", account, 1, 50) for number in range(2)]
    await store.write(Move(account, "refund", -20, "back"))
    assert await ledger.settle(mine, 60, None, may_exceed=True) == 50
    assert await ledger.balance(account) == Balance(-20, 0, 50)


async def test_an_excess_uses_granted_credit_first_and_none_that_has_expired(
    ledger: Ledger, account: str, clock: MsClock
) -> None:
    await ledger.credit(account, 100, "p")
    hold = await ledger.hold("req_1", account, 1, 10)
    await ledger.grant(account, 5, "soon over", expires_at_ms=clock.now_ms + 1)
    await ledger.grant(account, 3, "lasts")
    clock.now_ms += 1
    assert await ledger.settle(hold, 20, None, may_exceed=True) == 20
    assert await ledger.balance(account) == Balance(90 - 7)


@pytest.mark.parametrize("lives_ms", [None, 1])
async def test_a_refused_answers_granted_part_goes_back_to_a_grant_even_where_all_have_expired(
    ledger: Ledger, account: str, clock: MsClock, lives_ms: int | None
) -> None:
    await ledger.grant(account, 50, "g", expires_at_ms=None if lives_ms is None else clock.now_ms + lives_ms)
    hold = await ledger.hold("req_1", account, 1, 50)
    await ledger.settle(hold, 20, None)
    clock.now_ms += 1
    await ledger.give_back(hold, record("req_1", account))
    await ledger.expire_grants()
    assert await ledger.balance(account) == Balance(granted_nano=50 if lives_ms is None else 0)


async def test_a_hold_whose_caller_left_while_the_wallet_was_read_is_never_made(
    ledger: Ledger, account: str, store: Store
) -> None:
    await ledger.credit(account, 100, "p")
    fresh = Ledger(store)
    asking = asyncio.ensure_future(fresh.hold("req_1", account, 1, 10))
    await asyncio.sleep(0)  # it reads the wallet, of which nothing is known yet
    asking.cancel()
    await asyncio.wait([asking])
    assert fresh.held_now() == HeldNow(0, 0, 0.0, 0)
    assert await fresh.balance(account) == Balance(paid_nano=100)


async def test_of_200_requests_on_a_wallet_worth_ten_exactly_ten_are_served(ledger: Ledger, account: str) -> None:
    await ledger.credit(account, 1000, "p")
    asked = [ledger.hold(f"req_{number}", account, 100, 100) for number in range(200)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    holds = [answer for answer in answers if isinstance(answer, Hold)]
    assert len(holds) == 10
    assert {answer.code for answer in answers if isinstance(answer, GatewayError)} == {"balance_held"}
    assert await ledger.balance(account) == Balance(held_nano=1000)
    await asyncio.gather(*(ledger.settle(hold, 100, None) for hold in holds))
    assert await ledger.balance(account) == Balance()


async def test_what_another_process_adds_is_spent_once_by_the_one_that_holds(
    ledger: Ledger, account: str, database: Path, clock: MsClock
) -> None:
    """The wallet is known too early and never too late: it is read again before anybody is refused."""
    await ledger.credit(account, 500, "p")
    other = await open_store(database, now_ms=clock)
    added = [Ledger(other).credit(account, 100, f"more {number}") for number in range(5)]
    early = [ledger.hold(f"early_{number}", account, 100, 100) for number in range(30)]
    answers = await asyncio.gather(*early, *added, return_exceptions=True)
    late = [ledger.hold(f"late_{number}", account, 100, 100) for number in range(30)]
    answers += await asyncio.gather(*late, return_exceptions=True)
    assert sum(isinstance(answer, Hold) for answer in answers) == 10
    assert await ledger.balance(account) == Balance(held_nano=1000)
    await other.close()


async def test_a_settlement_waits_through_an_outage(ledger: Ledger, account: str, store: Store, database: Path) -> None:
    await ledger.credit(account, 100, "p")
    hold = await ledger.hold("req_1", account, 1, 10)
    async with locked(database):
        settling = asyncio.ensure_future(ledger.settle(hold, 7, record("req_1", account, cost_nano=7)))
        await eventually(lambda: not ledger.is_writable)
        for asked in (ledger.hold("req_2", account, 1, 10), ledger.hold_if_ample("req_2", account, 1, 10)):
            assert (await refused(asked)).code == "ledger_unavailable"
        assert not settling.done()
        assert await ledger.balance(account) == Balance(93, 0, 7)
    assert await settling == 7
    assert await ledger.balance(account) == Balance(paid_nano=93)
    assert await store.read(Query("SELECT id FROM requests")) == [("req_1",)]


async def test_a_settlement_that_takes_too_long_is_carried_out_unless_it_is_taken_back(
    store: Store, account: str, clock: MsClock, database: Path
) -> None:
    ledger = Ledger(store, settle_wait_s=0.01)
    await ledger.credit(account, 100, "p")
    holds = [await ledger.hold(name, account, 1, 10) for name in ("req_delivered", "req_refused")]
    async with locked(database):
        pending = []
        for hold in holds:
            with pytest.raises(SettlementPending) as caught:
                await ledger.settle(hold, 7, record(hold.request_id, account, cost_nano=7))
            pending.append(caught.value)
        refusal = record("req_refused", account)._replace(http_status=503)
        ledger.take_back(pending[1], refusal)
    await store.write(Work(lambda connection: None), in_outage="wait")  # comes after what was late
    assert await ledger.balance(account) == Balance(paid_nano=93)
    rows = await store.read(Query("SELECT id, cost_nano, http_status FROM requests ORDER BY id"))
    assert rows == [("req_delivered", 7, 200), ("req_refused", 0, 503)]


async def test_a_hold_grows_by_what_is_known_where_the_wallet_cannot_be_read(
    ledger: Ledger, account: str, database: Path
) -> None:
    await ledger.credit(account, 100, "p")
    hold = await ledger.hold("req_1", account, 1, 10)
    with outside_of(database) as another:
        another.rows("ALTER TABLE wallets RENAME TO hidden")
        with pytest.raises(DatabaseError):
            await ledger.balance(account)
        assert await ledger.resize(hold, 60, 80)
        assert not await ledger.resize(hold, 101, 200)
        assert hold.amount_nano == 80
        assert await ledger.resize(hold, 90, 200)
        assert hold.amount_nano == 100
        another.rows("ALTER TABLE hidden RENAME TO wallets")


async def test_a_balance_is_checked_by_what_may_come_free(ledger: Ledger, account: str) -> None:
    assert (await refused(ledger.check_balance(account, 1))).code == "insufficient_balance"
    await ledger.credit(account, 100, "p")
    await ledger.hold("req_1", account, 100, 100)
    await ledger.check_balance(account, 100)
    assert (await refused(ledger.check_balance(account, 101))).code == "insufficient_balance"


async def test_a_balance_is_checked_by_the_wallet_as_it_was_read_last_and_read_again_before_a_no(
    ledger: Ledger, account: str, database: Path, clock: MsClock
) -> None:
    other = await open_store(database, now_ms=clock)
    for amount_nano in (50, 100):
        await Ledger(other).credit(account, 50, f"up to {amount_nano}")
        await ledger.check_balance(account, amount_nano)
        assert (await refused(ledger.check_balance(account, amount_nano + 1))).code == "insufficient_balance"
    await other.close()


async def test_a_release_during_an_outage_is_done_at_once(ledger: Ledger, account: str, database: Path) -> None:
    await ledger.credit(account, 100, "p")
    await ledger.hold("req_1", account, 1, 100)
    async with locked(database):
        assert (await refused(ledger.credit(account, 1, "q"))).code == "ledger_unavailable"
        ledger.release("req_1")
        assert await ledger.balance(account) == Balance(100)
    await eventually(lambda: ledger.is_writable)
    await ledger.hold("req_2", account, 100, 100)


DIE_WITH_OPEN_HOLDS = """
import asyncio, os, pathlib, signal, sys
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.store.sqlite.executors import EXECUTORS
from mcp_gateway.core.store.sqlite.store import Store
async def main():
    ledger = Ledger(await Store.open(pathlib.Path(sys.argv[1]), EXECUTORS, now_ms=now_ms))
    holds = [await ledger.hold(f"req_{n}", sys.argv[2], 1, 100) for n in range(5)]
    await ledger.settle(holds[0], 30, None)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


@pytest.mark.usefixtures("of_sqlite")
@pytest.mark.program
async def test_after_a_kill_settlements_stand_and_open_holds_are_forgotten(
    ledger: Ledger, account: str, database: Path
) -> None:
    await ledger.credit(account, 1000, "p")
    await ledger.grant(account, 150, "g")
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", DIE_WITH_OPEN_HOLDS, str(database), account)
    assert await process.wait() == -9
    assert await ledger.balance(account) == Balance(paid_nano=1000, granted_nano=120)
    assert (await ledger.hold("req_later", account, 1120, 1120)).amount_nano == 1120


@pytest.mark.parametrize("change", ["UPDATE ledger_transactions SET paid_nano = 0", "DELETE FROM ledger_transactions"])
async def test_facts_cannot_be_changed(ledger: Ledger, account: str, store: Store, change: str) -> None:
    await ledger.credit(account, 100, "p")
    with pytest.raises(DatabaseError, match="append-only"):
        await store.write(changing(change))
    assert (await ledger.balance(account)).paid_nano == 100


async def test_a_transaction_that_does_not_sum_to_zero_cannot_be_written(
    ledger: Ledger, account: str, store: Store
) -> None:
    sql = "INSERT INTO ledger_transactions VALUES (NULL, ?, 'credit', 'x', 5, 0, 0, 0, 0, -4, 0)"
    with pytest.raises(DatabaseError, match=r"(?i)check constraint"):
        await store.write(changing(sql, (account,)))


# What the check must notice, each made by hand in a copy

TAMPERINGS: dict[str, str] = {
    "a wallet's paid balance": "UPDATE wallets SET paid_nano = paid_nano + 1",
    "a wallet's granted balance": "UPDATE wallets SET granted_nano = granted_nano + 1",
    "a missing wallet": "DELETE FROM wallets",
    "what is left of a grant": "UPDATE grants SET remaining_nano = remaining_nano + 1",
    "a hold of an earlier release that never ended": (
        "INSERT INTO ledger_transactions SELECT NULL, account_id, 'hold', 'req_old', -1, 0, 1, 0, 0, 0, 1 FROM wallets"
    ),
    "a record with another cost": "UPDATE request_rows SET cost_nano = cost_nano + 1",
}


@pytest.mark.parametrize("sql", TAMPERINGS.values(), ids=list(TAMPERINGS))
async def test_the_check_notices(database: Path, sql: str, clock: MsClock, ledger: Ledger, account: str) -> None:
    await ledger.credit(account, 100, "p")
    await ledger.grant(account, 30, "g")
    settled = await ledger.hold("req_1", account, 1, 10)
    await ledger.settle(settled, 4, record("req_1", account, cost_nano=4))
    await ledger.hold("req_2", account, 1, 50)
    await ledger.grant(account, 5, "g2")
    assert await ledger.check() == []
    copy = copied(database, database.with_name("copy.sqlite3"))
    with outside_of(copy) as another:
        another.rows(sql)
    store = await open_store(copy)
    assert await Ledger(store).check() != []
    await store.close()


async def test_the_check_finds_nothing_wrong_while_the_ledger_is_in_use(ledger: Ledger, account: str) -> None:
    await ledger.credit(account, 10**6, "p")
    await ledger.grant(account, 10**3, "g")

    async def use(number: int) -> None:
        hold = await ledger.hold(f"req_{number}", account, 1, 30)
        await ledger.settle(hold, 7, record(f"req_{number}", account, cost_nano=7))

    using = asyncio.gather(*(use(number) for number in range(200)))
    while not using.done():
        assert await ledger.check() == []
    await using


async def test_a_grant_is_spendable_and_applied_once(ledger: Ledger, account: str) -> None:
    assert await ledger.grant(account, 100, "welcome")
    assert not await ledger.grant(account, 100, "welcome")
    assert (await ledger.balance(account)).spendable_nano == 100


async def test_a_refused_answers_paid_part_goes_back_to_what_was_paid(ledger: Ledger, account: str) -> None:
    await ledger.credit(account, 50, "p")
    hold = await ledger.hold("req_1", account, 1, 50)
    await ledger.settle(hold, 20, record("req_1", account, cost_nano=20))
    assert await ledger.give_back(hold, record("req_1", account)) == 20
    assert await ledger.balance(account) == Balance(50)


async def test_a_wallet_that_says_more_than_its_grants_have_gives_no_hold(
    ledger: Ledger, account: str, store: Store
) -> None:
    await ledger.grant(account, 50, "g")
    await store.write(changing("UPDATE grants SET remaining_nano = 9"))
    fresh = Ledger(store)
    for asked in (fresh.hold("req_1", account, 1, 10), fresh.balance(account)):
        with pytest.raises(AssertionError, match="other than the wallet says"):
            await asked
    assert fresh.held_now() == HeldNow(0, 0, 0.0, 0)
    await store.write(changing("UPDATE grants SET remaining_nano = 50"))
    assert await fresh.balance(account) == Balance(granted_nano=50)


async def test_a_refund_that_fails_changes_nothing_and_holds_up_nobody(
    ledger: Ledger, account: str, store: Store
) -> None:
    await ledger.grant(account, 50, "g")
    hold = await ledger.hold("req_1", account, 1, 50)
    await ledger.settle(hold, 50, record("req_1", account, cost_nano=50))
    await store.write(changing("DELETE FROM grants"))
    back, credited = ledger.give_back(hold, record("req_1", account)), ledger.credit(account, 5, "p")
    assert await credited
    assert isinstance(back.exception(), TypeError)
    assert await ledger.balance(account) == Balance(5)


async def test_grants_are_expired_as_their_time_comes_also_after_an_outage(
    ledger: Ledger, account: str, clock: MsClock, database: Path
) -> None:
    await ledger.grant(account, 50, "g", expires_at_ms=clock.now_ms + 1)
    await ledger.grant(account, 7, "h")
    watching = asyncio.ensure_future(ledger.watch_grants())
    await settled()
    assert await ledger.balance(account) == Balance(granted_nano=57)
    async with locked(database):
        clock.now_ms += 1
        while ledger.is_writable:
            pass_time(10)
            await settled()
    await eventually(lambda: ledger.is_writable)
    while await ledger.balance(account) != Balance(granted_nano=7):
        pass_time(10)
        await settled()
    assert not watching.done()
    watching.cancel()


async def test_holds_that_are_nobodys_are_released_now_and_then_and_told_of(
    store: Store, account: str, clock: MsClock, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(store, longest_hold_s=10)
    await ledger.credit(account, 50, "p")
    await ledger.hold("req_1", account, 1, 50)
    watching = asyncio.ensure_future(ledger.watch_holds())
    await asyncio.sleep(0)
    pass_time(60)
    await store.flushed()
    assert (await ledger.balance(account)).held_nano == 50
    clock.now_ms += 10_001
    while (await ledger.balance(account)).held_nano:
        pass_time(60)
        await settled()
    await eventually(lambda: bool(caplog.records))
    assert caplog.messages == ["released 1 holds that no request can still have"]
    watching.cancel()


async def test_what_waits_for_the_database_is_told_and_how_long_its_log_is(
    ledger: Ledger, account: str, database: Path
) -> None:
    await ledger.credit(account, 100, "p")
    hold = await ledger.hold("req_1", account, 1, 10)
    async with locked(database):
        settling = asyncio.ensure_future(ledger.settle(hold, 4, None))
        await asyncio.sleep(0)
        assert ledger.backlog()[0] == 1
    assert await settling == 4
    assert (ledger.backlog()[1] == 0) is databases.is_on_postgres
