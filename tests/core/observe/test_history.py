"""Reading the request log: by the index, for one account, whole."""

from typing import Any, get_args
from zoneinfo import ZoneInfo

import pytest

from mcp_gateway.core.clock import DAY_MS, HOUR_MS
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.idempotency import NoteRepeat
from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.identity.key_ring import KeyRing
from mcp_gateway.core.identity.keys import KeysPerAccount
from mcp_gateway.core.ids import new_id
from mcp_gateway.core.observe.history import Among, History, Latencies, RequestFilter, Totals, TwoQuantiles
from mcp_gateway.core.observe.records import NoteFailedAttempt, NoteMissingUsage, NoteRefused, Records
from mcp_gateway.core.record import RoutingFacts, SurfaceName
from mcp_gateway.core.store.sqlite.store import Store
from tests.cases import each
from tests.databases import Query, changing, explained
from tests.recorded import recorded, write_records

MIDNIGHT_MS = 20_000 * 86_400_000
_BESIDE = ("counted", "routed", "attributed")
"""The tables that stand beside the requests."""


async def test_a_record_comes_back_as_it_was_written(store: Store) -> None:
    record = recorded(MIDNIGHT_MS, is_stream=True, first_token_ms=9, cached_tokens=3, error_code="client_closed")
    await write_records(store, record)
    found = await History(store).get("acc_1", record.id)
    assert found == record
    assert found.is_stream is True


async def test_how_a_request_was_routed_comes_back_with_it_and_of_others_nothing_is_kept(store: Store) -> None:
    account = await Accounts(store, new_id=new_id, now_ms=lambda: 1).create("Ann")
    facts = [None, RoutingFacts("code", "simple", 0.1), RoutingFacts("unknown", "medium", 0.0)]
    records = [
        recorded(MIDNIGHT_MS + number, account_id=account.id, routing=routing) for number, routing in enumerate(facts)
    ]
    await write_records(store, *records, *records)
    history = History(store)
    assert await history.page(account.id, RequestFilter(), before_id=None, limit=9) == records[::-1]
    assert [await history.get(account.id, record.id) for record in records] == records
    assert [await history.find(record.id) for record in records] == [[record] for record in records]
    kept = await store.read(Query("SELECT id FROM routed_requests ORDER BY id"))
    assert kept == [(record.id,) for record in records[1:]]


@pytest.mark.parametrize("surface", get_args(SurfaceName))
async def test_what_a_request_was_asked_in_comes_back_with_it_and_finds_it(store: Store, surface: SurfaceName) -> None:
    others = [recorded(MIDNIGHT_MS, surface=name) for name in get_args(SurfaceName) if name != surface]
    account = await Accounts(store, new_id=new_id, now_ms=lambda: 1).create("Ann")
    ours = [recorded(MIDNIGHT_MS + number, surface=surface, account_id=account.id) for number in range(2)]
    await write_records(store, *others, *[record._replace(account_id=account.id) for record in others], *ours, ours[0])
    history = History(store)
    assert await history.get(account.id, ours[0].id) == ours[0]
    assert await history.find(ours[0].id) == [ours[0]]
    page = await history.page(account.id, RequestFilter(surface=surface), before_id=None, limit=9)
    assert page == ours[::-1]
    stored = await store.read(Query("SELECT surface FROM request_rows WHERE id = ?", (ours[0].id,)))
    assert stored == [(None if surface == "chat" else surface,)]


async def test_a_record_that_nobody_waited_for_is_found_at_once(store: Store) -> None:
    for number in range(50):
        record = recorded(MIDNIGHT_MS + number)
        Records(store).add(record)
        assert await History(store).get("acc_1", record.id) == record


async def test_an_operator_finds_a_request_by_its_id_or_the_latest_by_their_client_s(store: Store) -> None:
    history, ours = History(store), recorded(MIDNIGHT_MS, client_request_id="mine")
    accounts = Accounts(store, new_id=new_id, now_ms=lambda: 1)
    ours = ours._replace(account_id=(await accounts.create("ours")).id)
    theirs = recorded(MIDNIGHT_MS + 1, client_request_id="mine")._replace(account_id=(await accounts.create("x")).id)
    await write_records(store, ours, theirs)
    assert await history.find(ours.id) == [ours]
    assert await history.find("mine") == [theirs, ours]
    assert await history.find("nobody's") == []
    wanted = RequestFilter(client_request_id="mine")
    assert await history.page(ours.account_id, wanted, before_id=None, limit=9) == [ours]


async def test_another_accounts_record_is_not_found(store: Store) -> None:
    record = recorded(MIDNIGHT_MS)
    await write_records(store, record)
    with pytest.raises(GatewayError) as raised:
        await History(store).get("acc_2", record.id)
    assert raised.value.code == "not_found"


@pytest.mark.parametrize(("arrival_ms", "started_ms", "day"), [(-1, 0, 20_000), (-2, -1, 19_999), (0, 0, 20_000)])
async def test_a_request_counts_in_the_day_it_started_in_whatever_its_id_says(
    store: Store, arrival_ms: int, started_ms: int, day: int
) -> None:
    record = recorded(MIDNIGHT_MS + arrival_ms, started_at_ms=MIDNIGHT_MS + started_ms)
    await write_records(store, record)
    history = History(store)
    for number in (19_999, 20_000):
        since_ms, until_ms = number * 86_400_000, (number + 1) * 86_400_000
        groups = await history.totals("acc_1", since_ms, until_ms, "day")
        page = await history.page("acc_1", RequestFilter(since_ms=since_ms, until_ms=until_ms), before_id=None, limit=9)
        assert len(groups) == len(page) == (number == day)


async def test_totals_are_sums_of_one_account_and_window(store: Store) -> None:
    await write_records(
        store,
        recorded(MIDNIGHT_MS, cached_tokens=2),
        recorded(MIDNIGHT_MS + 1, key_id="key_2", model=None, http_status=404, cost_nano=0),
        recorded(MIDNIGHT_MS - 1),
        recorded(MIDNIGHT_MS + 100),
        recorded(MIDNIGHT_MS, account_id="acc_2"),
    )
    history, window = History(store), (MIDNIGHT_MS, MIDNIGHT_MS + 100)
    first, second = Totals(1, 10, 4, 2, 5800), Totals(1, 10, 4, 0, 0)
    assert await history.totals("acc_1", *window, "day") == {("2024-10-04",): first + second}
    assert await history.totals("acc_1", *window, "key") == {("key_2",): second, ("key_1",): first}
    assert await history.totals("acc_1", *window, "model") == {("priced/tiny",): first, (None,): second}


async def test_latencies_of_few_requests_are_told_by_all_that_were_answered(store: Store) -> None:
    history, at_ms = History(store), MIDNIGHT_MS + 5
    assert await history.latencies("acc_1", at_ms, at_ms + HOUR_MS) == Latencies(0, None, None)
    for number in range(1, 101):
        first_ms = number if number <= 20 else None
        fields: dict[str, Any] = {"latency_ms": number * 10, "first_token_ms": first_ms}
        fields |= {"http_status": 200 if number % 2 else 502, "model": "a" if number <= 50 else "b"}
        await write_records(store, recorded(at_ms + number * 1000, **fields))
    found = await history.latencies("acc_1", at_ms, at_ms + HOUR_MS)
    assert found == Latencies(50, TwoQuantiles(9, 19), TwoQuantiles(490, 950))
    of_one = await history.latencies("acc_1", at_ms, at_ms + 40 * DAY_MS, among=Among(("b",), ("key_1",)))
    assert of_one == Latencies(25, None, TwoQuantiles(750, 970))
    assert (
        await history.latencies("acc_1", at_ms, at_ms + 400 * DAY_MS, among=Among(key_ids=("key_2",)))
    ).requests == 0
    assert (await history.latencies("acc_1", at_ms, at_ms + 400 * DAY_MS, among=Among(within="key_1"))).requests == 50


@pytest.mark.usefixtures("of_sqlite")
async def test_latencies_of_many_are_told_by_some_of_each_time_and_by_the_index(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_gateway.core.observe.history._MOST_TIMED", 200)
    history = History(store)
    for hour, count in enumerate((400, 50, 150)):  # of which each hour was slower than the one before it
        every_ms = HOUR_MS // count
        records = (
            recorded(MIDNIGHT_MS + hour * HOUR_MS + place * every_ms, latency_ms=1000 * (hour + 1))
            for place in range(count)
        )
        await write_records(store, *records)
    seen = explained(monkeypatch)
    found = await history.latencies("acc_1", MIDNIGHT_MS, MIDNIGHT_MS + 3 * HOUR_MS)
    assert found.total_ms == TwoQuantiles(1000, 3000)
    assert 150 <= found.requests <= 200
    looked_up = [step for step in seen if "requests" in step]
    assert looked_up
    assert all("SEARCH requests USING PRIMARY KEY (account_number=? AND id>? AND id<?)" in step for step in looked_up)
    assert not any("TEMP B-TREE" in step for step in seen[seen.index(looked_up[0]) :])


@pytest.mark.usefixtures("of_sqlite")
async def test_a_page_is_found_by_the_index_of_the_account_and_needs_no_sorting(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = explained(monkeypatch)
    for wanted in (
        RequestFilter(),
        RequestFilter(Among(("a",))),
        RequestFilter(since_ms=1),
        RequestFilter(since_ms=1, until_ms=2, http_status=200),
        RequestFilter(least_status=400),
        RequestFilter(surface="score"),
    ):
        for before_id in (None, "req_5"):
            seen.clear()
            await History(store).page("acc_1", wanted, before_id=before_id, limit=2)
            assert "SEARCH account USING COVERING INDEX sqlite_autoindex_names_1 (name=?)" in seen[0]
            assert "SEARCH requests USING PRIMARY KEY (account_number=?" in seen[1]
            beside = {f"SEARCH {one} USING PRIMARY KEY (account_id=? AND id=?)" for one in _BESIDE}
            beside.add("SEARCH names USING INTEGER PRIMARY KEY (rowid=?)")
            assert {step for step in seen[2:] if step.startswith("SEARCH")} == beside
            assert not any("TEMP B-TREE" in step for step in seen)


async def test_what_stands_beside_requests_is_told_of_the_account_s_own_among_those_asked_for(store: Store) -> None:
    first, second, third = [recorded(MIDNIGHT_MS + number) for number in range(3)]
    for account_id in ("acc_1", "acc_2"):
        for one in (first, second, third):
            store.write(NoteRepeat(account_id, one.id, f"first of {account_id}"))
            store.write(NoteMissingUsage(account_id, one.id, f"policy of {account_id}"))
            store.write(NoteFailedAttempt(account_id, one.id, 1, f"backend of {account_id}", "backend_error"))
            for further in (0, len(account_id)):
                store.write(NoteRefused(account_id, one.id, further))
    await store.flushed()
    history = History(store)
    asked = [second, first]
    assert await history.repeats("acc_1", asked) == dict.fromkeys((first.id, second.id), "first of acc_1")
    assert await history.missing_usages("acc_1", asked) == dict.fromkeys((first.id, second.id), "policy of acc_1")
    failed = await history.failed_attempts("acc_1", asked)
    assert failed == {one.id: [("backend of acc_1", "backend_error")] for one in (first, second)}
    assert await history.further_refusals("acc_1", asked) == dict.fromkeys((first.id, second.id), 5)
    assert await history.repeats("acc_1", []) == {}
    assert await history.missing_usages("acc_3", asked) == {}


@each(
    ("zone", "days"),
    [
        ("Asia/Kolkata", {("2024-10-05",): 2}),
        ("America/Los_Angeles", {("2024-10-04",): 2}),
        ("Australia/Sydney", {("2024-10-05",): 2}),  # whose clocks go on an hour in this night
    ],
)
async def test_days_are_those_of_a_zone_also_where_its_clocks_are_changed(
    store: Store, zone: str, days: dict[tuple[str], int]
) -> None:
    evening_ms = MIDNIGHT_MS + 20 * HOUR_MS
    await write_records(store, *(recorded(evening_ms + number * HOUR_MS, account_id=zone) for number in range(2)))
    window = evening_ms - 5 * HOUR_MS, evening_ms + 40 * HOUR_MS
    found = await History(store).totals(zone, *window, "day", zone=ZoneInfo(zone))
    assert {names: totals.requests for names, totals in found.items()} == days


async def test_requests_within_a_key_are_its_own_and_those_of_what_it_made(store: Store) -> None:
    account = (await Accounts(store, new_id=new_id, now_ms=lambda: 1).create("Ann")).id
    ring = KeyRing(store, new_id=new_id, now_ms=lambda: 1, most=KeysPerAccount(9, 9))
    top, _ = await ring.create(account)
    made, _ = await ring.create(account, made_by=top.id)
    other, _ = await ring.create(account)
    records = [
        recorded(MIDNIGHT_MS + number, account_id=account, key_id=key.id)
        for number, key in enumerate((top, made, other))
    ]
    await write_records(store, *records)
    of_top, of_made, of_other = records
    history = History(store)
    for key, within in ((top, [of_made, of_top]), (made, [of_made]), (other, [of_other])):
        assert await history.page(account, RequestFilter(Among(within=key.id)), before_id=None, limit=9) == within


async def test_what_is_noted_of_a_request_goes_with_its_record_and_no_other_s(store: Store) -> None:
    routing = RoutingFacts("code", "simple", 0.9)
    gone, kept = recorded(MIDNIGHT_MS, routing=routing), recorded(MIDNIGHT_MS + 1, routing=routing)
    await write_records(store, gone, kept)
    for one in (gone, kept):
        await store.write(NoteFailedAttempt("acc_1", one.id, 1, "groq", "provider_money"))
        await store.write(NoteMissingUsage("acc_1", one.id, "estimate"))
        await store.write(NoteRepeat("acc_1", one.id, "req_first"))
        await store.write(NoteRefused("acc_1", one.id, 3))
    await store.write(changing("DELETE FROM requests WHERE id = ?", (gone.id,)))
    for table in ("failed_attempts", "missing_usages", "request_repeats", "routed_requests", "refused_requests"):
        assert await store.read(Query(f"SELECT id FROM {table}")) == [(kept.id,)]
