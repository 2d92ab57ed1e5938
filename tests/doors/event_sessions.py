"""A session of MCP over HTTP+SSE by hand: its stream, and the messages that are sent to it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import orjson

from tests.serving import Door


@dataclass(frozen=True, slots=True)
class EventSession:
    """What its stream was answered with; `messages` is where it takes messages, empty where it was refused."""

    door: Door
    headers: Mapping[str, str]
    status: int
    messages: str
    _lines: AsyncIterator[str]

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """What the stream tells of a request."""
        body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        taken = await send(self.door, self.messages, self.headers, body)
        assert taken.status_code == 202, taken.text
        answer: dict[str, Any] = orjson.loads(await _data(self._lines))
        return answer


async def send(door: Door, path: str, headers: Mapping[str, str], body: bytes) -> httpx2.Response:
    return await door.http.post(path, content=body, headers={**headers, "content-type": "application/json"})


@asynccontextmanager
async def event_session(door: Door, path: str, headers: Mapping[str, str]) -> AsyncIterator[EventSession]:
    """Over for the gateway, too, once it is left."""
    async with door.http.stream("GET", path, headers=dict(headers)) as stream:
        lines = stream.aiter_lines()
        messages = await _data(lines) if stream.is_success else ""
        yield EventSession(door, headers, stream.status_code, messages, lines)


async def _data(lines: AsyncIterator[str]) -> str:
    """Of the next event that has some."""
    async for line in lines:
        if line.startswith("data: "):
            return line.removeprefix("data: ")
    raise AssertionError("the stream has ended")
