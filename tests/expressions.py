"""Every regular expression of the packages, and what in its parsed form could make it take more than linear time.

An expression is read as a sequence of characters that must come and of long repeats (of one set, beyond SHORT times).
It is linear where no text can be divided between two repeats in many ways, and no repeat runs over its own beginning.
"""

import ast
import importlib
import pkgutil
import re
import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from types import ModuleType
from typing import Any, NamedTuple, TypeGuard

import bridge
import http_api
import mcp_gateway
from tests.sources import nodes_of, tree_of

PACKAGES: tuple[ModuleType, ...] = (mcp_gateway, http_api, bridge)
SHORT = 8
"""A repeat of at most so many times is a choice of so many texts."""
MOST_GROUPS = 256
"""How often a repeat of more than one character may be repeated."""
_ALPHABET = [*map(chr, range(256)), "\u0416", "\u2028"]
REPEATS = (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT)
_GROUPS = (op.SUBPATTERN, op.ATOMIC_GROUP)
_ANCHORED = {"match", "fullmatch"}
Items = Iterable[tuple[Any, Any]]
Characters = frozenset[str]


class Expression(NamedTuple):
    """A pattern, where it stands, and whether it is tried from every place of a text."""

    where: str
    pattern: Any
    flags: int
    is_searched: bool


class Fault(Exception):
    """Why an expression may take more than linear time."""


# Finding them


def modules() -> Iterator[ModuleType]:
    for package in PACKAGES:
        yield package
        for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not found.name.endswith("__main__"):
                yield importlib.import_module(found.name)


def expressions() -> list[Expression]:
    """All of them. Raises Fault for a pattern that cannot be read from the source."""
    return [found for module in modules() if module.__file__ for found in _expressions_of(module)]


def _expressions_of(module: ModuleType) -> Iterator[Expression]:
    path = Path(module.__file__ or "")
    tree = tree_of(path)
    _check_imports(module.__name__, path)
    named = {id(node.value): node.targets[0].id for node in tree.body if isinstance(node, ast.Assign)
             and isinstance(node.targets[0], ast.Name)}  # fmt: skip
    for call in nodes_of(path):
        if not (isinstance(call, ast.Call) and _is_of_re(call.func)) or call.func.attr in ("escape", "purge"):
            continue
        where = f"{module.__name__}:{call.lineno}"
        if (name := named.get(id(call))) is not None:
            compiled = getattr(module, name)
            methods = _methods_of(name, tree)  # none: it is used by another module
            yield Expression(where, compiled.pattern, compiled.flags, not methods or not methods <= _ANCHORED)
        else:
            yield Expression(where, _written(call.args[0], where), 0, call.func.attr not in _ANCHORED)


def _check_imports(name: str, path: Path) -> None:
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom) and node.module in ("re", "regex"):
            raise Fault(f"{name}:{node.lineno} takes a name out of `re`, where it is not seen")
        if isinstance(node, ast.Import) and any(alias.name == "re" and alias.asname for alias in node.names):
            raise Fault(f"{name}:{node.lineno} gives `re` another name")


def _is_of_re(function: ast.expr) -> TypeGuard[ast.Attribute]:
    return isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "re"


def _methods_of(name: str, tree: ast.Module) -> set[str]:
    """What is called of a compiled expression in its module; anything but a call counts as a search."""
    parents = {id(node.value): node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == name]
    return {parents.get(id(use), "?") for use in uses if isinstance(use.ctx, ast.Load)}


def _written(argument: ast.expr, where: str) -> Any:
    """A literal pattern; what is escaped into one stands for itself."""
    if isinstance(argument, ast.Constant):
        return argument.value
    if isinstance(argument, ast.JoinedStr):
        return "".join(_written_part(part, where) for part in argument.values)
    raise Fault(f"{where}: a pattern that is made while running")


def _written_part(part: ast.expr, where: str) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    value = part.value if isinstance(part, ast.FormattedValue) else part
    if isinstance(value, ast.Call) and _is_of_re(value.func) and value.func.attr == "escape":
        return "name"
    raise Fault(f"{where}: a text that is put into a pattern without re.escape")


# Reading them


@dataclass(frozen=True)
class _Repeat:
    """A long repeat that was passed, the characters that must come after it, and whether a search may run it anew."""

    characters: Characters
    since: tuple[Characters, ...] = ()
    is_guarded: bool = True
    gives_back: bool = True


@dataclass(frozen=True)
class _Path:
    """One way through an expression, so far."""

    before: tuple[Characters, ...] = ()
    repeats: tuple[_Repeat, ...] = ()

    def then(self, characters: Characters) -> "_Path":
        """A character that must come: what stands before it can fail now."""
        if not all(repeat.is_guarded for repeat in self.repeats):
            raise Fault("a search begins anew at each place that a repeat has run over")
        after = tuple(replace(repeat, since=(*repeat.since, characters)) for repeat in self.repeats)
        return _Path((*self.before, characters), after)


def check(expression: Expression) -> None:
    """Raises Fault for an expression that is not linear by its form."""
    parsed = parser.parse(expression.pattern, expression.flags)
    is_text = isinstance(expression.pattern, str)
    reader = _Reader(parsed.state.flags, is_text=is_text, is_searched=expression.is_searched)
    reader.follow(parsed, [_Path()])


class _Reader:
    def __init__(self, flags: int, *, is_text: bool, is_searched: bool) -> None:
        self._flags = flags
        self._is_text = is_text
        self._is_searched = is_searched

    def follow(self, items: Items, paths: list[_Path]) -> list[_Path]:
        """Where each of the paths leads."""
        for kind, value in items:
            paths = [led for path in paths for led in self._step(kind, value, path)]
        return paths

    def _step(self, kind: Any, value: Any, path: _Path) -> list[_Path]:
        if kind is op.POSSESSIVE_REPEAT:
            return [self._kept(value[2], path)]
        if kind in REPEATS:
            least, most, repeated = value
            return self._repeated(least, most, repeated, path)
        if kind in _GROUPS:
            return self.follow(value if kind is op.ATOMIC_GROUP else value[-1], [path])
        if kind is op.BRANCH:
            return [led for way in value[1] for led in self.follow(way, [path])]
        if kind in (op.ASSERT, op.ASSERT_NOT):
            self._check_assertion(value[1])
            return [path]
        if kind is op.AT:
            return [self._at(value, path)]
        if kind in (op.GROUPREF, op.GROUPREF_EXISTS):
            raise Fault("a reference to a group can be of any length")
        return [path.then(self._characters(kind, value))]

    def _check_assertion(self, items: Items) -> None:
        if any(kind in REPEATS for kind, _ in items):
            raise Fault("a repeat within an assertion")

    def _at(self, value: Any, path: _Path) -> _Path:
        if value is op.AT_BEGINNING and self._flags & re.MULTILINE:
            return path.then(frozenset("\n"))
        if value in (op.AT_BEGINNING, op.AT_BEGINNING_STRING):
            return path
        path.then(frozenset())  # it can fail, and takes no character
        return path

    def _repeated(self, least: int, most: Any, items: Items, path: _Path) -> list[_Path]:
        items = list(items)
        if most <= SHORT:
            return self._few(least, int(most), items, path)
        if len(items) == 1 and self._is_character(items[0][0]):
            return [self._many(self._characters(*items[0]), path)]
        if most > MOST_GROUPS:
            raise Fault("a repeat of more than one character, or a repeat within one")
        if not self._is_plain(items):
            raise Fault("a repeated group that does not begin with a character, or has alternatives")
        return self._few(least, 2, items, path)

    def _few(self, least: int, most: int, items: Items, path: _Path) -> list[_Path]:
        """Taken as written out; twice is enough to see what two rounds do to each other."""
        paths = [path]
        led = [path] if least == 0 else []
        for round_ in range(1, min(most, 2) + 1):
            paths = self.follow(items, paths)
            if round_ >= min(least, 2):
                led += paths
        return led

    def _kept(self, items: Items, path: _Path) -> _Path:
        """A repeat that gives nothing back takes a text in one way, if all within it do so."""
        return self._many(frozenset().union(*self._all_characters(items)), path, gives_back=False)

    def _all_characters(self, items: Items) -> Iterator[Characters]:
        for kind, value in items:
            if kind is op.POSSESSIVE_REPEAT:
                yield from self._all_characters(value[2])
            elif kind in _GROUPS:
                yield from self._all_characters(value if kind is op.ATOMIC_GROUP else value[-1])
            elif kind is op.BRANCH:
                for way in value[1]:
                    yield from self._all_characters(way)
            elif self._is_character(kind):
                yield self._characters(kind, value)
            else:
                raise Fault("a repeat that gives back, within one that does not")

    def _many(self, characters: Characters, path: _Path, *, gives_back: bool = True) -> _Path:
        for earlier in path.repeats:
            if not earlier.gives_back:
                continue
            is_apart = any(must.isdisjoint(earlier.characters) for must in earlier.since)
            if not is_apart and not characters.isdisjoint(earlier.characters):
                raise Fault("two repeats share characters, with nothing between that parts them")
        is_guarded = not self._is_searched or any(must.isdisjoint(characters) for must in path.before)
        repeats = (*path.repeats, _Repeat(characters, is_guarded=is_guarded, gives_back=gives_back))
        return replace(path, repeats=repeats)

    def _is_plain(self, items: list[tuple[Any, Any]]) -> bool:
        return self._is_character(items[0][0]) and all(
            self._is_character(kind) or (kind in REPEATS and len(value[2]) == 1 and self._is_character(value[2][0][0]))
            for kind, value in items
        )

    def _is_character(self, kind: Any) -> bool:
        return kind in (op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN)

    def _characters(self, kind: Any, value: Any) -> Characters:
        """By trying each: the expression of this one item."""
        flags = self._flags & (re.DOTALL | re.IGNORECASE | re.ASCII)
        tried = re.compile(_source(kind, value), flags if self._is_text else flags | re.ASCII)
        return frozenset(filter(tried.fullmatch, _ALPHABET))


_CATEGORIES = {
    op.CATEGORY_DIGIT: r"\d", op.CATEGORY_NOT_DIGIT: r"\D", op.CATEGORY_SPACE: r"\s", op.CATEGORY_NOT_SPACE: r"\S",
    op.CATEGORY_WORD: r"\w", op.CATEGORY_NOT_WORD: r"\W",
}  # fmt: skip


def _source(kind: Any, value: Any) -> str:
    if kind is op.ANY:
        return "."
    if kind is op.LITERAL:
        return re.escape(chr(value))
    if kind is op.NOT_LITERAL:
        return f"[^{_in_set(chr(value))}]"
    return f"[{''.join(_member(*member) for member in value)}]"


def _member(kind: Any, value: Any) -> str:
    if kind is op.NEGATE:
        return "^"
    if kind is op.RANGE:
        return f"{_in_set(chr(value[0]))}-{_in_set(chr(value[1]))}"
    return _CATEGORIES[value] if kind is op.CATEGORY else _in_set(chr(value))


def _in_set(character: str) -> str:
    return f"\\{character}" if character in string.punctuation else character
