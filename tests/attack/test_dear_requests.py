"""One request that is short to send and long to serve may not keep others waiting, whatever is in it.

Others wait by the server's CPU time, not by the clock (pinger.py), so that a busy machine changes nothing.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import orjson
import pytest

from tests.attack.target import CHAT, MCP, MESSAGES, MOST_HELD_MS, Target, attacked, guest, pinging
from tests.attack.wire import ask, get, post
from tests.replaying import ReplayingBackend

pytestmark = pytest.mark.slow

NESTED_QUOTE = " (parameter=a, value="
"""Begins what vLLM adds to a refusal; quoted again and again it makes a careless expression try every division."""


def chat(**fields: object) -> bytes:
    return orjson.dumps(CHAT | fields)


def chat_with(text: bytes) -> bytes:
    """A chat with further members as they are written."""
    return orjson.dumps(CHAT)[:-1] + b"," + text + b"}"


def schema(value: object) -> bytes:
    return chat(response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": value}})


def members(count: int) -> bytes:
    return b",".join(b'"key%d":0' % number for number in range(count))


def listed(item: bytes, count: int) -> bytes:
    return b"[" + b",".join([item] * count) + b"]"


def tool(name: str) -> dict[str, object]:
    return {"type": "function", "function": {"name": name}}


def deep_objects(depth: int, leaf: object) -> object:
    for _ in range(depth):
        leaf = {"type": "object", "properties": {"inner": leaf}, "required": ["inner"]}
    return leaf


def referring(times: int, members: int) -> object:
    defined = {f"key{number}": 1 for number in range(members)} | {"type": "null"}
    properties = {f"p{number}": {"$ref": "#/$defs/it"} for number in range(times)}
    return {"type": "object", "properties": properties, "$defs": {"it": defined}}


CHATS: dict[str, Callable[[], bytes]] = {
    "a refused key of logit_bias that looks like vLLM's note": lambda: chat(logit_bias={NESTED_QUOTE * 2500: 1}),
    "a schema's type that looks like vLLM's note": lambda: schema({"type": NESTED_QUOTE * 2500}),
    "a tool's name that looks like vLLM's note": lambda: chat(tools=[tool(NESTED_QUOTE * 2500)]),
    "a model's name that looks like vLLM's note": lambda: chat(model=NESTED_QUOTE * 2500),
    "a role that looks like vLLM's note": lambda: chat(messages=[{"role": NESTED_QUOTE * 2500, "content": "x"}]),
    "a schema of many alternatives": lambda: schema({"allOf": [{f"key{n}": 1} for n in range(6000)]}),
    "a schema of many anyOf": lambda: schema({"anyOf": [{"type": "string", "const": str(n)} for n in range(6000)]}),
    "a schema of required names that it has not": lambda: schema(
        deep_objects(5, {"type": "object", "properties": {f"p{n}": {} for n in range(4000)},
                         "required": [f"q{n}" for n in range(4000)]})),
    "a schema that refers to a large one": lambda: schema(referring(400, 8000)),
    "a schema that refers to itself": lambda: schema({"type": "array", "minItems": 5000, "items": {"$ref": "#"}}),
    "a schema's pattern of nested repeats": lambda: schema({"type": "string", "pattern": "(a+)+$", "minLength": 5000}),
    "a schema of a long text": lambda: schema({"type": "string", "minLength": 10**9}),
    "a schema of a long list": lambda: schema({"type": "array", "minItems": 10**9, "items": {"type": "null"}}),
    "a deep schema": lambda: schema(deep_objects(90, {"type": "string"})),
    "an enumeration": lambda: schema({"enum": list(range(100_000))}),
    "many empty lists": lambda: chat_with(b'"extra":' + listed(b"[]", 2_000_000)),
    "many empty objects": lambda: chat_with(b'"extra":' + listed(b"{}", 2_000_000)),
    "many numbers": lambda: chat_with(b'"extra":' + listed(b"0", 3_000_000)),
    "many long numbers": lambda: chat_with(b'"extra":' + listed(b"1.7976931348623157e308", 300_000)),
    "many members": lambda: chat_with(members(800_000)),
    "a member many times": lambda: chat_with(b",".join([b'"a":0'] * 1_000_000)),
    "many messages": lambda: chat(messages=[{"role": "user", "content": ""}] * 300_000),
    "many parts": lambda: chat(messages=[{"role": "user", "content": ["x"] * 800_000}]),
    "many text parts": lambda: chat(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}] * 100_000}]),
    "many tools": lambda: chat(tools=[tool(f"f{n}") for n in range(50_000)]),
    "many tools that are named": lambda: chat(
        tools=[tool(f"f{n}") for n in range(9_000)],
        messages=[{"role": "user", "content": " ".join(f"f{n}" for n in range(9_000))}]),
    "many faults": lambda: chat(tools=[{"type": "x"}] * 200_000),
    "many calls of tools": lambda: chat(messages=[*MESSAGES, {"role": "assistant", "tool_calls": [
        {"id": str(n), "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in range(40_000)]}]),
    "many biases": lambda: chat(logit_bias={str(n): 0 for n in range(500_000)}),
    "many stop texts": lambda: chat(stop=["x"] * 500_000),
    "long stop texts": lambda: chat(max_tokens=8000, ignore_eos=True, stop=["a b c d e f h " * 4000] * 4,
                                    messages=[{"role": "user", "content": "a b c d e f g " * 4000}]),
    "a long text": lambda: chat(messages=[{"role": "user", "content": "a " * 10_000_000}]),
    "a long text and an answer in JSON": lambda: chat(
        messages=[{"role": "user", "content": "a " * 2_000_000}], response_format={"type": "json_object"}),
    "a long text of escapes": lambda: chat_with(b'"user":"' + b"\\u00e9" * 3_000_000 + b'"'),
    "a long text of spaces between values": lambda: chat_with(b" " * 30_000_000 + b'"user":"x"'),
    "many tokens, choices and alternatives": lambda: chat(
        n=8, max_tokens=8000, ignore_eos=True, logprobs=True, top_logprobs=20),
    "many tokens, streamed": lambda: chat(
        n=8, max_tokens=8000, ignore_eos=True, logprobs=True, top_logprobs=20, stream=True),
    "a number of many digits": lambda: chat_with(b'"seed":' + b"9" * 4_000_000),
    "a deep list": lambda: chat_with(b'"extra":' + b"[" * 1000 + b"]" * 1000),
    "a list that never ends": lambda: chat_with(b'"extra":' + b"[" * 10_000_000),
    "quotes that never end": lambda: chat_with(b'"extra":"' + b'\\"' * 10_000_000),
    "an image that is none": lambda: chat(messages=[{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 20_000_000}}]}]),
}  # fmt: skip


def message(method: str, params: bytes = b"{}") -> bytes:
    return b'{"jsonrpc":"2.0","id":1,"method":"%b","params":%b}' % (method.encode(), params)


def tool_call(name: str, arguments: bytes) -> bytes:
    return message("tools/call", b'{"name":"%b","arguments":%b}' % (name.encode(), arguments))


MODERN = (
    b'"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",'
    b'"io.modelcontextprotocol/clientInfo":{"name":"x","version":"1"},'
    b'"io.modelcontextprotocol/clientCapabilities":{}}'
)
MESSAGES_OVER_MCP: dict[str, Callable[[], bytes]] = {
    "a ping with many lists": lambda: message("ping", b'{"x":' + listed(b"[]", 8_000_000) + b"}"),
    "a ping with many members": lambda: message("ping", b"{" + members(2_000_000) + b"}"),
    "a ping behind a long member": lambda: b'{"x":"' + b"a" * 30_000_000 + b'","jsonrpc":"2.0","id":1,"method":"ping"}',
    "no message at all": lambda: b'{"x":' + listed(b"[]", 8_000_000) + b"}",
    "a batch": lambda: listed(message("ping"), 400_000),
    "methods again and again": lambda: b"{" + b",".join([b'"method":"ping"'] * 1_500_000) + b"}",
    "a method that is long": lambda: message("x" * 20_000_000),
    "an id that is long": lambda: b'{"jsonrpc":"2.0","method":"ping","id":"' + b"x" * 20_000_000 + b'"}',
    "a call with many tools": lambda: tool_call(
        "chat_completion", orjson.dumps(CHAT)[:-1] + b',"tools":' + listed(b"{}", 1_000_000) + b"}"),
    "a call with a refusal that looks like vLLM's": lambda: tool_call(
        "chat_completion", schema({"type": NESTED_QUOTE * 2500})),
    "a call with many arguments": lambda: tool_call("list_models", b"{" + members(1_500_000) + b"}"),
    "an unknown tool": lambda: tool_call("x" * 20_000_000, b"{}"),
    "models to compare": lambda: message("prompts/get", orjson.dumps(
        {"name": "compare_models", "arguments": {"question": "x", "models": "demo/echo," * 2_000_000}})),
    "commas to compare": lambda: message("prompts/get", orjson.dumps(
        {"name": "compare_models", "arguments": {"question": "x", "models": "," * 25_000_000 + "demo/echo"}})),
    "a cost to estimate": lambda: message("prompts/get", orjson.dumps(
        {"name": "estimate_cost", "arguments": {"model": "demo/echo", "prompt_tokens": "9" * 60_000}})),
    "a completion": lambda: message("completion/complete", orjson.dumps(
        {"ref": {"type": "ref/prompt", "name": "compare_models"},
         "argument": {"name": "models", "value": "a" * 25_000_000}})),
    "many subscriptions": lambda: message("subscriptions/listen", b"{%b,%b%b}}" % (
        MODERN, b'"notifications":{"resourceSubscriptions":', listed(b'"a"', 1_000_000))),
    "capabilities": lambda: message("initialize", b'{%b,"capabilities":{"experimental":{"x":{%b}}}}' % (
        b'"protocolVersion":"2025-06-18","clientInfo":{"name":"x","version":"1"}', members(1_000_000))),
    "a client's long name": lambda: message("initialize", orjson.dumps(
        {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x" * 20_000_000, "version": "1"}}
    )),
    "an answer that nobody asked for": lambda: (
        b'{"jsonrpc":"2.0","id":1,"result":{"x":' + listed(b"[]", 4_000_000) + b"}}"),
    "a long price": lambda: tool_call("list_models", b'{"max_price_usd":"' + b"9" * 60_000 + b'"}'),
    "a price with a large exponent": lambda: tool_call("list_models", b'{"max_price_usd":"1e50000000"}'),
    "a long address": lambda: message("resources/read", b'{"uri":"models://' + b"a" * 20_000_000 + b'"}'),
}  # fmt: skip

KEY_BODIES: dict[str, Callable[[], bytes]] = {
    "a key's long name": lambda: b'{"name":"' + b"x" * 20_000_000 + b'"}',
    "a key with many members": lambda: b"{" + members(1_000_000) + b"}",
    "a key with a long limit": lambda: b'{"requests_per_minute":' + b"9" * 60_000 + b"}",
}
ADDRESSES = {
    "a long filter": "/v1/requests?model=" + "x" * 60_000,
    "many parameters": "/v1/requests?" + "a&" * 30_000,
    "a long cursor": "/v1/requests?cursor=" + "A" * 60_000,
    "a time of many digits": "/v1/usage?since=" + "9" * 60_000,
    "escapes": "/v1/models/" + "%2f" * 20_000,
    "segments": "/v1" + "/a" * 30_000,
}


HEADS = {
    "many lines": ["a: b"] * 9_000,
    "many empty lines": ["a:"] * 12_000,
    "a long chain of proxies": ["x-forwarded-for: " + "10.0.0.1," * 6_000 + "10.0.0.1"],
    "many chains of proxies": ["x-forwarded-for: 10.0.0.1"] * 2_000,
    "a chain of long names": ["x-forwarded-for: " + "[" * 60_000],
    "many things accepted": ["accept: " + "a/b;q=0.1," * 6_000],
    "many cookies": ["cookie: " + "a=b;" * 15_000],
    "a long key": ["authorization: Bearer gw_live_" + "x" * 60_000],
    "a long scheme": ["authorization: " + "x" * 60_000],
    "many keys": ["x-api-key: x"] * 4_000,
    "a long origin": ["origin: http://" + "a." * 30_000],
    "a long id": ["x-client-request-id: " + "x" * 60_000],
    "a long trace": ["traceparent: 00-" + "0" * 60_000],
    "much state of a trace": ["tracestate: " + "a=b," * 15_000],
    "many codings": ["transfer-encoding: " + "chunked," * 7_000],
    "many lengths": ["content-length: " + "0," * 30_000],
    "many ways to connect": ["connection: " + "a," * 30_000],
    "many offers": ["upgrade: " + "h2c," * 15_000, "connection: upgrade"],
}


def chats_of(who: str) -> dict[str, Callable[[], bytes]]:
    """Each chat as the bytes of a request by this caller."""
    return {name: partial(_posted, "/v1/chat/completions", make, who) for name, make in CHATS.items()}


def requests_of(who: str) -> dict[str, Callable[[], bytes]]:
    """Everything by this caller."""
    over_mcp = {name: partial(_posted, "/v1/mcp", make, who, MCP) for name, make in MESSAGES_OVER_MCP.items()}
    keys = {name: partial(_posted, "/v1/keys", make, who) for name, make in KEY_BODIES.items()}
    gets = {name: partial(get, path, who) for name, path in ADDRESSES.items()}
    heads = {f"a head with {name}": partial(get, "/v1/models", who, *lines) for name, lines in HEADS.items()}
    return chats_of(who) | over_mcp | keys | gets | heads


def _posted(path: str, make: Callable[[], bytes], *headers: str) -> bytes:
    return post(path, make(), *headers)


SETTINGS = """
enable_vision = true
[guests]
requests_per_minute = 1000000
[limits]
listing_requests_per_minute = 1000000
"""


async def those_that_hold(target: Target, requests: dict[str, Callable[[], bytes]]) -> dict[str, float]:
    """For how many milliseconds of CPU which of them keep others waiting, where that is too long."""
    too_long: dict[str, float] = {}
    async with pinging(target.program) as pinger:
        for name, make in requests.items():
            data = make()
            held_ms = await pinger.least_held_ms(partial(ask, target.port, data))
            print(f"{name:<60}{len(data):>10} bytes {held_ms:>8.1f} ms")
            if held_ms >= MOST_HELD_MS:
                too_long[name] = held_ms
    return too_long


@pytest.mark.parametrize("is_guest", [False, True], ids=["by a key", "by a guest"])
async def test_no_single_request_keeps_other_clients_waiting(tmp_path: Path, is_guest: bool) -> None:
    async with attacked(tmp_path, SETTINGS) as target:
        who = guest(1) if is_guest else target.key(0)
        assert await those_that_hold(target, requests_of(who)) == {}


async def test_no_single_request_that_a_backend_answers_keeps_other_clients_waiting(tmp_path: Path) -> None:
    async with ReplayingBackend("demo/echo", max_model_len=10**8) as backend:
        settings = f'vllm_urls = ["{backend.url}"]\n{SETTINGS}'
        async with attacked(tmp_path, settings) as target:
            assert await those_that_hold(target, chats_of(target.key(0))) == {}
