"""Writes what desktop clients and the MCP registry take: dist/mcp-gateway-VERSION.mcpb and dist/server.json.

Every fact comes from where it lives: version, description and licence from the package, tools from their definitions,
dependencies from the bridge's header. The bundle's bytes depend on nothing else.
"""

import argparse
import json
import re
import tomllib
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from mcp_gateway import __version__
from mcp_gateway.tools.chat_completion import ChatCompletion
from mcp_gateway.tools.get_balance import GetBalance
from mcp_gateway.tools.list_models import ListModels

ROOT = Path(__file__).parent.parent
BRIDGE = ROOT / "bridge" / "mcp_stdio_bridge.py"
SERVER_SCHEMA = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json"
LOCAL_URL = "http://127.0.0.1:8080"  # where `make serve` listens
ANY_URL = "https://{gateway_host}"
DESCRIPTION = (
    "Ask language models through your gateway: chat, models with prices, and your balance."  # 100 bytes at most
)
KEY_HELP = "An API key of the gateway. Leave it out to be a guest: free models only, with tight limits."

Document = dict[str, Any]


def project() -> Document:
    """The `[project]` table of pyproject.toml."""
    table: Document = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def bridge_header() -> Document:
    """What the bridge's inline metadata (PEP 723) says: `requires-python` and `dependencies`."""
    header = re.match(r"# /// script\n((?:# .*\n)+)# ///\n", BRIDGE.read_text())
    if header is None:
        raise SystemExit(f"{BRIDGE} has no script header")
    return tomllib.loads(header[1].replace("# ", ""))


def manifest(gateway_url: str) -> Document:
    """The bundle's manifest (MCPB 0.4). The host brings uv, which brings Python and the bridge's one dependency."""
    tools = (tool.definition for tool in (ChatCompletion, ListModels, GetBalance))
    return {
        "manifest_version": "0.4",
        "name": "mcp-gateway",
        "display_name": "MCP Gateway",
        "version": __version__,
        "description": DESCRIPTION,
        "long_description": project()["description"],
        "author": {"name": "The mcp-gateway authors"},
        "license": project()["license"],
        "server": {
            "type": "uv",
            "entry_point": BRIDGE.name,
            "mcp_config": {
                "command": "uv",
                "args": ["run", "--directory", "${__dirname}", BRIDGE.name],
                "env": {"GATEWAY_URL": "${user_config.gateway_url}", "GATEWAY_API_KEY": "${user_config.api_key}"},
            },
        },
        "tools": [{"name": tool.name, "description": tool.description} for tool in tools],
        "tools_generated": True,  # embeddings, where the catalog has a model for it
        "prompts_generated": True,
        "compatibility": {
            "platforms": ["darwin", "win32", "linux"],
            "runtimes": {"python": bridge_header()["requires-python"]},
        },
        "user_config": {
            "gateway_url": {
                "type": "string",
                "title": "Gateway URL",
                "description": "The gateway's MCP address; it ends in /v1/mcp.",
                "default": f"{gateway_url}/v1/mcp",
            },
            "api_key": {
                "type": "string",
                "title": "API key",
                "description": KEY_HELP,
                "sensitive": True,
                "default": "",  # without a default, hosts hand over the placeholder itself
            },
        },
    }


def bundle_pyproject() -> str:
    """The pyproject.toml that a bundle of type uv has to hold; uv itself goes by the bridge's header."""
    header = bridge_header()
    return (
        f'[project]\nname = "mcp-gateway-bridge"\nversion = "{__version__}"\n'
        f'requires-python = "{header["requires-python"]}"\ndependencies = {json.dumps(header["dependencies"])}\n'
    )


def write_zip(path: Path, files: Mapping[str, bytes]) -> None:
    """Writes an archive whose bytes depend on names and contents alone: no times, and no compressor to differ."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # Unix, a plain file that all may read
            archive.writestr(entry, content)


def remote(kind: str, url: str) -> Document:
    """One address of the gateway, as the registry describes it."""
    key = {"description": KEY_HELP, "isRequired": True, "isSecret": True}
    authorization = {
        "name": "Authorization",
        "description": "Bearer and an API key; guests send no such header.",
        "isRequired": False,
        "isSecret": True,
        "value": "Bearer {api_key}",
        "variables": {"api_key": key},
    }
    described = {"type": kind, "url": url, "headers": [authorization]}
    host = {"description": "The gateway's host name.", "isRequired": True, "placeholder": "gateway.example.com"}
    return described | ({"variables": {"gateway_host": host}} if url.startswith(ANY_URL) else {})


def server_json(name: str, gateway_url: str, download_url: str | None, bundle: Path) -> Document:
    """The registry's entry (schema 2025-12-11); the bundle is listed only where it can be downloaded."""
    described: Document = {
        "$schema": SERVER_SCHEMA,
        "name": name,
        "title": "MCP Gateway",
        "description": DESCRIPTION,
        "version": __version__,
        "remotes": [
            remote("streamable-http", f"{gateway_url}/v1/mcp"),
            remote("sse", f"{gateway_url}/v1/mcp/sse"),
        ],
    }
    if download_url:
        described["packages"] = [
            {
                "registryType": "mcpb",
                "identifier": download_url,
                "version": __version__,
                "fileSha256": sha256(bundle.read_bytes()).hexdigest(),
                "transport": {"type": "stdio"},
            }
        ]
    return described


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help=f"the gateway's address, https://...; else the bundle suggests {LOCAL_URL}")
    parser.add_argument(
        "--name", default="com.example/mcp-gateway", help="your name in the registry: reverse DNS, slash"
    )
    parser.add_argument("--download-url", help="where the .mcpb can be downloaded, https://...; else it is not listed")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder to write to; default: dist")
    options = parser.parse_args(argv)
    for url in filter(None, (options.url, options.download_url)):
        if not url.startswith("https://"):
            parser.error("the registry takes only https:// addresses")
    return options


def main(argv: list[str] | None = None) -> None:
    """Writes both files."""
    options = parse_options(argv)
    url = (options.url or "").rstrip("/")
    options.out.mkdir(parents=True, exist_ok=True)
    bundle: Path = options.out / f"mcp-gateway-{__version__}.mcpb"
    files = {
        "manifest.json": json.dumps(manifest(url or LOCAL_URL), indent=2).encode(),
        "pyproject.toml": bundle_pyproject().encode(),
        BRIDGE.name: BRIDGE.read_bytes(),
        "LICENSE": (ROOT / "LICENSE").read_bytes(),
    }
    write_zip(bundle, files)
    described = server_json(options.name, url or ANY_URL, options.download_url, bundle)
    registered: Path = options.out / "server.json"
    registered.write_text(json.dumps(described, indent=2) + "\n")
    print(f"{bundle}\n{registered}")


if __name__ == "__main__":
    main()
