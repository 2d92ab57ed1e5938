"""`mcp-gateway users`: who is made, invited, kept out and deleted; no password stands in an argument or an answer."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mcp_gateway.cli.commands import app
from tests.cases import each
from tests.test_command_line import data_dir, kept_in, made, outside_of, run

pytestmark = pytest.mark.gateways

__all__ = ["data_dir"]

PASSWORD = "a quiet river in May"


def told(*words: str) -> Any:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def with_input(text: str, *words: str) -> Result:
    return CliRunner().invoke(app, words, input=text)


def rows(data_dir: Path, sql: str) -> list[Any]:
    with outside_of(data_dir) as another:
        return another.rows(sql)


def test_a_user_is_made_with_an_account_and_a_secret_to_choose_a_password_by(data_dir: Path) -> None:
    user = told("users", "create", "Ann@Example.com")
    assert (user["email"], user["role"], user["administrator"], user["has_password"]) == (
        "ann@example.com",
        "owner",
        False,
        False,
    )
    assert user["token"].startswith("gw_reset_")
    assert rows(data_dir, "SELECT name FROM accounts WHERE id <> 'acc_guest'") == [("ann@example.com",)]
    assert user["token"].encode() not in kept_in(data_dir)
    assert told("users", "list") == [{key: value for key, value in user.items() if not key.startswith("token")}]
    assert "ann@example.com" in run("users", "list").stdout


def test_a_password_is_read_from_the_standard_input_and_kept_as_a_hash_alone(data_dir: Path) -> None:
    result = with_input(f"{PASSWORD}\n", "users", "create", "ann@example.com", "--password-stdin", "--json")
    assert json.loads(result.stdout)["has_password"] is True
    assert "token" not in json.loads(result.stdout)
    ((kept,),) = rows(data_dir, "SELECT password_hash FROM users")
    assert kept.startswith("$argon2id$")
    assert PASSWORD.encode() not in b"".join(path.read_bytes() for path in data_dir.iterdir() if path.is_file())
    with_input("another river in June\n", "users", "password", "ann@example.com", "--password-stdin")
    ((changed,),) = rows(data_dir, "SELECT password_hash FROM users")
    assert changed != kept


@each("text", ["", "\n", "short\n", "password1234\n"])
def test_a_password_that_may_not_be_is_refused_and_nobody_is_made(data_dir: Path, text: str) -> None:
    refused = with_input(text, "users", "create", "ann@example.com", "--password-stdin")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("mcp-gateway: `password`")
    assert told("users", "list") == []


@each(
    ("words", "why"),
    [
        (("create", "no address"), "no e-mail address"),
        (("create", "b@example.com", "--role", "king"), "--role takes"),
        (("create", "b@example.com", "--role", "viewer"), "A new account needs an owner"),
        (("invite", "--role", "member"), "A new account needs an owner"),
        (("create", "b@example.com", "--account", "acc_none"), "no account"),
        (("create", "ANN@example.com"), "already"),
        (("invite", "ann@example.com"), "already"),
        (("invite", "--account", "acc_none"), "no account"),
        (("disable", "nobody@example.com"), "no user"),
        (("password", "usr_none"), "no user"),
        (("delete", "usr_none"), "no user"),
    ],
)
def test_what_cannot_be_is_refused_in_words(data_dir: Path, words: tuple[str, ...], why: str) -> None:
    run("users", "create", "ann@example.com")  # who is there for all but the first
    refused = run("users", *words)
    assert refused.exit_code == 2
    assert why in refused.stderr


def test_an_account_has_several_users_and_each_a_role(data_dir: Path) -> None:
    account = made("accounts", "create", "Shop")
    for role in ("owner", "member", "viewer"):
        made("users", "create", f"{role}@example.com", "--account", account, "--role", role)
    made("users", "create", "other@example.com", "--administrator")
    listed = told("users", "list", "--account", account)
    assert [(user["email"], user["role"]) for user in listed] == [
        (f"{role}@example.com", role) for role in ("owner", "member", "viewer")
    ]
    assert [user["administrator"] for user in told("users", "list")] == [False, False, False, True]


def test_an_invitation_says_for_whom_it_is_and_is_shown_once(data_dir: Path) -> None:
    invitation = told("users", "invite", "Bob@example.com")
    assert (invitation["email"], invitation["role"]) == ("bob@example.com", "owner")
    assert made("users", "invite").startswith("gw_invite_")
    assert invitation["token"].encode() not in kept_in(data_dir)
    made("users", "invite", "bob@example.com")
    assert rows(data_dir, "SELECT COUNT(*) FROM one_time_secrets WHERE email IS NOT NULL") == [(1,)]


def test_a_user_is_disabled_and_let_in_again_by_address_or_id(data_dir: Path) -> None:
    user_id = made("users", "create", "ann@example.com")
    assert told("users", "disable", "ANN@example.com")["active"] is False
    assert "(disabled)" in run("users", "list").stdout
    assert told("users", "disable", user_id, "--undo")["active"] is True


def test_a_user_who_is_deleted_leaves_no_address_behind(data_dir: Path) -> None:
    user = told("users", "create", "ann@example.com")
    made("keys", "create", "--account", user["account"])
    told("users", "delete", "ann@example.com")
    assert told("users", "list") == []
    assert rows(data_dir, "SELECT name FROM accounts WHERE id <> 'acc_guest'") == [("",)]
    assert rows(data_dir, "SELECT COUNT(*) FROM keys WHERE revoked_at_ms IS NULL") == [(0,)]
    for table in ("users", "memberships", "user_sessions", "one_time_secrets"):
        assert rows(data_dir, f"SELECT COUNT(*) FROM {table}") == [(0,)]
    made("users", "create", "ann@example.com")


@each(
    ("name", "value", "reached", "email"),
    [
        ("HOST", "0.0.0.0", "http://127.0.0.1:8080", "ann@example.com"),
        ("HOST", "::1", "http://[::1]:8080", "bob@example.com"),
        ("PUBLIC_URL", "https://gateway.example.com/llm", "https://gateway.example.com/llm", "eve@example.com"),
    ],
)
def test_secrets_are_told_with_a_page_that_people_can_open(
    name: str, value: str, reached: str, email: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only the configuration's address is known, which `serve --port` may differ from, it is told so."""
    monkeypatch.setenv(f"GATEWAY_{name}", value)
    for page, words in (("password", ("users", "create", email)), ("register", ("users", "invite"))):
        told = run(*words).stdout
        secret = next(line for line in told.splitlines() if line.startswith(("gw_reset_", "gw_invite_")))
        assert f": {reached}/console/{page}?token={secret}\n" in told
        assert ("set public_url" in told) is (name == "HOST")


def test_where_people_sign_in_by_an_issuer_alone_nobody_is_invited_or_has_a_password(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_PUBLIC_URL", "https://gateway.example.com")
    oidc = {"ISSUER": "https://id.example.com", "CLIENT_ID": "gateway", "ONLY": "true"}
    for name, value in oidc.items():
        monkeypatch.setenv(f"GATEWAY_OIDC__{name}", value)
    user = told("users", "create", "ann@example.com")
    assert (user["has_password"], "token" in user) == (False, False)
    refused = [
        run("users", "invite"),
        run("users", "password", "ann@example.com"),
        with_input(f"{PASSWORD}\n", "users", "password", "ann@example.com", "--password-stdin"),
        with_input(f"{PASSWORD}\n", "users", "create", "bob@example.com", "--password-stdin"),
    ]
    said = "mcp-gateway: Nobody has a password here: people sign in by id.example.com.\n"
    assert [(one.exit_code, one.stderr) for one in refused] == [(2, said)] * 4
    assert rows(data_dir, "SELECT email, password_hash FROM users") == [("ann@example.com", None)]
