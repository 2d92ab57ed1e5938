"""Accounts as the operator has them over HTTP: what is told and changed, what is noted of it, and that it counts."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.cases import each
from tests.doors.operating import Operating
from tests.serving import FREE, Door, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
DEFAULTS = dict.fromkeys(("requests_per_minute", "requests_per_day", "tokens_per_minute", "in_flight"), "default")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("accounts"), models=[FREE]) as door:
        yield door
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def admin(door: Door) -> Operating:
    return Operating(door, await door.admin_key())


async def test_an_account_is_made_and_told(door: Door, admin: Operating) -> None:
    made = await admin.done("POST", "accounts", {"name": "Acme"})
    assert made == {
        "currency": "USD",
        "balance_usd": "0.00",
        "granted_usd": "0.00",
        "held_usd": "0.00",
        "leased_usd": "0.00",
        "object": "account",
        "id": made["id"],
        "name": "Acme",
        "active": True,
        "created_at": made["created_at"],
        "margin_percent": "0",
        "proxy": False,
        "attribution": False,
        "zone": "UTC",
        "limits": DEFAULTS,
    }
    assert await admin.done("GET", f"accounts/{made['id']}") == made
    noted = {"name": "Acme", "active": True, "margin_percent": 0.0, "proxy": False, "attribution": False}
    noted |= {"limits": DEFAULTS}
    assert await admin.noted(made["id"]) == [{"action": "account.create", "before": None, "after": noted}]
    await door.gateway.ledger.credit(made["id"], 2_500_000_000, "wire-1")
    assert (await admin.done("GET", f"accounts/{made['id']}"))["balance_usd"] == "2.50"


async def test_who_made_a_change_is_noted_with_the_request(door: Door) -> None:
    person = Operating(door, await door.person(is_administrator=True))
    answer = await person.ask("POST", "accounts", {"name": "by a person"})
    (entry,) = (await person.done("GET", f"audit?subject={answer.json()['id']}"))["data"]
    assert (entry["by"]["kind"], entry["by"]["where"]) == ("user", "127.0.0.1")
    assert entry["by"]["id"].startswith("usr_")
    assert entry["by"]["request_id"] == answer.headers["x-request-id"]


async def test_accounts_are_listed_page_by_page_the_newest_first(admin: Operating) -> None:
    made = [(await admin.done("POST", "accounts", {"name": name}))["id"] for name in ("one", "two", "two")]
    await admin.done("PATCH", f"accounts/{made[1]}", {"active": False})
    page = await admin.done("GET", "accounts?name=two&limit=1")
    rest = await admin.done("GET", f"accounts?name=two&cursor={page['next_cursor']}")
    assert {one["id"] for one in (*page["data"], *rest["data"])} == set(made[1:])
    assert page["data"][0]["id"] > rest["data"][0]["id"]
    assert rest["next_cursor"] is None
    switched_off = await admin.done("GET", "accounts?name=two&active=false")
    assert [one["id"] for one in switched_off["data"]] == [made[1]]
    everybody = await admin.done("GET", "accounts?limit=1000")
    assert everybody["data"][0]["id"] == "acc_guest"
    assert {*made} <= {one["id"] for one in everybody["data"]}


CHANGES: list[tuple[dict[str, Any], list[str], str]] = [
    ({"name": "another"}, ["change", "{}", "--name", "another"], "account.rename"),
    ({"in_flight": 3, "requests_per_minute": "none"}, ["limits", "{}", "--in-flight", "3", "--requests-per-minute",
                                                      "none"], "account.limits"),
    ({"in_flight": "default"}, ["limits", "{}", "--in-flight", "default"], "account.limits"),
    ({"margin_percent": "12.5"}, ["change", "{}", "--margin", "12.5"], "account.margin"),
    ({"proxy": True}, ["change", "{}", "--proxy"], "account.proxy"),
    ({"attribution": True}, ["change", "{}", "--attribution"], "account.attribution"),
    ({"zone": "Europe/Berlin"}, ["change", "{}", "--zone", "Europe/Berlin"], "account.zone"),
    ({"active": False}, ["deactivate", "{}"], "account.deactivate"),
    ({"active": True}, ["activate", "{}"], "account.activate"),
]  # fmt: skip


async def test_a_change_is_told_and_noted_as_the_command_s_is(admin: Operating) -> None:
    ours, theirs = [(await admin.done("POST", "accounts", {"name": "same"}))["id"] for _ in range(2)]
    for change, words, action in CHANGES:
        told = await admin.done("PATCH", f"accounts/{ours}", change)
        kept = told | told["limits"]
        assert {name: kept[name] for name in change} == change
        await admin.command("accounts", *(word.format(theirs) for word in words))
        (noted, *_), (by_command, *_) = await admin.noted(ours), await admin.noted(theirs)
        assert noted == by_command
        assert noted["action"] == action
        assert noted["after"]
    shown = await admin.command("accounts", "show", ours)
    told = await admin.done("GET", f"accounts/{ours}")
    shared = shown.keys() & told.keys()
    assert {"name", "active", "margin_percent", "proxy", "attribution", "limits", "balance_usd"} <= shared
    assert {name: told[name] for name in shared} == {name: shown[name] for name in shared}


async def test_what_is_changed_counts_from_the_next_request_on(door: Door, admin: Operating) -> None:
    account_id = await door.account()
    key = await door.key(account_id)
    assert (await door.get("/v1/limits", key)).status_code == 200
    await admin.done("PATCH", f"accounts/{account_id}", {"active": False})
    assert error_of(await door.get("/v1/limits", key))["code"] == "account_deactivated"
    await admin.done("PATCH", f"accounts/{account_id}", {"active": True, "requests_per_minute": 7})
    told = (await door.get("/v1/limits", key)).json()
    assert told["account"]["requests_per_minute"]["limit"] == 7


@each(
    ("body", "refusal"),
    [
        ({"margin_percent": "lots"}, "invalid_value margin_percent"),
        ({"margin_percent": "1000.01"}, "invalid_value margin_percent"),
        ({"margin_percent": 5}, "invalid_type margin_percent"),
        ({"zone": "Mars/Olympus"}, "invalid_value zone"),
        ({"in_flight": 0}, "invalid_type in_flight"),
        ({"in_flight": "some"}, "invalid_type in_flight"),
        ({"active": "yes"}, "invalid_type active"),
        ({"name": " "}, "invalid_value name"),
        ({"name": "two\nlines"}, "invalid_value name"),
        ({"name": "x" * 201}, "invalid_type name"),
        ({"names": "other"}, "unsupported_parameter names"),
    ],
)
async def test_what_cannot_be_is_refused_and_changes_nothing(
    door: Door, admin: Operating, body: dict[str, Any], refusal: str
) -> None:
    account_id = await door.account()
    before = await admin.done("GET", f"accounts/{account_id}")
    assert await admin.refused("PATCH", f"accounts/{account_id}", {"proxy": True} | body) == refusal
    assert await admin.done("GET", f"accounts/{account_id}") == before
    assert await admin.noted(account_id) == []


async def test_a_change_of_several_is_noted_as_each_of_them_is(door: Door, admin: Operating) -> None:
    account_id = await door.account()
    change = {"name": "all of it", "in_flight": 5, "margin_percent": "3", "proxy": True, "attribution": True}
    change |= {"zone": "Europe/Berlin", "active": False}
    told = await admin.done("PATCH", f"accounts/{account_id}", change)
    kept = told | told["limits"]
    assert {name: kept[name] for name in change} == change
    actions = ["rename", "limits", "margin", "proxy", "attribution", "deactivate", "zone"]
    assert [noted["action"] for noted in await admin.noted(account_id)] == [f"account.{it}" for it in actions[::-1]]


@each("name", ["", " ", "two\nlines"])
async def test_an_account_has_a_name_of_one_line(admin: Operating, name: str) -> None:
    assert await admin.refused("POST", "accounts", {"name": name}) == "invalid_value name"


async def test_the_guests_account_is_the_configuration_s_and_others_are_not_there(admin: Operating) -> None:
    for change in ({"name": "us"}, {"in_flight": 1}, {"margin_percent": "1"}, {"proxy": True}, {"attribution": True}):
        assert await admin.refused("PATCH", "accounts/acc_guest", change) == "conflict"
    asked: list[tuple[str, dict[str, Any] | None]] = [("GET", None), ("PATCH", {"active": False}), ("PATCH", {})]
    for method, body in asked:
        assert await admin.refused(method, "accounts/acc_none", body) == "not_found"
