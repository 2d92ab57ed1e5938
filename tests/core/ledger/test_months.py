"""The books by month: whatever lies at a month's edges, they sum up to the wallet."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.ledger.months import Earned, ModelUse, Month, MonthlyStatement, Months, Moves, statement_of
from mcp_gateway.core.store.sqlite.store import Store
from tests.cases import each
from tests.clocks import MsClock
from tests.core.ledger.test_ledger import record

JANUARY, FEBRUARY, MARCH = (Month.named(f"2026-0{number}") for number in (1, 2, 3))
EMPTY = MonthlyStatement(0, (), (), 0)


@pytest.fixture
def months(store: Store) -> Months:
    return Months(store)


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@each(
    ("name", "since", "until"),
    [
        ("2026-01", "2026-01-01", "2026-02-01"),
        ("2024-02", "2024-02-01", "2024-03-01"),
        ("2026-12", "2026-12-01", "2027-01-01"),
        ("8999-12", "8999-12-01", "9000-01-01"),
    ],
)
def test_a_month_is_by_utc_and_ends_where_the_next_begins(name: str, since: str, until: str) -> None:
    month = Month.named(name)
    assert (month.since_ms, month.until_ms) == (ms(since), ms(until))
    assert Month.at(month.since_ms) == Month.at(month.until_ms - 1) == month


@each(
    "name",
    [
        "",
        "2026",
        "2026-1",
        "2026-13",
        "2026-00",
        "26-01",
        "2026-01-01",
        " 2026-01",
        "2026-01\n",
        "２０２６-01",
        "9999-12",
    ],
)
def test_what_is_no_month_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="as in 2026-01"):
        Month.named(name)


async def test_an_account_without_money_has_an_empty_statement(months: Months, account: str) -> None:
    assert await months.statement(account, JANUARY) == EMPTY


async def test_a_month_begins_where_the_one_before_it_ended(
    months: Months, ledger: Ledger, account: str, clock: MsClock
) -> None:
    clock.now_ms = JANUARY.since_ms
    await ledger.credit(account, 1000, "p1")
    await ledger.grant(account, 50, "g1", expires_at_ms=FEBRUARY.since_ms)
    across = await ledger.hold("req_across", account, 1, 200)
    clock.now_ms = FEBRUARY.since_ms
    await ledger.settle(across, 120, record("req_across", account))
    await ledger.adjust(account, -30, "a1")
    clock.now_ms = FEBRUARY.until_ms - 1
    await ledger.settle(
        await ledger.hold("req_last", account, 1, 10), 7, record("req_last", account)._replace(model="n")
    )
    clock.now_ms = MARCH.since_ms
    await ledger.credit(account, 5, "p2")
    moves = Moves("grant", 1, 50), Moves("credit", 1, 1000)
    assert await months.statement(account, JANUARY) == MonthlyStatement(0, tuple(reversed(moves)), (), 1050)
    assert await months.statement(account, FEBRUARY) == MonthlyStatement(
        1050, (Moves("adjustment", 1, -30),), (ModelUse("m", 1, 3, 5, 0, 120), ModelUse("n", 1, 3, 5, 0, 7)), 893
    )
    assert await months.statement(account, MARCH) == MonthlyStatement(893, (Moves("credit", 1, 5),), (), 898)


async def test_a_grant_that_expires_is_a_move(months: Months, ledger: Ledger, account: str, clock: MsClock) -> None:
    clock.now_ms = JANUARY.since_ms
    await ledger.grant(account, 50, "g1", expires_at_ms=clock.now_ms + 1)
    clock.now_ms += 1
    await ledger.expire_grants()
    told = await months.statement(account, JANUARY)
    assert told == MonthlyStatement(0, (Moves("grant", 1, 50), Moves("expire", 1, -50)), (), 0)


async def test_what_was_given_back_is_no_use(months: Months, ledger: Ledger, account: str, clock: MsClock) -> None:
    clock.now_ms = JANUARY.since_ms
    await ledger.credit(account, 100, "p")
    hold = await ledger.hold("req_1", account, 1, 50)
    await ledger.settle(hold, 40, record("req_1", account))
    await ledger.give_back(hold, record("req_1", account))
    told = await months.statement(account, JANUARY)
    assert told.use == (ModelUse("m", 0, 0, 0, 0, 0),)
    assert (told.opening_nano, told.closing_nano) == (0, 100)


async def test_use_without_a_record_is_told_without_a_model(
    months: Months, ledger: Ledger, account: str, clock: MsClock
) -> None:
    clock.now_ms = JANUARY.since_ms
    await ledger.credit(account, 100, "p")
    await ledger.settle(await ledger.hold("req_1", account, 1, 50), 40, None)
    assert (await months.statement(account, JANUARY)).use == (ModelUse(None, 1, 0, 0, 0, 40),)


async def test_what_runs_is_owned_until_it_is_charged(
    months: Months, ledger: Ledger, account: str, clock: MsClock
) -> None:
    clock.now_ms = JANUARY.since_ms
    await ledger.credit(account, 100, "p")
    await ledger.hold("req_1", account, 1, 50)
    assert (await months.statement(account, JANUARY)).closing_nano == 100


async def test_what_was_earned_is_told_by_account_and_model_and_what_of_it_was_granted(
    months: Months, ledger: Ledger, account: str, clock: MsClock
) -> None:
    clock.now_ms = JANUARY.since_ms
    await ledger.credit(account, 100, "p")
    await ledger.grant(account, 30, "g")
    for number, cost_nano in enumerate((20, 20, 5)):
        hold = await ledger.hold(f"req_{number}", account, 1, 25)
        await ledger.settle(hold, cost_nano, record(hold.request_id, account)._replace(model="mmn"[number]))
    clock.now_ms = FEBRUARY.since_ms
    await ledger.settle(await ledger.hold("req_later", account, 1, 25), 9, None)
    assert await months.earned(JANUARY) == (Earned(account, "m", 2, 40, 30), Earned(account, "n", 1, 5, 0))
    assert await months.earned(FEBRUARY) == (Earned(account, None, 1, 9, 0),)
    assert await months.earned(MARCH) == ()


AMOUNTS = st.lists(st.integers(-(10**9), 10**9), max_size=4)


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12), AMOUNTS, AMOUNTS)
def test_opening_moves_and_use_always_come_to_the_closing_balance(
    now_nano: int, later_nano: int, moved: list[int], used: list[int]
) -> None:
    told = statement_of(
        now_nano,
        later_nano,
        tuple(Moves("credit", 1, nano) for nano in moved),
        tuple(ModelUse("m", 1, 0, 0, 0, nano) for nano in used),
    )
    assert told.closing_nano == now_nano - later_nano == told.opening_nano + sum(moved) - sum(used)
