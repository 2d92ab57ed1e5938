"""The openai SDK over a real socket, against captured answers of vLLM: both prefixes, errors as its own classes."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import openai
import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.identity.own_limits import OwnLimits
from tests.captured import captured
from tests.replaying import DONE, ReplayingBackend, chunk, events, in_two, replayed, stream
from tests.serving import FREE, MESSAGES, PRICED, Door, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
TOOLS: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]


@dataclass
class Stage:
    door: Door
    backend: ReplayingBackend
    client: openai.AsyncOpenAI

    async def ask(self, case: str | None = None, **fields: Any) -> Any:
        """Ask through the SDK; the backend answers as captured."""
        self.backend.answer_with(*([replayed(captured(case))] if case else []))
        return await self.client.chat.completions.create(**{"model": "free/tiny", "messages": MESSAGES} | fields)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Door, ReplayingBackend]]:
    async with (
        ReplayingBackend() as backend,
        open_door(tmp_path_factory.mktemp("sdk"), vllm_urls=[backend.url], models=[FREE, PRICED]) as door,
    ):
        yield door, backend


@pytest_asyncio.fixture(loop_scope="module", params=["/v1", "/api/v1/inference"])
async def stage(request: pytest.FixtureRequest, _door: tuple[Door, ReplayingBackend]) -> AsyncIterator[Stage]:
    door, backend = _door
    backend.answer_with()
    async with door.openai(await door.key(), request.param) as client:
        yield Stage(door, backend, client)
    await door.nothing_is_left()


async def test_a_chat_comes_back_as_the_sdk_s_own_object(stage: Stage) -> None:
    answer = await stage.ask("100_chat")
    said = orjson.loads(captured("100_chat").body)
    assert answer.model == "free/tiny"
    assert answer.choices[0].message.content == said["choices"][0]["message"]["content"]
    assert answer.usage.total_tokens == said["usage"]["total_tokens"]


async def test_a_stream_brings_its_chunks_and_no_usage_unasked(stage: Stage) -> None:
    chunks = [piece async for piece in await stage.ask("103_chat_stream_continuous_usage", stream=True)]
    assert {piece.model for piece in chunks} == {"free/tiny"}
    assert all(piece.choices for piece in chunks)
    assert all(piece.usage is None for piece in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"


async def test_a_stream_with_usage_ends_with_one_chunk_that_has_it_and_no_choices(stage: Stage) -> None:
    asked = await stage.ask("103_chat_stream_continuous_usage", stream=True, stream_options={"include_usage": True})
    *chunks, last = [piece async for piece in asked]
    assert last.choices == []
    assert last.usage.completion_tokens == 8
    assert all(piece.usage is None for piece in chunks)


async def test_tool_calls_come_back_and_their_results_go_in(stage: Stage) -> None:
    answer = await stage.ask("203_tools_required_strict", tools=TOOLS, tool_choice="required")
    call = answer.choices[0].message.tool_calls[0]
    assert answer.choices[0].finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    await stage.ask("220_tool_result_roundtrip", messages=[*MESSAGES, answer.choices[0].message, result], tools=TOOLS)
    sent = stage.backend.chats[0].json
    assert sent["messages"][1]["tool_calls"][0]["function"]["name"] == call.function.name
    assert sent["messages"][2] == result
    assert sent["tools"] == TOOLS


async def test_streamed_tool_calls_add_up_to_json(stage: Stage) -> None:
    asked = await stage.ask("203_tools_required_strict_stream", tools=TOOLS, tool_choice="required", stream=True)
    deltas = [piece.choices[0].delta.tool_calls[0] async for piece in asked if piece.choices[0].delta.tool_calls]
    assert deltas[0].function.name
    assert isinstance(orjson.loads("".join(delta.function.arguments or "" for delta in deltas)), dict)


async def test_json_mode_reaches_the_backend_and_json_comes_back(stage: Stage) -> None:
    answer = await stage.ask("161_json_schema", response_format={"type": "json_object"})
    assert stage.backend.chats[0].json["response_format"] == {"type": "json_object"}
    assert isinstance(orjson.loads(answer.choices[0].message.content), dict)


async def test_logprobs_come_back_whole_and_streamed(stage: Stage) -> None:
    answer = await stage.ask("110_logprobs", logprobs=True, top_logprobs=2)
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2
    chunks = [piece async for piece in await stage.ask("111_logprobs_stream", logprobs=True, stream=True)]
    assert any(piece.choices[0].logprobs for piece in chunks)


async def test_two_choices_come_back_whole_and_streamed(stage: Stage) -> None:
    answer = await stage.ask("120_n2", n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    chunks = [piece async for piece in await stage.ask("121_n2_stream", n=2, stream=True)]
    assert {piece.choices[0].index for piece in chunks} == {0, 1}


@pytest.mark.parametrize(
    ("kind", "code", "fields"),
    [
        (openai.BadRequestError, "missing_parameter", {"messages": []}),
        (openai.NotFoundError, "model_not_found", {"model": "free/tny"}),
    ],
)
async def test_refusals_are_the_sdk_s_own_exceptions(
    stage: Stage, kind: type[openai.APIStatusError], code: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(kind) as raised:
        await stage.ask(**fields)
    assert raised.value.code == code


async def test_a_refusal_of_the_backend_is_a_bad_request(stage: Stage) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await stage.ask("152_prompt_too_long")
    assert raised.value.code == "context_length_exceeded"
    assert "2048" in str(raised.value)


async def test_an_unknown_key_is_an_authentication_error(stage: Stage) -> None:
    with pytest.raises(openai.AuthenticationError):
        await stage.client.with_options(api_key="gw_live_wrong").models.list()


async def test_a_deactivated_account_is_a_permission_denied_error(stage: Stage) -> None:
    account_id = await stage.door.account()
    key = await stage.door.key(account_id)
    await (await stage.door.desk()).accounts.change(account_id, is_active=False)
    await stage.door.gateway.known_keys.catch_up()
    with pytest.raises(openai.PermissionDeniedError):
        await stage.client.with_options(api_key=key).models.list()


async def test_a_used_up_limit_is_a_rate_limit_error_that_says_where_limits_are_shown(stage: Stage) -> None:
    key = await stage.door.key(limits=OwnLimits(requests_per_minute=1))
    limited = stage.client.with_options(api_key=key)
    asked: Any = {"model": "free/tiny", "messages": MESSAGES}
    await limited.chat.completions.create(**asked)
    with pytest.raises(openai.RateLimitError) as raised:
        await limited.chat.completions.create(**asked)
    assert raised.value.code == "requests_per_minute"
    assert raised.value.body["limits_url"] == "http://gateway.test/v1/limits"  # type: ignore[index]


async def test_an_empty_wallet_is_an_api_status_error_with_402(stage: Stage) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        await stage.ask(model="priced/tiny")
    assert raised.value.status_code == 402
    assert raised.value.body["balance_usd"] == "0.00"  # type: ignore[index]


async def test_a_stream_that_fails_in_the_middle_raises_an_api_error(stage: Stage) -> None:
    told = b'data: {"error":{"message":"EngineCore","type":"InternalServerError","param":null,"code":500}}\n\n'
    has_begun = asyncio.Event()
    stage.backend.answer_with(in_two([chunk("", 5, 0), chunk("a", 5, 1)], has_begun, [told, DONE]))
    asked: Any = {"model": "free/tiny", "messages": MESSAGES, "stream": True}
    pieces = aiter(await stage.client.chat.completions.create(**asked))
    for _ in range(2):
        assert (await anext(pieces)).model == "free/tiny"
    has_begun.set()
    with pytest.raises(openai.APIError) as raised:
        await anext(pieces)
    assert raised.value.code == "backend_error"


async def test_models_are_listed_and_retrieved_by_ids_with_slashes(stage: Stage) -> None:
    listed = [model.id async for model in stage.client.models.list()]
    assert listed == ["free/tiny", "priced/tiny", "auto"]
    assert (await stage.client.models.retrieve("priced/tiny")).id == "priced/tiny"
    with pytest.raises(openai.NotFoundError):
        await stage.client.models.retrieve("priced/tin")


async def test_a_test_key_gets_the_demo_s_answer_under_the_published_name(stage: Stage) -> None:
    stage.backend.answer_with(events(*stream()))
    client = stage.client.with_options(api_key=await stage.door.key(is_test=True))
    answer = await client.chat.completions.create(model="priced/tiny", messages=MESSAGES)  # type: ignore[arg-type]
    assert answer.model == "priced/tiny"
    assert "demo" in str(answer.choices[0].message.content).lower()
    assert stage.backend.chats == []
