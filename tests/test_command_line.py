"""The command line and names: what would move an operator's cursor is refused, and what stands already is escaped."""

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from mcp_gateway.cli.commands import app
from mcp_gateway.cli.workers import check_nothing_waits
from mcp_gateway.core.config import Settings
from mcp_gateway.core.ledger.pending import PENDING
from tests.databases import AnyOutside, kept_by, outside
from tests.serving import database_at

typer.testing._get_command = cache(typer.main.get_command)  # type: ignore[attr-defined] # else made at each run
NASTY = "\x1b]0;owned\x07\x1b[2J\nkey_forged acc_forged gw_live_AAAA...  live     admin\u202e\x9b"

DECLARED = """
import contextlib, gc, sys
from pydantic import BaseModel, TypeAdapter
from mcp_gateway.__main__ import main

def declared_below(model):
    return set(model.__subclasses__()).union(*map(declared_below, model.__subclasses__()))

sys.argv = ["mcp-gateway", "serve", "--help"]
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(sys.stderr):
    main()
import http_api.program
models = [model for model in declared_below(BaseModel) if not model.__pydantic_complete__]
print(len(models), sum(model.model_rebuild() is True for model in models))
adapters = [adapter for adapter in gc.get_objects() if isinstance(adapter, TypeAdapter)]
print(sum(adapter.pydantic_complete for adapter in adapters), len(adapters), sum(map(TypeAdapter.rebuild, adapters)))
print(*sorted(name for name in sys.modules if name.startswith("mcp_gateway.cli.")))
"""
"""Tells of a server how many models it has declared and not built, and how many of those can be built; the same of
adapters, after how many are built; and which modules of the command line it has loaded.
"""


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """With a database, and the folder where commands run."""
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with database_at(Settings(data_dir=tmp_path)) as tree:
        if tree.database_url is not None:
            monkeypatch.setenv("GATEWAY_DATABASE_URL", tree.database_url.get_secret_value())
        yield tmp_path


def settings_at(data_dir: Path) -> Settings:
    """Those by which commands find their database."""
    tree = {"data_dir": data_dir, "database_url": os.environ.get("GATEWAY_DATABASE_URL")}
    return Settings.model_validate(tree)


def outside_of(data_dir: Path) -> AnyOutside:
    """Somebody else's connection to that database."""
    return outside(settings_at(data_dir))


def kept_in(data_dir: Path) -> bytes:
    """All that commands have written."""
    return kept_by(settings_at(data_dir))


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(app, arguments, env=environ)


def made(*arguments: str) -> str:
    result = run(*arguments, "--quiet")
    assert result.exit_code == 0, result.output
    return str(result.stdout).strip()


@pytest.mark.parametrize("name", [NASTY, "two\nlines", "\x7f", "a\u2029b", "\udcff"])
def test_a_name_that_is_no_line_of_text_is_refused_in_words(name: str, data_dir: Path) -> None:
    account = made("accounts", "create", "good")
    for refused in (run("accounts", "create", name), run("keys", "create", "--account", account, "--name", name)):
        assert refused.exit_code == 2
        assert refused.stderr.startswith("mcp-gateway: `name` must be one line")
        assert "gw_live_" not in refused.output


def test_a_name_that_stands_in_the_database_already_is_listed_escaped(data_dir: Path) -> None:
    account = made("accounts", "create", "good")
    made("keys", "create", "--account", account, "--name", "fine")
    with outside_of(data_dir) as another:
        another.rows("UPDATE accounts SET name = ? WHERE id = ?", NASTY, account)
        another.rows("UPDATE keys SET name = ?", NASTY)
    for listing in (run("accounts", "list").stdout, run("keys", "list").stdout):
        assert r"\x1b]0;owned\x07\x1b[2J\nkey_forged" in listing
        assert not set(listing) & {"\x1b", "\x07", "\x9b", "\u202e"}
        assert not any(line.startswith("key_forged") for line in listing.splitlines())


@pytest.mark.parametrize("account", ["acc_\x1b[2J", "x" * 5000, "\udcff", ""])
def test_an_unknown_account_is_told_in_a_short_line(account: str, data_dir: Path) -> None:
    for refused in (run("accounts", "deactivate", account), run("keys", "create", "--account", account)):
        assert refused.exit_code == 2
        assert refused.stderr.strip().isprintable()
        assert len(refused.stderr) < 300


@pytest.mark.parametrize("limit", ["0", "-1", "9" * 5000, "\x1b", "1e999999999", "0" * 5000 + "1", str(2**63)])
def test_a_limit_that_is_no_number_is_refused_in_words(limit: str, data_dir: Path) -> None:
    for command in (("keys", "create", "--account", "acc_x"), ("accounts", "limits", "acc_x")):
        refused = run(*command, "--in-flight", limit)
        assert refused.exit_code == 2
        assert refused.stderr.startswith("mcp-gateway: --in-flight takes a whole number")
        assert len(refused.stderr) < 300


def test_an_account_is_given_limits_one_by_one_and_shows_them(data_dir: Path) -> None:
    account = made("accounts", "create", "good")
    limits = "accounts", "limits", account
    assert run(*limits).stdout == f"account {account}: the highest limits among its keys\n"
    assert run(*limits, "--requests-per-minute", "5").stdout == f"account {account}: requests_per_minute 5\n"
    told = run(*limits, "--in-flight", "none", "--tokens-per-minute", str(2**63 - 1)).stdout
    assert told == f"account {account}: requests_per_minute 5, tokens_per_minute {2**63 - 1}, in_flight none\n"
    assert run(*limits, "--tokens-per-minute", "Default").stdout == run(*limits).stdout
    assert "  good requests_per_minute 5, in_flight none\n" in run("accounts", "list").stdout


@pytest.mark.parametrize(("account", "words"), [("acc_x", "no account 'acc_x'"), ("acc_guest", "under [guests]")])
def test_only_accounts_that_have_keys_are_given_limits(account: str, words: str, data_dir: Path) -> None:
    refused = run("accounts", "limits", account, "--requests-per-day", "5")
    assert (refused.exit_code, words in refused.stderr) == (2, True)


@pytest.mark.parametrize("amount", ["9" * 5000, "1e999999999", "\x1b[2J", "NaN", "-0", "\udcff"])
def test_an_amount_that_is_none_is_refused_in_words(amount: str, data_dir: Path) -> None:
    refused = run("accounts", "credit", "acc_x", "--", amount)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("mcp-gateway: '")
    assert refused.stderr.strip().isprintable()
    assert len(refused.stderr) < 300


@pytest.mark.parametrize("days", ["-1", "nan", "inf", "1e999", "100001"])
def test_an_end_that_is_none_is_refused_in_words(days: str, data_dir: Path) -> None:
    account = made("accounts", "create", "good")
    for arguments in (("keys", "create", "--account", account), ("accounts", "credit", account, "5", "--grant")):
        refused = run(*arguments, f"--expires-in-days={days}")
        assert refused.exit_code == 2
        assert "expires-in-days" in refused.stderr


def test_a_key_has_the_scopes_and_the_end_that_it_was_given_and_shows_them(data_dir: Path) -> None:
    account = made("accounts", "create", "good")
    made("keys", "create", "--account", account, "--name", "everything")
    options = ("--scope", "read", "--scope", "inference", "--expires-in-days", "0.5")
    made("keys", "create", "--account", account, "--name", "agent", *options)
    listed = run("keys", "list").stdout
    assert "live     agent for inference and read until 20" in listed
    assert "live     everything\n" in listed


@pytest.mark.parametrize("scope", ["admin", "", "Read", "\x1b[2J", "read,inference"])
def test_a_scope_that_there_is_not_is_refused_in_words(scope: str, data_dir: Path) -> None:
    refused = run("keys", "create", "--account", "acc_x", "--scope", scope)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("mcp-gateway: --scope takes inference, read, billing, manage; not '")
    assert refused.stderr.strip().isprintable()


def test_a_test_key_takes_no_other_scope_than_inference(data_dir: Path) -> None:
    account = made("accounts", "create", "good")
    refused = run("keys", "create", "--account", account, "--test", "--scope", "manage")
    assert (refused.exit_code, "`inference` alone" in refused.stderr) == (2, True)
    assert made("keys", "create", "--account", account, "--test", "--scope", "inference").startswith("gw_test_")


def test_a_key_is_revoked_alone_or_with_those_that_it_made(data_dir: Path) -> None:
    account = made("accounts", "create", "good")
    for _ in range(2):
        made("keys", "create", "--account", account)
    first, second = [line.split()[0] for line in run("keys", "list").stdout.splitlines()[1:]]
    with outside_of(data_dir) as another:
        another.rows("UPDATE key_rights SET made_by = ? WHERE key_id = ?", first, second)
    assert run("keys", "revoke", first).stdout == f"key {first} is revoked\n"
    assert run("keys", "revoke", first, "--with-made").stdout == f"key {first} is revoked, and 1 that it made\n"
    assert run("keys", "list").stdout.count(" revoked ") == 2


@pytest.mark.parametrize(
    "given", [{}, {"GATEWAY_DATABASE_URL": "postgresql:///gateway"}, {"GATEWAY_VALKEY_URL": "valkey://127.0.0.1"}]
)
def test_several_processes_need_both_engines(
    given: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    asked = run("serve", "--workers", "2", "--data-dir", str(tmp_path))
    assert asked.exit_code == 2
    assert "needs database_url and valkey_url" in asked.stderr


def test_settlements_that_no_worker_would_write_keep_them_from_beginning(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "worker-3"):
        folder.mkdir(exist_ok=True)
        (folder / PENDING).touch()
        with pytest.raises(typer.Exit):
            check_nothing_waits(tmp_path, 2)
        (folder / PENDING).unlink()
    (tmp_path / "worker-2").mkdir()
    (tmp_path / "worker-2" / PENDING).touch()
    check_nothing_waits(tmp_path, 2)


@pytest.mark.program
def test_a_server_builds_what_it_uses_and_loads_no_other_command() -> None:
    told = subprocess.run([sys.executable, "-c", DECLARED], capture_output=True, text=True, check=True).stdout
    models, adapters, modules = told.splitlines()
    waiting, built = map(int, models.split())
    assert waiting == built > 500
    before, declared, built = map(int, adapters.split())
    assert (before, built) == (0, declared)
    assert declared > 5
    assert modules.split() == [f"mcp_gateway.cli.{name}" for name in ("desk", "serve", "workers")]
