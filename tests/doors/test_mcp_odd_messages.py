"""Messages otherwise than the specification has them: served where it is plain what they mean, refused by name else."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio
from mcp import Client
from mcp.client.sse import sse_client
from mcp.types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LOG_LEVEL_META_KEY,
    PARSE_ERROR,
    UNSUPPORTED_PROTOCOL_VERSION,
)

from bridge.mcp_stdio_bridge import Bridge, Log, Remote
from mcp_gateway.mcp_door.http import Accept
from mcp_gateway.mcp_door.jsonrpc import with_whole_characters
from tests.cases import each
from tests.doors.mcp_host import JSON, PREFIX, Host, call, chat, gated, http_client, initialize, open_host
from tests.doors.test_mcp_lifetimes import next_message, sse_session
from tests.doors.test_mcp_transports import INITIALIZED, MODERN, PING, modern

pytestmark = pytest.mark.asyncio(loop_scope="module")

LISTS = ["tools/list", "resources/list", "resources/templates/list", "prompts/list"]
ESTIMATE: dict[str, Any] = {"name": "estimate_cost", "arguments": {"model": "demo/echo"}}
INFO = {"name": "test", "version": "1"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Host]:
    async with open_host(tmp_path_factory.mktemp("odd")) as host:
        yield host


def request(method: str, params: Any = None, request_id: Any = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method} | ({} if params is None else {"params": params})


async def session_of(host: Host, version: str) -> dict[str, str]:
    """The headers of a session of that revision, which say nothing of it."""
    opened = await host.post(initialize(version))
    return {"Mcp-Session-Id": opened.headers["mcp-session-id"], "MCP-Protocol-Version": version}


async def asked(host: Host, method: str, params: Any, headers: dict[str, str] | None = None) -> dict[str, Any]:
    answer: dict[str, Any] = (await host.post(request(method, params), headers)).json()
    return answer


# Parameters


@each("method", LISTS)
@each("params", [{"cursor": ""}, {"cursor": None}, {}, {"_meta": None}])
async def test_a_list_without_a_cursor_begins(host: Host, method: str, params: dict[str, Any]) -> None:
    assert "result" in await asked(host, method, params)


CONTEXTS: list[dict[str, Any]] = [{}, {"arguments": []}, {"arguments": {"a": None, "b": 5}}]
PLAIN: list[tuple[str, Any]] = [
    ("prompts/get", {"name": "estimate_cost", "arguments": {"model": "demo/echo", "requests": 5}}),
    ("prompts/get", {"name": "estimate_cost", "arguments": {"model": "demo/echo", "requests": 5.0}}),
    ("prompts/get", {"name": "estimate_cost", "arguments": {"model": "demo/echo", "requests": None}}),
    ("prompts/get", {"name": "compare_models", "arguments": {"question": 42, "models": ["demo/echo", "demo/paced"]}}),
    ("prompts/get", {"name": "compare_models", "arguments": {"question": True, "models": []}}),
    ("prompts/get", ESTIMATE | {"arguments": '{"model": "demo/echo", "requests": 5, "prompt_tokens": null}'}),
    ("completion/complete", {"ref": {"type": "ref/prompt", "name": "estimate_cost"}, "argument": {"name": "model"}}),
    *(
        (
            "completion/complete",
            {
                "ref": {"type": "ref/prompt", "name": "estimate_cost"},
                "argument": {"name": "model", "value": value},
                "context": context,
            },
        )
        for value in (None, 5, 1.5, False)
        for context in CONTEXTS
    ),
    *(("logging/setLevel", {"level": level}) for level in ("INFO", "Warning", "warn", "WARN", "err", "fatal", "trace")),
    ("tools/call", {"name": "get_balance", "_meta": {"progressToken": None}}),
    ("tools/call", {"name": "get_balance", "arguments": None, "_meta": None}),
    ("ping", {"_meta": {"progressToken": None}}),
]


@each(("method", "params"), PLAIN)
async def test_parameters_that_are_plainly_meant_are_taken(host: Host, method: str, params: dict[str, Any]) -> None:
    answer = await asked(host, method, params)
    assert "error" not in answer, answer


async def test_what_a_prompt_is_given_is_read_as_text(host: Host) -> None:
    async def text(**arguments: Any) -> str:
        answer = await asked(
            host, "prompts/get", {"name": "estimate_cost", "arguments": {"model": "demo/echo"} | arguments}
        )
        told: str = answer["result"]["messages"][0]["content"]["text"]
        return told

    assert await text(requests=7, prompt_tokens=2e3) == await text(requests="7", prompt_tokens="2000")
    assert await text(requests=None) == await text()


async def test_a_call_whose_progress_token_is_null_has_no_listener(host: Host) -> None:
    message = chat()
    message["params"]["_meta"] = {"progressToken": None}
    answer = await host.post(message, {"Accept": "application/json, text/event-stream"})
    assert answer.headers["content-type"] == "application/json"


NAMED: list[tuple[str, Any, str]] = [
    ("logging/setLevel", {"level": "loud"}, "'debug', 'emergency', 'error', 'info', 'notice' or 'warning'"),
    ("logging/setLevel", {"level": 5}, "`level`"),
    ("logging/setLevel", {}, "`level`"),
    ("tools/list", {"cursor": 5}, "`cursor` must be text"),
    ("prompts/get", {"arguments": {}}, "`name` is missing"),
    ("prompts/get", ESTIMATE | {"arguments": {"model": {}}}, "`arguments.model` must be text"),
    ("prompts/get", ESTIMATE | {"arguments": {"model": ["a", 1]}}, "`arguments.model` must be text"),
    ("prompts/get", ESTIMATE | {"arguments": "x"}, "`arguments` must be an object"),
    ("completion/complete", {"argument": {"name": "x"}}, "`ref"),
    ("resources/read", {"uri": 5}, "`uri` must be text"),
    ("resources/read", {}, "`uri` is missing"),
    ("tools/call", {"name": "get_balance", "_meta": {"progressToken": 1.5}}, "`_meta.progressToken` must be"),
    ("tools/call", {"name": "get_balance", "_meta": {"progressToken": {}}}, "`_meta.progressToken` must be"),
    ("tools/call", {"name": "get_balance", "_meta": 5}, "`_meta` must be an object"),
]


@each(("method", "params", "words"), NAMED)
async def test_a_fault_in_the_parameters_is_named(host: Host, method: str, params: dict[str, Any], words: str) -> None:
    error = (await asked(host, method, params))["error"]
    assert error["code"] == INVALID_PARAMS
    assert words in error["message"]
    assert "data" not in error


async def test_what_an_error_repeats_of_a_request_is_short(host: Host) -> None:
    for answer in (
        await asked(host, "x" * 20_000, {}),
        await asked(host, "resources/read", {"uri": "x" * 20_000}),
        await asked(host, "tools/call", {"name": "x" * 20_000}),
        await asked(host, "prompts/get", {"name": "x" * 20_000}),
        await asked(host, "prompts/get", ESTIMATE | {"arguments": {"y" * 20_000: {}}}),
    ):
        assert len(orjson.dumps(answer)) < 1000


@each("uri", ["models://nope", "models://catalog/x", "models:catalog", "https://example.com", ""])
async def test_what_does_not_exist_can_be_subscribed_to_no_more_than_read(host: Host, uri: str) -> None:
    session = await session_of(host, "2025-11-25")
    for method in ("resources/subscribe", "resources/read"):
        error = (await asked(host, method, {"uri": uri}, session))["error"]
        assert (error["code"], error["data"]) == (-32002, {"uri": uri})
        assert "resources/list" in error["message"]
    assert "result" in await asked(host, "resources/unsubscribe", {"uri": uri}, session)
    assert not host.door.subscriptions.has_any


async def test_of_what_a_listener_asks_for_it_is_told_what_there_is(host: Host) -> None:
    wanted = {"resourceSubscriptions": ["models://nope", "MODELS://catalog", "models://demo%2Fecho"]}
    message, headers = modern(request("subscriptions/listen", {"notifications": wanted}))
    async with http_client() as http, http.stream("POST", host.url, json=message, headers=headers | JSON) as stream:
        acknowledged = (await next_message(stream.aiter_lines()))["params"]["notifications"]
    assert acknowledged == {"resourceSubscriptions": ["MODELS://catalog", "models://demo%2Fecho"]}


# Who the client is


@each(
    "said",
    [
        {"clientInfo": {"name": "x"}},
        {"clientInfo": {"version": "1"}},
        {"clientInfo": {"name": "x", "version": None}},
        {"clientInfo": {"name": "x", "version": 1.5}},
        {"clientInfo": {}},
        {"clientInfo": None},
        {"clientInfo": INFO, "capabilities": None},
        {"clientInfo": INFO, "capabilities": []},
        {"clientInfo": INFO, "capabilities": {"elicitation": True, "roots": None, "sampling": []}},
        {"clientInfo": INFO, "capabilities": {"elicitation": {"url": {}}, "roots": {"listChanged": True}}},
        {},
    ],
)
async def test_a_client_that_says_little_of_itself_gets_a_session(host: Host, said: dict[str, Any]) -> None:
    answer = await host.post(request("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}} | said))
    assert (answer.status_code, "mcp-session-id" in answer.headers) == (200, True), answer.text


@each(
    ("params", "words"),
    [
        ({"clientInfo": INFO}, "`protocolVersion` is missing"),
        ({"protocolVersion": 5, "clientInfo": INFO}, "`protocolVersion` must be"),
        ({"protocolVersion": "2025-11-25", "clientInfo": "x"}, "`clientInfo` must be an object"),
        ({"protocolVersion": "2025-11-25", "capabilities": "x"}, "`capabilities` must be an object"),
    ],
)
async def test_a_handshake_that_cannot_be_understood_is_told_why(
    host: Host, params: dict[str, Any], words: str
) -> None:
    answer = await host.post(request("initialize", params))
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


@each(
    "meta",
    [
        {CLIENT_INFO_META_KEY: {"name": "x"}},
        {CLIENT_INFO_META_KEY: None},
        {CLIENT_CAPABILITIES_META_KEY: None},
        {CLIENT_CAPABILITIES_META_KEY: {"elicitation": True}},
        {LOG_LEVEL_META_KEY: "WARN"},
        {"progressToken": None},
    ],
)
async def test_an_envelope_that_says_little_is_taken(host: Host, meta: dict[str, Any]) -> None:
    message, headers = modern(call("get_balance", {}))
    message["params"]["_meta"] |= meta
    answer = await host.post(message, headers)
    assert answer.status_code == 200, answer.text


# Texts


HALVES = [
    (r"a\ud83d b", "a\ufffd b"),
    (r"\ude00", "\ufffd"),
    (r"\uD83D\ud83d\uDE00", "\ufffd\U0001f600"),
    (r"\ud800\u0041", "\ufffdA"),
    (r"\\ud83d", r"\ud83d"),
    (r"\\\ud83d", "\\\ufffd"),
    (r"\ud83d\ude00", "\U0001f600"),
]


@each(("escaped", "text"), HALVES)
async def test_half_a_character_is_read_as_one_that_is_unknown(host: Host, escaped: str, text: str) -> None:
    assert orjson.loads(with_whole_characters(f'"{escaped}"'.encode())) == text
    body = orjson.dumps(chat("TEXT", "i")).replace(b"TEXT", escaped.encode())
    answer = (await host.post(body)).json()
    assert (answer["id"], text in answer["result"]["content"][0]["text"]) == ("i", True)


@pytest.mark.parametrize(
    "body", [b'{"a": "\xff"}', b'{"a": "\xed\xa0\xbd"}', rb'{"a": "\ud83d' + b"x" * 70_000 + b'"}']
)
async def test_a_body_that_is_no_json_is_told_why(host: Host, body: bytes) -> None:
    error = (await host.post(orjson.dumps(chat())[:-1] + b',"x":' + body + b"}")).json()["error"]
    assert error["code"] == PARSE_ERROR
    assert "surrogate" in error["message"]


async def test_a_byte_order_mark_and_a_compressed_body_are_read(host: Host) -> None:
    assert (await host.post(b"\xef\xbb\xbf" + orjson.dumps(PING))).json()["result"] == {}
    compressed = gzip.compress(orjson.dumps(PING))
    assert (await host.post(compressed, {"Content-Encoding": "gzip"})).json()["result"] == {}
    assert (await host.post(compressed, {"Content-Encoding": "lzma"})).status_code == 415


# Headers


@each(
    ("header", "json", "events"),
    [
        (b"application/json, text/event-stream", True, True),
        (b"application/json;q=0, text/event-stream", False, True),
        (b"application/json; q=0.000 , Text/Event-Stream;q=1", False, True),
        (b"text/event-stream;q=0, application/json", True, False),
        (b"text/event-stream;q=0", True, False),
        (b"*/*;q=0", True, False),
        (b"application/json;q=0, */*", False, True),
        (b"text/event-stream;q=0, */*", True, False),
        (b"application/*;q=0, text/*", False, True),
        (b"text/event-stream;q=0.1", False, True),
        (b"text/event-stream;q=", False, True),
        (b"application/json;charset=utf-8;q=0, text/event-stream", False, True),
        (b"text/html", True, False),
        (b"", True, False),
    ],
)
async def test_a_form_of_answer_that_is_not_wanted_is_not_sent(header: bytes, json: bool, events: bool) -> None:
    assert Accept.of(header) == Accept(json, events)


@each(
    ("lines", "kind"),
    [
        (["application/json", "text/event-stream"], "application/json"),
        (["text/event-stream", "application/json"], "application/json"),
        (["text/event-stream", "application/json;q=0"], "text/event-stream"),
        (["text/html", "text/event-stream"], "text/event-stream"),
    ],
)
async def test_all_lines_of_accept_count(host: Host, lines: list[str], kind: str) -> None:
    async with http_client() as http:
        headers = [("Content-Type", "application/json"), *(("Accept", line) for line in lines)]
        answer = await http.post(host.url, json=PING, headers=headers)
    assert answer.headers["content-type"] == kind


async def test_a_stream_is_opened_for_whoever_reads_events_by_any_line(host: Host) -> None:
    session = await host.open_session()
    async with http_client() as http:
        lines = [*session.items(), ("Accept", "text/event-stream"), ("Accept", "application/json")]
        async with http.stream("GET", host.url, headers=lines) as stream:
            assert stream.status_code == 200


@each("version", [MODERN, "2025-11-25", "2024-11-05", "", "2025-06-18, 2025-06-18"])
async def test_in_a_session_a_stale_version_header_means_nothing(host: Host, version: str) -> None:
    stale = await host.open_session() | {"MCP-Protocol-Version": version}
    assert (await host.post(PING, stale)).json()["result"] == {}
    assert (await host.post(INITIALIZED, stale)).status_code == 202
    async with http_client() as http:
        async with http.stream("GET", host.url, headers=stale | {"Accept": "text/event-stream"}) as stream:
            assert stream.status_code == 200
        assert (await http.delete(host.url, headers=stale)).status_code == 200
    assert (await host.post(initialize(), {"MCP-Protocol-Version": version})).status_code == 200


@each("version", ["1999-01-01", "2099-01-01", "DRAFT-2026-v1", "2025-06-18, 2025-11-25"])
async def test_a_version_that_there_never_was_is_refused_with_those_that_there_are(host: Host, version: str) -> None:
    for headers in (await host.open_session(), {}):
        answer = await host.post(PING, headers | {"MCP-Protocol-Version": version})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, UNSUPPORTED_PROTOCOL_VERSION)
        assert {"2025-11-25", MODERN} <= set(error["data"]["supported"])
    assert (await host.post(initialize(), {"MCP-Protocol-Version": version})).status_code == 200


# Batches


def answers_in(text: str) -> list[dict[str, Any]]:
    return [orjson.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26"])
async def test_a_batch_is_answered_in_one_body(host: Host, version: str) -> None:
    batch = [PING, INITIALIZED, request("tools/list", request_id="t"), request("nope", request_id=9), chat("hi", 3)]
    for headers in (await session_of(host, version), {"MCP-Protocol-Version": version}):
        answer = await host.post(batch, headers)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        ids = [(one["id"], "result" in one) for one in answer.json()]
        assert ids == [(7, True), ("t", True), (9, False), (3, True)]


async def test_a_batch_is_answered_by_events_to_who_reads_them_alone_or_was_told_something(host: Host) -> None:
    session = await session_of(host, "2025-03-26")
    answer = await host.post([PING, request("tools/list")], session | {"Accept": "text/event-stream"})
    assert [one["id"] for one in answers_in(answer.text)] == [7, 1]
    progressing = call("chat_completion", chat()["params"]["arguments"], 5, progressToken="p")
    told = answers_in((await host.post([progressing, PING], session)).text)
    assert told[0]["method"] == "notifications/progress"
    assert [one["id"] for one in told if "method" not in one] == [5, 7]


@pytest.mark.parametrize("messages", [[INITIALIZED], [INITIALIZED, {"jsonrpc": "2.0", "id": 1, "result": {}}]])
async def test_a_batch_that_asks_for_nothing_is_taken(host: Host, messages: list[Any]) -> None:
    for headers in (await session_of(host, "2025-03-26"), {"MCP-Protocol-Version": "2025-03-26"}):
        answer = await host.post(messages, headers)
        assert (answer.status_code, answer.content) == (202, b"")


@each(
    ("version", "batch", "words"),
    [
        ("2025-06-18", [PING], "2025-06-18"),
        ("2025-11-25", [PING, PING], "2025-11-25"),
        (MODERN, [PING], MODERN),
        ("2025-03-26", [], "from 1 to 32"),
        ("2025-03-26", [PING] * 33, "from 1 to 32"),
        ("2025-03-26", [PING, initialize()], "initialize"),
        ("2025-03-26", [PING, []], "object"),
        ("2025-03-26", [PING, 1], "object"),
    ],
)
async def test_a_batch_that_is_not_served_is_told_why(host: Host, version: str, batch: list[Any], words: str) -> None:
    answer = await host.post(batch, {"MCP-Protocol-Version": version})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, INVALID_REQUEST)
    assert words in error["message"]


async def test_each_message_of_a_batch_counts(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with open_host(tmp_path_factory.mktemp("counted"), limits={"listing_requests_per_minute": 3}) as host:
        batch = [request("tools/list", request_id=number) for number in range(5)]
        answers = (await host.post(batch, {"MCP-Protocol-Version": "2025-03-26"})).json()
    assert [one.get("error", {}).get("data", {}).get("code") for one in answers] == [None] * 3 + ["guest"] * 2


async def test_a_call_of_a_batch_can_be_cancelled(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with open_host(tmp_path_factory.mktemp("cancelled")) as host:
        gate, session = gated(host), await session_of(host, "2025-03-26")
        posting = asyncio.create_task(host.post([chat(model="demo/paced", request_id="a"), PING], session))
        await gate.is_reached.wait()
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "a"}}
        assert (await host.post(cancelled, session)).status_code == 202
        answers = (await posting).json()
    assert ["error" in one for one in answers] == [True, False]


async def test_a_batch_over_http_sse_is_answered_on_the_stream(host: Host) -> None:
    async with sse_session(host) as (lines, url):
        assert (await host.post([PING, request("nope", request_id="n"), INITIALIZED], url=url)).status_code == 202
        answers = [await next_message(lines) for _ in range(2)]
        assert {one["id"]: "result" in one for one in answers} == {7: True, "n": False}
        await host.post(initialize("2025-11-25"), url=url)
        await next_message(lines)
        assert (await host.post([PING], url=url)).status_code == 400


# HTTP+SSE behind a proxy's prefix


@each("path", ["/v1/mcp/sse", "/v1/mcp/sse/", f"{PREFIX}/v1/mcp/sse", f"{PREFIX}/v1/mcp/sse/"])
async def test_an_http_sse_client_finds_its_messages_wherever_its_stream_is(host: Host, path: str) -> None:
    url = host.url.removesuffix("/v1/mcp") + path
    async with Client(sse_client(url), mode="legacy") as client:
        assert len((await client.list_tools()).tools) == 3
    lines: asyncio.Queue[bytes] = asyncio.Queue()
    async with http_client() as http:
        bridge = Bridge(Remote(http, url, Log(is_verbose=False)), "sse", lines.put)
        await bridge.take(orjson.dumps(initialize()))
        assert "result" in orjson.loads(await lines.get())
        await bridge.aclose()


@pytest.mark.parametrize("path", ["/v1/mcp/sse", "/v1/mcp/sse/", "/api/v1/inference/mcp/sse"])
async def test_who_does_not_ask_for_events_by_name_is_told_a_whole_path(host: Host, path: str) -> None:
    url = host.url.removesuffix("/v1/mcp")
    async with http_client() as http, http.stream("GET", url + path) as stream:
        lines = stream.aiter_lines()
        assert await anext(lines) == "event: endpoint"
        messages = (await anext(lines)).removeprefix("data: ")
        assert messages.startswith(f"{path.removesuffix('/').removesuffix('sse')}messages/?session_id=mcp_")
        assert (await host.post(PING, url=url + messages)).status_code == 202


async def test_messages_need_no_slash_at_their_end(host: Host) -> None:
    async with sse_session(host) as (lines, url):
        assert (await host.post(PING, url=url.replace("/messages/?", "/messages?"))).status_code == 202
        assert (await next_message(lines))["result"] == {}
