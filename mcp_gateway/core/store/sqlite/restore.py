"""A backup in the place of a database: checked first, with what it replaces moved aside.

A log that stands beside another database than its own would be written into that one by SQLite, page by page; so would
the journal of a transaction that was cut off.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mcp_gateway.core.private import make_file
from mcp_gateway.core.store.database import ForeignLog, NotRestorable
from mcp_gateway.core.store.sql.checks import CHECKS
from mcp_gateway.core.store.sqlite.faults import as_database_error
from mcp_gateway.core.store.sqlite.migrations import migrate
from mcp_gateway.core.store.sqlite.private import beside
from mcp_gateway.core.synced import bring_to_disk

_VERSION_AT = 18
"""Of the bytes that say how a database is written: https://sqlite.org/fileformat2.html#file_format_version_numbers"""
_WITHOUT_LOG = 1
_LAST = "SELECT IFNULL(MAX(id), 0), MAX(created_at_ms) FROM ledger_transactions"
_COUNT_AFTER = "SELECT COUNT(*) FROM ledger_transactions WHERE id > ?"


class LastEntry(NamedTuple):
    """Of a database's books; None where there is none."""

    id: int
    at_ms: int | None


def check_log(database: Path) -> None:
    """Before a process opens a database, and never once it has: a file that is closed ends all locks that the process
    has on it, SQLite's too (https://sqlite.org/howtocorrupt.html, 2.2). Raises ForeignLog, OSError.

    No lock is needed, whoever works on the database. The log is looked at first: a database of ours says that it has
    one before there is one.
    """
    log, *_ = beside(database)
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size and _version(database) == _WITHOUT_LOG:
            raise ForeignLog(
                f"a backup was copied over {database}, and the log of the one before still stands beside it: "
                "run `mcp-gateway restore FILE` with the backup, which puts both in order"
            )


def restore(database: Path, backup: Path, aside: Path, others: Iterable[Path]) -> LastEntry:
    """Put a copy of `backup` in the place of `database`, moving that, its logs and `others` into a new folder, `aside`.

    The caller holds the folder's lock. Nothing is changed unless the copy is sound. Ended in the middle, it can be run
    again: until the old log is gone, `check_log` keeps everybody from the database. Returns the last entry of what was
    restored. Raises NotRestorable, SchemaTooNew, DatabaseError, OSError.
    """
    if not backup.is_file() or (database.exists() and backup.samefile(database)):
        raise NotRestorable(f"{backup} is no file beside the database to restore it from")
    copy = database.with_name(database.name + ".restoring")
    try:
        with as_database_error():
            last = _copy(backup, copy)
        old = [*beside(database), *others]
        aside.mkdir(mode=0o700)
        for file in (database, *old):
            with contextlib.suppress(FileNotFoundError):
                os.link(file, aside / file.name)
        copy.replace(database)
        for file in reversed(old):
            file.unlink(missing_ok=True)
        bring_to_disk(database.parent)
        return last
    finally:
        copy.unlink(missing_ok=True)


def entries_after(database: Path, last_id: int) -> int | None:
    """How many entries a database has beyond one; None where it cannot be read."""
    try:
        check_log(database)
        with contextlib.closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            count: int = connection.execute(_COUNT_AFTER, (last_id,)).fetchone()[0]
            return count
    except (ForeignLog, sqlite3.Error, OSError):
        return None


def _copy(backup: Path, copy: Path) -> LastEntry:
    """A whole copy with this version's schema and without a log, on the disk."""
    copy.unlink(missing_ok=True)
    make_file(copy)
    with (
        contextlib.closing(sqlite3.connect(f"{backup.absolute().as_uri()}?mode=ro", uri=True)) as source,
        contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as target,
    ):
        source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE")
        if target.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            raise NotRestorable(f"{backup} is damaged")
        if not target.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_migrations'").fetchone():
            raise NotRestorable(f"{backup} is no database of a gateway")
        migrate(target)
        for what, sql in CHECKS.items():
            if target.execute(sql).fetchone():
                raise NotRestorable(f"the books in {backup} do not agree: {what}")
        last = LastEntry(*target.execute(_LAST).fetchone())
    bring_to_disk(copy)
    return last


def _version(database: Path) -> int | None:
    with database.open("rb") as file:
        head = file.read(_VERSION_AT + 1)
    return head[_VERSION_AT] if len(head) > _VERSION_AT else None
