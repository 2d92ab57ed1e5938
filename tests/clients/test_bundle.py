"""What `make bundle` writes, as the published tools judge it and as a desktop host would start it."""

import json
import os
from hashlib import sha256
from pathlib import Path

import pytest

from mcp_gateway import __version__
from scripts.bundle import BRIDGE, main
from tests.clients.installed import INSTALLED, NODE, Gateway, Message, environment, output, run, run_node
from tests.clients.test_sdks import check_all_tools_worked, seen_by

pytestmark = pytest.mark.slow

MCPB = INSTALLED / "node_modules" / ".bin" / "mcpb"
SKILLSAW = INSTALLED / "tools" / "bin" / "skillsaw"
DOWNLOAD = f"https://github.com/example/mcp-gateway/releases/download/v{__version__}/mcp-gateway-{__version__}.mcpb"
PUBLIC = ("--name", "com.example/gateway", "--url", "https://gateway.example.com", "--download-url", DOWNLOAD)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    main(["--out", str(tmp_path)])
    return tmp_path / f"mcp-gateway-{__version__}.mcpb"


@pytest.fixture
def unpacked(bundle: Path, tmp_path: Path) -> Path:
    """The bundle as the published tool unpacks it."""
    output(NODE, MCPB, "unpack", bundle, tmp_path / "unpacked")
    return tmp_path / "unpacked"


def read(path: Path) -> Message:
    document: Message = json.loads(path.read_text())
    return document


def test_the_published_validator_takes_the_manifest(unpacked: Path) -> None:
    assert "passes" in output(NODE, MCPB, "validate", unpacked)
    manifest = read(unpacked / "manifest.json")
    assert manifest["manifest_version"] == "0.4"
    assert manifest["version"] == __version__
    assert manifest["user_config"]["api_key"]["sensitive"] is True
    assert (unpacked / BRIDGE.name).read_bytes() == BRIDGE.read_bytes()


def host_starts(unpacked: Path, user_config: Message) -> Message:
    """What a client is told to start once the host has filled in a person's settings; uv stands on its PATH."""
    config = run_node("mcpb_host.mjs", {"extensionPath": str(unpacked), "userConfig": user_config})
    path = os.pathsep.join([str(INSTALLED / "tools" / "bin"), os.environ["PATH"]])
    return config | {"transport": "stdio", "era": "legacy", "env": environment(**config["env"], PATH=path)}


def test_an_installed_bundle_reaches_every_tool_with_the_key_that_was_typed_in(
    gateway: Gateway, unpacked: Path
) -> None:
    told = host_starts(unpacked, {"gateway_url": gateway.mcp_url("http"), "api_key": gateway.key})
    check_all_tools_worked(seen := seen_by("typescript 1", told))
    assert seen["tools"] == [tool["name"] for tool in read(unpacked / "manifest.json")["tools"]]


def test_an_installed_bundle_without_a_key_is_a_guest(gateway: Gateway, unpacked: Path) -> None:
    told = host_starts(unpacked, {"gateway_url": gateway.mcp_url("http")})
    check_all_tools_worked(seen_by("typescript 1", told), is_guest=True)


def test_a_bundle_of_the_same_sources_has_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    main(["--out", str(tmp_path / "again")])
    assert (tmp_path / "again" / bundle.name).read_bytes() == bundle.read_bytes()


@pytest.mark.parametrize("options", [(), PUBLIC])
def test_the_registrys_schema_takes_server_json(options: tuple[str, ...], tmp_path: Path) -> None:
    main(["--out", str(tmp_path), *options])
    output(SKILLSAW, "lint", "--strict", "--type", "mcp-registry", tmp_path / "server.json")
    described = read(tmp_path / "server.json")
    assert described["version"] == __version__
    for package in described.get("packages", ()):
        assert package["fileSha256"] == sha256((tmp_path / f"mcp-gateway-{__version__}.mcpb").read_bytes()).hexdigest()
    described["description"] = "x" * 101
    (tmp_path / "server.json").write_text(json.dumps(described))
    assert run(SKILLSAW, "lint", "--type", "mcp-registry", tmp_path / "server.json").returncode == 1, (
        "it checks nothing"
    )


def test_the_bundle_starts_the_gateway_that_it_was_built_for(tmp_path: Path) -> None:
    main(["--out", str(tmp_path), *PUBLIC])
    output(NODE, MCPB, "unpack", tmp_path / f"mcp-gateway-{__version__}.mcpb", tmp_path / "unpacked")
    told = run_node("mcpb_host.mjs", {"extensionPath": str(tmp_path / "unpacked"), "userConfig": {}})
    assert told["env"] == {"GATEWAY_URL": "https://gateway.example.com/v1/mcp", "GATEWAY_API_KEY": ""}
