"""What several servers count and write: as one would, or as the elected one does, whose counts the others read."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from mcp_gateway.core.clock import DAY_MS, MINUTE_MS
from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.limits.day_counts import AdmittedOn, NoteAdmitted
from mcp_gateway.core.observe.activity import SLOT_MS, Activity
from mcp_gateway.core.observe.status_board import Component, SeenMinutes, StatusBoard
from mcp_gateway.core.record import RoutingFacts
from mcp_gateway.core.routing.outcome_book import OutcomeBook
from mcp_gateway.core.routing.outcomes import OutcomesMoved
from mcp_gateway.core.store.postgres import hearing
from mcp_gateway.core.store.postgres.executors import EXECUTORS
from mcp_gateway.core.store.postgres.session import WriterSession
from mcp_gateway.core.store.postgres.store import PostgresStore
from tests.clocks import MsClock
from tests.databases import FOR_TESTS, Query
from tests.loop_clock import pass_time
from tests.patience import becomes, eventually, settled
from tests.recorded import recorded, write_records

pytestmark = pytest.mark.engines

Both = tuple[PostgresStore, PostgresStore]


@pytest.fixture
async def both(lent_url: str, clock: MsClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Both]:
    """The first of which is elected, however much time a test has pass."""
    monkeypatch.setattr(hearing, "_SURE_S", 1e9)
    stores = []
    for _ in range(2):
        session = WriterSession(lent_url, is_server=True, is_shared=True)
        stores.append(await PostgresStore.open(lent_url, FOR_TESTS | EXECUTORS, session=session, now_ms=clock))
        await eventually(lambda: stores[0].is_elected)
    one, two = stores
    await eventually(lambda: two.hears_others)
    yield one, two
    for store in stores:
        await store.close()


async def test_of_what_was_admitted_today_the_larger_count_stays_whoever_writes_it(both: Both) -> None:
    one, two = both
    await one.write(NoteAdmitted(20_000, {"key_1": 10, "key_2": 1}))
    await two.write(NoteAdmitted(20_000, {"key_1": 8, "key_2": 2}))
    assert await one.read(AdmittedOn(20_000)) == {"key_1": 10, "key_2": 2}


async def test_a_minute_is_counted_by_the_elected_one_and_known_to_the_other(both: Both, clock: MsClock) -> None:
    boards = [StatusBoard(store, lambda: [Component("api", "API", "down")], clock) for store in both]
    loops = [asyncio.ensure_future(board.watch()) for board in boards]
    counted = Query("SELECT minutes, down_minutes FROM component_days")
    for minutes in (1, 2):
        await settled()
        clock.now_ms += MINUTE_MS
        pass_time(MINUTE_MS / 1000)
        wanted = [(minutes, minutes)]
        await becomes(partial(both[0].read, counted), lambda rows, wanted=wanted: [*map(tuple, rows)] == wanted)  # type: ignore[misc]
    await boards[1].catch_up()
    for board in boards:
        past = board.past_of("api")
        assert (past.days[-1], past.late_up_share) == (SeenMinutes(2, 0, 2), 0.0)
    for loop in loops:
        loop.cancel()
    await asyncio.wait(loops)


async def test_what_others_requests_came_to_is_read_once_their_time_is_over(both: Both, clock: MsClock) -> None:
    activities = [Activity(clock) for _ in both]
    for number, (store, activity) in enumerate(zip(both, activities, strict=True)):
        for age_ms in (0, SLOT_MS, DAY_MS // 2):
            times = {"latency_ms": 10 + number, "first_token_ms": 3 + number}
            record = recorded(clock.now_ms - age_ms, account_id="acc_guest", **times)
            activity.note(record)
            await write_records(store, record)
    watching = asyncio.ensure_future(activities[0].watch(both[0]))
    await settled()
    pass_time(SLOT_MS / 1000)
    await eventually(lambda: activities[0].last_day().requests == 5)  # but for what is old, and was not read at start
    assert dict(activities[0].last_day().latencies_ms) == {10: 3, 11: 2}
    assert dict(activities[0].last_day().first_tokens_ms) == {3: 3, 4: 2}
    await activities[0].catch_up(both[0])
    assert activities[0].last_day().requests == 5
    await activities[1].restore(both[1])
    assert activities[1].last_day().requests == 6
    watching.cancel()
    await asyncio.wait([watching])


async def test_a_score_that_another_is_told_moves_the_choices_of_this_one(both: Both) -> None:
    books = [OutcomeBook(store, {"priced/tiny": {"code": 0.6}}, "own") for store in both]
    for book in books:
        await book.begin()

    def outcomes(book: OutcomeBook) -> int:
        return book.table_of("acc_1", None).counted("priced/tiny", "code")

    async def score() -> None:
        record = recorded(1_000, account_id="acc_1", routing=RoutingFacts("code", "simple", 0.9))
        await write_records(both[0], record)
        assert await books[0].score("acc_1", record.id, 1.0, is_of_test_key=False)

    await books[1].catch_up()
    await score()
    await eventually(lambda: books[1]._moved)
    with pytest.MonkeyPatch.context() as patched:

        async def fail(_: object) -> None:
            raise DatabaseError("away")

        patched.setattr(both[1], "read", fail)
        with pytest.raises(DatabaseError):
            await books[1].catch_up()
    assert outcomes(books[1]) == 0
    await books[1].catch_up()
    assert [outcomes(book) for book in books] == [1, 1]
    del both[1]._writer._listeners[OutcomesMoved]  # as while it is cut off
    await score()
    await books[1].catch_up()
    assert outcomes(books[1]) == 1
    both[1]._has_unheard()
    await books[1].catch_up()
    assert outcomes(books[1]) == 2
