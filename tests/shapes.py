"""What the text of a module says of its shape: how large its classes are, and whether it asks for a name."""

import ast
from collections.abc import Collection, Iterator

MOST_ATTRIBUTES, MOST_METHODS = 15, 20


def too_large(tree: ast.Module) -> dict[str, tuple[int, int]]:
    """The attributes and methods of each class that has too many of either."""
    sizes = {
        node.name: (len(attributes_of(node)), len(functions_in(node)))
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    return {name: (most, ways) for name, (most, ways) in sizes.items() if most > MOST_ATTRIBUTES or ways > MOST_METHODS}


def functions_in(node: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Properties are among them."""
    return [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]


def attributes_of(node: ast.ClassDef) -> set[str]:
    """What a class declares, and what its methods set of `self`."""
    targets: list[ast.expr] = []
    for one in node.body:
        if isinstance(one, ast.AnnAssign):
            targets.append(one.target)
        elif isinstance(one, ast.Assign):
            targets += one.targets
    declared = {target.id for target in targets if isinstance(target, ast.Name)}
    return (declared - {"__slots__"}) | {name for method in functions_in(node) for name in _set_of_self(method)}


def _set_of_self(method: ast.AST) -> Iterator[str]:
    for node in ast.walk(method):
        match node:
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name


def asked_for(tree: ast.Module, names: Collection[str], classes: Collection[str]) -> list[int]:
    """The lines that compare something with one of these names, or ask whether it is of one of these classes.

    What is looked up in a table by a name asks for none.
    """
    asked = [one for node in ast.walk(tree) for one in _asked_of(node)]
    return sorted({one.lineno for one in asked if _is_named(one, names, classes)})


def _asked_of(node: ast.AST) -> list[ast.expr]:
    """What something is compared with, or asked to be."""
    match node:
        case ast.Compare(left=left, comparators=others):
            return [left, *others]
        case ast.MatchValue(value=value) | ast.MatchClass(cls=value):
            return [value]
        case ast.Call(func=ast.Name(id="isinstance"), args=[_, kind]):
            return [kind]
    return []


def _is_named(node: ast.expr, names: Collection[str], classes: Collection[str]) -> bool:
    match node:
        case ast.Constant(value=str(value)):
            return value in names
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
            return any(_is_named(part, names, classes) for part in parts)
        case ast.BinOp(left=left, right=right):
            return _is_named(left, names, classes) or _is_named(right, names, classes)
        case ast.Name(id=name):
            return name in classes
        case ast.Attribute(value=ast.Name(id=owner) | ast.Attribute(attr=owner), attr="name"):
            return owner in ("surface", "dialect")
    return False


def made_in(tree: ast.Module) -> set[str]:
    """The classes of a module, and its constants that are instances of these."""
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    made = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.func, ast.Name) and node.value.func.id in classes
    }
    return classes | made
