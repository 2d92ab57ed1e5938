"""What every engine does that rooms write to and read from; each test takes an engine and the place that it is at.

What commits tell is in test_listening.py, that these tests would find a broken engine in test_broken.py, and what one
engine does alone, in a folder of its name.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from mcp_gateway.core.engine import DatabaseError, InOutage, Write
from mcp_gateway.core.errors import GatewayError
from tests.core.store.contract.noting import (
    AllOf,
    AlsoTogether,
    Counted,
    Look,
    Note,
    Notes,
    NotesTwice,
    NotesTwiceReported,
    NotesTwiceScanned,
    NoteTogether,
    Sneak,
    fail,
    refuse,
)
from tests.core.store.contract.places import OpenEngine, Place
from tests.core.store.contract.trying import (
    OUTAGES,
    all_of,
    is_available_again,
    late,
    left_at,
    much,
    noted,
    outage,
    told,
)
from tests.patience import PATIENCE_S, eventually

KINDS = (Note, NoteTogether, AlsoTogether)


# One transaction


async def test_a_write_brings_what_comes_of_it_and_reads_see_it_from_then_on(engine: OpenEngine) -> None:
    assert await noted(engine) == []
    assert await engine.write(Note("one")) == "one"
    assert await noted(engine) == ["one"]


async def test_several_as_one_are_there_as_one(engine: OpenEngine) -> None:
    parts = Note("a"), Note("b"), Note("c")
    assert await all_of(engine, Note("before"), AllOf(parts), Note("after")) == ["before", ["a", "b", "c"], "after"]
    assert await noted(engine) == ["before", "a", "b", "c", "after"]


@pytest.mark.parametrize("place_of_it", range(3))
@pytest.mark.parametrize("end", [refuse, fail])
async def test_several_as_one_of_which_one_fails_leave_nothing(
    engine: OpenEngine, end: Callable[[], None], place_of_it: int
) -> None:
    parts = [Note("a"), Note("b")]
    parts.insert(place_of_it, Note("failing", end))
    outcomes = await all_of(engine, Note("before"), AllOf(tuple(parts)), Note("after"))
    assert outcomes == ["before", "insufficient_balance" if end is refuse else ZeroDivisionError, "after"]
    assert await noted(engine) == ["before", "after"]


async def test_several_as_one_that_a_kill_cut_off_leave_nothing(engine: OpenEngine, place: Place) -> None:
    cut_off: list[Place] = []
    await engine.write(AllOf((Note("a"), Note("b", lambda: cut_off.append(place.killed())), Note("c"))))
    assert await left_at(cut_off.pop()) == []
    assert await left_at(place.killed()) == ["a", "b", "c"]


# Order


async def test_writes_happen_in_the_order_of_their_calls(engine: OpenEngine) -> None:
    """Alone or with their neighbours, durable or not, whatever is to become of them in an outage."""
    kinds: list[InOutage] = ["refuse", "keep", "wait"]
    written = [
        engine.write(KINDS[n // 2 % 3](str(n)), is_durable=n % 5 > 1, in_outage=kinds[n // 3 % 3]) for n in range(200)
    ]
    texts = [str(n) for n in range(200)]
    assert await late(*written) == texts
    assert await noted(engine) == texts


async def test_writes_see_what_came_before_them(engine: OpenEngine) -> None:
    asked: list[Write[Any]] = [Look(), Note("a"), Look(), NoteTogether("b"), NoteTogether("no", refuse), Look()]
    assert await all_of(engine, *asked) == [[], "a", ["a"], "b", "insufficient_balance", ["a", "b"]]


async def test_what_comes_in_later_turns_comes_later(engine: OpenEngine) -> None:
    written = []
    for number in range(20):
        written.append(engine.write(Note(str(number)), is_durable=number % 2 == 0))
        await asyncio.sleep(0)
    await late(*written)
    assert await noted(engine) == [str(number) for number in range(20)]


async def test_neighbours_are_carried_out_in_one_call_each_with_an_outcome_of_its_own(engine: OpenEngine) -> None:
    calls: list[int] = []
    engine.listen(Counted, lambda counted: calls.append(counted.number))
    asked = [NoteTogether("a"), NoteTogether("b"), AlsoTogether("c"), Note("d"), NoteTogether("e")]
    assert await all_of(engine, *asked) == ["a", "b", "c", "d", "e"]
    assert calls == [2, 1, 1]


# Failures


@pytest.mark.parametrize("kind", KINDS)
async def test_a_refusal_changes_nothing_and_the_others_go_on(engine: OpenEngine, kind: type[Note]) -> None:
    asked = [kind("before"), kind("no", refuse), kind("after")]
    assert await all_of(engine, *asked) == ["before", "insufficient_balance", "after"]
    assert await noted(engine) == ["before", "after"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_noted", [True, False])
async def test_a_bug_in_one_write_costs_no_other_anything(engine: OpenEngine, kind: type[Note], is_noted: bool) -> None:
    asked = [one for n in range(5) for one in (kind(str(n)), kind("never", fail, is_noted))]
    assert await all_of(engine, *asked) == [one for n in range(5) for one in (str(n), ZeroDivisionError)]
    assert await noted(engine) == [str(n) for n in range(5)]


async def test_what_stands_in_for_a_write_takes_its_place(engine: OpenEngine) -> None:
    asked = [Note("a"), Note("bug", fail, instead=Note("instead")), Note("b")]
    assert await all_of(engine, *asked) == ["a", "instead", "b"]
    assert await noted(engine) == ["a", "instead", "b"]


async def test_what_fails_and_is_waited_for_by_nobody_is_logged_without_its_content(
    engine: OpenEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.write(Note("bug", fail)).cancel()
    await engine.write(Note("later"))
    assert "ZeroDivisionError" in caplog.text
    assert "secret" not in caplog.text


# Who waits no more


@pytest.mark.parametrize("kind", KINDS)
async def test_a_write_happens_once_though_who_waited_for_it_has_left(engine: OpenEngine, kind: type[Note]) -> None:
    first = asyncio.ensure_future(engine.write(kind("left alone")))
    first.cancel()
    second = engine.write(kind("left later"))
    await asyncio.sleep(0)
    second.cancel()
    await engine.write(kind("last"))
    assert await noted(engine) == ["left alone", "left later", "last"]


async def test_a_task_that_ends_while_it_waits_undoes_nothing(engine: OpenEngine, place: Place) -> None:
    place.disk.hold()

    async def write() -> None:
        await engine.write(Note("one"))

    task = asyncio.create_task(write())
    await eventually(lambda: place.disk.begun)
    task.cancel()
    await asyncio.wait([task])
    place.disk.release()
    await engine.write(Note("two"))
    assert await noted(engine) == ["one", "two"]


# Durability


async def test_whatever_was_told_is_there_after_the_power_failed(engine: OpenEngine, place: Place) -> None:
    for number in range(3):
        await engine.write(Note(f"{number} not durable"), is_durable=False)
        await engine.write(KINDS[number](str(number)))
        assert (await left_at(place.without_power()))[-1:] == [str(number)]
    whole = ["0 not durable", "0", "1 not durable", "1", "2 not durable", "2"]
    assert await left_at(place.without_power()) == whole  # what came before is there too, in its order


async def test_what_is_durable_is_told_once_the_disk_has_it(engine: OpenEngine, place: Place) -> None:
    place.disk.hold()
    if not place.commits_first:
        await _is_neither_told_nor_seen_before(engine, place)
        return
    first = engine.write(Note("first"))
    await engine.flushed()
    assert not first.done()
    await eventually(lambda: place.disk.begun == 1)
    second = engine.write(Note("second"))
    refused = engine.write(Note("no", refuse))
    await engine.flushed()
    assert await noted(engine) == ["first", "second"]  # committed
    assert not first.done()
    place.disk.release(1)
    await first
    await eventually(lambda: place.disk.begun == 2)
    assert not second.done()  # it was committed after the first look at the disk began
    assert not refused.done()  # a decision may rest on what is not on the disk yet
    assert "first" in await left_at(place.without_power())
    place.disk.release()
    assert await late(second, refused) == ["second", "insufficient_balance"]
    assert await left_at(place.without_power()) == ["first", "second"]


async def _is_neither_told_nor_seen_before(engine: OpenEngine, place: Place) -> None:
    first = engine.write(Note("first"))
    await eventually(lambda: place.disk.begun == 1)
    second, refused = engine.write(Note("second")), engine.write(Note("no", refuse))
    await asyncio.sleep(0)
    assert not first.done()
    assert await noted(engine) == []
    place.disk.release(1)
    await first
    await eventually(lambda: place.disk.begun == 2)
    assert not second.done()
    assert not refused.done()  # a decision may rest on what is not on the disk yet
    assert await left_at(place.without_power()) == ["first"]
    place.disk.release()
    assert await late(second, refused) == ["second", "insufficient_balance"]
    assert await left_at(place.without_power()) == ["first", "second"]


async def test_what_is_not_durable_waits_for_no_disk_and_outlives_a_kill(engine: OpenEngine, place: Place) -> None:
    if not place.commits_first:
        pytest.skip("all that is written is on the disk once it is committed")
    place.disk.hold()
    durable = engine.write(Note("durable"))
    await engine.write(Note("beside it"), is_durable=False)
    await engine.write(NoteTogether("later"), is_durable=False)
    assert not durable.done()
    assert await left_at(place.killed()) == ["durable", "beside it", "later"]


async def test_flushed_is_told_once_what_was_written_before_it_is_committed(engine: OpenEngine) -> None:
    written = [engine.write(Note(str(number)), is_durable=False) for number in range(300)]
    await engine.flushed()
    assert all(one.done() for one in written)
    assert engine.waiting == 0
    assert len(await noted(engine)) == 300


# Outages


@pytest.mark.parametrize("kind", OUTAGES)
async def test_an_outage_refuses_what_does_not_wait_and_that_never_happens(
    engine: OpenEngine, place: Place, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert engine.is_available
    async with outage(kind, engine, place) as before:
        assert not engine.is_available
        refused = [engine.write(much(text), is_durable=text == "a") for text in "ab"]
        assert await late(*refused) == ["ledger_unavailable"] * 2
        assert await noted(engine) == before  # reading goes on
    await is_available_again(engine)  # though nobody asks
    assert await late(engine.write(Note("as before"))) == ["as before"]
    assert await noted(engine) == [*before, "as before"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize("write", [Note, NoteTogether])
@pytest.mark.parametrize("kind", OUTAGES)
async def test_what_is_kept_is_refused_and_happens_once_in_its_order(
    engine: OpenEngine, place: Place, kind: str, write: type[Note]
) -> None:
    async with outage(kind, engine, place) as before:
        kept = [engine.write(write(text, padding_bytes=100_000), in_outage="keep") for text in "abc"]
        dropped = engine.write(write("dropped"))
        assert await late(*kept, dropped) == ["ledger_unavailable"] * 4
    assert await late(engine.write(write("after"))) == ["after"]
    assert await noted(engine) == [*before, "a", "b", "c", "after"]
    assert await left_at(place.without_power()) == [*before, "a", "b", "c", "after"]


@pytest.mark.parametrize("write", [Note, NoteTogether])
@pytest.mark.parametrize("kind", OUTAGES)
async def test_what_waits_is_told_nothing_of_an_outage_and_happens_once_in_its_order(
    engine: OpenEngine, place: Place, kind: str, write: type[Note]
) -> None:
    async with outage(kind, engine, place) as before:
        waiting = [engine.write(write(text, padding_bytes=100_000), in_outage="wait") for text in "abc"]
        kept = engine.write(much("kept"), in_outage="keep")
        assert await late(kept, engine.write(much("refused"))) == ["ledger_unavailable"] * 2
        assert not any(one.done() for one in waiting)
        assert engine.waiting >= 3
    assert await late(*waiting, engine.write(write("after"))) == ["a", "b", "c", "after"]
    assert await noted(engine) == [*before, "a", "b", "c", "kept", "after"]
    assert await left_at(place.without_power()) == [*before, "a", "b", "c", "kept", "after"]


@pytest.mark.parametrize("kind", OUTAGES)
async def test_what_was_withdrawn_never_happens(engine: OpenEngine, place: Place, kind: str) -> None:
    async with outage(kind, engine, place) as before:
        first, second = [engine.write(much(text), in_outage="wait") for text in ("first", "second")]
        assert await late(engine.write(much("refused"))) == ["ledger_unavailable"]
        assert engine.withdraw(first)
        assert not engine.withdraw(first)
    assert await late(second) == ["second"]
    assert await noted(engine) == [*before, "second"]
    assert not engine.withdraw(second)
    assert not first.done()


async def test_what_the_disk_failed_to_take_is_told_once_it_has_it_and_stays_once(
    engine: OpenEngine, place: Place
) -> None:
    place.disk.failures = 3
    waiting, refused = engine.write(Note("patient"), in_outage="wait"), engine.write(Note("in doubt"))
    await eventually(refused.done)
    assert not waiting.done()
    assert not engine.withdraw(waiting)  # it is committed
    assert engine.waiting == 1
    assert await late(waiting, refused) == ["patient", "ledger_unavailable"]
    assert await left_at(place.without_power()) == ["patient", "in doubt"]


async def test_after_an_outage_of_the_disk_what_is_told_is_on_it(engine: OpenEngine, place: Place) -> None:
    place.disk.failures = 1
    assert await late(engine.write(Note("in doubt"), in_outage="keep")) == ["ledger_unavailable"]
    assert await late(engine.write(Note("after"))) == ["after"]
    assert await left_at(place.without_power()) == ["in doubt", "after"]


async def test_the_loop_runs_on_while_a_write_waits_for_a_lock(engine: OpenEngine, place: Place) -> None:
    with place.locked():
        write = engine.write(Note("waiting"))
        turns = 0
        while not write.done():
            turns += 1
            await asyncio.sleep(0)
    assert turns > 1
    assert told(write.exception()) == "ledger_unavailable"


# Reads

TWICE = (
    NotesTwice,
    NotesTwiceScanned,
    lambda meanwhile: NotesTwiceReported("acc_1", meanwhile),
)
"""In each lane."""


@pytest.mark.parametrize("twice", TWICE)
async def test_a_read_sees_one_moment(engine: OpenEngine, twice: Callable[[Callable[[], object]], NotesTwice]) -> None:
    """Whatever is committed while it reads."""
    loop = asyncio.get_running_loop()

    async def change() -> None:
        await engine.write(AllOf((Note("c"), Note("d"))))

    def meanwhile() -> None:
        asyncio.run_coroutine_threadsafe(change(), loop).result(PATIENCE_S)

    await engine.write(AllOf((Note("a"), Note("b"))))
    first, second = await engine.read(twice(meanwhile))
    assert first == second == ["a", "b"]
    assert await noted(engine) == ["a", "b", "c", "d"]


async def test_a_read_changes_nothing(engine: OpenEngine) -> None:
    with pytest.raises(DatabaseError):
        await engine.read(Sneak())
    assert await noted(engine) == []


@pytest.mark.parametrize("twice", TWICE[1:])
async def test_few_rows_are_read_while_somebody_reads_much(
    engine: OpenEngine, twice: Callable[[Callable[[], object]], NotesTwice]
) -> None:
    begun, gate = threading.Event(), threading.Event()

    def stop() -> None:
        begun.set()
        gate.wait(PATIENCE_S)

    reading = asyncio.ensure_future(engine.read(twice(stop)))
    await eventually(begun.is_set)
    await engine.write(Note("meanwhile"))
    assert await noted(engine) == ["meanwhile"]
    assert not reading.done()
    gate.set()
    assert await reading == ([], [])


@pytest.mark.parametrize("twice", TWICE)
async def test_reads_wait_for_no_write(
    engine: OpenEngine, place: Place, twice: Callable[[Callable[[], object]], NotesTwice]
) -> None:
    await engine.write(Note("there"))
    begun = place.disk.begun
    place.disk.hold()
    held = engine.write(Note("held by the disk"))
    if place.commits_first:
        await engine.flushed()
    else:
        await eventually(lambda: place.disk.begun > begun)  # it has what others would lock
    seen = ["there", "held by the disk"] if place.commits_first else ["there"]
    with place.locked() if place.commits_first else contextlib.nullcontext():
        waiting = engine.write(Note("waiting"), in_outage="wait")
        await asyncio.sleep(0)
        assert await engine.read(twice(lambda: None)) == (seen, seen)
        assert not held.done()
        assert not waiting.done()


async def test_a_read_that_nobody_waits_for_holds_up_no_other(engine: OpenEngine) -> None:
    gate = threading.Event()
    reading = asyncio.ensure_future(engine.read(NotesTwiceReported("acc_1", lambda: gate.wait(PATIENCE_S))))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])
    gate.set()
    assert await engine.read(NotesTwiceReported("acc_1", lambda: None)) == ([], [])


# The end


async def test_closing_commits_what_is_queued_and_tells_it_once_it_is_on_the_disk(
    engine: OpenEngine, place: Place
) -> None:
    place.disk.hold()
    written = [engine.write(KINDS[n % 3](str(n)), is_durable=n % 2 == 0) for n in range(300)]
    closing = asyncio.ensure_future(engine.close())
    await eventually(lambda: place.disk.begun)
    assert not closing.done()
    place.disk.release()
    assert await closing == []
    assert [one.result() for one in written] == [str(n) for n in range(300)]
    assert await left_at(place.without_power()) == [str(n) for n in range(300)]


async def test_after_the_end_nothing_is_taken(engine: OpenEngine, place: Place) -> None:
    await engine.close()
    with pytest.raises(RuntimeError):
        engine.write(Note("too late"))
    with pytest.raises(RuntimeError):
        await engine.read(NotesTwiceReported("acc_1", lambda: None))
    assert await engine.close() == []  # closing again changes nothing
    assert await left_at(place) == []


@pytest.mark.parametrize("kind", OUTAGES)
async def test_closing_ends_in_an_outage_that_does_not_and_brings_what_was_to_be_kept(
    engine: OpenEngine, place: Place, kind: str
) -> None:
    async with outage(kind, engine, place) as before:
        refused, kept = engine.write(much("refused")), engine.write(lost := much("lost"), in_outage="keep")
        waiting = engine.write(lost, in_outage="wait")
        closing = asyncio.ensure_future(engine.close())
        assert await late(closing, refused, kept) == [[lost, lost], "ledger_unavailable", "ledger_unavailable"]
        assert waiting.cancelled()
    assert await left_at(place) == before


async def test_closing_after_an_outage_of_the_disk_writes_what_is_queued(engine: OpenEngine, place: Place) -> None:
    place.disk.failures = 1
    with pytest.raises(GatewayError):
        await engine.write(Note("in doubt"))
    queued = engine.write(Note("queued"), in_outage="keep")
    assert await engine.close() == []
    assert queued.result() == "queued"
    assert await left_at(place.without_power()) == ["in doubt", "queued"]


async def test_what_is_left_is_there_for_the_next_engine(engine: OpenEngine, place: Place) -> None:
    await engine.write(Note("one"))
    await engine.close()
    async with place.opened() as another:
        await another.write(Note("two"))
        assert await another.read(Notes()) == ["one", "two"]
