"""How much output a backend is asked for, where the caller names no limit, and where prompt and limit do not fit."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio

from tests.replaying import Answer, Asked, ReplayingBackend, unary, whole
from tests.serving import FREE, PRICED, WORST, Door, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

WINDOW = 2048
CAPPED = FREE | {"id": "capped/tiny", "max_output_tokens": 2000}
NARROW = FREE | {"id": "narrow/tiny", "context_window": 1000}
Stage = tuple[Door, ReplayingBackend, str]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with (
        ReplayingBackend(max_model_len=WINDOW) as backend,
        open_door(
            tmp_path_factory.mktemp("limits"),
            vllm_urls=[backend.url],
            models=[FREE, PRICED, CAPPED, NARROW],
            wallet=WORST,
        ) as door,
    ):
        yield door, backend, await door.key(credit="5")
        await door.nothing_is_left()


def as_before_0_32(told: str, prompt_tokens: int = 300) -> Answer:
    """A server that refuses what does not fit its window, in one of the words that vLLM has had for it."""

    async def answer(asked: Asked) -> None:
        limit = asked.json.get("max_completion_tokens") or asked.json.get("max_tokens") or 0
        if prompt_tokens + limit <= WINDOW:
            return await unary()(asked)
        message = told.format(asked=limit, window=WINDOW, prompt=prompt_tokens, least=WINDOW - limit + 1)
        error = {"message": message, "type": "BadRequestError", "param": None, "code": 400}
        return await whole(orjson.dumps({"error": error}), 400)(asked)

    return answer


WORDS = [
    "This model's maximum context length is {window} tokens. However, you requested {asked} tokens ({prompt} in the "
    "messages, {asked} in the completion). Please reduce the length of the messages or completion.",
    "'max_tokens' or 'max_completion_tokens' is too large: {asked}. This model's maximum context length is {window} "
    "tokens and your request has {prompt} input tokens ({asked} > {window} - {prompt}).",
    "This model's maximum context length is {window} tokens. However, you requested {asked} output tokens and your "
    "prompt contains at least {least} input tokens, for a total of at least 2049 tokens.",
    "This model's maximum context length is {window} tokens. However, you requested {asked} output tokens and your "
    "prompt contains 5 characters (more than 0 characters, which is the upper bound for 0 input tokens).",
]


async def limits_sent(stage: Stage, *answers: Answer, key: str | None = None, **fields: Any) -> tuple[Any, list[Any]]:
    """The answer, and the limit of each chat that the backend was sent."""
    door, backend, rich = stage
    backend.answer_with(*answers)
    response = await door.chat(key or rich, **fields)
    sent = [asked.json for asked in backend.chats]
    return response, [body.get("max_completion_tokens", body.get("max_tokens")) for body in sent]


@pytest.mark.parametrize("fields", [{}, {"max_tokens": None}, {"max_completion_tokens": None, "stream": False}])
@pytest.mark.parametrize("model", [FREE["id"], PRICED["id"]])
async def test_nothing_is_added_where_nothing_needs_it(stage: Stage, model: str, fields: dict[str, Any]) -> None:
    response, sent = await limits_sent(stage, as_before_0_32(WORDS[0]), model=model, **fields)
    assert (response.status_code, sent) == (200, [None])
    assert "x-max-tokens-clamped" not in response.headers


async def test_a_model_s_limit_is_sent_as_far_as_the_prompt_leaves_room_for_it(stage: Stage) -> None:
    _, backend, _ = stage
    backend.prompt_tokens = 300
    _, sent = await limits_sent(stage, as_before_0_32(WORDS[0]), model="capped/tiny")
    assert sent == [WINDOW - 300]
    backend.prompt_tokens = None
    _, sent = await limits_sent(stage, unary(), model="capped/tiny")
    assert sent == [2000]


async def test_a_window_below_the_backend_s_is_a_limit(stage: Stage) -> None:
    _, backend, _ = stage
    backend.prompt_tokens = 300
    response, sent = await limits_sent(stage, unary(), model="narrow/tiny")
    assert (response.status_code, sent) == (200, [700])


async def test_a_guest_s_and_a_wallet_s_limit_are_sent(stage: Stage) -> None:
    door, backend, _ = stage
    backend.answer_with(unary())
    assert (await door.chat(model=FREE["id"])).status_code == 200
    assert backend.chats[0].json["max_tokens"] == 256
    poor = await door.key(credit="0.0003")
    response, (limit,) = await limits_sent(stage, unary(), model=PRICED["id"], key=poor)
    assert 16 <= limit < WINDOW
    assert response.headers["x-max-tokens-clamped"] == str(limit)


@pytest.mark.parametrize("told", WORDS)
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_a_limit_that_stands_for_the_window_is_left_out_when_it_is_refused(
    stage: Stage, told: str, field: str
) -> None:
    refusing = as_before_0_32(told)
    limit: dict[str, Any] = {field: 10**9}
    response, sent = await limits_sent(stage, refusing, refusing, **limit)
    assert (response.status_code, sent) == (200, [WINDOW, None])


@pytest.mark.parametrize("told", WORDS)
async def test_a_limit_that_caps_is_lowered_to_what_the_refusal_leaves(stage: Stage, told: str) -> None:
    _, backend, _ = stage
    backend.prompt_tokens = 300
    refusing = as_before_0_32(told)
    response, sent = await limits_sent(stage, refusing, refusing, model=PRICED["id"], max_tokens=1900)
    assert (response.status_code, sent) == (200, [1900, WINDOW - 300])
    assert response.headers["x-max-tokens-clamped"] == str(WINDOW - 300)


async def test_what_does_not_fit_after_all_is_refused_after_one_repetition(stage: Stage) -> None:
    never = as_before_0_32(WORDS[0], prompt_tokens=5000)
    response, sent = await limits_sent(stage, never, never, never, max_tokens=1900)
    assert (error_of(response)["code"], sent) == ("context_length_exceeded", [1900])
    response, sent = await limits_sent(stage, never, never, never, max_tokens=10**6)
    assert (error_of(response)["code"], sent) == ("context_length_exceeded", [WINDOW, None])
