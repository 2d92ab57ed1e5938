"""Rows a few at a time, for steps between which others have the writer."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def in_batches(rows: Sequence[T], size: int) -> Iterator[tuple[T, ...]]:
    """All of them in their order, `size` at a time and what is left in the last; none of none."""
    return (tuple(rows[first : first + size]) for first in range(0, len(rows), size))
