"""`auto` in the lists of models that each door tells: as one model that its caller's pool makes up."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mcp_gateway.core.optimization import MODES, RoutingDefaults
from tests.cases import each
from tests.replaying import ReplayingBackend
from tests.serving import Door, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
ANTHROPIC = {"anthropic-version": "2023-06-01"}
BOTH = ("/v1", "/api/v1/inference")
MODELS: list[dict[str, Any]] = [
    {"id": "small", "aliases": ["s"], "free": True, "context_window": 2000, "features": ["tools"]},
    {
        "id": "org/large",
        "backend_model": "large",
        "context_window": 9000,
        "max_output_tokens": 3000,
        "features": ["tools", "json_mode"],
        "input_modalities": ["text", "image"],
        "pricing": {"prompt": "0.000003", "completion": "0.000012"},
    },
    {
        "id": "coder",
        "context_window": 4000,
        "features": ["logprobs"],
        "pricing": {"prompt": "0.000004", "completion": "0.000001"},
    },
    {"id": "vectors", "task": "embed", "free": True, "context_window": 64_000},
]
LISTED = ["small", "org/large", "coder", "vectors"]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with (
        ReplayingBackend("small", "large", "vectors") as backend,
        open_door(tmp_path_factory.mktemp("auto"), vllm_urls=[backend.url], models=MODELS) as door,
    ):
        yield door


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def key(door: Door) -> str:
    return await door.key(credit="1")


async def ids_in(door: Door, key: str | None, query: str = "") -> list[str]:
    return [row["id"] for row in (await door.get(f"/v1/models{query}", key)).json()["data"]]


async def auto_of(door: Door, key: str | None) -> dict[str, Any]:
    """As both base paths tell it, by itself and in the list."""
    told = [(await door.get(f"{base}/models/auto", key)).json() for base in BOTH]
    told += [(await door.get(f"{base}/models", key)).json()["data"][-1] for base in BOTH]
    assert all(one == told[0] for one in told)
    auto: dict[str, Any] = told[0]
    return auto


async def row_of(door: Door, key: str | None, **arguments: Any) -> dict[str, Any]:
    """As list_models tells it."""
    rows = (await door.call("list_models", key, **arguments)).json()["result"]["structuredContent"]["models"]
    row: dict[str, Any] = rows[-1]
    assert [one["id"] for one in rows].index("auto") == len(rows) - 1
    return row


async def test_it_comes_last_with_what_the_pool_can_do_and_costs_at_most_and_at_least(door: Door, key: str) -> None:
    assert await ids_in(door, key) == [*LISTED, "auto"]
    auto = await auto_of(door, key)
    assert (auto["object"], auto["owned_by"], auto["created"]) == ("model", "gateway", 0)
    assert (auto["context_window"], auto["context_length"], auto["max_output_length"]) == (9000, 9000, 4000)
    assert auto["supported_features"] == ["tools", "json_mode", "logprobs"]
    assert (auto["input_modalities"], auto["output_modalities"]) == (["text", "image"], ["text"])
    assert auto["pricing"] == {"prompt": "0.000004", "completion": "0.000012"}
    assert auto["pricing_from"] == {"prompt": "0", "completion": "0"}
    assert "max_tokens" in auto["supported_sampling_parameters"]
    assert "served_by" not in auto
    assert all(word in auto["description"] for word in ("small, org/large, coder", *MODES))
    assert "vectors" not in auto["description"]


async def test_anthropic_s_list_has_it_once_and_by_itself(door: Door, key: str) -> None:
    headers = ANTHROPIC | {"authorization": f"Bearer {key}"}
    listed = (await door.http.get("/v1/models", headers=headers)).json()
    assert [row["id"] for row in listed["data"]] == ["small", "s", "org/large", "coder", "vectors", "auto"]
    auto = (await door.http.get("/v1/models/auto", headers=headers)).json()
    assert auto == listed["data"][-1]
    assert (auto["type"], auto["max_input_tokens"], auto["created_at"]) == ("model", 9000, "1970-01-01T00:00:00Z")
    assert listed["last_id"] == "auto"


@each("query", ["?provider=vllm", "?format=openrouter", "?format=openrouter-legacy"])
async def test_it_is_no_provider_s_and_not_for_sale(door: Door, key: str, query: str) -> None:
    assert await ids_in(door, key, query) == LISTED


async def test_list_models_tells_the_pool_and_the_modes(door: Door, key: str) -> None:
    row = await row_of(door, key)
    assert (row["model_pool"], row["modes"]) == (["small", "org/large", "coder"], list(MODES))
    assert (row["context_window"], row["status"], row["guests"]) == (9000, "ready", True)
    assert (row["input_usd_per_million_tokens"], row["output_usd_per_million_tokens"]) == ("4", "12")
    assert "served_by" not in row
    text = (await door.call("list_models", key)).json()["result"]["content"][0]["text"]
    assert "chooses one of small, org/large, coder by balanced" in text.splitlines()[-1]


async def test_list_models_passes_it_over_where_the_pool_does_not_fit(door: Door, key: str) -> None:
    assert (await row_of(door, key, capability="image"))["id"] == "auto"
    rows = (await door.call("list_models", key, max_price_usd=5)).json()["result"]["structuredContent"]["models"]
    assert [row["id"] for row in rows] == ["small", "coder", "vectors"]


async def test_a_guest_s_is_of_what_is_open_to_guests(door: Door) -> None:
    auto = await auto_of(door, None)
    assert (auto["context_window"], auto["guests"]) == (2000, True)
    assert auto["pricing"] == {"prompt": "0", "completion": "0"}
    assert "pricing_from" not in auto
    assert "large" not in auto["description"]
    assert (await row_of(door, None))["model_pool"] == ["small"]


@each(
    ("rights", "pool"),
    [
        ({"routing": RoutingDefaults(("coder", "s", "coder"))}, ["coder", "small"]),
        ({"routing": RoutingDefaults(("gone", "org/large"))}, ["org/large"]),
        ({"models": frozenset({"coder", "vectors"})}, ["coder"]),
        ({"models": frozenset({"coder"}), "routing": RoutingDefaults(("coder", "small"))}, ["coder"]),
    ],
)
async def test_a_key_s_is_of_its_own_pool(door: Door, rights: dict[str, Any], pool: list[str]) -> None:
    key = await door.key(**rights)
    assert (await row_of(door, key))["model_pool"] == pool
    auto = await auto_of(door, key)
    assert f"of: {', '.join(pool)}. " in auto["description"]
    windows = {"small": 2000, "org/large": 9000, "coder": 4000}
    assert auto["context_window"] == max(windows[name] for name in pool)


@each(
    "rights",
    [
        {"models": frozenset({"vectors"})},
        {"routing": RoutingDefaults(("gone",))},
        {"models": frozenset({"small"}), "routing": RoutingDefaults(("coder",))},
    ],
)
async def test_where_nobody_is_in_the_pool_there_is_none(door: Door, rights: dict[str, Any]) -> None:
    key = await door.key(**rights)
    assert "auto" not in await ids_in(door, key)
    refused = await door.get("/v1/models/auto", key)
    assert (refused.status_code, error_of(refused)["code"]) == (404, "model_not_found")
    rows = (await door.call("list_models", key)).json()["result"]["structuredContent"]["models"]
    assert "auto" not in [row["id"] for row in rows]
    assert await completed(door, key, "model", "auto") == []


async def test_it_costs_what_the_account_s_margin_makes_of_it(door: Door) -> None:
    account_id = await door.account()
    await (await door.desk()).accounts.change(account_id, margin=10_000)
    await door.gateway.known_keys.catch_up()
    auto = await auto_of(door, await door.key(account_id))
    assert auto["pricing"] == {"prompt": "0.000008", "completion": "0.000024"}


async def test_it_is_ready_where_one_of_the_pool_is(door: Door) -> None:
    for base in BOTH:
        assert (await door.get(f"{base}/models/auto/health")).json() == {"model": "auto", "status": "ready"}
    assert (await row_of(door, await door.key(routing=RoutingDefaults(("coder", "s")))))["status"] == "ready"
    assert (await row_of(door, await door.key(routing=RoutingDefaults(("coder",)))))["status"] == "unavailable"


async def completed(door: Door, key: str | None, argument: str, typed: str) -> list[str]:
    refs = {"id": {"type": "ref/resource", "uri": "models://{id}"}, "models": prompt("compare_models")}
    ref = refs.get(argument, prompt("estimate_cost"))
    answer = await door.mcp("completion/complete", key, ref=ref, argument={"name": argument, "value": typed})
    values: list[str] = answer.json()["result"]["completion"]["values"]
    return values


def prompt(name: str) -> dict[str, str]:
    return {"type": "ref/prompt", "name": name}


async def test_a_model_is_completed_to_it_and_what_names_resources_or_several_is_not(door: Door, key: str) -> None:
    assert await completed(door, key, "model", "au") == ["auto"]
    assert await completed(door, key, "model", "") == [*LISTED, "auto"]
    assert await completed(door, key, "models", "au") == []
    assert await completed(door, key, "id", "au") == []


async def test_a_prompt_estimates_what_it_costs_at_most(door: Door, key: str) -> None:
    answer = await door.mcp("prompts/get", key, name="estimate_cost", arguments={"model": "auto"})
    text = answer.json()["result"]["messages"][0]["content"]["text"]
    assert "auto (4 USD for a million prompt tokens, 12 USD for a million completion tokens)" in text


async def test_the_settings_pool_counts_where_a_key_has_none(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"models": MODELS, "routing": {"model_pool": ["org/large", "gone"]}}
    async with open_door(tmp_path, **settings) as door:
        assert (await row_of(door, await door.key()))["model_pool"] == ["org/large"]
        assert (await row_of(door, await door.key(routing=RoutingDefaults(("s",)))))["model_pool"] == ["small"]
        assert "auto" not in await ids_in(door, None)
        assert (await door.get("/v1/models/auto/health")).json()["status"] == "unavailable"


async def test_long_pools_are_told_by_some_of_their_names(tmp_path: Path) -> None:
    models = [{"id": f"m/{number}", "backend_model": "demo/echo"} for number in range(130)]
    async with open_door(tmp_path, models=models) as door:
        description = (await auto_of(door, None))["description"]
        assert "m/9 and 120 more." in description
        assert "m/10" not in description
        rows = (await door.call("list_models", cursor="m/99")).json()["result"]["structuredContent"]["models"]
        assert rows[-1]["model_pool"] == [f"m/{number}" for number in range(100)]


async def test_where_no_model_generates_text_there_is_none(tmp_path: Path) -> None:
    models = [{"id": "vectors", "task": "embed"}, {"id": "judge", "task": "score"}]
    async with open_door(tmp_path, models=models) as door:
        assert await ids_in(door, None) == ["vectors", "judge"]
        assert (await door.get("/v1/models/auto")).status_code == 404
        assert (await door.get("/v1/models/auto/health")).status_code == 404
