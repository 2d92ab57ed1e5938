"""Sums by the day: what they tell is what the hours do, whatever is booked into days that are over."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, tzinfo
from itertools import permutations, product
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.core.clock import DAY_MS, HOUR_MS
from mcp_gateway.core.engine import Engine
from mcp_gateway.core.observe import daily_sums as module
from mcp_gateway.core.observe.daily_sums import DailySums, DaysToSum, SumUpDays
from mcp_gateway.core.observe.history import Among, Group, Grouping, Groups, History, TotalsOfHours
from mcp_gateway.core.observe.hourly_sums import AddToSums, SumsDifference
from mcp_gateway.core.record import RequestRecord
from mcp_gateway.core.store.sql.requests import CORRECT, correction, insert_records
from mcp_gateway.core.store.sqlite import migrations
from mcp_gateway.core.store.sqlite.executors import EXECUTORS
from mcp_gateway.core.store.sqlite.store import Store
from mcp_gateway.core.store.transaction import Transaction
from mcp_gateway.core.zones import offsets_in
from tests.clocks import MsClock
from tests.core.observe.test_hourly_sums import GROUPS, database_at
from tests.databases import Query, changing, explained
from tests.examples import examples
from tests.loop_clock import pass_time
from tests.patience import eventually, settled
from tests.recorded import recorded, write_records

FIRST_DAY = 20_000
START_MS = FIRST_DAY * DAY_MS
DAYS = 6
ACCOUNTS = ("acc_1", "acc_guest")
BY: list[tuple[Group, ...]] = [(group,) for group in GROUPS] + list(permutations(GROUPS, 2))
ZONES: list[tzinfo] = [UTC, ZoneInfo("Europe/London"), ZoneInfo("Asia/Kolkata")]
RECORDS = st.lists(
    st.builds(
        recorded,
        st.integers(START_MS, START_MS + DAYS * DAY_MS - 1),
        account_id=st.sampled_from(ACCOUNTS),
        key_id=st.sampled_from([None, "key_1", "key_2"]),
        model=st.sampled_from([None, "a", "b"]),
        cost_nano=st.integers(0, 9),
        surface=st.sampled_from(["chat", "score"]),
        http_status=st.sampled_from([200, 502]),
    ),
    max_size=12,
)
ALONGSIDE = st.lists(
    st.one_of(
        st.tuples(st.just("record"), RECORDS),
        st.tuples(st.just("sum up"), st.integers(0, DAYS)),
        st.tuples(st.just("correct"), st.integers(0, 11)),
        st.tuples(st.just("put right"), st.integers(0, DAYS - 1)),
    ),
    max_size=8,
)
WITHOUT_DAYS = "UPDATE summed_days SET until_ms = 0"


def daily_sums(store: Store, clock: MsClock) -> DailySums:
    return DailySums(store, clock, rest_s=0)


async def stand_until(store: Engine) -> dict[str, int]:
    """The day, counted from the first, that each account's sums stand up to."""
    sql = "SELECT name, until_ms FROM summed_days JOIN names ON number = account_number"
    return {name: until_ms // DAY_MS - FIRST_DAY for name, until_ms in await store.read(Query(sql))}


def sum_up(transaction: Transaction, until_day: int) -> None:
    """As DailySums does, in one transaction."""
    account_id = ""
    while (step := transaction.ask(DaysToSum(account_id, until_day))) is not None:
        account_id = step.account_id
        transaction.run(step)


def book(transaction: Transaction, account_id: str, day: int) -> None:
    """What `usage rebuild` adds to an hour of a day."""
    names = (account_id, day * 24 + 7, "key_1", "a")
    transaction.run(AddToSums((SumsDifference("usage", names, (1, 2, 3, 4, 5)),)))


def live(transaction: Transaction, records: Sequence[RequestRecord], steps: Iterable[tuple[str, Any]]) -> None:
    """What befalls sums: requests of any time, and whatever changes what they come to."""
    insert_records(transaction, records)
    for what, how in steps:
        if what == "record":
            insert_records(transaction, how)
            records = [*records, *how]
        elif what == "sum up":
            sum_up(transaction, FIRST_DAY + how)
        elif what == "put right":
            book(transaction, "acc_1", FIRST_DAY + how)
        elif records:
            one = records[how % len(records)]
            transaction.execute(CORRECT, correction(one._replace(cost_nano=0, http_status=502)))


def hours_tell_the_same(transaction: Transaction, asked: Sequence[TotalsOfHours]) -> bool:
    told = [transaction.ask(one) for one in asked]
    transaction.execute(WITHOUT_DAYS)
    return told == [transaction.ask(one) for one in asked]


@examples(60)
@given(RECORDS, ALONGSIDE, st.data())
def test_days_and_hours_tell_what_hours_alone_do_whatever_is_booked_when(
    records: list[RequestRecord], steps: list[tuple[str, Any]], data: st.DataObject
) -> None:
    with closing(database_at(max(migrations._files()))) as connection:
        transaction = Transaction(connection, EXECUTORS, lambda: 0)
        transaction.execute("INSERT INTO accounts (id, name, created_at_ms) VALUES ('acc_1', '', 0)")
        live(transaction, records, steps)
        assert hours_tell_the_same(transaction, [wanted(data) for _ in range(3)])


def wanted(data: st.DataObject) -> TotalsOfHours:
    """Of any window, groupings, zone and filter."""
    since_hour = FIRST_DAY * 24 + data.draw(st.integers(-30, DAYS * 24))
    until_hour = since_hour + data.draw(st.integers(0, DAYS * 24 + 30))
    groupings = data.draw(st.lists(st.sampled_from(BY), min_size=1, max_size=3))
    among = Among(data.draw(st.sampled_from([(), ("a",)])), data.draw(st.sampled_from([(), ("key_1", "key_2")])))
    return TotalsOfHours(
        data.draw(st.sampled_from(ACCOUNTS)),
        since_hour,
        until_hour,
        tuple(Grouping(by, 2**40) for by in groupings),
        among,
        offsets_in(data.draw(st.sampled_from(ZONES)), since_hour, until_hour),
    )


async def write_days(store: Store) -> None:
    """A request of each account in each day, at several hours."""
    moments = [START_MS + n * DAY_MS + n * 5 * HOUR_MS % DAY_MS for n in range(DAYS)]
    await write_records(store, *(recorded(at, account_id=one) for at, one in product(moments, ACCOUNTS)))


async def totals(store: Store, *by: Group, until_ms: int = START_MS + DAYS * DAY_MS) -> Groups:
    return await History(store).totals("acc_guest", START_MS, until_ms, *by)


@pytest.fixture
async def days(store: Store, clock: MsClock) -> Store:
    """A store with some requests of several days, the last of which is today."""
    await store.write(changing("INSERT INTO accounts (id, name, created_at_ms) VALUES ('acc_1', '', 0)"))
    await write_days(store)
    clock.now_ms = START_MS + (DAYS - 1) * DAY_MS + HOUR_MS
    return store


async def test_days_are_summed_up_once_they_have_been_over_for_an_hour(days: Store, clock: MsClock) -> None:
    clock.now_ms -= 1
    await daily_sums(days, clock).sum_up()
    assert await stand_until(days) == dict.fromkeys(ACCOUNTS, DAYS - 2)
    clock.now_ms += 1
    await daily_sums(days, clock).sum_up()
    assert await stand_until(days) == dict.fromkeys(ACCOUNTS, DAYS - 1)
    counted = await days.read(Query("SELECT COUNT(*), SUM(requests), SUM(cost_nano) FROM daily_usage"))
    assert counted == [(10, 10, 58_000)]


@pytest.mark.usefixtures("of_sqlite")
async def test_a_report_of_days_reads_their_sums_and_hours_only_beside_them(
    days: Store, clock: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await totals(days, "day", "model")
    await daily_sums(days, clock).sum_up()
    read = explained(monkeypatch)
    assert await totals(days, "day", "model") == before
    hours = "SEARCH hourly_usage USING PRIMARY KEY (account_id=? AND hour>? AND hour<?)"
    searched = [step for step in read if "_usage" in step]
    assert searched == ["SEARCH daily_usage USING PRIMARY KEY (account_id=? AND day>? AND day<?)", hours, hours]


@pytest.mark.parametrize(
    ("by", "zone", "are_read"),
    [
        (("hour",), UTC, False),
        (("month",), UTC, True),
        (("key", "status"), ZoneInfo("Asia/Kolkata"), True),
        (("day",), ZoneInfo("Asia/Kolkata"), False),
        (("month",), ZoneInfo("Europe/London"), False),  # whose summer it is
        (("day",), ZoneInfo("Africa/Abidjan"), True),  # whose clocks are those of UTC
    ],
)
async def test_days_are_read_where_they_are_what_is_asked_for(
    days: Store, clock: MsClock, by: tuple[Group, ...], zone: tzinfo, are_read: bool
) -> None:
    await daily_sums(days, clock).sum_up()
    await days.write(changing("UPDATE daily_usage SET requests = 100"))
    found = await History(days).totals("acc_guest", START_MS, START_MS + 3 * DAY_MS, *by, zone=zone)
    assert sum(one.requests for one in found.values()) == (300 if are_read else 3)


async def test_a_late_booking_is_told_at_once_and_its_day_is_summed_up_again(days: Store, clock: MsClock) -> None:
    sums = daily_sums(days, clock)
    await sums.sum_up()
    late = recorded(START_MS + 2 * DAY_MS + HOUR_MS, account_id="acc_guest", cost_nano=7)
    await write_records(days, late)
    assert await stand_until(days) == {"acc_1": DAYS - 1, "acc_guest": 2}
    assert (await totals(days, "day"))[("2024-10-06",)].cost_nano == 5807
    await sums.sum_up()
    assert await stand_until(days) == dict.fromkeys(ACCOUNTS, DAYS - 1)
    assert (await totals(days, "day"))[("2024-10-06",)].cost_nano == 5807
    await days.write(changing("UPDATE request_rows SET cost_nano = 0 WHERE id = ?", (late.id,)))
    assert (await stand_until(days))["acc_guest"] == 2
    assert (await totals(days, "day"))[("2024-10-06",)].cost_nano == 5800


async def test_what_becomes_of_a_request_but_its_cost_leaves_its_day_as_it_is(days: Store, clock: MsClock) -> None:
    await daily_sums(days, clock).sum_up()
    await days.write(changing("UPDATE request_rows SET cost_nano = cost_nano, latency_ms = 9"))
    await write_records(days, recorded(START_MS + DAYS * DAY_MS - 1, account_id="acc_guest"))
    assert (await totals(days, "model"))[("priced/tiny",)].requests == DAYS + 1


async def test_sums_that_are_put_right_take_their_day_out(days: Store, clock: MsClock) -> None:
    await daily_sums(days, clock).sum_up()
    names = ("acc_guest", (FIRST_DAY + 3) * 24, "key_1", "a")
    await days.write(AddToSums((SumsDifference("usage", names, (2, 0, 0, 0, 0)),)))
    await days.write(
        AddToSums((SumsDifference("parts", ("acc_1", FIRST_DAY * 24, "k", "a", "", 502), (1, 0, 0, 0, 0)),))
    )
    assert await stand_until(days) == {"acc_1": DAYS - 1, "acc_guest": 3}
    assert (await totals(days, "model"))[("a",)].requests == 2


async def test_a_step_whose_day_was_booked_into_meanwhile_changes_nothing(days: Store, clock: MsClock) -> None:
    await daily_sums(days, clock).sum_up()
    await write_records(days, recorded(START_MS + 3 * DAY_MS, account_id="acc_guest"))
    step = await days.read(DaysToSum("acc_guest", FIRST_DAY + DAYS))
    assert step == SumUpDays("acc_guest", FIRST_DAY + 3, FIRST_DAY + DAYS)
    await write_records(days, recorded(START_MS + DAY_MS, account_id="acc_guest"))
    await days.write(step)
    assert (await stand_until(days))["acc_guest"] == 1


async def test_many_days_are_summed_up_a_few_at_a_time(days: Store, clock: MsClock) -> None:
    steps = []
    while (step := await days.read(DaysToSum("acc_guest", FIRST_DAY + DAYS))) is not None:
        await days.write(step)
        steps.append((step.since_day, step.until_day))
    assert steps == [(0, FIRST_DAY + 4), (FIRST_DAY + 4, FIRST_DAY + DAYS)]


async def test_requests_beside_it_are_counted_once(days: Store, clock: MsClock) -> None:
    """Late ones and others, while days are summed up again and again."""
    clock.now_ms = START_MS + (DAYS + 1) * DAY_MS
    sums, written = daily_sums(days, clock), 0
    for n in range(20):
        late = [recorded(START_MS + at * HOUR_MS, account_id="acc_guest", cost_nano=1) for at in (n, 5 * n + 1, 7 * n)]
        await asyncio.gather(sums.sum_up(), write_records(days, *late), sums.sum_up())
        written += len(late)
        assert sum(one.requests for one in (await totals(days, "day")).values()) == DAYS + written
    await sums.sum_up()
    assert await stand_until(days) == dict.fromkeys(ACCOUNTS, DAYS)
    by_day = await totals(days, "day", "model")
    await days.write(changing(WITHOUT_DAYS))
    assert await totals(days, "day", "model") == by_day


async def test_the_loop_begins_a_while_after_the_start_and_comes_again_where_it_is_elected(
    days: Store, clock: MsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counted(DailySums):
        """Its rounds that are over: none is under way when time passes."""

        rounds = 0

        async def sum_up(self) -> None:
            await super().sum_up()
            self.rounds += 1

    one, looks = Counted(days, clock, rest_s=0), list[bool]()

    def is_elected(_: Store) -> bool:
        looks.append(len(looks) != 1)
        return looks[-1]

    monkeypatch.setattr(type(days), "is_elected", property(is_elected))
    watching = asyncio.create_task(one.watch())
    await settled()
    for day, rounds, wait_s in ((4, 1, module._FIRST_S), (4, 1, module._INTERVAL_S), (5, 2, module._INTERVAL_S)):
        clock.now_ms = START_MS + day * DAY_MS + HOUR_MS
        seen = len(looks)
        pass_time(wait_s)
        await eventually(lambda seen=seen, rounds=rounds: len(looks) > seen and one.rounds == rounds)  # type: ignore[misc]
        assert await stand_until(days) == dict.fromkeys(ACCOUNTS, day)
    watching.cancel()
