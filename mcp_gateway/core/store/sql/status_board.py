"""How components were, by day."""

from collections.abc import Mapping

from mcp_gateway.core.observe.status_board import ComponentDay, DaysSince, NoteMinute, with_minute
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction

_ADD = """
INSERT INTO component_days VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET minutes = minutes + excluded.minutes,
    degraded_minutes = degraded_minutes + excluded.degraded_minutes, down_minutes = down_minutes + excluded.down_minutes
"""
_FORGET = "DELETE FROM component_days WHERE day < ?"
_SINCE = "SELECT component, day, minutes, degraded_minutes, down_minutes FROM component_days WHERE day >= ?"


def _note_minute(transaction: Transaction, write: NoteMinute) -> None:
    rows = [(component, write.day, *with_minute(ComponentDay(), state)) for component, state in write.components]
    transaction.execute_many(_ADD, rows)
    transaction.execute(_FORGET, (write.kept_from_day,))


def _since(rows: Rows, read: DaysSince) -> Mapping[tuple[str, int], ComponentDay]:
    return {(component, day): ComponentDay(*counts) for component, day, *counts in rows.all(_SINCE, (read.day,))}


EXECUTORS = Executors(alone={NoteMinute: _note_minute}, reads={DaysSince: _since})
