"""A backup in the place of a database: by the command, and by hand over a log that stands beside."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mcp_gateway.core.ledger.pending import PENDING
from mcp_gateway.core.store.sole import sole_server
from mcp_gateway.core.store.sqlite.database import DATABASE
from tests.test_command_line import data_dir, made, run
from tests.test_commands import USAGE, told

pytestmark = [pytest.mark.gateways, pytest.mark.usefixtures("of_sqlite")]

__all__ = ["data_dir"]


@pytest.fixture
def backup(data_dir: Path) -> Path:
    """Of a database with one account that has 5 USD; afterwards it has 7."""
    account = made("accounts", "create", "Ann", "--credit", "5")
    assert run("backup", str(data_dir / "copy")).exit_code == 0
    made("accounts", "credit", account, "2")
    return data_dir / "copy"


def balances() -> list[str]:
    return [row["balance_usd"] for row in told("accounts", "list")[1:]]


def with_log(data_dir: Path) -> None:
    """As after a kill: the last entries stand in the log alone."""
    kept = {}
    with closing(sqlite3.connect(data_dir / DATABASE)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("UPDATE accounts SET name = 'in the log'")
        connection.commit()
        for path in data_dir.glob(f"{DATABASE}*"):
            kept[path] = path.read_bytes()
    for path, content in kept.items():
        path.write_bytes(content)
    assert (data_dir / f"{DATABASE}-wal").stat().st_size


def test_a_restored_backup_is_what_was_backed_up_and_nothing_is_thrown_away(data_dir: Path, backup: Path) -> None:
    with_log(data_dir)
    (data_dir / PENDING).write_text("{}")
    facts = told("restore", str(backup))
    assert (facts["entries_lost"], facts["settlements_set_aside"]) == (1, 1)
    assert balances() == ["5.00"]
    assert run("ledger", "check").exit_code == 0
    assert not (data_dir / PENDING).exists()
    aside = Path(facts["old_files"])
    assert aside.stat().st_mode & 0o777 == 0o700
    assert {DATABASE, f"{DATABASE}-wal", PENDING} <= {path.name for path in aside.iterdir()}
    old = run("accounts", "list", "--data-dir", str(aside)).stdout
    assert "7.00" in old
    assert "in the log" in old
    assert run("restore", str(backup)).exit_code == 0


def with_journal(data_dir: Path) -> None:
    """As after a kill in the middle of a migration of a database that had no log yet."""
    database, kept = data_dir / DATABASE, {}
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        connection.execute("UPDATE wallets SET paid_nano = 0")
        connection.execute("CREATE TABLE large (text)")
        connection.execute("INSERT INTO large VALUES (?)", ("x" * 10**6,))
        for path in data_dir.glob(f"{DATABASE}*"):
            kept[path] = path.read_bytes()
        connection.execute("ROLLBACK")
    for path, content in kept.items():
        path.write_bytes(content)
    assert (data_dir / f"{DATABASE}-journal").stat().st_size


def test_a_transaction_that_was_cut_off_is_not_rolled_back_into_the_backup(data_dir: Path, backup: Path) -> None:
    with_journal(data_dir)
    assert balances() == ["7.00"]
    with_journal(data_dir)
    aside = Path(told("restore", str(backup))["old_files"])
    assert balances() == ["5.00"]
    assert run("ledger", "check").exit_code == 0
    assert "7.00" in run("accounts", "list", "--data-dir", str(aside)).stdout


@pytest.mark.parametrize(
    "words", [("accounts", "list"), ("ledger", "check"), ("backup", "again"), ("serve", "--port=0")]
)
def test_a_backup_that_was_copied_over_a_log_is_found_and_put_in_order(
    data_dir: Path, backup: Path, words: tuple[str, ...]
) -> None:
    with_log(data_dir)
    shutil.copy(backup, data_dir / DATABASE)
    log = (data_dir / f"{DATABASE}-wal").read_bytes()
    refused = run(*words)
    assert (refused.exit_code, "mcp-gateway restore FILE" in refused.stderr) == (USAGE, True)
    assert (data_dir / f"{DATABASE}-wal").read_bytes() == log
    assert (data_dir / DATABASE).read_bytes() == backup.read_bytes()
    assert told("restore", str(backup))["entries_lost"] is None
    assert balances() == ["5.00"]


@pytest.mark.parametrize("words", [("accounts", "list"), ("ledger", "check"), ("backup", "again")])
def test_it_is_found_too_while_another_command_has_the_folder_for_a_moment(
    data_dir: Path, backup: Path, words: tuple[str, ...]
) -> None:
    with_log(data_dir)
    shutil.copy(backup, data_dir / DATABASE)
    with sole_server(data_dir):
        refused = run(*words)
    assert (refused.exit_code, "mcp-gateway restore FILE" in refused.stderr) == (USAGE, True)
    assert (data_dir / DATABASE).read_bytes() == backup.read_bytes()


@pytest.mark.parametrize("words", [("accounts", "list"), ("backup", "again")])
def test_a_database_with_its_own_log_is_opened_beneath_a_server(
    data_dir: Path, backup: Path, words: tuple[str, ...]
) -> None:
    with_log(data_dir)
    with sole_server(data_dir):
        assert run(*words).exit_code == 0


def test_a_database_with_its_own_log_is_opened(data_dir: Path, backup: Path) -> None:
    with_log(data_dir)
    assert "in the log" in run("accounts", "list").stdout


def test_nothing_is_restored_beneath_a_server(data_dir: Path, backup: Path) -> None:
    with sole_server(data_dir):
        refused = run("restore", str(backup))
    assert (refused.exit_code, "already serves" in refused.stderr) == (USAGE, True)
    assert balances() == ["7.00"]


def damaged(backup: Path) -> None:
    content = bytearray(backup.read_bytes())
    content[5000:60_000] = bytes(55_000)
    backup.write_bytes(content)


def untrue(backup: Path) -> None:
    with closing(sqlite3.connect(backup)) as connection, connection:
        connection.execute("UPDATE wallets SET paid_nano = paid_nano + 1")


def of_the_future(backup: Path) -> None:
    with closing(sqlite3.connect(backup)) as connection, connection:
        connection.execute("INSERT INTO schema_migrations VALUES (9999)")


def of_others(backup: Path) -> None:
    backup.unlink()
    with closing(sqlite3.connect(backup)) as connection, connection:
        connection.execute("CREATE TABLE something (else_)")


@pytest.mark.parametrize(
    "spoil", [damaged, untrue, of_the_future, of_others, Path.unlink, lambda file: file.write_text("text" * 999)]
)
def test_what_is_no_sound_backup_changes_nothing(data_dir: Path, backup: Path, spoil: object) -> None:
    assert callable(spoil)
    spoil(backup)
    before = (data_dir / DATABASE).read_bytes()
    refused = run("restore", str(backup))
    assert (refused.exit_code, refused.stderr.startswith("mcp-gateway: nothing was restored: ")) == (USAGE, True)
    assert (data_dir / DATABASE).read_bytes() == before
    assert not list(data_dir.glob("replaced-*"))
    assert not list(data_dir.glob("*.restoring"))
    assert balances() == ["7.00"]


def test_a_database_is_not_restored_from_itself(data_dir: Path, backup: Path) -> None:
    assert run("restore", str(data_dir / DATABASE)).exit_code == USAGE
    assert balances() == ["7.00"]
