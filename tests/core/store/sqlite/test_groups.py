"""Writes in groups: neighbours in one call, in order, each with an outcome of its own; and what gathers in a burst."""

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.gathering import LONGEST_S
from mcp_gateway.core.store.sqlite.store import Store
from tests.core.store.sqlite.test_store import note, notes_on_disk
from tests.databases import Together


class Notes:
    """A group that notes texts, refuses "no", breaks at "bug", and remembers the calls."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def write(self, connection: sqlite3.Connection, texts: Sequence[str]) -> list[str | GatewayError]:
        self.calls.append(list(texts))
        return [self._write(connection, text) for text in texts]

    def _write(self, connection: sqlite3.Connection, text: str) -> str | GatewayError:
        if text == "no":
            return GatewayError("insufficient_balance", "No.")
        note(text).work(connection)
        if text == "bug":
            raise ZeroDivisionError
        return text.upper()


async def test_a_group_that_forgets_an_outcome_has_written_nothing(store: Store, database: Path) -> None:
    def forgetful(connection: sqlite3.Connection, texts: Sequence[str]) -> list[str | GatewayError]:
        note("never").work(connection)
        return []

    with pytest.raises(ValueError, match="shorter"):
        await store.write(Together(forgetful, "a"))
    assert notes_on_disk(database) == []


async def test_what_comes_in_turns_of_the_loop_without_a_gap_shares_a_burst(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        store._writer._gathering, "_monotonic_s", lambda: 0.0
    )  # a busy machine may take 2 ms for these turns
    notes = Notes()

    async def write_after(turns: int, text: str) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await store.write(Together(notes.write, text))

    await asyncio.gather(*(write_after(turns, text) for turns, text in zip((0, 0, 1, 2, 3, 4), "abcdef", strict=True)))
    assert sum(map(len, notes.calls)) == 6
    assert len(notes.calls) <= 2  # the last of them may come a turn late


async def test_a_lone_write_is_committed_in_the_next_turn(store: Store, database: Path) -> None:
    store.write(note("alone"))
    await asyncio.sleep(0)
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT text FROM notes").fetchall() == [("alone",)]


async def test_a_loop_that_never_rests_does_not_put_off_a_burst_for_long(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = 0
    monkeypatch.setattr(store._writer._gathering, "_monotonic_s", lambda: number * LONGEST_S / 10)
    notes = Notes()
    first = store.write(Together(notes.write, "first"), is_durable=False)
    while not first.done():
        number += 1
        store.write(Together(notes.write, str(number)), is_durable=False)
        await asyncio.sleep(0)
    assert 10 <= number <= 12
    await store.flushed()
    assert sum(map(len, notes.calls)) == 1 + number


async def test_a_burst_that_is_full_does_not_wait(store: Store) -> None:
    notes = Notes()
    for number in range(300):
        store.write(Together(notes.write, str(number)))
    await store.flushed()
    assert [len(call) for call in notes.calls] == [128, 128, 44]
