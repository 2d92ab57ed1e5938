"""The errors of SQLite: those that say "not now", and all of them as the gateway's own, which name no engine."""

import contextlib
import sqlite3
from collections.abc import Iterator

from mcp_gateway.core.engine import DatabaseError

_UNAVAILABLE = frozenset({
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
})  # fmt: skip
"""Primary result codes that say: not now, for reasons outside this write."""


@contextlib.contextmanager
def as_database_error() -> Iterator[None]:
    """Raises DatabaseError for every sqlite3.Error."""
    try:
        yield
    except sqlite3.Error as error:
        raise DatabaseError(str(error)) from error


def is_unavailable(error: Exception) -> bool:
    """Whether what failed may go through later."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNAVAILABLE


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process has the lock."""
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
