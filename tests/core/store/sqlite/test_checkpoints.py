"""What becomes of the log while it is tidied up: the disk fails, a reader is in the way, the store closes."""

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.store.sqlite import checkpoints, writer
from mcp_gateway.core.store.sqlite.store import Store
from mcp_gateway.core.store.sqlite.write_ahead_log import WriteAheadLog
from tests.core.store.sqlite.test_store import note, notes_on_disk
from tests.disk import Disk
from tests.patience import eventually


class Gated:
    """Work in a thread, each call of which a test lets go on."""

    def __init__(self, store: Store, name: str) -> None:
        self.begun = 0
        self._work = getattr(store._checkpoints, name)
        self._may_go_on = threading.Semaphore(0)
        setattr(store._checkpoints, name, self)

    def __call__(self) -> None:
        self.begun += 1
        assert self._may_go_on.acquire(timeout=60)
        self._work()

    def release(self, calls: int = 1000) -> None:
        self._may_go_on.release(calls)


@pytest.fixture(autouse=True)
def each_write_finds_the_log_too_long(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_BURSTS_PER_LOOK", 1)
    monkeypatch.setattr(checkpoints, "_CHECKPOINT_BYTES", 8192)


async def test_a_reader_in_the_way_puts_the_next_checkpoint_off(
    store: Store, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_REST_S", 3600)
    looked: list[int] = []
    reaches = WriteAheadLog.reaches

    def noted(log: WriteAheadLog, size: int) -> bool:
        looked.append(size)
        return reaches(log, size)

    monkeypatch.setattr(WriteAheadLog, "reaches", noted)
    with closing(sqlite3.connect(database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM notes").fetchall()
        await store.write(note("one"), is_durable=False)
        await eventually(lambda: store._checkpoints._next_look_s > 0 and store._writer._state == "idle")
        looks = len(looked)
        await store.write(note("two"), is_durable=False)
        assert len(looked) == looks
    assert notes_on_disk(database) == ["one", "two"]


async def test_a_log_that_grew_while_a_reader_was_in_the_way_shrinks_again(
    store: Store, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_REST_S", 0)
    with closing(sqlite3.connect(database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM notes").fetchall()
        for number in range(20):
            await store.write(note(f"{number} {'x' * 5000}"), is_durable=False)
        grown_bytes = store.log_bytes
    assert grown_bytes > 10 * 8192
    await store.write(note("the reader is gone"), is_durable=False)
    await eventually(lambda: store.log_bytes <= 2 * 8192 and store._writer._state == "idle")
    assert len(notes_on_disk(database)) == 21


async def test_closing_does_not_wait_for_a_copy_of_the_log_to_be_followed_up(store: Store, database: Path) -> None:
    copying = Gated(store, "_copy_log")
    await store.write(note("one"), is_durable=False)
    await eventually(lambda: copying.begun == 1)
    followed_up = store._checkpoints._copying
    assert followed_up is not None
    closing_store = asyncio.ensure_future(store.close())
    await eventually(followed_up.cancelled)
    copying.release()
    assert await closing_store == []
    assert copying.begun == 1
    assert notes_on_disk(database) == ["one"]


@pytest.mark.parametrize("part", ["_copy_log", "_restart_log"])
async def test_a_disk_that_fails_during_a_checkpoint_is_seen_to_after_it(
    store: Store, database: Path, disk: Disk, part: str
) -> None:
    gated = Gated(store, part)
    disk.hold()
    disk.failures = 1
    written = store.write(note("one"))
    await eventually(lambda: gated.begun == 1)
    disk.release(1)
    with pytest.raises(GatewayError, match="ledger"):
        await written
    assert not store.is_available
    if part == "_copy_log":
        await eventually(lambda: gated.begun == 2)  # that of the repair, beside that of the checkpoint
        gated.release(1)
        gated.release(1)
    gated.release()
    disk.release()
    await eventually(lambda: store.is_available)
    await store.write(note("two"))
    assert notes_on_disk(database) == ["one", "two"]
