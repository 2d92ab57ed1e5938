"""POST /v1/rerank, /v2/rerank and /v1/score: as vLLM has them, paid by the prompt's tokens alone."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio

from tests.captured import captured
from tests.cases import each
from tests.replaying import ReplayingBackend, replayed, whole
from tests.serving import FREE, Door, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCORED: dict[str, Any] = {
    "id": "score/tiny",
    "backend_model": "tiny",
    "context_window": 2048,
    "task": "score",
    "pricing": {"prompt": "0.0000003"},
}
Stage = tuple[Door, ReplayingBackend]
RERANK: dict[str, Any] = {"model": "score/tiny", "query": "a", "documents": ["b", "c"]}
SCORE: dict[str, Any] = {"model": "score/tiny", "text_1": "a", "text_2": "b"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with (
        ReplayingBackend() as backend,
        open_door(tmp_path_factory.mktemp("scores"), vllm_urls=[backend.url], models=[FREE, SCORED]) as door,
    ):
        yield door, backend
        await door.nothing_is_left()


@each(
    ("path", "body", "case"),
    [
        ("/v1/rerank", RERANK, "973_rerank"),
        ("/v2/rerank", RERANK, "973_rerank"),
        ("/api/v1/inference/rerank", RERANK, "973_rerank"),
        ("/v1/score", SCORE, "972_score"),
    ],
)
async def test_an_answer_is_the_backends_own_and_paid_by_its_prompt(
    stage: Stage, path: str, body: dict[str, Any], case: str
) -> None:
    door, backend = stage
    account_id = await door.account("1")
    backend.answer_with(replayed(captured(case)))
    response = await door.post(orjson.dumps(body), await door.key(account_id), path)
    told = orjson.loads(captured(case).body)
    assert response.json() == told | ({"model": "score/tiny"} if "model" in told else {})
    tokens = told["usage"]["prompt_tokens"]
    assert await door.balance_nano(account_id) == 10**9 - tokens * 300
    record = await door.record(response)
    assert (record["prompt_tokens"], record["completion_tokens"]) == (tokens, 0)


@each(
    ("path", "fields", "code", "param"),
    [
        ("/v1/rerank", {"query": ""}, "missing_parameter", "query"),
        ("/v1/rerank", {"query": 5}, "invalid_type", "query"),
        ("/v1/rerank", {"documents": []}, "missing_parameter", "documents"),
        ("/v1/rerank", {"documents": ["a", {"image_url": "http://10.0.0.1/"}]}, "invalid_type", "documents"),
        ("/v1/rerank", {"documents": ["a"] * 2049}, "invalid_value", "documents"),
        ("/v1/rerank", {"top_n": -1}, "invalid_value", "top_n"),
        ("/v1/score", {"text_1": None}, "missing_parameter", "text_1"),
        ("/v1/score", {"text_1": ["a", "b"], "text_2": ["c", "d", "e"]}, "invalid_value", "text_1"),
    ],
)
async def test_what_cannot_be_asked_is_refused_by_name(
    stage: Stage, path: str, fields: dict[str, Any], code: str, param: str
) -> None:
    door, backend = stage
    backend.answer_with()
    body = (SCORE if path.endswith("score") else RERANK) | fields
    response = await door.post(orjson.dumps(body), await door.key(credit="1"), path)
    assert (response.status_code, error_of(response)["code"], error_of(response)["param"]) == (400, code, param)


async def test_a_query_is_held_for_with_each_document(stage: Stage) -> None:
    door, backend = stage
    body = orjson.dumps(RERANK | {"query": "q" * 50, "documents": ["b"] * 4})
    worst = (len(body) + 50 * 3 + 8 * 4 + 10) * 300  # and the shortest chat, by the backend's count
    enough, less = await door.account(f"0.{worst:09}"), await door.account(f"0.{worst - 1:09}")
    backend.answer_with(whole(captured("973_rerank").body))
    assert (await door.post(body, await door.key(less), "/v1/rerank")).status_code == 402
    assert (await door.post(body, await door.key(enough), "/v1/rerank")).status_code == 200


async def test_the_demo_finds_a_text_most_like_itself(stage: Stage) -> None:
    door, _ = stage
    key = await door.key(is_test=True)
    ranked = (await door.post(orjson.dumps(RERANK | {"documents": ["b", "a"], "top_n": 1}), key, "/v1/rerank")).json()
    assert [row["index"] for row in ranked["results"]] == [1]
    scored = (await door.post(orjson.dumps(SCORE | {"text_2": ["a", "b"]}), key, "/v1/score")).json()
    assert scored["data"][0]["score"] > scored["data"][1]["score"]
