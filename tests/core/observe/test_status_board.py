"""How components were, by day: counted a minute at a time, kept for 90 days, over restarts; and what was told."""

import asyncio
from pathlib import Path

import pytest

from mcp_gateway.core.clock import DAY_MS, HOUR_MS, MINUTE_MS
from mcp_gateway.core.lifecycle import Lifecycle
from mcp_gateway.core.observe.status_board import SHOWN_DAYS, Component, SeenMinutes, StatusBoard
from mcp_gateway.core.service_notice import (
    INCIDENTS_KEPT_MS,
    Incident,
    IncidentsKept,
    IncidentUpdate,
    ServiceNotice,
    ServiceNotices,
    SwitchMaintenance,
    TellIncident,
)
from mcp_gateway.core.store.sqlite.store import Store
from tests.databases import Query, migrated, open_store

DAY = 20_000
ROWS = Query("SELECT component, day, minutes, degraded_minutes, down_minutes FROM component_days ORDER BY 1, 2")
HOURS = Query("SELECT hour, minutes FROM component_hours")


class House:
    """A board, its clock, and how its components are."""

    def __init__(self, store: Store) -> None:
        self.now_ms = DAY * DAY_MS
        self.components = [Component("api", "API", "operational"), Component("model/a", "a", "operational")]
        self.board = StatusBoard(store, lambda: self.components, lambda: self.now_ms)

    async def note(self, *, later_ms: int = MINUTE_MS) -> bool:
        self.now_ms += later_ms
        written = self.board.note_minute()
        if written is not None:
            await written
        return written is not None


async def test_each_minute_counts_once_for_whatever_its_components_were(tmp_path: Path) -> None:
    store = await open_store(migrated(tmp_path / "gateway.sqlite3"))
    house = House(store)
    assert list(house.board.components()) == house.components
    assert house.board.past_of("api").up_share is None
    assert await house.note()
    assert not await house.note(later_ms=MINUTE_MS - 1)
    assert not await house.note(later_ms=-5 * MINUTE_MS)
    house.components = [Component("api", "API", "degraded"), Component("model/a", "a", "down")]
    assert await house.note(later_ms=6 * MINUTE_MS)
    house.components = [Component("api", "API", "maintenance")]
    assert not await house.note()
    assert await store.read(ROWS) == [("api", DAY, 2, 1, 0), ("model/a", DAY, 2, 0, 1)]
    past = house.board.past_of("model/a")
    assert (past.days[-1], past.up_share) == (SeenMinutes(2, 0, 1), 0.5)
    assert past.days[:-1] == [None] * (SHOWN_DAYS - 1)
    assert house.board.past_of("api").up_share == 1
    await store.close()


async def test_a_day_goes_on_after_a_restart_and_is_forgotten_after_ninety(tmp_path: Path) -> None:
    store = await open_store(migrated(tmp_path / "gateway.sqlite3"))
    house = House(store)
    await house.note()
    again = House(store)
    again.now_ms = house.now_ms
    await again.board.restore()
    await again.note()
    assert again.board.past_of("api").days[-1] == SeenMinutes(2)
    again.now_ms += (SHOWN_DAYS - 1) * DAY_MS
    assert again.board.past_of("api").days[0] == SeenMinutes(2)
    await again.note(later_ms=DAY_MS)
    assert again.board.past_of("api").days == [None] * (SHOWN_DAYS - 1) + [SeenMinutes(1)]
    assert [day for _, day, *_ in await store.read(ROWS)] == [DAY + SHOWN_DAYS] * 2
    await store.close()


async def test_days_in_which_it_did_not_run_are_unknown_and_not_down(tmp_path: Path) -> None:
    store = await open_store(migrated(tmp_path / "gateway.sqlite3"))
    house = House(store)
    await house.note()
    again = House(store)
    again.now_ms = house.now_ms + 3 * DAY_MS
    await again.board.restore()
    await again.note()
    past = again.board.past_of("api")
    assert past.days[-5:] == [None, SeenMinutes(1), None, None, SeenMinutes(1)]
    assert (past.up_share, past.late_up_share) == (1, 1)
    await store.close()


async def test_the_last_day_is_told_by_the_hour_over_restarts(tmp_path: Path) -> None:
    store = await open_store(migrated(tmp_path / "gateway.sqlite3"))
    house = House(store)
    house.components = [Component("model/a", "a", "down", "a")]
    await house.note()
    house.components = [Component("model/a", "a", "operational", "a")]
    await house.note(later_ms=HOUR_MS)
    again = House(store)
    again.now_ms = house.now_ms
    await again.board.restore()
    assert again.board.past_of("model/a").late_up_share == 0.5
    again.now_ms += 22 * HOUR_MS
    assert again.board.past_of("model/a").late_up_share == 0.5
    again.now_ms += HOUR_MS
    assert (again.board.past_of("model/a").late_up_share, again.board.past_of("model/a").up_share) == (1, 0.5)
    again.now_ms += HOUR_MS
    assert again.board.past_of("model/a").late_up_share is None
    again.components = house.components
    await again.note()
    assert await store.read(HOURS) == [((again.now_ms // HOUR_MS), 1)]
    await store.close()


async def test_a_clock_that_was_far_ahead_and_is_set_right_counts_on(tmp_path: Path) -> None:
    store = await open_store(migrated(tmp_path / "gateway.sqlite3"))
    house = House(store)
    await house.note(later_ms=2 * DAY_MS)
    assert not await house.note(later_ms=-59 * MINUTE_MS)
    assert await house.note(later_ms=-2 * DAY_MS)
    assert await house.note()
    assert not await house.note(later_ms=0)
    assert house.board.past_of("api").days[-1] == SeenMinutes(2)
    await store.close()


async def test_days_are_looked_through_once_for_each_minute_that_is_counted(tmp_path: Path) -> None:
    store = await open_store(migrated(tmp_path / "gateway.sqlite3"))
    house = House(store)
    await house.note()
    past = house.board.past_of("api")
    assert past.days[-1] == SeenMinutes(1)
    house.now_ms += MINUTE_MS - 1
    assert house.board.past_of("api") is past
    await house.note()
    assert house.board.past_of("api").days[-1] == SeenMinutes(2)
    past = house.board.past_of("api")
    house.now_ms += DAY_MS  # nobody looks in a day of maintenance
    assert house.board.past_of("api").days[-2:] == [SeenMinutes(2), None]
    assert house.board.past_of("api").late_up_share is None
    await store.close()


async def test_it_looks_every_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await open_store(migrated(tmp_path / "gateway.sqlite3"))
    house = House(store)
    slept: list[float] = []
    turns = iter([MINUTE_MS, 0, MINUTE_MS])

    async def sleep(delay_s: float) -> None:
        slept.append(delay_s)
        if (turn := next(turns, None)) is None:
            raise asyncio.CancelledError
        house.now_ms += turn

    monkeypatch.setattr("mcp_gateway.core.observe.status_board.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await house.board.watch()
    monkeypatch.undo()
    assert slept == [60.0] * 4
    assert house.board.past_of("api").days[-1] == SeenMinutes(2)
    await store.close()


# What was told


async def test_an_incident_has_a_history_of_what_was_told_until_it_is_over(tmp_path: Path) -> None:
    now_ms = [1000]
    store = await open_store(migrated(tmp_path / "gateway.sqlite3"), now_ms=lambda: now_ms[0])
    notices = ServiceNotices(store, Lifecycle(), ServiceNotice())
    await notices.begin()
    assert list(notices.history) == []
    for later_ms, text in ((0, "A disk is full."), (5, "A disk is full."), (5, "It is changed."), (5, None), (5, None)):
        now_ms[0] += later_ms
        await store.write(TellIncident(text))
    over = Incident(
        1, "incident", 1000, 1015, (IncidentUpdate(1010, "It is changed."), IncidentUpdate(1000, "A disk is full."))
    )
    assert list(notices.history) == [over]
    await store.write(SwitchMaintenance(is_on=True))
    await store.write(SwitchMaintenance(is_on=True))
    begun, *_ = notices.history
    assert list(notices.history) == [Incident(begun.id, "maintenance", 1020, None, ()), over]
    again = ServiceNotices(store, Lifecycle(), ServiceNotice())
    await again.begin()
    assert list(again.history) == list(notices.history)
    now_ms[0] += INCIDENTS_KEPT_MS
    await store.write(SwitchMaintenance(is_on=False))
    assert await store.read(IncidentsKept()) == [Incident(begun.id, "maintenance", 1020, now_ms[0], ())]
    assert await store.read(Query("SELECT COUNT(*) FROM incident_updates")) == [(0,)]
    await store.close()
