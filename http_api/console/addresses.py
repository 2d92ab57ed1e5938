"""Addresses of pages: the filters that stand in one, and the page behind the rows that are shown."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

from http_api.operations import Asked


def pairs_in(asked: Asked[Any, Any], names: Collection[str]) -> list[tuple[str, str]]:
    """Those of the named filters that are set, as they stand in the address, perhaps several times."""
    given = parse_qsl(asked.scope["query_string"].decode("latin-1"))
    return [(name, text) for name, text in given if name in names]


def filters_in(asked: Asked[Any, Any], names: Collection[str]) -> dict[str, str]:
    """The same of filters that have one value each."""
    return dict(pairs_in(asked, names))


def older(next_cursor: str | None, filters: Mapping[str, str] | Sequence[tuple[str, str]]) -> str | None:
    """The query of the page that goes on, with the same filters; None where nothing is behind."""
    pairs = filters.items() if isinstance(filters, Mapping) else filters
    return None if next_cursor is None else f"?{urlencode([*pairs, ('cursor', next_cursor)])}"
