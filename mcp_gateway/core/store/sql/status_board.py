"""How components were, by day and of late by hour."""

from collections.abc import Mapping

from mcp_gateway.core.observe.status_board import (
    DaysSince,
    HoursSince,
    NoteMinute,
    SeenMinutes,
    first_day_at,
    first_hour_at,
    with_minute,
)
from mcp_gateway.core.store.transaction import Executors, Row, Rows, Transaction

_ADD = """
INSERT INTO {table} VALUES (?, ?, ?, ?, ?) ON CONFLICT (component, {time}) DO UPDATE SET
    minutes = {table}.minutes + excluded.minutes,
    degraded_minutes = {table}.degraded_minutes + excluded.degraded_minutes,
    down_minutes = {table}.down_minutes + excluded.down_minutes
"""
_SINCE = "SELECT component, {time}, minutes, degraded_minutes, down_minutes FROM {table} WHERE {time} >= ?"


def _note_minute(transaction: Transaction, write: NoteMinute) -> None:
    for table, column, time, first_time in (
        ("component_days", "day", write.day, first_day_at(write.day)),
        ("component_hours", "hour", write.hour, first_hour_at(write.hour)),
    ):
        rows = [(component, time, *with_minute(SeenMinutes(), state)) for component, state in write.components]
        transaction.execute_many(_ADD.format(table=table, time=column), rows)
        transaction.execute(f"DELETE FROM {table} WHERE {column} < ?", (first_time,))


def _days(rows: Rows, read: DaysSince) -> Mapping[tuple[str, int], SeenMinutes]:
    return _seen(rows.all(_SINCE.format(table="component_days", time="day"), (read.day,)))


def _hours(rows: Rows, read: HoursSince) -> Mapping[tuple[str, int], SeenMinutes]:
    return _seen(rows.all(_SINCE.format(table="component_hours", time="hour"), (read.hour,)))


def _seen(found: list[Row]) -> Mapping[tuple[str, int], SeenMinutes]:
    return {(component, time): SeenMinutes(*counts) for component, time, *counts in found}


EXECUTORS = Executors(alone={NoteMinute: _note_minute}, reads={DaysSince: _days, HoursSince: _hours})
