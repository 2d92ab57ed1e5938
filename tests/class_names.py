"""The classes of a tree, read from its sources: where each name is defined, those of private and nested classes too.

Aliases of types are named like classes, and so told as well.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.sources import nodes_of, tree_of


def class_names_in(modules: Mapping[str, Path]) -> dict[str, list[str]]:
    """Where each name of a class is defined, as `module:line`."""
    found: dict[str, list[str]] = defaultdict(list)
    for module, path in modules.items():
        for node in nodes_of(path):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(f"{module}:{node.lineno}")
    return dict(found)


def alias_names_in(modules: Mapping[str, Path]) -> dict[str, list[str]]:
    """The same of what a module assigns to a name that is written like a class's."""
    found: dict[str, list[str]] = defaultdict(list)
    for module, path in modules.items():
        for node in tree_of(path).body:
            for name in _assigned(node):
                if re.fullmatch(r"_?[A-Z]\w*[a-z]\w*", name):
                    found[name].append(f"{module}:{node.lineno}")
    return dict(found)


def _assigned(node: ast.stmt) -> Iterator[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    yield from (target.id for target in targets if isinstance(target, ast.Name))


def doubles(classes: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The names that more than one class has."""
    return {name: places for name, places in classes.items() if len(places) > 1}
