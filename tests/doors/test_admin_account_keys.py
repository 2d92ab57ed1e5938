"""Keys of accounts as the operator has them over HTTP: whatever a command gives them, and noted as a command's."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.cases import each
from tests.doors.operating import Operating
from tests.serving import FREE, Door, bearer, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    limits = {"keys_per_account": 1000, "keys_per_account_per_day": 1000}
    async with open_door(tmp_path_factory.mktemp("keys"), models=[FREE], limits=limits) as door:
        yield door
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def admin(door: Door) -> Operating:
    return Operating(door, await door.admin_key())


GIVEN: dict[str, Any] = {
    "name": "nightly",
    "scopes": ["inference", "manage"],
    "models": ["free/tiny"],
    "mcp_servers": ["*"],
    "offer_mcp_tools": True,
    "mint_over_mcp": True,
    "model_pool": ["free/tiny"],
    "optimize_mode": "cost",
    "routing_event": True,
    "networks": ["127.0.0.0/8"],
    "note": "for the night",
    "tags": ["night"],
}


async def test_a_key_is_made_with_whatever_is_given(door: Door, admin: Operating) -> None:
    account_id = await door.account("5")
    limits = {"requests_per_minute": 700, "requests_per_day": "none"}
    budgets = [{"amount_usd": "2", "window": "day"}, {"amount_usd": "1", "window": "total", "lease": True}]
    body = {"account_id": account_id, "expires_in_s": 3600, "budgets": budgets} | GIVEN | limits
    made = await admin.done("POST", "keys", body)
    raw = made.pop("key")
    assert {name: made[name] for name in GIVEN} == GIVEN
    assert (made["account_id"], made["state"], made["made_by"]) == (account_id, "live", None)
    assert (made["requests_per_minute"], made["requests_per_day"]) == (700, None)
    assert made["limits"] == dict.fromkeys(("tokens_per_minute", "in_flight"), "default") | limits
    assert [(one["amount_usd"], one["lease"]) for one in made["budgets"]] == [("2.00", False), ("1.00", True)]
    told = await admin.done("GET", f"keys/{made['id']}")
    assert told | {"budgets": []} == made | {"budgets": []}
    assert [one["id"] for one in told["budgets"]] == [one["id"] for one in made["budgets"]]
    assert (await door.get("/v1/limits", raw)).status_code == 200
    assert (await door.get("/v1/credits", raw)).json()["leased_usd"] == "1.00"
    (noted,) = await admin.noted(made["id"])
    assert (noted["action"], noted["after"]["name"], noted["after"]["tags"]) == ("key.create", "nightly", ["night"])
    (bounded,) = [entry for entry in await admin.noted(account_id) if entry["action"] == "budget.create"]
    assert [one["holder"] for one in bounded["after"]["budgets"]] == [made["id"], made["id"]]
    await admin.done("DELETE", f"keys/{made['id']}")


async def test_a_key_is_given_into_a_group(door: Door, admin: Operating) -> None:
    account_id = await door.account()
    await admin.command("budgets", "create", "team", "--account", account_id, "--budget", "5 USD/day")
    made = await admin.done("POST", "keys", {"account_id": account_id, "group": "team"})
    assert (made["group"], made["name"], made["test"]) == ("team", "", False)
    assert (await admin.done("PATCH", f"keys/{made['id']}", {"group": ""}))["group"] is None
    assert await admin.refused("POST", "keys", {"account_id": account_id, "group": "others"}) == "not_found"


async def test_keys_are_listed_of_all_accounts_or_of_one(door: Door, admin: Operating) -> None:
    accounts = [await door.account(), await door.account()]
    ids = [(await door.gateway.keys.create(account_id))[0].id for account_id in (*accounts, accounts[0])]
    last_prefix = (await door.gateway.keys.get(ids[2])).prefix
    await admin.done("DELETE", f"keys/{ids[0]}")
    page = await admin.done("GET", "keys?limit=2")
    rest = await admin.done("GET", f"keys?limit=1000&cursor={page['next_cursor']}")
    everything = [one["id"] for one in (*page["data"], *rest["data"])]
    assert everything == sorted(everything, reverse=True)
    assert {*ids} <= {*everything}
    for query, wanted in (
        (f"account_id={accounts[0]}", {ids[0], ids[2]}),
        (f"account_id={accounts[0]}&state=live", {ids[2]}),
        (f"account_id={accounts[0]}&state=revoked", {ids[0]}),
        (f"key_id={ids[1]}", {ids[1]}),
        (f"key_id={ids[1]}&account_id={accounts[0]}", set()),
        (f"account_id={accounts[0]}&prefix=gw_live_", {ids[0], ids[2]}),
        (f"account_id={accounts[0]}&prefix=gw_test_", set()),
        (f"account_id={accounts[0]}&prefix=%25", set()),
        (f"account_id={accounts[0]}&prefix={last_prefix}", {ids[2]}),
        ("account_id=acc_none", set()),
    ):
        assert {one["id"] for one in (await admin.done("GET", f"keys?{query}"))["data"]} == wanted
    assert await admin.refused("GET", f"keys?prefix={last_prefix}x") == "invalid_value prefix"  # none is sent whole


CHANGES: list[tuple[dict[str, Any], list[str]]] = [
    ({"name": "other"}, ["--name", "other"]),
    ({"requests_per_minute": 5000, "in_flight": "none"}, ["--requests-per-minute", "5000", "--in-flight", "none"]),
    ({"requests_per_minute": "default"}, ["--requests-per-minute", "default"]),
    ({"mint_over_mcp": True}, ["--mint-over-mcp"]),
    ({"mcp_servers": ["work"], "offer_mcp_tools": True}, ["--mcp-servers", "work", "--offer-mcp-tools"]),
    ({"model_pool": ["free/tiny"], "optimize_mode": "cost"}, ["--model-pool", "free/tiny", "--optimize-mode", "cost"]),
    ({"model_pool": None, "optimize_mode": None}, ["--model-pool", "", "--optimize-mode", ""]),
    ({"networks": ["10.0.0.0/8"], "note": "x", "tags": ["a", "b"]}, ["--networks", "10.0.0.0/8", "--note", "x",
                                                                    "--tag", "a", "--tag", "b"]),
    ({"networks": None, "note": None, "tags": None}, ["--networks", "", "--note", "", "--tag", ""]),
]  # fmt: skip


async def test_a_change_is_told_and_noted_as_the_command_s_is(door: Door, admin: Operating) -> None:
    account_id = await door.account()
    (ours, _), (theirs, _) = [await door.gateway.keys.create(account_id) for _ in range(2)]
    for body, words in CHANGES:
        told = await admin.done("PATCH", f"keys/{ours.id}", body)
        by_command = await admin.command("keys", "change", theirs.id, *words)
        shared = (told.keys() & by_command.keys()) - {"id", "prefix", "created_at", "budgets"}
        assert {name: told[name] for name in shared} == {name: by_command[name] for name in shared}
        assert {"limits", "mcp_servers", "model_pool", "networks", "tags", "mint_over_mcp", "state"} <= shared
        noted, by = (await admin.noted(ours.id))[0], (await admin.noted(theirs.id))[0]
        assert noted == by
        assert noted["action"] == "key.change"
    entries = await admin.noted(ours.id)
    told = await admin.done("PATCH", f"keys/{ours.id}", {"add_budgets": [{"amount_usd": "3", "window": "week"}]})
    assert [(one["amount_usd"], one["window"]) for one in told["budgets"]] == [("3.00", "week")]
    assert await admin.noted(ours.id) == entries
    assert (await admin.noted(account_id))[0]["action"] == "budget.create"


async def test_a_right_that_is_taken_counts_from_the_next_request_on(door: Door, admin: Operating) -> None:
    key, raw = await door.gateway.keys.create(await door.account())
    assert (await door.get("/v1/limits", raw)).status_code == 200
    await admin.done("PATCH", f"keys/{key.id}", {"networks": ["10.0.0.0/8"]})
    assert error_of(await door.get("/v1/limits", raw))["code"] == "ip_not_authorized"


async def test_a_key_is_rotated_and_revoked_with_what_it_made(door: Door, admin: Operating) -> None:
    key, old = await door.gateway.keys.create(await door.account())
    rotated = await admin.done("POST", f"keys/{key.id}/rotate", {"expires_old_in_s": 0})
    new = rotated["key"]
    assert error_of(await door.get("/v1/limits", old))["code"] == "revoked_api_key"
    made = (await door.http.post("/v1/keys", json={}, headers=bearer(new))).json()
    gone = await admin.done("DELETE", f"keys/{key.id}?with_made=true")
    assert (gone["state"], gone["made_revoked"]) == ("revoked", 1)
    for raw in (new, made["key"]):
        assert error_of(await door.get("/v1/limits", raw))["code"] == "revoked_api_key"
    actions = [entry["action"] for entry in await admin.noted(key.id)]
    assert actions == ["key.revoke", "key.rotate"]
    assert await admin.refused("POST", f"keys/{key.id}/rotate", {"expires_old_in_s": 0}) == "conflict"
    assert new not in str(await door.rows("SELECT * FROM audit_log"))


async def test_what_is_sent_twice_with_one_idempotency_key_happens_once(door: Door, admin: Operating) -> None:
    account_id = await door.account()
    key = await door.key(account_id)
    named = {"idempotency_key": "once"}
    tenants = await door.http.post("/v1/keys", json={}, headers=bearer(key) | {"idempotency-key": "once"})
    first = await admin.done("POST", "keys", {"account_id": account_id}, **named)
    again = await admin.ask("POST", "keys", {"account_id": account_id}, **named)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert again.json() == {name: value for name, value in first.items() if name != "key"}
    assert first["id"] != tenants.json()["id"]
    other = Operating(door, await door.admin_key())
    assert (await other.done("POST", "keys", {"account_id": account_id, "name": "another's"}, **named))["key"]
    turned = [
        await admin.done("POST", f"keys/{first['id']}/rotate", {"expires_old_in_s": 9}, idempotency_key="turn")
        for _ in range(2)
    ]
    assert ["key" in one for one in turned] == [True, False]


@each(
    ("method", "path", "body", "refusal"),
    [
        ("POST", "keys", {"account_id": "acc_none"}, "not_found"),
        ("POST", "keys", {"account_id": "acc_guest"}, "conflict"),
        ("POST", "keys", {}, "missing_parameter account_id"),
        ("POST", "keys", {"models": ["two words"]}, "invalid_value models"),
        ("POST", "keys", {"model_pool": [""]}, "invalid_value model_pool"),
        ("POST", "keys", {"test": True, "scopes": ["read"]}, "invalid_value scopes"),
        ("POST", "keys", {"expires_at": 1}, "invalid_value expires_at"),
        ("POST", "keys", {"budgets": [{"amount_usd": "0", "window": "day"}]}, "invalid_value budgets.0.amount_usd"),
        ("POST", "keys", {"made_by": "key_1"}, "unsupported_parameter made_by"),
        ("PATCH", "keys/{}", {"in_flight": -1}, "invalid_type in_flight"),
        ("PATCH", "keys/{}", {"model_pool": ["\u202e"]}, "invalid_value model_pool"),
        ("PATCH", "keys/{}", {"tags": ["a\nb"]}, "invalid_value tags"),
        ("PATCH", "keys/{}", {"add_budgets": [{"amount_usd": "1", "window": "total", "lease": True}]},
         "invalid_value add_budgets.0.lease"),
        ("PATCH", "keys/{}", {"scopes": ["read"]}, "unsupported_parameter scopes"),
        ("PATCH", "keys/key_none", {"name": "x"}, "not_found"),
        ("GET", "keys/key_none", None, "not_found"),
        ("DELETE", "keys/key_none", None, "not_found"),
        ("POST", "keys/key_none/rotate", {"expires_old_in_s": 0}, "not_found"),
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused_and_changes_nothing(
    door: Door, admin: Operating, method: str, path: str, body: dict[str, Any] | None, refusal: str
) -> None:
    key, _ = await door.gateway.keys.create(await door.account())
    if method == "POST" and path == "keys" and body and "account_id" not in body:
        body = {"account_id": key.account_id} | body
    before = await admin.done("GET", f"keys/{key.id}")
    assert await admin.refused(method, path.format(key.id), body) == refusal
    assert await admin.done("GET", f"keys/{key.id}") == before
    assert await admin.noted(key.id) == []
