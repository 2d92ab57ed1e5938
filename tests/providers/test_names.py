"""How a caller names a provider: before the model's name, in the query, and what lists tell of it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.providers.doubles import Double, Generic, serving
from tests.providers.test_candidates import CHEAP, DEAR
from tests.providers.test_contract import ENVIRON, PRICES
from tests.serving import MESSAGES, Door, chat_body, error_of, open_door

pytestmark = pytest.mark.providers
MODELS: list[dict[str, Any]] = [
    {
        "id": "sold/chat",
        "aliases": ["short"],
        "pricing": PRICES,
        "context_window": 8000,
        "candidates": [
            {"provider": "openai", "backend_model": "gpt-x", "pricing": DEAR},
            {"provider": "groq", "backend_model": "openai/gpt-oss", "pricing": CHEAP},
        ],
    },
    {"id": "openai/gpt-oss", "provider": "groq", "backend_model": "exact", "pricing": PRICES, "context_window": 8000},
    {"id": "own/echo", "backend_model": "demo/echo", "free": True},
]


@asynccontextmanager
async def selling(data_dir: Path) -> AsyncIterator[tuple[Door, dict[str, Double], str]]:
    async with AsyncExitStack() as stack:
        doubles = {name: await stack.enter_async_context(serving(Generic())) for name in ("openai", "groq")}
        providers = [double.settings(name) for name, double in doubles.items()]
        door = await stack.enter_async_context(open_door(data_dir, environ=ENVIRON, providers=providers, models=MODELS))
        yield door, doubles, await door.key(credit="10")


def asked(doubles: dict[str, Double]) -> list[tuple[str, str]]:
    """Whom, and by which name, since the last look."""
    found = [(name, one.body["model"]) for name, double in doubles.items() for one in double.asked]
    for double in doubles.values():
        double.asked.clear()
    return found


@pytest.mark.parametrize(
    ("model", "query", "expected"),
    [
        ("sold/chat", "", ("openai", "gpt-x")),
        ("openai/gpt-x", "", ("openai", "gpt-x")),
        ("groq/openai/gpt-oss", "", ("groq", "openai/gpt-oss")),
        ("openai/gpt-oss", "", ("groq", "exact")),  # an exact id before a provider's name
        ("groq/sold/chat", "", ("groq", "openai/gpt-oss")),
        ("groq/short", "", ("groq", "openai/gpt-oss")),
        ("sold/chat", "?provider=groq", ("groq", "openai/gpt-oss")),
        ("short", "?provider=groq", ("groq", "openai/gpt-oss")),
        ("openai/gpt-oss", "?provider=groq", ("groq", "openai/gpt-oss")),
        ("exact", "?provider=groq", ("groq", "exact")),
        ("gpt-x", "?provider=openai&beta=true", ("openai", "gpt-x")),
    ],
)
async def test_a_name_is_resolved_in_one_order(
    model: str, query: str, expected: tuple[str, str], tmp_path: Path
) -> None:
    async with selling(tmp_path) as (door, doubles, key):
        body = orjson.dumps(chat_body(model=model))
        response = await door.post(body, key, f"/v1/chat/completions{query}")
        assert response.status_code == 200, response.text
        assert response.json()["model"] == model
        assert asked(doubles) == [expected]


@pytest.mark.parametrize(
    ("model", "query", "code"),
    [
        ("gpt-x", "", "model_not_found"),
        ("nobody/gpt-x", "", "model_not_found"),
        ("openai/", "", "model_not_found"),
        ("vllm/own/echo", "", "model_not_found"),
        ("own/echo", "?provider=openai", "model_not_found"),
        ("sold/chat", "?provider=vllm", "model_not_found"),
    ],
)
async def test_what_nobody_sells_is_not_found(model: str, query: str, code: str, tmp_path: Path) -> None:
    async with selling(tmp_path) as (door, doubles, key):
        response = await door.post(orjson.dumps(chat_body(model=model)), key, f"/v1/chat/completions{query}")
        assert (response.status_code, error_of(response)["code"]) == (404, code)
        assert asked(doubles) == []


@pytest.mark.parametrize("name", ["grok", "demo", "openai,groq"])
async def test_an_unknown_provider_is_refused_with_those_that_there_are(name: str, tmp_path: Path) -> None:
    async with selling(tmp_path) as (door, _, key):
        body = orjson.dumps(chat_body(model="sold/chat"))
        for response in (
            await door.post(body, key, f"/v1/chat/completions?provider={name}"),
            await door.get(f"/v1/models?provider={name}", key),
        ):
            assert response.status_code == 400
            assert error_of(response)["param"] == "provider"
            assert "vllm, openai, groq" in error_of(response)["message"]


async def test_a_provider_costs_its_own_price(tmp_path: Path) -> None:
    async with selling(tmp_path) as (door, _, key):
        response = await door.chat(key, model="groq/openai/gpt-oss")
        record = await door.record(response)
        assert (record["model"], record["backend"]) == ("sold/chat", "groq")
        assert record["cost_nano"] == -(-(35 * 100_000 + 12 * 200_000) // 1000)


async def test_a_list_tells_who_serves_and_what_it_costs_at_most_and_at_least(tmp_path: Path) -> None:
    async with selling(tmp_path) as (door, _, key):
        everything = (await door.get("/v1/models", key)).json()
        assert "provider" not in everything
        told = {model["id"]: model for model in everything["data"]}
        assert [told[name]["served_by"] for name in ("sold/chat", "openai/gpt-oss", "own/echo")] == [
            "openai",
            "groq",
            "vllm",
        ]
        listed = (await door.call("list_models", key)).json()["result"]["structuredContent"]["models"]
        assert {row["id"]: row.get("served_by") for row in listed} == {
            name: model.get("served_by") for name, model in told.items()
        }
        assert told["sold/chat"]["pricing"] == DEAR
        assert told["sold/chat"]["pricing_from"] == CHEAP
        assert "pricing_from" not in told["openai/gpt-oss"]
        groq = (await door.get("/v1/models?provider=groq", key)).json()
        assert groq["provider"] == "groq"
        assert [(model["id"], model["served_by"]) for model in groq["data"]] == [
            ("sold/chat", "groq"),
            ("openai/gpt-oss", "groq"),
        ]
        assert groq["data"][0]["pricing"] == CHEAP


async def test_a_key_for_some_models_alone_asks_for_no_other_by_a_providers_name(tmp_path: Path) -> None:
    async with selling(tmp_path) as (door, doubles, _):
        key = await door.key(credit="1", models=("openai/gpt-oss",))
        body = {"messages": MESSAGES}
        for name in ("sold/chat", "openai/gpt-x", "groq/sold/chat"):
            assert (await door.post(orjson.dumps(body | {"model": name}), key)).status_code == 404
        assert (await door.chat(key, model="groq/exact")).status_code == 200
        assert asked(doubles) == [("groq", "exact")]
