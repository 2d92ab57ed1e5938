"""Commands and the schema: brought up to date where nobody serves, left alone beneath a server."""

import sqlite3
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from mcp_gateway.core.config import Settings
from mcp_gateway.core.gateway import open_desk
from mcp_gateway.core.store.database import SchemaTooNew, ServedByOlder
from mcp_gateway.core.store.sole import sole_server
from mcp_gateway.core.store.sqlite import migrations
from mcp_gateway.core.store.sqlite.database import DATABASE
from mcp_gateway.core.store.sqlite.migrations import migrate
from mcp_gateway.core.store.sqlite.upgrade import upgrade_unless_served
from tests.databases import migrated

NEXT = 9999


@pytest.fixture
def next_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    migrated(tmp_path / "of_this_version.sqlite3")  # or what all tests copy would be of the next version
    (tmp_path / "next.sql").write_text("CREATE TABLE of_the_next_version (id);")
    known = migrations._files()
    monkeypatch.setattr(migrations, "_files", lambda: known | {NEXT: tmp_path / "next.sql"})


def schema_of(fresh: Path) -> int:
    with closing(sqlite3.connect(fresh)) as connection:
        return migrations._applied(connection)


@pytest.mark.usefixtures("next_version")
def test_a_command_of_the_next_version_changes_nothing_beneath_a_server(fresh: Path) -> None:
    before = schema_of(migrated(fresh))
    with sole_server(fresh.parent), pytest.raises(ServedByOlder) as caught:
        upgrade_unless_served(fresh, patience_s=0)
    assert schema_of(fresh) == before
    assert all(word in str(caught.value) for word in (f"schema {before};", f"this version needs {NEXT}", "restart"))
    upgrade_unless_served(fresh, patience_s=0)
    assert schema_of(fresh) == NEXT


def test_a_command_of_the_server_s_own_version_needs_no_lock(fresh: Path) -> None:
    with sole_server(migrated(fresh).parent):
        upgrade_unless_served(fresh, patience_s=0)


def test_a_command_beside_a_server_that_begins_waits_until_that_has_made_the_schema(fresh: Path) -> None:
    with sole_server(fresh.parent), closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
        command = threading.Thread(target=upgrade_unless_served, args=(fresh, 60))
        command.start()
        migrate(connection)
        command.join()
    assert schema_of(fresh) == max(migrations._files())


def test_a_command_beside_another_that_upgrades_tries_again_once_that_has_ended(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as others:
        others.enter_context(sole_server(fresh.parent, patience_s=0))
        monkeypatch.setattr(time, "sleep", lambda _: others.close())
        upgrade_unless_served(fresh, patience_s=60)
    assert schema_of(fresh) == max(migrations._files())


def test_a_new_database_has_the_newest_schema_and_the_lock_is_free_then(fresh: Path) -> None:
    upgrade_unless_served(fresh, patience_s=0)
    assert schema_of(fresh) == max(migrations._files())
    with sole_server(fresh.parent, patience_s=0):
        pass


async def test_a_command_of_an_earlier_version_says_so(tmp_path: Path) -> None:
    with closing(sqlite3.connect(migrated(tmp_path / DATABASE), isolation_level=None)) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (?)", (NEXT,))
    with pytest.raises(SchemaTooNew, match=f"schema {NEXT}, and this version"):
        async with open_desk(Settings(data_dir=tmp_path)):
            pass
