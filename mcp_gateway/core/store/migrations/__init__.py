"""Numbered SQL files, each applied once and in order, in a transaction of its own."""

import re
import sqlite3
from pathlib import Path

_FILE = re.compile(r"(\d{4})_\w+\.sql")


class SchemaTooNew(Exception):
    """The database was written by a newer version of the gateway."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date. Raises SchemaTooNew for a database from the future."""
    connection.execute("CREATE TABLE IF NOT EXISTS schema_migrations (number INTEGER PRIMARY KEY) STRICT")
    migrations = _migrations()
    applied = connection.execute("SELECT COALESCE(MAX(number), 0) FROM schema_migrations").fetchone()[0]
    if applied > max(migrations):
        raise SchemaTooNew(f"the database has schema {applied}; this version knows {max(migrations)}: upgrade it")
    for number in sorted(number for number in migrations if number > applied):
        record = f"INSERT INTO schema_migrations VALUES ({number})"
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {migrations[number]}; {record}; COMMIT;")
        except sqlite3.Error:
            connection.rollback()
            raise


def _migrations() -> dict[int, str]:
    found = ((_FILE.fullmatch(path.name), path) for path in Path(__file__).parent.iterdir())
    return {int(match[1]): path.read_text() for match, path in found if match is not None}
