"""The errors of SQLite as the gateway's own, which name no engine."""

import contextlib
import sqlite3
from collections.abc import Iterator

from mcp_gateway.core.engine import DatabaseError


@contextlib.contextmanager
def as_database_error() -> Iterator[None]:
    """Raises DatabaseError for every sqlite3.Error."""
    try:
        yield
    except sqlite3.Error as error:
        raise DatabaseError(str(error)) from error
