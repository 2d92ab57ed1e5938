"""Sums by the day on PostgreSQL: what is booked late takes its days out, by whichever statement, and once for all."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_gateway.core.clock import DAY_MS, HOUR_MS
from mcp_gateway.core.observe.daily_sums import DailySums
from mcp_gateway.core.observe.history import History
from mcp_gateway.core.record import RequestRecord
from mcp_gateway.core.store.postgres.executors import EXECUTORS
from mcp_gateway.core.store.postgres.link import PostgresLink, Where
from mcp_gateway.core.store.transaction import Transaction
from tests.clocks import MsClock
from tests.core.observe.test_daily_sums import (
    ACCOUNTS,
    ALONGSIDE,
    DAYS,
    RECORDS,
    START_MS,
    hours_tell_the_same,
    live,
    stand_until,
    wanted,
)
from tests.databases import changing
from tests.postgres_server import postgres_server
from tests.postgres_stores import postgres_store
from tests.recorded import recorded, write_records

pytestmark = pytest.mark.engines

_MADE = "INSERT INTO accounts (id, name, created_at_ms) VALUES ('acc_1', '', 0)"
_ANEW = """
SET session_replication_role = replica;
DELETE FROM request_rows; DELETE FROM hourly_usage; DELETE FROM hourly_parts; DELETE FROM daily_usage;
DELETE FROM summed_days;
SET session_replication_role = origin;
"""


@pytest.fixture(scope="module")
def link() -> Iterator[PostgresLink]:
    url = postgres_server().make()
    link = PostgresLink(Where(url, 60.0, {}))
    link.connect()
    link.script(_MADE)
    yield link
    link.close()
    postgres_server().give_back(url)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RECORDS, ALONGSIDE, st.data())
def test_days_and_hours_tell_what_hours_alone_do_there_too(
    link: PostgresLink, records: list[RequestRecord], steps: list[tuple[str, Any]], data: st.DataObject
) -> None:
    link.script(_ANEW)
    transaction = Transaction(link, EXECUTORS, lambda: 0)
    link.script("BEGIN")
    live(transaction, records, steps)
    assert hours_tell_the_same(transaction, [wanted(data) for _ in range(3)])
    link.script("COMMIT")


async def test_late_requests_of_several_accounts_in_one_batch_take_out_each_its_own_days(clock: MsClock) -> None:
    async with postgres_store(clock) as store:
        await store.write(changing(_MADE))
        moments = [START_MS + day * DAY_MS + HOUR_MS for day in range(DAYS)]
        await write_records(store, *(recorded(at, account_id=one) for at, one in product(moments, ACCOUNTS)))
        clock.now_ms = START_MS + DAYS * DAY_MS + HOUR_MS
        sums = DailySums(store, clock, rest_s=0)
        await sums.sum_up()
        assert await stand_until(store) == dict.fromkeys(ACCOUNTS, DAYS)
        late = [("acc_guest", 4), ("acc_1", 3), ("acc_guest", 2), ("acc_1", 5)]
        await write_records(store, *(recorded(START_MS + day * DAY_MS, account_id=one) for one, day in late))
        assert await stand_until(store) == {"acc_1": 3, "acc_guest": 2}
        for _ in range(2):
            found = await History(store).totals("acc_guest", START_MS, START_MS + DAYS * DAY_MS, "day")
            assert [one.requests for one in found.values()] == [1, 2, 1, 2, 1, 1]
            await sums.sum_up()
        assert await stand_until(store) == dict.fromkeys(ACCOUNTS, DAYS)
