"""The bridge as a program: its lines, options, exit codes and log, and the configuration that starts it."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from bridge.mcp_stdio_bridge import is_in_the_clear, main
from tests.bridge.mcp_server import GOOD_KEY
from tests.bridge.process import BRIDGE, INITIALIZE_PARAMS, McpTestServer, bridge_process, environment, text_of
from tests.patience import PATIENCE_S

EXAMPLE = Path(__file__).parents[2] / "claude_desktop_config.example.json"
CANARY = "canary-7f3a"


def run_bridge(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        input="",
        capture_output=True,
        text=True,
        env=environment(**variables),
        timeout=PATIENCE_S,
    )


@pytest.mark.program
async def test_lines_that_are_no_messages_are_answered_and_windows_line_ends_are_fine(server: McpTestServer) -> None:
    async with bridge_process(server.url) as bridge:
        bridge.send_line(b"not json\r\n\r\n\n[]\n")
        answers = [await bridge.read(), await bridge.read()]
        assert [(answer["id"], answer["error"]["code"]) for answer in answers] == [(None, -32700), (None, -32600)]
        frame = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": INITIALIZE_PARAMS}
        bridge.send_line(json.dumps(frame).encode() + b"\r\n")
        assert (await bridge.answer(1))["result"]["serverInfo"]["name"] == "test-server"


@pytest.mark.program
async def test_a_wrong_key_is_an_error_in_the_gateways_words_and_no_log_shows_it(server: McpTestServer) -> None:
    async with bridge_process(server.url, "--debug", GATEWAY_API_KEY=CANARY) as bridge:
        answer = await bridge.call("initialize", INITIALIZE_PARAMS, id=1)
        assert answer["error"]["message"] == "The API key is not valid."
        assert answer["error"]["data"]["code"] == "invalid_api_key"
        _, _, log = await bridge.end()
    assert log
    assert CANARY.encode() not in log


@pytest.mark.program
async def test_the_debug_log_tells_method_id_size_and_time_and_no_content(server: McpTestServer) -> None:
    async with bridge_process(server.url, "--debug") as bridge:
        await bridge.open()
        assert text_of(await bridge.echo(CANARY, id=7)) == CANARY
        _, _, log = await bridge.end()
    lines = log.decode().splitlines()
    assert any(line.startswith("mcp bridge: -> tools/call id=7 ") and line.endswith(" B") for line in lines)
    assert any(line.startswith("mcp bridge: <- result id=7 ") and line.endswith(" s") for line in lines)
    assert CANARY not in log.decode()


@pytest.mark.program
def test_the_bridge_ends_when_nobody_reads_its_output() -> None:
    reading, writing = os.pipe()
    command = [sys.executable, str(BRIDGE), "http://127.0.0.1:9/mcp"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=writing, env=environment()) as process:
        os.close(writing)
        os.close(reading)
        assert process.stdin
        process.stdin.write(b"not json\n")
        process.stdin.flush()
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["ftp://127.0.0.1/mcp"],
        ["http://[/mcp"],
        ["http://127.0.0.1:1/mcp", f"gw_live_{CANARY}"],
        ["http://127.0.0.1:1/mcp", f"--api-key={CANARY}"],
        ["http://127.0.0.1:1/mcp", "--key", CANARY],
        [f"http://:{CANARY}@127.0.0.1:1/mcp"],
        [f"http://127.0.0.1:1/mcp?api-key={CANARY}"],
        [f"http://127.0.0.1:1/gw_live_{CANARY}/mcp"],
    ],
)
def test_a_missing_url_or_a_key_in_the_arguments_is_refused_in_one_line_that_repeats_no_secret(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GATEWAY_URL", raising=False)
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    said = capsys.readouterr()
    assert raised.value.code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert CANARY not in said.err


def test_the_script_needs_only_python_and_what_its_header_names() -> None:
    source = BRIDGE.read_text()
    header = re.match(r"# /// script\n((?:# .*\n)+)# ///\n", source)
    assert header
    metadata = tomllib.loads(header[1].replace("# ", ""))
    assert metadata["requires-python"] == ">=3.11"
    nodes = list(ast.walk(ast.parse(source)))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    foreign = {name.split(".")[0] for name in imported} - sys.stdlib_module_names
    assert foreign == {re.split(r"\W", dependency)[0] for dependency in metadata["dependencies"]} == {"httpx2"}


@pytest.mark.parametrize(
    ("url", "is_so"),
    [
        ("http://127.0.0.1:8080/v1/mcp", False),
        ("http://[::1]:8080/v1/mcp", False),
        ("http://localhost/v1/mcp", False),
        ("https://gateway.example/v1/mcp", False),
        ("http://127.0.0.1.gateway.example/v1/mcp", True),
        ("http://gateway.example/v1/mcp", True),
    ],
)
def test_a_key_that_would_leave_the_machine_unencrypted_is_noticed(url: str, is_so: bool) -> None:
    assert is_in_the_clear(url) is is_so


@pytest.mark.program
def test_without_httpx2_one_line_says_how_to_get_it() -> None:
    ended = run_bridge("-S", str(BRIDGE), "http://127.0.0.1:1/mcp")  # -S: no installed packages
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert "pip install httpx2" in ended.stderr
    assert "uv run" in ended.stderr


@pytest.mark.program
async def test_check_tells_in_words_whether_url_key_and_tools_work(own_server: McpTestServer) -> None:
    good = run_bridge(str(BRIDGE), own_server.url, "--check", GATEWAY_API_KEY=GOOD_KEY)
    assert good.stderr == ""
    assert good.stdout.splitlines() == [
        "URL    works: test-server 1.0, streamable HTTP, protocol 2025-11-25",
        "Key    accepted",
        "Tools  3: echo, wait, announce",
    ]
    guest = run_bridge(str(BRIDGE), "--check", GATEWAY_URL=own_server.url + "/sse")
    assert "HTTP+SSE" in guest.stdout
    assert "you are a guest" in guest.stdout
    wrong = run_bridge(str(BRIDGE), own_server.url, "--check", GATEWAY_API_KEY="wrong")
    assert wrong.stdout == "Failed: The API key is not valid.\n"
    elsewhere = run_bridge(str(BRIDGE), own_server.url.removesuffix("/v1/mcp"), "--check")
    assert elsewhere.stdout.endswith("Is this the MCP address? A gateway's ends in /v1/mcp.\n")
    own_server.kill()
    down = run_bridge(str(BRIDGE), own_server.url, "--check")
    assert "cannot be reached" in down.stdout
    assert [wrong.stderr, elsewhere.stderr, down.stderr] == [""] * 3
    assert [good.returncode, guest.returncode, wrong.returncode, elsewhere.returncode, down.returncode] == [
        0,
        0,
        1,
        1,
        1,
    ]


@pytest.mark.program
def test_a_key_may_be_pasted_with_the_word_that_stands_before_it_in_a_header(server: McpTestServer) -> None:
    checked = run_bridge(str(BRIDGE), server.url, "--check", GATEWAY_API_KEY=f"Bearer {GOOD_KEY}")
    assert "Key    accepted" in checked.stdout
    assert server.requests[0]["headers"]["authorization"] == f"Bearer {GOOD_KEY}"


@pytest.mark.program
async def test_the_example_configuration_works_once_its_one_placeholder_is_replaced(server: McpTestServer) -> None:
    text = EXAMPLE.read_text()
    assert text.count("YOUR_API_KEY") == 1
    ((_, entry),) = json.loads(text.replace("YOUR_API_KEY", GOOD_KEY))["mcpServers"].items()
    assert entry["env"]["GATEWAY_URL"] == "http://127.0.0.1:8080/v1/mcp"  # where `make serve` listens
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # as the README tells
    variables = entry["env"] | {"GATEWAY_URL": server.url, "PATH": path}
    command = StdioServerParameters(command=entry["command"], args=entry["args"], env=variables)
    async with Client(command) as client:
        assert (await client.call_tool("echo", {"text": "a"})).structured_content == {"result": "a"}
    assert server.requests[0]["headers"]["authorization"] == f"Bearer {GOOD_KEY}"
