"""What the MCP door refuses is counted as what HTTP refuses is: once, by a code or by one of few names."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.cases import each
from tests.doors.mcp_host import Host, call, chat, open_host
from tests.doors.test_mcp_lifetimes import next_message, sse_session
from tests.doors.test_mcp_transports import PING, modern

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Host]:
    async with open_host(tmp_path_factory.mktemp("refused")) as host:
        yield host


def refused(host: Host) -> Counter[str]:
    """How often, by the label of the metric."""
    head = 'gateway_refusals_total{code="'
    lines = [line for line in host.gateway.metrics.exposition().decode().splitlines() if line.startswith(head)]
    return Counter({line.removeprefix(head).partition('"')[0]: int(float(line.split()[-1])) for line in lines})


def request(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


REFUSED: dict[str, tuple[Any, dict[str, str], str, str]] = {
    "no JSON": (b"{", {}, "", "parse_error"),
    "no JSON-RPC": ({"jsonrpc": "1.0", "id": 1, "method": "ping"}, {}, "", "invalid_request"),
    "no method": ({"jsonrpc": "2.0", "id": 1}, {}, "", "invalid_request"),
    "unknown method": (request("no/such"), {}, "", "method_not_found"),
    "unknown tool": (call("no_such_tool", {}), {}, "", "invalid_params"),
    "params of another shape": (request("prompts/get", name=5), {}, "", "invalid_params"),
    "arguments of another shape": (request("tools/call", name="list_models", arguments=5), {}, "", "invalid_params"),
    "unknown resource": (request("resources/read", uri="models://no/such"), {}, "", "resource_not_found"),
    "unknown session": (PING, {"Mcp-Session-Id": "mcp_none"}, "", "session_not_found"),
    "unknown stream": (PING, {}, "/messages/?session_id=none", "session_not_found"),
    "unknown version": (PING, {"MCP-Protocol-Version": "1999-01-01"}, "", "unsupported_protocol_version"),
    "no JSON by its type": (PING, {"Content-Type": "text/plain"}, "", "unsupported_media_type"),
    "an origin": (PING, {"Origin": "https://evil.example"}, "", "unknown_origin"),
    "too large": (request("ping", text="x" * 200_000), {}, "", "body_too_large"),
    "an error of a tool": (chat("hi", model="no/such"), {}, "", "model_not_found"),
    "an argument that it lacks": (call("chat_completion", {"model": "demo/echo"}), {}, "", "missing_parameter"),
}


@each("case", REFUSED)
async def test_a_refusal_is_counted_once(host: Host, case: str) -> None:
    message, headers, path, code = REFUSED[case]
    before = refused(host)
    await host.post(message, headers, f"{host.url}{path}")
    assert refused(host) - before == Counter({code: 1})


async def test_what_is_served_is_no_refusal(host: Host) -> None:
    before = refused(host)
    for message in (PING, chat("hi"), request("tools/list")):
        assert (await host.post(message)).status_code == 200
    assert refused(host) == before


async def test_a_method_that_the_server_does_not_answer_at_its_address_is_counted(host: Host) -> None:
    message, headers = modern(request("no/such"))
    before = refused(host)
    await host.post(message, headers)
    assert refused(host) - before == Counter({"method_not_found": 1})


async def test_each_refusal_in_a_batch_is_counted(host: Host) -> None:
    long_id = {"jsonrpc": "2.0", "id": "x" * 300, "method": "ping"}
    batch = [request("no/such"), PING, call("no_such_tool", {}, 2), long_id]
    before = refused(host)
    answer = await host.post(batch, {"MCP-Protocol-Version": "2025-03-26"})
    assert len(answer.json()) == 4, answer.text
    assert refused(host) - before == Counter({"method_not_found": 1, "invalid_params": 1, "invalid_request": 1})


async def test_a_refusal_that_is_told_on_a_stream_is_counted(host: Host) -> None:
    before = refused(host)
    async with sse_session(host) as (lines, messages):
        for message in (request("no/such"), call("no_such_tool", {}), request("ping") | {"id": "x" * 300}):
            assert (await host.post(message, url=messages)).status_code == 202
            assert "error" in await next_message(lines)
    assert refused(host) - before == Counter({"method_not_found": 1, "invalid_params": 1, "invalid_request": 1})
