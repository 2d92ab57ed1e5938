"""docs/clients.md: every block parses and names real addresses; what can be run here is run as it stands."""

import json
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from http_api.console import connect_blocks
from http_api.console.connect_blocks import ConnectBlock
from tests.clients.installed import INSTALLED, NODE, ROOT, Gateway, output

pytestmark = pytest.mark.slow

TEXT = (ROOT / "docs" / "clients.md").read_text()
BLOCKS = re.findall(r"^### ([^\n]+)\n|^```(\w+)\n(.*?)^```$", TEXT, re.M | re.S)
INTERPRETERS = {"OpenAI SDKs": Path(sys.executable), "MCP SDKs": INSTALLED / "python-sdk-2" / "bin" / "python"}
ANSWER = "You said: Hello"
SHOWN_JS = [block for block in connect_blocks.BLOCKS if block.format == "js"]


def parse_yaml(text: str) -> None:
    """By one of the installed programs' parser; the project has none."""
    output(INSTALLED / "tools" / "bin" / "python", "-c", "import sys, yaml; yaml.safe_load(sys.argv[1])", text)


PARSERS: dict[str, Callable[[str], object]] = {"json": json.loads, "toml": tomllib.loads, "yaml": parse_yaml}


def blocks(language: str) -> list[tuple[str, str]]:
    """The section and text of each block in a language."""
    section, found = "", []
    for heading, tag, text in BLOCKS:
        section = heading or section
        if tag == language:
            found.append((section, text))
    return found


def filled_in(text: str, gateway: Gateway) -> str:
    return text.replace("http://127.0.0.1:8080", gateway.url).replace("gw_live_...", gateway.key)


@pytest.mark.parametrize(("language", "parse"), PARSERS.items())
def test_every_configuration_parses_and_leads_to_the_gateway(language: str, parse: Callable[[str], object]) -> None:
    found = blocks(language)
    assert found
    for section, text in found:
        parse(text)
        assert set(re.findall(r"http://127\.0\.0\.1:8080(/[\w/]*)?", text)) <= {"/v1", "/v1/mcp"}, section


@pytest.mark.parametrize(("section", "text"), [block for block in blocks("python") if block[0] in INTERPRETERS])
def test_the_python_programs_run_as_they_stand(gateway: Gateway, section: str, text: str, tmp_path: Path) -> None:
    program = tmp_path / "example.py"
    program.write_text(filled_in(text, gateway))
    assert ANSWER in output(INTERPRETERS[section], program)


@pytest.mark.parametrize(("section", "text"), blocks("js"))
def test_the_node_programs_run_as_they_stand(gateway: Gateway, section: str, text: str, tmp_path: Path) -> None:
    program = tmp_path / "example.mjs"
    program.write_text(filled_in(text, gateway))
    assert ANSWER in output(NODE, "--input-type=module", "-", stdin=program)


@pytest.mark.parametrize("block", SHOWN_JS, ids=lambda block: block.id)
def test_what_the_console_shows_is_read_by_node(block: ConnectBlock, tmp_path: Path) -> None:
    program = tmp_path / "shown.mjs"
    program.write_text(block.text)
    output(NODE, "--check", program)


def test_the_curl_lines_work_as_pasted(gateway: Gateway) -> None:
    (text,) = (text for section, text in blocks("sh") if section == "curl")
    printed = output("sh", "-c", filled_in(text, gateway))
    assert ANSWER in printed
    assert "demo/echo" in printed.split(ANSWER)[1]
