"""Who may read what is kept: the user whom the gateway runs as, and nobody else. Knows nothing of what it is."""

import contextlib
import os
from pathlib import Path

OWNER_ALONE = 0o600


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where there is none; one that stands already keeps the rights it was given."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def make_file(file: Path) -> None:
    """Make an empty file that its owner alone may read. Raises FileExistsError."""
    os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, OWNER_ALONE))


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
