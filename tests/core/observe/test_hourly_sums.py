"""Sums by hour: kept with each request, right whatever is corrected or deleted, read where whole hours are asked."""

import sqlite3
from collections import defaultdict
from contextlib import closing
from functools import cache
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.core.clock import HOUR_MS
from mcp_gateway.core.observe.history import Group, History, Totals
from mcp_gateway.core.observe.records import Records
from mcp_gateway.core.record import RequestRecord, SurfaceName
from mcp_gateway.core.store.sql.requests import CORRECT, correction, insert_records
from mcp_gateway.core.store.sqlite import migrations
from mcp_gateway.core.store.sqlite.migrations import migrate
from mcp_gateway.core.store.sqlite.store import Store
from tests.databases import Query, changing, explained
from tests.recorded import recorded, write_records

MIDNIGHT_MS = 20_000 * 24 * HOUR_MS
SUMS = "SELECT * FROM hourly_usage ORDER BY account_id, hour, key_id, model"
FROM_REQUESTS = """
SELECT account_id, started_at_ms / 3600000, COALESCE(key_id, ''), COALESCE(model, ''), COUNT(*),
    SUM(MAX(0, MIN(prompt_tokens, 4294967296))), SUM(MAX(0, MIN(completion_tokens, 4294967296))),
    SUM(MAX(0, MIN(COALESCE(cached_tokens, 0), 4294967296))), SUM(MAX(0, MIN(cost_nano, 1000000000000000)))
FROM requests GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""
SUMS_OF_SURFACES = "SELECT * FROM hourly_surfaces ORDER BY account_id, hour, surface"
SURFACES: tuple[SurfaceName, ...] = get_args(SurfaceName)
NUMBERS = st.sampled_from([0, 1, 7, 2**32, 2**32 + 1, 10**15, 2**62, 2**63 - 1, -1, -(2**63)])
RECORDS = st.lists(
    st.builds(
        recorded,
        st.integers(MIDNIGHT_MS - 3 * HOUR_MS, MIDNIGHT_MS + 3 * HOUR_MS),
        account_id=st.sampled_from(["acc_1", "acc_2"]),
        key_id=st.sampled_from([None, "key_1", "key_2"]),
        model=st.sampled_from([None, "a", "b"]),
        prompt_tokens=NUMBERS,
        completion_tokens=NUMBERS,
        cached_tokens=st.none() | NUMBERS,
        cost_nano=NUMBERS,
        surface=st.sampled_from(SURFACES),
    ),
    max_size=12,
)


@cache
def _migrated() -> bytes:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection)
        return connection.serialize()


def empty() -> sqlite3.Connection:
    """A database in memory whose schema is up to date."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.deserialize(_migrated())
    return connection


def sums_of_surfaces(connection: sqlite3.Connection, records: list[RequestRecord]) -> list[tuple[Any, ...]]:
    """Of all but chat, by what Python says of the records and the database of their numbers."""
    surfaces = {record.id: record.surface for record in records if record.surface != "chat"}
    sums: defaultdict[tuple[str, int, str], list[int]] = defaultdict(lambda: [0] * 5)
    columns = "account_id, id, started_at_ms, prompt_tokens, completion_tokens, cached_tokens, cost_nano"
    for account_id, request_id, at_ms, *tokens, cost_nano in connection.execute(f"SELECT {columns} FROM requests"):
        if (surface := surfaces.get(request_id)) is not None:
            numbers = [1, *(max(0, min(number or 0, 2**32)) for number in tokens), max(0, min(cost_nano, 10**15))]
            of_hour = sums[account_id, at_ms // HOUR_MS, surface]
            of_hour[:] = map(int.__add__, of_hour, numbers)
    return sorted((*named, *of_hour) for named, of_hour in sums.items())


@given(RECORDS, st.data())
def test_sums_are_those_of_the_requests_however_these_came_and_were_corrected(
    records: list[RequestRecord], data: st.DataObject
) -> None:
    with closing(empty()) as connection:
        insert_records(connection, records)
        if records:
            insert_records(connection, data.draw(st.lists(st.sampled_from(records))))  # again, which counts once
            for record in data.draw(st.lists(st.sampled_from(records))):
                keeps_cost = data.draw(st.booleans())
                changed = record._replace(cost_nano=data.draw(NUMBERS), http_status=499)
                connection.execute(CORRECT, correction(changed, keeps_cost=keeps_cost))
        assert connection.execute(SUMS).fetchall() == connection.execute(FROM_REQUESTS).fetchall()
        assert connection.execute(SUMS_OF_SURFACES).fetchall() == sums_of_surfaces(connection, records)


@given(RECORDS)
def test_a_database_of_an_earlier_version_is_summed_up_when_it_is_migrated(records: list[RequestRecord]) -> None:
    with closing(empty()) as connection:
        connection.executescript(
            "DROP TRIGGER requests_are_summed; DROP TRIGGER corrected_costs_are_summed; DROP TABLE hourly_usage;"
        )
        insert_records(connection, records)
        migrate_again(connection, 14)
        assert connection.execute(SUMS).fetchall() == connection.execute(FROM_REQUESTS).fetchall()


def migrate_again(connection: sqlite3.Connection, number: int) -> None:
    """Carry out one migration, which was undone."""
    for statement in migrations._statements(migrations._migrations()[number]):
        connection.execute(statement)


@given(RECORDS)
def test_what_stands_in_the_log_of_an_earlier_version_was_asked_as_a_chat(records: list[RequestRecord]) -> None:
    with closing(empty()) as connection:
        connection.executescript(
            "DROP TRIGGER corrected_costs_of_surfaces_are_summed; DROP TRIGGER surfaces_go_with_their_requests;"
            "DROP TABLE request_surfaces; DROP TABLE hourly_surfaces;"
        )
        insert_records(connection, [record._replace(surface="chat") for record in records])
        before = connection.execute(SUMS).fetchall()
        migrate_again(connection, 16)
        assert connection.execute(SUMS).fetchall() == before
        assert connection.execute(SUMS_OF_SURFACES).fetchall() == []
        newer = [record._replace(id=f"{record.id}2") for record in records]
        insert_records(connection, newer)
        assert connection.execute(SUMS_OF_SURFACES).fetchall() == sums_of_surfaces(connection, newer)


async def test_sums_outlive_the_requests_that_are_deleted_and_a_day_is_counted_by_them(store: Store) -> None:
    surfaces = ["chat", "chat", "score", "chat", "score"]
    await write_records(
        store, *(recorded(MIDNIGHT_MS + n, account_id="acc_guest", surface=name) for n, name in enumerate(surfaces))
    )
    await store.write(changing("DELETE FROM requests"))
    assert await store.read(Query("SELECT * FROM request_surfaces")) == []
    window, history = (MIDNIGHT_MS, MIDNIGHT_MS + HOUR_MS), History(store)
    assert await history.totals("acc_guest", *window, "day") == {"2024-10-04": Totals(5, 50, 20, 0, 29_000)}
    assert await history.totals("acc_guest", *window, "surface") == {
        "score": Totals(2, 20, 8, 0, 11_600),
        "chat": Totals(3, 30, 12, 0, 17_400),
    }
    assert await Records(store).requests_today(MIDNIGHT_MS) == {"key_1": 5, "acc_guest": 5}


@pytest.mark.parametrize("group", get_args(Group))
@pytest.mark.parametrize(
    ("since_ms", "until_ms"),
    [
        (-2 * HOUR_MS, 2 * HOUR_MS),  # whole hours
        (-HOUR_MS - 5, HOUR_MS + 7),  # with a part of one at both ends
        (-HOUR_MS, HOUR_MS + 1),
        (-1, HOUR_MS),
        (5, 90),  # within one
        (-5, 5),  # parts of two
        (7, 7),
        (0, 0),
    ],
)
async def test_a_window_of_any_ends_has_the_sums_of_its_requests(
    store: Store, group: Group, since_ms: int, until_ms: int
) -> None:
    offsets_ms = (-2 * HOUR_MS, -HOUR_MS - 5, -HOUR_MS - 6, -HOUR_MS, -1, 0, 4, 5, 7, 89, 90, HOUR_MS, HOUR_MS + 6)
    records = [
        recorded(
            MIDNIGHT_MS + at_ms,
            key_id=["k1", None][n % 2],
            model=["a", "b", None][n % 3],
            surface=["chat", "score", "chat", "messages"][n % 4],
            cost_nano=n + 1,
        )
        for n, at_ms in enumerate(offsets_ms)
    ]
    await write_records(store, *records)
    expected: dict[str | None, Totals] = {}
    for record, at_ms in zip(records, offsets_ms, strict=True):
        if since_ms <= at_ms < until_ms:
            day = "2024-10-03" if at_ms < 0 else "2024-10-04"
            name = {"day": day, "model": record.model, "key": record.key_id, "surface": record.surface}[group]
            expected[name] = expected.get(name, Totals()) + Totals(1, 10, 4, 0, record.cost_nano)
    found = await History(store).totals("acc_1", MIDNIGHT_MS + since_ms, MIDNIGHT_MS + until_ms, group)
    assert list(found.items()) == sorted(expected.items(), key=lambda item: item[0] or "", reverse=True)


async def test_whole_hours_are_read_from_their_sums_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read = explained(monkeypatch)
    for group in get_args(Group):
        read.clear()
        await History(store).totals("acc_1", MIDNIGHT_MS, MIDNIGHT_MS + 720 * HOUR_MS, group)
        tables = ["hourly_usage", *["hourly_surfaces"] * (2 * (group == "surface"))]
        searches = [f"SEARCH {table} USING PRIMARY KEY (account_id=? AND hour>? AND hour<?)" for table in tables]
        assert [step for step in read if step.startswith(("SEARCH", "SCAN")) and "subquery" not in step] == searches
