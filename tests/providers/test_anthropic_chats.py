"""Chats to Anthropic, which are asked as messages: what it is sent, what callers are told, and what that costs."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.sent_images import PLACEHOLDER
from tests.cases import each
from tests.patience import eventually
from tests.providers.anthropic_double import (
    CALL_ID,
    FRESH,
    HIDDEN,
    OVERLOADED,
    SIGNATURE,
    THOUGHTS,
    UPSTREAM_ID,
    WRITTEN,
    Anthropic,
    Messages,
    error_event,
)
from tests.providers.doubles import CACHED, OUTPUT, PROMPT, TEXT, Double, Generic, serving
from tests.providers.test_anthropic_messages import COST_NANO, PRICES
from tests.providers.test_contract import ENVIRON, MODEL, TOOLS, chunks_of, tells_nothing_of_the_operator
from tests.serving import Door, open_door
from tests.tool_server import ToolServerDouble

pytestmark = pytest.mark.asyncio(loop_scope="module")

MARK = {"cache_control": {"type": "ephemeral"}}
PARAMETERS = {"type": "object", "properties": {}}
Served = tuple[Door, Double, Anthropic, str]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    manner = Anthropic()
    async with serving(manner) as double:
        sold = MODEL | {"provider": "anthropic", "pricing": PRICES, "input_modalities": ["text", "image"]}
        settings: dict[str, Any] = {"providers": [double.settings()], "models": [sold], "enable_vision": True}
        async with open_door(tmp_path_factory.mktemp("chats"), environ=ENVIRON, **settings) as door:
            yield door, double, manner, await door.key(credit="10")


@pytest_asyncio.fixture(loop_scope="module")
async def served(_served: Served) -> AsyncIterator[Served]:
    door, double, manner, _ = _served
    manner.messages = Messages()
    double.refusal, double.piece_bytes, double.cut_after = None, 0, None
    double.asked.clear()
    yield _served
    await door.nothing_is_left()


async def ask(served: Served, **fields: Any) -> httpx2.Response:
    door, _, _, key = served
    return await door.chat(key, **{"model": "sold/model", "max_tokens": 100} | fields)


async def test_a_chat_is_asked_as_a_message_with_its_caches(served: Served) -> None:
    _, double, _, _ = served
    parts = [
        {"type": "text", "text": "look"} | MARK,
        {"type": "image_url", "image_url": {"url": PLACEHOLDER, "detail": "low"}},
    ]
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}
    response = await ask(
        served,
        messages=[
            {"role": "system", "content": [{"type": "text", "text": "Be brief."} | MARK]},
            {"role": "user", "content": parts, "name": "ada"},
        ],
        tools=[TOOLS[0] | MARK],
        tool_choice="required",
        parallel_tool_calls=False,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
        reasoning_effort="low",
        stop=["###"],
        temperature=1.7,
        user="u",
        cache_control={"type": "ephemeral", "ttl": "1h"},
    )
    assert response.status_code == 200, response.text
    assert set(response.headers["x-ignored-parameters"].split(", ")) == {
        "user", "messages.name", "messages.content.image_url.detail", "cache_control.ttl",
    }  # fmt: skip
    source = {"type": "base64", "media_type": "image/png", "data": PLACEHOLDER.partition(",")[2]}
    asked = double.asked[-1]
    assert asked.path == "/v1/messages"
    assert asked.headers["anthropic-version"] == "2023-06-01"
    assert (
        asked.body
        == {
            "model": "m-1",
            "max_tokens": 100,
            "stream": False,
            "system": [{"type": "text", "text": "Be brief."} | MARK],
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "look"} | MARK, {"type": "image", "source": source}],
                }
            ],
            "tools": [{"name": "weather", "input_schema": PARAMETERS} | MARK],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
            "thinking": {"type": "adaptive"},
            "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": schema}},
            "stop_sequences": ["###"],
            "temperature": 1,
        }
        | MARK
    )


@each("is_stream", [False, True])
async def test_caches_are_told_and_billed_by_their_prices(is_stream: bool, served: Served) -> None:
    door, _, _, _ = served
    options = {"stream": True, "stream_options": {"include_usage": True}} if is_stream else {}
    response = await ask(served, **options)
    told = chunks_of(response.content)[-1] if is_stream else response.json()
    usage = told["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (PROMPT, OUTPUT)
    assert usage["prompt_tokens_details"] == {"cached_tokens": CACHED, "cache_write_tokens": WRITTEN}
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 3}
    assert (await door.record(response))["cost_nano"] == COST_NANO
    assert told["id"] == f"chatcmpl-{response.headers['x-request-id']}"
    assert told["created"] > 1_700_000_000
    assert UPSTREAM_ID not in response.text
    tells_nothing_of_the_operator(response)


@each("is_stream", [False, True])
async def test_thoughts_are_told_and_come_back_signed_in_the_next_turn(is_stream: bool, served: Served) -> None:
    _, double, _, _ = served
    response = await ask(served, tools=TOOLS, thinking={"type": "adaptive"}, stream=is_stream)
    if is_stream:
        deltas = [choice["delta"] for chunk in chunks_of(response.content) for choice in chunk["choices"]]
        reasoning = "".join(delta.get("reasoning", "") for delta in deltas)
        details = [detail for delta in deltas for detail in delta.get("reasoning_details", ())]
    else:
        message = response.json()["choices"][0]["message"]
        reasoning, details = message["reasoning"], message["reasoning_details"]
    assert reasoning == "".join(THOUGHTS)
    call = {"id": CALL_ID, "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}}
    said = {"role": "assistant", "content": "".join(TEXT), "reasoning_details": details, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": CALL_ID, "content": "rain"}
    again = await ask(served, tools=TOOLS, messages=[{"role": "user", "content": "hi"}, said, result])
    assert again.status_code == 200, again.text
    _, turn, answered = double.asked[-1].body["messages"]
    assert turn["content"] == [
        {"type": "thinking", "thinking": "".join(THOUGHTS), "signature": SIGNATURE},
        {"type": "redacted_thinking", "data": HIDDEN},
        {"type": "text", "text": "".join(TEXT)},
        {"type": "tool_use", "id": CALL_ID, "name": "weather", "input": {"city": "Paris"}},
    ]
    assert answered["content"][0]["tool_use_id"] == CALL_ID


@each(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"seed": 1}, "seed"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [{"type": "custom", "custom": {"name": "c"}}]}, "tools[0]"),
        ({"stop": "\n"}, "stop"),
        ({"reasoning_effort": "a lot"}, "reasoning_effort"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0].role"),
    ],
)
async def test_what_a_message_cannot_say_is_refused_before_money_moves(
    fields: dict[str, Any], param: str, served: Served
) -> None:
    _, double, _, _ = served
    response = await ask(served, **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert double.asked == []


async def test_who_leaves_a_stream_pays_for_the_prompt_and_what_came(served: Served) -> None:
    door, double, manner, _ = served
    events = manner.messages.stream({})
    double.cut_after = next(at for at, event in enumerate(events) if b"text_delta" in event) + 2
    response = await ask(served, stream=True)
    assert b"backend_died" in response.content
    record = await door.record(response)
    assert (record["prompt_tokens"], record["completion_tokens"]) == (3 + CACHED + WRITTEN, 2)


async def test_what_other_rounds_took_is_billed_with_the_rest(served: Served) -> None:
    door, _, manner, _ = served
    own = {"input_tokens": FRESH, "output_tokens": OUTPUT}
    manner.messages.iterations = [own, {"type": "fallback_message", "input_tokens": 40, "output_tokens": 9}]
    for is_stream in (False, True):
        record = await door.record(await ask(served, stream=is_stream))
        assert (record["prompt_tokens"], record["completion_tokens"]) == (PROMPT + 40, OUTPUT + 9)


async def test_without_a_limit_of_its_own_a_chat_has_the_models(served: Served) -> None:
    _, double, _, _ = served
    assert (await ask(served, max_tokens=None)).status_code == 200
    assert 0 < double.asked[-1].body["max_tokens"] <= 8000


async def test_a_prompt_that_may_leave_little_room_is_counted_by_the_provider(served: Served) -> None:
    _, double, _, _ = served
    long = [{"role": "system", "content": "s"}, {"role": "user", "content": "x" * 6000}]
    assert (await ask(served, max_tokens=None, messages=long, tools=TOOLS)).status_code == 200
    count, asked = double.asked
    assert count.path == "/v1/messages/count_tokens"
    assert count.body.keys() == {"model", "messages", "system", "tools"}
    assert asked.body["max_tokens"] == 8000 - PROMPT


@each("is_stream", [False, True])
async def test_counts_that_cannot_be_are_not_billed(is_stream: bool, served: Served) -> None:
    door, _, manner, _ = served

    class Boasting(Messages):
        def usage(self) -> dict[str, Any]:
            return {"input_tokens": 2**63, "cache_read_input_tokens": 2**63, "output_tokens": 2**63}

    manner.messages = Boasting()
    response = await ask(served, stream=is_stream)
    assert response.status_code == 200, response.text
    record = await door.record(response)
    assert record["prompt_tokens"] < 8000
    assert record["completion_tokens"] <= 100


@each("body", [b"{}", b"[]", b"x", b'{"type":"message","content":[7],"stop_reason":"end_turn"}', b'{"type":"error"}'])
async def test_what_is_no_message_is_no_answer_and_costs_nothing(body: bytes, served: Served) -> None:
    door, _, manner, _ = served

    class Odd(Messages):
        def unary(self, _body: dict[str, Any]) -> bytes:
            return body

    manner.messages = Odd()
    response = await ask(served)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "backend_error")
    assert (await door.record(response))["cost_nano"] == 0
    door.gateway.pool.providers["anthropic"].breaker.reset()


@each("is_stream", [False, True])
async def test_what_fails_before_the_first_block_is_asked_elsewhere(is_stream: bool, tmp_path: Path) -> None:
    """Of whichever dialect: what one cannot say is asked of the other as it was sent."""
    failing = Anthropic()
    failing.messages.fails_amid = error_event("overloaded_error", "Overloaded")
    async with serving(failing) as first, serving(Generic()) as second:
        if not is_stream:
            first.refusal = OVERLOADED
        candidates = [{"provider": name, "backend_model": "m-1"} for name in ("first", "second")]
        sold = {name: value for name, value in MODEL.items() if name != "backend_model"} | {"candidates": candidates}
        providers = [first.settings("first"), second.settings("second")]
        async with open_door(tmp_path, environ=ENVIRON, providers=providers, models=[sold]) as door:
            key = await door.key(credit="10")
            response = await door.chat(key, model="sold/model", stream=is_stream, tools=TOOLS)
            assert response.status_code == 200
            assert (await door.record(response))["backend"] == "second"
            assert second.asked[0].body["tools"] == TOOLS
            only_second = await door.chat(key, model="sold/model", seed=7, stream=is_stream)
            assert only_second.status_code == 200
            assert len(first.asked) == 1


async def test_a_tool_of_a_server_is_called_with_the_thoughts_that_led_to_it(tmp_path: Path) -> None:
    async def weather(city: str) -> str:
        return f"{city}: rain"

    sky = ToolServerDouble()
    sky.server.add_tool(weather, structured_output=False)
    async with sky.serving(), serving(Anthropic()) as double:
        settings: dict[str, Any] = {
            "providers": [double.settings()],
            "models": [MODEL | {"provider": "anthropic"}],
            "mcp_servers": [{"label": "sky", "url": sky.url, "accounts": ["*"], "shared": True}],
        }
        async with open_door(tmp_path, environ=ENVIRON, **settings) as door:
            await eventually(lambda: all(server.tools for server in door.gateway.tool_servers._servers.values()))
            key = await door.key(await door.account("1"), mcp_servers=["sky"])
            wanted = {
                "tools": [{"type": "mcp", "server_label": "sky", "allowed_tools": ["weather"]}],
                "thinking": {"type": "adaptive"},
            }
            for is_stream in (False, True):
                answer = await door.chat(key, model="sold/model", max_tokens=100, stream=is_stream, **wanted)
                assert answer.status_code == 200, answer.text
                _, said, result = double.asked[-1].body["messages"]
                assert [block["type"] for block in said["content"]] == [
                    "thinking", "redacted_thinking", "text", "tool_use",
                ]  # fmt: skip
                assert said["content"][0]["signature"] == SIGNATURE
                assert "Paris: rain" in str(result["content"])


async def test_the_reasoning_has_the_names_that_the_settings_say(tmp_path: Path) -> None:
    async with serving(Anthropic()) as double:
        settings: dict[str, Any] = {"providers": [double.settings(reasoning_names=["reasoning_content"])]}
        settings |= {"models": [MODEL | {"provider": "anthropic"}]}
        async with open_door(tmp_path, environ=ENVIRON, **settings) as door:
            answer = await door.chat(await door.key(credit="1"), model="sold/model", thinking={"type": "adaptive"})
            message = orjson.loads(answer.content)["choices"][0]["message"]
            assert message["reasoning_content"] == "".join(THOUGHTS)
            assert "reasoning" not in message
