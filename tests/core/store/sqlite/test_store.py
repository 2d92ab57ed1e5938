"""The store by itself: what is committed, when, and what an outage or a bug in one write does to the rest.

Writes that are submitted without an await between them become one burst. The log's way to the disk is in
test_write_ahead_log.py, writes in groups are in test_groups.py.
"""

import asyncio
import errno
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.store.sqlite import store as store_module
from mcp_gateway.core.store.sqlite.store import Store
from mcp_gateway.core.store.sqlite.write_ahead_log import WriteAheadLog
from tests.databases import Work, changing, locked, open_store
from tests.patience import eventually


def note(text: str) -> Work[None]:
    @Work
    def work(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO notes (text) VALUES (?)", (text,))

    return work


def notes_on_disk(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return [row[0] for row in connection.execute("SELECT text FROM notes ORDER BY rowid")]


async def test_a_write_that_fails_halfway_takes_back_its_own_changes_and_no_others(
    store: Store, database: Path
) -> None:
    @Work
    def fail_halfway(connection: sqlite3.Connection) -> None:
        note("half").work(connection)
        note("before").work(connection)

    writes = [store.write(note("before")), store.write(fail_halfway), store.write(note("after"))]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), DatabaseError, type(None)]
    assert notes_on_disk(database) == ["before", "after"]


async def test_a_failure_before_any_change_costs_the_others_nothing(store: Store) -> None:
    runs = 0

    @Work
    def count(connection: sqlite3.Connection) -> None:
        nonlocal runs
        runs += 1

    @Work
    def bad_text(connection: sqlite3.Connection) -> None:
        note("\ud800").work(connection)

    writes = [store.write(count), store.write(bad_text)]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), UnicodeEncodeError]
    assert runs == 1


async def test_an_outage_ends_by_itself_though_nobody_asks(store: Store, database: Path) -> None:
    assert store.is_available
    async with locked(database):
        with pytest.raises(GatewayError):
            await store.write(note("refused"))
        assert not store.is_available
    await eventually(lambda: store.is_available)
    assert notes_on_disk(database) == []
    async with locked(database):  # which others can take again
        pass


async def test_a_write_waits_for_another_process_that_writes_for_a_moment(database: Path) -> None:
    store = await open_store(database)
    other = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    is_tried = threading.Event()
    store._writer._connection.set_trace_callback(lambda sql: is_tried.set())
    writing = asyncio.ensure_future(store.write(changing("CREATE TABLE late (x)")))
    await eventually(is_tried.is_set)
    other.execute("COMMIT")
    await writing
    other.close()
    await store.close()


async def test_a_look_at_the_log_that_fails_stops_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(log: WriteAheadLog, size_bytes: int) -> bool:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(WriteAheadLog, "reaches", fail)
    async with asyncio.timeout(60):
        for number in range(40):
            await store.write(note(str(number)), is_durable=False)


async def test_an_sqlite_that_is_too_old_is_refused_by_its_number(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    with pytest.raises(DatabaseError, match=r"SQLite 3\.37 is needed"):
        await open_store(fresh)
    assert not fresh.exists()  # noqa: ASYNC240 - nothing is served here


@pytest.mark.parametrize("is_released", [True, False])
def test_a_fresh_database_that_another_process_is_opening_is_tried_for_a_while(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, is_released: bool
) -> None:
    with (
        closing(sqlite3.connect(fresh, isolation_level=None)) as other,
        closing(sqlite3.connect(fresh, isolation_level=None, timeout=0)) as connection,
    ):
        other.execute("BEGIN EXCLUSIVE")
        if is_released:
            monkeypatch.setattr(time, "sleep", lambda _: other.execute("ROLLBACK"))
            store_module._switch_to_wal(connection, 60)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        else:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                store_module._switch_to_wal(connection, 0)


async def test_one_that_is_alone_is_no_replica_hears_all_there_is_and_does_what_falls_due(store: Store) -> None:
    assert (store.replica, store.hears_others, store.is_elected) == (None, True, True)
