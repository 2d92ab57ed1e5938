"""What is in a file of SQLite's: read as of one moment for another engine, and looked through for damage."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from mcp_gateway.core.ledger.entries import Discrepancies
from mcp_gateway.core.store.connection import Row
from mcp_gateway.core.store.sqlite.executors import EXECUTORS
from mcp_gateway.core.store.sqlite.faults import as_database_error
from mcp_gateway.core.store.transaction import Rows

_TABLES = """
SELECT name, wr FROM pragma_table_list
WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'schema_migrations' ORDER BY name
"""
_GIVEN = "SELECT seq FROM sqlite_sequence WHERE name = ?"
"""Of those tables alone that never give the number of a row that is gone to another."""
_MOST_FAULTS = 20


@contextlib.contextmanager
def reading(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection that changes nothing, for one thread after another; where there is no file, to nothing.

    Raises DatabaseError.
    """
    where = f"{database.absolute().as_uri()}?mode=ro" if database.exists() else ":memory:"
    with (
        as_database_error(),
        contextlib.closing(
            sqlite3.connect(where, uri=True, isolation_level=None, check_same_thread=False)
        ) as connection,
    ):
        yield connection


def faults_in(connection: sqlite3.Connection) -> list[str]:
    """What SQLite itself finds, the first of each kind."""
    damage = connection.execute(f"PRAGMA integrity_check({_MOST_FAULTS})").fetchall()
    faults = [str(what) for (what,) in damage if what != "ok"]
    astray = connection.execute("PRAGMA foreign_key_check").fetchmany(_MOST_FAULTS)
    return faults + [f"a row of {table} refers to one that is not in {parent}" for table, _, parent, _ in astray]


class FileContents:
    """As of its first read, whatever is written meanwhile."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.execute("BEGIN")
        self._has_numbers = {name: not wr for name, wr in connection.execute(_TABLES).fetchall()}
        self.columns = {name: self._columns_of(name) for name in self._has_numbers}

    def rows(self, table: str) -> Iterator[Row]:
        order = " ORDER BY rowid" if self._has_numbers[table] else ""
        return self._connection.execute(f"SELECT {self._listed(table)} FROM {table}{order}")

    def count(self, table: str) -> int:
        count: int = self._connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]
        return count

    def highest(self, table: str, column: str) -> int:
        most: int = self._connection.execute(f'SELECT COALESCE(MAX("{column}"), 0) FROM {table}').fetchone()[0]
        given = self._connection.execute(_GIVEN, (table,)).fetchone()
        return most if given is None else max(most, int(given[0]))

    def discrepancies(self) -> list[str]:
        found = EXECUTORS.reads[Discrepancies](Rows(self._connection), Discrepancies(of_all_entries=True))
        return [f"{what}: {', '.join(map(str, row))}" for what, row in found]

    def _columns_of(self, table: str) -> list[str]:
        return [column for _, column, *_ in self._connection.execute(f"PRAGMA table_info({table})")]

    def _listed(self, table: str) -> str:
        return ", ".join(f'"{column}"' for column in self.columns[table])
