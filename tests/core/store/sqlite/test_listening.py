"""What commits tell: after each, before the results of its writes, in order, once; nothing of what never happened."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mcp_gateway.core.engine import Write
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.store.sqlite.store import Store
from mcp_gateway.core.store.transaction import Executors, Transaction
from tests.clocks import MsClock
from tests.core.store.sqlite.test_store import note, notes_on_disk
from tests.databases import FOR_TESTS, locked
from tests.disk import Disk
from tests.loop_clock import pass_time
from tests.patience import eventually, settled


class Noted(NamedTuple):
    text: str


class Counted(NamedTuple):
    number: int


@dataclass(frozen=True, slots=True)
class Telling(Write[str]):
    """Notes a text and tells of it, then does something else, which may fail."""

    text: str
    after: Callable[[], object] = lambda: None
    is_noted: bool = True
    instead: "Telling | None" = None

    def stand_in(self) -> "Telling | None":
        return self.instead


class TellingTogether(Telling):
    """One that is carried out together with its neighbours."""


@dataclass(frozen=True, slots=True)
class Trying(Write[str]):
    """Tells, goes on where a part of it is refused, and tells again."""

    part: Telling


def _try(transaction: Transaction, write: Trying) -> str:
    transaction.tell(Noted("before"))
    with contextlib.suppress(GatewayError):
        transaction.run(write.part)
    transaction.tell(Noted("after"))
    return "tried"


def _tell(transaction: Transaction, write: Telling) -> str:
    if write.is_noted:
        note(write.text).work(transaction.connection)
    transaction.tell(Noted(write.text))
    write.after()
    return write.text


def _tell_together(transaction: Transaction, writes: Sequence[Telling]) -> list[str]:
    texts = [_tell(transaction, write) for write in writes]
    transaction.tell(Counted(len(writes)))
    return texts


TELLING = FOR_TESTS | Executors(alone={Telling: _tell, Trying: _try}, together={TellingTogether: _tell_together})


@pytest.fixture
async def telling(database: Path, clock: MsClock, disk: Disk) -> AsyncIterator[Store]:
    store = await Store.open(database, TELLING, now_ms=clock, busy_timeout_s=0.05, sync=disk)
    yield store
    disk.release()
    await store.close()


@pytest.fixture
def heard(telling: Store) -> list[object]:
    """All that the store has told, in order."""
    facts: list[object] = []
    telling.listen(Noted, facts.append)
    telling.listen(Counted, facts.append)
    return facts


def fail() -> None:
    raise ZeroDivisionError


def refuse() -> None:
    raise GatewayError("conflict", "No.")


async def all_of(store: Store, *writes: Telling) -> list[Any]:
    """In one burst."""
    return await asyncio.gather(*map(store.write, writes), return_exceptions=True)


async def late(written: "asyncio.Future[str]") -> str:
    """What comes of it, of which the store rests in between."""
    while not written.done():
        pass_time(10)
        await settled()
    return await written


async def test_it_is_told_once_it_is_committed_and_before_there_is_a_result(telling: Store, database: Path) -> None:
    seen: list[tuple[list[str], bool]] = []
    telling.listen(Noted, lambda _: seen.append((notes_on_disk(database), written.done())))
    written = telling.write(Telling("a"))
    assert await written == "a"
    assert seen == [(["a"], False)]


async def test_it_is_told_before_the_disk_has_it(telling: Store, heard: list[object], disk: Disk) -> None:
    disk.hold()
    written = telling.write(Telling("a"))
    await telling.flushed()
    assert heard == [Noted("a")]
    assert not written.done()
    disk.release()
    await written
    assert heard == [Noted("a")]


async def test_a_disk_that_fails_to_take_it_has_it_told_once(telling: Store, heard: list[object], disk: Disk) -> None:
    disk.failures = 2
    written = telling.write(Telling("a"), in_outage="wait")
    await telling.flushed()
    assert heard == [Noted("a")]
    assert await late(written) == "a"
    assert heard == [Noted("a")]


async def test_all_of_a_burst_is_told_in_the_order_of_its_writes(telling: Store, heard: list[object]) -> None:
    asked = Telling("a"), TellingTogether("b"), TellingTogether("c"), Telling("d")
    assert await all_of(telling, *asked) == ["a", "b", "c", "d"]
    assert heard == [Noted("a"), Noted("b"), Noted("c"), Counted(2), Noted("d")]


async def test_one_burst_after_the_other_is_told_of_its_own(telling: Store, heard: list[object]) -> None:
    for text in "abc":
        await telling.write(Telling(text))
    assert heard == [Noted("a"), Noted("b"), Noted("c")]


@pytest.mark.parametrize("is_noted", [True, False])
@pytest.mark.parametrize("place", range(3))
async def test_a_write_that_fails_tells_nothing_and_the_rest_of_its_burst_is_told_once(
    telling: Store, heard: list[object], database: Path, place: int, is_noted: bool
) -> None:
    asked = [Telling("a"), Telling("b")]
    asked.insert(place, Telling("bug", fail, is_noted))
    results = await all_of(telling, *asked)
    assert isinstance(results.pop(place), ZeroDivisionError)
    assert results == ["a", "b"]
    assert heard == [Noted("a"), Noted("b")]
    assert notes_on_disk(database) == ["a", "b"]


@pytest.mark.parametrize("is_noted", [True, False])
@pytest.mark.parametrize("place", range(3))
async def test_a_write_that_is_refused_leaves_nothing_of_what_it_had_done_and_told(
    telling: Store, heard: list[object], database: Path, place: int, is_noted: bool
) -> None:
    asked = [Telling("a"), Telling("b")]
    asked.insert(place, Telling("refused", refuse, is_noted))
    results = await all_of(telling, *asked)
    assert isinstance(results.pop(place), GatewayError)
    assert results == ["a", "b"]
    assert heard == [Noted("a"), Noted("b")]
    assert notes_on_disk(database) == ["a", "b"]


async def test_a_part_that_is_refused_leaves_nothing_of_itself_alone(
    telling: Store, heard: list[object], database: Path
) -> None:
    writes = (Telling("a"), Trying(Telling("refused", refuse)), Trying(Telling("b")))
    assert await asyncio.gather(*map(telling.write, writes)) == ["a", "tried", "tried"]
    ends = Noted("before"), Noted("after")
    assert heard == [Noted("a"), *ends, ends[0], Noted("b"), ends[1]]
    assert notes_on_disk(database) == ["a", "b"]


async def test_what_stands_in_for_a_write_that_fails_tells_in_its_place(telling: Store, heard: list[object]) -> None:
    asked = Telling("a"), Telling("bug", fail, instead=Telling("instead")), Telling("b")
    assert await all_of(telling, *asked) == ["a", "instead", "b"]
    assert heard == [Noted("a"), Noted("instead"), Noted("b")]


@pytest.mark.parametrize("place", range(3))
async def test_neighbours_that_are_run_again_one_by_one_tell_of_that_alone(
    telling: Store, heard: list[object], place: int
) -> None:
    asked = [TellingTogether("a"), TellingTogether("b")]
    asked.insert(place, TellingTogether("bug", fail))
    results = await all_of(telling, *asked)
    assert isinstance(results.pop(place), ZeroDivisionError)
    assert results == ["a", "b"]
    assert heard == [Noted("a"), Counted(1), Noted("b"), Counted(1)]


async def test_what_an_outage_puts_off_is_told_when_it_has_happened(
    telling: Store, heard: list[object], database: Path
) -> None:
    with locked(database):
        written = telling.write(Telling("a"), in_outage="wait")
        with pytest.raises(GatewayError, match="ledger_unavailable"):
            await telling.write(Telling("refused"))
        assert heard == []
    assert await late(written) == "a"
    assert heard == [Noted("a")]


async def test_a_transaction_that_is_broken_off_in_the_middle_tells_nothing_until_it_is_run_again(
    telling: Store, heard: list[object], database: Path
) -> None:
    is_full = True

    def fill() -> None:
        if is_full:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    first = telling.write(Telling("a"), in_outage="wait")
    broken = telling.write(Telling("b", fill), in_outage="wait")
    await eventually(lambda: not telling.is_available)
    assert (heard, notes_on_disk(database)) == ([], [])
    is_full = False
    assert [await late(first), await late(broken)] == ["a", "b"]
    assert heard == [Noted("a"), Noted("b")]


async def test_what_is_withdrawn_is_never_told(telling: Store, heard: list[object]) -> None:
    written = telling.write(Telling("a"))
    assert telling.withdraw(written)
    await telling.write(Telling("b"))
    assert heard == [Noted("b")]


async def test_what_is_committed_by_the_end_of_the_store_is_told(telling: Store, heard: list[object]) -> None:
    telling.write(Telling("a"))
    assert await telling.close() == []
    assert heard == [Noted("a")]


async def test_who_listens_later_is_told_in_the_place_of_whoever_did(telling: Store, heard: list[object]) -> None:
    await telling.write(Telling("a"))
    later: list[Noted] = []
    telling.listen(Noted, later.append)
    await telling.write(TellingTogether("b"))
    assert (heard, later) == ([Noted("a"), Counted(1)], [Noted("b")])


async def test_what_nobody_listens_for_is_forgotten(telling: Store) -> None:
    await telling.write(Telling("a"))
    later: list[Noted] = []
    telling.listen(Noted, later.append)
    await telling.write(Telling("b"))
    assert later == [Noted("b")]


async def test_a_listener_that_fails_holds_up_neither_results_nor_other_listeners_nor_later_writes(
    telling: Store, heard: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    telling.listen(Noted, lambda _: fail())
    assert await all_of(telling, TellingTogether("a"), Telling("b")) == ["a", "b"]
    assert heard == [Counted(1)]
    assert [log.levelname for log in caplog.records] == ["CRITICAL"] * 2
    assert "ZeroDivisionError" in caplog.text
    assert await telling.write(Telling("c")) == "c"


async def test_who_is_told_may_write(telling: Store, heard: list[object]) -> None:
    """In the next transaction."""
    more: list[asyncio.Future[str]] = []
    telling.listen(Counted, lambda _: more.append(telling.write(Telling("more"))))
    await telling.write(TellingTogether("a"))
    assert await more.pop() == "more"
    assert heard == [Noted("a"), Noted("more")]
