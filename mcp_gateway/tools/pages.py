"""Long lists of models in pages: so many entries and bytes at most, and behind which model the next page begins."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from mcp_gateway.core.catalog import Model
from mcp_gateway.core.errors import GatewayError

Entry = TypeVar("Entry")


def models_behind(cursor: str | None, models: Mapping[str, Model]) -> Iterator[Model]:
    """The models of a page and of those that follow; a cursor is the id of the last one of the page before.

    Raises GatewayError for one that is not there, or no more: where it stood nobody knows.
    """
    left = iter(models.values())
    if cursor:
        if cursor not in models:
            message = "There is no page of this `cursor`: begin again without one."
            raise GatewayError("invalid_value", message, param="cursor")
        while next(left).id != cursor:
            pass
    return left


def first_page(
    entries: Iterable[Entry], size_bytes_of: Callable[[Entry], int], *, max_entries: int, max_bytes: int
) -> tuple[list[Entry], bool]:
    """As many as fit, one at least, and whether there are more."""
    page: list[Entry] = []
    left_bytes = max_bytes
    for entry in entries:
        left_bytes -= size_bytes_of(entry)
        if page and (left_bytes < 0 or len(page) == max_entries):
            return page, True
        page.append(entry)
    return page, False
