"""A database of SQLite's in one of PostgreSQL's: served from there, everybody has what they had."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.store.opening import database_in
from mcp_gateway.core.store.postgres.database import PostgresDatabase
from mcp_gateway.core.store.postgres.filling import SEEDED
from mcp_gateway.core.store.sole import AlreadyServed
from mcp_gateway.core.store.sqlite.database import DATABASE
from tests.core.store.postgres.test_schema import OWN, columns_of_sqlite
from tests.databases import migrated
from tests.postgres_server import Outside, postgres_server
from tests.replaying import ReplayingBackend
from tests.serving import Clock, Door, bearer, open_door
from tests.stage import PRICED, Stage, staged
from tests.test_command_line import run
from tests.test_commands import told

pytestmark = pytest.mark.engines

TOLD = ("/v1/billing", "/v1/billing/transactions", "/v1/usage", "/v1/requests", "/v1/keys", "/v1/limits")


@pytest.fixture
def url() -> str:
    return postgres_server().make_empty()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    migrated(tmp_path / DATABASE)
    without_notes(tmp_path)
    return tmp_path


def without_notes(folder: Path) -> None:
    """A table of tests' own."""
    with changing(folder) as connection:
        connection.execute("DROP TABLE IF EXISTS notes")


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(folder / DATABASE)) as connection:
        yield connection
        connection.commit()


def copied(folder: Path, url: str) -> dict[str, int]:
    with database_in(folder).contents() as contents:
        return dict(database_in(folder, url).fill(contents))


async def told_to(stage: Stage) -> dict[str, Any]:
    answers = [await stage.door.http.get(path, headers=bearer(stage.key)) for path in TOLD]
    assert {answer.status_code for answer in answers} == {200}
    told = {path: answer.json() for path, answer in zip(TOLD, answers, strict=True)}
    for summed_up in (told["/v1/billing"]["usage"], told["/v1/usage"]):
        del summed_up["until"]  # which is now
    return told


async def with_a_past(door: Door, backend: ReplayingBackend) -> Stage:
    """Chats that are billed and one that failed, people, an administrator's change, a budget, a key that is no more."""
    stage = await staged(door, backend)
    for _ in range(3):
        assert (await stage.ask()).status_code == 200
    assert (await door.chat(stage.key, model="none")).status_code == 404
    wanted = {"name": "b\u00e9 \u2603", "budgets": [{"amount_usd": "1", "window": "month"}]}
    made = await door.http.post("/v1/keys", json=wanted, headers=bearer(stage.key))
    assert made.status_code == 201, made.text
    desk = await door.desk()
    await desk.ledger.grant(stage.account_id, 5 * 10**8, "gift")
    await desk.accounts.create("of the operator's")
    await door.nothing_is_left()
    return stage


async def test_whoever_serves_from_the_copy_knows_all_that_was_known(
    tmp_path: Path, url: str, backend: ReplayingBackend
) -> None:
    settings: dict[str, Any] = {"vllm_urls": [backend.url], "models": [PRICED]}
    clock = Clock()
    async with open_door(tmp_path, clock, **settings) as door:
        stage = await with_a_past(door, backend)
        before = await told_to(stage)
    without_notes(tmp_path)
    counts = copied(tmp_path, url)
    assert counts["request_rows"] == 4
    assert counts["hourly_usage"] == sum(1 for _ in rows_in(tmp_path, "hourly_usage"))
    async with open_door(tmp_path, clock, **settings, database_url=url) as door:
        stage.door = door
        assert await told_to(stage) == before
        left_nano = await door.balance_nano(stage.account_id)
        assert (await stage.ask()).status_code == 200
        await door.nothing_is_left()
        assert await door.balance_nano(stage.account_id) < left_nano
        desk = await door.desk()
        assert await desk.ledger.check(of_all_entries=True) == []


def rows_in(folder: Path, table: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(folder / DATABASE)) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()


def test_every_table_is_copied_and_those_with_a_row_from_the_beginning_are_named(folder: Path, url: str) -> None:
    counts = copied(folder, url)
    assert counts.keys() == {table for table, _ in columns_of_sqlite()}
    assert not counts.keys() & OWN
    assert {table for table, rows in counts.items() if rows} == SEEDED
    with Outside(url) as outside:
        tables = outside.rows("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")
        assert {table for (table,) in tables} == counts.keys() | OWN
        (identity,) = outside.rows("SELECT id FROM database_identity")
        assert outside.rows("SELECT tgname::text FROM pg_trigger WHERE tgenabled = 'D'") == []
        (found,) = rows_in(folder, "database_identity")
        assert identity == found


def test_numbers_go_on_and_order_stays(folder: Path, url: str) -> None:
    with changing(folder) as connection:
        connection.executemany("INSERT INTO names (number, name) VALUES (?, ?)", [(7, "b"), (3, "a\x00b")])
        connection.execute("INSERT INTO orders (id, kind, asked, asked_at_ms) VALUES (41, 'x', 'y', 0)")
        connection.execute("DELETE FROM orders")
        for name in ("bud_b", "bud_a"):
            connection.execute(
                'INSERT INTO budgets (id, account_id, holder, amount_nano, "window", made_at_ms) '
                "VALUES (?, 'acc_guest', 'acc_guest', 1, 'total', 0)",
                (name,),
            )
    assert copied(folder, url)["budgets"] == 2
    with Outside(url) as outside:
        assert outside.rows("SELECT number, name FROM names ORDER BY number") == [(3, "a\ufffdb"), (7, "b")]
        assert outside.rows("INSERT INTO names (name) VALUES ('c') RETURNING number") == [(8,)]
        added = "INSERT INTO orders (kind, asked, asked_at_ms) VALUES ('x', 'y', 0) RETURNING id"
        assert outside.rows(added) == [(42,)]
        assert outside.rows("SELECT id FROM budgets ORDER BY rowid") == [("bud_b",), ("bud_a",)]


def test_a_database_that_was_used_and_one_that_is_served_are_left_as_they_are(folder: Path, url: str) -> None:
    database_in(folder, url).upgrade_unless_served()  # which is not to be used
    assert copied(folder, url)
    with changing(folder) as connection:
        connection.execute("INSERT INTO accounts (id, name, created_at_ms) VALUES ('acc_b', 'b', 0)")
    assert copied(folder, url)["accounts"] == 2  # nothing was kept in it yet
    with pytest.raises(DatabaseError, match="there are rows in accounts already"):
        copied(folder, url)
    with Outside(url) as outside:
        outside.rows("SELECT pg_advisory_lock_shared(1835231079, 2)")
        database = PostgresDatabase(folder, url, patience_s=0)
        with database_in(folder).contents() as contents, pytest.raises(AlreadyServed):
            database.fill(contents)
        assert outside.rows("SELECT tgname::text FROM pg_trigger WHERE tgenabled = 'D'") == []


def test_what_does_not_fit_leaves_the_new_database_new(folder: Path, url: str) -> None:
    with changing(folder) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("INSERT INTO accounts (id, name, created_at_ms) VALUES ('acc_b', 'b', 0)")
        connection.execute("INSERT INTO sharing_accounts VALUES ('acc_c', 'secret')")
    with pytest.raises(DatabaseError, match="sharing_accounts cannot be copied") as refused:
        copied(folder, url)
    assert "secret" not in str(refused.value)
    with Outside(url) as outside:
        assert outside.rows("SELECT id FROM accounts") == [("acc_guest",)]
    with changing(folder) as connection:
        connection.execute("DELETE FROM sharing_accounts")
    assert copied(folder, url)["accounts"] == 2
    with contextlib.ExitStack() as stack:
        contents = stack.enter_context(database_in(folder).contents())
        assert contents.discrepancies() == []
        contents.columns["models_seen"].append("other")  # type: ignore[attr-defined]
        with pytest.raises(DatabaseError, match="not of one version: models_seen"):
            database_in(folder, url).fill(contents)


def test_a_copy_that_is_not_whole_or_whose_books_do_not_agree_is_taken_back(folder: Path, url: str) -> None:
    with database_in(folder).contents() as contents:
        contents.count = lambda table: 70  # type: ignore[method-assign]
        with pytest.raises(DatabaseError, match=r"has 70 rows, and its copy [01]"):
            database_in(folder, url).fill(contents)
    with changing(folder) as connection:
        connection.execute("INSERT INTO wallets VALUES ('acc_guest', 1, 0, 0)")
    with database_in(folder).contents() as contents:
        assert len(contents.discrepancies()) == 1
        with pytest.raises(DatabaseError, match="the books of the copy do not agree: a wallet differs"):
            database_in(folder, url).fill(contents)
    with Outside(url) as outside:
        assert outside.rows("SELECT account_id FROM wallets") == []


def test_the_command_says_what_it_has_done(folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(folder))
    monkeypatch.chdir(folder)
    assert run("accounts", "create", "Ann", "--credit", "5").exit_code == 0
    facts = told("db", "copy", "--to", url)
    assert (facts["tables"]["accounts"], facts["rows"]) == (2, sum(facts["tables"].values()))
    monkeypatch.setenv("GATEWAY_DATABASE_URL", url)
    assert told("accounts", "list")[1]["balance_usd"] == "5.00"
    assert told("db", "check", "--all")["is_sound"]
    assert told("db", "migrate")["before"] == told("db", "check")["schema"]
    again = run("db", "copy")
    assert (again.exit_code, "already" in again.stderr) == (2, True)


def test_what_the_server_knows_to_be_wrong_is_told(folder: Path, url: str) -> None:
    database = database_in(folder, url)
    assert database.schema().applied == 0
    database.upgrade_unless_served()
    assert database.faults() == []
    with Outside(url) as outside:
        outside.run("ALTER TABLE names DISABLE TRIGGER names_stay")
    assert database.faults() == ["a trigger that is switched off: names, names_stay"]
    with pytest.raises(DatabaseError, match="pg_dump"):
        database.contents()
    with database_in(folder).contents() as contents, pytest.raises(DatabaseError, match="PostgreSQL's alone"):
        database_in(folder).fill(contents)
