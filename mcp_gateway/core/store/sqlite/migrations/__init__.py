"""Numbered SQL files, each applied once and in order, in a transaction of its own."""

import logging
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from mcp_gateway.core.store.database import SchemaNumbers

logger = logging.getLogger(__name__)

_FILE = re.compile(r"(\d{4})_\w+\.sql")
_WRITES_ANEW = re.compile(r"-- Writes anew: (\w+)\n")
"""How a file begins that copies all rows of a table."""
_MANY_ROWS = 100_000
"""Whose copying takes a second."""
_COPY_BYTES = 450
"""Of a row at most, in the database and in the log of the transaction."""


def schema_numbers(connection: sqlite3.Connection) -> SchemaNumbers:
    """What is applied, and the latest that this version knows. Changes nothing."""
    is_new = not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_migrations'").fetchone()
    applied = 0 if is_new else _applied(connection)
    return SchemaNumbers(applied, max(_files()), applied)


def pending(connection: sqlite3.Connection) -> SchemaNumbers | None:
    """None where nothing is to be applied. Changes nothing."""
    found = schema_numbers(connection)
    return found if found.applied < found.latest else None


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date. Raises SchemaTooNew for a database from the future."""
    connection.execute("CREATE TABLE IF NOT EXISTS schema_migrations (number INTEGER PRIMARY KEY) STRICT")
    files = _files()
    applied = _applied(connection)
    SchemaNumbers(applied, max(files), applied).check()
    for number in sorted(number for number in files if number > applied):
        _apply(connection, number, files[number])


def _apply(connection: sqlite3.Connection, number: int, file: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _applied(connection) < number:  # else another process was faster
            sql = file.read_text("utf-8")
            _tell_of_copy(connection, sql)
            for statement in _statements(sql):
                connection.execute(statement)
            connection.execute("INSERT INTO schema_migrations VALUES (?)", (number,))
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _tell_of_copy(connection: sqlite3.Connection, sql: str) -> None:
    """Why nothing else happens for a while, and what it needs."""
    if (copies := _WRITES_ANEW.match(sql)) is None:
        return
    (rows,) = connection.execute(f"SELECT COUNT(*) FROM {copies[1]}").fetchone()
    if rows >= _MANY_ROWS:
        logger.warning(
            "the schema changes: the %d rows of %s are written anew, once, in one transaction; this takes some ten "
            "seconds for a million of them, and up to %d MB of the disk beside what the database has",
            rows,
            copies[1],
            rows * _COPY_BYTES // 1_000_000 + 1,
        )


def _applied(connection: sqlite3.Connection) -> int:
    number: int = connection.execute("SELECT COALESCE(MAX(number), 0) FROM schema_migrations").fetchone()[0]
    return number


def _statements(sql: str) -> Iterator[str]:
    """One by one, since executescript would end the transaction."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _files() -> dict[int, Path]:
    """Those that are applied alone are read: a database that is up to date is opened sooner."""
    found = ((_FILE.fullmatch(path.name), path) for path in Path(__file__).parent.iterdir())
    return {int(match[1]): path for match, path in found if match is not None}
