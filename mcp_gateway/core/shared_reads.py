"""What several want to know at the same time is read once: a burst of a caller's requests begins by the same reads."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class SharedReads(Generic[T]):
    """Reads on their way, each by what it is of."""

    def __init__(self) -> None:
        self._reading: dict[Hashable, asyncio.Task[T]] = {}

    async def of(self, what: Hashable, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the one on its way brings, or a new one; it goes on when whoever began it has left. Raises what it does.

        It may have begun before this call, and so miss what was written since.
        """
        reading = self._reading.get(what)
        if reading is None:
            reading = self._reading[what] = asyncio.create_task(read())
            reading.add_done_callback(lambda ended: self._end(what, ended))
        return await asyncio.shield(reading)

    def _end(self, what: Hashable, ended: asyncio.Task[T]) -> None:
        del self._reading[what]
        if not ended.cancelled():
            ended.exception()  # which nobody is there for, where all have left
