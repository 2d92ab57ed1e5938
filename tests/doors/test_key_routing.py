"""Keys that say how a model is chosen for `auto`: how that is set, told, changed, cleared and handed on."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from mcp_gateway.core.identity.keys import digest_of
from mcp_gateway.core.optimization import NO_DEFAULTS, RoutingDefaults
from tests.cases import each
from tests.providers.test_auto import DEAR, FIRST, HELLO, SECOND, choosing, chosen
from tests.serving import FREE, Door, bearer, error_of, open_door
from tests.stage import PRICED

pytestmark = pytest.mark.asyncio(loop_scope="module")
BUDGETS = [{"amount_usd": "1", "window": "day"}]
PRICED_ID, FREE_ID = PRICED["id"], FREE["id"]
NAMED = PRICED | {"id": "named/model", "aliases": ["nick", "other-nick"]}
VECTORS = PRICED | {"id": "vectors", "task": "embed"}
MODELS = [PRICED, FREE, NAMED, VECTORS]
UNSAID: dict[str, Any] = {"model_pool": None, "model_pool_gone": [], "optimize_mode": None, "routing_event": False}

UNFIT_VALUES: dict[tuple[str, str], list[Any]] = {
    ("model_pool", "invalid_type"): [[], [5], "x", {}, ["x" * 1001], [FREE_ID] * 101, [None]],
    ("optimize_mode", "invalid_type"): [5, [], {}, True, "x" * 101],
    ("optimize_mode", "invalid_value"): ["", "cheap", "best value", "cost,latency"],
    ("routing_event", "invalid_type"): [1, "true", []],
}
UNFIT = [(field, value, code) for (field, code), values in UNFIT_VALUES.items() for value in values]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    limits = {"keys_per_account": 1000, "keys_per_account_per_day": 1000}
    async with open_door(tmp_path_factory.mktemp("key_routing"), models=MODELS, limits=limits) as door:
        yield door
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def key(door: Door) -> str:
    return await door.key()


async def create(door: Door, key: str, **fields: Any) -> httpx2.Response:
    return await door.http.post("/v1/keys", json=fields, headers=bearer(key))


async def made(door: Door, key: str, **fields: Any) -> dict[str, Any]:
    answer = await create(door, key, **fields)
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def change(door: Door, key: str, key_id: str, **fields: Any) -> httpx2.Response:
    return await door.http.patch(f"/v1/keys/{key_id}", json=fields, headers=bearer(key))


def routing_in(told: dict[str, Any]) -> dict[str, Any]:
    return {name: told[name] for name in UNSAID}


async def used_by(door: Door, raw: str) -> RoutingDefaults:
    """What a request with the key is served by."""
    return (await door.gateway.authenticator.identify(raw)).routing


async def test_a_key_says_nothing_of_the_choice_unless_it_is_told_to(door: Door, key: str) -> None:
    plain = await made(door, key, name="plain")
    assert routing_in(plain) == UNSAID
    assert await used_by(door, plain["key"]) == NO_DEFAULTS


async def test_what_a_key_says_of_the_choice_is_told_wherever_the_key_is(door: Door, key: str) -> None:
    told = await made(door, key, model_pool=[FREE_ID, "nick", FREE_ID], optimize_mode="cheapest", routing_event=True)
    routing = UNSAID | {"model_pool": [FREE_ID, "nick"], "optimize_mode": "cost", "routing_event": True}
    assert routing_in(told) == routing
    assert routing_in((await door.get(f"/v1/keys/{told['id']}", key)).json()) == routing
    assert routing_in((await door.get("/v1/keys?limit=1", key)).json()["data"][0]) == routing
    assert await used_by(door, told["key"]) == RoutingDefaults((FREE_ID, "nick"), "cost", tells_event=True)


@each("alias", ["best", "Cheapest", " fastest ", "balanced", "quality", "cost", "LATENCY"])
async def test_a_mode_is_taken_by_any_of_its_names(door: Door, key: str, alias: str) -> None:
    modes = {"best": "quality", "cheapest": "cost", "fastest": "latency"}
    plain = alias.strip().lower()
    assert (await made(door, key, optimize_mode=alias))["optimize_mode"] == modes.get(plain, plain)


async def test_a_change_touches_what_it_names_and_null_clears_it(door: Door, key: str) -> None:
    one = await made(door, key, name="one")
    routing = dict(UNSAID)
    changes: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"model_pool": ["nick"]}, {"model_pool": ["nick"]}),
        ({"optimize_mode": "best"}, {"optimize_mode": "quality"}),
        ({"routing_event": True}, {"routing_event": True}),
        ({"name": "renamed"}, {}),
        ({}, {}),
        ({"model_pool": None, "name": None}, {"model_pool": None}),
        ({"optimize_mode": None, "model_pool": [PRICED_ID]}, {"optimize_mode": None, "model_pool": [PRICED_ID]}),
        ({"routing_event": False}, {"routing_event": False}),
        ({"routing_event": True, "optimize_mode": "latency"}, {"routing_event": True, "optimize_mode": "latency"}),
        (dict.fromkeys(("model_pool", "optimize_mode", "routing_event")), UNSAID),
    ]
    for fields, told in changes:
        routing |= told
        changed = await change(door, key, one["id"], **fields)
        assert (changed.status_code, routing_in(changed.json())) == (200, routing)
        now = await used_by(door, one["key"])
        pool = routing["model_pool"]
        assert now == (pool and tuple(pool), routing["optimize_mode"], routing["routing_event"])
    assert (await door.get(f"/v1/keys/{one['id']}", key)).json()["name"] == "renamed"


async def test_a_change_by_the_command_line_reaches_a_running_server(door: Door, key: str) -> None:
    one = await made(door, key, model_pool=["nick"], optimize_mode="cost")
    assert await used_by(door, one["key"]) == RoutingDefaults(("nick",), "cost")
    await (await door.desk()).keys.change(one["id"], routing={"model_pool": ("named/model", "nobody/x"), "mode": None})
    await door.gateway.known_keys.catch_up()
    assert await used_by(door, one["key"]) == RoutingDefaults(("named/model", "nobody/x"))
    told = (await door.get(f"/v1/keys/{one['id']}", key)).json()
    assert (told["model_pool"], told["model_pool_gone"]) == (["named/model", "nobody/x"], ["nobody/x"])


async def test_a_key_changes_its_own_choice(door: Door) -> None:
    own = await door.key()
    (row,) = (await door.get("/v1/keys", own)).json()["data"]
    assert (await change(door, own, row["id"], model_pool=[FREE_ID])).json()["model_pool"] == [FREE_ID]


@each("name", ["nobody/x", "auto", "", PRICED_ID.upper(), "x" * 1000, f"{FREE_ID} "])
async def test_a_pool_names_models_that_there_are(door: Door, key: str, name: str) -> None:
    one = await made(door, key, model_pool=[FREE_ID])
    for refused in (
        await create(door, key, model_pool=[FREE_ID, name]),
        await change(door, key, one["id"], model_pool=[name], name="never"),
    ):
        assert (refused.status_code, error_of(refused)["code"]) == (404, "model_not_found")
        assert error_of(refused)["param"] == "model_pool"
    told = (await door.get(f"/v1/keys/{one['id']}", key)).json()
    assert (told["model_pool"], told["name"]) == ([FREE_ID], "")


async def test_a_pool_names_models_that_the_key_may_ask_for(door: Door, key: str) -> None:
    narrow = await made(door, key, models=["nick"], model_pool=["other-nick"])
    assert (narrow["models"], narrow["model_pool"], narrow["model_pool_gone"]) == (["named/model"], ["other-nick"], [])
    for refused in (
        await create(door, key, models=[FREE_ID], model_pool=["nick"]),
        await create(door, narrow["key"], model_pool=[FREE_ID]),
        await change(door, key, narrow["id"], model_pool=["nick", FREE_ID]),
    ):
        assert (error_of(refused)["code"], error_of(refused)["param"]) == ("model_not_found", "model_pool")


async def test_a_pool_is_of_models_that_generate_text(door: Door, key: str) -> None:
    one = await made(door, key)
    for refused in (
        await create(door, key, model_pool=["vectors"]),
        await change(door, key, one["id"], model_pool=[FREE_ID, "vectors"]),
    ):
        assert (refused.status_code, error_of(refused)["code"]) == (400, "invalid_value")
        assert error_of(refused)["param"] == "model_pool"


@each(("field", "value", "code"), UNFIT)
async def test_what_is_no_pool_mode_or_switch_is_400(door: Door, key: str, field: str, value: Any, code: str) -> None:
    one = await made(door, key)
    for refused in (await create(door, key, **{field: value}), await change(door, key, one["id"], **{field: value})):
        assert (refused.status_code, error_of(refused)["code"]) == (400, code)
        assert error_of(refused)["param"] == field


async def test_a_key_that_a_key_makes_has_its_makers_choice_unless_it_says_otherwise(door: Door, key: str) -> None:
    said: dict[str, Any] = {"model_pool": ["nick", FREE_ID], "optimize_mode": "cost", "routing_event": True}
    maker = (await made(door, key, **said))["key"]
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"budgets": BUDGETS}, {}),
        ({"optimize_mode": "fastest"}, {"optimize_mode": "latency"}),
        ({"model_pool": None}, {"model_pool": None}),
        ({"routing_event": False, "optimize_mode": None}, {"routing_event": False, "optimize_mode": None}),
        ({"model_pool": [PRICED_ID]}, {"model_pool": [PRICED_ID]}),
        ({"models": [FREE_ID, PRICED_ID]}, {"model_pool": [FREE_ID]}),
        ({"models": [PRICED_ID]}, {"model_pool": None}),
    ]
    for fields, told in cases:
        below = await made(door, maker, **fields)
        assert routing_in(below) == UNSAID | said | told
        assert (await used_by(door, below["key"])).model_pool == (below["model_pool"] and tuple(below["model_pool"]))


async def test_a_minted_key_that_a_tool_made_has_its_makers_choice(door: Door) -> None:
    maker = await door.key(may_mint_over_mcp=True, routing=RoutingDefaults(("nick",), "cost"))
    asked = {"name": "agent", "amount_usd": "1", "lifetime_s": 60}
    minted = (await door.mcp("tools/call", maker, name="create_budget", arguments=asked)).json()["result"]
    assert await used_by(door, minted["structuredContent"]["key"]) == RoutingDefaults(("nick",), "cost")


async def test_a_repeated_creation_is_told_the_same(door: Door, key: str) -> None:
    asked = {"model_pool": ["nick"], "optimize_mode": "best"}
    headers = bearer(key) | {"idempotency-key": "once"}
    first, again = [await door.http.post("/v1/keys", json=asked, headers=headers) for _ in range(2)]
    assert first.json() == again.json() | {"key": first.json()["key"]}
    other = await door.http.post("/v1/keys", json=asked | {"optimize_mode": None}, headers=headers)
    assert other.status_code == 422


async def test_models_of_a_pool_that_are_gone_are_named_after_a_restart_and_may_stay(tmp_path: Path) -> None:
    async with open_door(tmp_path, models=MODELS) as door:
        account_id = await door.account()
        key = await door.key(account_id)
        asked = ["nick", FREE_ID, PRICED_ID]
        told = await made(door, key, model_pool=asked, optimize_mode="best", routing_event=True)
    asked_since = [PRICED, VECTORS | {"id": FREE_ID}]
    async with open_door(tmp_path, models=asked_since) as door:
        path = f"/v1/keys/{told['id']}"
        now = (await door.get(path, key)).json()
        assert (now["model_pool"], now["model_pool_gone"]) == (asked, ["nick", FREE_ID])
        assert (now["optimize_mode"], now["routing_event"]) == ("quality", True)
        assert await used_by(door, told["key"]) == RoutingDefaults(tuple(asked), "quality", tells_event=True)
        changed = (await change(door, key, told["id"], optimize_mode="cost")).json()
        assert (changed["model_pool"], changed["optimize_mode"]) == (asked, "cost")
        assert (await made(door, told["key"]))["model_pool"] == asked
        found = await door.gateway.keys.find(digest_of(told["key"]))
        assert found is not None
        assert found.routing.model_pool == tuple(asked)
        cleared = (await change(door, key, told["id"], model_pool=None)).json()
        assert (cleared["model_pool"], cleared["model_pool_gone"]) == (None, [])


async def test_auto_chooses_as_the_key_says_where_its_request_does_not(tmp_path: Path) -> None:
    async with choosing(tmp_path) as stage:
        one = await made(stage.door, stage.key, model_pool=["small", SECOND], optimize_mode="cost")

        async def choice(**fields: Any) -> str:
            return chosen(await stage.ask(HELLO, one["key"], **fields))

        assert await choice() == FIRST
        assert await choice(routing={"model_pool": [DEAR]}) == DEAR
        changes: list[tuple[dict[str, Any], str]] = [
            ({"model_pool": [SECOND, DEAR]}, SECOND),
            ({"optimize_mode": "best"}, DEAR),
            ({"model_pool": None}, DEAR),
            ({"optimize_mode": "cheapest"}, FIRST),
        ]
        for fields, model in changes:
            assert (await change(stage.door, stage.key, one["id"], **fields)).status_code == 200
            assert await choice() == model
        assert await choice(routing={"optimize": "quality"}) == DEAR


async def test_auto_passes_over_what_is_gone_of_a_keys_pool(tmp_path: Path) -> None:
    async with choosing(tmp_path) as stage:
        keys = stage.door.gateway.keys
        key, raw = await keys.create(
            await stage.door.account("1"), routing=RoutingDefaults(("nobody/x", SECOND, "vectors"), "cost")
        )
        assert chosen(await stage.ask(HELLO, raw)) == SECOND
        told = (await stage.door.get(f"/v1/keys/{key.id}", raw)).json()
        assert told["model_pool_gone"] == ["nobody/x", "vectors"]
        assert (await change(stage.door, raw, key.id, model_pool=[SECOND])).json()["model_pool_gone"] == []
        await keys.change(key.id, routing={"model_pool": ("nobody/x",)})
        refused = await stage.ask(HELLO, raw)
        assert (refused.status_code, error_of(refused)["code"]) == (404, "model_not_found")
        assert chosen(await stage.ask(HELLO, raw, routing={"model_pool": [FIRST]})) == FIRST
