"""Who may read the database: its owner alone, also where an earlier version let everybody."""

import os
from pathlib import Path

import pytest

from mcp_gateway.core.private import make_folder
from mcp_gateway.core.store.sqlite.backup import back_up
from tests.databases import migrated, open_store


def rights(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture(autouse=True)
def _open_umask() -> object:
    before = os.umask(0o002)
    yield
    os.umask(before)


@pytest.mark.parametrize("earlier", [None, 0o644, 0o666, 0o640, 0o600], ids=str)
async def test_the_database_and_what_stands_beside_it_are_the_owner_s_alone(
    tmp_path: Path, earlier: int | None
) -> None:
    database = tmp_path / "gateway.sqlite3"
    if earlier is not None:
        migrated(database).chmod(earlier)
    store = await open_store(database)
    await store.flushed()
    assert [rights(database.with_name(database.name + end)) for end in ("", "-wal", "-shm")] == [0o600] * 3
    await store.close()


async def test_a_log_that_a_crash_left_open_to_everybody_is_closed_to_them(tmp_path: Path) -> None:
    database = migrated(tmp_path / "gateway.sqlite3")
    log = database.with_name("gateway.sqlite3-wal")
    log.touch(0o644)
    store = await open_store(database)
    assert rights(log) == 0o600
    await store.close()


def test_a_new_folder_is_the_owner_s_alone_and_an_old_one_stays_as_it_is(tmp_path: Path) -> None:
    make_folder(tmp_path / "above" / "new")
    assert rights(tmp_path / "above" / "new") == 0o700
    (tmp_path / "shared").mkdir(0o750)
    make_folder(tmp_path / "shared")
    assert rights(tmp_path / "shared") == 0o750


def test_a_backup_is_the_owner_s_alone(tmp_path: Path) -> None:
    back_up(migrated(tmp_path / "gateway.sqlite3"), tmp_path / "copy")
    assert rights(tmp_path / "copy") == 0o600
