"""Each command of the command line in this process: what it does, what it prints, and the code that it exits with."""

import asyncio
import json
import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mcp_gateway.cli.commands import app
from mcp_gateway.cli.serve import _desk_options
from mcp_gateway.core.config import Settings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.gateway import open_desk
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.ledger import orders
from mcp_gateway.core.ledger.pending import PENDING
from mcp_gateway.core.record import RequestRecord, RoutingFacts
from mcp_gateway.core.store.sqlite.database import DATABASE
from tests.cases import each
from tests.patience import PATIENCE_S, becomes
from tests.recorded import recorded, write_records
from tests.serving import Door, bearer, open_door
from tests.test_command_line import data_dir, made, outside_of, run, settings_at

pytestmark = pytest.mark.gateways

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


def command_of(words: tuple[str, ...]) -> Any:
    found: Any = typer.main.get_command(app)
    for word in words:
        found = found.commands[word]
    return found


def test_the_commands_are_found() -> None:
    assert {("serve",), ("accounts", "create"), ("keys", "revoke")} < set(commands(typer.main.get_command(app)))


@each("words", [words for words in commands(typer.main.get_command(app)) if words != ("bridge",)])
def test_every_command_tells_what_it_does_and_refuses_an_option_that_it_does_not_know(words: tuple[str, ...]) -> None:
    helped = run(*words, "--help")
    assert helped.exit_code == 0
    assert f"Usage: mcp-gateway {' '.join(words)}" in helped.stdout
    assert " ".join(command_of(words).help.split()) in " ".join(helped.stdout.split())
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
    assert line.split() == [account, "15.50", "1.00", "unknown", "Ann"]


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


def told(*words: str, status: int = 0) -> Any:
    """What a command tells as JSON."""
    result = run(*words, "--json")
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


@each("words", [words for words in commands(typer.main.get_command(app)) if words not in (("bridge",), ("serve",))])
def test_every_command_has_the_options_of_the_others(words: tuple[str, ...]) -> None:
    helped = run(*words, "--help").stdout
    assert {"--config", "--data-dir", "--json"} <= set(re.findall(r"--[a-z-]+", helped))


def test_what_is_told_as_json_is_what_was_done(data_dir: Path) -> None:
    account = told("accounts", "create", "Ann", "--credit", "12.50")
    assert (account["name"], account["balance_usd"], account["active"]) == ("Ann", "12.50", True)
    key = told("keys", "create", "--account", account["id"], "--in-flight", "none", "--requests-per-day", "5")
    assert key["key"].startswith(key["prefix"])
    assert key["limits"] == {
        "requests_per_minute": "default", "requests_per_day": 5, "tokens_per_minute": "default", "in_flight": "none",
    }  # fmt: skip
    del key["key"]
    assert told("keys", "list") == [key]
    assert told("accounts", "limits", account["id"], "--in-flight", "2")["limits"]["in_flight"] == 2
    assert told("accounts", "deactivate", account["id"])["active"] is False
    assert told("accounts", "activate", account["id"])["active"] is True
    assert [listed["id"] for listed in told("accounts", "list")] == ["acc_guest", account["id"]]
    assert told("keys", "revoke", key["id"], "--with-made")["made_revoked"] == 0
    assert told("ledger", "check") == {"is_sound": True, "discrepancies": []}


def test_an_account_pays_a_margin_from_when_it_is_told(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    assert told("accounts", "show", account)["margin_percent"] == "0"
    assert run("accounts", "change", account, "--margin", "12.5").stdout == f"account {account}, margin 12.5 %\n"
    assert told("accounts", "change", account, "--margin", "20")["margin_percent"] == "20"
    assert "margin: 20 %" in run("accounts", "show", account).stdout
    assert "margin 20 %" in run("accounts", "list").stdout
    assert told("accounts", "change", account, "--margin", "0")["margin_percent"] == "0"
    for odd in ("-1", "20%", "1.234", "", "1e2", "20,5"):
        refused = run("accounts", "change", account, f"--margin={odd}")
        assert (refused.exit_code, "--margin takes a percentage" in refused.stderr) == (USAGE, True), odd
    for words, said in ((("acc_x", "--margin", "5"), "no account"), ((account, "--margin", "1001"), "0 to 1000"),
                        (("acc_guest", "--margin", "5"), "Guests")):  # fmt: skip
        refused = run("accounts", "change", *words)
        assert (refused.exit_code, said in refused.stderr) == (USAGE, True), words


def test_an_account_may_ask_providers_by_their_own_paths_once_it_is_told(data_dir: Path) -> None:
    account, other = made("accounts", "create", "Ann"), made("accounts", "create", "Bob")
    assert told("accounts", "show", account)["proxy"] is False
    assert run("accounts", "change", account, "--proxy").stdout == f"account {account}, margin 0 %, may ask /proxy\n"
    assert told("accounts", "change", account, "--proxy", "--margin", "5")["proxy"] is True
    assert "margin: 5 %; may ask /proxy" in run("accounts", "show", account).stdout
    assert run("accounts", "list").stdout.count("may ask /proxy") == 1
    assert told("accounts", "show", other)["proxy"] is False
    assert told("accounts", "change", account, "--no-proxy")["proxy"] is False
    named = f"account {account} (Bea), margin 5 %\n"
    assert run("accounts", "change", account, "--name", "Bea").stdout == named
    assert run("accounts", "change", account, "--name", " ").exit_code == USAGE
    for words, said in ((("acc_x", "--proxy"), "no account"), (("acc_guest", "--proxy"), "Guests")):
        refused = run("accounts", "change", *words)
        assert (refused.exit_code, said in refused.stderr) == (USAGE, True), words


def test_an_account_is_shown_with_its_money_its_keys_and_its_last_entries(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann", "--credit", "2")
    made("keys", "create", "--account", account)
    run("accounts", "adjust", account, "-0.50", "--reference", "cash-1", "--note", "paid back in cash")
    shown = run("accounts", "show", account)
    assert shown.exit_code == 0
    lines = ["balance 1.50 USD", "1 live, 1 in all", "adjustment", "-0.50  cash-1  paid back in cash"]
    assert [line for line in lines if line not in shown.stdout] == []
    facts = told("accounts", "show", account)
    assert facts["keys"] == {"live": 1, "all": 1}
    adjusted, credited = facts["last_entries"]
    assert (adjusted["kind"], adjusted["amount_usd"], adjusted["note"]) == ("adjustment", "-0.50", "paid back in cash")
    assert (credited["kind"], credited["amount_usd"], credited["note"]) == ("credit", "2.00", None)
    assert run("accounts", "show", "acc_x").exit_code == USAGE


@each("words", [("credit", "5"), ("credit", "5", "--grant"), ("adjust", "-5"), ("adjust", "5"), ("adjust", "--", "-5")])
def test_money_is_moved_once_for_each_reference(words: tuple[str, ...], data_dir: Path) -> None:
    account, other = made("accounts", "create", "Ann"), made("accounts", "create", "Bob")
    command, *rest = words
    options = ("--reference", f"wire {' '.join(words)}", "--note", "-1")
    first = run("accounts", command, *options, account, *rest)
    assert first.exit_code == 0, first.output
    again = run("accounts", command, *options, account, *rest)
    assert (again.exit_code, again.stdout) == (0, first.stdout.replace("USD", "USD; this entry stood already"))
    elsewhere = run("accounts", command, *options, other, *rest)
    assert (elsewhere.exit_code, "stands for another" in elsewhere.stderr) == (USAGE, True)
    more = run("accounts", command, *options, account, *[word.replace("5", "6") for word in rest])
    assert (more.exit_code, "nothing was changed" in more.stderr) == (USAGE, True)
    assert run("ledger", "check").exit_code == 0


@each(
    ("words", "said"),
    [
        (("accounts", "adjust", "ACCOUNT", "0"), "changes nothing"),
        (("accounts", "adjust", "ACCOUNT", "1e3"), "not a decimal"),
        (("accounts", "adjust", "acc_guest", "1"), "Guests have no money"),
        (("accounts", "credit", "acc_guest", "1", "--grant"), "Guests have no money"),
        (("accounts", "credit", "ACCOUNT", "-1"), "'-1' is not more than nothing"),
        (("accounts", "credit", "ACCOUNT", "9223372036"), "more than the ledger can hold"),
        (("accounts", "credit", "ACCOUNT", "1", "--reference", ""), "`reference` has 1 to 255"),
        (("accounts", "credit", "ACCOUNT", "1", "--note", "two\nlines"), "`note` must be one line"),
        (("accounts", "adjust", "ACCOUNT", "1", "--note", "x" * 1001), "`note` has 1 to 1,000"),
        (("accounts", "create", " "), "needs a name"),
        (("keys", "change", "key_x"), "no key 'key_x'"),
        (("keys", "create", "--account", "acc_guest"), "served without keys"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(words: tuple[str, ...], said: str, data_dir: Path) -> None:
    account = made("accounts", "create", "Ann", "--credit", "1")
    refused = run(*[account if word == "ACCOUNT" else word for word in words])
    assert (refused.exit_code, said in refused.stderr) == (USAGE, True)
    assert refused.stderr.count("\n") == 1
    assert told("accounts", "show", account)["balance_usd"] == "1.00"


# Budgets


def test_budgets_are_made_listed_and_ended(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann", "--credit", "2")
    key = told("keys", "create", "--account", account)["id"]
    words = run("budgets", "create", key, "--budget", "5 USD/day")
    assert (words.exit_code, f"of {key}: 5.00 USD for each day" in words.stdout) == (0, True)
    (wide,) = told("budgets", "create", account, "--budget", "0.25 USD/total")
    assert wide == {
        "account": account, "holder": account, "id": wide["id"], "amount_usd": "0.25", "window": "total",
        "group": None, "spent_usd": "0.00", "starts_anew_at": None, "lease": False, "ends_at": None,
    }  # fmt: skip
    first, second = run("budgets", "list", "--account", account).stdout.splitlines()[1:]
    assert first.split()[1:5] == [key, "0.00", "5.00", "day"]
    assert re.search(r" until \d{4}-\d\d-\d\d \d\d:\d\dZ$", first)
    assert second.split() == [wide["id"], account, "0.00", "0.25", "total"]
    ended = run("budgets", "end", "--account", account, first.split()[0])
    assert (ended.exit_code, ended.stdout) == (0, f"budget {first.split()[0]} has ended\n")
    assert told("budgets", "list", "--account", account) == [wide]
    assert told("budgets", "end", "--account", account, wide["id"]) == {"id": wide["id"], "account": account}
    assert told("budgets", "list", "--account", account) == []
    assert run("ledger", "check").exit_code == 0


def test_a_key_is_made_with_as_many_budgets_as_are_named(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    asked = ["5 USD/5h", "0.000000001 USD/week", "20 USD/month"]
    options = [word for budget in asked for word in ("--budget", budget)]
    assert made("keys", "create", "--account", account, *options).startswith("gw_live_")
    (key,) = told("keys", "list")
    budgets = told("budgets", "list", "--account", account)
    assert [(one["amount_usd"], one["window"]) for one in budgets] == [
        ("5.00", "5h"), ("0.000000001", "week"), ("20.00", "month"),
    ]  # fmt: skip
    assert {one["holder"] for one in budgets} == {key["id"]}
    assert key["budgets"] == budgets


def test_what_is_told_of_a_key_as_json_has_its_budgets_and_its_groups(data_dir: Path) -> None:
    account, other = [made("accounts", "create", name) for name in ("Ann", "Bob")]
    (shared,) = told("budgets", "create", "agents", "--account", account, "--budget", "9 USD/week")
    for one in (account, other):
        told("budgets", "create", one, "--budget", "50 USD/month")  # which no key has alone
    key = told("keys", "create", "--account", account, "--budget", "5 USD/day", "--group", "agents")
    own, of_group = key["budgets"]
    assert (own["amount_usd"], own["holder"], of_group) == ("5.00", key["id"], shared)
    plain = told("keys", "create", "--account", other)
    assert plain["budgets"] == []
    assert [one["budgets"] for one in told("keys", "list")] == [[own, shared], []]
    assert told("keys", "change", key["id"], "--group", "")["budgets"] == [own]
    assert told("keys", "revoke", key["id"])["budgets"] == []
    assert [one["id"] for one in told("budgets", "list", "--account", account)[:1]] == [shared["id"]]


NO_BUDGETS = (
    "", "5", "5 USD", "5 USD/", "5 USD/year", "5 EUR/day", "5USD/day", "5 USD / day", "0 USD/day", "-1 USD/day",
    "1e3 USD/day", "NaN USD/day", "0.0000000001 USD/day", "9" * 5000 + " USD/day", "9223372037 USD/day",
    "\x1b[2J USD/day", "\udcff USD/day", "5 USD/\x1b[2J", "5 USD/DAY", "5 USD/day\n",
)  # fmt: skip


def test_what_is_no_budget_is_refused_in_a_line_and_makes_no_key(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    by_key = "keys", "create", "--account", account, "--budget", "5 USD/day"
    for budget in NO_BUDGETS:
        for words in ((*by_key, f"--budget={budget}"), ("budgets", "create", account, f"--budget={budget}")):
            refused = run(*words)
            assert refused.exit_code == USAGE
            assert refused.stderr.startswith("mcp-gateway: ")
            assert refused.stderr.strip().isprintable()
            assert len(refused.stderr) < 300
    assert told("keys", "list", "--account", account) == []
    assert told("budgets", "list", "--account", account) == []


@each(
    ("words", "said"),
    [
        (("create", "key_x", "--budget", "5 USD/day"), "no key 'key_x'"),
        (("create", "acc_x", "--budget", "5 USD/day"), "no account or key 'acc_x'"),
        (("create", "acc_guest", "--budget", "5 USD/day"), "Guests have no money"),
        (("create", "nobody", "--budget", "5 USD/day"), "the id of no key or account"),
        (("create", "agents", "--account", "acc_x", "--budget", "5 USD/day"), "no account 'acc_x'"),
        (("create", "agents", "--account", "acc_guest", "--budget", "5 USD/day"), "Guests have no money"),
        (("create", "key_x", "--account", "ACCOUNT", "--budget", "5 USD/day"), "a group's name"),
        (("create", "acc_x", "--account", "ACCOUNT", "--budget", "5 USD/day"), "a group's name"),
        (("create", "", "--account", "ACCOUNT", "--budget", "5 USD/day"), "a group's name"),
        (("create", "x" * 5000, "--account", "ACCOUNT", "--budget", "5 USD/day"), "a group's name"),
        (("create", "\x1b[2J", "--account", "ACCOUNT", "--budget", "5 USD/day"), "must be one line"),
        (("create", "agents", "--account", "ACCOUNT"), "say with --budget"),
        (("create", "ACCOUNT"), "say with --budget"),
        (("list", "--account", "acc_x"), "no account 'acc_x'"),
        (("end", "--account", "ACCOUNT", "bud_x"), "no open budget 'bud_x'"),
        (("end", "--account", "ACCOUNT", "\x1b[2J"), "no open budget"),
        (("end", "--account", "acc_x", "OPEN"), "no open budget"),
        (("end", "--account", "x" * 5000, "x" * 5000), "no open budget"),
    ],
)
def test_budgets_of_nobody_are_refused(words: tuple[str, ...], said: str, data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    budget = made("budgets", "create", account, "--budget", "5 USD/day")
    refused = run("budgets", *[{"ACCOUNT": account, "OPEN": budget}.get(word, word) for word in words])
    assert (refused.exit_code, said in refused.stderr) == (USAGE, True)
    assert refused.stderr.strip().isprintable()
    assert len(refused.stderr) < 300
    assert [one["id"] for one in told("budgets", "list", "--account", account)] == [budget]


def test_a_group_is_made_with_budgets_and_keys_are_put_into_it(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    words = run(
        "budgets", "create", "night agents", "--account", account, "--budget", "5 USD/day", "--budget", "9 USD/month"
    )
    assert [line.partition(" of ")[2] for line in words.stdout.splitlines()] == [
        "night agents: 5.00 USD for each day", "night agents: 9.00 USD for each month",
    ]  # fmt: skip
    (more,) = told("budgets", "create", "night agents", "--account", account, "--budget", "20 USD/total")
    assert (more["group"], more["holder"][:4]) == ("night agents", "grp_")
    listed = told("budgets", "list", "--account", account)
    assert {(one["holder"], one["group"]) for one in listed} == {(more["holder"], "night agents")}
    assert run("budgets", "list", "--account", account).stdout.count(" night agents ") == 3
    key = told("keys", "create", "--account", account, "--group", "night agents")
    assert key["group"] == "night agents"
    assert run("keys", "list").stdout.strip().endswith("in the group night agents")
    assert told("keys", "change", key["id"], "--group", "")["group"] is None
    changed = run("keys", "change", key["id"], "--group", "night agents")
    assert changed.stdout == f"key {key['id']} (): the configured limits, in the group night agents\n"
    for command in (("create", "--account", account), ("change", key["id"])):
        refused = run("keys", *command, "--name", "new", "--group", "day agents")
        assert (refused.exit_code, "no group 'day agents'" in refused.stderr) == (USAGE, True)
    (listed_key,) = told("keys", "list")
    assert (listed_key["id"], listed_key["name"], listed_key["group"]) == (key["id"], "", "night agents")


def test_a_key_that_there_is_gets_more_budgets(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    key = told("keys", "create", "--account", account, "--budget", "5 USD/day")["id"]
    changed = told("keys", "change", key, "--budget", "20 USD/month", "--budget", "90 USD/total")
    assert [(one["amount_usd"], one["window"]) for one in changed["budgets"]] == [
        ("5.00", "day"), ("20.00", "month"), ("90.00", "total"),
    ]  # fmt: skip
    assert run("keys", "change", key, "--budget", "5").exit_code == USAGE


def test_a_lease_is_set_aside_for_a_key_or_a_group_until_an_end(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    run("accounts", "credit", account, "10", "--reference", "p")
    key = told("keys", "create", "--account", account, "--lease", "3 USD", "--expires-in", "7d")
    (budget,) = key["budgets"]
    assert (budget["amount_usd"], budget["lease"], budget["ends_at"]) == ("3.00", True, key["expires_at"])
    of_group = ("budgets", "create", "agents", "--account", account, "--lease", "2 USD")
    assert "say when with --expires-in" in run(*of_group).stderr
    (lent,) = told(*of_group, "--expires-in", "1h")
    assert run("budgets", "list", "--account", account).stdout.count(" (lease)") == 2
    shown = told("accounts", "show", account)
    assert (shown["balance_usd"], shown["leased_usd"]) == ("5.00", "5.00")
    assert "set aside for leases 5.00" in run("accounts", "show", account).stdout
    assert "Ann leased 5.00" in run("accounts", "list").stdout
    refused = run("keys", "create", "--account", account, "--lease", "6 USD", "--expires-in", "7d")
    assert (refused.exit_code, "does not cover" in refused.stderr) == (USAGE, True)
    assert run("budgets", "end", "--account", account, lent["id"]).exit_code == 0
    shown = told("accounts", "show", account)
    assert (shown["balance_usd"], shown["leased_usd"]) == ("7.00", "3.00")
    for odd in ("3", "3 USD/day", "x USD", "0 USD"):
        assert run("keys", "create", "--account", account, "--lease", odd, "--expires-in", "7d").exit_code == USAGE
    words = run("budgets", "create", "agents", "--account", account, "--lease", "1 USD", "--expires-in", "1h").stdout
    assert words.rstrip().endswith("Z (lease)")
    of_key = ("budgets", "create", key["id"], "--lease", "1 USD", "--expires-in")
    assert "one lease at a time" in run(*of_key, "1h").stderr
    run("keys", "revoke", key["id"])
    assert "has ended" in run(*of_key, "1h").stderr
    ends_soon = told("keys", "create", "--account", account, "--expires-in", "1h")
    assert "ends with its key" in run("budgets", "create", ends_soon["id"], *of_key[3:], "2h").stderr
    shown = told("accounts", "show", account)
    assert (shown["balance_usd"], shown["leased_usd"]) == ("9.00", "1.00")
    assert "set aside" not in run("accounts", "show", made("accounts", "create", "Bob")).stdout


async def test_a_lease_is_decided_beside_a_running_server(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        account = await door.account("2")
        key = await beside(
            door, "keys", "create", "--account", account, "--lease", "1.5 USD", "--expires-in", "1h", "-q"
        )
        told = (await door.get("/v1/limits", key)).json()["budgets"]
        assert [(one["left_usd"], one["lease"]) for one in told] == [("1.50", True)]
        shown = json.loads(await beside(door, "accounts", "show", account, "--json"))
        assert (shown["balance_usd"], shown["leased_usd"], shown["held_usd"]) == ("0.50", "1.50", "0.00")
        words = ("keys", "create", "--account", account, "--lease", "1 USD", "--expires-in", "1h")
        refused = await asyncio.to_thread(run, *words, **door.environ)
        assert (refused.exit_code, "does not cover" in refused.stderr) == (USAGE, True)
        below = {"budgets": [{"amount_usd": "0.5", "window": "total", "lease": True}]}
        assert (await door.http.post("/v1/keys", json=below, headers=bearer(key))).status_code == 201
        await beside(door, "budgets", "end", "--account", account, told[0]["id"])
        await becomes(lambda: door.balance_nano(account), lambda left_nano: left_nano == 2 * 10**9)
        assert (await beside(door, "budgets", "list", "--account", account)).endswith(" (lease), over")
        last = json.loads(await beside(door, *words, "--json"))
        assert await door.balance_nano(account) == 10**9
        await beside(door, "keys", "revoke", last["id"])
        await becomes(lambda: door.balance_nano(account), lambda left_nano: left_nano == 2 * 10**9)
        await door.nothing_is_left()


def test_a_key_is_made_for_minutes_hours_or_days(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    for lifetime, lasts_s in (("1m", 60), ("12h", 43_200), ("7d", 604_800), ("99999d", 8_639_913_600)):
        key = told("keys", "create", "--account", account, "--expires-in", lifetime)
        assert 0 <= lasts_s - (key["expires_at"] - key["created_at"]) < 60
    count = len(told("keys", "list"))
    for lifetime in ("", "7", "d", "0d", "07d", "7 d", "7D", "7days", "1.5h", "-1d", "100000d", "٧d", "7d\n"):
        refused = run("keys", "create", "--account", account, f"--expires-in={lifetime}")
        assert (refused.exit_code, "such as 30m, 12h or 7d" in refused.stderr) == (USAGE, True)
    both = run("keys", "create", "--account", account, "--expires-in", "7d", "--expires-in-days", "7")
    assert (both.exit_code, "give one of them" in both.stderr) == (USAGE, True)
    assert len(told("keys", "list")) == count


def test_a_key_is_given_the_servers_of_tools_that_are_named(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    key = told("keys", "create", "--account", account, "--mcp-servers", "b, a", "--mcp-servers", "b")
    assert key["mcp_servers"] == ["a", "b"]
    assert run("keys", "list").stdout.strip().endswith("with tools of a, b")
    assert told("keys", "create", "--account", account)["mcp_servers"] == []
    assert told("keys", "create", "--account", account, "--mcp-servers", "*")["mcp_servers"] == ["*"]
    for labels in ("", ",", "a,", "a b", "a/b", "**", "x" * 33, "\x1b[2J"):
        refused = run("keys", "create", "--account", account, f"--mcp-servers={labels}")
        assert (refused.exit_code, "--mcp-servers takes labels" in refused.stderr) == (USAGE, True)


def test_the_servers_of_a_key_are_changed(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    key_id = told("keys", "create", "--account", account)["id"]
    for given, servers in [("b,a", ["a", "b"]), ("*", ["*"]), ("c", ["c"]), ("", [])]:
        assert told("keys", "change", key_id, "--mcp-servers", given)["mcp_servers"] == servers
        assert told("keys", "change", key_id, "--name", "x")["mcp_servers"] == servers
    told("keys", "change", key_id, "--mcp-servers", "a", "--mcp-servers", "b")
    assert run("keys", "change", key_id, "--name", "x").stdout.strip().endswith("with tools of a, b")
    for labels in (",", "a,", "a b", "a/b", "**", "x" * 33, " "):
        refused = run("keys", "change", key_id, f"--mcp-servers={labels}")
        assert (refused.exit_code, "--mcp-servers takes labels" in refused.stderr) == (USAGE, True)
    assert told("keys", "list")[0]["mcp_servers"] == ["a", "b"]


def test_a_key_is_let_offer_tools_by_itself_and_no_more(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    key = told("keys", "create", "--account", account, "--mcp-servers", "a", "--offer-mcp-tools")
    assert key["offer_mcp_tools"] is True
    assert run("keys", "list").stdout.strip().endswith("with tools of a in each chat")
    for options, is_offering in [
        (["--mcp-servers", "b"], True),
        (["--no-offer-mcp-tools"], False),
        (["--name", "x"], False),
        (["--mcp-servers", "", "--offer-mcp-tools"], True),
    ]:
        assert told("keys", "change", key["id"], *options)["offer_mcp_tools"] is is_offering
    plain = told("keys", "create", "--account", account)
    assert plain["offer_mcp_tools"] is False
    assert told("keys", "change", plain["id"], "--offer-mcp-tools")["offer_mcp_tools"] is True


def test_a_key_is_made_for_the_models_that_are_named(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    key = told("keys", "create", "--account", account, "--models", "b/two, a/one", "--models", "b/two")
    assert key["models"] == ["a/one", "b/two"]
    assert run("keys", "list").stdout.strip().endswith("for a/one, b/two")
    assert told("keys", "create", "--account", account)["models"] is None
    for models in ("", ",", "a/one,", "a b", "a\tb", "\x1b[2J"):
        refused = run("keys", "create", "--account", account, f"--models={models}")
        assert (refused.exit_code, "--models takes ids of models" in refused.stderr) == (USAGE, True)
    assert len(told("keys", "list")) == 2


def test_a_key_says_how_models_are_chosen_and_that_is_changed_and_cleared(data_dir: Path) -> None:
    def routing(told_of_key: dict[str, Any]) -> list[Any]:
        return [told_of_key[name] for name in ("model_pool", "optimize_mode", "routing_event")]

    account = made("accounts", "create", "Ann")
    assert routing(told("keys", "create", "--account", account)) == [None, None, False]
    asked = "--model-pool", "b/two, a/one", "--model-pool", "b/two", "--optimize-mode", "cheapest", "--routing-event"
    key = told("keys", "create", "--account", account, *asked)
    assert routing(key) == [["b/two", "a/one"], "cost", True]
    assert run("keys", "list").stdout.strip().endswith("auto of b/two, a/one by cost told in streams")
    for options, now in [
        (["--name", "x"], [["b/two", "a/one"], "cost", True]),
        ([], [["b/two", "a/one"], "cost", True]),
        (["--model-pool", "c"], [["c"], "cost", True]),
        (["--no-routing-event"], [["c"], "cost", False]),
        (["--optimize-mode", "", "--routing-event"], [["c"], None, True]),
        (["--model-pool", "", "--optimize-mode", "Best"], [None, "quality", True]),
    ]:
        assert routing(told("keys", "change", key["id"], *options)) == now
    assert run("keys", "change", key["id"], "--no-routing-event").stdout.strip().endswith(", auto by quality")
    assert routing(told("keys", "list")[1]) == [None, "quality", False]


def test_what_is_no_pool_or_mode_changes_no_key(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    key_id = told("keys", "create", "--account", account)["id"]
    too_many = ",".join(map(str, range(101)))
    cases = [
        ("--model-pool", pool, "--model-pool takes") for pool in (",", "a/one,", "a b", "a\tb", "\x1b[2J", too_many)
    ]
    cases += [("--optimize-mode", mode, "which is no mode: balanced") for mode in ("cheap", " ", "\x1b[2J", "x" * 999)]
    for option, given, said in cases:
        for command in (["create", "--account", account], ["change", key_id]):
            refused = run("keys", *command, f"{option}={given}")
            assert (refused.exit_code, said in refused.stderr, "\x1b" in refused.stderr) == (USAGE, True, False)
    (left,) = told("keys", "list")
    assert (left["model_pool"], left["optimize_mode"]) == (None, None)


def test_a_key_is_bound_to_networks_with_a_note_and_tags_and_freed(data_dir: Path) -> None:
    def said(told_of_key: dict[str, Any]) -> list[Any]:
        return [told_of_key[name] for name in ("networks", "note", "tags")]

    account = made("accounts", "create", "Ann")
    assert said(told("keys", "create", "--account", account)) == [None, None, []]
    asked = (
        "--networks",
        "10.0.0.0/8, ::1",
        "--networks",
        "192.0.2.1",
        "--note",
        "for Ann",
        "--tag",
        "a b",
        "--tag",
        "c",
    )
    key = told("keys", "create", "--account", account, *asked)
    networks = ["10.0.0.0/8", "::1/128", "192.0.2.1/32"]
    assert said(key) == [networks, "for Ann", ["a b", "c"]]
    in_words = "from 10.0.0.0/8, ::1/128, 192.0.2.1/32 alone tagged a b, c (for Ann)"
    assert run("keys", "list").stdout.strip().endswith(in_words)
    for options, now in [
        (["--name", "x"], [networks, "for Ann", ["a b", "c"]]),
        (["--tag", "d"], [networks, "for Ann", ["d"]]),
        (["--note", ""], [networks, None, ["d"]]),
        (["--networks", "::/0", "--note", "n"], [["::/0"], "n", ["d"]]),
        (["--networks", "", "--tag", ""], [None, "n", []]),
    ]:
        assert said(told("keys", "change", key["id"], *options)) == now
    assert run("keys", "change", key["id"], "--tag", "e").stdout.strip().endswith(", tagged e (n)")


def test_what_is_no_network_note_or_tag_changes_no_key(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    key_id = told("keys", "create", "--account", account)["id"]
    many = ",".join(f"10.0.0.{number}" for number in range(33))
    cases = [("--networks", given) for given in (",", "here", "10.0.0.0/8,", "10.0.0.1/8", "\x1b[2J", many)]
    cases += [("--note", "x" * 1001), ("--note", "\x1b[2J"), ("--tag", "x" * 65), ("--tag", "\x1b[2J"), ("--tag", " ")]
    for option, given in cases:
        for command in (["create", "--account", account], ["change", key_id]):
            refused = run("keys", *command, f"{option}={given}")
            assert (refused.exit_code, "\x1b" in refused.stderr) == (USAGE, False)
    (left,) = told("keys", "list")
    assert (left["networks"], left["note"], left["tags"]) == (None, None, [])


def test_a_key_is_given_another_secret(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    key = told("keys", "create", "--account", account, "--note", "n")
    kept = told("keys", "rotate", key["id"], "--keep-old-for", "2h")
    changed = {"key", "prefix", "old_expires_at"}
    assert {name: kept[name] for name in kept.keys() - changed} == {name: key[name] for name in key.keys() - changed}
    assert kept["key"] != key["key"]
    assert kept["old_expires_at"] > now_ms() // 1000 + 3600
    gone = run("keys", "rotate", key["id"], "--keep-old-for", "0", "--quiet").stdout.strip()
    assert gone.startswith("gw_live_")
    (listed,) = told("keys", "list")
    assert (gone.startswith(listed["prefix"]), listed["old_expires_at"]) == (True, None)
    for given in ("", "x", "-1", "31d", "1", "1s"):
        assert run("keys", "rotate", key["id"], f"--keep-old-for={given}").exit_code == USAGE
    assert run("keys", "rotate", key["id"]).exit_code == USAGE
    run("keys", "revoke", key["id"])
    assert "has ended" in run("keys", "rotate", key["id"], "--keep-old-for", "0").stderr


def test_a_key_is_let_mint_over_mcp_and_loses_the_right(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    key = told("keys", "create", "--account", account, "--mint-over-mcp")
    assert key["mint_over_mcp"] is True
    assert run("keys", "list").stdout.strip().endswith("mints over MCP")
    assert told("keys", "change", key["id"], "--name", "x")["mint_over_mcp"] is True
    assert told("keys", "change", key["id"], "--no-mint-over-mcp")["mint_over_mcp"] is False
    assert told("keys", "change", key["id"], "--mint-over-mcp")["mint_over_mcp"] is True
    assert told("keys", "create", "--account", account)["mint_over_mcp"] is False
    narrow = told("keys", "create", "--account", account, "--scope", "inference")["id"]
    for asked in (("create", "--account", account, "--test", "--mint-over-mcp"), ("change", narrow, "--mint-over-mcp")):
        refused = run("keys", *asked)
        assert (refused.exit_code, "scope `manage`" in refused.stderr) == (USAGE, True)
    assert len(told("keys", "list")) == 3


def test_a_budget_that_has_ended_is_not_ended_again(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    budget = made("budgets", "create", account, "--budget", "5 USD/day")
    ended = [run("budgets", "end", "--account", account, budget).exit_code for _ in range(2)]
    assert ended == [0, USAGE]


async def test_beside_a_running_server_they_bind_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "_LOOK_INTERVAL_S", 0.001)
    monkeypatch.setattr(orders, "_POLL_S", 0.001)
    monkeypatch.setattr(orders, "LASTS_S", PATIENCE_S)
    async with open_door(tmp_path, wallet={"hold_wait_s": 0}) as door:
        ledger, account = door.gateway.ledger, await door.account("2")
        raw = await beside(door, "keys", "create", "--account", account, "--budget", "0.5 USD/day", "--quiet")
        (key,) = (await door.get("/v1/keys", raw)).json()["data"]
        by_key = ledger.hold("req_1", account, 1, 10**9, frozenset({key["id"]}))
        assert (await by_key).amount_nano == 5 * 10**8
        budget = await beside(door, "budgets", "create", account, "--budget", "0.75 USD/total", "--quiet")
        assert (await ledger.hold("req_2", account, 1, 10**9)).amount_nano == 75 * 10**7
        with pytest.raises(GatewayError, match="balance_held"):
            await ledger.hold("req_3", account, 1, 1)
        await beside(door, "budgets", "end", "--account", account, budget)
        assert (await ledger.hold("req_3", account, 1, 10**8)).amount_nano == 10**8
        for request_id in ("req_1", "req_2", "req_3"):
            ledger.release(request_id)
        options = "--account", account, "--budget", "0.1 USD/total", "--budget", "0.2 USD/month"
        made_ids = await beside(door, "budgets", "create", "agents", *options, "--quiet")
        member = await beside(door, "keys", "create", "--account", account, "--group", "agents", "--quiet")
        told = (await door.get("/v1/limits", member)).json()["budgets"]
        assert [(one["id"], one["group"], one["left_usd"]) for one in told] == [
            (made_id, "agents", left) for made_id, left in zip(made_ids.split(), ("0.10", "0.20"), strict=True)
        ]
        await door.nothing_is_left()


async def test_what_a_running_server_does_not_decide_makes_neither_a_budget_nor_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "_POLL_S", 0.001)
    monkeypatch.setattr(orders, "LASTS_S", 0.003)
    monkeypatch.setattr(orders, "_LOOK_INTERVAL_S", PATIENCE_S)
    async with open_door(tmp_path) as door:
        account = await door.account("2")
        words = ("keys", "create", "--account", account, "--budget", "0.5 USD/day")
        undecided = await asyncio.to_thread(run, *words, **door.environ)
        assert (undecided.exit_code, undecided.stdout) == (3, "")
        assert "did not decide" in undecided.stderr
        (key,) = await door.gateway.keys.list(account)
        assert key.state_at(now_ms()) == "revoked"
        undecided = await asyncio.to_thread(run, "budgets", "create", account, "--budget", "1 USD/day", **door.environ)
        assert undecided.exit_code == 3
        assert await door.gateway.ledger.budgets(account) == []


async def beside(door: Door, *words: str) -> str:
    """What a command prints beside a server that runs."""
    result = await asyncio.to_thread(run, *words, **door.environ)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def test_a_key_is_changed_in_what_is_named(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    made("keys", "create", "--account", account, "--name", "old", "--in-flight", "3")
    (key,) = told("keys", "list")
    raised = run("keys", "change", key["id"], "--requests-per-minute", "600")
    assert (raised.exit_code, raised.stdout) == (0, f"key {key['id']} (old): requests_per_minute 600, in_flight 3\n")
    assert told("keys", "change", key["id"], "--name", "new", "--in-flight", "default")["name"] == "new"
    assert run("keys", "change", key["id"]).stdout == f"key {key['id']} (new): requests_per_minute 600\n"
    assert run("keys", "change", key["id"], "--name", "two\nlines").exit_code == USAGE


@pytest.mark.usefixtures("of_sqlite")
def test_a_folder_that_is_named_goes_before_that_of_the_settings(data_dir: Path) -> None:
    account = run("accounts", "create", "Ann", "--data-dir", str(data_dir / "other"), "--quiet").stdout.strip()
    assert [row["name"] for row in told("accounts", "list", "--data-dir", str(data_dir / "other"))][1:] == ["Ann"]
    assert run("accounts", "show", account).exit_code == USAGE


async def recorded_at(data_dir: Path, record: RequestRecord) -> None:
    async with open_desk(settings_at(data_dir)) as desk:
        await write_records(desk.ledger._store, record)


def test_a_request_is_found_by_its_id_or_its_client_s(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    record = recorded(1_900_000_000_062, client_request_id="mine\x1b[2J", surface="messages", cost_nano=15)
    record = record._replace(account_id=account, routing=RoutingFacts("code", "simple", 0.75))
    asyncio.run(recorded_at(data_dir, record))
    shown = run("requests", "show", record.id)
    assert shown.exit_code == 0
    lines = {f"id                {record.id}", "cost_usd          0.000000015", "surface           messages"}
    lines |= {"routing           task code, complexity simple, confidence 0.75"}
    assert lines <= set(shown.stdout.splitlines())
    assert "\x1b" not in shown.stdout
    (facts,) = told("requests", "show", "mine\x1b[2J")
    assert (facts["id"], facts["started_at"]) == (record.id, "2030-03-17T17:46:40.062+00:00")
    assert facts["surface"] == "messages"
    assert facts["routing"] == {"task": "code", "complexity": "simple", "confidence": 0.75, "score": None}
    for unknown in ("req_none", "", "\x1b[2J"):
        refused = run("requests", "show", unknown)
        assert (refused.exit_code, refused.stderr.strip().isprintable()) == (USAGE, True)


def test_a_configuration_is_checked_before_it_is_served(data_dir: Path) -> None:
    file = data_dir / "some.toml"
    file.write_text('vllm_urls = ["http://127.0.0.1:9"]\n[[models]]\nid = "a"\n')
    checked = run("config", "check", "--config", str(file))
    assert (checked.exit_code, "1 backends, 1 models" in checked.stdout) == (0, True)
    assert told("config", "check")["file"] is None
    (data_dir / "blocklist").write_text("no hash")
    for text, said in (
        ("vlm_urls = []", "did you mean vllm_urls"),
        ('image_blocklist_file = "/nowhere"', "image_blocklist_file: /nowhere cannot be read"),
        ('image_blocklist_file = "blocklist"', "image_blocklist_file: blocklist, line 1"),
        ('[policy]\ncountry_database = "/nowhere"', "policy.country_database: /nowhere cannot be read"),
        ('[policy]\ncountry_database = "blocklist"', "policy.country_database: blocklist is no file in MaxMind's"),
    ):
        file.write_text(text)
        refused = run("config", "check", "--config", str(file))
        assert (refused.exit_code, said in refused.stderr) == (USAGE, True)


def test_what_can_be_served_and_is_seldom_meant_is_warned_of(data_dir: Path) -> None:
    file = data_dir / "some.toml"
    oidc = 'public_url = "https://gateway.example.com"\n[oidc]\nissuer = "https://id.example.com"\n'
    for text, warned_of in (
        (oidc, "oidc.issuer lets in only those who came before"),
        ("[users]\ninsecure_cookie = true", "users.insecure_cookie: whoever reads"),
        (f"{oidc}creates_users = true", None),
        (f"{oidc}link_by_email = true", None),
        ("", None),
    ):
        file.write_text(text)
        checked = run("config", "check", "--config", str(file), "--json")
        warnings = json.loads(checked.stdout)["warnings"]
        assert checked.exit_code == 0
        assert [warning.startswith(warned_of or "?") for warning in warnings] == [True] * (warned_of is not None)
        assert checked.stderr == "".join(f"mcp-gateway: {warning}\n" for warning in warnings)


def test_a_data_folder_that_is_a_file_is_refused_by_its_setting(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data_dir / "file").write_text("")
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(data_dir / "file"))
    for words in (("config", "check"), ("serve",), ("accounts", "list")):
        refused = run(*words)
        assert (refused.exit_code, "GATEWAY_DATA_DIR: must be a folder" in refused.stderr) == (USAGE, True)


def test_the_line_that_makes_a_key_works_with_whichever_configuration_is_served(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _desk_options(None, Settings()) == ""
    folder = data_dir / "a folder; with signs"
    folder.mkdir()
    (folder / "own.toml").write_text("")
    monkeypatch.chdir(folder)
    options = _desk_options(Path("own.toml"), Settings(data_dir=Path("data")))
    monkeypatch.chdir("/")
    account = made("accounts", "create", "me", *shlex.split(options))
    assert made("keys", "create", *shlex.split(options), "--account", account).startswith("gw_live_")
    assert (folder / "data" / DATABASE).exists() is (settings_at(data_dir).database_url is None)


def test_links_of_a_service_that_are_passed_over_are_named(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told("config", "check")["passed_over"] == []
    monkeypatch.setenv("GATEWAY_PORT", "tcp://10.0.0.1:8080")
    monkeypatch.setenv("GATEWAY_SERVICE_HOST", "10.0.0.1")
    checked = run("config", "check", "--json")
    assert json.loads(checked.stdout)["passed_over"] == ["GATEWAY_PORT", "GATEWAY_SERVICE_HOST"]
    assert checked.stderr.startswith("mcp-gateway: passed over GATEWAY_PORT, GATEWAY_SERVICE_HOST: ")
    monkeypatch.setenv("GATEWAY_DRAIN_TIMEOUT_S", "tcp://10.0.0.1:8080")
    refused = run("config", "check")
    assert (refused.exit_code, "GATEWAY_DRAIN_TIMEOUT_S: " in refused.stderr) == (USAGE, True)


def test_the_revenue_of_a_month_is_told_by_account_and_model(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann", "--credit", "2", "--quiet")
    with outside_of(data_dir) as another:
        settled = "INSERT INTO ledger_transactions VALUES (NULL, ?, ?, ?, ?, 0, ?, ?, 0, 0, ?)"
        at_ms = 1_768_000_000_000  # in January 2026
        another.rows(settled, account, "hold", "req_1", -100, 100, 0, at_ms)
        another.rows(settled, account, "settle", "req_1", 40, -100, 60, at_ms)
    told = json.loads(run("revenue", "--month", "2026-01", "--json").stdout)
    row = {"account_id": account, "model": None, "requests": 1, "revenue_usd": "0.00000006", "granted_usd": "0.00"}
    assert told == {
        "month": "2026-01", "revenue_usd": "0.00000006", "granted_usd": "0.00", "by_account_and_model": [row],
    }  # fmt: skip
    words = run("revenue", "--month", "2026-01").stdout.splitlines()
    assert words[0] == "2026-01: 0.00000006 USD, of which 0.00 USD had been granted"
    assert words[1].split() == [account, "0.00000006", "USD", "1", "(not", "recorded)"]
    assert json.loads(run("revenue", "--json").stdout)["revenue_usd"] == "0.00"
    refused = run("revenue", "--month", "13-2026")
    assert refused.exit_code == USAGE
    assert "2026-01" in refused.stderr


def test_the_books_agree_until_a_balance_differs_from_its_entries(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann", "--credit", "1")
    agreed = run("ledger", "check")
    assert (agreed.exit_code, agreed.stdout) == (0, "every balance equals its entries\n")
    with outside_of(data_dir) as another:
        another.rows("UPDATE wallets SET paid_nano = paid_nano + 1 WHERE account_id = ?", account)
    differing = run("ledger", "check")
    assert differing.exit_code == 1
    assert account in differing.stderr


@pytest.mark.usefixtures("of_sqlite")
def test_a_backup_is_a_whole_database_and_overwrites_nothing(data_dir: Path) -> None:
    account = made("accounts", "create", "Ann")
    copy = data_dir / "copy.sqlite3"
    assert run("backup", str(copy)).exit_code == 0
    with closing(sqlite3.connect(copy)) as connection:
        assert (account,) in connection.execute("SELECT id FROM accounts").fetchall()
    assert told("backup", str(data_dir / "copy"))["file"] == str(data_dir / "copy")
    again = run("backup", str(copy))
    assert again.exit_code == USAGE
    assert again.stderr.startswith("mcp-gateway: ")


@each(("charset", "told"), [("utf-8", "日本"), ("ascii", "\\u65e5\\u672c"), ("cp1252", "\\u65e5\\u672c")])
def test_what_a_terminal_has_no_characters_for_is_escaped(charset: str, told: str, data_dir: Path) -> None:
    runner = CliRunner(charset=charset)
    created = runner.invoke(app, ["accounts", "create", "日本", "--credit", "1"])
    assert (created.exit_code, f"({told}), balance 1.00" in created.stdout) == (0, True)
    assert told in runner.invoke(app, ["accounts", "list"]).stdout


@pytest.mark.usefixtures("of_sqlite")
@each(
    ("words", "said"),
    [
        (("backup", "nowhere/copy"), "nowhere/copy.part: No such file or directory"),
        (("backup", "a" * 5000), "a…: File name too long"),
        (("backup", "\udc80"), "an argument is not text: it holds bytes that are no characters"),
        (("restore", "a" * 5000), "a…: File name too long"),
        (("accounts", "list", "--data-dir", "a" * 5000), "a…: File name too long"),
        (("accounts", "list", "--data-dir", "file/below"), "Not a directory"),
        (("accounts", "list", "--config", "file"), "is not TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_with_why_in_a_short_line(
    words: tuple[str, ...], said: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made("accounts", "create", "Ann")
    monkeypatch.chdir(data_dir)
    Path("file").write_text("x")
    refused = run(*words)
    assert (refused.exit_code, said in refused.stderr, "Errno" in refused.stderr) == (USAGE, True, False)
    assert len(refused.stderr) < 300


@pytest.mark.usefixtures("of_sqlite")
def test_no_backup_is_made_while_bills_wait_to_be_written(data_dir: Path) -> None:
    made("accounts", "create", "Ann")
    (data_dir / PENDING).write_text("{}")
    refused = run("backup", str(data_dir / "copy.sqlite3"))
    assert refused.exit_code == USAGE
    assert "start the server once" in refused.stderr
    assert not (data_dir / "copy.sqlite3").exists()
    (data_dir / PENDING).unlink()
    assert run("backup", str(data_dir / "copy.sqlite3")).exit_code == 0


def test_the_bridge_s_own_options_and_exit_code_pass_through(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATEWAY_URL", raising=False)
    assert run("bridge").exit_code == USAGE
    assert run("bridge", "--help").exit_code == 0


@each(
    ("words", "said"),
    [
        ((), "no backend's counters were read twice between "),
        (("--since", "2026-01-01", "--until", "2026-02-01"), "between 2026-01-01T00:00:00Z and 2026-02-01T00:00:00Z"),
        (("--since", "yesterday"), "--since must be Unix seconds, or a date or time"),
        (("--until", "-5"), "--until must be Unix seconds, or a date or time"),
        (("--since", "2026-02-01", "--until", "2026-01-01"), "--since must not be later than --until"),
        (("--since", "9999-12-31"), "--since must not be later than --until"),
        (("--until", "0"), "between 1970-01-01T00:00:00Z and 1970-01-01T00:00:00Z"),
    ],
)
def test_there_is_nothing_to_reconcile_where_no_counters_were_read(
    words: tuple[str, ...], said: str, data_dir: Path
) -> None:
    refused = run("ledger", "reconcile", *words)
    assert (refused.exit_code, said in refused.stderr, refused.stdout) == (USAGE, True, "")
