"""Values at the edge of what JSON, numbers and text can be, wherever a caller puts one: never a 500."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
import pytest_asyncio

from tests.cases import each
from tests.fake_stripe import SECRET_KEY, WEBHOOK_SECRET
from tests.serving import Door, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

VALUES = [
    "1e999999999", "-1e400", "9" * 5000, "-" + "9" * 5000, "18446744073709551616", "-9223372036854775809", "NaN",
    "8.0", r'"\ud800"', r'"a\u0000b"', r'{"\ud800": 1}', "[" * 300 + "]" * 300,
    '{"a":' * 300 + "1" + "}" * 300, "[" * 5000,
    "true", "null", "{}", "[]", '{"n": 1e999999999}', '"1e999999999"', '"' + "9" * 5000 + '"', '"Infinity"',
]  # fmt: skip
"""As they stand in a body."""
MESSAGES = '"model": "demo/echo", "messages": [{"role": "user", "content": "f"}]'
CHATS = [
    *(
        f'{{{MESSAGES}, "{field}": %s}}'
        for field in (
            "model", "messages", "n", "max_tokens", "temperature", "stop", "seed", "logit_bias", "tools", "tool_choice",
            "response_format", "structured_outputs", "unknown", "stream_options",
        )
    ),
    '{"model": "demo/echo", "messages": [{"role": %s, "content": %s}]}',
    '{"model": "demo/echo", "messages": [{"role": "user", "content": [%s, {"type": "text", "text": %s}]}]}',
    '{"model": "demo/echo", "messages": [{"role": "assistant", "tool_calls": %s}]}',
    f'{{{MESSAGES}, "tools": [{{"function": {{"name": "f", "parameters": %s}}}}]}}',
    f'{{{MESSAGES}, "tools": [{{"function": {{"name": "f", "parameters": {{"minimum": %s, "multipleOf": %s}}}}}}]}}',
    f'{{{MESSAGES}, "response_format": {{"type": "json_schema", "json_schema": {{"name": "x", "schema": %s}}}}}}',
    f'{{{MESSAGES}, "structured_outputs": {{"json": %s}}}}',
    f'{{{MESSAGES}, "structured_outputs": {{"choice": [%s]}}}}',
    "%s",
]  # fmt: skip
OTHERS = [
    *(
        ("/v1/completions", f'{{"model": "demo/echo", "prompt": "a", "{field}": %s}}')
        for field in (
            "prompt",
            "n",
            "best_of",
            "max_tokens",
            "logprobs",
            "stop",
            "logit_bias",
            "stream_options",
            "echo",
        )
    ),
    ("/v1/completions", '{"model": "demo/echo", "prompt": [%s]}'),
    ("/v1/completions", '{"model": "demo/echo", "prompt": [[%s]]}'),
    *(
        ("/v1/embeddings", f'{{"model": "demo/echo", "input": "a", "{field}": %s}}')
        for field in ("input", "dimensions", "encoding_format", "truncate_prompt_tokens", "user")
    ),
    ("/v1/embeddings", '{"model": "demo/echo", "input": [%s]}'),
    ("/v1/embeddings", '{"model": "demo/echo", "messages": [{"role": "user", "content": %s}]}'),
    ("/v1/rerank", '{"model": "demo/echo", "query": %s, "documents": [%s], "top_n": %s}'),
    ("/v1/rerank", '{"model": "demo/echo", "query": "a", "documents": ["b"], "top_n": %s}'),
    ("/v1/score", '{"model": "demo/echo", "text_1": %s, "text_2": "b"}'),
    ("/v1/score", '{"model": "demo/echo", "text_1": ["a"], "text_2": [%s, "b"]}'),
]
CALL = '{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "%s", "arguments": {%s}}}'
MCP = [
    *(
        CALL % ("chat_completion", f'{MESSAGES}, "{name}": %s')
        for name in (
            "model",
            "messages",
            "max_tokens",
            "temperature",
            "seed",
            "stop",
            "tools",
            "response_format",
            "other",
        )
    ),
    CALL % ("list_models", '"max_price_usd": %s'),
    CALL % ("list_models", '"capability": %s'),
    CALL % ("get_balance", '"x": %s'),
    *(
        CALL % ("embeddings", f'"model": "demo/echo", "input": "a", "{name}": %s')
        for name in ("input", "dimensions", "x")
    ),
    '{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": %s, "arguments": {}}}',
    '{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "get_balance", "arguments": %s}}',
    '{"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": %s}}',
    '{"jsonrpc": "2.0", "id": 1, "method": "prompts/get", "params": {"name": "estimate_cost", "arguments":'
    ' {"model": "demo/echo", "prompt_tokens": %s}}}',
    '{"jsonrpc": "2.0", "id": 1, "method": "completion/complete", "params": {"ref": {"type": "ref/prompt", "name":'
    ' "compare_models"}, "argument": {"name": "models", "value": %s}}}',
    '{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": %s, "capabilities": %s,'
    ' "clientInfo": {"name": %s, "version": "1"}}}',
    '{"jsonrpc": "2.0", "id": %s, "method": "ping"}',
    "%s",
]
QUERIES = [
    "9" * 5000, "-" + "9" * 5000, "1e400", "1e999999999", "NaN", "\0", "\ud800", "٣", "𝟏", "2026-13-45",
    "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "10000-01-01", "2026-01-01T00:00:00+99:00", "\x1b[2J",
    "\u202e", "1_0",
]  # fmt: skip


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    stripe = {"secret_key": SECRET_KEY, "webhook_secret": WEBHOOK_SECRET, "api_base": "http://127.0.0.1:9"}
    limits = {"listing_requests_per_minute": 100_000}
    async with open_door(tmp_path_factory.mktemp("odd"), stripe=stripe, limits=limits) as door:
        yield door
        await door.nothing_is_left()


async def check(*answers: Any) -> None:
    """Each is an answer or a refusal in words, and in JSON or events that can be read."""
    for answer in await asyncio.gather(*answers):
        assert isinstance(answer, httpx2.Response)
        told = answer.content.decode()
        assert answer.status_code in (200, 201, 202, 400, 404, 405, 413, 431), told[:300]
        assert "internal_error" not in told
        assert "on our side" not in told
        if answer.headers.get("content-type") == "application/json":
            answer.json()


@pytest.mark.surfaces
@pytest.mark.parametrize(("path", "place"), OTHERS)
async def test_in_another_surface(path: str, place: str, door: Door) -> None:
    key = await door.key(is_test=True)
    await check(*(door.post(place.replace("%s", value).encode(), key, path) for value in VALUES))


@pytest.mark.surfaces
@pytest.mark.parametrize("place", CHATS)
async def test_in_a_chat(place: str, door: Door) -> None:
    key = await door.key()
    await check(*(door.post(place.replace("%s", value).encode(), key) for value in VALUES))


@pytest.mark.surfaces
@pytest.mark.parametrize("place", MCP)
async def test_in_an_mcp_message(place: str, door: Door) -> None:
    key = await door.key()
    accept = {"accept": "application/json, text/event-stream"}
    await check(*(door.post(place.replace("%s", value).encode(), key, "/v1/mcp", **accept) for value in VALUES))


@each("name", ["name", "in_flight", "expires_at", "scopes"])
async def test_in_a_new_key(name: str, door: Door) -> None:
    key = await door.key()
    await check(*(door.post(f'{{"{name}": {value}}}'.encode(), key, "/v1/keys") for value in VALUES))


async def test_in_an_amount(door: Door) -> None:
    key = await door.key()
    bodies = [f'{{"amount_usd": {value}}}'.encode() for value in VALUES]
    await check(*(door.post(body, key, "/v1/billing/checkout") for body in bodies))


@pytest.mark.surfaces
@pytest.mark.parametrize(
    "name", ["limit", "cursor", "since", "until", "model", "key", "status", "door", "surface", "group_by", "other"]
)
@pytest.mark.parametrize("path", ["/v1/requests", "/v1/usage", "/v1/keys"])
async def test_in_a_query(path: str, name: str, door: Door) -> None:
    key = await door.key()
    values = [quote(value, errors="surrogatepass") for value in QUERIES]
    await check(*(door.get(f"{path}?{name}={value}", key) for value in [*values, "%ff", "%ED%A0%80", "%", "%zz"]))


@each("path", ["/v1/keys/", "/v1/requests/", "/v1/models/", "/"])
async def test_in_a_path(path: str, door: Door) -> None:
    key = await door.key()
    values = [quote(value, errors="surrogatepass", safe="") for value in QUERIES if value.strip()]
    await check(*(door.get(path + value, key) for value in values))
