"""The MCP Inspector's command line: lists and calls every tool over each transport, in both eras, strictly."""

import json
import sys
from subprocess import CompletedProcess

import pytest

from tests.clients.installed import BRIDGE, INSTALLED, MODEL, NODE, Gateway, Message, run

pytestmark = pytest.mark.slow

INSPECTOR = INSTALLED / "node_modules" / ".bin" / "mcp-inspector"
TRANSPORTS = pytest.mark.parametrize("transport", ["http", "sse", "stdio"])
ERAS = pytest.mark.parametrize("era", ["legacy", "modern"])
ARGUMENTS = {
    "list_models": {},
    "get_balance": {},
    "chat_completion": {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]},
}
IS_ERROR, NEEDS_AUTH = 5, 3


def inspect(gateway: Gateway, transport: str, era: str, *options: str) -> CompletedProcess[str]:
    """Runs the Inspector's command line once."""
    target = [gateway.mcp_url(transport), "--header", f"Authorization: {gateway.headers['Authorization']}"]
    if transport == "stdio":
        variables = {"GATEWAY_URL": gateway.mcp_url("http"), "GATEWAY_API_KEY": gateway.key}
        target = [sys.executable, str(BRIDGE)]
        for name, value in variables.items():
            target += ["-e", f"{name}={value}"]
    chosen = ("--transport", transport, "--protocol-era", era, "--format", "json")
    return run(NODE, INSPECTOR, "--cli", *target, *chosen, *options)


def printed(ended: CompletedProcess[str]) -> Message:
    assert ended.returncode == 0, ended.stderr
    result: Message = json.loads(ended.stdout)["result"]
    return result


@TRANSPORTS
@ERAS
def test_the_inspector_lists_the_tools_and_finds_no_error_in_their_schemas(
    gateway: Gateway, transport: str, era: str
) -> None:
    listed = printed(inspect(gateway, transport, era, "--method", "tools/list", "--strict"))
    assert {tool["name"] for tool in listed["tools"]} == set(ARGUMENTS)


@TRANSPORTS
@ERAS
@pytest.mark.parametrize("tool", ARGUMENTS)
def test_the_inspector_calls_a_tool(gateway: Gateway, transport: str, era: str, tool: str) -> None:
    call = ("--method", "tools/call", "--tool-name", tool, "--tool-args-json", json.dumps(ARGUMENTS[tool]))
    result = printed(inspect(gateway, transport, era, *call))
    assert result["structuredContent"]
    assert result["isError"] is False


@ERAS
def test_the_inspector_tells_a_refused_call_from_a_refused_key(gateway: Gateway, era: str) -> None:
    refused = inspect(
        gateway, "http", era, "--method", "tools/call", "--tool-name", "chat_completion",
        "--tool-args-json", json.dumps(ARGUMENTS["chat_completion"] | {"model": "no/such"}),
    )  # fmt: skip
    assert refused.returncode == IS_ERROR
    assert json.loads(refused.stdout)["result"]["structuredContent"]["code"] == "model_not_found"
    stranger = Gateway(gateway.url, "gw_live_wrong")
    assert inspect(stranger, "http", era, "--method", "tools/list").returncode == NEEDS_AUTH
