"""Each command of the command line in this process: what it does, what it prints, and the code that it exits with."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer

from mcp_gateway.cli import app
from mcp_gateway.core.gateway import DATABASE
from tests.cases import each
from tests.test_command_line import data_dir, made, run

__all__ = ["data_dir"]

USAGE = 2
"""What a command exits with that was told what it cannot do."""


def commands(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """The words of every command."""
    if not hasattr(command, "commands"):
        yield path
        return
    for name, inner in command.commands.items():
        yield from commands(inner, *path, name)


def test_the_commands_are_found() -> None:
    assert {("serve",), ("accounts", "create"), ("keys", "revoke")} < set(commands(typer.main.get_command(app)))


@each("words", [words for words in commands(typer.main.get_command(app)) if words != ("bridge",)])
def test_every_command_tells_what_it_does_and_refuses_an_option_that_it_does_not_know(words: tuple[str, ...]) -> None:
    helped = run(*words, "--help")
    assert helped.exit_code == 0
    assert f"Usage: mcp-gateway {' '.join(words)}" in helped.stdout
    unknown = run(*words, "--no-such-option")
    assert unknown.exit_code == USAGE
    assert "--no-such-option" in unknown.stderr


@each("words", [("accounts", "list"), ("keys", "list"), ("ledger", "check"), ("serve",), ("backup", "copy.sqlite3")])
def test_a_configuration_that_is_not_there_is_refused(words: tuple[str, ...], data_dir: Path) -> None:
    refused = run(*words, "--config", "nowhere.toml")
    assert refused.exit_code == USAGE
    assert "nowhere.toml" in refused.stderr


def listed(*words: str) -> list[str]:
    """The lines of a list, without its head."""
    result = run(*words, "list")
    assert result.exit_code == 0
    return result.stdout.splitlines()[1:]


def test_an_account_is_made_with_what_it_begins_with_and_given_more(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann", "--credit", "12.50")
    added = run("accounts", "credit", account, "2")
    assert (added.exit_code, added.stdout) == (0, f"account {account}, balance 14.50 USD\n")
    granted = run("accounts", "credit", account, "1", "--grant", "--expires-in-days", "7")
    assert (granted.exit_code, granted.stdout) == (0, f"account {account}, balance 15.50 USD\n")
    (line,) = [line for line in listed("accounts") if line.startswith(account)]
    assert line.split() == [account, "15.50", "1.00", "0.00", "Ann"]


def test_only_a_gift_has_an_end(data_dir: Path) -> None:
    refused = run("accounts", "credit", made("accounts", "create", "Ann"), "1", "--expires-in-days", "7")
    assert refused.exit_code == USAGE
    assert "--grant" in refused.stderr


def test_an_account_is_switched_off_and_on_again(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    for word, is_off in (("deactivate", True), ("activate", False)):
        assert run("accounts", word, account).exit_code == 0
        (line,) = [line for line in listed("accounts") if line.startswith(account)]
        assert ("(deactivated)" in line) is is_off


def test_the_books_agree_until_a_balance_differs_from_its_entries(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann", "--credit", "1")
    agreed = run("ledger", "check")
    assert (agreed.exit_code, agreed.stdout) == (0, "every balance equals its entries\n")
    with closing(sqlite3.connect(data_dir / DATABASE)) as connection, connection:
        connection.execute("UPDATE wallets SET paid_nano = paid_nano + 1 WHERE account_id = ?", (account,))
    differing = run("ledger", "check")
    assert differing.exit_code == 1
    assert account in differing.stderr


def test_a_backup_is_a_whole_database_and_overwrites_nothing(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    copy = data_dir / "copy.sqlite3"
    assert run("backup", str(copy)).exit_code == 0
    with closing(sqlite3.connect(copy)) as connection:
        assert (account,) in connection.execute("SELECT id FROM accounts").fetchall()
    again = run("backup", str(copy))
    assert again.exit_code == USAGE
    assert again.stderr.startswith("mcp-gateway: ")


def test_the_bridge_s_own_options_and_exit_code_pass_through(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATEWAY_URL", raising=False)
    assert run("bridge").exit_code == USAGE
    assert run("bridge", "--help").exit_code == 0
