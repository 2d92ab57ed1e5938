"""When a key was used last and what it has spent, as its account sees it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from mcp_gateway.core.clock import HOUR_MS
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ids import now_ms
from tests.databases import store_of
from tests.recorded import recorded, write_records
from tests.serving import Door, bearer, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("key_uses")) as door:
        yield door
        await door.nothing_is_left()


async def use_of(door: Door, raw: str, key_id: str) -> list[Any]:
    told = (await door.get(f"/v1/keys/{key_id}", raw)).json()
    (listed,) = [one for one in (await door.get("/v1/keys", raw)).json()["data"] if one["id"] == key_id]
    assert told == listed
    return [told["last_used_at"], told["spent_usd"]]


async def test_a_key_tells_its_last_hour_and_what_its_own_requests_cost(door: Door) -> None:
    account_id = await door.account()
    key, raw = await door.gateway.keys.create(account_id)
    made = (await door.http.post("/v1/keys", json={}, headers=bearer(raw))).json()
    assert [made["last_used_at"], made["spent_usd"]] == await use_of(door, raw, key.id) == [None, "0.00"]
    at_ms = now_ms() // HOUR_MS * HOUR_MS
    records = [
        recorded(at_ms - 9 * HOUR_MS, account_id=account_id, key_id=key.id, cost_nano=5, model="a"),
        recorded(at_ms - 3 * HOUR_MS + 1, account_id=account_id, key_id=key.id, cost_nano=2, model="b"),
        recorded(at_ms - 2 * HOUR_MS - 1, account_id=account_id, key_id=key.id, cost_nano=0, model="a"),
        recorded(at_ms, account_id=account_id, key_id=made["id"], cost_nano=3),
        recorded(at_ms, account_id="acc_other", key_id=key.id, cost_nano=100),
    ]
    await write_records(store_of(door.gateway), *records)
    assert await use_of(door, raw, key.id) == [(at_ms - 3 * HOUR_MS) // 1000, "0.000000007"]
    assert await use_of(door, raw, made["id"]) == [at_ms // 1000, "0.000000003"]
    body = {"expires_old_in_s": 60}
    rotated = (await door.http.post(f"/v1/keys/{key.id}/rotate", json=body, headers=bearer(raw))).json()
    assert rotated["spent_usd"] == "0.000000007"


async def test_what_a_key_has_spent_is_what_usage_says_of_it(door: Door) -> None:
    account_id = await door.account()
    key, raw = await door.gateway.keys.create(account_id)
    await write_records(
        store_of(door.gateway),
        *(recorded(now_ms() - 1, account_id=account_id, key_id=key.id, cost_nano=number) for number in (10, 20, 30)),
    )
    (row,) = (await door.get("/v1/usage?group_by=key", raw)).json()["data"]
    assert row["cost_usd"] == (await use_of(door, raw, key.id))[1] == "0.00000006"


@pytest.mark.usefixtures("of_sqlite")
async def test_the_hours_of_other_keys_are_not_read(door: Door) -> None:
    sql = (
        "EXPLAIN QUERY PLAN SELECT key_id, MAX(hour), SUM(cost_nano) FROM hourly_usage "
        "WHERE account_id = 'a' AND key_id IN (SELECT value FROM json_each('[]')) AND requests > 0 GROUP BY key_id"
    )
    plan = " ".join(str(row[3]) for row in await door.rows(sql))
    assert "hourly_usage_by_key (account_id=? AND key_id=?)" in plan


async def test_no_report_that_runs_keeps_a_key_from_being_ended(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async def overloaded(*_: object) -> None:
        raise GatewayError("overloaded", "Reports take too long.")

    account_id = await door.account()
    key, raw = await door.gateway.keys.create(account_id)
    monkeypatch.setattr(door.gateway.history, "uses", overloaded)
    path, headers = f"/v1/keys/{key.id}", bearer(raw)
    rotated = await door.http.post(f"{path}/rotate", json={"expires_old_in_s": 60}, headers=headers)
    statuses = [rotated.status_code, (await door.http.patch(path, json={"name": "x"}, headers=headers)).status_code]
    statuses += [(await door.http.get(path, headers=headers)).status_code]
    statuses += [(await door.http.delete(path, headers=headers)).status_code]
    assert statuses == [200] * 4
