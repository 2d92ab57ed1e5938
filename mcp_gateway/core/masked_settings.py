"""Settings as an administrator and the audit log may see them: without what is secret."""

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic_core import to_jsonable_python

from mcp_gateway.core.config import Settings
from mcp_gateway.core.section import Section

_MASK = "**********"
_MASKED_VALUES = frozenset({"headers"})
"""Tables whose values may be secrets, whatever their names."""
_MOST_TOLD = 100
"""Of the tables of one list that differ."""


def masked(value: Any) -> Any:
    """Settings, or a part of them, as JSON has them; pydantic masks what is a secret by its type."""
    return _without_values(to_jsonable_python(value))


def differing_values(before: Settings, after: Settings, names: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What these settings were and are, masked; of a list of tables those that differ, by their ids or names."""
    was, now = dict[str, Any](), dict[str, Any]()
    for name in names:
        one, other = _at(before, name), _at(after, name)
        if _is_of_tables(one) and _is_of_tables(other):
            one, other = _differing(_by_name(one), _by_name(other))
        was[name], now[name] = masked(one), masked(other)
    return was, now


def _without_values(tree: Any) -> Any:
    if isinstance(tree, list):
        return [_without_values(one) for one in tree]
    if not isinstance(tree, dict):
        return tree
    return {
        name: dict.fromkeys(inner, _MASK) if name in _MASKED_VALUES and isinstance(inner, dict)
        else _without_values(inner)
        for name, inner in tree.items()
    }  # fmt: skip


def _at(settings: Settings, name: str) -> Any:
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _is_of_tables(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(one, Section) for one in value)


def _by_name(tables: Sequence[Any]) -> dict[str, Any]:
    return {one.id if hasattr(one, "id") else one.name: one for one in tables}


def _differing(was: dict[str, Any], now: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    others = [name for name in {**was, **now} if was.get(name) != now.get(name)][:_MOST_TOLD]
    return {name: was[name] for name in others if name in was}, {name: now[name] for name in others if name in now}
