"""The files of a database, which nobody but its owner may read."""

import contextlib
from pathlib import Path

from mcp_gateway.core.private import OWNER_ALONE, make_file


def beside(database: Path) -> tuple[Path, ...]:
    """What SQLite keeps beside a database: its log, the index of that, and the journal of one that has no log yet."""
    return tuple(database.with_name(database.name + end) for end in ("-wal", "-shm", "-journal"))


def keep_private(database: Path) -> None:
    """Let its owner alone read a database and what SQLite keeps beside it; made empty where there is none.

    SQLite gives its log and index the rights of the database. Files of earlier versions were open to everybody.
    """
    with contextlib.suppress(FileExistsError):
        make_file(database)
    for file in (database, *beside(database)):
        with contextlib.suppress(FileNotFoundError, PermissionError):  # not there; another user's
            if file.stat().st_mode & 0o077:
                file.chmod(OWNER_ALONE)
