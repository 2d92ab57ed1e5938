"""Who reads reports: connections that look now and then whether they are still wanted."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.store.reports import AskedReport
from mcp_gateway.core.store.sqlite.faults import as_database_error
from mcp_gateway.core.store.transaction import Rows

_STEPS_PER_LOOK = 200_000
"""Of SQLite's machine, a few milliseconds: after so many a report looks whether it is still wanted."""


class ReportReaders:
    """Of the database at `path`, opened when they are first needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[sqlite3.Connection] = []

    def read(self, asked: AskedReport) -> Any:
        """In a thread: the answer, or nothing for one that is given up meanwhile."""
        connection = self._idle.pop() if self._idle else connected(self._path)
        connection.set_progress_handler(lambda: asked.is_given_up, _STEPS_PER_LOOK)
        try:
            with as_database_error(), one_moment(connection):
                return asked.answer(Rows(connection), asked.report)
        except DatabaseError:
            if asked.is_given_up:
                return None
            raise
        finally:
            self._idle.append(connection)

    def close(self) -> None:
        """Once none reads any more."""
        for connection in self._idle:
            connection.close()


def connected(path: Path) -> sqlite3.Connection:
    """A connection that reads alone."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only = ON")
    return connection


@contextlib.contextmanager
def one_moment(connection: sqlite3.Connection) -> Iterator[None]:
    """Whatever is read in between is as of one commit, in however many statements. Raises sqlite3.Error."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.rollback()
