"""Sums by hour: kept with each request, right whatever is corrected or deleted, read where whole hours are asked."""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import astuple
from datetime import UTC, datetime
from itertools import permutations, product
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.core.clock import HOUR_MS
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.observe import history as history_module
from mcp_gateway.core.observe.history import Group, Grouping, Groups, History, Totals, TotalsOfHours
from mcp_gateway.core.observe.records import Records
from mcp_gateway.core.record import Attribution, RequestRecord, RoutingFacts, SurfaceName
from mcp_gateway.core.store.sql.requests import CORRECT, correction
from mcp_gateway.core.store.sql.usage import EXECUTORS
from mcp_gateway.core.store.sqlite import migrations
from mcp_gateway.core.store.sqlite.migrations import migrate
from mcp_gateway.core.store.sqlite.store import Store
from mcp_gateway.core.store.transaction import Rows
from tests.databases import changing, explained, of_version, record_before_names, record_in
from tests.examples import examples
from tests.recorded import recorded, write_records

MIDNIGHT_MS = 20_000 * 24 * HOUR_MS
SUMS = "SELECT * FROM hourly_usage ORDER BY account_id, hour, key_id, model"
FROM_REQUESTS = """
SELECT account_id, started_at_ms / 3600000, COALESCE(key_id, ''), COALESCE(model, ''), COUNT(*),
    SUM(MAX(0, MIN(prompt_tokens, 4294967296))), SUM(MAX(0, MIN(completion_tokens, 4294967296))),
    SUM(MAX(0, MIN(COALESCE(cached_tokens, 0), 4294967296))), SUM(MAX(0, MIN(cost_nano, 1000000000000000)))
FROM requests GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""
PARTS = "SELECT * FROM hourly_parts WHERE requests <> 0 ORDER BY account_id, hour, key_id, model, surface, status"
TASKS = "SELECT * FROM hourly_tasks WHERE requests <> 0 ORDER BY account_id, hour, key_id, model, task, surface, status"
ATTRIBUTED = (
    "SELECT account_id, hour, key_id, model, end_user, tag, is_first, task, surface, status, requests, prompt_tokens, "
    "completion_tokens, cached_tokens, cost_nano FROM hourly_attributed "
    "ORDER BY account_id, hour, key_id, model, end_user, tag, is_first, task, surface, status"
)
GROUPS: tuple[Group, ...] = get_args(Group)
SURFACES: tuple[SurfaceName, ...] = get_args(SurfaceName)
STATUSES = (200, 200, 404, 499, 502)
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
        http_status=st.sampled_from(STATUSES),
        routing=st.sampled_from([None, RoutingFacts("code", "simple", 0.9), RoutingFacts("unknown", "medium", 0.0)]),
        attribution=st.none()
        | st.builds(
            Attribution,
            st.sampled_from([None, "ann", "bob"]),
            st.lists(st.sampled_from(["red", "green", "blue"]), unique=True).map(tuple),
        ),
    ),
    max_size=12,
)


def parts(records: Iterable[RequestRecord]) -> list[tuple[Any, ...]]:
    """Of what failed, whatever its surface, and of all but chats, as Python sums them up."""
    sums: defaultdict[tuple[str, int, str, str, str, int], Totals] = defaultdict(Totals)
    for record in records:
        named = record.account_id, record.started_at_ms // HOUR_MS, record.key_id or "", record.model or ""
        of = {"": record.http_status != 200, record.surface: record.surface != "chat"}
        for surface in (surface for surface, is_part in of.items() if is_part):
            sums[*named, surface, record.http_status] += totals_of(record)
    return sorted((*named, *astuple(totals)) for named, totals in sums.items())


def tasks(records: Iterable[RequestRecord]) -> list[tuple[Any, ...]]:
    """Of those that named no model."""
    sums: defaultdict[tuple[str, int, str, str, str, str, int], Totals] = defaultdict(Totals)
    for record in records:
        if record.routing is not None:
            named = record.account_id, record.started_at_ms // HOUR_MS, record.key_id or "", record.model or ""
            sums[*named, record.routing.task, record.surface, record.http_status] += totals_of(record)
    return sorted((*named, *astuple(totals)) for named, totals in sums.items())


def attributed(records: Iterable[RequestRecord]) -> list[tuple[Any, ...]]:
    """Of those that say whom for, or have tags: once for each of these, or once."""
    sums: defaultdict[tuple[str, int, str, str, str, str, int, str, str, int], Totals] = defaultdict(Totals)
    for record in records:
        if record.attribution is not None:
            named = record.account_id, record.started_at_ms // HOUR_MS, record.key_id or "", record.model or ""
            user, tags = record.attribution
            for number, tag in enumerate(tags or ("",)):
                by = user or "", tag, int(number == 0), record.routing.task if record.routing else ""
                sums[*named, *by, record.surface, record.http_status] += totals_of(record)
    return sorted((*named, *astuple(totals)) for named, totals in sums.items())


def totals_of(record: RequestRecord) -> Totals:
    tokens = (record.prompt_tokens, record.completion_tokens, record.cached_tokens or 0)
    prompt, completion, cached = (max(0, min(number, 2**32)) for number in tokens)
    return Totals(1, prompt, completion, cached, max(0, min(record.cost_nano, 10**15)))


@given(RECORDS, st.data())
def test_sums_are_those_of_the_requests_however_these_came_and_were_corrected(
    records: list[RequestRecord], data: st.DataObject
) -> None:
    with closing(database_at(max(migrations._files()))) as connection:
        record_in(connection, records)
        stand = {record.id: record for record in records}
        if records:
            record_in(connection, data.draw(st.lists(st.sampled_from(records))))  # again, which counts once
            for record in data.draw(st.lists(st.sampled_from(records))):
                keeps_cost = data.draw(st.booleans())
                cost_nano, http_status = data.draw(NUMBERS), data.draw(st.sampled_from(STATUSES))
                changed = record._replace(cost_nano=cost_nano, http_status=http_status)
                connection.execute(CORRECT, correction(changed, keeps_cost=keeps_cost))
                stand[record.id] = changed._replace(cost_nano=stand[record.id].cost_nano) if keeps_cost else changed
        assert connection.execute(SUMS).fetchall() == connection.execute(FROM_REQUESTS).fetchall()
        assert connection.execute(ATTRIBUTED).fetchall() == attributed(stand.values())
        for _ in range(2):
            assert connection.execute(PARTS).fetchall() == parts(stand.values())
            assert connection.execute(TASKS).fetchall() == tasks(stand.values())
            connection.execute("DELETE FROM requests")
        for table in ("hourly_attributed", "attributed_requests", "attributed_names"):  # which name people
            assert connection.execute(f"SELECT * FROM {table}").fetchall() == []


def test_the_names_of_a_day_are_counted_once_for_all_that_is_written_together() -> None:
    """Whoever names others without end keeps the writer no longer than others do."""
    records = [
        recorded(MIDNIGHT_MS + number, attribution=Attribution(f"user {number}", (f"a{number}", f"b{number}")))
        for number in range(50)
    ]
    with closing(database_at(max(migrations._files()))) as connection:
        asked: list[str] = []
        connection.set_trace_callback(asked.append)
        record_in(connection, records)
        connection.set_trace_callback(None)
        assert sum("COUNT(*) FROM attributed_names" in sql for sql in asked) == 2
        assert connection.execute("SELECT COUNT(*) FROM attributed_names").fetchall() == [(150,)]


def database_at(version: int) -> sqlite3.Connection:
    """A database in memory that a version of the gateway made whose last migration was this."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.deserialize(of_version(version))
    return connection


@examples(20)
@given(RECORDS)
def test_what_stands_in_the_log_is_summed_up_by_the_first_version_that_sums_as_chats(
    records: list[RequestRecord],
) -> None:
    chats = [record._replace(surface="chat", routing=None, attribution=None) for record in records]
    with closing(database_at(13)) as connection:
        record_before_names(connection, chats)
        migrate(connection)
        assert connection.execute(SUMS).fetchall() == connection.execute(FROM_REQUESTS).fetchall()
        assert connection.execute(PARTS).fetchall() == parts(chats)


@examples(20)
@given(RECORDS, st.data())
def test_what_an_earlier_version_summed_up_is_summed_up_by_status_where_it_still_stands(
    records: list[RequestRecord], data: st.DataObject
) -> None:
    with closing(database_at(14)) as connection:
        records = [record._replace(surface="chat", routing=None, attribution=None) for record in records]
        record_before_names(connection, records)
        gone = data.draw(st.sets(st.sampled_from([record.id for record in records]))) if records else set()
        connection.executemany("DELETE FROM requests WHERE id = ?", [(request_id,) for request_id in gone])
        migrate(connection)
        assert connection.execute(PARTS).fetchall() == parts(record for record in records if record.id not in gone)
        for by in (("surface",), ("day", "surface")):
            asked = TotalsOfHours("acc_1", 0, 2**40, (Grouping(by, 2**40),))
            (found,) = EXECUTORS.reads[TotalsOfHours](Rows(connection), asked)
            assert found == grouped((record for record in records if record.account_id == "acc_1"), by)


def grouped(records: Iterable[RequestRecord], by: Sequence[Group]) -> Groups:
    """By what Python says of their times."""
    sums: defaultdict[tuple[str | int | None, ...], Totals] = defaultdict(Totals)
    for record in records:
        at = datetime.fromtimestamp(record.started_at_ms // 1000, UTC)
        names: dict[Group, str | int | None] = {
            "hour": at.strftime("%Y-%m-%dT%H:00:00Z"),
            "day": at.date().isoformat(),
            "month": at.strftime("%Y-%m"),
            "model": record.model,
            "key": record.key_id,
            "surface": record.surface,
            "status": record.http_status,
            "task": record.routing and record.routing.task,
            "user": record.attribution and record.attribution.user,
        }
        tags = record.attribution.tags if record.attribution and "tag" in by else ()
        for tag in tags or (None,):
            names["tag"] = tag
            sums[tuple(names[group] for group in by)] += totals_of(record)
    return dict(sums)


BY: list[tuple[Group, ...]] = [(group,) for group in GROUPS] + list(permutations(GROUPS, 2))


@given(RECORDS, st.sampled_from(BY), st.integers(-4, 4), st.integers(0, 8))
def test_by_any_one_or_two_things_whole_hours_have_the_sums_of_their_requests(
    records: list[RequestRecord], by: tuple[Group, ...], since_hour: int, hours: int
) -> None:
    first = MIDNIGHT_MS // HOUR_MS + since_hour
    with closing(database_at(max(migrations._files()))) as connection:
        record_in(connection, records)
        asked = TotalsOfHours("acc_1", first, first + hours, (Grouping(by, 2**40),))
        (found,) = EXECUTORS.reads[TotalsOfHours](Rows(connection), asked)
    window = range(first * HOUR_MS, (first + hours) * HOUR_MS)
    assert found == grouped((one for one in records if one.account_id == "acc_1" and one.started_at_ms in window), by)


async def test_sums_outlive_the_requests_that_are_deleted_and_a_day_is_counted_by_them(store: Store) -> None:
    surfaces = ["chat", "chat", "score", "chat", "score"]
    await write_records(
        store, *(recorded(MIDNIGHT_MS + n, account_id="acc_guest", surface=name) for n, name in enumerate(surfaces))
    )
    await store.write(changing("DELETE FROM requests"))
    window, history = (MIDNIGHT_MS, MIDNIGHT_MS + HOUR_MS), History(store)
    assert await history.totals("acc_guest", *window, "day") == {("2024-10-04",): Totals(5, 50, 20, 0, 29_000)}
    assert await history.totals("acc_guest", *window, "surface") == {
        ("score",): Totals(2, 20, 8, 0, 11_600),
        ("chat",): Totals(3, 30, 12, 0, 17_400),
    }
    assert await Records(store).requests_today(MIDNIGHT_MS) == {"key_1": 5, "acc_guest": 5}


WINDOWS = (
    (-2 * HOUR_MS, 2 * HOUR_MS),  # whole hours
    (-HOUR_MS - 5, HOUR_MS + 7),  # with a part of one at both ends
    (-HOUR_MS, HOUR_MS + 1),
    (-1, HOUR_MS),
    (5, 90),  # within one
    (-5, 5),  # parts of two
    (7, 7),
    (0, 0),
)
PAIRS: tuple[tuple[Group, ...], ...] = (
    ("hour", "model"), ("status", "key"), ("surface", "status"), ("task", "status"), ("user", "tag"),
)  # fmt: skip


async def test_a_window_of_any_ends_has_the_sums_of_its_requests(store: Store) -> None:
    offsets_ms = (-2 * HOUR_MS, -HOUR_MS - 5, -HOUR_MS - 6, -HOUR_MS, -1, 0, 4, 5, 7, 89, 90, HOUR_MS, HOUR_MS + 6)
    records = [
        recorded(
            MIDNIGHT_MS + at_ms,
            key_id=["k1", None][n % 2],
            model=["a", "b", None][n % 3],
            surface=["chat", "score", "chat", "messages"][n % 4],
            http_status=[200, 502, 404][n // 2 % 3],
            routing=[None, RoutingFacts("code", "simple", 0.9)][n // 3 % 2],
            attribution=[None, Attribution("ann", ("red", "blue")), Attribution(None, ("red",))][n % 3],
            cost_nano=n + 1,
        )
        for n, at_ms in enumerate(offsets_ms)
    ]
    await write_records(store, *records)
    for by, (since_ms, until_ms) in product((*BY[: len(GROUPS)], *PAIRS), WINDOWS):
        inside = (one for one, at_ms in zip(records, offsets_ms, strict=True) if since_ms <= at_ms < until_ms)
        found = await History(store).totals("acc_1", MIDNIGHT_MS + since_ms, MIDNIGHT_MS + until_ms, *by)
        assert found == grouped(inside, by), (by, since_ms, until_ms)
        assert list(found) == sorted(
            found, key=lambda names: [(name is not None, name) for name in names], reverse=True
        )


async def test_rows_are_the_greatest_first_by_the_first_thing_and_then_by_the_second(store: Store) -> None:
    for model, status in (("a", 200), ("b", 404), (None, 502), ("b", 1000), ("a", 404)):
        await write_records(store, recorded(MIDNIGHT_MS, model=model, http_status=status))
    for until_ms in (HOUR_MS, HOUR_MS - 1):
        found = await History(store).totals("acc_1", MIDNIGHT_MS, MIDNIGHT_MS + until_ms, "model", "status")
        assert list(found) == [("b", 1000), ("b", 404), ("a", 404), ("a", 200), (None, 502)]


@pytest.mark.parametrize("since_ms", [0, 1])
@pytest.mark.parametrize("by", [("hour",), ("model", "key")])
async def test_more_rows_than_a_report_may_have_are_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch, by: tuple[Group, ...], since_ms: int
) -> None:
    monkeypatch.setattr(history_module, "_MOST_GROUPS", 3)
    await write_records(
        store, *(recorded(MIDNIGHT_MS + n * HOUR_MS + 5, model=f"m{n}", key_id=f"k{n}") for n in range(5))
    )
    history, start_ms = History(store), MIDNIGHT_MS + since_ms
    assert len(await history.totals("acc_1", start_ms, MIDNIGHT_MS + 3 * HOUR_MS, *by)) == 3
    with pytest.raises(GatewayError, match="invalid_value") as refused:
        await history.totals("acc_1", start_ms, MIDNIGHT_MS + 4 * HOUR_MS, *by)
    assert refused.value.param == "group_by"
    assert f"more than 3 rows by {' and '.join(by)}" in refused.value.message
    window = start_ms, MIDNIGHT_MS + 5 * HOUR_MS
    assert len(await history.totals("acc_1", *window, "model")) == 5
    with pytest.raises(GatewayError, match="invalid_value"):
        await history.totals_of_each("acc_1", *window, ("model",), by)


@pytest.mark.usefixtures("of_sqlite")
async def test_whole_hours_are_read_from_their_sums_alone_and_once_for_all_groupings(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = explained(monkeypatch)
    several: list[tuple[tuple[Group, ...], ...]] = [(("day", "key"), ("day", "status"), ("model",)), (("task",), BY[0])]
    for groupings in [*((by,) for by in BY), *several]:
        read.clear()
        await History(store).totals_of_each("acc_1", MIDNIGHT_MS, MIDNIGHT_MS + 720 * HOUR_MS, *groupings)
        asked = {group for by in groupings for group in by}
        tables = ["hourly_usage", *["hourly_parts"] * bool({"surface", "status"} & asked)]
        tables += ["hourly_tasks"] * ("task" in asked) + ["hourly_attributed"] * bool({"user", "tag"} & asked)
        searches = [f"SEARCH {table} USING PRIMARY KEY (account_id=? AND hour>? AND hour<?)" for table in tables]
        assert [step for step in read if "hourly_" in step or "requests" in step] == searches


@given(RECORDS, st.lists(st.sampled_from(BY), min_size=1, max_size=4))
def test_several_groupings_are_each_what_they_are_alone(
    records: list[RequestRecord], groupings: list[tuple[Group, ...]]
) -> None:
    with closing(database_at(max(migrations._files()))) as connection:
        record_in(connection, records)
        asked = TotalsOfHours("acc_1", 0, 2**40, tuple(Grouping(by, 2**40) for by in groupings))
        each = EXECUTORS.reads[TotalsOfHours](Rows(connection), asked)
    assert each == [grouped((one for one in records if one.account_id == "acc_1"), by) for by in groupings]
