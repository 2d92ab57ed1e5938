"""Whom requests were made for and by which tags: rows beside the request log, with a largest number of names a day."""

import sqlite3
from collections.abc import Sequence

import orjson

from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.record import MOST_NAMES_A_DAY, OTHER_NAMES, RequestRecord

_INSERT = "INSERT INTO attributed_requests VALUES (?, ?, ?, ?) ON CONFLICT (account_id, id) DO NOTHING"
_HAS_NAME = "SELECT 1 FROM attributed_names WHERE account_id = ? AND day = ? AND kind = ? AND name = ?"
_NAMES = "SELECT COUNT(*) FROM attributed_names WHERE account_id = ? AND day = ? AND kind = ?"
_ADD_NAME = "INSERT INTO attributed_names VALUES (?, ?, ?, ?)"
_FORGET_NAMES = "DELETE FROM attributed_names WHERE account_id = ? AND day < ?"
_DAYS_KEPT = 2
"""A request may be recorded on the day after its own."""


def insert_attributed(connection: sqlite3.Connection, records: Sequence[RequestRecord]) -> None:
    """Of requests whose rows, surfaces and tasks are there: they are summed up with these."""
    connection.executemany(_INSERT, [_row(connection, record) for record in records])


def _row(connection: sqlite3.Connection, record: RequestRecord) -> tuple[str, str, str, str]:
    assert record.attribution is not None
    user, tags = record.attribution
    of_day = record.account_id, record.started_at_ms // DAY_MS
    counted = "" if user is None else _counted_as(connection, *of_day, "user", user)
    counted_tags = dict.fromkeys(_counted_as(connection, *of_day, "tag", tag) for tag in tags)
    return record.account_id, record.id, counted, orjson.dumps(list(counted_tags)).decode()


def _counted_as(connection: sqlite3.Connection, account_id: str, day: int, kind: str, name: str) -> str:
    """The name itself, unless the day has as many others as there may be."""
    if connection.execute(_HAS_NAME, (account_id, day, kind, name)).fetchone() is not None:
        return name
    (names,) = connection.execute(_NAMES, (account_id, day, kind)).fetchone()
    if names >= MOST_NAMES_A_DAY:
        return OTHER_NAMES
    if not names:
        connection.execute(_FORGET_NAMES, (account_id, day - _DAYS_KEPT + 1))
    connection.execute(_ADD_NAME, (account_id, day, kind, name))
    return name
