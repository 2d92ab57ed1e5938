"""Facts about the code itself: who imports whom, what is documented, what must not be left behind."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from mcp_gateway.core.errors import TABLE
from tests.cases import each

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for room in ("mcp_gateway", "http_api", "bridge") for path in (ROOT / room).rglob("*.py"))

ROOMS = ("identity", "idempotency", "limits", "ledger", "payments", "upstream", "policy", "observe")
LEVELS = [
    (7, ("mcp_gateway.cli", "mcp_gateway.__main__")),
    (6, ("http_api",)),
    (5, ("mcp_gateway.server", "mcp_gateway.door", "mcp_gateway.tools")),
    (4, ("mcp_gateway.core.gateway",)),
    (3, ("mcp_gateway.core.chat", "mcp_gateway.wire")),
    (2, tuple(f"mcp_gateway.core.{room}" for room in ROOMS)),
    (1, ("mcp_gateway.core.store",)),
    (0, ("mcp_gateway",)),
]  # fmt: skip
SEPARATE = LEVELS[5][1]
"""Rooms of one level that do not know each other."""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield node.lineno, node.module or ""
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def is_ours(name: str) -> bool:
    return name.split(".")[0] in ("mcp_gateway", "http_api", "bridge")


def is_in(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


def level_of(name: str) -> int:
    return next(level for level, rooms in LEVELS if any(is_in(name, room) for room in rooms))


def room_of(name: str) -> str | None:
    return next((room for room in SEPARATE if is_in(name, room)), None)


@each("path", SOURCES)
def test_imports_point_down(path: Path) -> None:
    name = module_of(path)
    for line, imported in imports_of(path):
        if not is_ours(imported):
            continue
        where = f"{path.name}:{line} imports {imported}"
        if is_in(imported, "bridge"):
            assert name in ("mcp_gateway.cli", "mcp_gateway.__main__", "bridge.mcp_stdio_bridge"), where
            continue
        assert not is_in(name, "bridge"), where
        assert level_of(imported) <= level_of(name), where
        rooms = room_of(name), room_of(imported)
        assert None in rooms or rooms[0] == rooms[1], where


@each("path", SOURCES)
def test_an_import_inside_a_function_gives_its_reason(path: Path) -> None:
    lines = path.read_text().splitlines()
    if not any(re.match(r"\s+(import|from) ", line) for line in lines):
        return
    for function in ast.walk(tree_of(path)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    assert "PLC0415 - " in lines[node.lineno - 1], f"{path.name}:{node.lineno}"


@each("path", SOURCES)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree_of(path))


def test_every_error_code_that_is_raised_has_a_row_and_every_row_is_documented() -> None:
    text = "".join(path.read_text() for path in SOURCES)
    raised = set(re.findall(r'GatewayError\(\s*"(\w+)"', text))
    assert raised <= TABLE.keys()
    documented = (ROOT / "docs" / "errors.md").read_text()
    for code, row in TABLE.items():
        if code != "client_closed":
            assert f"| {row.status} | `{row.type}` | `{code}` | {row.advice} |" in documented, code


def test_the_glossary_is_sorted_so_that_a_word_is_found() -> None:
    words = re.findall(r"^\| ([a-z][a-z ]+) \|", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)[1:]
    assert words == sorted(words)


def test_no_lock_file_names_a_host() -> None:
    for file in ROOT.glob("requirements*.txt"):
        assert "://" not in file.read_text()
    assert not (ROOT / "uv.lock").exists()


def test_no_marker_is_left() -> None:
    marker = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    assert [path.name for path in SOURCES if marker.search(path.read_text())] == []


def test_every_route_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    routes = re.findall(r'Operation\("[A-Z*]+", "([^"]+)"', (ROOT / "http_api" / "app.py").read_text())
    assert routes
    for route in routes:
        path = re.sub(r"\w+_id\b", "id", route.replace(":path", ""))
        assert path.rstrip("/") in readme, route


def test_migrations_are_numbered_one_by_one() -> None:
    """Two of one number, from two branches, would leave one of them out."""
    names = sorted(path.name for path in (ROOT / "mcp_gateway/core/store/migrations").glob("*.sql"))
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "threat-model.md").read_text()))
    there = {
        name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert named
    assert named <= there, sorted(named - there)


def test_every_setting_that_the_threat_model_names_exists() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text()
    settings = (ROOT / "docs" / "configuration.md").read_text()
    named = set(re.findall(r"`(?:guests|limits|upstream|mcp|wallet)\.(\w+)`|`(max_\w+|client_stall_timeout_s)`", text))
    assert named
    for name in (table or plain for table, plain in named):
        assert f"| `{name}` |" in settings, name
