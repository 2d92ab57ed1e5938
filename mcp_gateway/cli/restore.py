"""`mcp-gateway restore`: a backup in the place of the database, and what is lost by that."""

import contextlib
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

from mcp_gateway.cli.desk import fail
from mcp_gateway.core.gateway import DATABASE
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.ledger.checks import CHECKS
from mcp_gateway.core.ledger.pending import PENDING
from mcp_gateway.core.store.migrations import SchemaTooNew
from mcp_gateway.core.store.private import make_folder
from mcp_gateway.core.store.restore import ForeignLog, NotRestorable, check_log, restore
from mcp_gateway.core.store.sole import AlreadyServed, sole_server

_LAST = "SELECT IFNULL(MAX(id), 0), MAX(created_at_ms) FROM ledger_transactions"
_LOST = "SELECT COUNT(*) FROM ledger_transactions WHERE id > ?"


def restore_backup(data_dir: Path, file: Path) -> dict[str, str | int | None]:
    """Put `file` in place, and tell from when it is, how many entries are lost, and where the old files are."""
    make_folder(data_dir)
    database = data_dir / DATABASE
    aside = data_dir / f"replaced-{now_ms()}"
    last: list[tuple[int, int | None]] = []

    def look(connection: sqlite3.Connection) -> None:
        for what, sql in CHECKS.items():
            if connection.execute(sql).fetchone():
                raise NotRestorable(f"the books in {file} do not agree: {what}")
        last.append(connection.execute(_LAST).fetchone())

    try:
        with sole_server(data_dir):
            restore(database, file, aside, [data_dir / PENDING], look)
    except (AlreadyServed, NotRestorable, SchemaTooNew, sqlite3.Error, OSError) as error:
        fail(f"nothing was restored: {error}")
    last_id, at_ms = last[0]
    return {
        "restored": str(file),
        "last_entry_at": None if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(),
        "entries_lost": _entries_after(last_id, aside / DATABASE),
        "settlements_set_aside": int((aside / PENDING).exists()),
        "old_files": str(aside),
    }


def _entries_after(last_id: int, old: Path) -> int | None:
    """How many entries the old database has beyond the last of the backup; None where it cannot be read."""
    try:
        check_log(old)
        with contextlib.closing(sqlite3.connect(f"{old.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            count: int = connection.execute(_LOST, (last_id,)).fetchone()[0]
            return count
    except (ForeignLog, sqlite3.Error, OSError):
        return None
