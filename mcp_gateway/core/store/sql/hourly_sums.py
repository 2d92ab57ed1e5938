"""Sums by the hour, and what their requests come to by the words of the triggers that keep them."""

from typing import NamedTuple

from mcp_gateway.core.clock import DAY_MS, HOUR_MS
from mcp_gateway.core.ids import first_id_at
from mcp_gateway.core.observe.hourly_sums import (
    AddToSums,
    DifferencesIn,
    ReachOfRequests,
    RecordedHours,
    SumsDifference,
    SumsName,
)
from mcp_gateway.core.record import UNNAMED_SURFACE
from mcp_gateway.core.store.sql.daily_sums import HOURS_A_DAY, leave_summed_days
from mcp_gateway.core.store.transaction import Executors, Rows, Transaction

_NUMBERS = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "cost_nano")
_BOUNDED = (
    "1",
    "MAX(0, MIN(prompt_tokens, 4294967296))",
    "MAX(0, MIN(completion_tokens, 4294967296))",
    "MAX(0, MIN(COALESCE(cached_tokens, 0), 4294967296))",
    "MAX(0, MIN(cost_nano, 1000000000000000))",
)
_PLACE = "account_id, started_at_ms / 3600000 AS hour, COALESCE(key_id, '') AS key_id, COALESCE(model, '') AS model"
_BESIDE = "{table} AS {table} ON {table}.account_id = one.account_id AND {table}.id = one.id"
_TASK = f"LEFT JOIN {_BESIDE.format(table='routed_requests')}"
_COLUMNS = "one.account_id, one.hour, one.key_id, one.model"
_OF_ONE = ", ".join(f"one.{number} AS {number}" for number in _NUMBERS)


class _Sums(NamedTuple):
    """A table of sums: what it names beside account, hour, key and model, and a row for each time a request counts."""

    table: str
    names: tuple[str, ...]
    counted: str


_SUMS: dict[SumsName, _Sums] = {
    "usage": _Sums("hourly_usage", (), f"SELECT {_COLUMNS}, {_OF_ONE} FROM one"),
    "parts": _Sums(
        "hourly_parts",
        ("surface", "status"),
        f"SELECT {_COLUMNS}, surface, status, {_OF_ONE} FROM one WHERE surface <> '{UNNAMED_SURFACE}' "
        f"UNION ALL SELECT {_COLUMNS}, '', status, {_OF_ONE} FROM one WHERE status <> 200",
    ),
    "tasks": _Sums(
        "hourly_tasks",
        ("task", "surface", "status"),
        f"SELECT {_COLUMNS}, task, surface, status, {_OF_ONE} FROM one JOIN {_BESIDE.format(table='routed_requests')}",
    ),
    "attributed": _Sums(
        "hourly_attributed",
        ("end_user", "tag", "is_first", "task", "surface", "status"),
        f"SELECT {_COLUMNS}, end_user, tag.value AS tag, tag.key = 0 AS is_first, COALESCE(task, '') AS task, "
        f"surface, status, {_OF_ONE} FROM one "
        f"JOIN {_BESIDE.format(table='attributed_requests')} {_TASK} "
        "JOIN json_each(IIF(tags = '[]', '[\"\"]', tags)) AS tag ON TRUE",
    ),
}
_REACH = """
SELECT accounts.id,
    (SELECT started_at_ms FROM requests WHERE account_id = accounts.id ORDER BY id LIMIT 1) / 3600000,
    MAX(
        COALESCE((SELECT MAX(hour) FROM hourly_usage WHERE account_id = accounts.id), 0),
        (SELECT started_at_ms FROM requests WHERE account_id = accounts.id ORDER BY id DESC LIMIT 1) / 3600000
    )
FROM accounts WHERE EXISTS (SELECT 1 FROM requests WHERE account_id = accounts.id)
"""
_FIRST_HOUR = """
SELECT (SELECT COALESCE(SUM(requests), 0) FROM hourly_usage WHERE account_id = ?1 AND hour = ?2) > (
    SELECT COUNT(*) FROM requests
    WHERE account_id = ?1 AND id < ?4 AND started_at_ms >= ?3 AND started_at_ms < ?3 + 3600000
)
"""


def _reach(rows: Rows, _: ReachOfRequests) -> list[RecordedHours]:
    found = [RecordedHours(*row) for row in rows.all(_REACH)]
    return [one._replace(first_hour=one.first_hour + _is_cut(rows, one)) for one in found]


def _is_cut(rows: Rows, reach: RecordedHours) -> int:
    """1 where some of the first hour's requests are gone."""
    since_ms = reach.first_hour * HOUR_MS
    end_id = first_id_at("req", since_ms + HOUR_MS)
    row = rows.first(_FIRST_HOUR, (reach.account_id, reach.first_hour, since_ms, end_id))
    assert row is not None
    return int(row[0])


def _differences(rows: Rows, read: DifferencesIn) -> list[SumsDifference]:
    """In one statement, so that it tells of one moment."""
    sums = _SUMS[read.sums]
    names = ("account_id", "hour", "key_id", "model", *sums.names)
    listed = ", ".join(names)
    bounded = ", ".join(f"{value} AS {number}" for value, number in zip(_BOUNDED, _NUMBERS, strict=True))
    summed = ", ".join(f"SUM({number})" for number in _NUMBERS)
    sql = f"""
    WITH one AS MATERIALIZED (
        SELECT id, http_status AS status, surface, {_PLACE}, {bounded} FROM requests
        WHERE account_id = :account_id AND id >= :first_id AND id < :end_id
            AND started_at_ms >= :since_ms AND started_at_ms < :until_ms
    )
    SELECT {listed}, {summed} FROM (
        SELECT {listed}, {", ".join(_NUMBERS)} FROM ({sums.counted})
        UNION ALL SELECT {listed}, {", ".join(f"-{number}" for number in _NUMBERS)} FROM {sums.table}
        WHERE account_id = :account_id AND hour >= :since_hour AND hour < :until_hour
    ) GROUP BY {listed} HAVING {" OR ".join(f"SUM({number}) <> 0" for number in _NUMBERS)}
    """
    since_ms, until_ms = read.since_hour * HOUR_MS, read.until_hour * HOUR_MS
    found = rows.all(
        sql,
        {
            "account_id": read.account_id,
            "since_ms": since_ms,
            "until_ms": until_ms,
            "since_hour": read.since_hour,
            "until_hour": read.until_hour,
            "first_id": first_id_at("req", max(0, since_ms - DAY_MS)),  # a round may begin long after its request
            "end_id": first_id_at("req", until_ms),
        },
    )
    return [SumsDifference(read.sums, row[: len(names)], row[len(names) :]) for row in found]


def _add(transaction: Transaction, write: AddToSums) -> None:
    for one in write.differences:
        sums = _SUMS[one.sums]
        names = ("account_id", "hour", "key_id", "model", *sums.names)
        named, columns = ", ".join(names), (*names, *_NUMBERS)
        more = ", ".join(f"{number} = {sums.table}.{number} + excluded.{number}" for number in _NUMBERS)
        values = ", ".join("?" * len(columns))
        insert = f"INSERT INTO {sums.table} ({', '.join(columns)}) VALUES ({values})"
        sql = f"{insert} ON CONFLICT ({named}) DO UPDATE SET {more}"
        transaction.execute(sql, (*one.names, *one.numbers))
    for account_id, hour in {one.names[:2] for one in write.differences if one.sums == "usage"}:
        leave_summed_days(transaction, str(account_id), int(hour) // HOURS_A_DAY)


EXECUTORS = Executors(alone={AddToSums: _add}, reads={ReachOfRequests: _reach, DifferencesIn: _differences})
