"""`models` and `provider` in a request of every surface: the next model is asked with the same request, as it came."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from tests.cases import each
from tests.doors.test_http_pool import TIMEOUT_S, fleet
from tests.loop_clock import pass_time
from tests.patience import settled
from tests.replaying import Asked, ReplayingBackend, silence, whole
from tests.serving import error_of, open_door
from tests.stage import PRICED, Stage, staged
from tests.surfaces import MODEL, SPOKEN, Spoken, answers, every_way

pytestmark = pytest.mark.asyncio(loop_scope="module")
NEXT = PRICED | {"id": "next/tiny"}
REFUSED = whole(b'{"error":{"message":"I do not like it.","type":"BadRequestError","code":400}}', 400)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    folder = tmp_path_factory.mktemp("routed")
    async with ReplayingBackend() as backend, open_door(folder, vllm_urls=[backend.url], models=[PRICED, NEXT]) as door:
        yield await staged(door, backend)


@pytest_asyncio.fixture(loop_scope="module")
async def stage(_stage: Stage) -> AsyncIterator[Stage]:
    _stage.backend.answer_with()
    yield await _stage.credited(10**9)
    await _stage.door.nothing_is_left()


def sent(stage: Stage, spoken: Spoken) -> list[Any]:
    return [asked.json for asked in stage.backend.asked_at(spoken.upstream)]


@every_way
async def test_the_next_model_is_asked_the_same(spoken: Spoken, is_stream: bool, stage: Stage) -> None:
    stage.backend.answer_with(REFUSED, answers(spoken))
    fields: dict[str, Any] = {"models": [NEXT["id"]], "provider": {"sort": "price"}, "is_stream": is_stream}
    response = await stage.ask(spoken, **fields)
    assert response.status_code == 200, response.text
    first, second = sent(stage, spoken)
    assert first == second
    assert not {"models", "provider"} & first.keys()
    usage, _ = spoken.told(response, is_stream=is_stream)
    assert usage is not None
    (record,) = await stage.records()
    assert (record["model"], record["http_status"]) == (NEXT["id"], 200)
    assert "x-ignored-parameters" not in response.headers


@every_way
async def test_auto_is_chosen_for_each_surface_that_has_turns(spoken: Spoken, is_stream: bool, stage: Stage) -> None:
    """By whichever way it is asked, the next is asked the same, and the answer bears the name of who gave it."""
    stage.backend.answer_with(REFUSED, answers(spoken))
    fields: dict[str, Any] = {"model": "auto", "routing": {"optimize": "quality"}, "is_stream": is_stream}
    response = await stage.ask(spoken, **fields)
    if not spoken.surface.is_conversation:
        assert "`auto` is for chats, messages and responses" in response.text
        return
    assert response.status_code == 200, response.text
    first, second = sent(stage, spoken)
    assert first == second
    assert not {"routing", "models"} & first.keys()
    (record,) = await stage.records()
    assert record["model"] in (MODEL, NEXT["id"])
    assert record["model"] in response.text


@every_way
async def test_the_next_model_is_held_for_anew_where_money_is_tight(
    spoken: Spoken, is_stream: bool, stage: Stage
) -> None:
    """A hold that grows with an answer is its own model's."""
    poor = await stage.credited(300_000)
    stage.backend.answer_with(REFUSED, answers(spoken))
    response = await poor.ask(spoken, models=[NEXT["id"]], is_stream=is_stream)
    assert response.status_code == 200, response.text
    (record,) = await poor.records()
    assert record["model"] == NEXT["id"]
    await poor.is_left_with(300_000 - record["cost_nano"])


@every_way
async def test_the_field_that_leaves_nobody_is_named(spoken: Spoken, is_stream: bool, stage: Stage) -> None:
    response = await stage.ask(spoken, provider={"only": ["nobody"]}, is_stream=is_stream)
    assert "`provider.only` leaves nobody of those who serve" in response.text
    assert sent(stage, spoken) == []


@each(("path", "field"), [("/v1/completions", "prompt"), ("/v1/embeddings", "input")])
@each("ids", [[1, 2, 3], [[7] * 300, [8]]])
async def test_token_ids_are_sent_to_the_next_model_too(path: str, field: str, ids: list[Any], stage: Stage) -> None:
    (spoken,) = (one for one in SPOKEN if one.path == path)
    answer = answers(spoken)

    async def told(asked: Asked) -> None:
        await (REFUSED if len(sent(stage, spoken)) == 1 else answer)(asked)

    stage.backend.answer_with()
    stage.backend.standing = told
    response = await stage.door.post(
        orjson.dumps({"model": MODEL, "models": [NEXT["id"]], field: ids, "max_tokens": 5}), stage.key, path
    )
    stage.backend.standing = None
    assert [one[field] for one in sent(stage, spoken)] == [ids, ids], response.text


async def test_a_field_usage_asks_other_surfaces_for_nothing(stage: Stage) -> None:
    for spoken in SPOKEN:
        if spoken.name in ("chat", "completions") or not spoken.path.startswith("/v1/") or "mcp" in spoken.path:
            continue
        stage.backend.answer_with(answers(spoken))
        response = await stage.ask(spoken, usage={"include": True})
        assert response.status_code == 200, response.text
        assert '"cost"' not in response.text
        assert response.headers["x-ignored-parameters"] == "usage"


async def test_a_completion_tells_its_cost_as_a_number(stage: Stage) -> None:
    (spoken,) = (one for one in SPOKEN if one.name == "completions")
    stage.backend.answer_with(answers(spoken))
    told = (await stage.ask(spoken, usage={"include": True})).json()["usage"]
    assert told["cost"] == float(told["cost_usd"]) > 0
    refused = await stage.ask(spoken, usage=[])
    assert error_of(refused)["param"] == "usage"


async def test_what_is_slow_to_be_computed_is_computed_once_more_at_most(tmp_path: Path) -> None:
    models = [
        PRICED | {"id": f"slow/{number}", "pricing": {"prompt": f"0.00000{number}", "completion": "0"}}
        for number in (1, 2, 3, 4)
    ]
    upstream = {"queue_comment_s": 0, "first_token_timeout_s": TIMEOUT_S, "first_token_max_s": TIMEOUT_S}
    async with fleet(tmp_path, 2, upstream=upstream, models=models) as it:
        for server in it.servers:
            server.standing = silence
        it.door.http.timeout = httpx2.Timeout(None)  # it would run out with the time that is passed
        key = await it.door.key(credit="1000")
        chat = asyncio.create_task(it.door.chat(key, models=[model["id"] for model in models], model=None, stream=True))
        while not chat.done():
            it.clock.now_s += TIMEOUT_S
            pass_time(TIMEOUT_S)
            await settled()
        assert (await chat).status_code in (502, 503)
        assert sum(it.asked) <= 2
