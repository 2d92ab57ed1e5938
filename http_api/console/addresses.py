"""Addresses of pages: the filters that stand in one, and the page behind the rows that are shown."""

from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from http_api.operations import Asked


def filters_in(asked: Asked[Any, Any], names: Collection[str]) -> dict[str, str]:
    """Those of the named filters that are set, as they stand in the address."""
    given = parse_qsl(asked.scope["query_string"].decode("latin-1"))
    return {name: text for name, text in given if name in names}


def older(next_cursor: str | None, filters: Mapping[str, str]) -> str | None:
    """The query of the page that goes on, with the same filters; None where nothing is behind."""
    return None if next_cursor is None else f"?{urlencode({**filters, 'cursor': next_cursor})}"
