"""Reads what may change meanwhile: what is remembered of it is no older than the last change that was heard of.

Knows nothing of what is read, nor of who hears of changes.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def settled(read: Callable[[], Awaitable[T]], last_change: Callable[[], int]) -> T:
    """What is read, and read again where something has changed meanwhile, which may have been that."""
    seen = -1
    while seen != last_change():
        seen = last_change()
        found = await read()
    return found
