"""What in a test's source rests on a clock: waits for time to pass, short patience, times that are compared."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.sources import nodes_of, tree_of

LEAST_S = 30
"""A wait that ends sooner could end on a busy machine before what is waited for happens."""
_REASON = "time has to pass: "
_CLOCKS = {("time", "time"), ("time", "monotonic"), ("time", "perf_counter")}
_WORDS = re.compile(
    r"sleep\((?!0\))|(?:timeout(?:_at)?|fail_after|move_on_after)\((?!PATIENCE_S)|wait_for\(|timeout=(?!PATIENCE_S)"
    r"|time\.(?:time|monotonic|perf_counter)\("
)
_LIMITS = {"timeout": 0, "timeout_at": 0, "wait_for": 1, "fail_after": 0, "move_on_after": 0}
"""Where each has its time among its arguments."""


def on_a_clock(path: Path) -> list[str]:
    """Each as `file:line: why`, but for lines that say themselves why time has to pass."""
    lines = path.read_text().splitlines()
    if not _WORDS.search(path.read_text()):
        return []  # unparsed, as most of hundreds of files are
    known = _constants_of(tree_of(path))
    expressions = [node for node in nodes_of(path) if isinstance(node, ast.expr)]
    return [
        f"{path.name}:{node.lineno}: {why}"
        for node in expressions
        if _REASON not in lines[node.lineno - 1]
        for why in _faults(node, known)
    ]


def _faults(node: ast.expr, known: Mapping[str, float]) -> Iterator[str]:
    if isinstance(node, ast.Compare) and any(map(_is_clock, ast.walk(node))):
        yield "compares times"
    if not isinstance(node, ast.Call):
        return
    if _named(node) in {("asyncio", "sleep"), ("time", "sleep"), ("anyio", "sleep")} and not _is_nothing(node.args[0]):
        yield "waits for time to pass"
    if any(0 < _value_of(limit, known) < LEAST_S for limit in _limits_of(node)):
        yield "ends a wait soon"


def _limits_of(call: ast.Call) -> Iterator[ast.expr]:
    place = _LIMITS.get(_named(call)[1])
    if place is not None and len(call.args) > place:
        yield call.args[place]
    yield from (keyword.value for keyword in call.keywords if keyword.arg == "timeout")


def _named(call: ast.Call) -> tuple[str, str]:
    """The module and the name of what is called, as far as the call itself tells."""
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.value.id if isinstance(function.value, ast.Name) else "", function.attr
    return "", function.id if isinstance(function, ast.Name) else ""


def _is_clock(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and _named(node) in _CLOCKS


def _is_nothing(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value == 0


def _constants_of(tree: ast.Module) -> dict[str, float]:
    """The module's own names of numbers."""
    known: dict[str, float] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            known[node.targets[0].id] = _value_of(node.value, known)
    return known


def _value_of(value: ast.expr, known: Mapping[str, float]) -> float:
    """The number that an expression of constants is; nothing where it is none."""
    match value:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name):
            return known.get(name, 0)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _value_of(left, known) * _value_of(right, known)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _value_of(left, known) / (_value_of(right, known) or 1)
    return 0
