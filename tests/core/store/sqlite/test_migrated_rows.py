"""A database of the last version whose rows had names: all of it is told as before by rows that have numbers."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from typing import get_args

import pytest

from mcp_gateway.core.money import EntryKind
from mcp_gateway.core.record import RequestRecord
from mcp_gateway.core.store.sqlite import migrations
from mcp_gateway.core.store.sqlite.migrations import migrate
from tests.cases import each
from tests.databases import of_version, record_before_names, record_in
from tests.recorded import recorded

LAST_WITH_NAMES = 59
AT_MS = 480_000 * 3_600_000
SUMS = ("hourly_usage", "hourly_parts", "hourly_tasks", "hourly_attributed")
BESIDE = (
    "request_counts", "routed_requests", "attributed_requests", "failed_attempts",
    "missing_usages", "request_repeats",
)  # fmt: skip
RECORDS = [
    recorded(AT_MS, account_id="acc_b", client_request_id="mine", cached_tokens=3, first_token_ms=7, is_stream=1),
    recorded(AT_MS + 1, account_id="acc_a"),
    recorded(AT_MS + 2, account_id="acc_a", key_id=None, model=None, backend=None, price_version=None),
    recorded(AT_MS + 3, account_id="acc_a", http_status=502, error_code="backend_error", finish_reason=None),
    recorded(AT_MS + 4, account_id="acc_c", key_id="stop", model="acc_a", backend="acc_c"),
]

ACCOUNTS = [("acc_c",), ("acc_of_ledger",)]
ENTRIES = [
    (number, account_id, kind, f"of {kind}", 5, -2, 1, 0, 0, -4, AT_MS + number)
    for number, (kind, (account_id,)) in enumerate(product(get_args(EntryKind), ACCOUNTS[1:]), 1)
] + [(900, "acc_c", "settle", RECORDS[-1].id, -7, 0, 0, 7, 0, 0, AT_MS)]


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    """With a row of every kind that there is of requests, and of the ledger."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.deserialize(of_version(LAST_WITH_NAMES))
        connection.execute("PRAGMA foreign_keys = ON")
        record_before_names(connection, RECORDS)
        connection.executemany("INSERT INTO accounts (id, name, created_at_ms) VALUES (?, 'Ann', 1)", ACCOUNTS)
        connection.executemany(f"INSERT INTO ledger_transactions VALUES ({', '.join('?' * 11)})", ENTRIES)
        connection.execute("INSERT INTO transaction_notes VALUES (2, 'a gift')")
        for one in RECORDS[1:]:
            connection.execute("INSERT INTO request_surfaces VALUES (?, ?, 'messages')", (one.account_id, one.id))
        for one in RECORDS:
            place = (one.account_id, one.id)
            connection.execute("INSERT INTO request_counts VALUES (?, ?, 5, 1, 'budget')", place)
            connection.execute("INSERT INTO routed_requests VALUES (?, ?, 'code', 'simple', 0.5, 10)", place)
            connection.execute("""INSERT INTO attributed_requests VALUES (?, ?, 'Ann', '["x","y"]')""", place)
            connection.execute("INSERT INTO failed_attempts VALUES (?, ?, 1, 'vllm-2', 'overloaded')", place)
            connection.execute("INSERT INTO missing_usages VALUES (?, ?, 'charge')", place)
            connection.execute("INSERT INTO request_repeats VALUES (?, ?, 'req_first')", place)
        yield connection


def told(connection: sqlite3.Connection, *tables: str) -> list[list[tuple[object, ...]]]:
    return [sorted(connection.execute(f"SELECT * FROM {table}"), key=repr) for table in tables]


def test_requests_and_what_belongs_to_them_are_told_as_before(connection: sqlite3.Connection) -> None:
    columns = ", ".join(RequestRecord._fields[: RequestRecord._fields.index("surface")])
    tables = (f"(SELECT {columns} FROM requests)", *SUMS, *BESIDE, "ledger_transactions", "transaction_notes")
    before, surfaces = told(connection, *tables), told(connection, "request_surfaces")
    assert all(before)
    migrate(connection)
    assert told(connection, *tables) == before
    assert told(connection, "(SELECT account_id, id, surface FROM requests WHERE surface <> 'chat')") == surfaces
    named = [name for (name,) in connection.execute("SELECT name FROM names ORDER BY number")]
    assert (named[:3], len(named)) == (["acc_a", "acc_b", "acc_c"], len(set(named)))
    assert "acc_of_ledger" in named
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_what_came_before_is_recorded_once_corrected_and_deleted_as_what_comes_after(
    connection: sqlite3.Connection,
) -> None:
    migrate(connection)
    before = told(connection, "requests", *SUMS)
    record_in(connection, RECORDS)
    assert told(connection, "requests", *SUMS) == before
    sums = "SELECT SUM(cost_nano) FROM hourly_usage"
    (summed,) = connection.execute(sums).fetchone()
    connection.execute("UPDATE request_rows SET cost_nano = cost_nano + 1, http_status = 499")
    assert connection.execute(sums).fetchone() == (summed + len(RECORDS),)
    assert connection.execute("SELECT DISTINCT status FROM hourly_parts WHERE requests <> 0").fetchall() == [(499,)]
    connection.execute("DELETE FROM requests WHERE account_id = 'acc_a'")
    assert connection.execute("SELECT DISTINCT account_id FROM requests").fetchall() == [("acc_b",), ("acc_c",)]
    connection.execute("DELETE FROM requests")
    assert not any(told(connection, "requests", "request_rows", *BESIDE, "hourly_attributed"))
    assert connection.execute("SELECT SUM(requests) FROM hourly_usage").fetchone() == (len(RECORDS),)


@each(
    "sql",
    [
        "UPDATE ledger_rows SET paid_nano = 0",
        "UPDATE ledger_transactions SET paid_nano = 0",
        "DELETE FROM ledger_rows",
        "DELETE FROM ledger_transactions WHERE id = 900",
        "INSERT INTO ledger_rows SELECT NULL, 1, kind, reference, 0, 0, 0, 0, 0, 0, 1 FROM ledger_rows WHERE id = 900",
        "INSERT INTO ledger_transactions VALUES (NULL, 'acc_c', 'credit', 'of credit', 0, 0, 0, 0, 0, 0, 1)",
        "INSERT INTO ledger_transactions VALUES (NULL, 'acc_c', 'credit', 'another', 1, 0, 0, 0, 0, 0, 1)",
        "INSERT INTO ledger_transactions VALUES (NULL, 'acc_c', 'gift', 'another', 0, 0, 0, 0, 0, 0, 1)",
        "INSERT INTO ledger_transactions VALUES (NULL, 'acc_none', 'credit', 'another', 0, 0, 0, 0, 0, 0, 1)",
        "INSERT INTO transaction_notes VALUES (901, 'of no entry')",
    ],
)
def test_entries_are_as_bound_as_before(connection: sqlite3.Connection, sql: str) -> None:
    migrate(connection)
    before = told(connection, "ledger_transactions", "ledger_rows", "transaction_notes")
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(sql)
    assert told(connection, "ledger_transactions", "ledger_rows", "transaction_notes") == before


def test_an_entry_that_is_added_by_hand_follows_the_last(connection: sqlite3.Connection) -> None:
    migrate(connection)
    connection.execute("INSERT INTO ledger_transactions VALUES (NULL, 'acc_c', 'credit', 'new', 1, 0, 0, 0, 0, -1, 1)")
    last = "SELECT id, account_id, reference FROM ledger_transactions ORDER BY id DESC LIMIT 1"
    assert connection.execute(last).fetchone() == (901, "acc_c", "new")


def test_a_large_database_is_told_what_it_waits_for(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(migrations, "_MANY_ROWS", 5)
    migrate(connection)
    assert "the 5 rows of requests are written anew" in caplog.text


def test_a_small_one_is_not(connection: sqlite3.Connection, caplog: pytest.LogCaptureFixture) -> None:
    migrate(connection)
    assert caplog.text == ""
