"""Whatever a provider does on the wire, callers see OpenAI's API, the books its bill, and nobody its account."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from tests.logged import everything_logged, lines_logged
from tests.providers.doubles import ACCOUNT, CACHED, KEY, TEXT, Double, Generic, Refusal, serving
from tests.providers.kinds import KINDS, sweep
from tests.serving import Door, error_of, open_door

each_kind = sweep("manner", [kind() for kind in KINDS], ids=lambda manner: type(manner).__name__)
PRICES = {"prompt": "0.0000005", "completion": "0.0000015"}
MODEL: dict[str, Any] = {"id": "sold/model", "backend_model": "m-1", "context_window": 8000, "pricing": PRICES}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
ENVIRON = {"DOUBLE_KEY": KEY}
OF_THE_OPERATOR = (
    ACCOUNT,
    KEY,
    "chatcmpl-upstream",
    "chatcmpl-998",
    "deepseek-v4-flash",
    "req_01jbd",
    "req_011C",
    "acc-77",
    "platform.openai.com",
)


@asynccontextmanager
async def door_to(manner: Generic, data_dir: Path, **model: Any) -> AsyncIterator[tuple[Door, Double, str]]:
    """A gateway that sells a model of this provider, the provider, and a key with money."""
    async with serving(manner) as double:
        sold = MODEL | {"provider": manner.kind} | model
        settings: dict[str, Any] = {"providers": [double.settings()], "models": [sold]}
        async with open_door(data_dir, environ=ENVIRON, **settings) as door:
            yield door, double, await door.key(credit="10")
            await door.nothing_is_left()


def chunks_of(stream: bytes) -> list[dict[str, Any]]:
    frames = [frame.removeprefix(b"data: ") for frame in stream.split(b"\n\n") if frame.startswith(b"data: ")]
    assert frames[-1] == b"[DONE]"
    assert frames.count(b"[DONE]") == 1
    return [orjson.loads(frame) for frame in frames[:-1]]


def cost_of(manner: Generic) -> int:
    prompt, output = manner.billed
    return -(-(prompt * 500_000 + output * 1_500_000) // 1000)


def tells_nothing_of_the_operator(response: httpx2.Response) -> None:
    told = response.text + str(response.headers)
    assert [name for name in OF_THE_OPERATOR if name in told] == []


def received_nothing_of_the_caller(double: Double, key: str) -> None:
    for asked in double.asked:
        assert asked.headers.keys() <= {
            "host", "content-type", "content-length", "authorization", "x-api-key", "anthropic-beta",
            "anthropic-version",
        }  # fmt: skip
        assert key not in str(asked)


@each_kind
class TestChats:
    async def test_an_answer_in_one_piece_has_openais_shape_and_the_providers_bill(
        self, manner: Generic, tmp_path: Path
    ) -> None:
        async with door_to(manner, tmp_path) as (door, double, key):
            with everything_logged() as lines:
                response = await door.chat(key, model="sold/model", max_tokens=100)
            assert response.status_code == 200, response.text
            assert not any(name in line for name in OF_THE_OPERATOR for line in lines)
            answer = response.json()
            (choice,) = answer["choices"]
            assert (answer["model"], choice["finish_reason"]) == ("sold/model", "stop")
            assert choice["message"]["content"] == "".join(TEXT)
            assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == manner.billed
            record = await door.record(response)
            assert (record["cost_nano"], record["backend"]) == (cost_of(manner), manner.kind)
            assert answer["id"] == f"chatcmpl-{record['id']}"
            received_nothing_of_the_caller(double, key)
            tells_nothing_of_the_operator(response)

    @pytest.mark.parametrize("wants_usage", [True, False])
    async def test_a_stream_has_one_finish_one_end_and_a_usage_where_it_was_asked_for(
        self, manner: Generic, wants_usage: bool, tmp_path: Path
    ) -> None:
        async with door_to(manner, tmp_path) as (door, double, key):
            options = {"stream_options": {"include_usage": True}} if wants_usage else {}
            response = await door.chat(key, model="sold/model", stream=True, max_completion_tokens=100, **options)
            chunks = chunks_of(response.content)
            choices = [choice for chunk in chunks for choice in chunk["choices"]]
            text = "".join(choice["delta"].get("content") or "" for choice in choices)
            assert text.replace("7", "") == "".join(TEXT)
            assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
            assert choices[-1]["finish_reason"] == "stop"
            assert {chunk["model"] for chunk in chunks} == {"sold/model"}
            told = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
            assert [(one["prompt_tokens"], one["completion_tokens"]) for one in told] == [manner.billed] * wants_usage
            assert (await door.record(response))["cost_nano"] == cost_of(manner)
            received_nothing_of_the_caller(double, key)
            tells_nothing_of_the_operator(response)

    async def test_a_call_of_a_tool_is_numbered_from_zero_and_finishes_as_one(
        self, manner: Generic, tmp_path: Path
    ) -> None:
        async with door_to(manner, tmp_path) as (door, _, key):
            streamed = await door.chat(key, model="sold/model", stream=True, tools=TOOLS)
            choices = [choice for chunk in chunks_of(streamed.content) for choice in chunk["choices"]]
            calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
            assert {call["index"] for call in calls} == {0}
            assert [call["type"] for call in calls if call.get("id")] == ["function"]
            assert orjson.loads("".join(call["function"].get("arguments", "") for call in calls)) == {"city": "Paris"}
            assert choices[-1]["finish_reason"] == "tool_calls"
            whole = (await door.chat(key, model="sold/model", tools=TOOLS)).json()["choices"][0]
            assert whole["finish_reason"] == "tool_calls"
            assert whole["message"]["tool_calls"][0]["function"]["name"] == "weather"

    async def test_a_stream_is_the_same_in_pieces_of_a_byte(self, manner: Generic, tmp_path: Path) -> None:
        async with door_to(manner, tmp_path) as (door, double, key):
            whole = await door.chat(key, model="sold/model", stream=True)
            double.piece_bytes = 1
            cut = await door.chat(key, model="sold/model", stream=True)
            told = [[chunk["choices"] for chunk in chunks_of(one.content)] for one in (whole, cut)]
            assert told[0] == told[1]

    async def test_a_stream_without_a_finish_is_a_failure(self, manner: Generic, tmp_path: Path) -> None:
        async with door_to(manner, tmp_path) as (door, double, key):
            events = manner.stream({"stream": True, "messages": []})
            double.cut_after = next(at for at, event in enumerate(events) if b"Hel" in event) + 1
            response = await door.chat(key, model="sold/model", stream=True)
            *_, error = [frame for frame in response.content.split(b"\n\n") if frame.startswith(b"data: {")]
            assert orjson.loads(error[6:])["error"]["code"] == "backend_died"
            assert b'finish_reason":"stop' not in response.content

    async def test_the_operators_empty_account_is_503_and_never_402(self, manner: Generic, tmp_path: Path) -> None:
        async with door_to(manner, tmp_path) as (door, double, key):
            double.refusal = manner.money
            with lines_logged(logging.WARNING) as lines:
                response = await door.chat(key, model="sold/model")
            if manner.kind == "ollama":  # which takes no money
                assert response.status_code == 429
                return
            assert response.status_code == 503
            assert error_of(response)["code"] == "model_unavailable"
            tells_nothing_of_the_operator(response)
            assert any("no money" in line for line in lines)
            assert not any(name in line for name in OF_THE_OPERATOR for line in lines)

    async def test_a_key_that_is_refused_is_the_operators_fault(self, manner: Generic, tmp_path: Path) -> None:
        async with door_to(manner, tmp_path) as (door, double, key):
            double.refusal = Refusal(401, manner.key_refusal.body)
            response = await door.chat(key, model="sold/model")
            assert response.status_code == 503
            tells_nothing_of_the_operator(response)


async def test_what_a_cache_had_is_told_by_whichever_name(tmp_path: Path) -> None:
    for kind in [kind for kind in KINDS if kind.__name__ in ("OpenAi", "DeepSeek", "Moonshot")]:
        async with door_to(kind(), tmp_path / kind.__name__) as (door, _, key):
            response = await door.chat(key, model="sold/model")
            assert response.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == CACHED
            assert (await door.record(response))["cached_tokens"] == CACHED
