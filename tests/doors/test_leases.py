"""Leases over HTTP: set aside for a key that a key makes, and back when that ends."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.ledger.budgets import Budget, MakeBudgets
from tests.cases import each
from tests.serving import Door, bearer, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("leases")) as door:
        yield door
        await door.nothing_is_left()


LEASE = {"amount_usd": "0.1", "window": "total", "lease": True}
DAILY = {"amount_usd": "0.1", "window": "day"}


async def create(door: Door, key: str, *leases: str, lasts_s: int | None = 600, **fields: Any) -> httpx2.Response:
    budgets = [{"amount_usd": amount, "window": "total", "lease": True} for amount in leases]
    wanted = fields | {"budgets": budgets} | ({} if lasts_s is None else {"expires_in_s": lasts_s})
    return await door.http.post("/v1/keys", json=wanted, headers=bearer(key))


async def lent(door: Door, key: str, amount: str, lasts_s: int = 600) -> dict[str, Any]:
    answer = await create(door, key, amount, lasts_s=lasts_s)
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def balance(door: Door, key: str) -> tuple[str, str]:
    told = (await door.get("/v1/billing", key)).json()
    return told["balance_usd"], told["leased_usd"]


async def test_what_is_set_aside_for_a_key_is_no_others_and_returns_with_its_end(door: Door) -> None:
    top = await door.key(credit="1")
    first = await lent(door, top, "0.7")
    assert await balance(door, top) == ("0.30", "0.70")
    (budget,) = first["budgets"]
    assert (budget["lease"], budget["ends_at"], budget["starts_anew_at"]) == (True, first["expires_at"], None)
    refused = await create(door, top, "0.4")
    assert (refused.status_code, error_of(refused)["code"]) == (402, "insufficient_balance")
    below = await lent(door, first["key"], "0.6", lasts_s=300)
    refused = await create(door, first["key"], "0.2", lasts_s=300)
    assert (refused.status_code, error_of(refused)["code"]) == (402, "budget_exhausted")
    limits = (await door.get("/v1/limits", below["key"])).json()["budgets"]
    assert [(one["amount_usd"], one["left_usd"], one["lease"]) for one in limits] == [("0.60", "0.60", True)]
    assert await balance(door, top) == ("0.30", "0.70")
    assert (await door.http.delete(f"/v1/keys/{first['id']}", headers=bearer(top))).status_code == 200
    assert await balance(door, top) == ("1.00", "0.00")


@each(
    ("fields", "code", "param"),
    [
        ({"expires_in_s": None}, "invalid_value", "expires_in_s"),
        ({"budgets": [{"amount_usd": "0.1", "window": "day", "lease": True}]}, "invalid_value", "budgets.0.window"),
        ({"budgets": [DAILY, DAILY | {"lease": True}]}, "invalid_value", "budgets.1.window"),
        ({"budgets": [{"amount_usd": "0.1", "window": "total", "lease": 1}]}, "invalid_type", "budgets.0.lease"),
        ({"expires_in_s": None, "expires_at": 1_000_000_000}, "invalid_value", "expires_at"),
        ({"expires_in_s": None, "expires_at": "2020-01-01T00:00:00Z"}, "invalid_value", "expires_at"),
    ],
)
async def test_what_is_no_lease_is_refused_and_makes_no_key(
    door: Door, fields: dict[str, Any], code: str, param: str | None
) -> None:
    top = await door.key(credit="1")
    asked = {"expires_in_s": 600, "budgets": [LEASE]} | fields
    refused = await door.http.post("/v1/keys", json=asked, headers=bearer(top))
    assert (refused.status_code, error_of(refused)["code"], error_of(refused)["param"]) == (400, code, param)
    assert len((await door.get("/v1/keys", top)).json()["data"]) == 1
    assert await balance(door, top) == ("1.00", "0.00")


@each("param", ["expires_in_s", "expires_at"])
async def test_a_lease_that_would_outlive_the_one_above_is_refused_by_the_name_of_its_end(
    door: Door, param: str
) -> None:
    end = {param: 600 if param == "expires_in_s" else now_ms() // 1000 + 600}
    account_id = await door.account("1")
    key, raw = await door.gateway.keys.create(account_id)
    above = Budget(f"bud_{key.id}", account_id, key.id, 10**8, "total", lease_ends_at_ms=now_ms() + 300_000)
    leases = door.gateway.mint._leases
    await leases.make(MakeBudgets((above,)), leases._store.write)
    refused = await door.http.post("/v1/keys", json={"budgets": [LEASE], **end}, headers=bearer(raw))
    assert (refused.status_code, error_of(refused)["param"]) == (400, param)
    assert await balance(door, raw) == ("0.90", "0.10")
    await leases.end(account_id, above.id)


async def test_a_key_has_one_lease(door: Door) -> None:
    top = await door.key(credit="1")
    refused = await create(door, top, "0.1", "0.1")
    assert (refused.status_code, error_of(refused)["code"]) == (409, "conflict")
    assert await balance(door, top) == ("1.00", "0.00")
