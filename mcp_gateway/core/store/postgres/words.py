"""Statements of any engine in PostgreSQL's words: parameters by number, and what SQLite's planner is told left out.

Those that differ in more than that have words of their own, in `instead.py`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from mcp_gateway.core.store.postgres.instead import INSTEAD

NOW_S = "extract(epoch FROM clock_timestamp())"
"""The database's time, with parts of a second, since the Unix epoch."""
_LITERAL = re.compile(r"'[^']*'|--[^\n]*")
"""A doubled quote within a text parts it into two, which stand beside each other again in the end."""
_KEPT = re.compile("\x00(\\d+)\x00")
_WORDS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\bCROSS JOIN (\w+)( AS \w+)? (ON|USING)\b", re.IGNORECASE), r"JOIN \1\2 \3"),
    (re.compile(r"\sINDEXED BY \w+", re.IGNORECASE), ""),
    (re.compile(r"(?<=[ (,])\+(?=[a-z_])", re.IGNORECASE), ""),
    (re.compile(r"\bIFNULL\(", re.IGNORECASE), "COALESCE("),
    (re.compile(r"\bINSTR\(", re.IGNORECASE), "strpos("),
    (re.compile(r"\bjson_array\(", re.IGNORECASE), "json_build_array("),
    (re.compile(r"\bIS NOT (?!NULL\b|TRUE\b|FALSE\b|DISTINCT\b)", re.IGNORECASE), "IS DISTINCT FROM "),
    (re.compile(r"\bIS (?!NOT\b|NULL\b|TRUE\b|FALSE\b|DISTINCT\b)", re.IGNORECASE), "IS NOT DISTINCT FROM "),
    (re.compile(r"\bSELECT value FROM json_each\(", re.IGNORECASE), 'SELECT value COLLATE "C" FROM json_each('),
    (re.compile(r"\bVALUES \(([^()]+)\)(\s+UNION\b)", re.IGNORECASE), r'SELECT CAST(\1 AS text) COLLATE "C"\2'),
    (re.compile(r"\bNOT is_told\b", re.IGNORECASE), "is_told = 0"),
    (re.compile(r'(?<![\w"])window\b(?!")', re.IGNORECASE), '"window"'),
)
_PARAMETER = re.compile(r"\?(\d*)|(?<![:\w]):([a-z_]\w*)")
_MOST = 4096

Ordered = Callable[[Any], Sequence[Any]]


class Wording(NamedTuple):
    """A text for PostgreSQL, and how its parameters are found in what is given."""

    text: str
    ordered: Ordered


@lru_cache(_MOST)
def statement_of(sql: str) -> Wording:
    """The same in PostgreSQL's words."""
    literals: list[str] = []

    def kept(found: re.Match[str]) -> str:
        if found[0].startswith("--"):
            return ""
        literals.append(found[0])
        return f"\x00{len(literals) - 1}\x00"

    text = _LITERAL.sub(kept, INSTEAD.get(sql, sql))
    for pattern, word in _WORDS:
        text = pattern.sub(word, text)
    numbers: dict[str, int] = {}
    most = 0

    def numbered(found: re.Match[str]) -> str:
        nonlocal most
        number, name = found[1], found[2]
        if name is not None:
            return f"${numbers.setdefault(name, len(numbers) + 1)}"
        place = int(number) if number else most + 1
        most = max(most, place)
        return f"${place}"

    text = _PARAMETER.sub(numbered, text)
    text = _KEPT.sub(lambda found: literals[int(found[1])], text)
    return Wording(text, _by_name(tuple(numbers)) if numbers else tuple)


def _by_name(names: tuple[str, ...]) -> Ordered:
    def ordered(given: Mapping[str, Any]) -> Sequence[Any]:
        return [given[name] for name in names]

    return ordered
