"""What an expression of PromQL names: metrics with the labels that are asked of them, and labels that are grouped by.

As much of the language as the files of this project use.
"""

import re
from collections import defaultdict
from typing import NamedTuple

_TOKEN = re.compile(
    r"""
    (?P<string>"(?:[^"\\]|\\.)*")
    | (?P<range>\[[^\]]*\])
    | (?P<number>[0-9][0-9a-zA-Z_.]*)
    | (?P<name>[a-zA-Z_][a-zA-Z0-9_:]*)
    | (?P<sign>[^\s])
    """,
    re.VERBOSE,
)
_LABELS_FOLLOW = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS = {"and", "or", "unless", "offset", "bool"}


class Named(NamedTuple):
    """By an expression."""

    metrics: dict[str, set[str]]
    grouped: set[str]


def named_in(expression: str) -> Named:
    tokens = [(str(found.lastgroup), found[0]) for found in _TOKEN.finditer(expression)]
    named = Named(defaultdict(set), set())
    position = 0
    while position < len(tokens):
        kind, text = tokens[position]
        position += 1
        follows = tokens[position][1] if position < len(tokens) else ""
        if kind != "name" or text in _WORDS:
            continue
        if text in _LABELS_FOLLOW:
            labels, position = _names_until(")", tokens, position)
            named.grouped.update(labels)
        elif follows == "{":
            labels, position = _names_until("}", tokens, position)
            named.metrics[text].update(labels)
        elif follows != "(" and follows not in _LABELS_FOLLOW:
            named.metrics[text].update()
    return named


def _names_until(end: str, tokens: list[tuple[str, str]], position: int) -> tuple[set[str], int]:
    stop = tokens.index(("sign", end), position)
    return {text for kind, text in tokens[position:stop] if kind == "name"}, stop + 1
