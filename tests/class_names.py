"""The classes of a tree, read from its sources: where each name is defined, those of private and nested classes too."""

import ast
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from tests.sources import nodes_of


def class_names_in(modules: Mapping[str, Path]) -> dict[str, list[str]]:
    """Where each name of a class is defined, as `module:line`."""
    found: dict[str, list[str]] = defaultdict(list)
    for module, path in modules.items():
        for node in nodes_of(path):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(f"{module}:{node.lineno}")
    return dict(found)


def doubles(classes: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The names that more than one class has."""
    return {name: places for name, places in classes.items() if len(places) > 1}
