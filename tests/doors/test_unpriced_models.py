"""A model without a price, once another has one: it is nowhere to be found, and the operator is told."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.replaying import ReplayingBackend
from tests.serving import FREE, PRICED, Door, error_of, open_door

pytestmark = pytest.mark.gateways
UNPRICED = {"id": "forgotten/tiny", "backend_model": "tiny"}


@pytest.fixture
async def finding() -> AsyncIterator[ReplayingBackend]:
    async with ReplayingBackend("tiny", "org/found") as finding:
        yield finding


async def reasons_of(door: Door) -> list[str]:
    told = (await door.health()).json()
    assert told["status"] == ("degraded" if told["reasons"] else "ok")
    return [reason for reason in told["reasons"] if "not published" in reason]


async def listed_in(door: Door) -> list[str]:
    return [row["id"] for row in (await door.get("/v1/models")).json()["data"]]


@pytest.mark.parametrize("rights", [{}, {"is_test": True}, None])
async def test_one_without_a_price_is_not_served_to_anybody_beside_one_that_has_one(
    tmp_path: Path, finding: ReplayingBackend, rights: dict[str, Any] | None
) -> None:
    async with open_door(tmp_path, vllm_urls=[finding.url], models=[UNPRICED, FREE, PRICED]) as door:
        key = None if rights is None else await door.key(credit="1", **rights)
        assert await listed_in(door) == [FREE["id"], PRICED["id"], "auto"]
        for stream in (False, True):
            refused = await door.chat(key, model=UNPRICED["id"], stream=stream)
            assert (refused.status_code, error_of(refused)["code"]) == (404, "model_not_found")
        assert UNPRICED["id"] not in error_of(refused)["message"].partition("Did you mean")[2]
        assert (await door.get(f"/v1/models/{UNPRICED['id']}/health")).status_code == 404
        assert (await door.chat(key, model=FREE["id"])).status_code == 200
        assert not [chat for chat in finding.chats if chat.json["model"] != "tiny"]
        await door.nothing_is_left()


@pytest.mark.parametrize(
    ("models", "settings", "unpriced"),
    [
        ([UNPRICED, PRICED], {}, ["forgotten/tiny"]),
        ([UNPRICED, {"id": "zero", "pricing": {"prompt": "0", "completion": "0"}}], {}, ["forgotten/tiny"]),
        ([UNPRICED | {"guests": True}, PRICED], {}, ["forgotten/tiny"]),
        ([PRICED], {"publish_discovered": True}, ["org/found"]),
        ([PRICED], {}, []),
        ([PRICED, FREE], {}, []),
        ([UNPRICED, FREE], {}, []),
        ([UNPRICED], {"publish_discovered": True}, []),
        ([], {}, []),
    ],
)
async def test_start_and_health_list_what_is_not_published_for_want_of_a_price(
    tmp_path: Path,
    finding: ReplayingBackend,
    caplog: pytest.LogCaptureFixture,
    models: list[dict[str, Any]],
    settings: dict[str, Any],
    unpriced: list[str],
) -> None:
    async with open_door(tmp_path, vllm_urls=[finding.url], models=models, **settings) as door:
        lines = [line.partition("): ")[2] for line in caplog.messages if "models not published" in line]
        assert lines == ([", ".join(unpriced)] if unpriced else [])
        assert await reasons_of(door) == [
            f"the model {name} is not published: it has neither a price nor free = true" for name in unpriced
        ]
        assert not set(unpriced) & set(await listed_in(door))
        assert "not published" not in (await door.get("/health")).text  # to others than the operator
        assert "not published" not in (await door.get("/stats")).text


async def test_a_model_that_a_backend_begins_to_list_is_not_published_either(
    tmp_path: Path, finding: ReplayingBackend, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"models": [PRICED], "publish_discovered": True}
    async with open_door(tmp_path, vllm_urls=[finding.url], **settings) as door:
        finding.models = ("tiny", "org/found", "org/later")
        await door.gateway.pool.discover()
        assert await listed_in(door) == [PRICED["id"]]
        assert caplog.messages[-1].endswith("(2): org/found, org/later")
        finding.models = ("tiny",)
        await door.gateway.pool.discover()
        assert await reasons_of(door) == []


async def test_the_demo_is_served_beside_a_priced_model(tmp_path: Path) -> None:
    async with open_door(tmp_path, models=[PRICED, {"id": "mine/echo", "backend_model": "demo/echo"}]) as door:
        assert await listed_in(door) == [PRICED["id"], "mine/echo", "auto"]
        assert (await door.chat(model="mine/echo")).status_code == 200
        assert await reasons_of(door) == []


async def test_prices_are_logged_for_a_million_tokens_at_start(
    tmp_path: Path, finding: ReplayingBackend, caplog: pytest.LogCaptureFixture
) -> None:
    million = {"id": "dear", "pricing": {"per_million": True, "prompt": "2.50", "completion": "10"}}
    with caplog.at_level("INFO"):
        async with open_door(tmp_path, vllm_urls=[finding.url], models=[PRICED, FREE, million]):
            assert [line for line in caplog.messages if " costs " in line] == [
                "priced/tiny costs 0.3 USD for a million prompt tokens, 0.7 USD for a million completion tokens",
                "free/tiny costs nothing",
                "dear costs 2.5 USD for a million prompt tokens, 10 USD for a million completion tokens",
            ]


async def test_a_price_for_a_million_tokens_is_billed_and_listed_for_one(
    tmp_path: Path, finding: ReplayingBackend
) -> None:
    price = {"per_million": True, "prompt": "0.3", "completion": "0.7"}
    async with open_door(
        tmp_path, vllm_urls=[finding.url], models=[PRICED, PRICED | {"id": "b", "pricing": price}]
    ) as door:
        key = await door.key(credit="1")
        one, other = [await door.chat(key, model=name, max_tokens=16) for name in (PRICED["id"], "b")]
        assert one.headers["x-cost-usd"] == other.headers["x-cost-usd"] != "0.00"
        rows = (await door.get("/v1/models")).json()["data"]
        assert rows[0]["pricing"] == rows[1]["pricing"] == PRICED["pricing"]
