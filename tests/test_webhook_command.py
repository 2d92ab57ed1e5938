"""`mcp-gateway accounts webhook`: where an account is told of its money, by the checks of PUT /webhook."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cases import each
from tests.test_command_line import data_dir, made, run

pytestmark = pytest.mark.gateways

__all__ = ["data_dir"]


def test_an_account_s_webhook_and_its_mark_are_shown_and_changed_and_a_secret_is_shown_once(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")

    def told(*words: str) -> Any:
        result = run("accounts", "webhook", account, *words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    nothing = {"id": account, "url": None, "set_at": None, "former_secret_until": None, "low_balance_usd": None}
    assert told() == nothing
    assert told("--low-balance", "5") == nothing | {"low_balance_usd": "5.00"}
    new = told("https://hooks.example.com/T0/in", "--low-balance", "7.5")
    assert new["secret"].startswith("whsec_")
    kept = told("https://hooks.example.com/T0/to")
    assert kept | {"secret": new["secret"]} == new | {"url": "https://hooks.example.com/T0/to"}
    rotated = run("accounts", "webhook", account, "--rotate", "--quiet").stdout.strip()
    assert rotated.startswith("whsec_")
    assert rotated != new["secret"]
    shown = run("accounts", "webhook", account).stdout
    assert shown == f"account {account}: told at https://hooks.example.com/T0/to, low below 7.50 USD\n"
    assert told()["former_secret_until"] > told()["set_at"]
    assert told("off", "--low-balance", "none") == nothing
    noted = [entry["action"] for entry in json.loads(run("audit", "list", "--subject", account, "--json").stdout)]
    changed = ["account.low_balance", "webhook.delete", "webhook.rotate", "webhook.set", "account.low_balance"]
    assert noted == [*changed, "webhook.set", "account.low_balance", "account.create"]


@each(
    ("words", "said"),
    [
        (["http://hooks.example.com/in"], "`url` is not an address that events can go to"),
        (["https://127.0.0.1/in"], "goes to the public internet"),
        (["https://hooks.example.com/in", "--low-balance", "0"], "'0' is not more than nothing"),
        (["--low-balance", "-1"], "'-1' is not more than nothing"),
        (["https://hooks.example.com/in", "--rotate"], "leave the address out"),
        (["--rotate"], "has no webhook"),
        (["off", "--low-balance", "3"], "has no webhook"),
    ],
)
def test_what_is_no_webhook_is_refused_and_changes_nothing(data_dir: Path, words: list[str], said: str) -> None:
    account = made("accounts", "create", "Ann")
    result = run("accounts", "webhook", account, *words)
    assert (result.exit_code, said in result.stderr) == (2, True), result.output
    told = json.loads(run("accounts", "webhook", account, "--json").stdout)
    assert (told["url"], told["low_balance_usd"]) == (None, None)
    assert run("accounts", "webhook", "acc_nobody", *words).exit_code == 2
