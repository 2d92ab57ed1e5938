"""What commits tell: after each, before the results of its writes, in order, once; nothing of what never happened."""

import asyncio

import pytest

from tests.core.store.contract.noting import Counted, Note, Noted, NoteTogether, Trying, fail, refuse
from tests.core.store.contract.places import OpenEngine, Place
from tests.core.store.contract.trying import all_of, late, left_at, much, noted, outage
from tests.patience import eventually


@pytest.fixture
def heard(engine: OpenEngine) -> list[object]:
    """All that the store has told, in order."""
    facts: list[object] = []
    engine.listen(Noted, facts.append)
    engine.listen(Counted, facts.append)
    return facts


async def test_it_is_told_once_it_is_committed_and_before_there_is_a_result(engine: OpenEngine, place: Place) -> None:
    seen: list[tuple[Place, bool]] = []
    engine.listen(Noted, lambda _: seen.append((place.killed(), written.done())))
    written = engine.write(Note("a"))
    assert await written == "a"
    ((killed, was_done),) = seen
    assert await left_at(killed) == ["a"]
    assert not was_done


async def test_it_is_told_before_the_disk_has_it(engine: OpenEngine, heard: list[object], place: Place) -> None:
    if not place.commits_first:
        pytest.skip("a commit is over once the disk has it")
    place.disk.hold()
    written = engine.write(Note("a"))
    await engine.flushed()
    assert heard == [Noted("a")]
    assert not written.done()
    place.disk.release()
    await written
    assert heard == [Noted("a")]


async def test_a_disk_that_fails_to_take_it_has_it_told_once(
    engine: OpenEngine, heard: list[object], place: Place
) -> None:
    place.disk.failures = 2
    written = engine.write(Note("a"), in_outage="wait")
    if place.commits_first:
        await engine.flushed()
        assert heard == [Noted("a")]
    assert await late(written) == ["a"]
    assert heard == [Noted("a")]


async def test_all_of_a_burst_is_told_in_the_order_of_its_writes(engine: OpenEngine, heard: list[object]) -> None:
    asked = Note("a"), NoteTogether("b"), NoteTogether("c"), Note("d")
    assert await all_of(engine, *asked) == ["a", "b", "c", "d"]
    assert heard == [Noted("a"), Noted("b"), Noted("c"), Counted(2), Noted("d")]


async def test_one_burst_after_the_other_is_told_of_its_own(engine: OpenEngine, heard: list[object]) -> None:
    for text in "abc":
        await engine.write(Note(text))
    assert heard == [Noted("a"), Noted("b"), Noted("c")]


@pytest.mark.parametrize("is_noted", [True, False])
@pytest.mark.parametrize("nth", range(3))
async def test_a_write_that_fails_tells_nothing_and_the_rest_of_its_burst_is_told_once(
    engine: OpenEngine, heard: list[object], nth: int, is_noted: bool
) -> None:
    asked = [Note("a"), Note("b")]
    asked.insert(nth, Note("bug", fail, is_noted))
    results = await all_of(engine, *asked)
    assert results.pop(nth) is ZeroDivisionError
    assert results == ["a", "b"]
    assert heard == [Noted("a"), Noted("b")]
    assert await noted(engine) == ["a", "b"]


@pytest.mark.parametrize("is_noted", [True, False])
@pytest.mark.parametrize("nth", range(3))
async def test_a_write_that_is_refused_leaves_nothing_of_what_it_had_done_and_told(
    engine: OpenEngine, heard: list[object], nth: int, is_noted: bool
) -> None:
    asked = [Note("a"), Note("b")]
    asked.insert(nth, Note("refused", refuse, is_noted))
    results = await all_of(engine, *asked)
    assert results.pop(nth) == "insufficient_balance"
    assert results == ["a", "b"]
    assert heard == [Noted("a"), Noted("b")]
    assert await noted(engine) == ["a", "b"]


async def test_a_part_that_is_refused_leaves_nothing_of_itself_alone(engine: OpenEngine, heard: list[object]) -> None:
    writes = (Note("a"), Trying(Note("refused", refuse)), Trying(Note("b")))
    assert await asyncio.gather(*map(engine.write, writes)) == ["a", "tried", "tried"]
    ends = Noted("before"), Noted("after")
    assert heard == [Noted("a"), *ends, ends[0], Noted("b"), ends[1]]
    assert await noted(engine) == ["a", "b"]


async def test_what_stands_in_for_a_write_that_fails_tells_in_its_place(
    engine: OpenEngine, heard: list[object]
) -> None:
    asked = Note("a"), Note("bug", fail, instead=Note("instead")), Note("b")
    assert await all_of(engine, *asked) == ["a", "instead", "b"]
    assert heard == [Noted("a"), Noted("instead"), Noted("b")]


@pytest.mark.parametrize("nth", range(3))
async def test_neighbours_that_are_run_again_one_by_one_tell_of_that_alone(
    engine: OpenEngine, heard: list[object], nth: int
) -> None:
    asked = [NoteTogether("a"), NoteTogether("b")]
    asked.insert(nth, NoteTogether("bug", fail))
    results = await all_of(engine, *asked)
    assert results.pop(nth) is ZeroDivisionError
    assert results == ["a", "b"]
    assert heard == [Noted("a"), Counted(1), Noted("b"), Counted(1)]


@pytest.mark.parametrize("kind", ["locked", "full"])
async def test_what_an_outage_puts_off_is_told_when_it_has_happened(
    engine: OpenEngine, heard: list[object], place: Place, kind: str
) -> None:
    async with outage(kind, engine, place):
        written = engine.write(much("a"), in_outage="wait")
        assert await late(engine.write(much("refused"))) == ["ledger_unavailable"]
        assert heard == []
    assert await late(written) == ["a"]
    assert heard == [Noted("a")]


async def test_a_transaction_that_is_broken_off_in_the_middle_tells_nothing_until_it_is_run_again(
    engine: OpenEngine, heard: list[object], place: Place
) -> None:
    with place.full():
        first = engine.write(Note("a"), in_outage="wait")
        broken = engine.write(much("b"), in_outage="wait")
        await eventually(lambda: not engine.is_available)
        assert (heard, await noted(engine)) == ([], [])
    assert await late(first, broken) == ["a", "b"]
    assert heard == [Noted("a"), Noted("b")]


async def test_what_is_withdrawn_is_never_told(engine: OpenEngine, heard: list[object]) -> None:
    written = engine.write(Note("a"))
    assert engine.withdraw(written)
    await engine.write(Note("b"))
    assert heard == [Noted("b")]


async def test_what_is_committed_by_the_end_of_the_store_is_told(engine: OpenEngine, heard: list[object]) -> None:
    engine.write(Note("a"))
    assert await engine.close() == []
    assert heard == [Noted("a")]


async def test_who_listens_later_is_told_in_the_place_of_whoever_did(engine: OpenEngine, heard: list[object]) -> None:
    await engine.write(Note("a"))
    later: list[Noted] = []
    engine.listen(Noted, later.append)
    await engine.write(NoteTogether("b"))
    assert (heard, later) == ([Noted("a"), Counted(1)], [Noted("b")])


async def test_what_nobody_listens_for_is_forgotten(engine: OpenEngine) -> None:
    await engine.write(Note("a"))
    later: list[Noted] = []
    engine.listen(Noted, later.append)
    await engine.write(Note("b"))
    assert later == [Noted("b")]


async def test_a_listener_that_fails_holds_up_neither_results_nor_other_listeners_nor_later_writes(
    engine: OpenEngine, heard: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    engine.listen(Noted, lambda _: fail())
    assert await all_of(engine, NoteTogether("a"), Note("b")) == ["a", "b"]
    assert heard == [Counted(1)]
    assert [log.levelname for log in caplog.records] == ["CRITICAL"] * 2
    assert "ZeroDivisionError" in caplog.text
    assert await engine.write(Note("c")) == "c"


async def test_who_is_told_may_write(engine: OpenEngine, heard: list[object]) -> None:
    """In the next transaction."""
    more: list[asyncio.Future[str]] = []
    engine.listen(Counted, lambda _: more.append(engine.write(Note("more"))))
    await engine.write(NoteTogether("a"))
    assert await more.pop() == "more"
    assert heard == [Noted("a"), Noted("more")]
