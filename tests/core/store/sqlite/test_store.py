"""The store by itself: what is committed, when, and what an outage or a bug in one write does to the rest.

Writes that are submitted without an await between them become one burst. The log's way to the disk is in
test_write_ahead_log.py, writes in groups are in test_groups.py.
"""

import asyncio
import errno
import logging
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
from tests.databases import Query, Work, changing, locked, open_store
from tests.patience import eventually


def note(text: str) -> Work[None]:
    @Work
    def work(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO notes (text) VALUES (?)", (text,))

    return work


def notes_on_disk(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return [row[0] for row in connection.execute("SELECT text FROM notes ORDER BY rowid")]


async def test_a_write_is_on_disk_for_other_connections_when_its_result_comes(store: Store, database: Path) -> None:
    await store.write(note("one"))
    assert notes_on_disk(database) == ["one"]


async def test_a_row_is_fetched_while_a_report_is_read(store: Store) -> None:
    gate = threading.Event()
    store._readers._lanes["scan"]._connection.create_function("passed", 0, lambda: gate.wait(60))
    report = asyncio.ensure_future(store.read(Query("SELECT passed()")))
    assert (await store.read(Query("SELECT 7")))[0] == (7,)
    assert not report.done()
    gate.set()
    assert await report == [(1,)]


async def test_a_write_returns_what_its_work_returns(store: Store) -> None:
    assert await store.write(Work(lambda connection: connection.execute("SELECT 7").fetchone()[0])) == 7


async def test_reads_see_what_was_committed(store: Store) -> None:
    await store.write(note("one"))
    assert await store.read(Query("SELECT text FROM notes")) == [("one",)]
    assert await store.read(Query("SELECT text FROM notes WHERE text = ?", ("two",))) == []


async def test_reads_cannot_write(store: Store) -> None:
    with pytest.raises(DatabaseError, match="readonly"):
        await store.read(Query("INSERT INTO notes (text) VALUES ('sneaked in')"))


async def test_writes_of_one_burst_run_in_the_order_of_the_calls_and_see_each_other(store: Store) -> None:
    count = "SELECT COUNT(*) FROM notes"
    for number in range(50):
        store.write(note(str(number)))
    seen = store.write(Work(lambda connection: connection.execute(count).fetchone()[0]))
    assert await seen == 50
    assert await store.read(Query("SELECT text FROM notes ORDER BY rowid")) == [(str(n),) for n in range(50)]


async def test_a_refusal_concerns_only_the_write_that_refuses(store: Store, database: Path) -> None:
    @Work
    def refuse(connection: sqlite3.Connection) -> None:
        raise GatewayError("insufficient_balance", "No.")

    writes = [store.write(note("before")), store.write(refuse), store.write(note("after"))]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [getattr(result, "code", result) for result in results] == [None, "insufficient_balance", None]
    assert notes_on_disk(database) == ["before", "after"]


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


async def test_several_failing_writes_leave_the_rest_of_the_burst_in_one_piece(store: Store, database: Path) -> None:
    @Work
    def crash(connection: sqlite3.Connection) -> None:
        note("never").work(connection)
        raise ZeroDivisionError

    writes = [store.write(work) for number in range(10) for work in (note(str(number)), crash)]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), ZeroDivisionError] * 10
    assert notes_on_disk(database) == [str(number) for number in range(10)]


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


async def test_a_write_whose_waiter_left_is_still_done(store: Store, database: Path) -> None:
    store.write(note("left alone")).cancel()
    last = store.write(note("last"))
    await last
    assert notes_on_disk(database) == ["left alone", "last"]


async def test_a_failed_write_that_nobody_waits_for_is_logged_without_its_content(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    @Work
    def fail(connection: sqlite3.Connection) -> None:
        raise ZeroDivisionError("secret")

    store.write(fail).cancel()
    await store.write(note("later"))
    assert "ZeroDivisionError" in caplog.text
    assert "secret" not in caplog.text


async def test_a_locked_database_fails_writes_with_503_and_service_resumes_by_itself(
    store: Store, database: Path
) -> None:
    with locked(database):
        with pytest.raises(GatewayError) as caught:
            await store.write(note("refused"))
        assert caught.value.code == "ledger_unavailable"
        assert caught.value.status == 503
        assert await store.read(Query("SELECT * FROM notes")) == []  # reading goes on
    await store.write(note("accepted"))
    assert notes_on_disk(database) == ["accepted"]


async def test_an_outage_ends_by_itself_though_nobody_asks(store: Store, database: Path) -> None:
    assert store.is_available
    with locked(database):
        with pytest.raises(GatewayError):
            await store.write(note("refused"))
        assert not store.is_available
    await eventually(lambda: store.is_available)
    assert notes_on_disk(database) == []
    with locked(database):  # which others can take again
        pass


async def test_closing_in_an_outage_has_nothing_to_tell_of_what_was_refused(store: Store, database: Path) -> None:
    with locked(database):
        with pytest.raises(GatewayError):
            await store.write(note("refused"))
        assert await store.close() == []


async def test_what_waits_is_not_told_of_an_outage_and_goes_through_in_order(store: Store, database: Path) -> None:
    with locked(database):
        waiting = [store.write(note(text), in_outage="wait") for text in ("first", "second")]
        with pytest.raises(GatewayError):
            await store.write(note("refused"))
        assert not any(write.done() for write in waiting)
    await asyncio.gather(*waiting)
    assert notes_on_disk(database) == ["first", "second"]


async def test_what_was_withdrawn_never_happens(store: Store, database: Path) -> None:
    with locked(database):
        first, second = [store.write(note(text), in_outage="wait") for text in ("first", "second")]
        with pytest.raises(GatewayError):
            await store.write(note("refused"))
        assert store.withdraw(first)
        assert not store.withdraw(first)
    await second
    assert notes_on_disk(database) == ["second"]
    assert not store.withdraw(second)
    assert not first.done()


async def test_what_is_kept_goes_through_once_the_lock_is_gone_and_exactly_once(
    store: Store, database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with locked(database):
        kept = [store.write(note(text), in_outage="keep") for text in ("first", "second")]
        dropped = store.write(note("dropped"))
        results = await asyncio.gather(*kept, dropped, return_exceptions=True)
        assert [getattr(result, "code", None) for result in results] == ["ledger_unavailable"] * 3
    await eventually(lambda: notes_on_disk(database) == ["first", "second"])
    await store.write(note("third"))
    assert notes_on_disk(database) == ["first", "second", "third"]
    assert "left out" not in caplog.text  # a second "first" would have failed


async def test_what_is_kept_comes_before_what_is_asked_later(store: Store, database: Path) -> None:
    with locked(database), pytest.raises(GatewayError):
        await store.write(note("late"), in_outage="keep")
    await store.write(note("new"))
    assert notes_on_disk(database) == ["late", "new"]


async def test_a_full_disk_fails_writes_with_503_keeps_what_it_is_to_keep_and_recovers(
    store: Store, database: Path
) -> None:
    pages = await store.write(Work(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0]))
    limit = pages

    def big(text: str) -> Work[None]:
        @Work
        def work(connection: sqlite3.Connection) -> None:
            connection.execute(f"PRAGMA max_page_count = {limit}")
            connection.execute("INSERT INTO notes VALUES (?, zeroblob(100000))", (text,))

        return work

    for is_kept in (False, True):
        with pytest.raises(GatewayError) as caught:
            await store.write(big(f"is_kept={is_kept}"), in_outage="keep" if is_kept else "refuse")
        assert caught.value.code == "ledger_unavailable"
    limit = pages + 1000
    await eventually(lambda: notes_on_disk(database) == ["is_kept=True"])
    await store.write(note("as before"))


async def test_an_outage_is_logged_once(store: Store, database: Path, caplog: pytest.LogCaptureFixture) -> None:
    with locked(database):
        for _ in range(3):
            with pytest.raises(GatewayError):
                await store.write(note("refused"))
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_the_event_loop_runs_on_while_a_write_waits_for_a_lock(store: Store, database: Path) -> None:
    with locked(database):
        write = store.write(note("waiting"))
        turns = 0
        while not write.done():
            turns += 1
            await asyncio.sleep(0)
    assert turns > 1
    assert write.exception() is not None


async def test_closing_commits_what_is_queued(database: Path, store: Store) -> None:
    for number in range(100):
        store.write(note(str(number)), is_durable=False)
    closing_store = asyncio.ensure_future(store.close())
    await asyncio.sleep(0)
    await closing_store
    assert len(notes_on_disk(database)) == 100


async def test_closing_ends_even_if_the_database_stays_locked(database: Path, store: Store) -> None:
    with locked(database):
        kept, waiting = store.write(lost := note("lost"), in_outage="keep"), store.write(lost, in_outage="wait")
        assert await store.close() == [lost, lost]
        assert isinstance(kept.exception(), GatewayError)
        assert waiting.cancelled()


async def test_a_write_after_close_is_refused(store: Store) -> None:
    await store.close()
    with pytest.raises(RuntimeError):
        store.write(note("too late"))
    await store.close()  # closing again changes nothing


async def test_a_write_waits_for_another_process_that_writes_for_a_moment(database: Path) -> None:
    store = await open_store(database)
    other = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    is_tried = threading.Event()
    store._connection.set_trace_callback(lambda sql: is_tried.set())
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
