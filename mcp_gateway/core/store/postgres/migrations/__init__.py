"""Numbered SQL files, each applied once and in order, however many processes start at once.

All that is pending is applied in one transaction, by whoever has the lock; each file is kept with its checksum, and one
that was changed after it was applied is refused.

A file that begins with "Only adds" changes nothing that versions before it know: it is applied while their servers
serve, and they begin on a database that has it. What it may say, a test holds.
"""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.store.database import SchemaNumbers
from mcp_gateway.core.store.postgres.link import PostgresLink
from mcp_gateway.core.store.postgres.session import LOCKS, MIGRATING

_FILE = re.compile(r"(\d{4})_\w+\.sql")
_LEAST_VERSION = 16
_ONLY_ADDS = "-- Only adds:"
_MADE = "SELECT to_regclass('schema_migrations') IS NOT NULL"
_APPLIED = """
SELECT number, sha256, COALESCE(CAST(to_jsonb(one) ->> 'only_adds' AS boolean), FALSE)
FROM schema_migrations AS one ORDER BY number
"""
"""Also before the first that only adds, when the column may not be there."""
_KEEP = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number bigint PRIMARY KEY, sha256 text NOT NULL, at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE schema_migrations ADD COLUMN IF NOT EXISTS only_adds boolean NOT NULL DEFAULT FALSE
"""
_ADD = "INSERT INTO schema_migrations (number, sha256, only_adds) VALUES (?, ?, ?)"


class _Step(NamedTuple):
    sql: str
    sha256: str
    only_adds: bool


class _Applied(NamedTuple):
    sha256: str
    only_adds: bool


def schema_numbers(link: PostgresLink) -> SchemaNumbers:
    """What is applied, and the latest that this version knows. Changes nothing."""
    return _numbers(_applied(link), _steps())


def may_be_served_meanwhile(link: PostgresLink) -> bool:
    """Whether servers may go on that know only what is applied, while the schema is brought up to date."""
    steps = _steps()
    return all(steps[number].only_adds for number in set(steps) - set(_applied(link)))


def migrate_database(link: PostgresLink, lock_timeout_ms: int | None = None) -> int:
    """Bring the schema up to date; how many steps were applied. Raises SchemaTooNew, DatabaseError.

    What others have locked is waited for as long as the link says, or for `lock_timeout_ms`.
    """
    check_version(link)
    steps = _steps()
    link.script(f"BEGIN; SELECT pg_advisory_xact_lock({LOCKS}, {MIGRATING})")
    try:
        if lock_timeout_ms is not None:
            link.script(f"SET LOCAL lock_timeout TO {lock_timeout_ms}")
        applied = _applied(link)
        _check_history(applied, steps)
        pending = sorted(set(steps) - set(applied))
        if pending:
            link.script(_KEEP)
        for number in pending:
            link.script(steps[number].sql)
            link.execute(_ADD, (number, steps[number].sha256, steps[number].only_adds))
        link.script("COMMIT")
    except BaseException:
        link.drop()
        raise
    return len(pending)


def check_version(link: PostgresLink) -> None:
    """Raises DatabaseError."""
    if int(link.version.partition(".")[0]) < _LEAST_VERSION:
        raise DatabaseError(f"PostgreSQL {_LEAST_VERSION} or newer is needed; the server is {link.version}")


def _applied(link: PostgresLink) -> dict[int, _Applied]:
    (is_made,) = link.execute(_MADE).fetchone()
    return {number: _Applied(*more) for number, *more in link.execute(_APPLIED)} if is_made else {}


def _numbers(applied: dict[int, _Applied], steps: dict[int, _Step]) -> SchemaNumbers:
    needed = max((number for number, one in applied.items() if not one.only_adds), default=0)
    return SchemaNumbers(max(applied, default=0), max(steps), needed)


def _check_history(applied: dict[int, _Applied], steps: dict[int, _Step]) -> None:
    _numbers(applied, steps).check()
    for number in sorted(set(applied) & set(steps)):
        if steps[number].sha256 != applied[number].sha256:
            raise DatabaseError(
                f"step {number} of the database's schema is not the one of this version: one of them was changed since"
            )


def _steps() -> dict[int, _Step]:
    found = ((_FILE.fullmatch(path.name), path) for path in Path(__file__).parent.iterdir())
    return {int(match[1]): _step(path) for match, path in found if match is not None}


def _step(path: Path) -> _Step:
    sql = path.read_text("utf-8")
    return _Step(sql, hashlib.sha256(sql.encode()).hexdigest(), sql.startswith(_ONLY_ADDS))
