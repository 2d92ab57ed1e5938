"""The log's way to the disk: what waits for which sync, what a failing one costs; and how far the log grows."""

import asyncio
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.store.sqlite.store import Store
from mcp_gateway.core.store.sqlite.write_ahead_log import WriteAheadLog
from tests.core.store.sqlite.test_store import note, notes_on_disk
from tests.databases import Work, changing
from tests.disk import Disk
from tests.patience import eventually


async def committed(store: Store) -> None:
    """Once everything asked for before is committed, on the disk or not."""
    await store.write(Work(lambda connection: None), is_durable=False)


def notes_without_log(database: Path) -> list[str]:
    """What is in the database file by itself."""
    copy = database.with_name("copy.sqlite3")
    copy.write_bytes(database.read_bytes())
    return notes_on_disk(copy)


async def test_only_a_durable_write_is_synced(store: Store, disk: Disk) -> None:
    await store.write(note("one"), is_durable=False)
    assert disk.begun == 0
    await store.write(note("two"))
    assert disk.begun == 1


async def test_a_durable_result_never_comes_before_a_sync_that_began_after_its_commit(store: Store, disk: Disk) -> None:
    disk.hold()
    first = store.write(note("first"))
    await eventually(lambda: disk.begun == 1)
    second = store.write(note("second"))
    await committed(store)
    disk.release(1)
    await first
    await eventually(lambda: disk.begun == 2)
    assert not second.done()
    disk.release(1)
    await second


async def test_all_that_is_committed_during_a_sync_shares_the_next(store: Store, disk: Disk) -> None:
    disk.hold()
    writes = [store.write(note("first"))]
    await eventually(lambda: disk.begun == 1)
    for number in range(10):
        writes.append(store.write(note(str(number))))
        await committed(store)
    disk.release()
    await asyncio.gather(*writes)
    assert disk.begun == 2


# A sync that fails


async def test_a_failed_sync_is_told_to_all_that_were_committed_meanwhile_and_made_good(
    store: Store, disk: Disk, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk.hold()
    disk.failures = 1
    writes = [store.write(note("first"), in_outage="keep")]
    await eventually(lambda: disk.begun == 1)
    writes.append(store.write(note("second"), in_outage="keep"))
    await committed(store)
    disk.release()
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [getattr(result, "code", None) for result in results] == ["ledger_unavailable"] * 2
    await store.write(note("third"))
    assert notes_on_disk(database) == ["first", "second", "third"]  # once each: they were committed
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_after_a_failed_sync_the_log_is_moved_into_the_database_before_anything_is_called_durable(
    store: Store, disk: Disk, database: Path
) -> None:
    disk.failures = 1
    with pytest.raises(GatewayError):
        await store.write(note("in doubt"))
    await store.write(note("after"))
    assert notes_without_log(database) == ["in doubt"]


async def test_a_quiet_store_makes_good_a_failed_sync_by_itself(store: Store, disk: Disk, database: Path) -> None:
    disk.failures = 1
    with pytest.raises(GatewayError):
        await store.write(note("in doubt"))
    await eventually(lambda: disk.begun == 2)
    assert notes_without_log(database) == ["in doubt"]


# The log's size


@pytest.fixture
def small_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_gateway.core.store.sqlite.checkpoints._CHECKPOINT_BYTES", 100_000)
    monkeypatch.setattr("mcp_gateway.core.store.sqlite.writer._BURSTS_PER_LOOK", 4)
    monkeypatch.setattr("mcp_gateway.core.store.sqlite.checkpoints._REST_S", 0.0)


def size(database: Path) -> int:
    return database.with_name(database.name + "-wal").stat().st_size


@contextmanager
def long_read(database: Path) -> Iterator[None]:
    """Another process's read transaction, as long as the block runs."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT COUNT(*) FROM notes").fetchone()
        yield


@pytest.mark.usefixtures("small_log")
@pytest.mark.parametrize("is_durable", [False, True])
async def test_the_write_ahead_log_does_not_grow_without_end_but_begins_anew_in_the_file_it_has(
    store: Store, database: Path, is_durable: bool
) -> None:
    number, sizes = 0, [0]
    with closing(WriteAheadLog(database)) as log:
        for _ in range(5):
            for is_full in (False, True):
                while log.reaches(100_000) is is_full:
                    await store.write(note(f"{number} {'x' * 10_000}"), is_durable=is_durable)
                    number += 1
            sizes.append(size(database))
    assert min(sizes[1:]) > 100_000  # reused, and cut at most by what it had grown beyond
    assert sizes[-1] < number * 40_000
    assert len(notes_on_disk(database)) == number


@pytest.mark.usefixtures("small_log")
async def test_a_long_read_keeps_the_log_and_stops_no_write(store: Store, database: Path) -> None:
    with closing(WriteAheadLog(database)) as log:
        with long_read(database):
            for number in range(50):
                await store.write(note(f"{number} {'x' * 10_000}"))
            assert log.reaches(1_000_000)
        while log.reaches(100_000):
            await store.write(changing("UPDATE notes SET size = 1 WHERE rowid = 1"))
    assert len(notes_on_disk(database)) == 50


async def test_a_log_without_a_frame_reaches_nowhere(fresh: Path) -> None:
    with closing(sqlite3.connect(fresh)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("SELECT * FROM sqlite_master").fetchall()
        with closing(WriteAheadLog(fresh)) as log:
            assert not log.reaches(5000)
            connection.execute("CREATE TABLE notes (text)")
            assert log.reaches(5000)
            assert not log.reaches(50_000)
