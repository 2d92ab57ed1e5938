"""What stands in the way of a backup that would be put in place, seen before anything is changed."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mcp_gateway.core.store.database import NotRestorable
from mcp_gateway.core.store.sqlite.migrations import migrate
from mcp_gateway.core.store.sqlite.restore import restore


def test_a_backup_whose_index_tells_another_story_than_its_table_is_damaged(tmp_path: Path) -> None:
    backup, database = tmp_path / "backup", tmp_path / "database"
    with closing(sqlite3.connect(backup, isolation_level=None)) as connection:
        migrate(connection)
        connection.execute("CREATE TABLE words (word TEXT) STRICT")
        connection.execute("CREATE INDEX words_by_word ON words (word)")
        connection.execute("INSERT INTO words VALUES ('needle')")
    content = backup.read_bytes()
    at = content.rindex(b"needle")
    backup.write_bytes(content[:at] + b"noodle" + content[at + 6 :])
    database.write_bytes(b"as it was")
    with pytest.raises(NotRestorable, match="damaged"):
        restore(database, backup, tmp_path / "aside", [])
    assert {path.name for path in tmp_path.iterdir()} == {"backup", "database"}
    assert database.read_bytes() == b"as it was"
