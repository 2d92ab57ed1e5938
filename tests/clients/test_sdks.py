"""The SDKs of others as MCP clients, over each transport and in both eras, straight and through a bridge."""

import sys
from pathlib import Path

import pytest

from tests.clients.installed import (
    BRIDGE,
    DEMOS,
    INSTALLED,
    MODEL,
    NODE,
    ODD_IDS,
    Gateway,
    Message,
    run_node,
    run_python,
)

pytestmark = pytest.mark.slow

TOOLS = {"chat_completion", "list_models", "get_balance"}
SDKS = [
    ("typescript 1", "legacy"),
    ("typescript 2", "legacy"),
    ("typescript 2", "modern"),
    ("python 1", "legacy"),
    ("python 2", "legacy"),
    ("python 2", "modern"),
]


def seen_by(sdk: str, told: Message) -> Message:
    """What a client on this SDK saw."""
    language, version = sdk.split()
    told = told | {"sdk": version, "model": MODEL}
    return (
        run_node("typescript_sdk.mjs", told)
        if language == "typescript"
        else run_python(f"python_sdk_{version}.py", told)
    )


def stdio(era: str, *command: str | Path, **variables: str) -> Message:
    """How a client starts a bridge."""
    program, *arguments = map(str, command)
    return {"transport": "stdio", "era": era, "command": program, "args": arguments, "env": variables}


def check_all_tools_worked(seen: Message, *, is_guest: bool = False, has_progress: bool = True) -> None:
    assert set(seen["tools"]) == TOOLS
    models = seen["models"]["structuredContent"]["models"]
    assert MODEL in {model["id"] for model in models}
    chat = seen["chat"]["structuredContent"]
    assert chat["content"].endswith("You said: Hello")
    assert chat["content"] == seen["chat"]["content"][0]["text"]
    assert chat["usage"]["completion_tokens"] > 0
    assert bool(seen["progress"]) is has_progress
    balance = seen["balance"]["structuredContent"]
    assert balance["balance_usd"] == ("0.00" if is_guest else "5.00")
    assert balance["is_guest"] is is_guest
    assert seen["refusal"]["isError"] is True
    assert seen["refusal"]["structuredContent"]["code"] == "model_not_found"


@pytest.mark.parametrize("transport", ["http", "sse"])
@pytest.mark.parametrize(("sdk", "era"), SDKS)
def test_an_sdk_calls_every_tool_at_the_url(gateway: Gateway, sdk: str, era: str, transport: str) -> None:
    url = gateway.mcp_url(transport)
    seen = seen_by(sdk, {"transport": transport, "era": era, "url": url, "headers": gateway.headers})
    check_all_tools_worked(seen)


@pytest.mark.parametrize(("sdk", "era"), SDKS)
def test_an_sdk_calls_every_tool_through_our_bridge(gateway: Gateway, sdk: str, era: str) -> None:
    variables = {"GATEWAY_URL": gateway.mcp_url("http"), "GATEWAY_API_KEY": gateway.key}
    check_all_tools_worked(seen_by(sdk, stdio(era, sys.executable, BRIDGE, **variables)))


def check_a_budget_was_handed_down_and_ended(seen: Message) -> None:
    """What came is as the schemas of the tools say, by which the SDKs check it."""
    assert set(seen["tools"]) == TOOLS | {"create_budget", "end_budget"}
    made, ended = seen["budget"]["structuredContent"], seen["ended"]["structuredContent"]
    assert made["key"].startswith("gw_live_")
    assert made["key"] in seen["budget"]["content"][0]["text"]
    assert (made["budget"]["left_usd"], made["budget"]["window"]) == ("0.50", "total")
    listed = {one["key_id"]: one["budgets"] for one in seen["handed_down"]["structuredContent"]["made"]}
    assert listed[made["key_id"]] == [made["budget"]]
    assert ended == {"key_id": made["key_id"], "made_ended": 0, "budgets": [made["budget"]]}


@pytest.mark.parametrize("transport", ["http", "sse"])
@pytest.mark.parametrize(("sdk", "era"), SDKS)
def test_an_sdk_hands_a_budget_down_at_the_url(gateway: Gateway, sdk: str, era: str, transport: str) -> None:
    headers = {"Authorization": f"Bearer {gateway.minting_key}"}
    told = {"transport": transport, "era": era, "url": gateway.mcp_url(transport), "headers": headers, "mints": True}
    check_a_budget_was_handed_down_and_ended(seen_by(sdk, told))


@pytest.mark.parametrize(("sdk", "era"), SDKS)
def test_an_sdk_hands_a_budget_down_through_our_bridge(gateway: Gateway, sdk: str, era: str) -> None:
    variables = {"GATEWAY_URL": gateway.mcp_url("http"), "GATEWAY_API_KEY": gateway.minting_key}
    told = stdio(era, sys.executable, BRIDGE, **variables) | {"mints": True}
    check_a_budget_was_handed_down_and_ended(seen_by(sdk, told))


@pytest.mark.parametrize("transport", ["http", "sse"])
def test_the_python_sdk_1_reads_every_model_as_a_resource(gateway: Gateway, transport: str) -> None:
    url = gateway.mcp_url(transport)
    seen = seen_by("python 1", {"transport": transport, "url": url, "headers": gateway.headers})["resources"]
    assert seen.keys() == {*DEMOS, *ODD_IDS}
    assert all(seen[id]["id"] == id for id in ODD_IDS)


@pytest.mark.parametrize("transport", ["http", "sse"])
def test_without_a_key_our_bridge_is_a_guest(gateway: Gateway, transport: str) -> None:
    told = stdio("legacy", sys.executable, BRIDGE, gateway.mcp_url(transport))
    check_all_tools_worked(seen_by("typescript 1", told), is_guest=True)


@pytest.mark.parametrize("transport", ["http", "sse"])
@pytest.mark.parametrize(("sdk", "era"), [("typescript 1", "legacy"), ("python 2", "modern")])
def test_mcp_remote_reaches_every_tool(gateway: Gateway, sdk: str, era: str, transport: str, tmp_path: Path) -> None:
    program = INSTALLED / "node_modules" / "mcp-remote" / "dist" / "proxy.js"
    options = ("--transport", f"{transport}-only", "--protocol", "legacy" if era == "legacy" else "auto")
    header = ("--header", "Authorization:${AUTHORIZATION}")
    variables = {"AUTHORIZATION": gateway.headers["Authorization"], "MCP_REMOTE_CONFIG_DIR": str(tmp_path)}
    told = stdio(era, NODE, program, gateway.mcp_url(transport), *options, *header, **variables)
    check_all_tools_worked(seen_by(sdk, told))


@pytest.mark.parametrize("transport", ["http", "sse"])
@pytest.mark.parametrize(("sdk", "era"), [("typescript 1", "legacy"), ("python 2", "modern")])
def test_fastmcp_remote_reaches_every_tool_and_forwards_no_progress(
    gateway: Gateway, sdk: str, era: str, transport: str
) -> None:
    program = INSTALLED / "python-sdk-2" / "bin" / "fastmcp-remote"
    header = f"Authorization: {gateway.headers['Authorization']}"
    told = stdio(era, program, gateway.mcp_url(transport), "--transport", transport, "--header", header)
    check_all_tools_worked(seen_by(sdk, told), has_progress=False)
