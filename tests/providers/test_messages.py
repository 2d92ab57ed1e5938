"""Whatever a provider does on the wire, callers of Messages see Anthropic's API, and the books its bill."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.dialects.messages_openai import MessagesToOpenAi
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.provider_settings import ProviderSettings, row_of
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.messages import MESSAGES
from mcp_gateway.core.surfaces.surface import Ask
from mcp_gateway.core.surfaces.usage import Usage
from tests.message_streams import blocks_in, events_in, message_in
from tests.providers.anthropic_double import Anthropic
from tests.providers.doubles import TEXT, Double, Generic, Refusal, serving
from tests.providers.kinds import KINDS, sweep
from tests.providers.test_contract import (
    ENVIRON,
    MODEL,
    cost_of,
    received_nothing_of_the_caller,
    tells_nothing_of_the_operator,
)
from tests.serving import Door, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {}}}
TRANSLATED = {kind.__name__: kind for kind in KINDS if kind is not Anthropic}
ALL = TRANSLATED | {"Anthropic": Anthropic}
each_kind = sweep("kind", ALL)
each_translated = sweep("kind", TRANSLATED)
Served = tuple[Door, dict[str, Double], str]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """A gateway that sells a model of each provider, the providers by their kind, and a key with money."""
    async with AsyncExitStack() as stack:
        doubles = {name: await stack.enter_async_context(serving(kind())) for name, kind in ALL.items()}
        settings: dict[str, Any] = {
            "providers": [double.settings(name, kind=double.manner.kind) for name, double in doubles.items()],
            "models": [MODEL | {"id": f"sold/{name}", "provider": name} for name in doubles],
        }
        folder = tmp_path_factory.mktemp("messages")
        door = await stack.enter_async_context(open_door(folder, environ=ENVIRON, **settings))
        yield door, doubles, await door.key(credit="10")
        await door.nothing_is_left()


async def ask(door: Door, key: str | None, kind: str, path: str = "/v1/messages", **fields: Any) -> httpx2.Response:
    body = {"model": f"sold/{kind}", "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]}
    return await door.post(orjson.dumps(body | fields), key, path, anthropic_version="2023-06-01")


def text_of(message: dict[str, Any]) -> str:
    return "".join(block["text"] for block in message["content"] if block["type"] == "text")


def tokens_of(message: dict[str, Any]) -> tuple[int, int]:
    usage = message["usage"]
    read, written = usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
    return usage["input_tokens"] + read + written, usage["output_tokens"]


@each_kind
@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_text_has_anthropics_shape_and_the_providers_bill(served: Served, kind: str, is_stream: bool) -> None:
    door, doubles, key = served
    double = doubles[kind]
    response = await ask(door, key, kind, stream=is_stream)
    assert response.status_code == 200, response.text
    message = message_in(response.content) if is_stream else response.json()
    assert text_of(message).replace("7", "") == "".join(TEXT)
    assert (message["model"], message["stop_reason"], message["role"]) == (f"sold/{kind}", "end_turn", "assistant")
    assert message["id"] == f"msg_{response.headers['x-request-id']}"
    assert tokens_of(message) == double.manner.billed
    record = await door.record(response)
    assert (record["backend"], record["cost_nano"]) == (kind, cost_of(double.manner))
    assert record["finish_reason"] == "end_turn"
    received_nothing_of_the_caller(double, key)
    tells_nothing_of_the_operator(response)


@each_kind
async def test_a_call_of_a_tool_is_the_same_streamed_and_in_one_piece(served: Served, kind: str) -> None:
    door, _, key = served
    streamed = message_in((await ask(door, key, kind, stream=True, tools=[TOOL])).content)
    whole = (await ask(door, key, kind, tools=[TOOL])).json()
    for message in (streamed, whole):
        (call,) = [block for block in message["content"] if block["type"] == "tool_use"]
        assert (call["name"], call["input"], message["stop_reason"]) == ("weather", {"city": "Paris"}, "tool_use")
        assert call["id"]


@each_translated
async def test_a_stream_that_ends_without_a_finish_ends_its_block_and_tells_an_error(served: Served, kind: str) -> None:
    door, doubles, key = served
    double = doubles[kind]
    events = double.manner.stream({"stream": True, "messages": []})
    double.cut_after = next(at for at, event in enumerate(events) if b"Hel" in event) + 1
    response = await ask(door, key, kind, stream=True)
    double.cut_after = None
    _, *blocks, delta, error = events_in(response.content)
    assert text_of({"content": blocks_in(blocks)}).endswith("Hel")
    assert (delta["delta"]["stop_reason"], error["type"], error["error"]["type"]) == (None, "error", "api_error")


@each_kind
@pytest.mark.parametrize("fault", ["money", "key", "busy", "limit", "broken", "caller"])
async def test_what_a_provider_refuses_is_told_in_anthropics_words(served: Served, kind: str, fault: str) -> None:
    door, doubles, key = served
    double = doubles[kind]
    refusal, expected = {
        "money": (double.manner.money, (503, "overloaded_error")),
        "key": (Refusal(401, double.manner.key_refusal.body), (503, "overloaded_error")),
        "busy": (Refusal(503, b"{}"), (503, "overloaded_error")),
        "limit": (Refusal(429, b"{}"), (429, "overloaded_error")),
        "broken": (Refusal(500, b"oops"), (502, "api_error")),
        "caller": (Refusal(400, b'{"error":{"message":"too odd","param":"stop"}}'), (400, "invalid_request_error")),
    }[fault]
    if (kind, fault) == ("Ollama", "money"):  # which takes none
        expected = (429, "overloaded_error")
    double.refusal = refusal
    response = await ask(door, key, kind)
    double.refusal = None
    provider = door.gateway.pool.providers[kind]
    provider.models.rests.clear()
    provider.breaker.reset()
    body = response.json()
    assert (response.status_code, body["error"]["type"]) == expected, response.text
    assert body.keys() == {"type", "error", "request_id"}
    tells_nothing_of_the_operator(response)


@each_translated
async def test_a_prompt_is_counted_about_and_free_of_charge(served: Served, kind: str) -> None:
    door, doubles, key = served
    asked = len(doubles[kind].asked)
    response = await ask(door, key, kind, "/v1/messages/count_tokens", system="s" * 3000)
    assert 1000 < response.json()["input_tokens"] < 1200
    assert response.headers["x-tokens-estimated"] == "true"
    assert len(doubles[kind].asked) == asked


# A stream that is cut


def translated(manner: Generic) -> MessagesToOpenAi:
    settings: dict[str, Any] = {"name": "a", "kind": manner.kind, "api_key_env": "K", "account_id": "a"} | manner.row()
    return MessagesToOpenAi(row_of(ProviderSettings.model_validate(settings)))


def asked_for_stream() -> Ask:
    body = {"model": "m", "max_tokens": 100, "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    ask = MESSAGES.read(body, 100)
    ask.request_id = "req_1"
    return ask


@each_translated
@pytest.mark.parametrize("has_tools", [False, True])
async def test_a_stream_may_come_byte_by_byte_and_be_cut_anywhere(kind: str, has_tools: bool) -> None:
    """The same events come of any pieces; what is cut is whole once its finish has come, and its blocks end anyway."""
    manner = TRANSLATED[kind]()
    stream = b"".join(manner.stream({"stream": True, "messages": []} | ({"tools": [TOOL]} if has_tools else {})))
    translation, bounds = translated(manner), UsageBounds(1000, 1000)

    def read(*pieces: bytes) -> tuple[bytes, bool]:
        reader = translation.reader(asked_for_stream(), "m", bounds)
        came = b"".join([reader.feed(piece) for piece in pieces]) + reader.feed_end()
        return came + reader.end(billed=reader.usage), reader.is_whole

    whole, is_whole = read(stream)
    assert is_whole
    assert (without_ids(read(*(stream[at : at + 1] for at in range(len(stream))))[0])) == without_ids(whole)
    finish = stream.index(b'"finish_reason":"')
    for at in range(0, len(stream), 7):
        told, is_whole = read(stream[:at])
        assert not is_whole or at > finish
        middle = [event for event in events_in(told) if event["type"].startswith("content_block")]
        blocks_in(middle)


GOING_ON = {"index": 0, "function": {"arguments": '{"more":1}'}}


@pytest.mark.parametrize("size", [10_000, 100, 1])
@pytest.mark.parametrize(
    ("before", "kinds"),
    [
        ({}, []),
        ({"content": "said"}, ["text"]),
        ({"tool_calls": [{"index": 2, "function": {"name": "h"}}]}, ["tool_use"]),
    ],
)
async def test_what_came_before_what_cannot_be_understood_is_told_and_its_blocks_end(
    before: dict[str, Any], kinds: list[str], size: int
) -> None:
    """A call goes on that was over, in the piece that brings what stands before it, or in a later one."""
    manner = TRANSLATED["Generic"]()
    calls = [{"index": at, "id": f"c{at}", "function": {"name": "g", "arguments": "{}"}} for at in (0, 1)]
    last = before | {"tool_calls": [*before.get("tool_calls", []), GOING_ON]}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": "Hm"}, {"tool_calls": calls}, last]
    stream = b"".join([manner.chunk(delta) for delta in deltas])
    reader = translated(manner).reader(asked_for_stream(), "m", UsageBounds(1000, 1000))
    told: list[bytes] = []
    with pytest.raises(GatewayError, match="backend_error"):
        told.extend(reader.feed(stream[at : at + size]) for at in range(0, len(stream), size))
    start, *middle, delta = events_in(b"".join(told) + reader.end(billed=Usage(3, 2)))
    assert (start["type"], delta["type"]) == ("message_start", "message_delta")
    assert [block["type"] for block in blocks_in(middle)] == ["text", "tool_use", "tool_use", *kinds]


@pytest.mark.parametrize("has_head", [False, True])
async def test_what_is_billed_of_an_answer_that_never_began_is_told(has_head: bool) -> None:
    """A provider counts before it says anything, and breaks off."""
    manner = TRANSLATED["Generic"]()
    counted = manner.event({"id": "c", "choices": [], "usage": manner.usage()})
    reader = translated(manner).reader(asked_for_stream(), "m", UsageBounds(1000, 1000))
    head = manner.chunk({"role": "assistant", "content": ""}) if has_head else b""
    told = reader.feed(head + counted) + reader.feed_end()
    assert not reader.is_whole
    start, delta = events_in(told + reader.end("0.5", billed=Usage(3, 2)))
    assert (start["type"], start["message"]["id"]) == ("message_start", "msg_req_1")
    assert (delta["delta"]["stop_reason"], delta["usage"]["output_tokens"]) == (None, 2)
    assert delta["usage"]["cost_usd"] == "0.5"
    silent = translated(manner).reader(asked_for_stream(), "m", UsageBounds(1000, 1000))
    assert silent.end("0.00", billed=Usage(0, 0)) == silent.end() == b""


def without_ids(stream: bytes) -> list[dict[str, Any]]:
    """An id that the gateway gave is another each time."""
    events = events_in(stream)
    for event in events:
        event.get("content_block", {}).pop("id", None)
    return events
