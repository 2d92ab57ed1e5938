"""Origins in memory, for tests of what is made of an answer and not of how it comes."""

import asyncio
from typing import Any


class Whole:
    """An answer that is there in one piece."""

    def __init__(self, body: bytes, status: int = 200) -> None:
        self.status = status
        self._body = body

    def header(self, name: bytes) -> bytes | None:
        if name != b"content-type":
            return None
        return b"application/json" if self._body.startswith(b"{") else b"text/event-stream"

    async def read(self, keep: Any = None) -> bytes:
        return await self.next_chunk()

    async def next_chunk(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def close(self) -> None: ...
    def doubt(self) -> None: ...
    def discard(self) -> None: ...


class Fixed:
    """A backend that always gives the same answer."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def request(self, *_: Any, **__: Any) -> Whole:
        await asyncio.sleep(0)  # as anything on a network lets others run
        return Whole(self._body)

    async def aclose(self) -> None: ...
