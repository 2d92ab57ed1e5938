"""Keys that may ask for some models alone: what they are refused, what they are told of, and what they may hand on."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from tests.cases import each
from tests.replaying import ReplayingBackend
from tests.serving import FREE, Door, bearer, error_of, open_door
from tests.stage import CREDIT_NANO, PRICED, Stage, staged
from tests.surfaces import Spoken, answers, every_way

pytestmark = pytest.mark.asyncio(loop_scope="module")
Served = tuple[Door, ReplayingBackend]
PRICED_ID, FREE_ID = PRICED["id"], FREE["id"]
NAMED = PRICED | {"id": "named/model", "aliases": ["nick", "other-nick"]}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("key_models")
    models = [PRICED, FREE, NAMED]
    async with ReplayingBackend() as backend, open_door(folder, vllm_urls=[backend.url], models=models) as door:
        yield door, backend
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module")
async def stage(served: Served) -> Stage:
    return await staged(*served, CREDIT_NANO)


async def key_for(stage: Stage, *models: str) -> str:
    _, raw = await stage.door.gateway.keys.create(stage.account_id, models=models)
    return raw


async def create(stage: Stage, key: str, **fields: Any) -> httpx2.Response:
    return await stage.door.http.post("/v1/keys", json=fields, headers=bearer(key))


async def models_of(stage: Stage, key: str) -> list[str]:
    return [row["id"] for row in (await stage.door.get("/v1/models", key)).json()["data"]]


@pytest.mark.surfaces
@every_way
async def test_another_model_is_none_that_there_is_by_every_surface(
    stage: Stage, spoken: Spoken, is_stream: bool
) -> None:
    other, its = [await key_for(stage, name) for name in (FREE_ID, PRICED_ID)]
    asked_before = len(stage.backend.chats)
    refused = await spoken.ask(stage.door, other, is_stream=is_stream)
    assert spoken.refusal_of(refused) == spoken.word_for("model_not_found")
    assert len(stage.backend.chats) == asked_before
    stage.backend.answer_with(answers(spoken))
    assert (await spoken.ask(stage.door, its, is_stream=is_stream)).status_code == 200


@each("path", ["/v1/messages/count_tokens", "/tokenize", "/v1/models/priced/tiny"])
async def test_nor_is_it_counted_or_told(stage: Stage, path: str) -> None:
    key = await key_for(stage, FREE_ID)
    body = {"model": PRICED_ID, "messages": [{"role": "user", "content": "x"}], "prompt": "x"}
    if path == "/tokenize":
        del body["messages"]
    elif path.endswith("count_tokens"):
        del body["prompt"]
    is_get = path.startswith("/v1/models")
    asked = stage.door.get(path, key) if is_get else stage.door.http.post(path, json=body, headers=bearer(key))
    answer = await asked
    assert answer.status_code == 404, answer.text


async def test_it_is_told_its_models_alone_by_both_doors(stage: Stage) -> None:
    key = await key_for(stage, "nick", FREE_ID, "not/published")
    assert await models_of(stage, key) == [FREE_ID, "named/model", "auto"]
    assert await models_of(stage, stage.key) == [PRICED_ID, FREE_ID, "named/model", "auto"]
    listed = (await stage.door.mcp("tools/call", key, name="list_models", arguments={})).json()["result"]
    assert [row["id"] for row in listed["structuredContent"]["models"]] == [FREE_ID, "named/model", "auto"]
    own = {row["id"]: row["models"] for row in (await stage.door.get("/v1/keys", key)).json()["data"]}
    assert sorted(own.values(), key=str) == [None, [FREE_ID, "nick", "not/published"]]


async def test_a_margin_and_models_go_together(stage: Stage) -> None:
    key = await key_for(stage, PRICED_ID)
    await (await stage.door.desk()).accounts.change(stage.account_id, margin=10_000)
    await stage.door.get("/v1/models", key)
    await stage.door.gateway.known_keys.catch_up()
    row, _ = (await stage.door.get("/v1/models", key)).json()["data"]
    (usual,) = [one for one in (await stage.door.get("/v1/models")).json()["data"] if one["id"] == PRICED_ID]
    assert float(row["pricing"]["prompt"]) == 2 * float(usual["pricing"]["prompt"])


async def test_a_key_hands_on_its_models_or_fewer(stage: Stage) -> None:
    maker = await key_for(stage, FREE_ID, "nick")
    same = (await create(stage, maker)).json()
    assert same["models"] == [FREE_ID, "nick"]
    fewer = (await create(stage, maker, models=["other-nick", "named/model"])).json()
    assert fewer["models"] == ["named/model"]
    assert await models_of(stage, fewer["key"]) == ["named/model", "auto"]
    for key, name in ((maker, PRICED_ID), (fewer["key"], FREE_ID), (fewer["key"], "nobody/x"), (stage.key, "nobody/x")):
        refused = error_of(await create(stage, key, models=[name]))
        assert (refused["code"], refused["param"]) == ("model_not_found", "models")
    assert (await create(stage, stage.key, models=[PRICED_ID])).json()["models"] == [PRICED_ID]


@each("models", [[], [5], "x", {}, ["x" * 1001], [FREE_ID] * 101, [None]])
async def test_what_is_no_list_of_models_makes_no_key(stage: Stage, models: Any) -> None:
    refused = error_of(await create(stage, stage.key, models=models))
    assert refused["code"] == "invalid_type"
    assert refused["param"].startswith("models")
    assert len((await stage.door.get("/v1/keys", stage.key)).json()["data"]) == 1
