"""`mcp-gateway audit`: what commands have changed, and who ran them."""

import getpass
import json
import socket
from pathlib import Path

import pytest

from tests.test_command_line import data_dir, made, outside_of, run

__all__ = ["data_dir"]


@pytest.fixture(autouse=True)
def nobody_s_superuser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)


def test_each_command_that_changes_something_is_told(data_dir: Path) -> None:
    account = made("accounts", "create", "ours", "--credit", "5", "--quiet")
    run("accounts", "limits", account, "--in-flight", "3")
    run("accounts", "show", account)
    told = json.loads(run("audit", "list", "--json").stdout)
    assert [entry["action"] for entry in told] == ["account.limits", "money.credit", "account.create"]
    assert {entry["by"]["id"] for entry in told} == {getpass.getuser()}
    assert {entry["by"]["where"] for entry in told} == {socket.gethostname()}
    assert told[0]["after"]["limits"]["in_flight"] == 3
    assert "account.limits" in run("audit", "list", "--subject", account, "--limit", "1").stdout


def test_an_auto_topup_is_shown_and_switched_off(data_dir: Path) -> None:
    account = made("accounts", "create", "ours", "--quiet")
    assert run("accounts", "auto-topup", account).stdout == f"account {account}: no auto top-up is set\n"
    with outside_of(data_dir) as another:
        values = (account, 5 * 10**9, 20 * 10**9, 60 * 10**9)
        another.rows("INSERT INTO auto_topups VALUES (?, ?, ?, ?, NULL, NULL)", *values)
    assert "adds 20.00 USD once the balance is below 5.00 USD" in run("accounts", "auto-topup", account).stdout
    assert json.loads(run("accounts", "auto-topup", account, "off", "--json").stdout)["off_reason"] == "operator"
    run("accounts", "auto-topup", account, "off")
    assert run("accounts", "auto-topup", account, "on").exit_code == 2
    entry, _ = json.loads(run("audit", "list", "--json").stdout)
    assert (entry["action"], entry["subject"]) == ("account.auto_topup", account)
    assert entry["after"] == {"enabled": False, "reason": "operator"}


def test_who_became_the_superuser_is_told(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "alice")
    made("accounts", "create", "ours", "--quiet")
    assert [entry["by"]["id"] for entry in json.loads(run("audit", "list", "--json").stdout)] == ["alice"]


def test_all_are_exported_line_by_line(data_dir: Path) -> None:
    for name in ("a", "b", "c"):
        made("accounts", "create", name, "--quiet")
    lines = run("audit", "export", "--json").stdout.splitlines()
    assert [json.loads(line)["after"]["name"] for line in lines] == ["c", "b", "a"]
    assert len(run("audit", "export").stdout.splitlines()) == len(lines)


def test_a_user_s_name_does_not_move_an_operator_s_cursor(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "\u202eevil\x1b[2J")
    made("accounts", "create", "ours", "--quiet")
    told = run("audit", "list").stdout
    assert "evil" in told
    assert not {"\u202e", "\x1b"} & set(told)


def test_a_time_that_is_none_is_refused(data_dir: Path) -> None:
    assert run("audit", "list", "--since", "yesterday").exit_code == 2


def test_an_administrator_s_key_is_made_listed_and_revoked(data_dir: Path) -> None:
    key = json.loads(run("admins", "create", "alice", "--expires-in", "7d", "--json").stdout)
    assert key["key"].startswith("gw_admin_")
    assert "alice" in run("admins", "list").stdout
    assert run("admins", "revoke", key["id"], "--quiet").stdout.strip() == key["id"]
    assert json.loads(run("admins", "list", "--json").stdout)[0]["state"] == "revoked"
    assert run("admins", "revoke", "adm_unknown").exit_code == 2
