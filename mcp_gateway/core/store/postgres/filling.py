"""Another engine's contents in a new database, in one transaction; and what the server knows to be wrong with one.

What stands here says no table's name but of those that a new database has a row in: the schema tells the others, what
they refer to, and which columns are numbered.
"""

from collections.abc import Mapping
from graphlib import TopologicalSorter

import asyncpg

from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.ledger.entries import Discrepancies
from mcp_gateway.core.store.database import Contents
from mcp_gateway.core.store.postgres.executors import EXECUTORS
from mcp_gateway.core.store.postgres.link import PostgresLink
from mcp_gateway.core.store.transaction import Rows

SEEDED = frozenset({"accounts", "database_identity", "ledger_checkpoint_position", "outcome_imports", "service_notice"})
"""Tables of a new database that have a row, which is another's then."""
_COLUMNS = """
SELECT
    table_name::text, column_name::text,
    CASE data_type WHEN 'boolean' THEN 'bool' ELSE data_type::text END, is_identity = 'YES'
FROM information_schema.columns WHERE table_schema = current_schema() ORDER BY ordinal_position
"""
_REFERENCES = """
SELECT conrelid::regclass::text, confrelid::regclass::text FROM pg_constraint
WHERE contype = 'f' AND conrelid <> confrelid AND connamespace = current_schema()::regnamespace
"""
_FAULTS = {
    "the server is a standby, which takes no writes": "SELECT 1 WHERE pg_is_in_recovery()",
    "the database is not in UTF-8 but in": """
        SELECT pg_encoding_to_char(encoding)::text FROM pg_database
        WHERE datname = current_database() AND pg_encoding_to_char(encoding) <> 'UTF8'""",
    "pages whose checksum was wrong, as the server has counted": """
        SELECT checksum_failures FROM pg_stat_database WHERE datname = current_database() AND checksum_failures > 0""",
    "an index that is not valid": """
        SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE NOT indisvalid AND relnamespace = current_schema()::regnamespace""",
    "a constraint that was never held against the rows": """
        SELECT conrelid::regclass::text, conname::text FROM pg_constraint
        WHERE NOT convalidated AND connamespace = current_schema()::regnamespace""",
    "a trigger that is switched off": """
        SELECT tgrelid::regclass::text, tgname::text FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
        WHERE tgenabled = 'D' AND relnamespace = current_schema()::regnamespace""",
}


def faults_in(link: PostgresLink) -> list[str]:
    """In words."""
    found = [(what, row) for what, sql in _FAULTS.items() for row in link.execute(sql)]
    return [what if row == (1,) else f"{what}: {', '.join(map(str, row))}" for what, row in found]


def fill(link: PostgresLink, contents: Contents) -> Mapping[str, int]:
    """How many rows each table has got. Raises DatabaseError where it kept something already; all of it or nothing."""
    link.script("BEGIN")
    try:
        copied = _fill(link, contents)
        link.script("COMMIT")
    except BaseException:
        link.drop()
        raise
    return copied


def _fill(link: PostgresLink, contents: Contents) -> dict[str, int]:
    types: dict[str, dict[str, str]] = {}
    numbered: list[tuple[str, str]] = []
    for table, column, kind, is_numbered in link.execute(_COLUMNS):
        if column in contents.columns.get(table, ()):
            types.setdefault(table, {})[column] = kind
            numbered += [(table, column)] if is_numbered else []
    tables = _in_order(link, types)
    if lacking := [table for table, columns in contents.columns.items() if len(columns) != len(types.get(table, ()))]:
        raise DatabaseError(f"the databases are not of one version: {', '.join(lacking)} differ")
    for table in tables:
        link.script(f'ALTER TABLE "{table}" DISABLE TRIGGER USER')  # which also keeps out whoever would write
    _make_room(link, tables)
    copied: dict[str, int] = {}
    for table in tables:
        columns = {column: types[table][column] for column in contents.columns[table]}
        copied[table] = _copy(link, contents, table, columns)
    for table, column in numbered:
        next_number = contents.highest(table, column) + 1
        link.execute("SELECT setval(pg_get_serial_sequence(?, ?), ?, false)", (table, column, next_number))
    for table in tables:
        link.script(f'ALTER TABLE "{table}" ENABLE TRIGGER USER')
    link.script("ANALYZE")
    found = EXECUTORS.reads[Discrepancies](Rows(link), Discrepancies(of_all_entries=True))
    if found:
        what, row = found[0]
        raise DatabaseError(f"the books of the copy do not agree: {what}: {', '.join(map(str, row))}")
    return copied


def _in_order(link: PostgresLink, types: Mapping[str, object]) -> list[str]:
    """Those that others refer to before these."""
    needs: dict[str, set[str]] = {table: set() for table in types}
    for table, other in link.execute(_REFERENCES):
        needs.setdefault(table, set()).add(other)
    return [table for table in TopologicalSorter(needs).static_order() if table in types]


def _make_room(link: PostgresLink, tables: list[str]) -> None:
    for table in tables:
        (rows,) = link.execute(f'SELECT COUNT(*) FROM (SELECT 1 FROM "{table}" LIMIT 2) AS rows').fetchone()
        if rows > (table in SEEDED):
            raise DatabaseError(
                f"there are rows in {table} already: a database is copied into a new one, which no gateway has used"
            )
    for table in SEEDED:
        link.script(f'DELETE FROM "{table}"')


def _copy(link: PostgresLink, contents: Contents, table: str, columns: Mapping[str, str]) -> int:
    try:
        link.copy(table, columns, contents.rows(table))
    except asyncpg.PostgresError as error:
        raise DatabaseError(f"{table} cannot be copied: {error.args[0]}") from None
    rows, wanted = link.execute(f'SELECT COUNT(*) FROM "{table}"').fetchone()[0], contents.count(table)
    if rows != wanted:
        raise DatabaseError(f"{table} has {wanted} rows, and its copy {rows}")
    return int(rows)
