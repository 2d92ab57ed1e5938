"""The classes of a tree, read from its sources: where each name is defined, those of private and nested classes too."""

import ast
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path


def class_names_in(modules: Mapping[str, Path]) -> dict[str, list[str]]:
    """Where each name of a class is defined, as `module:line`."""
    found: dict[str, list[str]] = defaultdict(list)
    for module, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(f"{module}:{node.lineno}")
    return dict(found)


def doubles(classes: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The names that more than one class has."""
    return {name: places for name, places in classes.items() if len(places) > 1}
