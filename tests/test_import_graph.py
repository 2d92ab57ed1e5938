"""The tests of the rules about imports: circles and forbidden imports that are planted are found."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.cases import each
from tests.import_graph import (
    Graph,
    circle_in,
    folded,
    forbidden,
    graph_of,
    modules_in,
    neighbours_in,
    rooms_of,
    upward,
)

ARCHITECTURE = """
## Who may import whom

```
cli         core.chat  core
core.chat   core.store  core
core.store  core
core
bridge
```
"""
ROOMS = rooms_of(ARCHITECTURE)
Plant = Callable[[dict[str, str]], Graph]


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Writes modules of a package `house`, given by path and text, and gives their graph."""

    def plant(files: dict[str, str]) -> Graph:
        for name, text in files.items():
            path = tmp_path / "house" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            for folder in (path.parent, tmp_path / "house"):
                (folder / "__init__.py").touch()
            path.write_text(text)
        return graph_of(modules_in(tmp_path, "house"))

    return plant


@each(
    "back",
    [
        "import house.b",
        "import house.b as other",
        "from house import b",
        "from house import c, b",
        "from house.b import name",
        "from house.b import *",
        "def later():\n    from house.b import name",
        "class Thing:\n    def later(self):\n        if self:\n            import house.b",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.b import name",
        "try:\n    import house.b\nexcept ImportError:\n    pass",
    ],
)
def test_two_modules_that_import_each_other_are_a_circle_wherever_the_imports_stand(plant: Plant, back: str) -> None:
    assert set(circle_in(plant({"a": back, "b": "import house.a", "c": ""}))) == {"house.a", "house.b"}


def test_a_circle_of_four_is_named_in_the_order_of_its_imports(plant: Plant) -> None:
    links = {"a": "b", "b": "c", "c": "d", "d": "a"}
    circle = circle_in(
        plant({"e": "import house.a"} | {name: f"import house.{other}" for name, other in links.items()})
    )
    assert len(circle) == 5
    assert all(links[name[-1]] == other[-1] for name, other in pairwise(circle))


def test_importing_one_module_twice_or_by_two_ways_is_no_circle(plant: Plant) -> None:
    assert (
        circle_in(plant({"a": "import house.b\nimport house.c", "b": "import house.d", "c": "import house.d", "d": ""}))
        == []
    )


def test_a_package_that_gathers_its_modules_is_no_circle_while_these_import_each_other_only(plant: Plant) -> None:
    graph = plant({"room/__init__": "from house.room.b import B", "room/a": "", "room/b": "from house.room import a"})
    assert circle_in(graph) == []


def test_a_module_that_takes_from_its_package_what_the_package_took_from_it_is_a_circle(plant: Plant) -> None:
    graph = plant({"room/__init__": "from house.room.b import B", "room/b": "def f():\n    from house.room import B"})
    assert set(circle_in(graph)) == {"house.room", "house.room.b"}


def test_a_package_runs_before_its_modules_so_that_what_it_imports_closes_a_circle(plant: Plant) -> None:
    graph = plant(
        {"a": "import house.room.b", "room/__init__": "import house.room.c", "room/b": "", "room/c": "import house.a"}
    )
    assert set(circle_in(graph)) == {"house.a", "house.room", "house.room.c"}


def test_rooms_that_import_each_other_by_different_modules_are_a_circle_although_their_modules_are_none(
    plant: Plant,
) -> None:
    graph = plant(
        {"east/a": "import house.west.a", "east/b": "", "west/a": "", "west/b": "def later():\n    import house.east.b"}
    )
    assert circle_in(graph) == []
    assert set(circle_in(folded(graph, neighbours_in("house")))) == {"east", "west"}


def test_a_file_and_the_folder_beside_it_are_neighbours_too(plant: Plant) -> None:
    graph = plant({"face": "import house.parts.a", "parts/a": "", "parts/b": "import house.face"})
    assert circle_in(graph) == []
    assert set(circle_in(folded(graph, neighbours_in("house")))) == {"face", "parts"}


@each(
    ("name", "imported"),
    [
        ("mcp_gateway.core.text", "mcp_gateway.core.store.sqlite.store"),
        ("mcp_gateway.core.store.sqlite.store", "mcp_gateway.core.chat"),
        ("mcp_gateway.core.chat", "mcp_gateway.cli"),
        ("mcp_gateway.cli", "mcp_gateway.core.store"),
        ("mcp_gateway.cli", "bridge.program"),
        ("bridge.program", "mcp_gateway.core.text"),
        ("mcp_gateway.core.storehouse", "mcp_gateway.core.store"),
        ("mcp_gateway.attic", "mcp_gateway.core.text"),
        ("mcp_gateway.core.text", "mcp_gateway.attic"),
    ],
)
def test_an_import_that_the_table_does_not_name_is_forbidden(name: str, imported: str) -> None:
    assert forbidden(name, {imported, imported.split(".")[0]}, ROOMS) == [f"{name} -> {imported}"]


@each(
    ("name", "imported"),
    [
        ("mcp_gateway.cli", "mcp_gateway.core.text"),
        ("mcp_gateway.core.chat", "mcp_gateway.core.store.sqlite.store"),
        ("mcp_gateway.core.store.sqlite.write_ahead_log", "mcp_gateway.core.store.sqlite.store"),
        ("mcp_gateway.core.text", "mcp_gateway.core.money"),
    ],
)
def test_an_import_that_the_table_names_and_one_within_a_room_are_allowed(name: str, imported: str) -> None:
    assert forbidden(name, {imported, "mcp_gateway", "mcp_gateway.core"}, ROOMS) == []


def test_a_table_that_allows_what_is_above_or_not_there_is_refused() -> None:
    assert upward(ROOMS) == []
    assert upward({**ROOMS, "core.store": ["core", "core.chat", "attic"]}) == [
        "core.store -> core.chat",
        "core.store -> attic",
    ]
    assert upward({"core": ["core"]}) == ["core -> core"]
