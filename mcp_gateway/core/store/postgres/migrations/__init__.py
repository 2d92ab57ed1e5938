"""Numbered SQL files, each applied once and in order, however many processes start at once.

All that is pending is applied in one transaction, by whoever has the lock; each file is kept with its checksum, and one
that was changed after it was applied is refused.
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
_MADE = "SELECT to_regclass('schema_migrations') IS NOT NULL"


class _Step(NamedTuple):
    sql: str
    sha256: str


def schema_numbers(link: PostgresLink) -> SchemaNumbers:
    """What is applied, and the latest that this version knows. Changes nothing."""
    (is_made,) = link.execute(_MADE).fetchone()
    applied = link.execute("SELECT COALESCE(MAX(number), 0) FROM schema_migrations").fetchone()[0] if is_made else 0
    return SchemaNumbers(applied, max(_steps()))


def migrate_database(link: PostgresLink) -> int:
    """Bring the schema up to date; how many steps were applied. Raises SchemaTooNew, DatabaseError."""
    check_version(link)
    steps = _steps()
    link.script(f"BEGIN; SELECT pg_advisory_xact_lock({LOCKS}, {MIGRATING})")
    try:
        link.script(
            "CREATE TABLE IF NOT EXISTS schema_migrations (number bigint PRIMARY KEY, sha256 text NOT NULL, "
            "at timestamptz NOT NULL DEFAULT now())"
        )
        applied = dict(link.execute("SELECT number, sha256 FROM schema_migrations ORDER BY number").fetchall())
        _check_history(applied, steps)
        pending = sorted(set(steps) - set(applied))
        for number in pending:
            link.script(steps[number].sql)
            link.execute("INSERT INTO schema_migrations (number, sha256) VALUES (?, ?)", (number, steps[number].sha256))
        link.script("COMMIT")
    except BaseException:
        link.drop()
        raise
    return len(pending)


def check_version(link: PostgresLink) -> None:
    """Raises DatabaseError."""
    if int(link.version.partition(".")[0]) < _LEAST_VERSION:
        raise DatabaseError(f"PostgreSQL {_LEAST_VERSION} or newer is needed; the server is {link.version}")


def _check_history(applied: dict[int, str], steps: dict[int, _Step]) -> None:
    SchemaNumbers(max(applied, default=0), max(steps)).check()
    for number, sha256 in applied.items():
        if steps[number].sha256 != sha256:
            raise DatabaseError(
                f"step {number} of the database's schema is not the one of this version: one of them was changed since"
            )


def _steps() -> dict[int, _Step]:
    found = ((_FILE.fullmatch(path.name), path) for path in Path(__file__).parent.iterdir())
    return {int(match[1]): _step(path) for match, path in found if match is not None}


def _step(path: Path) -> _Step:
    sql = path.read_text("utf-8")
    return _Step(sql, hashlib.sha256(sql.encode()).hexdigest())
