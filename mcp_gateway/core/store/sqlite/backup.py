"""A copy of a database, safe while it is in use."""

import contextlib
import sqlite3
from pathlib import Path

from mcp_gateway.core.private import make_file
from mcp_gateway.core.store.sqlite.faults import as_database_error
from mcp_gateway.core.store.sqlite.space import let_it_shrink
from mcp_gateway.core.synced import bring_to_disk


def back_up(database: Path, target: Path) -> None:
    """Write a consistent copy of `database` as of now to the new file `target`, readable by its owner alone.

    Raises FileExistsError, FileNotFoundError, DatabaseError.
    """
    if not database.exists():
        raise FileNotFoundError(f"there is no database at {database}")
    if target.exists():
        raise FileExistsError(f"{target} exists already; name a new file")
    part = target.with_name(target.name + ".part")
    make_file(part)
    try:
        with as_database_error(), contextlib.closing(sqlite3.connect(database)) as connection:
            let_it_shrink(connection)
            connection.execute("VACUUM INTO ?", (str(part),))
        bring_to_disk(part)
        part.rename(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
