"""PostgreSQL's tables are the other engine's, by their columns: whoever changes the one schema changes both."""

import contextlib
import re
import sqlite3
from pathlib import Path

from mcp_gateway.core.store.postgres import migrations
from mcp_gateway.core.store.sqlite.migrations import migrate

OWN = {"allotments", "budget_versions", "claims", "schema_migrations", "writers"}
"""What the engines keep for themselves."""
OWN_COLUMNS = {("budgets", "rowid")}


def columns_of_postgres() -> set[tuple[str, str]]:
    files = sorted(Path(migrations.__file__).parent.glob("*.sql"))
    tables = re.findall(r"^CREATE TABLE (\w+) \((.*?)\)[^;)]*;$", "".join(map(Path.read_text, files)), re.S | re.M)
    found = set()
    for table, body in tables:
        for part in re.sub(r"--.*", "", body).split("\n") if "\n" in body else body.split(","):
            name = re.match(r'\s*"?([a-z_0-9]+)"? (?:bigint|text|boolean|bytea|double|timestamptz)\b', part)
            if name is not None:
                found.add((table, name[1]))
    return {(table, column) for table, column in found if table not in OWN} - OWN_COLUMNS


def columns_of_sqlite() -> set[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        migrate(database)
        tables = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        return {
            (table, column)
            for (table,) in tables.fetchall()
            if table not in OWN
            for _, column, *_ in database.execute(f"PRAGMA table_info({table})")
        }


def test_both_engines_have_the_same_tables() -> None:
    assert columns_of_postgres() == columns_of_sqlite()
