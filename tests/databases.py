"""Databases whose schema is up to date, copied from one: migrating takes 10 ms, and few tests are about that."""

import contextlib
import sqlite3
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from mcp_gateway.core.store.migrations import migrate


def migrated(path: Path) -> Path:
    """`path`, where a database is now, if none was; all that are copied have one identity."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_template())
    return path


@cache
def _template() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "template.sqlite3"
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            migrate(connection)
        return path.read_bytes()
