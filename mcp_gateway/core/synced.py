"""Files on the disk, whatever the power does from then on."""

import os
from pathlib import Path


def bring_to_disk(path: Path) -> None:
    """A file, or the names in a folder. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
