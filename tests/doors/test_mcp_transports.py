"""Every revision and transport on one address, as the SDK's client and as raw HTTP see it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio
from mcp.types import (
    CLIENT_CAPABILITIES_META_KEY,
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    PROTOCOL_VERSION_META_KEY,
    UNSUPPORTED_PROTOCOL_VERSION,
)

from mcp_gateway.core.bytes_in_flight import Owner
from mcp_gateway.core.caller import Allowance
from tests.cases import each
from tests.doors.mcp_host import (
    JSON,
    Host,
    call,
    chat,
    http_client,
    initialize,
    open_host,
    text_in,
)
from tests.patience import PATIENCE_S, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

HANDSHAKE_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN = "2026-07-28"
PING = {"jsonrpc": "2.0", "id": 7, "method": "ping"}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Host]:
    async with open_host(tmp_path_factory.mktemp("host"), max_body_bytes=100_000) as host:
        yield host


def modern(message: dict[str, Any], version: str = MODERN, **headers: str) -> tuple[dict[str, Any], dict[str, str]]:
    """A message with the envelope of 2026-07-28, and the headers that repeat it."""
    params = dict(message.get("params") or {})
    params["_meta"] = {PROTOCOL_VERSION_META_KEY: version, CLIENT_CAPABILITIES_META_KEY: {}} | params.get("_meta", {})
    sent = {"MCP-Protocol-Version": version, "Mcp-Method": message["method"]}
    if "name" in params:
        sent["Mcp-Name"] = params["name"]
    return {**message, "params": params}, sent | headers


def text_of(answer: httpx2.Response) -> str:
    text: str = answer.json()["result"]["content"][0]["text"]
    return text


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    return error


# The SDK's client


@each(
    ("transport", "mode", "version"),
    [
        ("http", "legacy", "2025-11-25"),
        ("http", "auto", MODERN),
        ("http", MODERN, MODERN),
        ("sse", "legacy", "2025-11-25"),
        ("sse", "auto", MODERN),
    ],
)
async def test_the_sdk_client_lists_and_calls_over_each_transport_in_each_era(
    host: Host, transport: str, mode: str, version: str
) -> None:
    async with host.client(transport, mode) as client:
        assert client.protocol_version == version
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert list(tools) == ["chat_completion", "list_models", "get_balance"]
        assert tools["chat_completion"].title == "Chat completion"
        answer = await client.call_tool("chat_completion", chat("hi")["params"]["arguments"])
        assert not answer.is_error
        text = text_in(answer.content[0])
        assert "hi" in text
        assert answer.structured_content["content"] == text


async def test_the_server_introduces_itself(host: Host) -> None:
    async with host.client("http", "legacy") as client:
        assert client.server_info is not None
        assert client.server_info.name == "mcp-gateway"
        assert client.server_info.title == "MCP Gateway"
        assert client.server_info.version == host.gateway.version
        assert "list_models" in (client.instructions or "")
        assert len(client.instructions or "") < 2048  # hosts cut them there


async def test_tools_say_what_they_do_to_the_world(host: Host) -> None:
    async with host.client("http") as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    hints = {name: (t.annotations.read_only_hint, t.annotations.idempotent_hint, t.annotations.open_world_hint)
             for name, t in tools.items() if t.annotations}  # fmt: skip
    assert hints == {
        "chat_completion": (True, False, True),
        "list_models": (True, True, False),
        "get_balance": (True, True, False),
    }


# Sessions of the older revisions


@each("version", HANDSHAKE_VERSIONS)
async def test_a_session_speaks_the_revision_that_it_was_opened_with(host: Host, version: str) -> None:
    opened = await host.post(initialize(version))
    assert opened.json()["result"]["protocolVersion"] == version
    session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
    assert (await host.post(INITIALIZED, session)).status_code == 202
    assert "hi" in text_of(await host.post(chat("hi"), session))
    listed = (await host.post({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}, session)).json()["result"]
    assert [tool["name"] for tool in listed["tools"]] == ["chat_completion", "list_models", "get_balance"]


async def test_an_unknown_revision_is_answered_with_one_that_is_spoken(host: Host) -> None:
    assert (await host.post(initialize("1999-01-01"))).json()["result"]["protocolVersion"] == "2025-11-25"


async def test_a_deleted_session_is_not_found(host: Host) -> None:
    others = len(host.door.sessions)
    session = await host.open_session()
    async with http_client() as http:
        assert (await http.delete(host.url, headers=session)).status_code == 200
        assert (await http.delete(host.url, headers=session)).status_code == 404
    answer = await host.post(PING, session)
    assert (answer.status_code, error_of(answer)["code"]) == (404, INVALID_REQUEST)
    assert len(host.door.sessions) == others


async def test_a_failed_initialize_opens_no_session(host: Host) -> None:
    others = len(host.door.sessions)
    answer = await host.post({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}})
    assert (answer.status_code, error_of(answer)["code"]) == (400, INVALID_PARAMS)
    assert "mcp-session-id" not in answer.headers
    assert len(host.door.sessions) == others


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_without_a_session_there_is_nothing_to_get_or_delete(host: Host, method: str) -> None:
    async with http_client() as http:
        answer = await http.request(method, host.url, headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_the_servers_stream_opens_for_a_session_and_a_second_one_replaces_it(host: Host) -> None:
    headers = await host.open_session() | {"Accept": "text/event-stream"}
    async with http_client() as http, http.stream("GET", host.url, headers=headers) as first:
        assert first.headers["content-type"] == "text/event-stream"
        bytes_of_first = first.aiter_bytes()
        assert await anext(bytes_of_first) == b": open\n\n"
        async with http.stream("GET", host.url, headers=headers) as second:
            assert await anext(second.aiter_bytes()) == b": open\n\n"
            assert [piece async for piece in bytes_of_first] == []


async def test_a_stream_needs_a_client_that_reads_events(host: Host) -> None:
    async with http_client() as http:
        answer = await http.get(host.url, headers=await host.open_session() | {"Accept": "application/json"})
    assert answer.status_code == 406


# Without a session


@each("version", HANDSHAKE_VERSIONS)
async def test_a_call_of_an_older_revision_needs_no_session(host: Host, version: str) -> None:
    answer = await host.post(chat("hi"), {"MCP-Protocol-Version": version})
    assert answer.headers["content-type"] == "application/json"
    assert "hi" in text_of(answer)
    assert ("structuredContent" in answer.json()["result"]) == (version >= "2025-06-18")


@each("version", HANDSHAKE_VERSIONS)
async def test_what_a_revision_lacks_is_absent_in_its_list_of_tools(host: Host, version: str) -> None:
    answer = await host.post({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, {"MCP-Protocol-Version": version})
    tool = answer.json()["result"]["tools"][0]
    assert ("annotations" in tool) == (version >= "2025-03-26")
    assert ("outputSchema" in tool) == ("title" in tool) == ("_meta" in tool) == (version >= "2025-06-18")
    if "_meta" in tool:
        assert tool["_meta"] == {"anthropic/maxResultSizeChars": 500_000}


async def test_a_call_without_a_version_is_served(host: Host) -> None:
    async with http_client() as http:
        answer = await http.post(host.url, json=chat("hi"), headers=JSON)
    assert "hi" in text_of(answer)


@pytest.mark.parametrize("path", ["/v1/mcp/", "/api/v1/inference/mcp", "/api/v1/inference/mcp/"])
async def test_each_address_serves_without_a_redirect(host: Host, path: str) -> None:
    answer = await host.post(chat("hi"), url=host.url.removesuffix("/v1/mcp") + path)
    assert "hi" in text_of(answer)


@each(
    ("accept", "kind"),
    [
        ("application/json", "application/json"),
        ("text/event-stream", "text/event-stream"),
        ("*/*", "application/json"),
        ("text/html", "application/json"),
    ],
)
async def test_the_answer_comes_in_a_form_that_the_client_reads(host: Host, accept: str, kind: str) -> None:
    answer = await host.post(chat("hi"), {"Accept": accept})
    assert answer.headers["content-type"] == kind
    payload = answer.text if kind == "application/json" else answer.text.split("data: ")[1]
    assert "hi" in orjson.loads(payload)["result"]["content"][0]["text"]


async def test_an_unknown_tool_is_a_protocol_error(host: Host) -> None:
    assert error_of(await host.post(call("nope", {})))["code"] == INVALID_PARAMS


async def test_an_unknown_method_is_a_protocol_error(host: Host) -> None:
    assert error_of(await host.post({"jsonrpc": "2.0", "id": 1, "method": "nope"}))["code"] == METHOD_NOT_FOUND


# 2026-07-28


async def test_discover_names_the_revision_and_what_the_server_can(host: Host) -> None:
    answer = await host.post(*modern({"jsonrpc": "2.0", "id": 1, "method": "server/discover"}))
    result = answer.json()["result"]
    assert result["supportedVersions"] == [MODERN]
    assert "tools" in result["capabilities"]


async def test_a_modern_result_says_that_it_is_complete_and_who_made_it(host: Host) -> None:
    answer = await host.post(*modern(chat("hi")))
    result = answer.json()["result"]
    assert result["resultType"] == "complete"
    assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "mcp-gateway"
    assert "mcp-session-id" not in answer.headers


async def test_the_list_of_tools_may_be_kept_by_its_reader_alone(host: Host) -> None:
    message = modern({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    first, second = (await host.post(*message)).content, (await host.post(*message)).content
    assert first == second
    result = orjson.loads(first)["result"]
    assert result["ttlMs"] > 0
    assert result["cacheScope"] == "private"


@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({"Mcp-Method": "tools/list"}, 400, HEADER_MISMATCH),
        ({"Mcp-Name": "get_balance"}, 400, HEADER_MISMATCH),
        ({"MCP-Protocol-Version": "2099-01-01"}, 400, HEADER_MISMATCH),
    ],
)
async def test_headers_that_contradict_the_body_are_refused(
    host: Host, changed: dict[str, str], status: int, code: int
) -> None:
    message, headers = modern(chat("hi"))
    answer = await host.post(message, headers | changed)
    assert (answer.status_code, error_of(answer)["code"], answer.json()["id"]) == (status, code, 1)


async def test_white_space_around_a_header_means_nothing(host: Host) -> None:
    message, headers = modern(chat("hi"))
    body = orjson.dumps(message)
    lines = [f"{name}:  {value} \t" for name, value in (JSON | headers).items()]
    head = ["POST /v1/mcp HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Length: {len(body)}", *lines]
    reader, writer = await asyncio.open_connection("127.0.0.1", int(host.url.split(":")[2].split("/")[0]))
    writer.write("\r\n".join([*head, "", ""]).encode() + body)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 200")


async def test_a_header_that_comes_twice_is_refused(host: Host) -> None:
    message, headers = modern(chat("hi"))
    async with http_client() as http:
        lines = [*JSON.items(), *headers.items(), ("Mcp-Name", "chat_completion")]
        answer = await http.post(host.url, json=message, headers=lines)
    assert (answer.status_code, error_of(answer)["code"]) == (400, HEADER_MISMATCH)


async def test_a_revision_of_the_future_is_told_what_is_served(host: Host) -> None:
    answer = await host.post(*modern(chat("hi"), "2099-01-01"))
    assert answer.status_code == 400
    assert error_of(answer)["code"] == UNSUPPORTED_PROTOCOL_VERSION
    assert error_of(answer)["data"]["supported"] == [MODERN]


async def test_an_envelope_without_its_headers_is_refused(host: Host) -> None:
    message, _ = modern(chat("hi"))
    async with http_client() as http:
        answer = await http.post(host.url, json=message, headers=JSON)
    assert (answer.status_code, error_of(answer)["code"]) == (400, HEADER_MISMATCH)


async def test_an_unknown_modern_method_is_404(host: Host) -> None:
    answer = await host.post(*modern({"jsonrpc": "2.0", "id": 1, "method": "nope"}))
    assert (answer.status_code, error_of(answer)["code"]) == (404, METHOD_NOT_FOUND)


async def test_2026_07_28_has_no_initialize(host: Host) -> None:
    answer = await host.post(*modern(initialize()))
    assert (answer.status_code, error_of(answer)["code"]) == (404, METHOD_NOT_FOUND)


async def test_a_modern_notification_is_taken_and_a_response_is_not(host: Host) -> None:
    headers = {"MCP-Protocol-Version": MODERN}
    assert (await host.post({"jsonrpc": "2.0", "method": "notifications/cancelled"}, headers)).status_code == 202
    assert (await host.post({"jsonrpc": "2.0", "id": 1, "result": {}}, headers)).status_code == 400
    assert (await host.post(INITIALIZED, {"MCP-Protocol-Version": "2099-01-01"})).status_code == 400


# HTTP+SSE


async def test_one_sse_connection_takes_discover_and_then_initialize(host: Host) -> None:
    async with http_client() as http, http.stream("GET", f"{host.url}/sse") as stream:
        events = stream.aiter_lines()
        assert await anext(events) == "event: endpoint"
        url = host.messages_url(await anext(events))
        discover, _ = modern({"jsonrpc": "2.0", "id": 1, "method": "server/discover"})
        for message in (discover, initialize(), chat("hi", request_id=2)):
            assert (await http.post(url, json=message)).status_code == 202
        answers: dict[Any, Any] = {}
        while len(answers) < 3:
            if (line := await anext(events)).startswith("data: "):
                answer = orjson.loads(line.removeprefix("data: "))
                answers[answer["id"]] = answer["result"]
    assert answers[1]["supportedVersions"] == [MODERN]
    assert answers[0]["protocolVersion"] == "2025-06-18"
    assert "hi" in answers[2]["content"][0]["text"]
    await eventually(lambda: not len(host.door.event_sessions))


async def test_the_sse_address_takes_no_post(host: Host) -> None:
    answer = await host.post(initialize(), url=f"{host.url}/sse")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


async def test_a_message_for_no_session_is_404(host: Host) -> None:
    answer = await host.post(PING, url=f"{host.url}/messages/?session_id=nope")
    assert answer.status_code == 404


# Bad input


@each("path", ["", "/messages/"])
@each(
    ("body", "code"),
    [
        (b"", PARSE_ERROR),
        (b"{", PARSE_ERROR),
        (b"\xff", PARSE_ERROR),
        (b"[" * 100_000, PARSE_ERROR),
        (b'"text"', INVALID_REQUEST),
        (b'{"id": 1, "method": "ping"}', INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 1}', INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 1, "method": 5}', INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []}', INVALID_REQUEST),
        (b"[]", INVALID_REQUEST),
        (b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}, 1]', INVALID_REQUEST),
    ],
)
async def test_what_is_not_one_message_is_one_clean_error(host: Host, path: str, body: bytes, code: int) -> None:
    async with http_client() as http, http.stream("GET", f"{host.url}/sse") as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        endpoint = host.messages_url(await anext(lines))
        answer = await host.post(body, url=endpoint if path else "")
    assert answer.status_code == 400
    assert error_of(answer)["code"] == code
    assert "pydantic" not in answer.text
    assert "Traceback" not in answer.text


@each(
    "params",
    [{"name": 5}, {"arguments": {}}, {"name": "chat_completion", "arguments": "x"}, {"name": "a", "_meta": 5}],
)
async def test_malformed_parameters_of_a_method_are_one_clean_error(host: Host, params: dict[str, Any]) -> None:
    answer = await host.post({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    assert error_of(answer)["code"] == INVALID_PARAMS
    assert "pydantic" not in answer.text


async def test_a_body_over_the_limit_is_413_however_it_is_sent(host: Host) -> None:
    async def in_pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * 50_000

    declared = await host.post(chat("x" * 200_000))
    async with http_client() as http:
        undeclared = await http.post(host.url, content=in_pieces(), headers=JSON)
    for answer in (declared, undeclared):
        assert answer.status_code == 413
        assert "100000 bytes" in error_of(answer)["message"]


@pytest.mark.parametrize("path", ["", "/messages/"])
async def test_only_a_call_of_a_tool_may_be_large_and_this_is_seen_without_parsing(host: Host, path: str) -> None:
    long = {"text": "x" * 70_000}
    messages = [
        (PING | {"params": long}, 413),
        ({"params": long} | PING, 413),
        (call("list_models", {}) | {"extra": long}, 200),
        ({"extra": long} | call("list_models", {}), 200),
        (orjson.dumps({"extra": long} | call("list_models", {}))[:-1] + b',"method":"ping"}', 413),
        (orjson.dumps({"params": long} | PING)[:-1] + b',"method":"tools/call","params":{"name":"list_models"}}', 200),
        ({"jsonrpc": "2.0", "id": 1, "result": long}, 413),
        ({"jsonrpc": "2.0", "method": "notifications/x", "params": long}, 413),
        (initialize() | {"extra": long}, 413),
        (b"[" * 70_000, 400),
        (orjson.dumps(call("list_models", {}) | {"extra": long})[:-1], 400),
    ]
    async with httpx2.AsyncClient(timeout=PATIENCE_S) as http, http.stream("GET", f"{host.url}/sse") as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        endpoint = host.messages_url(await anext(lines))
        for number, (message, status) in enumerate(messages):
            answer = await host.post(message, url=endpoint if path else "")
            assert answer.status_code == (202 if path and status == 200 else status), number
            if status != 200:
                assert error_of(answer)["code"] == (INVALID_REQUEST if status == 413 else PARSE_ERROR)


async def test_a_guests_body_is_smaller_than_a_keys(host: Host, tmp_path: Path) -> None:
    async with open_host(tmp_path / "other", guests={"max_body_bytes": 80_000}) as host:
        message = chat("x" * 80_000)
        assert (await host.post(message)).status_code == 413
        assert (await host.post(message, host.key("k"))).status_code == 200


async def test_a_message_that_finds_no_room_in_memory_is_503(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    room = host.gateway.bytes_in_flight
    monkeypatch.setattr(room.large, "_wait_s", 0.0)
    key = host.key("k")
    with room.reservation(Owner("k", "192.0.2.77", False)) as reservation:
        await reservation.grow(room.used_bytes + 32 * 1024 * 1024)
        answer = await host.post(chat("x" * 80_000), key)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert error_of(answer)["code"] == -32000
        assert (await host.post(PING, key)).status_code == 200
    assert (await host.post(chat("x" * 80_000), key)).status_code == 200
    assert room.used_bytes == 0


async def test_only_json_is_taken(host: Host) -> None:
    answer = await host.post(PING, {"Content-Type": "text/plain"})
    assert answer.status_code == 415


async def test_an_unknown_http_method_is_told_the_known_ones(host: Host) -> None:
    async with http_client() as http:
        answer = await http.put(host.url, json=PING)
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, POST")


# Who may call


async def test_a_session_is_not_found_by_anyone_but_its_opener(host: Host) -> None:
    alice, bob = host.key("alice"), host.key("bob")
    session = await host.open_session(alice)
    assert (await host.post(PING, session)).status_code == 200
    assert (await host.post(PING, session | bob)).status_code == 404
    session.pop("X-Test-Key")
    assert (await host.post(PING, session)).status_code == 404
    async with http_client() as http:
        assert (await http.delete(host.url, headers=session | bob)).status_code == 404
        assert (await http.get(host.url, headers=session | bob)).status_code == 404


async def test_a_guests_session_belongs_to_its_address(host: Host) -> None:
    session = await host.open_session({"X-Test-Address": "192.0.2.7"})
    assert (await host.post(PING, session)).status_code == 200
    assert (await host.post(PING, session | {"X-Test-Address": "192.0.2.8"})).status_code == 404


async def test_an_sse_session_takes_messages_from_its_opener_only(host: Host) -> None:
    alice, bob = host.key("alice"), host.key("bob")
    async with http_client() as http, http.stream("GET", f"{host.url}/sse", headers=alice) as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        url = host.messages_url(await anext(lines))
        assert (await http.post(url, json=PING, headers=alice)).status_code == 202
        assert (await http.post(url, json=PING, headers=bob)).status_code == 404
        assert (await http.post(url, json=PING)).status_code == 404


async def test_each_message_acts_as_the_key_that_brought_it(host: Host) -> None:
    """The key's limits may have changed since the session was opened."""
    alice = host.key("alice")
    session = await host.open_session(alice)
    host.key("alice", Allowance(requests_per_minute=42, requests_per_day=None, tokens_per_minute=None, in_flight=None))
    balance = (await host.post(call("get_balance", {}), session)).json()["result"]["structuredContent"]
    assert balance["limits"]["requests_per_minute"] == 42


@each(
    ("headers", "status"),
    [
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:1"}, 200),
        ({"Host": "gw.example.com"}, 200),
        ({"Host": "GW.example.com:443"}, 200),
        ({"Host": "also.example.com:8443"}, 200),
        ({"Host": "evil.example.com"}, 421),
        ({"Host": "localhost.evil.example.com"}, 421),
        ({"Origin": "https://gw.example.com"}, 200),
        ({"Origin": "https://app.example.com"}, 200),
        ({"Origin": "http://localhost:6274"}, 200),
        ({"Origin": "https://evil.example.com"}, 403),
        ({"Origin": "http://localhost.evil.example.com"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
async def test_only_known_hosts_and_origins_are_let_in(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    known: dict[str, Any] = {
        "public_url": "https://gw.example.com",
        "allowed_hosts": ("also.example.com",),
        "allowed_origins": ("https://app.example.com",),
    }
    async with open_host(tmp_path, **known) as host:
        answers = [
            await host.post(PING, headers),
            await host.post(PING, headers, f"{host.url}/messages/?session_id=x"),
        ]
        assert answers[0].status_code == status
        assert answers[1].status_code == (404 if status == 200 else status)
        if status != 200:
            async with http_client() as http:
                assert (await http.get(f"{host.url}/sse", headers=headers)).status_code == status


async def test_any_host_can_be_allowed(tmp_path: Path) -> None:
    async with open_host(tmp_path, allowed_hosts=("*",)) as host:
        assert (await host.post(PING, {"Host": "whatever.example.com"})).status_code == 200


async def test_more_names_than_any_tool_has_are_refused(host: Host) -> None:
    for member in ("arguments", "_meta", "x"):
        params = {"name": "list_models", member: {str(number): 1 for number in range(1001)}}
        message = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
        answer = await host.post(orjson.dumps(message))
        assert (answer.status_code, answer.json()["id"]) == (400, 7)
        assert error_of(answer)["code"] == INVALID_PARAMS
