"""`mcp-gateway db` at a file: its schema, whether it is sound, and what cannot be copied."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from mcp_gateway.core.ledger.pending import PENDING
from mcp_gateway.core.store.sole import sole_server
from mcp_gateway.core.store.sqlite.database import DATABASE
from mcp_gateway.core.store.sqlite.migrations import _files
from tests.databases import of_version
from tests.test_command_line import data_dir, made, run
from tests.test_commands import USAGE, told

pytestmark = [pytest.mark.gateways, pytest.mark.usefixtures("of_sqlite")]

__all__ = ["data_dir"]
LATEST = max(_files())


def changed(data_dir: Path, sql: str) -> None:
    with contextlib.closing(sqlite3.connect(data_dir / DATABASE, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute(sql)


def test_a_database_is_made_and_brought_up_to_date(data_dir: Path) -> None:
    assert run("db", "migrate").stdout == f"the schema is {LATEST}, as it was\n"
    (data_dir / DATABASE).write_bytes(of_version(LATEST - 1))
    behind = run("db", "check")
    assert (behind.exit_code, behind.stdout) == (1, "")
    assert f"the schema is {LATEST - 1}, and this version needs {LATEST}: `mcp-gateway db migrate`" in behind.stderr
    with sole_server(data_dir):
        assert told("db", "check", status=1)["schema"] == LATEST - 1  # which changes nothing
    assert told("db", "migrate") == {"before": LATEST - 1, "after": LATEST}
    (data_dir / DATABASE).unlink()
    assert "there is no database yet" in run("db", "check").stderr
    assert not (data_dir / DATABASE).exists()
    assert run("db", "migrate").stdout == f"the schema was 0 and is {LATEST}\n"
    assert told("db", "check") == {"is_sound": True, "schema": LATEST, "faults": []}


def test_one_of_a_later_version_is_refused(data_dir: Path) -> None:
    changed(data_dir, "INSERT INTO schema_migrations VALUES (9999)")
    for command in ("migrate", "check"):
        refused = run("db", command)
        assert (refused.exit_code, "this version knows none after" in refused.stderr) == (USAGE, True)


def test_what_is_wrong_is_told_and_makes_the_status(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann", "--credit", "5")
    assert run("db", "check").stdout == (
        f"the database is sound, with schema {LATEST}; every balance equals its entries\n"
    )
    changed(data_dir, f"UPDATE wallets SET paid_nano = 1 WHERE account_id = '{account}'")
    books = run("db", "check", "--all")
    assert (books.exit_code, "a wallet differs from its transactions" in books.stderr) == (1, True)
    changed(data_dir, "INSERT INTO proxying_accounts VALUES ('acc_of_nobody')")
    astray = told("db", "check", status=1)
    assert astray["faults"] == ["a row of proxying_accounts refers to one that is not in accounts"]


def test_a_page_that_is_damaged_is_found(data_dir: Path) -> None:
    file = data_dir / DATABASE
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        find = "SELECT rootpage FROM sqlite_schema WHERE name = 'accounts'"
        (page,), (size,) = connection.execute(find).fetchone(), connection.execute("PRAGMA page_size").fetchone()
    with file.open("r+b") as content:
        content.seek((page - 1) * size)
        content.write(bytes(size))
    assert run("db", "check").exit_code in (1, USAGE)


def test_what_cannot_be_copied_is_told_before_anything_is(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to = "--to", "postgresql://nobody@localhost:1/none"
    assert "say where to" in run("db", "copy").stderr
    assert "begins with postgresql:" in run("db", "copy", "--to", "mysql://a@b/c").stderr
    with sole_server(data_dir):
        refused = run("db", "copy", *to)
        assert (refused.exit_code, "already serves" in refused.stderr) == (USAGE, True)
    (data_dir / PENDING).write_text("{}")
    assert "start the server once" in run("db", "copy", *to).stderr
    (data_dir / PENDING).unlink()
    made("accounts", "create", "Ann", "--credit", "5")
    changed(data_dir, "UPDATE wallets SET paid_nano = 1")
    assert "nothing was copied, since the books do not agree" in run("db", "copy", *to).stderr
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(data_dir / "none"))
    assert "there is no database at" in run("db", "copy", *to).stderr
