"""The day's counts over restarts: what was admitted is written as it changes, and counts where the log has less."""

import asyncio
from pathlib import Path

import pytest

from mcp_gateway.core.caller import Caller, KeyHolder, Quota
from mcp_gateway.core.clock import DAY_S
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.limits.day_counts import DayCounts, NoteAdmitted
from mcp_gateway.core.limits.limiter import Limiter
from mcp_gateway.core.store.sqlite.store import Store
from tests.core.test_limits import NO_LIMIT, START_S, Clock, allowance, caller, guest, key_of, limiter
from tests.databases import Query, locked, migrated, open_store
from tests.loop_clock import pass_time
from tests.patience import becomes

TODAY = START_S // DAY_S
STORED = Query("SELECT * FROM admitted_requests ORDER BY day, subject")


async def written(store: Store, limits: Limiter) -> None:
    future = DayCounts(store, limits).write()
    assert future is not None
    await future


async def restarted(store: Store, clock: Clock | None = None, logged: dict[str, int] | None = None) -> Limiter:
    """A limiter of a new process, which has what the log and the table of counts say."""
    limits = limiter(clock)
    limits.restore_day(logged or {})
    await DayCounts(store, limits).restore()
    return limits


def left_today(limits: Limiter, who: Caller) -> int | None:
    return limits.standing(who).day_remaining


async def test_what_runs_counts_for_its_key_and_its_account_after_a_restart(store: Store) -> None:
    limits, who = limiter(), key_of(allowance(day=20), own=allowance(day=10))
    for _ in range(3):
        limits.admit(who)
    await written(store, limits)
    again = await restarted(store)
    assert left_today(again, who) == 7
    assert left_today(again, key_of(allowance(day=20), "key_2")) == 17


async def test_a_key_counts_for_those_that_made_it(store: Store) -> None:
    maker = Quota("maker", "key_maker", allowance(day=5))
    limits = limiter()
    limits.admit(Caller("acc_1", KeyHolder("key_made"), (Quota("key", "key_made", NO_LIMIT), maker)))
    limits.admit(caller("key_maker", day=5))
    await written(store, limits)
    assert left_today(await restarted(store), caller("key_maker", day=5)) == 3


@pytest.mark.parametrize(("running", "logged", "left"), [(3, 1, 7), (3, 3, 7), (3, 8, 2), (0, 8, 2), (3, 0, 7)])
async def test_of_the_log_and_of_what_was_admitted_the_larger_counts(
    store: Store, running: int, logged: int, left: int
) -> None:
    limits, who = limiter(), caller(day=10)
    for _ in range(running):
        limits.admit(who)
    if running:
        await written(store, limits)
    assert left_today(await restarted(store, logged={"key_1": logged}), who) == left


async def test_a_process_that_is_killed_again_has_what_both_runs_admitted(store: Store) -> None:
    who = caller(day=10)
    for runs in range(1, 4):
        limits = await restarted(store)
        limits.admit(who)
        await written(store, limits)
        assert left_today(await restarted(store), who) == 10 - runs


async def test_what_is_refused_is_not_counted_and_writes_nothing(store: Store) -> None:
    limits, who = limiter(), caller(day=2)
    counts = DayCounts(store, limits)
    for number in range(5):
        if number < 2:
            limits.admit(who)
        else:
            with pytest.raises(GatewayError):
                limits.admit(who)
    await written(store, limits)
    with pytest.raises(GatewayError):
        limits.admit(who)
    assert counts.write() is None
    again = await restarted(store)
    assert left_today(again, who) == 0
    with pytest.raises(GatewayError):
        again.check(who)


@pytest.mark.parametrize("has_asked_since", [True, False])
async def test_a_limit_that_is_given_later_finds_what_ran(store: Store, has_asked_since: bool) -> None:
    limits, limited = limiter(), key_of(allowance(day=9), own=allowance(day=5))
    for _ in range(2):
        limits.admit(key_of(NO_LIMIT))
    if has_asked_since:
        limits.admit(limited)
    await written(store, limits)
    assert left_today(await restarted(store), limited) == (2 if has_asked_since else 3)


async def test_each_day_has_its_own_counts_and_those_of_past_days_go(store: Store) -> None:
    clock, who = Clock(), key_of(NO_LIMIT, own=allowance(day=10))
    limits = limiter(clock)
    clock.now_s += DAY_S - 1
    for _ in range(3):
        limits.admit(who)
    await written(store, limits)
    clock.now_s += 1
    assert left_today(await restarted(store, clock), who) == 10
    limits.admit(who)
    await written(store, limits)
    assert await store.read(STORED) == [(TODAY + 1, "acc_1", 1), (TODAY + 1, "key_1", 1)]
    assert left_today(await restarted(store, clock), who) == 9


async def test_what_was_admitted_before_midnight_and_not_written_by_then_is_no_count_of_the_new_day(
    store: Store,
) -> None:
    clock, account = Clock(), allowance(day=10)
    limits = limiter(clock)
    running = limits.admit(key_of(account, "key_1"))
    clock.now_s += DAY_S
    limits.admit(key_of(account, "key_2"))
    await written(store, limits)
    assert await store.read(STORED) == [(TODAY + 1, "acc_1", 1), (TODAY + 1, "key_2", 1)]
    running.release()


async def test_a_day_of_many_keys_goes_in_parts(store: Store) -> None:
    await store.write(NoteAdmitted(TODAY - 1, {f"key_{number}": 1 for number in range(2500)}))
    limits, sizes = limiter(), []
    for _ in range(3):
        limits.admit(caller())
        await written(store, limits)
        sizes.append(len(await store.read(STORED)))
    assert sizes == [1502, 502, 2]


async def test_guests_have_no_day_and_no_row(store: Store) -> None:
    limits = limiter()
    for number in range(20):
        limits.admit(guest(f"198.51.100.{number}"))
    assert DayCounts(store, limits).write() is None


async def test_what_has_not_changed_is_not_written_again(store: Store) -> None:
    limits = limiter()
    counts = DayCounts(store, limits)
    limits.admit(caller("key_1"))
    await written(store, limits)
    limits.admit(caller("key_2"))
    assert limits.take_admitted() == {"key_2": 1, "acc_1": 2}
    assert counts.write() is None


async def test_the_loop_writes_whatever_has_changed_at_every_turn(store: Store) -> None:
    limits, who = limiter(), caller()
    watching = asyncio.create_task(DayCounts(store, limits).watch())
    for turns in range(1, 4):
        limits.admit(who)
        limits.admit(who)
        await asyncio.sleep(0)
        pass_time(0.25)
        await _are_stored(store, [(TODAY, "acc_1", 2 * turns), (TODAY, "key_1", 2 * turns)])
    watching.cancel()


async def _are_stored(store: Store, rows: list[tuple[int, str, int]]) -> None:
    await becomes(lambda: store.read(STORED), lambda found: found == rows)


async def test_what_is_admitted_in_an_outage_is_written_after_it_and_by_the_end_at_the_latest(
    tmp_path: Path,
) -> None:
    path = migrated(tmp_path / "gateway.sqlite3")
    store = await open_store(path, busy_timeout_s=0)
    limits = limiter()
    counts = DayCounts(store, limits)
    async with locked(path):
        limits.admit(caller(day=10))
        first = counts.write()
        limits.admit(caller(day=10))
        assert first is not None
        await store.read(STORED)
        assert not first.done()
    assert counts.write() is not None
    pass_time(1)
    assert await store.close() == []
    reopened = await open_store(path)
    assert left_today(await restarted(reopened), caller(day=10)) == 8
    await reopened.close()


def test_the_day_is_the_limiter_s_whatever_else_the_time_is() -> None:
    clock = Clock()
    limits = limiter(clock)
    assert limits.day == TODAY
    clock.now_s += DAY_S - 0.5
    assert limits.day == TODAY
    clock.now_s += 0.5
    assert limits.day == TODAY + 1
