"""Keys that keys make with budgets: they end with their maker, see themselves alone, and are within what it may."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from mcp_gateway.core.ids import now_ms
from tests.cases import each
from tests.serving import Door, bearer, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
BUDGETS = [{"amount_usd": "1", "window": "day"}]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    limits = {"keys_per_account": 2, "minted_keys_per_account": 4, "minted_keys_per_minute": 50}
    async with open_door(tmp_path_factory.mktemp("minted"), limits=limits) as door:
        yield door
        await door.nothing_is_left()


async def create(door: Door, key: str, **fields: Any) -> httpx2.Response:
    return await door.http.post("/v1/keys", json=fields, headers=bearer(key))


async def minted(door: Door, key: str, **fields: Any) -> dict[str, Any]:
    answer = await create(door, key, **({"budgets": BUDGETS} | fields))
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def revoke(door: Door, key: str, key_id: str, query: str = "") -> httpx2.Response:
    return await door.http.delete(f"/v1/keys/{key_id}{query}", headers=bearer(key))


async def seen_by(door: Door, key: str) -> set[str]:
    return {row["id"] for row in (await door.get("/v1/keys", key)).json()["data"]}


async def code_of(door: Door, key: str) -> str | None:
    answer = await door.get("/v1/limits", key)
    return None if answer.status_code == 200 else str(error_of(answer)["code"])


async def test_a_minted_key_and_what_it_made_end_with_their_maker_at_once(door: Door) -> None:
    top = await door.key()
    maker = (await create(door, top)).json()
    first = await minted(door, maker["key"])
    below = (await create(door, first["key"])).json()
    assert [await code_of(door, one["key"]) for one in (first, below)] == [None, None]
    assert (await revoke(door, top, maker["id"])).json()["revoked_at"]
    assert [await code_of(door, one["key"]) for one in (maker, first, below)] == ["revoked_api_key"] * 3
    assert await code_of(door, top) is None


@each("query", ["", "?with_made=true"])
async def test_another_key_ends_with_its_maker_only_on_request(door: Door, query: str) -> None:
    top = await door.key()
    of_top = await minted(door, top)
    below = (await create(door, of_top["key"])).json()
    usual = (await create(door, top)).json()
    own_id = next(row for row in await seen_by(door, top) if row not in (of_top["id"], below["id"], usual["id"]))
    revoked = (await revoke(door, top, own_id, query)).json()
    assert revoked.get("made_revoked") == (3 if query else None)
    is_ended = await code_of(door, usual["key"]) == "revoked_api_key"
    assert (is_ended, await code_of(door, below["key"])) == (bool(query), "revoked_api_key")


async def test_a_maker_that_the_operator_ends_takes_what_it_minted_with_it(door: Door) -> None:
    top = await door.key()
    child = await minted(door, top)
    assert await code_of(door, child["key"]) is None
    desk = await door.desk()
    own_id = next(row for row in await seen_by(door, top) if row != child["id"])
    await desk.keys.revoke(own_id)
    await door.gateway.known_keys.catch_up()  # as every half second
    assert await code_of(door, child["key"]) == "revoked_api_key"


async def test_a_minted_key_sees_itself_and_what_it_made_alone(door: Door) -> None:
    top = await door.key()
    first, second = [await minted(door, top) for _ in range(2)]
    below = await minted(door, first["key"])
    assert await seen_by(door, first["key"]) == {below["id"], first["id"]}
    assert await seen_by(door, below["key"]) == {below["id"]}
    assert len(await seen_by(door, top)) == 4
    maker_id = (await door.get(f"/v1/keys/{first['id']}", top)).json()["made_by"]
    for key, others in ((first, (second["id"], maker_id)), (below, (first["id"], second["id"], maker_id))):
        for other in others:
            asked = [
                await door.get(f"/v1/keys/{other}", key["key"]),
                await door.http.patch(f"/v1/keys/{other}", json={"name": "x"}, headers=bearer(key["key"])),
                await revoke(door, key["key"], other),
            ]
            assert [error_of(one)["code"] for one in asked] == ["not_found"] * 3
    assert (await revoke(door, first["key"], below["id"])).status_code == 200
    assert (await revoke(door, first["key"], first["id"])).status_code == 200
    assert await code_of(door, second["key"]) is None


async def test_minted_keys_have_a_number_of_their_own_and_ended_ones_none(door: Door) -> None:
    top = await door.key()
    made = [await minted(door, top) for _ in range(4)]
    assert error_of(await create(door, top, budgets=BUDGETS))["code"] == "conflict"
    assert (await create(door, top)).status_code == 201
    assert error_of(await create(door, top))["code"] == "conflict"
    await revoke(door, top, made[0]["id"])
    assert (await minted(door, top))["made_by"] == made[0]["made_by"]


async def test_a_lifetime_is_in_seconds_and_ends_no_later_than_the_makers(door: Door) -> None:
    top = await door.key()
    child = await minted(door, top, expires_in_s=3600)
    assert 3000 < child["expires_at"] - now_ms() // 1000 <= 3600
    below = await minted(door, child["key"], expires_in_s=60)
    assert below["expires_at"] < child["expires_at"]
    assert (await minted(door, child["key"]))["expires_at"] == child["expires_at"]
    later = error_of(await create(door, child["key"], expires_in_s=7200))
    assert (later["code"], later["param"]) == ("insufficient_permissions", "expires_in_s")


@each(
    ("fields", "code"),
    [
        ({"expires_in_s": 0}, "invalid_type"),
        ({"expires_in_s": -5}, "invalid_type"),
        ({"expires_in_s": 1.5}, "invalid_type"),
        ({"expires_in_s": "60"}, "invalid_type"),
        ({"expires_in_s": True}, "invalid_type"),
        ({"expires_in_s": 10**9 + 1}, "invalid_type"),
        ({"expires_in_s": 60, "expires_at": 4_000_000_000}, "invalid_value"),
    ],
)
async def test_what_is_no_lifetime_makes_no_key(door: Door, fields: dict[str, Any], code: str) -> None:
    top = await door.key()
    refused = error_of(await create(door, top, **fields))
    assert (refused["code"], refused["param"]) == (code, "expires_in_s")
    assert len(await seen_by(door, top)) == 1


async def test_limits_are_within_the_makers(door: Door) -> None:
    top = await door.key()
    child = await minted(door, top, in_flight=3)
    refused = error_of(await create(door, child["key"], in_flight=4, budgets=BUDGETS))
    assert (refused["code"], refused["param"]) == ("insufficient_permissions", "in_flight")
    assert (await minted(door, child["key"]))["in_flight"] == 3
