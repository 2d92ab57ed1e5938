"""Facts about the code itself: who imports whom, what is documented, what must not be left behind."""

import ast
import re
import sqlite3
from contextlib import closing
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import get_args

from http_api.keys import KeyChange
from mcp_gateway.core.caller import Allowance
from mcp_gateway.core.config import LimitSettings
from mcp_gateway.core.dialects.vllm import Vllm
from mcp_gateway.core.errors import TABLE
from mcp_gateway.core.identity.own_limits import LIMIT_NAMES
from mcp_gateway.core.record import SurfaceName
from mcp_gateway.core.store.sqlite.migrations import migrate
from tests.cases import each
from tests.class_names import alias_names_in, class_names_in, doubles
from tests.import_graph import (
    Graph,
    circle_in,
    folded,
    forbidden,
    graph_of,
    imports_of,
    modules_in,
    neighbours_in,
    rooms_of,
    upward,
)
from tests.registries import commands, metrics, prompt_arguments, tools
from tests.shapes import asked_for, made_in, too_large
from tests.sources import nodes_of, tree_of

ROOT = Path(__file__).parent.parent
MODULES = modules_in(ROOT, "mcp_gateway", "http_api", "bridge")
SOURCES = list(MODULES.values())
DOCS = {path.name: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
ROOMS = rooms_of((ROOT / "ARCHITECTURE.md").read_text())


@cache
def graph() -> Graph:
    return graph_of(MODULES)


def test_modules_import_in_no_circle() -> None:
    assert circle_in(graph()) == []


@each("folder", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_neighbours_in_a_folder_import_in_no_circle(folder: str) -> None:
    assert circle_in(folded(graph(), neighbours_in(folder))) == []


def test_a_room_may_import_only_rooms_below_it() -> None:
    assert upward(ROOMS) == []


@each("name", MODULES)
def test_a_module_imports_what_its_room_may(name: str) -> None:
    assert forbidden(name, graph()[name], ROOMS) == []


SQL = re.compile(r"\bSELECT\b.*\bFROM\b|\bINSERT (OR \w+ )?INTO\b|\bDELETE FROM\b|\bUPDATE \w+ SET\b", re.DOTALL)


@each("name", [name for name in MODULES if not name.startswith("mcp_gateway.core.store")])
def test_the_store_alone_knows_sqlite_and_sql(name: str) -> None:
    """So no other module can hold a connection, nor hand the store a statement."""
    assert [module for _, module in imports_of(MODULES[name]) if module.split(".")[0] == "sqlite3"] == []
    texts = [_text_of(node) for node in nodes_of(MODULES[name])]
    assert [text for text in texts if SQL.search(text)] == []


ENGINES = re.compile(r"sqlite|postgres|psycopg|asyncpg|\bpragma\b", re.IGNORECASE)
NAMED_OUTSIDE = {"mcp_gateway.core.observe.metrics": {"sqlite"}, "mcp_gateway.core.config": {"postgres"}}
"""A label of a metric, which dashboards read, and the setting that names a database."""


@each("name", [name for name in MODULES if not name.startswith("mcp_gateway.core.store")])
def test_no_engine_is_named_outside_the_store(name: str) -> None:
    """Not in its comments either."""
    named = {word.lower() for word in ENGINES.findall(MODULES[name].read_text())}
    assert named == NAMED_OUTSIDE.get(name, set())


STORE = "mcp_gateway.core.store."
DOORS_OF_THE_STORE = tuple(f"{STORE}{door}." for door in ("database", "opening", "sole"))


@each("name", [name for name in MODULES if not name.startswith("mcp_gateway.core.store")])
def test_the_store_is_opened_by_one_function_that_names_no_engine(name: str) -> None:
    imported = {f"{module}." for _, module in imports_of(MODULES[name])}
    assert [
        module for module in imported if module.startswith(STORE) and not module.startswith(DOORS_OF_THE_STORE)
    ] == []


OF_ENGINES = ("mcp_gateway.core.store.sqlite", "mcp_gateway.core.store.postgres")


@each("name", [name for name in MODULES if name.startswith(STORE) and not name.startswith(OF_ENGINES)])
def test_beside_the_folder_of_an_engine_the_store_knows_none(name: str) -> None:
    """But for the function that chooses one."""
    imported = {module.removesuffix(".") for _, module in imports_of(MODULES[name])}
    if name != f"{STORE}opening":
        assert [module for module in imported if module.startswith(OF_ENGINES)] == []
    assert not any(module.split(".")[0] in ("sqlite3", "asyncpg") for module in imported)


DIALECT = {
    "?1": r"\?\d",
    ":name": r"(?<!:):[a-z_]+\b",
    "CROSS JOIN ON": r"\bCROSS JOIN \w+( AS \w+)? (ON|USING)\b",
    "+column": r"[ (,]\+[a-z_]",
    "INDEXED BY": r"\bINDEXED BY\b",
    "json_each": r"\bjson_each\(",
    "json_array": r"\bjson_array\(",
    "json_group_array": r"\bjson_group_array\(",
    "json": r"\bjson\(",
    "INSTR": r"\bINSTR\(",
    "IIF": r"\bIIF\(",
    "IFNULL": r"\bIFNULL\(",
    "MAX of several": r"\b(MIN|MAX)\((?:[^()]|\([^()]*\))*,",
    "STRFTIME": r"\b(STRFTIME|DATE|TIME|DATETIME|JULIANDAY|UNIXEPOCH)\(",
    "rowid": r"\browid\b",
    "IS ?": r"\bIS (NOT )?[?:(-]",
    "INSERT OR": r"\bINSERT OR\b|\bREPLACE INTO\b",
    "LIMIT -1": r"\bLIMIT -",
    "ON CONFLICT DO UPDATE": r"\bON CONFLICT DO UPDATE\b",
    "PRAGMA": r"\bPRAGMA\b|\bsqlite_|\b(STRICT|AUTOINCREMENT|WITHOUT ROWID)\b",
    "GLOB": r"\b(GLOB|REGEXP|MATCH)\b",
    "printf": r"\b(PRINTF|FORMAT|TYPEOF|GROUP_CONCAT|TOTAL|HEX|QUOTE|RANDOMBLOB|ZEROBLOB|CHANGES|LAST_INSERT_ROWID)\(",
}
"""What SQLite takes and PostgreSQL does not, or not so."""


def test_what_statements_of_any_engine_take_from_one_is_in_the_table_of_it() -> None:
    """So that what a second engine has to bring along is known; the table is in ARCHITECTURE."""
    texts = [text for name, path in MODULES.items() if name.startswith(f"{STORE}sql.") for text in _statements_in(path)]
    found = {word for word, shape in DIALECT.items() if any(re.search(shape, text, re.IGNORECASE) for text in texts)}
    page = (ROOT / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \|", page.partition("| SQLite's word |")[2].partition("\n\n")[0], re.MULTILINE)
    assert found == set(rows)


def _statements_in(path: Path) -> list[str]:
    """Every string but those that only say something."""
    said = {node.value for node in nodes_of(path) if isinstance(node, ast.Expr)}
    return [_text_of(node) for node in nodes_of(path) if node not in said]


def _text_of(node: ast.AST) -> str:
    """Of a string, one with fields in it included; empty for anything else."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text_of(part) or "x" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


CONNECTORS = {"aiohttp", "http.client", "httpx", "httpx2", "requests", "smtplib", "stripe", "urllib3", "websockets"}
CONNECTING = {
    "create_connection",
    "create_datagram_endpoint",
    "getaddrinfo",
    "open_connection",
    "sock_connect",
    "urlopen",
}


def connects(path: Path) -> bool:
    """Whether it asks the network for anything, by a library that does or by the loop and its sockets."""
    imported = [module for _, module in imports_of(path)]
    by_library = any(f"{module}.".startswith(f"{name}.") for module in imported for name in CONNECTORS)
    named = {module.rpartition(".")[2] for module in imported}
    named |= {node.attr for node in nodes_of(path) if isinstance(node, ast.Attribute)}
    return by_library or not named.isdisjoint(CONNECTING)


def test_the_gateway_connects_to_nobody_but_backends_stripe_an_issuer_and_the_servers_of_images_and_tools() -> None:
    """These fetch by the transport of the backends. Valkey has the limits. The bridge and health are apart,
    and whoever looks up where it listens itself."""
    assert {name for name, path in MODULES.items() if connects(path)} == {
        "mcp_gateway.core.upstream.transport.transport",
        "mcp_gateway.core.image_fetching.resolver",
        "mcp_gateway.core.mcp_client.reach",
        "mcp_gateway.core.identity.oidc.issuer_http",
        "mcp_gateway.core.payments.stripe_api",
        "mcp_gateway.core.valkey.client",
        "mcp_gateway.health",
        "http_api.listening",
        "bridge.mcp_stdio_bridge",
    }


@each(
    "source",
    [
        "import requests",
        "def ask():\n    from stripe import StripeClient",
        "from urllib.request import urlopen",
        "import urllib.request\nurllib.request.urlopen('https://example.com')",
        "from socket import create_connection",
        "async def ask(loop):\n    await loop.create_connection(object)",
    ],
)
def test_what_connects_is_found(tmp_path: Path, source: str) -> None:
    (tmp_path / "module.py").write_text(source)
    assert connects(tmp_path / "module.py")


def section(page: str, title: str) -> str:
    return DOCS[page].partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@each("path", SOURCES)
def test_an_import_inside_a_function_gives_its_reason(path: Path) -> None:
    lines = path.read_text().splitlines()
    if not any(re.match(r"\s+(import|from) ", line) for line in lines):
        return
    for function in nodes_of(path):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    assert "PLC0415 - " in lines[node.lineno - 1], f"{path.name}:{node.lineno}"


CORE = ROOT / "mcp_gateway" / "core"
PATH_OF_A_REQUEST = [
    *(
        path
        for room in ("inference", "routing", "surfaces", "dialects", "upstream", "upstream/transport")
        for path in (CORE / room).glob("*.py")
    ),
    *(ROOT / "http_api" / name for name in ("inference.py", "event_stream.py", "bodies.py")),
    *(ROOT / "http_api" / "connection").glob("*.py"),
    ROOT / "mcp_gateway" / "tools" / "chat_completion.py",
]
"""The demo is no part of it: it stands in for another server."""


@each("path", PATH_OF_A_REQUEST)
def test_no_class_on_the_path_of_a_request_has_more_than_15_attributes_or_20_methods(path: Path) -> None:
    assert too_large(tree_of(path)) == {}


OWN_FILES = re.compile(r"(chat|completions|embeddings|messages?|responses?|scores|\w+_vllm|vllm)(_\w+)?")
"""The files of one surface, or of one dialect, are called by its name."""


def own_files() -> list[Path]:
    return [
        path
        for room in ("surfaces", "dialects")
        for path in (CORE / room).glob("*.py")
        if OWN_FILES.fullmatch(path.stem)
    ]


@cache
def own_names() -> set[str]:
    """Of the classes in the files of surfaces and dialects, and of what is made of them once."""
    trees = [tree_of(path) for path in own_files()]
    return {name for tree in trees for name in made_in(tree)}


@each("path", [path for path in SOURCES if path not in own_files() and "demo" not in path.parts])
def test_only_the_own_file_of_a_surface_or_dialect_asks_for_its_name(path: Path) -> None:
    """In tables they stand as keys, which is not to ask for them."""
    assert asked_for(tree_of(path), {*get_args(SurfaceName), Vllm.name}, own_names()) == []


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


def test_every_metric_is_in_the_table_of_metrics() -> None:
    rows = re.findall(
        r"^\| (`gateway_\w+`) \| ([^|]*) \| ([^|]*) \|$", section("operations.md", "Metrics"), re.MULTILINE
    )
    labelled = {name: (", ".join(f"`{label}`" for label in labels), text) for name, (labels, text) in metrics().items()}
    assert rows == [(f"`{name}`", labels, text) for name, (labels, text) in labelled.items()]


def test_every_metric_that_is_named_anywhere_exists() -> None:
    ours = metrics()
    named = {name for text in DOCS.values() for name in re.findall(r"`(gateway_\w+)`", text)}
    assert named
    assert named <= ours.keys(), sorted(named - ours.keys())


def test_every_command_is_in_the_table_of_commands() -> None:
    rows = re.findall(r"^\| `([a-z -]+)` \| (.*) \|$", section("operations.md", "Commands"), re.MULTILINE)
    assert rows == list(commands().items())


def test_every_command_that_is_named_anywhere_exists() -> None:
    ours = commands()
    named = {line for text in DOCS.values() for line in re.findall(r"mcp-gateway ([a-z]+(?: [a-z][a-z-]*)?)", text)}
    assert named
    assert [words for words in sorted(named) if not ({words, words.split()[0]} & ours.keys())] == []


def test_every_tool_has_a_section_with_all_its_arguments() -> None:
    text = DOCS["mcp.md"]
    assert set(re.findall(r"^### `(\w+)`$", text, re.MULTILINE)) == tools().keys()
    for name, definition in tools().items():
        lines = text.partition(f"\n### `{name}`\n")[2].partition("\n##")[0].splitlines()
        first_cells = [line.split(" | ")[0] for line in lines if line.startswith("| `")]
        named = [argument for cell in first_cells for argument in re.findall(r"`(\w+)`", cell)]
        assert sorted(named) == sorted(definition.input_schema.get("properties", {})), name


def test_every_prompt_is_in_the_table_of_prompts() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", section("mcp.md", "Resources, prompts, completion"), re.MULTILINE)
    assert {name: re.findall(r"`(\w+)`", cell) for name, cell in rows} == prompt_arguments()


def test_limits_have_the_same_names_wherever_they_are_set_and_refused() -> None:
    names = set(LIMIT_NAMES)
    others = {"name", "model_pool", "optimize_mode", "routing_event", "networks", "note", "tags"}
    assert KeyChange.model_fields.keys() - others == names
    assert names <= {field.name for field in fields(Allowance)}
    assert names <= LimitSettings.model_fields.keys()
    assert names <= TABLE.keys()


@cache
def classes() -> dict[str, list[str]]:
    return class_names_in(MODULES)


def glossary() -> dict[str, str]:
    """The class that each word names, empty where it names none; in the order of the page."""
    rows = re.findall(r"^\| ([a-z][a-z ]+) \| (?:`(\w+)` )?\|", DOCS["glossary.md"], re.MULTILINE)
    return dict(rows[1:])


def test_the_glossary_is_sorted_so_that_a_word_is_found() -> None:
    words = list(glossary())
    assert words == sorted(words)


def test_no_two_classes_have_one_name() -> None:
    assert doubles(classes()) == {}


def test_every_class_that_the_glossary_names_exists() -> None:
    named = {name for name in glossary().values() if name}
    assert named
    assert sorted(named - classes().keys()) == []


def test_no_alias_is_called_like_a_class_that_the_glossary_names() -> None:
    aliases = alias_names_in(MODULES)
    assert {name: aliases[name] for name in glossary().values() if name in aliases} == {}


def test_a_class_that_is_called_by_a_word_of_the_glossary_is_the_one_that_the_word_names() -> None:
    called = {word: word.title().replace(" ", "") for word in glossary()}
    assert [word for word, name in called.items() if name in classes() and glossary()[word] != name] == []


def test_there_is_one_conftest_and_its_fixtures_are_nowhere_else() -> None:
    """So a name is the same thing in every test, unless its module says what it is there."""
    tests = ROOT / "tests"
    assert [*tests.rglob("conftest.py")] == [tests / "conftest.py"]
    shared = fixtures_of(tests / "conftest.py")
    assert {"store", "clock", "account", "backend"} <= shared
    others = {path: fixtures_of(path) & shared for path in tests.rglob("*.py") if path.name != "conftest.py"}
    assert {path: doubles for path, doubles in others.items() if doubles} == {}


def fixtures_of(path: Path) -> set[str]:
    return set(
        re.findall(r"^@pytest(?:_asyncio)?\.fixture\b[^@]*?\n(?:async )?def (\w+)", path.read_text(), re.MULTILINE)
    )


def test_no_lock_file_names_a_host() -> None:
    for file in ROOT.glob("requirements*.txt"):
        assert "://" not in file.read_text()
    assert not (ROOT / "uv.lock").exists()
    assert '"resolved"' not in (ROOT / "tests" / "clients" / "package-lock.json").read_text()


def test_no_marker_is_left() -> None:
    marker = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    assert [path.name for path in SOURCES if marker.search(path.read_text())] == []


def test_every_route_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    routes = re.findall(r'path="([^"]+)"', "".join(path.read_text() for path in (ROOT / "http_api").glob("*.py")))
    assert routes
    for route in routes:
        path = re.sub(r"\w+_id\b", "id", route.replace(":path", ""))
        assert path.rstrip("/") in readme, route


@each("engine", ["sqlite", "postgres"])
def test_migrations_are_numbered_one_by_one(engine: str) -> None:
    """Two of one number, from two branches, would leave one of them out."""
    names = sorted(path.name for path in (ROOT / "mcp_gateway/core/store" / engine / "migrations").glob("*.sql"))
    assert names
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))


def test_the_architecture_draws_every_table() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    drawing = page.partition("The tables, by the room whose values fill them")[2].split("```")[1]
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        migrate(database)
        made = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        tables = {name for (name,) in made}
    words = set(re.findall(r"\w+", drawing))
    assert sorted(tables - words) == []
    assert sorted(word for word in words if "_" in word and word not in tables) == []


PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"]


def anchors_in(page: str) -> set[str]:
    """What GitHub makes of headings: lower case, without signs, spaces as hyphens."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each("page", PAGES)
def test_a_link_within_the_project_leads_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```|`[^`\n]*`(?!\])", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), f"{link} leads out of the project"
        assert not anchor or anchor in anchors_in(target.read_text()), link


def test_every_page_of_the_docs_is_linked_from_the_index() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)", DOCS["index.md"]))
    assert sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name not in {*linked, "index.md"}) == []


@each("page", ["threat-model.md", "privacy.md", "contributing.md", "openrouter.md"])
def test_every_test_that_a_page_names_exists(page: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", DOCS[page]))
    there = {
        name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert named
    assert named <= there, sorted(named - there)


@each("page", ["threat-model.md", "privacy.md"])
def test_every_setting_that_a_page_names_exists(page: str) -> None:
    settings = DOCS["configuration.md"]
    alone = r"max_\w+|client_stall_timeout_s|public_stats|data_dir"
    named = set(re.findall(rf"`(?:guests|limits|upstream|mcp|wallet)\.(\w+)`|`({alone})`", DOCS[page]))
    assert named
    for name in (table or plain for table, plain in named):
        assert f"| `{name}` |" in settings, name


ASKS = {f"httpx2.{name}" for name in ("AsyncClient", "Client", "get", "post", "request", "stream")}


@each("path", sorted((ROOT / "tests").rglob("*.py")))
def test_a_client_of_a_test_waits_for_longer_than_httpx_does(path: Path) -> None:
    """Five seconds, where nothing is said of it, pass on a busy machine."""
    for node in nodes_of(path):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ASKS:
            assert {"timeout", "transport"} & {option.arg for option in node.keywords}, f"{path.name}:{node.lineno}"
