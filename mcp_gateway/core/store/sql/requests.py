"""The request log: rows of requests, what stands beside them, and sums over them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import orjson

from mcp_gateway.core.clock import DAY_MS, HOUR_MS
from mcp_gateway.core.ids import first_id_at
from mcp_gateway.core.observe.activity import SLOT_MS, ActivitySince, FirstToken, LatestFirstTokens, SlotPart
from mcp_gateway.core.observe.history import (
    Among,
    FailedAttempts,
    FailedAttemptsOf,
    FurtherRefusalsOf,
    Group,
    Groups,
    LatencySample,
    MissingUsagesOf,
    RepeatsOf,
    RequestById,
    RequestFilter,
    RequestsByAnyId,
    RequestsPage,
    RoundsOf,
    Totals,
    TotalsOfRequests,
)
from mcp_gateway.core.observe.records import NoteFailedAttempt, NoteMissingUsage, NoteRefused, RequestCounts
from mcp_gateway.core.record import (
    SCORE_WHOLE,
    UNNAMED_SURFACE,
    AddRecord,
    Attribution,
    RequestRecord,
    RoutingFacts,
    round_ids,
)
from mcp_gateway.core.store.names import NUMBER_OF
from mcp_gateway.core.store.sql.attribution import insert_attributed
from mcp_gateway.core.store.sql.keys import KEYS_WITHIN
from mcp_gateway.core.store.sql.usage import ahead_s
from mcp_gateway.core.store.transaction import Executors, Row, Rows, Transaction
from mcp_gateway.core.zones import ZoneOffset

_SURFACE_AT = RequestRecord._fields.index("surface")
_COLUMNS = RequestRecord._fields[:_SURFACE_AT]
"""Those of every row, where a surface stands if it is not UNNAMED_SURFACE; what few were billed by is beside it."""
OF_FEW = slice(_SURFACE_AT + 1, None)
NOTHING_OF_THAT = tuple(RequestRecord._field_defaults[name] for name in RequestRecord._fields[OF_FEW])
_NAMES = slice(_COLUMNS.index("account_id"), _COLUMNS.index("price_version") + 1)
_NUMBERS = ("account_number", "key_number", "model_number", "backend_number", "price_number")
"""Rows have the numbers of these names: the table is `request_rows`, and `requests` a view of it with the names."""
BEFORE, _BEHIND = slice(_NAMES.start), slice(_NAMES.stop, _SURFACE_AT)
BEHIND_AND_SURFACE = slice(_NAMES.stop, _SURFACE_AT + 1)
_OWN = _COLUMNS[BEFORE] + _COLUMNS[_BEHIND]


def _inserting(*columns: str) -> str:
    return (
        f"INSERT INTO request_rows ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "
        "ON CONFLICT (account_number, id) DO NOTHING"
    )


_INSERT = _inserting(*_NUMBERS, *_OWN)
_INSERT_SURFACE = _inserting(*_NUMBERS, *_OWN, "surface")
"""Of a request that was asked in another than UNNAMED_SURFACE."""
_INSERT_COUNTS = "INSERT INTO request_counts VALUES (?, ?, ?, ?, ?) ON CONFLICT (account_id, id) DO NOTHING"
_INSERT_ROUTED = "INSERT INTO routed_requests VALUES (?, ?, ?, ?, ?, NULL) ON CONFLICT (account_id, id) DO NOTHING"
CORRECT = (
    "UPDATE request_rows SET cost_nano = COALESCE(?, cost_nano), http_status = ?, error_code = ?, latency_ms = ? "
    f"WHERE account_number = {NUMBER_OF.format('?')} AND id = ?"
)
"""For a request whose outcome turned out otherwise after its row was written; takes a `correction`."""

_ARRIVAL_MS = HOUR_MS
"""More than ever passes between the making of a request's id and its `started_at_ms`, which is never the earlier."""
_MOST_SUMMED = {"cost_nano": 10**15}
_MOST_SUMMED_TOKENS = 2**32
"""Of one request; more than any can have, and little enough that no sum over a database overflows."""
_SINCE = "accounts CROSS JOIN requests ON requests.account_id = accounts.id AND requests.id >= ?"
"""Those of all accounts from an id on: the log is kept by account, and each is searched; CROSS keeps that order."""
_SURFACE = "requests.surface"
_COUNTED = """
(SELECT {} FROM request_counts AS counted WHERE counted.account_id = requests.account_id AND counted.id = requests.id)
"""
_ROUTED = """
(SELECT json_array(task, complexity, confidence, score) FROM routed_requests AS routed
WHERE routed.account_id = requests.account_id AND routed.id = requests.id)
"""
_ATTRIBUTED = """
(SELECT {} FROM attributed_requests AS attributed
WHERE attributed.account_id = requests.account_id AND attributed.id = requests.id)
"""
_BESIDE = ", ".join((
    _SURFACE,
    _COUNTED.format("cache_write_tokens"),
    f"COALESCE({_COUNTED.format('images')}, 0)",
    _COUNTED.format("ended_by"),
    _ROUTED,
    _ATTRIBUTED.format("json_array(NULLIF(end_user, ''), json(tags))"),
))  # fmt: skip
_SELECTED = f"SELECT {', '.join(f'requests.{column}' for column in _COLUMNS)}, {_BESIDE}"
_SELECT = f"{_SELECTED} FROM requests"
_OF_ANY_ACCOUNT = f"""
{_SELECTED} FROM accounts CROSS JOIN requests ON account_id = accounts.id WHERE requests.id = ?
"""
_TASK = """
(SELECT task FROM routed_requests AS routed WHERE routed.account_id = requests.account_id AND routed.id = requests.id)
"""
_TIMES: dict[Group, str] = {
    "hour": "STRFTIME('%Y-%m-%dT%H:00:00Z', {hour} * 3600, 'unixepoch')",
    "day": "DATE({hour} * 3600 + {ahead_s}, 'unixepoch')",
    "month": "STRFTIME('%Y-%m', {hour} * 3600 + {ahead_s}, 'unixepoch')",
}
_GROUPS: dict[Group, str] = {
    "model": "model", "key": "key_id", "surface": _SURFACE, "status": "http_status",
    "task": _TASK, "user": _ATTRIBUTED.format("NULLIF(end_user, '')"), "tag": "tag.value",
}  # fmt: skip
_IS_WITHIN = """
? IN (
    WITH RECURSIVE line (one) AS (
        VALUES (requests.key_id)
        UNION SELECT made_by FROM line JOIN key_rights ON key_rights.key_id = one WHERE made_by IS NOT NULL
    )
    SELECT one FROM line
)
"""
"""As _WITHIN, of one request: reads the few keys that stand before its own, where the other may have made thousands."""
_WITHIN = f"key_id IN ({KEYS_WITHIN.format('?')})"
_SUMMED = ("prompt_tokens", "completion_tokens", "cached_tokens", "cost_nano")
_REQUESTS_BY_TAG = f"""
(SELECT * FROM requests WHERE {{}}) AS requests LEFT JOIN json_each({_ATTRIBUTED.format("tags")}) AS tag ON TRUE
"""
_TIMED = """
SELECT first_token_ms, latency_ms FROM (
    SELECT key_id, model, http_status, first_token_ms, latency_ms FROM requests
    WHERE account_id = ? AND id >= ? AND id < ? ORDER BY id LIMIT ?
)
"""
_COUNTS = """
SELECT account_id, key_id, SUM(requests) FROM accounts CROSS JOIN hourly_usage ON account_id = accounts.id AND hour >= ?
WHERE key_id <> '' GROUP BY account_id, key_id
"""
_ROUNDS = """
SELECT requests.account_id, requests.key_id, COUNT(*)
FROM (SELECT DISTINCT account_id FROM key_mcp_servers JOIN keys ON keys.id = key_id) AS served
CROSS JOIN requests ON requests.account_id = served.account_id AND requests.id >= ?
WHERE started_at_ms >= ? AND INSTR(requests.id, '-') > 0 AND requests.key_id IS NOT NULL
GROUP BY requests.account_id, requests.key_id
"""
"""Further rounds of requests, which accounts alone have whose keys may use tools of servers: no others are searched."""

_REFUSED = """
SELECT requests.account_id, requests.key_id, COUNT(*)
FROM accounts CROSS JOIN refused_requests AS refused ON refused.account_id = accounts.id AND refused.id >= ?
CROSS JOIN requests ON requests.account_id = refused.account_id AND requests.id = refused.id
WHERE started_at_ms >= ? AND requests.key_id IS NOT NULL
GROUP BY requests.account_id, requests.key_id
"""
"""Requests that limits refused, which are in the sums and were not admitted."""


def insert_records(transaction: Transaction, records: Sequence[RequestRecord]) -> None:
    """Rows for requests, each of which is recorded once."""
    numbers, connection = transaction.numbers, transaction.connection
    every: Sequence[tuple[Any, ...]] = records
    chats: list[tuple[Any, ...]] = []
    named: list[tuple[Any, ...]] = []
    for record in every:
        row = numbers[record[_NAMES]] + record[BEFORE] + record[_BEHIND]
        if record[_SURFACE_AT] == UNNAMED_SURFACE:
            chats.append(row)
        else:
            named.append((*row, record[_SURFACE_AT]))
    if named:
        connection.executemany(_INSERT_SURFACE, named)
    if chats:
        connection.executemany(_INSERT, chats)
    if few := [record for record in records if record[OF_FEW] != NOTHING_OF_THAT]:
        _insert_beside(transaction, few)


def _insert_beside(transaction: Transaction, records: Sequence[RequestRecord]) -> None:
    """What few requests were billed by, or asked for: why their models were chosen, and whom they are attributed to."""
    counted = [
        (record.account_id, record.id, record.cache_write_tokens, record.images, record.ended_by)
        for record in records
        if record.images or record.cache_write_tokens is not None or record.ended_by is not None
    ]
    transaction.execute_many(_INSERT_COUNTS, counted)
    routed = [
        (record.account_id, record.id, facts.task, facts.complexity, facts.confidence)
        for record in records
        if (facts := record.routing) is not None
    ]
    transaction.execute_many(_INSERT_ROUTED, routed)
    insert_attributed(transaction.connection, [record for record in records if record.attribution is not None])


def correction(record: RequestRecord, *, keeps_cost: bool = False) -> Row:
    """The parameters of CORRECT; what was charged may stay."""
    return (
        None if keeps_cost else record.cost_nano,
        record.http_status,
        record.error_code,
        record.latency_ms,
        record.account_id,
        record.id,
    )


def _sum_of(column: str) -> str:
    """A sum that cannot fail: rows of earlier versions may hold whatever a backend once said."""
    return f"SUM(MAX(0, MIN({column}, {_MOST_SUMMED.get(column, _MOST_SUMMED_TOKENS)})))"


def _two_digits(column: str) -> str:
    """As Activity rounds, of answers that succeeded, for whatever took less than 100,000 s."""
    steps = (1, 10, 100, 1000, 10**4, 10**5, 10**6)
    arms = (f"WHEN {column} < {step * 100} THEN {column} / {step} * {step}" for step in steps)
    return f"CASE WHEN http_status <> 200 THEN NULL {' '.join(arms)} END"


_SUMS = ", ".join(("COUNT(*)", *map(_sum_of, _SUMMED)))
_ACTIVITY = f"""
SELECT started_at_ms / {SLOT_MS}, COUNT(*), {_sum_of("prompt_tokens")}, {_sum_of("completion_tokens")},
    {_two_digits("latency_ms")}, {_two_digits("first_token_ms")}
FROM {_SINCE} GROUP BY 1, 5, 6
"""
_LATEST_FIRST_TOKENS = f"""
SELECT model, started_at_ms, first_token_ms FROM (
    SELECT model, started_at_ms, first_token_ms,
        ROW_NUMBER() OVER (PARTITION BY model ORDER BY started_at_ms DESC) AS age
    FROM {_SINCE} WHERE http_status = 200 AND first_token_ms IS NOT NULL AND model IS NOT NULL
) AS latest WHERE age <= ? ORDER BY started_at_ms
"""


def _add_records(transaction: Transaction, writes: Sequence[AddRecord]) -> list[None]:
    insert_records(transaction, [write.record for write in writes])
    return [None] * len(writes)


def _note_missing_usage(transaction: Transaction, note: NoteMissingUsage) -> None:
    row = (note.account_id, note.request_id, note.policy)
    transaction.execute("INSERT INTO missing_usages VALUES (?, ?, ?)", row)


def _note_failed_attempt(transaction: Transaction, note: NoteFailedAttempt) -> None:
    row = (note.account_id, note.request_id, note.number, note.backend, note.code)
    transaction.execute("INSERT INTO failed_attempts VALUES (?, ?, ?, ?, ?)", row)


def _note_refused(transaction: Transaction, note: NoteRefused) -> None:
    sql = """
    INSERT INTO refused_requests VALUES (?, ?, ?) ON CONFLICT (account_id, id) DO UPDATE SET further = excluded.further
    """
    transaction.execute(sql, (note.account_id, note.request_id, note.further))


def _request_counts(rows: Rows, read: RequestCounts) -> list[tuple[str, str, int]]:
    since_ms = read.since_hour * HOUR_MS
    first_id = first_id_at("req", max(0, since_ms - DAY_MS))  # a round may begin long after its request
    others = Counter[tuple[str, str]]()
    for sql in (_ROUNDS, _REFUSED):
        for account_id, key_id, count in rows.all(sql, (first_id, since_ms)):
            others[account_id, key_id] += count
    counts = rows.all(_COUNTS, (read.since_hour,))
    return [(account_id, key_id, count - others[account_id, key_id]) for account_id, key_id, count in counts]


def _activity(rows: Rows, read: ActivitySince) -> list[SlotPart]:
    return [SlotPart(*row) for row in rows.all(_ACTIVITY, (read.since_id,))]


def _latest_first_tokens(rows: Rows, read: LatestFirstTokens) -> list[FirstToken]:
    return [FirstToken(*row) for row in rows.all(_LATEST_FIRST_TOKENS, (read.since_id, read.most))]


def _by_id(rows: Rows, read: RequestById) -> RequestRecord | None:
    conditions = {"id = ?": read.request_id, "account_id = ?": read.account_id}
    conditions |= {} if read.within is None else {_IS_WITHIN: read.within}
    row = rows.first(f"{_SELECT} WHERE {' AND '.join(conditions)}", tuple(conditions.values()))
    return _record(row) if row else None


def _rounds(rows: Rows, read: RoundsOf) -> list[RequestRecord]:
    first, end = round_ids(read.request_id)
    found = rows.all(f"{_SELECT} WHERE account_id = ? AND id >= ? AND id < ?", (read.account_id, first, end))
    return sorted((_record(row) for row in found), key=lambda record: record.started_at_ms)


def _by_any_id(rows: Rows, read: RequestsByAnyId) -> list[RequestRecord]:
    found = rows.all(_OF_ANY_ACCOUNT, (read.any_id,))
    if not found:
        found = rows.all(f"{_SELECT} WHERE client_request_id = ? ORDER BY id DESC LIMIT ?", (read.any_id, read.most))
    return [_record(row) for row in found]


def _page(rows: Rows, read: RequestsPage) -> list[RequestRecord]:
    conditions = dict(_conditions(read.account_id, read.wanted))
    if read.before_id is not None:
        conditions["id < ?"] = read.before_id
    sql = f"{_SELECT} WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?"
    return [_record(row) for row in rows.all(sql, (*conditions.values(), read.limit))]


def _totals_of_requests(rows: Rows, read: TotalsOfRequests) -> Groups:
    wanted = RequestFilter(read.among, since_ms=read.since_ms, until_ms=read.until_ms)
    conditions = dict(_conditions(read.account_id, wanted))
    where = " AND ".join(conditions)
    names = _names(read.by, read.offsets)
    source = _REQUESTS_BY_TAG.format(where) if "tag" in read.by else f"requests WHERE {where}"
    sql = f"SELECT {', '.join(names)}, {_SUMS} FROM {source} GROUP BY {_first(len(names))}"
    return _groups(rows.all(sql, tuple(conditions.values())), len(names))


def _latencies(rows: Rows, read: LatencySample) -> list[tuple[int | None, int]]:
    conditions = dict(_among(read.among))
    sql = f"{_TIMED} WHERE {' AND '.join(('http_status = 200', *conditions))}"
    found: list[tuple[int | None, int]] = []
    for from_ms, until_ms in pairwise((*read.from_ms, read.until_ms)):
        begin, end = first_id_at("req", from_ms), first_id_at("req", until_ms)
        found += rows.all(sql, (read.account_id, begin, end, read.most, *conditions.values()))
    return found


def _names(by: Sequence[Group], offsets: Sequence[ZoneOffset]) -> list[str]:
    """Of requests, an expression for each thing that rows are of; times by the clocks of a zone."""
    hour = f"(started_at_ms / {HOUR_MS})"
    times = {group: sql.format(hour=hour, ahead_s=ahead_s(hour, offsets)) for group, sql in _TIMES.items()}
    return [times.get(group) or _GROUPS[group] for group in by]


def _first(columns: int) -> str:
    return ", ".join(str(number + 1) for number in range(columns))


def _groups(found: list[Row], names: int) -> Groups:
    return {row[:names]: Totals(*(number or 0 for number in row[names:])) for row in found}


def _repeats(rows: Rows, read: RepeatsOf) -> dict[str, str]:
    return _between(rows, "SELECT id, first_id FROM request_repeats", read)


def _missing_usages(rows: Rows, read: MissingUsagesOf) -> dict[str, str]:
    return _between(rows, "SELECT id, policy FROM missing_usages", read)


def _further_refusals(rows: Rows, read: FurtherRefusalsOf) -> dict[str, int]:
    return _between(rows, "SELECT id, further FROM refused_requests", read)


def _failed_attempts(rows: Rows, read: FailedAttemptsOf) -> FailedAttempts:
    sql = """
    SELECT id, backend, code FROM failed_attempts WHERE account_id = ? AND id >= ? AND id <= ? ORDER BY id, number
    """
    found: FailedAttempts = {}
    for request_id, backend, code in rows.all(sql, (read.account_id, read.first_id, read.last_id)):
        found.setdefault(request_id, []).append((backend, code))
    return found


def _between(rows: Rows, select: str, read: RepeatsOf | MissingUsagesOf | FurtherRefusalsOf) -> dict[str, Any]:
    sql = f"{select} WHERE account_id = ? AND id >= ? AND id <= ?"
    return dict(rows.all(sql, (read.account_id, read.first_id, read.last_id)))


def _record(row: Row) -> RequestRecord:
    """SQLite has no booleans, and one value for a column."""
    *facts, routed, attributed = row
    record = RequestRecord(*facts)
    return record._replace(
        is_stream=bool(record.is_stream),
        routing=None if routed is None else _routing(routed),
        attribution=None if attributed is None else _attribution(attributed),
    )


def _routing(stored: str) -> RoutingFacts:
    task, complexity, confidence, score = orjson.loads(stored)
    return RoutingFacts(task, complexity, confidence, None if score is None else score / SCORE_WHOLE)


def _attribution(stored: str) -> Attribution:
    user, tags = orjson.loads(stored)
    return Attribution(user, tuple(tags))


def _among(among: Among) -> Iterator[tuple[str, str]]:
    for column, names in (("model", among.models), ("key_id", among.key_ids)):
        if names:
            yield f"{column} IN (SELECT value FROM json_each(?))", orjson.dumps(names).decode()
    if among.within is not None:
        yield _WITHIN, among.within


def _conditions(account_id: str, wanted: RequestFilter) -> Iterator[tuple[str, Any]]:
    """Conditions with the value of each; ids sort by time, so that they find the window by the index."""
    yield "account_id = ?", account_id
    yield from _among(wanted.among)
    for column in ("http_status", "error_code", "door", "client_request_id"):
        if (value := getattr(wanted, column)) is not None:
            yield f"{column} = ?", value
    if wanted.least_status is not None:
        yield "http_status >= ?", wanted.least_status
    if wanted.surface is not None:
        yield f"{_SURFACE} = ?", wanted.surface
    if wanted.user is not None:
        yield f"{_ATTRIBUTED.format('end_user')} = ?", wanted.user
    if wanted.tag is not None:
        yield f"? IN (SELECT value FROM json_each({_ATTRIBUTED.format('tags')}))", wanted.tag
    if wanted.since_ms is not None:
        yield "id >= ?", first_id_at("req", max(0, wanted.since_ms - _ARRIVAL_MS))
        yield "started_at_ms >= ?", wanted.since_ms
    if wanted.until_ms is not None:
        yield "id <= ?", first_id_at("req", wanted.until_ms)
        yield "started_at_ms < ?", wanted.until_ms


EXECUTORS = Executors(
    alone={NoteMissingUsage: _note_missing_usage, NoteFailedAttempt: _note_failed_attempt, NoteRefused: _note_refused},
    together={AddRecord: _add_records},
    reads={
        RequestCounts: _request_counts,
        ActivitySince: _activity,
        LatestFirstTokens: _latest_first_tokens,
        RequestById: _by_id,
        RequestsByAnyId: _by_any_id,
        RequestsPage: _page,
        RoundsOf: _rounds,
        TotalsOfRequests: _totals_of_requests,
        LatencySample: _latencies,
        RepeatsOf: _repeats,
        MissingUsagesOf: _missing_usages,
        FailedAttemptsOf: _failed_attempts,
        FurtherRefusalsOf: _further_refusals,
    },
)
