"""What an account pays above the prices of the settings: held, billed, told and recorded, and seen by nobody else."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from mcp_gateway.core.money import format_usd
from tests.cases import each
from tests.replaying import ReplayingBackend
from tests.serving import FREE, PRICED, WORST, Door, open_door
from tests.stage import held_for_one

pytestmark = pytest.mark.asyncio(loop_scope="module")

PRICES, WITH_20 = {"prompt": "0.0000003", "completion": "0.0000007"}, {
    "prompt": "0.00000036", "completion": "0.00000084",
}  # fmt: skip
PLAIN_NANO, WITH_20_NANO = 5800, 6960
"""Of an answer of 10 and 4 tokens."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def vllm() -> AsyncIterator[ReplayingBackend]:
    async with ReplayingBackend() as vllm:
        yield vllm


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory, vllm: ReplayingBackend) -> AsyncIterator[Door]:
    folder = tmp_path_factory.mktemp("margins")
    async with open_door(folder, vllm_urls=[vllm.url], models=[FREE, PRICED], wallet=WORST) as door:
        vllm.note = door.gateway.ledger.held_now
        yield door
        await door.nothing_is_left()


async def with_margin(door: Door, margin: int, credit_nano: int = 10**9) -> tuple[str, str]:
    """A new account that pays so much more, and its key, once the server knows both."""
    account_id = await door.account(format_usd(credit_nano))
    key = await door.key(account_id)
    assert (await door.get("/v1/models", key)).status_code == 200
    await set_margin(door, account_id, margin)
    return account_id, key


async def set_margin(door: Door, account_id: str, margin: int) -> None:
    """As the command line does it, beside the server, which looks for changes then."""
    await (await door.desk()).accounts.change(account_id, margin=margin)
    await door.gateway.known_keys.catch_up()
    assert door.gateway.known_keys.account_limits(account_id).margin == margin


async def prices(door: Door, key: str | None, path: str = "/v1/models/priced/tiny") -> Any:
    return (await door.get(path, key)).json()["pricing"]


async def called(door: Door, key: str, method: str, **params: Any) -> Any:
    return (await door.mcp(method, key, **params)).json()["result"]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_answer_is_billed_with_the_margin_and_its_record_says_so(door: Door, is_stream: bool) -> None:
    account_id, key = await with_margin(door, 2000)
    answer = await door.chat(key, model="priced/tiny", stream=is_stream)
    record = await door.record(answer)
    assert await door.balance_nano(account_id) == 10**9 - WITH_20_NANO
    assert (record["cost_nano"], record["price_version"]) == (WITH_20_NANO, "300000/700000+margin=2000")


async def test_a_hold_is_made_with_the_margin(door: Door, vllm: ReplayingBackend) -> None:
    """An account that has the price of the settings for it alone has too little."""
    fields = {"model": "priced/tiny", "max_tokens": 16}
    _, rich = await with_margin(door, 0)
    assert (await door.chat(rich, **fields)).status_code == 200
    held_nano = held_for_one(vllm)
    poor_id, poor = await with_margin(door, 2000, held_nano)
    assert (await door.chat(poor, **fields)).status_code == 402
    assert await door.balance_nano(poor_id) == held_nano


async def test_each_account_sees_the_prices_that_it_pays_and_everybody_else_those_of_the_settings(door: Door) -> None:
    _, key = await with_margin(door, 2000)
    _, other = await with_margin(door, 1)
    assert await prices(door, key) == WITH_20
    assert await prices(door, other) == {"prompt": "0.00000030003", "completion": "0.00000070007"}
    assert await prices(door, None) == await prices(door, await door.key()) == PRICES
    (row,) = [row for row in (await door.get("/v1/models", key)).json()["data"] if row["id"] == "priced/tiny"]
    assert row["pricing"] == WITH_20
    assert await prices(door, key, "/v1/models/free/tiny") == {"prompt": "0", "completion": "0"}
    documents = (await door.get("/v1/models?format=openrouter", key)).json()["data"]
    (document,) = [document for document in documents if document["id"] == "priced/tiny"]
    assert document["input_modalities"][0]["pricing"][0]["cost_usd"] == WITH_20["prompt"]


@each("path", [
    "/v1/models", "/v1/models?format=openrouter", "/v1/models/priced/tiny", "/api/v1/inference/models", "/v1/limits",
    "/v1/billing", "/v1/billing/transactions", "/v1/billing/statements/2026-01?format=csv", "/v1/credits", "/v1/keys",
    "/v1/usage", "/v1/requests",
])  # fmt: skip
@each("header", ["authorization", "x-api-key", "api-key"])
async def test_no_shared_cache_keeps_what_depends_on_the_caller(door: Door, path: str, header: str) -> None:
    key = await door.key(await door.account("1"))
    sent = {header: f"Bearer {key}" if header == "authorization" else key}
    for answer in (await door.http.get(path, headers=sent), await door.http.head(path, headers=sent)):
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "private")
    for public in ("/health", "/stats", "/v1/models/priced/tiny/health"):
        assert "private" not in (await door.http.get(public, headers=sent)).headers.get("cache-control", "")


async def test_tools_resources_and_prompts_tell_them_too(door: Door) -> None:
    _, key = await with_margin(door, 2000)
    listed = await called(door, key, "tools/call", name="list_models", arguments={})
    (row,) = [row for row in listed["structuredContent"]["models"] if row["id"] == "priced/tiny"]
    assert (row["input_usd_per_million_tokens"], row["output_usd_per_million_tokens"]) == ("0.36", "0.84")
    for uri in ("models://priced/tiny", "models://catalog"):
        assert '"0.36"' in (await called(door, key, "resources/read", uri=uri))["contents"][0]["text"]
    arguments = {"model": "priced/tiny", "prompt_tokens": "10", "completion_tokens": "4"}
    prompt = await called(door, key, "prompts/get", name="estimate_cost", arguments=arguments)
    assert format_usd(WITH_20_NANO) in prompt["messages"][0]["content"]["text"]
    answer = await called(
        door, key, "tools/call", name="chat_completion",
        arguments={"model": "priced/tiny", "messages": [{"role": "user", "content": "hi"}]},
    )  # fmt: skip
    assert answer["structuredContent"]["cost_usd"] == format_usd(WITH_20_NANO)


@each(("most_usd", "is_listed"), [("0.7", False), ("0.83999", False), ("0.84", True), (1, True)])
async def test_models_are_chosen_by_the_prices_that_the_account_pays(
    door: Door, most_usd: str | int, is_listed: bool
) -> None:
    _, key = await with_margin(door, 2000)
    listed = await called(door, key, "tools/call", name="list_models", arguments={"max_price_usd": most_usd})
    ids = [row["id"] for row in listed["structuredContent"]["models"]]
    assert (("priced/tiny" in ids), ("free/tiny" in ids)) == (is_listed, True)


async def test_a_margin_is_changed_and_taken_away_while_the_server_runs(door: Door) -> None:
    account_id, key = await with_margin(door, 2000)
    await set_margin(door, account_id, 0)
    assert await prices(door, key) == PRICES
    assert (await (await door.desk()).accounts.get(account_id)).margin == 0


async def test_prices_of_a_new_catalog_are_seen_with_the_margin(door: Door) -> None:
    _, key = await with_margin(door, 2000)
    assert await prices(door, key) == WITH_20
    door.gateway.published.replace(door.gateway.published.current)
    assert await prices(door, key) == WITH_20
