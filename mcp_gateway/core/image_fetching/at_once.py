"""Places by name, so many at once; who finds none free waits in line."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class _WaitingLine:
    places: asyncio.Semaphore
    users: int = 0


class AtOnce:
    """Keeps nothing of a name that nobody uses."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lines: dict[str, _WaitingLine] = {}

    def __len__(self) -> int:
        return len(self._lines)

    @asynccontextmanager
    async def place(self, name: str) -> AsyncIterator[None]:
        line = self._lines.setdefault(name, _WaitingLine(asyncio.Semaphore(self._most)))
        line.users += 1
        try:
            async with line.places:
                yield
        finally:
            line.users -= 1
            if not line.users:
                del self._lines[name]
