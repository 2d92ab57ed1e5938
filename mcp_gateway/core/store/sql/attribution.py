"""Whom requests were made for and by which tags: rows beside the request log, with a largest number of names a day."""

from collections.abc import Sequence

import orjson

from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.record import MOST_NAMES_A_DAY, OTHER_NAMES, RequestRecord
from mcp_gateway.core.store.connection import EngineConnection

_INSERT = "INSERT INTO attributed_requests VALUES (?, ?, ?, ?) ON CONFLICT (account_id, id) DO NOTHING"
_HAS_NAME = "SELECT 1 FROM attributed_names WHERE account_id = ? AND day = ? AND kind = ? AND name = ?"
_NAMES = "SELECT COUNT(*) FROM attributed_names WHERE account_id = ? AND day = ? AND kind = ?"
_ADD_NAME = "INSERT INTO attributed_names VALUES (?, ?, ?, ?)"
_FORGET_NAMES = "DELETE FROM attributed_names WHERE account_id = ? AND day < ?"
_Day = tuple[str, int, str]
"""Of an account's users, or of its tags."""
_DAYS_KEPT = 2
"""A request may be recorded on the day after its own."""


def insert_attributed(connection: EngineConnection, records: Sequence[RequestRecord]) -> None:
    """Of requests whose rows, surfaces and tasks are there: they are summed up with these."""
    names = _Names(connection)
    connection.executemany(_INSERT, [_row(names, record) for record in records])


def _row(names: "_Names", record: RequestRecord) -> tuple[str, str, str, str]:
    assert record.attribution is not None
    user, tags = record.attribution
    of_day = record.account_id, record.started_at_ms // DAY_MS
    counted = "" if user is None else names.counted_as((*of_day, "user"), user)
    counted_tags = dict.fromkeys(names.counted_as((*of_day, "tag"), tag) for tag in tags)
    return record.account_id, record.id, counted, orjson.dumps(list(counted_tags)).decode()


class _Names:
    """The names of days: how many there are is counted once for all that is written together."""

    def __init__(self, connection: EngineConnection) -> None:
        self._connection = connection
        self._counts: dict[_Day, int] = {}

    def counted_as(self, day: _Day, name: str) -> str:
        """The name itself, unless the day has as many others as there may be."""
        if self._connection.execute(_HAS_NAME, (*day, name)).fetchone() is not None:
            return name
        names = self._count(day)
        if names >= MOST_NAMES_A_DAY:
            return OTHER_NAMES
        if not names:
            account_id, number, _ = day
            self._connection.execute(_FORGET_NAMES, (account_id, number - _DAYS_KEPT + 1))
        self._connection.execute(_ADD_NAME, (*day, name))
        self._counts[day] = names + 1
        return name

    def _count(self, day: _Day) -> int:
        names = self._counts.get(day)
        if names is None:
            (names,) = self._connection.execute(_NAMES, day).fetchone()
            self._counts[day] = names
        return names
