"""Whatever values stand in a client's JSON, the server answers as a client's fault and never as one of its own."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.attack.at_random import OUR_FAULT, others_are_served_during
from tests.attack.mutations import mutated_json
from tests.attack.target import MCP, UNBOUNDED, Target, attacked, guest
from tests.attack.wire import get, post, wires

pytestmark = pytest.mark.slow

WEATHER = {
    "type": "object",
    "properties": {
        "place": {"type": "string", "minLength": 2, "pattern": "^[a-z]+$"},
        "days": {"anyOf": [{"type": "integer", "minimum": 3}, {"type": "null"}]},
        "hours": {"type": "array", "items": {"$ref": "#/$defs/hour"}, "minItems": 1},
    },
    "required": ["place"],
    "$defs": {"hour": {"type": "number", "multipleOf": 0.5}},
}
FUNCTION = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": WEATHER}}
CALLED = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
EVERY_FIELD: dict[str, Any] = {
    "model": "demo/echo",
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "the weather"}, PICTURE]},
        {"role": "assistant", "content": None, "tool_calls": [CALLED]},
        {"role": "tool", "tool_call_id": "c", "content": "fine"},
        {"role": "user", "content": "weather"},
    ],
    "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}, "n": 2,
    "max_tokens": 20, "max_completion_tokens": 20, "min_tokens": 2, "temperature": 0.5, "top_p": 0.9, "top_k": 5,
    "stop": ["x"], "seed": 5, "logit_bias": {"5": 1}, "logprobs": True, "top_logprobs": 2, "tools": [FUNCTION],
    "tool_choice": "auto",
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": WEATHER}}, "user": "u",
    "chat_template_kwargs": {"enable_thinking": False}, "structured_outputs": {"choice": ["a"]}, "ignore_eos": True,
    "reasoning_effort": "low", "parallel_tool_calls": True, "priority": 1, "cache_salt": "s", "metadata": {"a": "b"},
}  # fmt: skip
IN_A_TOOL = ("model", "messages", "n", "max_tokens", "stop", "tools", "response_format")
ARGUMENTS_OF_A_CHAT = {name: EVERY_FIELD[name] for name in IN_A_TOOL}
BUDGET = {"amount_usd": "1", "lifetime_s": 60, "name": "n", "models": ["demo/echo"], "idempotency_key": "k"}
OVER_MCP: list[tuple[str, dict[str, Any]]] = [
    ("tools/call", {"name": "chat_completion", "_meta": {"progressToken": 1}, "arguments": ARGUMENTS_OF_A_CHAT}),
    ("tools/call", {"name": "list_models", "arguments": {"capability": "tools", "max_price_usd": 1}}),
    ("tools/call", {"name": "get_balance", "arguments": {}}),
    ("tools/call", {"name": "embeddings", "arguments": {"model": "demo/echo", "input": ["a"], "dimensions": 4}}),
    ("tools/call", {"name": "create_budget", "arguments": BUDGET}),
    ("tools/call", {"name": "end_budget", "arguments": {"key_id": "key_1"}}),
    ("tools/list", {"cursor": "x"}),
    ("resources/list", {}),
    ("resources/templates/list", {}),
    ("resources/read", {"uri": "models://demo/echo"}),
    ("resources/subscribe", {"uri": "models://catalog"}),
    ("prompts/list", {}),
    ("prompts/get", {"name": "estimate_cost", "arguments": {"model": "demo/echo", "prompt_tokens": "5"}}),
    ("prompts/get", {"name": "compare_models", "arguments": {"question": "q", "models": "demo/echo,demo/paced"}}),
    ("completion/complete", {"ref": {"type": "ref/prompt", "name": "compare_models"},
                             "argument": {"name": "models", "value": "demo"}}),
    ("initialize", {"protocolVersion": "2025-06-18", "capabilities": {"elicitation": {"url": {}}},
                    "clientInfo": {"name": "x", "version": "1"}}),
    ("ping", {}),
    ("logging/setLevel", {"level": "info"}),
    ("server/discover", {}),
    ("notifications/initialized", {}),
    ("notifications/cancelled", {"requestId": 1}),
]  # fmt: skip
MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "x", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
KEY = {
    "name": "n",
    "test": True,
    "requests_per_minute": 5,
    "in_flight": 3,
    "tokens_per_minute": 1,
    "scopes": ["read"],
    "mint_over_mcp": True,
    "mcp_servers": ["a", "*"],
    "offer_mcp_tools": True,
    "model_pool": ["demo/echo", "x"],
    "optimize_mode": "cost",
    "routing_event": True,
}
NAMES = [
    *EVERY_FIELD, *KEY, "guided_json", "guided_choice", "truncate_prompt_tokens", "_meta", "progressToken", "uri",
    "name", "arguments", "requests", "params", "id", "method", "jsonrpc", "result", "error", "cursor", "ref",
    "argument", "protocolVersion",
    "capabilities", "clientInfo", "level", "inputResponses", "notifications", "expires_at", "amount_usd", "$ref",
    "enum", "allOf", "oneOf", "const", "type", "content", "role", "text", "image_url",
]  # fmt: skip
PAGES = (
    "/v1/requests", "/v1/usage", "/v1/billing", "/v1/billing/transactions", "/v1/credits", "/v1/credits/transactions",
    "/v1/keys", "/v1/keys/x", "/v1/models", "/v1/models/%2e%2e", "/v1/requests/x", "/v1/limits",
    "/api/v1/inference/usage", "/stats", "/health",
)  # fmt: skip
PARAMETERS = (
    "limit", "cursor", "since", "until", "model", "key", "status", "door", "surface", "group_by", "error_code", "x",
)  # fmt: skip
ARGUMENTS = (
    "", "0", "1", "-1", "1e9", "9" * 30, "2026-01-01", "2026-13-45", "9999-12-31T23:59:59Z", "day", "x", "%00", "%ff",
    "%0a", "%D9%A1", "cmVxX2E", "dHhuXzE", "a" * 3000,
)  # fmt: skip


def a_chat(dice: Random) -> bytes:
    chosen = {
        name: value for name, value in EVERY_FIELD.items() if name in ("model", "messages") or dice.random() < 0.35
    }
    if not chosen.get("stream"):
        chosen.pop("stream_options", None)
    return post("/v1/chat/completions", mutated_json(dice, chosen, NAMES))


def a_message(dice: Random) -> bytes:
    method, params = dice.choice(OVER_MCP)
    accept = dice.choice(
        (MCP, MCP, "accept: application/json", "accept: text/event-stream", "accept: */*", "accept: x")
    )
    headers = [accept]
    if dice.random() < 0.4:
        params = params | {"_meta": MODERN | params.get("_meta", {})}
        headers += ["mcp-protocol-version: 2026-07-28", f"mcp-method: {method}"]
        headers += [f"mcp-name: {params[name]}" for name in ("name", "uri") if name in params]
    message = {"jsonrpc": "2.0", "id": dice.choice((1, "a")), "method": method, "params": params}
    return post("/v1/mcp", mutated_json(dice, message, NAMES), *headers)


def a_key(dice: Random) -> bytes:
    headers = [f"idempotency-key: {dice.choice(('a', 'b' * 300, 'x y'))}"] if dice.random() < 0.5 else []
    return post("/v1/keys", mutated_json(dice, KEY, NAMES), *headers)


def a_page(dice: Random) -> bytes:
    query = "&".join(f"{dice.choice(PARAMETERS)}={dice.choice(ARGUMENTS)}" for _ in range(dice.randrange(4)))
    return get(f"{dice.choice(PAGES)}?{query}")


MAKERS = (a_chat, a_chat, a_chat, a_chat, a_message, a_message, a_message, a_message, a_key, a_page)


async def send_json(target: Target, dice: Random) -> None:
    who = target.key(0) if dice.random() < 0.8 else guest(dice.randrange(10))
    first, rest = dice.choice(MAKERS)(dice).split(b"\r\n", 1)
    data = b"%b\r\n%b\r\n%b" % (first, who.encode(), rest)
    async with wires(target.port, 1) as (wire,):
        await wire.send(data)
        answer = await wire.answer()
    assert answer is not None, data
    assert answer.status < 500 or answer.status in (502, 503), (data, answer)
    assert not OUR_FAULT.search(answer.head + answer.body), (data, answer)
    assert b'"finish_reason":"error"' not in answer.body, (data, answer)


async def test_whatever_values_clients_send_the_server_answers_and_keeps_nothing(tmp_path: Path) -> None:
    async with attacked(tmp_path, UNBOUNDED, keys=2) as target:
        await others_are_served_during(target, lambda dice: send_json(target, dice))
