"""Further names of a model: asked by any of them it answers under that one, and is recorded under its own."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio

from tests.captured import captured
from tests.cases import each
from tests.core.surfaces.test_message_events import told
from tests.replaying import ReplayingBackend, contents, death, events, replayed, stream, unary
from tests.serving import PRICED, Door, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = ["priced/tiny", "claude-tiny", "gpt-4o-mini"]
VERSION = {"anthropic_version": "2023-06-01"}
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
ANSWERS: dict[tuple[str, bool], Any] = {
    (CHAT, False): unary(),
    (CHAT, True): events(*stream()),
    (MESSAGES, False): replayed(captured("540_messages")),
    (MESSAGES, True): replayed(captured("541_messages_stream")),
}
Served = tuple[Door, ReplayingBackend]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    models = [PRICED | {"aliases": NAMES[1:], "name": "Tiny"}]
    async with (
        ReplayingBackend() as backend,
        open_door(tmp_path_factory.mktemp("aliases"), vllm_urls=[backend.url], models=models) as door,
    ):
        yield door, backend
        await door.nothing_is_left()


def body_of(name: str, **fields: Any) -> bytes:
    asked = {"model": name, "max_tokens": 6, "messages": [{"role": "user", "content": "hello"}]}
    return orjson.dumps(asked | fields)


@each(("path", "is_stream"), list(ANSWERS))
@pytest.mark.parametrize("name", NAMES)
async def test_an_answer_bears_the_name_that_was_asked_for(
    served: Served, name: str, path: str, is_stream: bool
) -> None:
    door, backend = served
    backend.answer_with(ANSWERS[path, is_stream])
    response = await door.post(body_of(name, stream=is_stream), await door.key(credit="0.1"), path)
    found = (
        [response.json()] if not is_stream else contents([response.content]) if path == CHAT else told(response.content)
    )
    assert found[0].get("message", found[0])["model"] == name
    assert backend.chats[0].json["model"] == "tiny"
    record = await door.record(response)
    assert record["model"] == "priced/tiny"
    assert record["cost_nano"] > 0


async def test_a_stream_that_breaks_off_ends_under_that_name(served: Served) -> None:
    door, backend = served
    backend.answer_with(events(*stream()[:2]))
    response = await door.post(body_of("gpt-4o-mini", stream=True), await door.key(credit="0.1"))
    assert {frame["model"] for frame in contents([response.content])} == {"gpt-4o-mini"}


async def test_a_failure_names_what_was_asked_for(served: Served) -> None:
    door, backend = served
    backend.answer_with(replayed(captured("300_unknown_model")))
    response = await door.post(body_of("gpt-4o-mini"), await door.key(credit="0.1"))
    assert "gpt-4o-mini" in error_of(response)["message"]
    await door.gateway.pool.discover()
    backend.answer_with(death, death)
    await door.post(body_of("gpt-4o-mini"), await door.key(credit="0.1"))


async def test_prompts_are_counted_by_an_alias(served: Served) -> None:
    response = await served[0].post(body_of("claude-tiny"), await served[0].key(), f"{MESSAGES}/count_tokens")
    assert response.json() == {"input_tokens": 10}


async def test_openai_s_list_has_each_model_once_and_an_alias_tells_of_it(served: Served) -> None:
    door, _ = served
    assert [row["id"] for row in (await door.get("/v1/models")).json()["data"]] == ["priced/tiny"]
    assert (await door.get("/v1/models/gpt-4o-mini")).json()["id"] == "priced/tiny"
    assert (await door.get("/v1/models/gpt-4o-mini/health")).json() == {"model": "priced/tiny", "status": "ready"}


@each("query", ["", "?limit=1000", "?limit=1&beta=true"])
async def test_anthropic_s_list_has_every_name(served: Served, query: str) -> None:
    response = await served[0].get(f"/v1/models{query}", **VERSION)
    listed = response.json()
    assert [row["id"] for row in listed["data"]] == NAMES
    assert {row["display_name"] for row in listed["data"]} == {"Tiny"}
    assert {row["type"] for row in listed["data"]} == {"model"}
    assert (listed["has_more"], listed["first_id"], listed["last_id"]) == (False, NAMES[0], NAMES[-1])
    assert response.headers["request-id"]


async def test_one_model_is_told_in_anthropic_s_shape_and_refused_in_it(served: Served) -> None:
    door, _ = served
    row = (await door.get("/v1/models/claude-tiny", **VERSION)).json()
    assert (row["id"], row["max_input_tokens"]) == ("claude-tiny", 2048)
    assert row["created_at"].endswith("Z")
    refused = await door.get("/v1/models/claude-none", **VERSION)
    assert (refused.status_code, refused.json()["error"]["type"]) == (404, "not_found_error")
