"""The writer's states: every step that is drawn is walked, and none is walked that is not drawn."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest

from mcp_gateway.core.store.sqlite.store import Store
from mcp_gateway.core.store.sqlite.writer import State
from tests.core.store.contract.noting import Counted, Note, NoteTogether, fail
from tests.core.store.contract.places import SqlitePlace
from tests.core.store.contract.trying import late, much, outage
from tests.core.store.sqlite.steps import Step, drawn, watched
from tests.patience import eventually

Walk = Callable[[Store, SqlitePlace], Awaitable[object]]


async def write(store: Store, place: SqlitePlace) -> None:
    await store.write(Note("alone"))


async def write_more_than_a_burst(store: Store, place: SqlitePlace) -> None:
    for number in range(300):
        store.write(Note(str(number)))
    await store.flushed()


async def write_a_bug(store: Store, place: SqlitePlace) -> None:
    await late(store.write(Note("before")), store.write(Note("bug", fail)))


async def write_when_told(store: Store, place: SqlitePlace) -> None:
    more: list[asyncio.Future[str]] = []
    store.listen(Counted, lambda _: more.append(store.write(Note("more"))))
    await store.write(NoteTogether("a"))
    await more.pop()


async def wait_for_a_lock(store: Store, place: SqlitePlace) -> None:
    async with outage("locked", store, place):
        waiting = store.write(Note("waiting"), in_outage="wait")
    await late(waiting)


async def wait_for_room(store: Store, place: SqlitePlace) -> None:
    async with outage("full", store, place):
        waiting = store.write(much("waiting"), in_outage="wait")
    await late(waiting)


async def wait_for_the_disk(store: Store, place: SqlitePlace) -> None:
    place.disk.failures = 1
    await late(store.write(Note("one"), in_outage="wait"))
    await eventually(lambda: store._writer._state == "idle")


async def pause(store: Store, place: SqlitePlace) -> None:
    async with paused(store):
        pass
    await eventually(lambda: store._writer._state == "idle")


async def write_in_a_pause(store: Store, place: SqlitePlace) -> None:
    async with paused(store):
        written = store.write(Note("meanwhile"))
    await written


async def close(store: Store, place: SqlitePlace) -> None:
    await store.close()


async def close_with_what_waits(store: Store, place: SqlitePlace) -> None:
    store.write(Note("waiting"))
    await store.close()


async def close_in_a_pause(store: Store, place: SqlitePlace) -> None:
    async with paused(store):
        store.write(Note("meanwhile"))
        closing = asyncio.ensure_future(store.close())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="closed"):
            store.write(Note("too late"))
    await closing


async def close_while_locked(store: Store, place: SqlitePlace) -> None:
    with place.locked():
        store.write(Note("waiting"), in_outage="keep")
        await store.close()


@asynccontextmanager
async def paused(store: Store) -> AsyncIterator[None]:
    over = asyncio.Event()

    async def work() -> None:
        await over.wait()

    store._writer.pause_for(work)
    await asyncio.sleep(0)
    yield
    over.set()


WALKS: list[tuple[Walk, str]] = [
    (write, "idle gathering burst idle"),
    (write_more_than_a_burst, "idle gathering burst gathering burst idle"),
    (write_a_bug, "idle gathering burst gathering burst idle"),
    (write_when_told, "idle gathering burst gathering burst idle"),
    (wait_for_a_lock, "idle gathering burst paused burst idle"),
    (wait_for_room, "idle gathering burst paused burst idle"),
    (wait_for_the_disk, "idle gathering burst idle burst paused idle"),
    (pause, "idle burst paused idle"),
    (write_in_a_pause, "idle burst paused burst idle"),
    (close, "idle closed"),
    (close_with_what_waits, "idle gathering idle burst idle closed"),
    (close_in_a_pause, "idle burst paused idle burst idle closed"),
    (close_while_locked, "idle gathering idle burst paused idle closed"),
]
"""What is done, and the states that it leads through; in an outage some of them more often than once."""


def steps_of(path: str) -> set[Step]:
    states = path.split()
    return set(pairwise(states))


@pytest.mark.parametrize(("walk", "path"), WALKS)
async def test_the_writer_walks_as_it_is_drawn(walk: Walk, path: str, tmp_path: Path) -> None:
    place = SqlitePlace(tmp_path)
    async with place.opened():
        store = place.store
        await walk(store, place)
        assert set(watched(store).steps) == steps_of(path)


def test_every_step_that_is_drawn_is_walked() -> None:
    assert set.union(*(steps_of(path) for _, path in WALKS)) == drawn()
    assert {state for step in drawn() for state in step} == set(get_args(State))
