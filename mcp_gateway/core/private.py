"""Who may read what is kept: the user whom the gateway runs as, and nobody else. Knows nothing of what it is."""

import os
from pathlib import Path

OWNER_ALONE = 0o600


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where there is none; one that stands already keeps the rights it was given."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def make_file(file: Path) -> None:
    """Make an empty file that its owner alone may read. Raises FileExistsError."""
    os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, OWNER_ALONE))
