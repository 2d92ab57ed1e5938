"""The parsed form of Python files; each text is parsed once for all that looks into it."""

import ast
from functools import cache
from pathlib import Path


def tree_of(path: Path) -> ast.Module:
    return _parsed(path.read_text())[0]


def nodes_of(path: Path) -> list[ast.AST]:
    """All of the tree."""
    return _parsed(path.read_text())[1]


@cache
def _parsed(text: str) -> tuple[ast.Module, list[ast.AST]]:
    tree = ast.parse(text)
    return tree, list(ast.walk(tree))
