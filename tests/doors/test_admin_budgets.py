"""Budgets that administrators give and end over HTTP: of accounts, keys and groups, as the command gives them."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from mcp_gateway.core.caller import GUEST_ACCOUNT_ID
from tests.cases import each
from tests.doors.operating import Operating
from tests.serving import FREE, Door, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
DAILY = {"amount_usd": "5", "window": "day"}
LEASE = {"amount_usd": "1", "window": "total", "lease": True, "expires_in_s": 3600}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("budgets"), models=[FREE]) as door:
        yield door
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def admin(door: Door) -> Operating:
    return Operating(door, await door.admin_key())


@pytest_asyncio.fixture(loop_scope="module")
async def bounded(door: Door) -> str:
    return await door.account()


async def key_of(door: Door, bounded: str) -> tuple[str, str]:
    """A new one of the account's, and its id."""
    raw = await door.key(bounded)
    return raw, next(key.id for key in await door.gateway.keys.list(bounded))


async def test_budgets_are_given_to_accounts_keys_and_groups_and_ended(
    door: Door, admin: Operating, bounded: str
) -> None:
    raw, key_id = await key_of(door, bounded)
    path = f"accounts/{bounded}/budgets"
    whole = await admin.done("POST", path, DAILY)
    assert whole == {
        "object": "budget",
        "account_id": bounded,
        "holder": bounded,
        "id": whole["id"],
        "amount_usd": "5.00",
        "window": "day",
        "group": None,
        "spent_usd": "0.00",
        "held_usd": "0.00",
        "left_usd": "5.00",
        "starts_anew_at": whole["starts_anew_at"],
        "lease": False,
        "ends_at": None,
    }
    of_key = await admin.done("POST", path, {"amount_usd": "2", "window": "total", "key_id": key_id})
    first = await admin.done("POST", path, DAILY | {"group": "agents"})
    again = await admin.done("POST", path, {"amount_usd": "9", "window": "week", "group": "agents"})
    assert (of_key["holder"], first["group"], first["holder"]) == (key_id, "agents", again["holder"])
    made = [again, first, of_key, whole]
    assert (await admin.done("GET", path))["data"] == made
    page = await admin.done("GET", f"{path}?limit=3")
    rest = await admin.done("GET", f"{path}?limit=3&cursor={page['next_cursor']}")
    assert [*page["data"], *rest["data"]] == made
    assert (await admin.done("GET", f"{path}?holder={key_id}"))["data"] == [of_key]
    bounding = (await door.get("/v1/limits", raw)).json()["budgets"]
    assert {one["id"] for one in bounding} == {of_key["id"], whole["id"]}
    assert await admin.done("DELETE", f"{path}/{whole['id']}") == {"id": whole["id"], "ended": True}
    assert await admin.refused("DELETE", f"{path}/{whole['id']}") == "not_found"
    assert (await admin.done("GET", path))["data"] == made[:-1]


async def test_what_is_told_and_noted_is_what_the_command_tells_and_notes(admin: Operating, bounded: str) -> None:
    path = f"accounts/{bounded}/budgets"
    ours = await admin.done("POST", path, DAILY)
    (theirs,) = await admin.command("budgets", "create", bounded, "--budget", "5 USD/day")
    listed = await admin.command("budgets", "list", "--account", bounded)
    shared = ours.keys() & theirs.keys()
    told = {one["id"]: {name: one[name] for name in shared} for one in (await admin.done("GET", path))["data"]}
    assert told == {one["id"]: {name: one[name] for name in shared} for one in listed}
    by_command, by_us = await admin.noted(bounded)
    for noted, made in ((by_command, theirs), (by_us, ours)):
        budget = {"id": made["id"], "holder": bounded, "amount_usd": "5.00", "window": "day"}
        assert noted == {"action": "budget.create", "before": None, "after": {"budgets": [budget]}}
    await admin.done("DELETE", f"{path}/{theirs['id']}")
    await admin.command("budgets", "end", "--account", bounded, ours["id"])
    for made in (ours, theirs):
        assert await admin.noted(made["id"]) == [
            {"action": "budget.end", "before": None, "after": {"account": bounded}}
        ]


async def test_a_lease_sets_money_aside_until_it_is_ended(door: Door, admin: Operating, bounded: str) -> None:
    await door.gateway.ledger.credit(bounded, 3 * 10**9, "paid")
    _, key_id = await key_of(door, bounded)
    path = f"accounts/{bounded}/budgets"
    leases = [await admin.done("POST", path, LEASE | holder) for holder in ({"key_id": key_id}, {"group": "agents"})]
    assert [(lease["lease"], lease["left_usd"], lease["starts_anew_at"]) for lease in leases] == [
        (True, "1.00", None)
    ] * 2
    wallet = await admin.done("GET", f"accounts/{bounded}")
    assert (wallet["balance_usd"], wallet["leased_usd"]) == ("1.00", "2.00")
    assert await admin.refused("POST", path, LEASE | {"key_id": key_id}) == "conflict"
    refused = await admin.ask("POST", path, LEASE | {"group": "others", "amount_usd": "1.01"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "insufficient_balance")
    for lease in leases:
        await admin.done("DELETE", f"{path}/{lease['id']}")
    wallet = await admin.done("GET", f"accounts/{bounded}")
    assert (wallet["balance_usd"], wallet["leased_usd"]) == ("3.00", "0.00")


async def test_what_is_sent_twice_with_one_idempotency_key_bounds_once(
    door: Door, admin: Operating, bounded: str
) -> None:
    await door.gateway.ledger.credit(bounded, 3 * 10**9, "paid for once")
    path = f"accounts/{bounded}/budgets"
    bodies: list[dict[str, Any]] = [DAILY, LEASE | {"group": "agents"}]
    for number, body in enumerate(bodies):
        named = {"idempotency_key": f"once-{number}"}
        first = await admin.done("POST", path, body, **named)
        again = await admin.ask("POST", path, body, **named)
        assert (again.status_code, again.headers["idempotent-replayed"], again.json()) == (201, "true", first)
        (stands,) = (await admin.done("GET", f"{path}?holder={first['holder']}"))["data"]
        assert stands == first
        other = await admin.ask("POST", path, body | {"amount_usd": "0.5"}, **named)
        assert error_of(other)["code"] == "idempotency_mismatch"
    assert (await admin.done("GET", f"accounts/{bounded}"))["leased_usd"] == "1.00"
    others = Operating(door, await door.admin_key())
    assert (await others.done("POST", path, DAILY, idempotency_key="once-0"))["id"] != first["id"]
    refused = {"idempotency_key": "refused-first"}
    assert (await admin.ask("POST", path, DAILY | {"key_id": "key_none"}, **refused)).status_code == 404
    assert await admin.done("POST", path, DAILY, **refused)


@each(
    ("body", "refusal"),
    [
        (DAILY | {"amount_usd": "0"}, "invalid_value amount_usd"),
        (DAILY | {"amount_usd": "lots"}, "invalid_value amount_usd"),
        (DAILY | {"window": "year"}, "invalid_value window"),
        (DAILY | {"group": ""}, "invalid_value group"),
        (DAILY | {"group": "two\nlines"}, "invalid_value group"),
        (DAILY | {"group": "acc_1"}, "invalid_value group"),
        (DAILY | {"group": "x" * 201}, "invalid_value group"),
        (DAILY | {"group": "a", "key_id": "key_a"}, "invalid_value group"),
        (DAILY | {"key_id": "key_none"}, "not_found"),
        (DAILY | {"expires_in_s": 60}, "invalid_value expires_in_s"),
        (LEASE | {"window": "day"}, "invalid_value window"),
        (LEASE | {"expires_in_s": None}, "missing_parameter expires_in_s"),
        (LEASE, "invalid_value"),
    ],
)
async def test_what_cannot_bound_anybody_is_refused_and_changes_nothing(
    admin: Operating, bounded: str, body: dict[str, Any], refusal: str
) -> None:
    path = f"accounts/{bounded}/budgets"
    assert await admin.refused("POST", path, body) == refusal
    assert (await admin.done("GET", path))["data"] == []
    assert await admin.noted(bounded) == []


async def test_nobody_s_budget_is_given_or_ended_by_way_of_another_account(
    door: Door, admin: Operating, bounded: str
) -> None:
    other = await door.account()
    _, key_id = await key_of(door, other)
    path = f"accounts/{bounded}/budgets"
    theirs = await admin.done("POST", f"accounts/{other}/budgets", DAILY)
    assert await admin.refused("POST", path, DAILY | {"key_id": key_id}) == "not_found"
    assert await admin.refused("DELETE", f"{path}/{theirs['id']}") == "not_found"
    assert (await admin.done("GET", f"accounts/{other}/budgets"))["data"] == [theirs]
    assert await admin.refused("POST", f"accounts/{GUEST_ACCOUNT_ID}/budgets", DAILY) == "conflict"
    assert await admin.refused("POST", "accounts/acc_none/budgets", DAILY) == "not_found"
    raw = await door.key(bounded)
    assert (await door.get(f"/v1/admin/{path}", raw)).status_code == 403
