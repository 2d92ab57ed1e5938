"""The bridge between real clients and a real server: both transports, both eras."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

import pytest
from mcp import Client, StdioServerParameters

from tests.bridge.mcp_server import GOOD_KEY
from tests.bridge.process import BRIDGE, INITIALIZE_PARAMS, McpTestServer, Message, bridge_process, text_of
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.program
TRANSPORTS = ("http", "sse")


def url_for(server: McpTestServer, transport: str) -> str:
    return server.url + ("/sse" if transport == "sse" else "")


def stdio(*arguments: str, **variables: str) -> StdioServerParameters:
    return StdioServerParameters(command=sys.executable, args=[str(BRIDGE), *arguments], env=variables)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("mode", "version"), [("legacy", "2025-11-25"), ("auto", "2026-07-28")])
async def test_the_sdk_client_calls_tools_and_hears_progress(
    server: McpTestServer, transport: str, mode: str, version: str
) -> None:
    heard = []
    has_heard = asyncio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total, message))
        has_heard.set()

    async with Client(stdio(url_for(server, transport)), mode=mode) as client:
        assert client.protocol_version == version
        assert {tool.name for tool in (await client.list_tools()).tools} == {"echo", "wait", "announce"}
        result = await client.call_tool("echo", {"text": "grüße\n  2"})
        assert result.structured_content == {"result": "grüße\n  2"}
        call = asyncio.create_task(client.call_tool("wait", {}, progress_callback=on_progress))
        await has_heard.wait()
        call.cancel()
        await server.noted("cancelled")
    assert heard == [(1.0, 2.0, "half")]
    assert not [seen for seen in server.requests if "authorization" in seen["headers"]]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_legacy_cancel_reaches_the_tool_and_the_call_gets_no_answer(
    server: McpTestServer, transport: str
) -> None:
    async with bridge_process(url_for(server, transport)) as bridge:
        await bridge.open()
        bridge.send("tools/call", {"name": "wait", "arguments": {}, "_meta": {"progressToken": "p"}}, id=1)
        progress = await bridge.read()
        assert progress["method"] == "notifications/progress"
        assert progress["params"]["progressToken"] == "p"
        bridge.send("notifications/cancelled", {"requestId": 1})
        await server.noted("cancelled")
        assert text_of(await bridge.echo("next", id=2)) == "next"
        bridge.send("notifications/cancelled", {"requestId": 1})  # too late: harmless
        bridge.send("notifications/cancelled", {"requestId": ["odd"]})
        assert text_of(await bridge.echo("last", id=3)) == "last"


async def test_a_modern_cancel_closes_the_response_and_is_not_forwarded(server: McpTestServer) -> None:
    async with bridge_process(server.url) as bridge:
        bridge.send_modern("tools/call", {"name": "wait", "arguments": {}, "_meta": {"progressToken": "p"}}, id=1)
        assert (await bridge.read())["method"] == "notifications/progress"
        posts = len(server.requests)
        bridge.send("notifications/cancelled", {"requestId": 1})
        await server.noted("cancelled")
        assert len(server.requests) == posts


async def test_modern_frames_carry_their_version_method_and_name_in_headers(server: McpTestServer) -> None:
    async with bridge_process(server.url, GATEWAY_API_KEY=GOOD_KEY) as bridge:
        bridge.send_modern("tools/call", {"name": "echo", "arguments": {"text": "a"}}, id=1)
        assert text_of(await bridge.answer(1)) == "a"
        bridge.send_modern("tools/call", {"name": "größe", "arguments": {}}, id=2)
        assert (await bridge.answer(2))["result"]["isError"]
    first, second = server.requests
    assert first["headers"]["mcp-protocol-version"] == "2026-07-28"
    assert first["headers"]["mcp-method"] == "tools/call"
    assert first["headers"]["mcp-name"] == "echo"
    assert second["headers"]["mcp-name"] == "=?base64?Z3LDtsOfZQ==?="
    assert first["headers"]["authorization"] == f"Bearer {GOOD_KEY}"
    assert "mcp-session-id" not in first["headers"]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_client_may_send_discover_and_then_initialize(server: McpTestServer, transport: str) -> None:
    async with bridge_process(url_for(server, transport)) as bridge:
        bridge.send_modern("server/discover", id="probe")
        assert "2026-07-28" in (await bridge.answer("probe"))["result"]["supportedVersions"]
        assert (await bridge.open())["result"]["protocolVersion"] == "2025-11-25"
        assert text_of(await bridge.echo("a", id=1)) == "a"


async def test_legacy_frames_carry_the_session_and_the_agreed_version(server: McpTestServer) -> None:
    async with bridge_process(server.url) as bridge:
        await bridge.open()
        await bridge.echo("a", id=1)
        await server.noted("streaming")
        code, output, _ = await bridge.end()
    assert (code, output) == (0, b"")
    first, *later = server.requests
    assert "mcp-session-id" not in first["headers"]
    assert "mcp-protocol-version" not in first["headers"]
    assert {seen["headers"]["mcp-protocol-version"] for seen in later} == {"2025-11-25"}
    assert len({seen["headers"]["mcp-session-id"] for seen in later}) == 1
    assert later[-1]["method"] == "DELETE"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_notifications_of_the_server_reach_the_client(server: McpTestServer, transport: str) -> None:
    async with bridge_process(url_for(server, transport)) as bridge:
        await bridge.open()
        await server.noted("streaming")
        bridge.send("tools/call", {"name": "announce", "arguments": {}}, id=1)
        messages = [await bridge.read(), await bridge.read()]
    assert {message.get("method", "answer") for message in messages} == {"answer", "notifications/tools/list_changed"}


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_an_address_without_streamable_http_is_reached_over_sse(server: McpTestServer, mode: str) -> None:
    async with Client(stdio(server.url + "/sse"), mode=mode) as client:
        assert (await client.call_tool("echo", {"text": "a"})).structured_content == {"result": "a"}
    methods = [(seen["method"], seen["path"]) for seen in server.requests[:3]]
    assert methods == [("POST", "/v1/mcp/sse"), ("GET", "/v1/mcp/sse"), ("POST", "/v1/mcp/messages/")]


async def test_a_forced_transport_does_not_fall_back(server: McpTestServer) -> None:
    async with bridge_process(server.url + "/sse", "--transport", "http") as bridge:
        answer = await bridge.call("initialize", INITIALIZE_PARAMS, id=1)
    assert answer["error"]["data"] == {"type": "http_error", "status": 405}
    assert [seen["method"] for seen in server.requests] == ["POST"]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_ten_megabytes_pass_both_ways(server: McpTestServer, transport: str) -> None:
    text = "0123456789" * 1_000_000
    async with bridge_process(url_for(server, transport)) as bridge:
        await bridge.open()
        assert text_of(await bridge.echo(text, id=1)) == text


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_calls_run_side_by_side(server: McpTestServer, transport: str) -> None:
    async with bridge_process(url_for(server, transport)) as bridge:
        await bridge.open()
        bridge.send("tools/call", {"name": "wait", "arguments": {}}, id="slow")
        await server.noted("call")
        for i in range(20):
            bridge.send("tools/call", {"name": "echo", "arguments": {"text": str(i)}}, id=i)
        answers = [await bridge.read() for _ in range(20)]
        assert await bridge.told_to_end(signal.SIGTERM) == 128 + signal.SIGTERM
        await server.noted("cancelled")
    assert {answer["id"]: text_of(answer) for answer in answers} == {i: str(i) for i in range(20)}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_session_survives_a_restart_of_the_server(own_server: McpTestServer, transport: str) -> None:
    async with bridge_process(url_for(own_server, transport)) as bridge:
        await bridge.open()
        assert text_of(await bridge.echo("before", id=1)) == "before"
        own_server.kill()
        down = await bridge.echo("down", id=2)
        assert down["error"]["data"] == {"type": "server_unreachable", "may_have_been_delivered": False}
        own_server.start()
        assert text_of(await bridge.echo("after", id=3)) == "after"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_many_calls_that_find_the_session_gone_open_one_new_session(
    own_server: McpTestServer, transport: str
) -> None:
    async with bridge_process(url_for(own_server, transport)) as bridge:
        await bridge.open()
        own_server.kill()
        own_server.start()
        for i in range(10):
            bridge.send("tools/call", {"name": "echo", "arguments": {"text": str(i)}}, id=i)
        answers = [await bridge.read() for _ in range(10)]
    assert {answer["id"]: text_of(answer) for answer in answers} == {i: str(i) for i in range(10)}
    assert len(own_server.tools_called) == 10


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_call_cut_by_a_crash_is_answered_with_an_error_and_not_sent_again(
    own_server: McpTestServer, transport: str
) -> None:
    async with bridge_process(url_for(own_server, transport)) as bridge:
        await bridge.open()
        bridge.send("tools/call", {"name": "wait", "arguments": {}}, id=1)
        await own_server.noted("call")
        own_server.kill()
        cut = await bridge.answer(1)
        assert cut["error"]["data"] == {"type": "connection_lost", "may_have_been_delivered": True}
        own_server.start()
        assert text_of(await bridge.echo("after", id=2)) == "after"
    assert own_server.tools_called == ["echo"]


async def test_the_stream_of_notifications_comes_back_after_a_restart_without_a_call(own_server: McpTestServer) -> None:
    async with bridge_process(own_server.url) as bridge:
        await bridge.open()
        await own_server.noted("streaming")
        own_server.kill()
        own_server.start()
        await own_server.noted("streaming")
        assert [seen["method"] for seen in own_server.requests] == ["GET", "POST", "POST", "GET"]
        bridge.send("tools/call", {"name": "announce", "arguments": {}}, id=1)
        messages = [await bridge.read(), await bridge.read()]
    assert {message.get("method", "answer") for message in messages} == {"answer", "notifications/tools/list_changed"}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_client_that_leaves_ends_the_bridge_and_its_calls(server: McpTestServer, transport: str) -> None:
    async with bridge_process(url_for(server, transport)) as bridge:
        await bridge.open()
        bridge.send("tools/call", {"name": "wait", "arguments": {}}, id=1)
        await server.noted("call")
        code, output, log = await bridge.end()
    assert (code, output) == (0, b"")
    assert b"Traceback" not in log
    await server.noted("cancelled")


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(("by", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)])
async def test_a_bridge_that_is_told_to_end_cancels_its_calls_and_ends_the_session(
    server: McpTestServer, transport: str, by: signal.Signals, code: int
) -> None:
    async with bridge_process(url_for(server, transport)) as bridge:
        await bridge.open()
        bridge.send("tools/call", {"name": "wait", "arguments": {}}, id=1)
        await server.noted("call")
        assert await bridge.told_to_end(by) == code
    await server.noted("cancelled")
    assert (server.requests[-1]["method"] == "DELETE") is (transport == "http")


async def test_where_nobody_reads_the_answers_any_more_the_calls_are_cancelled(server: McpTestServer) -> None:
    reading, writing = os.pipe()
    async with bridge_process(server.url, stdout=writing) as bridge:
        os.close(writing)
        bridge.send_modern("tools/call", {"name": "wait", "arguments": {}}, id=1)
        await server.noted("call")
        os.close(reading)
        await server.noted("cancelled")
        async with asyncio.timeout(PATIENCE_S):
            assert await bridge.process.wait() == 0


def line(method: str, params: Message, **members: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params, **members}).encode()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_all_that_a_script_has_sent_is_answered_also_a_last_line_without_an_end(
    server: McpTestServer, transport: str
) -> None:
    echo = {"name": "echo", "arguments": {"text": "a"}}
    opening = [line("initialize", INITIALIZE_PARAMS, id="init"), line("notifications/initialized", {})]
    calls = [line("tools/call", echo, id=number) for number in range(5)]
    async with bridge_process(url_for(server, transport)) as bridge:
        output, _ = await bridge.process.communicate(b"\n".join(opening + calls))
    answers = [json.loads(answer) for answer in output.splitlines()]
    assert {answer["id"] for answer in answers if "result" in answer} == {"init", *range(5)}
