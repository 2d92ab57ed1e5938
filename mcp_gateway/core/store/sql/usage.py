"""Usage by the sums of hours and days, as reports ask for it: of several groupings at once, and of keys."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from mcp_gateway.core.observe.history import (
    Among,
    Group,
    Grouping,
    Groups,
    KeyUse,
    RequestsByHour,
    Totals,
    TotalsOfHours,
    UseOfKey,
    UsesOfKeys,
)
from mcp_gateway.core.record import OK, UNNAMED_SURFACE
from mcp_gateway.core.store.sql.daily_sums import HOURS_A_DAY, summed_until_day
from mcp_gateway.core.store.sql.keys import KEYS_WITHIN
from mcp_gateway.core.store.transaction import Executors, Rows
from mcp_gateway.core.zones import ZoneOffset

_SUMMED = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "cost_nano")
_ADDED = ", ".join(_SUMMED)
_TAKEN = ", ".join(f"-{column}" for column in _SUMMED)
_SUMS = ", ".join(f"SUM({column}) AS {column}" for column in _SUMMED)
_DAY = "({hour} * 3600 + {ahead_s}) / 86400"
_PLACES: dict[Group, tuple[str, str]] = {
    "hour": ("hour", "hour"), "day": ("day", _DAY), "month": ("day", _DAY),
    "key": ("key_id", "key_id"), "model": ("model", "model"),
}  # fmt: skip
"""What the sums of hours are added up by first for each thing that is asked for, in the order in which they are kept: a
column, and what stands in it."""
_NO_PLACE = ("whole", "0")
_NAMES: dict[Group, str] = {
    "hour": "STRFTIME('%Y-%m-%dT%H:00:00Z', hour * 3600, 'unixepoch')",
    "day": "DATE(day * 86400, 'unixepoch')",
    "month": "STRFTIME('%Y-%m', day * 86400, 'unixepoch')",
    "model": "NULLIF(model, '')", "key": "NULLIF(key_id, '')", "surface": "surface", "status": "status",
    "task": "NULLIF(task, '')", "user": "NULLIF(end_user, '')", "tag": "NULLIF(tag, '')",
}  # fmt: skip
_PARTS = ("surface", "status")
_OF_TASKS = ("task", *_PARTS)
_OF_NAMES = ("end_user", "tag", "is_first", *_OF_TASKS)
_BY_PARTS = f"""(
    SELECT {{place}}, '{UNNAMED_SURFACE}' AS surface, {OK} AS status, {_ADDED} FROM usages
    UNION ALL SELECT {{place}}, '{UNNAMED_SURFACE}', CASE surface WHEN '' THEN {OK} ELSE status END, {_TAKEN} FROM parts
    UNION ALL SELECT {{place}}, CASE surface WHEN '' THEN '{UNNAMED_SURFACE}' ELSE surface END, status, {_ADDED}
    FROM parts
)"""
"""All that was asked, as chats that were answered; what failed goes over to chats that failed, and from chats of either
kind goes over what was asked in another surface."""
_BY_TASKS = f"""(
    SELECT {{place}}, '' AS task, {_ADDED} FROM {{hours}}
    UNION ALL SELECT {{place}}, '', {_TAKEN} FROM tasks
    UNION ALL SELECT {{place}}, task, {_ADDED} FROM tasks
)"""
"""All that was asked, as if a model had been named; what named none goes over to its task."""
_BY_NAMES = f"""(
    SELECT {{place}}, '' AS end_user, '' AS tag, {_ADDED} FROM {{hours}}
    UNION ALL SELECT {{place}}, '', '', {_TAKEN} FROM attributed WHERE is_first
    UNION ALL SELECT {{place}}, end_user, {{tag}}, {_ADDED} FROM attributed {{rows}}
)"""
"""All that was asked, as if nobody had said whom for; what is attributed goes over to its user, and to each tag."""
_BY_TAG = {"tag": "tag", "rows": ""}
_BY_USER_ALONE = {"tag": "''", "rows": "WHERE is_first"}
_IN_WINDOW = "hour >= :since_hour AND hour < :until_hour"
_IN_DAYS = "day >= :since_day AND day < :until_day"
_BESIDE_DAYS = ("hour >= :since_hour AND hour < :days_since_hour", "hour >= :days_until_hour AND hour < :until_hour")
_NO_DAYS = range(0)
_USES_OF_KEYS = """
SELECT key_id, MAX(hour), SUM(cost_nano) FROM hourly_usage
WHERE account_id = ? AND key_id IN (SELECT value FROM json_each(?)) AND requests > 0 GROUP BY key_id
"""


def ahead_s(hour: str, offsets: Sequence[ZoneOffset]) -> str:
    """How far a zone's clocks are ahead of UTC in an hour."""
    if not offsets:
        return "0"
    arms = " ".join(f"WHEN {hour} < {before_hour:d} THEN {seconds:d}" for before_hour, seconds in offsets[:-1])
    last = f"{offsets[-1].ahead_s:d}"
    return f"CASE {arms} ELSE {last} END" if arms else last


def _totals_of_hours(rows: Rows, read: TotalsOfHours) -> list[Groups]:
    """Each table is read once and added up by what all groupings tell apart; each grouping adds up these few rows."""
    asked = {group for grouping in read.groupings for group in grouping.by}
    places = dict(place for group, place in _PLACES.items() if group in asked) or dict([_NO_PLACE])
    widest = max(len(grouping.by) for grouping in read.groupings)
    selects = [_select(number, grouping, list(places), widest) for number, grouping in enumerate(read.groupings)]
    days = _NO_DAYS if _parts_days(asked, read.offsets) else _summed_days(rows, read)
    sql = f"WITH {', '.join(_tables(asked, places, read, days))} {' UNION ALL '.join(selects)}"
    found: list[Groups] = [{} for _ in read.groupings]
    for number, *row in rows.all(sql, _parameters(read) | _of_days(days)):
        found[number][tuple(row[: len(read.groupings[number].by)])] = Totals(*row[widest:])
    return found


def _parts_days(asked: set[Group], offsets: Sequence[ZoneOffset]) -> bool:
    """Whether days of UTC are told in parts: by the hour, or as days of a zone that has others."""
    return "hour" in asked or (bool(asked & {"day", "month"}) and any(offset.ahead_s for offset in offsets))


def _summed_days(rows: Rows, read: TotalsOfHours) -> range:
    """The whole days of a window that have sums of their own."""
    until_day = min(read.until_hour // HOURS_A_DAY, summed_until_day(rows, read.account_id))
    return range(-(-read.since_hour // HOURS_A_DAY), until_day)


def _of_days(days: range) -> dict[str, int]:
    hours = {"days_since_hour": days.start * HOURS_A_DAY, "days_until_hour": days.stop * HOURS_A_DAY}
    return hours | {"since_day": days.start, "until_day": days.stop}


def _tables(asked: set[Group], places: Mapping[str, str], read: TotalsOfHours, days: range) -> Iterator[str]:
    """A window, of those tables that tell apart what is asked for, added up."""
    usages = f"hourly_usage WHERE {_conditions(read.among)}"
    yield _table("usages", _days_and_hours(read.among) if days else usages, places, (), read)
    if asked & {"surface", "status"}:
        yield _table("parts", f"hourly_parts WHERE {_conditions(read.among)}", places, _PARTS, read)
    if "task" in asked:
        yield _table("tasks", f"hourly_tasks WHERE {_conditions(read.among)}", places, _OF_TASKS, read)
    if asked & {"user", "tag"}:
        yield _table("attributed", f"hourly_attributed WHERE {_conditions(read.among)}", places, _OF_NAMES, read)


def _days_and_hours(among: Among) -> str:
    """A day as its first hour, and the hours before and after all days."""
    days = f"SELECT day * {HOURS_A_DAY} AS hour, key_id, model, {_ADDED} FROM daily_usage"
    hours = f"SELECT hour, key_id, model, {_ADDED} FROM hourly_usage"
    arms = [f"{days} WHERE {_conditions(among, _IN_DAYS)}"]
    arms += [f"{hours} WHERE {_conditions(among, window)}" for window in _BESIDE_DAYS]
    return f"({' UNION ALL '.join(arms)}) AS days_and_hours"


def _table(name: str, source: str, places: Mapping[str, str], more: Sequence[str], read: TotalsOfHours) -> str:
    told = {"hour": "hour", "ahead_s": ahead_s("hour", read.offsets)}
    columns = [f"{number.format(**told)} AS {column}" for column, number in places.items()]
    return f"""{name} AS MATERIALIZED (
        SELECT {", ".join((*columns, *more))}, {_SUMS} FROM {source}
        GROUP BY {_first(len(columns) + len(more))}
    )"""


def _select(number: int, grouping: Grouping, places: Sequence[str], widest: int) -> str:
    by = grouping.by
    names = [f"{_NAMES[group]} AS by_{place}" for place, group in enumerate(by)]
    empty = [f"NULL AS by_{place}" for place in range(len(by), widest)]
    shared = ", ".join(str(place + 2) for place in range(len(by)))
    return f"""
    SELECT * FROM (
        SELECT {", ".join((str(number), *names, *empty))}, {_SUMS} FROM {_source(by, places)}
        GROUP BY {shared} HAVING SUM(requests) > 0 LIMIT {grouping.most:d}
    )"""


def _source(by: Sequence[Group], places: Sequence[str]) -> str:
    """The fewest sums that tell these apart."""
    hours, place = "usages", ", ".join(places)
    if "surface" in by or "status" in by:
        hours, place = _BY_PARTS.format(place=place), f"{place}, surface, status"
    if "task" in by:
        hours, place = _BY_TASKS.format(place=place, hours=hours), f"{place}, task"
    if "tag" in by or "user" in by:
        hours = _BY_NAMES.format(place=place, hours=hours, **(_BY_TAG if "tag" in by else _BY_USER_ALONE))
    return hours


def _requests_by_hour(rows: Rows, read: RequestsByHour) -> list[tuple[int, int]]:
    sql = f"""
    SELECT hour, SUM(requests) FROM hourly_usage WHERE {_conditions(read.among)}
    GROUP BY hour HAVING SUM(requests) > 0 ORDER BY hour
    """
    return [(hour, count) for hour, count in rows.all(sql, _parameters(read))]


def _conditions(among: Among, window: str = _IN_WINDOW) -> str:
    conditions = ["account_id = :account_id", window]
    if among.within is not None:
        conditions.append(f"key_id IN ({KEYS_WITHIN.format(':within')})")
    for column, names in (("model", "models"), ("key_id", "key_ids")):
        if getattr(among, names):
            conditions.append(f"{column} IN (SELECT value FROM json_each(:{names}))")
    return " AND ".join(conditions)


def _parameters(read: TotalsOfHours | RequestsByHour) -> dict[str, Any]:
    window = {"account_id": read.account_id, "since_hour": read.since_hour, "until_hour": read.until_hour}
    listed = {name: orjson.dumps(getattr(read.among, name)).decode() for name in ("models", "key_ids")}
    return window | listed | {"within": read.among.within}


def _use_of_key(rows: Rows, read: UseOfKey) -> KeyUse:
    return _uses_of_keys(rows, UsesOfKeys(read.account_id, (read.key_id,))).get(read.key_id, KeyUse())


def _uses_of_keys(rows: Rows, read: UsesOfKeys) -> dict[str, KeyUse]:
    found = rows.all(_USES_OF_KEYS, (read.account_id, orjson.dumps(read.key_ids).decode()))
    return {key_id: KeyUse(last_hour, cost_nano) for key_id, last_hour, cost_nano in found}


def _first(columns: int) -> str:
    return ", ".join(str(number + 1) for number in range(columns))


EXECUTORS = Executors(
    reads={
        TotalsOfHours: _totals_of_hours,
        RequestsByHour: _requests_by_hour,
        UseOfKey: _use_of_key,
        UsesOfKeys: _uses_of_keys,
    }
)
