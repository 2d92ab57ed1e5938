"""The schema as a command may change it: never beneath a server that runs, which knows only its own."""

import contextlib
import sqlite3
import time
from pathlib import Path

from mcp_gateway.core.store.database import SchemaNumbers, ServedByOlder
from mcp_gateway.core.store.sole import AlreadyServed, sole_server
from mcp_gateway.core.store.sqlite.faults import as_database_error
from mcp_gateway.core.store.sqlite.migrations import migrate, pending
from mcp_gateway.core.store.sqlite.private import keep_private
from mcp_gateway.core.store.sqlite.space import let_it_shrink

_PATIENCE_S = 10.0
"""A server that has just started may be about to change the schema itself."""
_POLL_S = 0.02


def upgrade_unless_served(database: Path, patience_s: float = _PATIENCE_S) -> None:
    """Bring the schema up to date, holding the folder's lock. Raises ServedByOlder, SchemaTooNew, DatabaseError."""
    keep_private(database)
    deadline_s = time.monotonic() + patience_s
    with as_database_error(), contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        while (lack := pending(connection)) is not None:
            try:
                with sole_server(database.parent, patience_s=0):
                    let_it_shrink(connection)
                    migrate(connection)
            except AlreadyServed:
                if time.monotonic() >= deadline_s:
                    raise ServedByOlder(_words(lack, database.parent)) from None
                time.sleep(_POLL_S)


def _words(lack: SchemaNumbers, folder: Path) -> str:
    return (
        f"a server of an earlier version works on {folder}, with schema {lack.applied}; this version needs "
        f"{lack.latest}: restart the server with this version first, or use the command of the version that serves"
    )
