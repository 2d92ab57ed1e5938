"""Connections to PostgreSQL and who has them: what they are given, what befalls them, and who may write."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import asyncpg
import orjson
import pytest

from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.observe.retention import GiveSpaceBack, Space, SpaceOf
from mcp_gateway.core.store.database import ServedByOlder
from mcp_gateway.core.store.opening import database_in
from mcp_gateway.core.store.postgres import link as links
from mcp_gateway.core.store.postgres.database import PostgresDatabase
from mcp_gateway.core.store.postgres.faults import TakenOver, told
from mcp_gateway.core.store.postgres.link import ThreadedPostgresLink, Where
from mcp_gateway.core.store.postgres.migrations import check_version
from mcp_gateway.core.store.postgres.session import LOCKS, SERVING, WriterSession
from mcp_gateway.core.store.postgres.store import PostgresStore
from mcp_gateway.core.store.sole import AlreadyServed, sole_server
from tests.clocks import MsClock
from tests.core.store.contract.noting import fail, refuse
from tests.databases import AskedBy, Query, Work
from tests.patience import PATIENCE_S, eventually
from tests.postgres_server import Outside, name_in, postgres_server
from tests.postgres_stores import postgres_store

pytestmark = pytest.mark.engines


@pytest.fixture
def linked(lent_url: str) -> Iterator[ThreadedPostgresLink]:
    link = ThreadedPostgresLink(Where(lent_url, 5.0, {}))
    link.connect()
    yield link
    link.close()


@pytest.fixture
async def opened() -> AsyncIterator[PostgresStore]:
    async with postgres_store(MsClock()) as store:
        yield store


def cut_off(lent_url: str) -> None:
    """All connections to a database end."""
    server = postgres_server()
    server.admin.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ?", name_in(lent_url))


def test_values_are_as_columns_have_them(linked: ThreadedPostgresLink) -> None:
    """Text without the character that PostgreSQL takes in none, and sums as numbers."""
    found = linked.execute(
        "SELECT CAST(? AS text), CAST(? AS boolean), CAST(? AS text), SUM(n), SUM(n) / 4.0, CAST(? AS numeric) "
        "FROM (SELECT CAST(3 AS bigint) AS n) AS one",
        ("a\x00b", 1, 7, 2**70),
    )
    assert found.fetchone() == ("a\ufffdb", True, "7", 3, 0.75, 2**70)
    assert found.fetchone() is None
    assert list(linked.execute("SELECT CAST(? AS boolean)", (None,))) == [(None,)]


@pytest.mark.parametrize(
    ("given", "named"), [(["a\x00\x00b"], ["a\ufffd\ufffdb"]), (["\\u0000", "\\\x00"], ["\\u0000", "\\\ufffd"])]
)
def test_nor_has_a_list_that_is_json_that_character(
    linked: ThreadedPostgresLink, given: list[str], named: list[str]
) -> None:
    found = linked.execute("SELECT value FROM json_each(?)", (orjson.dumps(given).decode(),))
    assert found.fetchall() == [(one,) for one in named]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["a", None, ""], ["a", None, ""]),
        (("a\x00b", "c", None), ["a\ufffdb", "c", None]),
        (['["\\u0000"]', "\\u0000"], ['["\\ufffd"]', "\\u0000"]),
        ([7, "a", None], ["7", "a", None]),
        ([None], [None]),
        ([], []),
    ],
)
def test_texts_in_a_column_are_as_each_is_by_itself(
    linked: ThreadedPostgresLink, given: Sequence[object], found: list[str | None]
) -> None:
    assert linked.execute("SELECT CAST(? AS text[])", (given,)).fetchone() == (found,)


@pytest.mark.parametrize("given", [[], {}, b"a", object()])
def test_of_what_is_neither_text_nor_a_number_no_text_is_made(linked: ThreadedPostgresLink, given: object) -> None:
    with pytest.raises(asyncpg.DataError, match="expected str"):
        linked.execute("SELECT CAST(? AS text)", (given,))
    assert linked.execute("SELECT CAST(? AS text)", ("a",)).fetchone() == ("a",)


def test_a_number_that_was_given_is_told(linked: ThreadedPostgresLink) -> None:
    assert linked.execute("INSERT INTO names (name) VALUES (?)", ("a",)).lastrowid == 1
    linked.executemany("INSERT INTO names (name) VALUES (?)", [])
    linked.executemany("INSERT INTO names (name) VALUES (?)", [("b",), ("c",)])
    assert linked.total_changes == 3


def test_few_statements_are_kept_prepared(linked: ThreadedPostgresLink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "_MOST_PREPARED", 2)
    for number in (1, 2, 3, 1):
        assert linked.execute(f"SELECT {number}").fetchall() == [(number,)]
    assert len(linked._prepared) == 2


def test_a_connection_that_was_lost_is_closed(lent_url: str) -> None:
    link = ThreadedPostgresLink(Where(lent_url, 5.0, {}))
    link.connect()
    assert link._connection is not None
    link._connection._protocol.abort()
    link.close()


def test_a_connection_that_cannot_be_ended_is_dropped(lent_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs(_: object, *, timeout: float) -> None:  # noqa: ASYNC109 - as its name is there
        raise TimeoutError

    monkeypatch.setattr("asyncpg.Connection.close", hangs)
    link = ThreadedPostgresLink(Where(lent_url, 5.0, {}))
    link.connect()
    link.close()
    assert not link.is_open


def test_what_cannot_be_rolled_back_ends_with_its_connection(lent_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object, __: str) -> None:
        raise TimeoutError

    session = WriterSession(lent_url, is_server=False)
    session.open()
    session.begin(is_durable=True)
    with monkeypatch.context() as broken:
        broken.setattr(links.PostgresLink, "script", fails)
        session.roll_back()
    assert not session.link.is_open
    session.close()


async def test_what_changed_nothing_is_refused_or_fails_without_another_run(opened: PostgresStore) -> None:
    runs: list[str] = []

    def refused(_: object) -> None:
        runs.append("refused")
        refuse()

    def fails(_: object) -> None:
        runs.append("failed")
        fail()

    outcomes = await asyncio.gather(opened.write(Work(refused)), opened.write(Work(fails)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [GatewayError, ZeroDivisionError]
    assert runs == ["refused", "failed"]


def test_an_older_server_is_refused(linked: ThreadedPostgresLink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ThreadedPostgresLink, "version", "15.9")
    with pytest.raises(DatabaseError, match="16 or newer"):
        check_version(linked)


def test_a_time_that_ran_out_is_told_in_words() -> None:
    assert told(TimeoutError()) == "it did not answer in time"
    assert told(ConnectionResetError()) == "ConnectionResetError"


async def test_a_read_goes_on_by_another_connection(opened: PostgresStore) -> None:
    lent_url = opened._readers._lanes["point"]._link._where.url
    assert await opened.read(Query("SELECT 1")) == [(1,)]
    cut_off(lent_url)
    assert await opened.read(Query("SELECT 2")) == [(2,)]
    with pytest.raises(DatabaseError, match="syntax"):
        await opened.read(Query("SELECT FROM WHERE"))
    assert await opened.read(Query("SELECT 3")) == [(3,)]
    assert opened.log_bytes == 0


async def test_reads_that_waited_while_one_failed_fail_with_it(
    opened: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[None] = []
    all_wait = threading.Event()

    def fails(_: object) -> None:
        tried.append(None)
        all_wait.wait(PATIENCE_S)
        raise ConnectionRefusedError("nobody is there")

    monkeypatch.setattr(links.PostgresLink, "connect", fails)
    reads = [asyncio.ensure_future(opened.read(Query("SELECT 1"))) for _ in range(5)]
    await asyncio.sleep(0)
    all_wait.set()
    outcomes = await asyncio.gather(*reads, return_exceptions=True)
    assert {str(outcome) for outcome in outcomes} == {"nobody is there"}
    assert len(tried) == 1


async def test_a_report_that_nobody_waits_for_is_given_up(opened: PostgresStore) -> None:
    slow = asyncio.ensure_future(opened.read(AskedBy("acc_1", "SELECT pg_sleep(100)")))
    await eventually(lambda: opened._readers._report_links._busy)
    [link] = opened._readers._report_links._busy.values()
    await eventually(lambda: link._prepared)
    slow.cancel()
    await asyncio.wait([slow])
    assert await opened.read(AskedBy("acc_1", "SELECT 1")) == [(1,)]


async def test_space_is_left_to_the_server(opened: PostgresStore) -> None:
    assert await opened.read(SpaceOf()) == Space(0, 0, can_shrink=False)
    await opened.write(GiveSpaceBack(1))


def test_who_was_cut_off_ends_its_former_session(lent_url: str) -> None:
    session = WriterSession(lent_url, is_server=True)
    session.open()
    session.link.drop()
    with Outside(lent_url) as former:
        former.rows("SELECT pg_advisory_lock(?, ?)", LOCKS + 1, session._id)
        with pytest.raises(TakenOver, match="not ended"):
            session.open()
    session.open()
    twin = WriterSession(lent_url, is_server=False)
    twin._id, twin.name = session._id, session.name
    with pytest.raises(TakenOver, match="not ended"):
        twin.open()
    twin.link.close()
    session.close()


def test_what_fails_as_a_session_ends_leaves_a_row(lent_url: str) -> None:
    session = WriterSession(lent_url, is_server=False)
    session.open()
    session.open()
    cut_off(lent_url)
    session.close()
    with Outside(lent_url) as outside:
        assert outside.rows("SELECT COUNT(*) FROM writers") == [(1,)]


async def test_another_server_or_an_older_one_is_in_the_way(tmp_path: Path, lent_url: str) -> None:
    database = PostgresDatabase(tmp_path, lent_url, patience_s=0.1)
    with Outside(lent_url) as another:
        another.rows("SELECT pg_try_advisory_lock(?, ?)", LOCKS, SERVING)
        with database.alone() as is_alone:
            assert not is_alone
        another.run("UPDATE schema_migrations SET number = -number")
        with pytest.raises(ServedByOlder, match="schema"):
            database.upgrade_unless_served()
        another.run("UPDATE schema_migrations SET number = -number")
        with pytest.raises(AlreadyServed):
            await database.open(now_ms=lambda: 0, report_timeout_s=1, is_server=True)
    with database.alone() as is_alone:
        assert is_alone
    with sole_server(tmp_path), database.alone() as is_alone:
        assert not is_alone


async def test_a_server_that_came_between_is_told_of(
    tmp_path: Path, lent_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PostgresDatabase, "_migrate_alone", lambda _: None)
    with Outside(lent_url) as another:
        another.rows("SELECT pg_try_advisory_lock(?, ?)", LOCKS, SERVING)
        with pytest.raises(AlreadyServed):
            await PostgresDatabase(tmp_path, lent_url).open(now_ms=lambda: 0, report_timeout_s=1, is_server=True)


def test_a_package_that_is_missing_for_another_reason_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mcp_gateway.core.store.postgres.database", None)
    with pytest.raises(ModuleNotFoundError):
        database_in(tmp_path, "postgresql://a@b/c")
