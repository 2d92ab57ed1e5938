"""The schema: applied once, by whoever comes first, never by a version that does not know it."""

import asyncio
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import get_args

import pytest

from mcp_gateway.core.money import EntryKind, OutsideKind
from mcp_gateway.core.store.database import SchemaTooNew
from mcp_gateway.core.store.sqlite import migrations
from mcp_gateway.core.store.sqlite.migrations import migrate
from tests.databases import open_store

OPEN_AND_CLOSE = """
import asyncio, pathlib, sys
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.store.sqlite.executors import EXECUTORS
from mcp_gateway.core.store.sqlite.store import Store
async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    store = await Store.open(pathlib.Path(sys.argv[1]), EXECUTORS, now_ms=now_ms)
    await store.close()
asyncio.run(main())
"""


def schema(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


def test_migrating_twice_changes_nothing(fresh: Path) -> None:
    with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
        migrate(connection)
        before = schema(connection)
        migrate(connection)
        assert schema(connection) == before
        assert {"accounts", "keys", "ledger_transactions", "requests"} < {name for name, _ in before}


def test_a_database_from_the_future_is_refused_and_left_alone(fresh: Path) -> None:
    with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
        migrate(connection)
        connection.execute("INSERT INTO schema_migrations VALUES (9999)")
        before = schema(connection)
        with pytest.raises(SchemaTooNew, match="9999"):
            migrate(connection)
        assert schema(connection) == before


async def test_a_store_does_not_open_a_database_from_the_future(fresh: Path) -> None:
    with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
        migrate(connection)
        connection.execute("INSERT INTO schema_migrations VALUES (9999)")
    with pytest.raises(SchemaTooNew):
        await open_store(fresh)


def test_a_migration_that_fails_leaves_nothing_behind(fresh: Path) -> None:
    with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE requests (in_the_way)")
        with pytest.raises(sqlite3.OperationalError):
            migrate(connection)
        assert not connection.in_transaction
        assert [name for name, _ in schema(connection)] == ["requests", "schema_migrations"]


@pytest.mark.program
async def test_processes_that_open_a_fresh_database_at_once_all_succeed(fresh: Path) -> None:
    pipe = asyncio.subprocess.PIPE
    arguments = (sys.executable, "-c", OPEN_AND_CLOSE, str(fresh))
    processes = [await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        await process.stdout.readline()
    await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    assert [process.returncode for process in processes] == [0, 0, 0]


def test_what_another_process_applied_in_between_is_not_applied_again(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
        migrate(connection)
        before = schema(connection)
        monkeypatch.setattr(migrations, "_applied", _first_stale(migrations._applied))
        migrate(connection)
        assert schema(connection) == before


def _first_stale(read: Callable[[sqlite3.Connection], int]) -> Callable[[sqlite3.Connection], int]:
    """What reads the number of a database as it was before the other process, the first time."""
    numbers = [0]
    return lambda connection: numbers.pop() if numbers else read(connection)


def test_kinds_of_the_ledger_are_checked_after_the_schema_was_rewritten(fresh: Path) -> None:
    with closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
        migrate(connection)
        for kind in get_args(EntryKind):
            _post(connection, kind, f"ref_{kind}")
        with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
            _post(connection, "gift", "ref_gift")
        for kind in get_args(OutsideKind):
            with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
                _post(connection, kind, f"ref_{kind}")
        _post(connection, "expire", "ref_expire")
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def _post(connection: sqlite3.Connection, kind: str, reference: str) -> None:
    connection.execute(
        "INSERT INTO ledger_transactions VALUES (NULL, 'acc_guest', ?, ?, 1, 0, 0, 0, 0, -1, 1)",
        (kind, reference),
    )
