"""What pages say is so in the project: defaults, configurations, command lines, targets of make, dependencies."""

import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from mcp_gateway.cli.commands import app
from mcp_gateway.core.config import ConfigError, Settings, load_settings
from tests.cases import each

ROOT = Path(__file__).parent.parent
CHANGES, GENERATED = ROOT / "CHANGELOG.md", ROOT / "docs" / "configuration.md"
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"]
PAGES.remove(CHANGES)  # it tells of what was
UNITS = {"": 1, "s": 1, "KiB": 2**10, "MiB": 2**20}


def default_of(name: str) -> Any:
    """Of a setting, as `table.name` or `name`; None where there is none of that name."""
    table, _, inner = name.partition(".")
    value = getattr(Settings(), table, None)
    return getattr(value, inner) if value and inner else value


def figures_in(page: str) -> list[tuple[str, float]]:
    """Settings with the figure that stands behind them: `name` (5 s), or in a cell of their own before it."""
    told = re.findall(r"`([\w.]+)` \((\d[\d,.]*)(?: (\w+))?\)", page)
    for names, figures in re.findall(r"^\|[^|]*\| ((?:`[\w.]+`(?:, )?)+) \| (\d[^|]*) \|", page, re.MULTILINE):
        each_figure = [re.match(r"(\d[\d,.]*)(?: (\w+))?", figure) for figure in figures.split("; ")]
        told += [
            (name, *found.groups(""))
            for name, found in zip(re.findall(r"`([\w.]+)`", names), each_figure, strict=False)
            if found
        ]
    return [(name, float(figure.replace(",", "").rstrip(".")) * UNITS.get(unit, 1)) for name, figure, unit in told]


@each("page", [page for page in PAGES if page != GENERATED])
def test_a_default_that_a_page_names_is_the_setting_s(page: Path) -> None:
    for name, figure in figures_in(page.read_text()):
        assert default_of(name) in (None, figure), name


def test_settings_are_found_with_their_figures() -> None:
    text = "`a.b_s` (5 s), `c` (1,000) and `d`\n| what | `e`, `f.g` | 16 MiB; 256 KiB, but for some | `test` |\n"
    assert figures_in(text) == [("a.b_s", 5), ("c", 1000), ("e", 2**24), ("f.g", 2**18)]
    named = {name for page in PAGES for name, _ in figures_in(page.read_text())}
    assert {"mcp.session_idle_timeout_s", "max_in_flight_bytes", "guests.max_json_values"} <= named


def test_the_page_of_keys_tells_what_keys_and_guests_have() -> None:
    page = " ".join((ROOT / "docs" / "keys.md").read_text().split())
    limits, guests = Settings().limits, Settings().guests
    assert (
        f"A key has {limits.requests_per_minute} requests a minute, {limits.requests_per_day:,} a day, "
        f"{limits.tokens_per_minute:,} tokens a minute and {limits.in_flight} requests in flight"
    ) in page
    assert f"{guests.requests_per_minute} requests a minute and address, {guests.max_tokens} output tokens" in page


def configurations_in(page: str) -> list[str]:
    """Those of the gateway: clients have others, which `make test-clients` reads."""
    blocks: list[str] = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return [block for block in blocks if "mcp_servers" not in block and "model_provider" not in block]


@each("page", PAGES)
def test_a_configuration_that_a_page_shows_is_one_that_the_server_takes(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(configurations_in(page.read_text())):
        (tmp_path / f"{number}.toml").write_text(block)
        load_settings(tmp_path / f"{number}.toml", {})


def test_a_configuration_that_is_not_taken_is_found(tmp_path: Path) -> None:
    (block,) = configurations_in("```toml\n[model_providers.x]\n```\n\n```toml\nvllm_url = []\n```\n")
    (tmp_path / "it.toml").write_text(block)
    with pytest.raises(ConfigError, match="vllm_url"):
        load_settings(tmp_path / "it.toml", {})


def command_lines_in(page: str) -> list[str]:
    """Those with an option, but for the bridge's, which has a parser of its own."""
    lines: list[str] = re.findall(r"mcp-gateway ((?!bridge)[a-z][^`#|)\n]*)", page)
    return [line for line in lines if " --" in line]


@cache
def command_line() -> Any:
    return get_command(app)


def parse(line: str) -> None:
    """As the command line would be, without carrying it out."""
    command: Any = command_line()
    words = shlex.split(line)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context("it", words)


@each("page", PAGES)
def test_a_command_line_that_a_page_shows_is_understood(page: Path) -> None:
    for line in command_lines_in(page.read_text()):
        parse(line)


@each(
    "line", ["accounts create alice --credits 20", "keys revoke --with-made", "keys create --account acc_x --in-flight"]
)
def test_a_command_line_that_is_not_understood_is_found(line: str) -> None:
    assert command_lines_in(f"`mcp-gateway {line}`") == [line]
    with pytest.raises(Exception, match=r"No such option|Missing parameter|requires an argument"):
        parse(line)


@each("page", [*PAGES, ROOT / ".ci" / "run"])
def test_every_target_of_make_that_a_page_names_exists(page: Path) -> None:
    rules = re.findall(r"^([\w -]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    targets = {target for rule in rules for target in rule.split()}
    assert {"test", "serve"} <= targets
    assert set(re.findall(r"(?:`|^)make ([a-z][\w-]*)", page.read_text(), re.MULTILINE)) - targets == set()


def test_every_dependency_is_in_the_readme_and_no_other() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    table = (ROOT / "README.md").read_text().partition("\n## Dependencies\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| ([a-z][^|]*?) \|", table, re.MULTILINE)[1:]
    named = [name for cell in cells for name in re.sub(r" \(.*?\)", "", cell).split(", ")]
    assert sorted(named) == sorted(re.split("[<>=]", needed)[0] for needed in project["dependencies"])
