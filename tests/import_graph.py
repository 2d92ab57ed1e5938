"""Who imports whom, read from the sources: modules, their imports wherever these stand, and circles among them."""

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.sources import nodes_of

Graph = dict[str, set[str]]


def modules_in(root: Path, *packages: str) -> dict[str, Path]:
    """The file of each module, by its name."""
    paths = sorted(path for package in packages for path in (root / package).rglob("*.py"))
    return {_name_of(path.relative_to(root)): path for path in paths}


def _name_of(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """The line and the name of each import, those inside functions and for type checkers included.

    `from a import b` names `a.b`, be it a module or not.
    """
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def graph_of(modules: Mapping[str, Path]) -> Graph:
    """The modules that each one needs: those it imports, and the packages that stand around these, which run first."""
    return {
        name: {module for _, imported in imports_of(path) for module in _run_for(imported, name, modules)}
        for name, path in modules.items()
    }


def _run_for(imported: str, by: str, modules: Mapping[str, Path]) -> set[str]:
    """Packages around the importing module run already; they count where a name of their own is imported."""
    module = imported if imported in modules else imported.rpartition(".")[0]
    around = {package for package in _packages_around(module) if package != by and not by.startswith(f"{package}.")}
    return (around | {module}) & modules.keys() - {by}


def _packages_around(name: str) -> Iterator[str]:
    while name := name.rpartition(".")[0]:
        yield name


def folded(graph: Graph, room_of: Callable[[str], str | None]) -> Graph:
    """The same graph of rooms: what imports whom within a room is left out, and so is what has no room."""
    rooms: Graph = {room: set() for name in graph if (room := room_of(name)) is not None}
    for name, imported in graph.items():
        if (room := room_of(name)) is not None:
            rooms[room] |= {other for module in imported if (other := room_of(module)) not in (None, room)}
    return rooms


def neighbours_in(folder: str) -> Callable[[str], str | None]:
    """The rooms of a folder: each of its files, and each folder in it as one."""

    def room_of(name: str) -> str | None:
        return name.removeprefix(f"{folder}.").split(".")[0] if name.startswith(f"{folder}.") else None

    return room_of


def circle_in(graph: Graph) -> list[str]:
    """A circle of imports, from a name to itself; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def rooms_of(architecture: str) -> dict[str, list[str]]:
    """The table of the architecture, from top to bottom: each room, and the rooms that it may import."""
    section = architecture.partition("## Who may import whom")[2]
    table = section.split("```")[1].strip().splitlines()
    return {room: allowed for room, *allowed in map(str.split, table)}


def upward(rooms: Mapping[str, Sequence[str]]) -> list[str]:
    """What the table allows although it points up, or to what is no room."""
    order = list(rooms)
    return [
        f"{room} -> {other}"
        for place, room in enumerate(order)
        for other in rooms[room]
        if other not in order[place + 1 :]
    ]


def forbidden(name: str, imported: Set[str], rooms: Mapping[str, Sequence[str]]) -> list[str]:
    """What a module imports and its room may not; packages that only stand around something imported pass."""
    room = _room_of(name, rooms)
    allowed = {room, *rooms.get(room, ())}
    named = imported - {package for module in imported for package in _packages_around(module)}
    return sorted(f"{name} -> {module}" for module in named if _room_of(module, rooms) not in allowed)


def _room_of(name: str, rooms: Mapping[str, Sequence[str]]) -> str:
    """The longest of the rooms' names that the module stands in; one that stands in none is a room by itself."""
    short = name.removeprefix("mcp_gateway.")
    return max((room for room in rooms if f"{short}.".startswith(f"{room}.")), key=len, default=name)
