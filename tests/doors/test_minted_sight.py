"""What a minted key is told of its account: its own requests and usage, with those of what it made, and no others."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from mcp_gateway.core.clock import HOUR_MS
from mcp_gateway.core.ids import now_ms
from tests.cases import each
from tests.databases import store_of
from tests.recorded import recorded, write_records
from tests.serving import Door, bearer, error_of, open_door

pytestmark = [pytest.mark.gateways, pytest.mark.asyncio(loop_scope="module")]
BUDGET = {"amount_usd": "1", "window": "day"}
Json = dict[str, Any]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    limits = {"keys_per_account": 9, "listing_requests_per_minute": 1_000_000}
    async with open_door(tmp_path_factory.mktemp("sight"), limits=limits) as door:
        yield door
        await door.nothing_is_left()


class Family:
    """An account whose key has minted two, the first of which has minted one, each with a request that cost money."""

    def __init__(self, door: Door, account_id: str, keys: dict[str, Json]) -> None:
        self.door = door
        self.account_id = account_id
        self.keys = keys

    async def get(self, name: str, path: str) -> httpx2.Response:
        return await self.door.get(path, self.keys[name]["key"])

    async def post(self, name: str, path: str, once: str, body: Json) -> httpx2.Response:
        headers = bearer(self.keys[name]["key"]) | {"idempotency-key": once}
        return await self.door.http.post(path, json=body, headers=headers)

    def names(self, key_ids: set[str]) -> set[str]:
        return {name for name, key in self.keys.items() if key["id"] in key_ids}


@pytest_asyncio.fixture(loop_scope="module")
async def family(door: Door) -> Family:
    account_id = await door.account("10")
    key, raw = await door.gateway.keys.create(account_id)
    keys: dict[str, Json] = {"top": {"id": key.id, "key": raw}}
    for name, maker in (("first", "top"), ("second", "top"), ("below", "first")):
        made = await door.http.post("/v1/keys", json={"budgets": [BUDGET]}, headers=bearer(keys[maker]["key"]))
        keys[name] = made.json()
    family = Family(door, account_id, keys)
    this_hour_ms = now_ms() // HOUR_MS * HOUR_MS
    for number, one in enumerate(keys.values()):
        fields: Json = {"account_id": account_id, "key_id": one["id"], "cost_nano": 10**number}
        record = recorded(this_hour_ms, **fields)
        await write_records(store_of(door.gateway), record)
        one["request"] = record.id
    return family


SEEN = [
    ("top", {"top", "first", "second", "below"}, "0.000001111"),
    ("first", {"first", "below"}, "0.00000101"),
    ("second", {"second"}, "0.0000001"),
    ("below", {"below"}, "0.000001"),
]


@each(("name", "seen", "cost_usd"), SEEN)
async def test_usage_is_of_itself_and_what_it_made(family: Family, name: str, seen: set[str], cost_usd: str) -> None:
    by_key = (await family.get(name, "/v1/usage?group_by=key")).json()
    assert family.names({row["key"] for row in by_key["data"]}) == seen
    for query in ("", "?group_by=model,status", "?group_by=surface", "?since=2000-01-01", "?group_by=hour"):
        told = (await family.get(name, f"/v1/usage{query}")).json()
        assert (told["totals"]["requests"], told["totals"]["cost_usd"]) == (len(seen), cost_usd)
    within_an_hour = (await family.get(name, f"/v1/usage?since={now_ms() // 1000}")).json()
    assert within_an_hour["totals"]["requests"] <= len(seen)
    assert (await family.get(name, "/v1/billing")).json()["usage"]["cost_usd"] == cost_usd


@each(("name", "seen", "cost_usd"), SEEN)
async def test_requests_are_its_own_and_those_of_what_it_made(
    family: Family, name: str, seen: set[str], cost_usd: str
) -> None:
    listed = (await family.get(name, "/v1/requests")).json()["data"]
    assert family.names({row["key"] for row in listed}) == seen
    (newest,) = (await family.get(name, "/v1/requests?limit=1")).json()["data"]
    assert newest == listed[0]
    for other, key in family.keys.items():
        alone = (await family.get(name, f"/v1/requests?key={key['id']}")).json()["data"]
        one = await family.get(name, f"/v1/requests/{key['request']}")
        assert (len(alone), one.status_code) == ((1, 200) if other in seen else (0, 404))


@each(
    ("method", "path"),
    [
        ("GET", "/v1/billing/transactions"),
        ("GET", "/v1/credits/transactions"),
        ("GET", "/v1/billing/statements/2026-01"),
        ("GET", "/v1/billing/statements/2026-01?format=csv"),
        ("POST", "/v1/billing/portal"),
    ],
)
async def test_the_accounts_books_are_not_told(family: Family, method: str, path: str) -> None:
    for name in ("first", "below"):
        asked = await family.door.http.request(
            method, path, json={} if method == "POST" else None, headers=bearer(family.keys[name]["key"])
        )
        assert (asked.status_code, error_of(asked)["code"]) == (403, "insufficient_scope")
        assert "sees itself alone" in error_of(asked)["message"]


async def test_a_sent_key_meets_nobody_elses_answer(family: Family) -> None:
    body = {"name": "agent", "budgets": [BUDGET]}
    made = [await family.post(name, "/v1/keys", "once", body) for name in ("top", "first", "second")]
    assert [one.status_code for one in made] == [201] * 3
    assert len({one.json()["id"] for one in made}) == 3
    again = [await family.post(name, "/v1/keys", "once", body) for name in ("top", "first", "second")]
    assert [one.json()["id"] for one in again] == [one.json()["id"] for one in made]
    assert all(one.headers["idempotent-replayed"] == "true" and "key" not in one.json() for one in again)
    other = await family.post("first", "/v1/keys", "once", {"name": "other"})
    assert error_of(other)["code"] == "idempotency_mismatch"


async def test_a_chat_of_its_own_repeats_nobody_elses(family: Family) -> None:
    chat = {"model": "demo/echo", "messages": [{"role": "user", "content": "hi"}]}
    asked = {
        name: [(await family.post(name, "/v1/chat/completions", "chat", chat)).headers["x-request-id"] for _ in "ab"]
        for name in ("top", "first", "second")
    }
    await family.door.nothing_is_left()
    for name, (first, again) in asked.items():
        told = [(await family.get(name, f"/v1/requests/{one}")).json()["repeat_of"] for one in (first, again)]
        assert told == [None, first]
