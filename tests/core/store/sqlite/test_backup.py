"""Copies of a database that is in use."""

import stat
from pathlib import Path

import pytest

from mcp_gateway.core.engine import DatabaseError
from mcp_gateway.core.store.sqlite.backup import back_up
from mcp_gateway.core.store.sqlite.store import Store
from tests.core.store.sqlite.test_store import note, notes_on_disk


async def test_a_copy_has_what_was_committed_and_is_its_owners_alone(store: Store, database: Path) -> None:
    await store.write(note("before"))
    target = database.with_name("copy")
    back_up(database, target)
    await store.write(note("after"))
    assert notes_on_disk(target) == ["before"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no database"):
        back_up(tmp_path / "absent", tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    for name in ("database", "copy"):
        (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="exists already"):
        back_up(tmp_path / "database", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"mine"


def test_a_copy_that_fails_leaves_no_part_of_it(tmp_path: Path) -> None:
    database = tmp_path / "database"
    database.write_bytes(b"this is no database" * 100)
    with pytest.raises(DatabaseError):
        back_up(database, tmp_path / "copy")
    assert list(tmp_path.iterdir()) == [database]
