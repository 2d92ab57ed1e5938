"""A backend's stream of which no more comes than its account can pay: then it ends as if the backend had ended it.

Each frame is weighed before anybody reads it, so that what was read is what is billed. Knows no connection.
"""

import re
from collections.abc import Awaitable, Callable

from mcp_gateway.core.dialects.dialect import Translation
from mcp_gateway.core.inference.running_hold import RunningHold
from mcp_gateway.core.surfaces.chunks import split_frames
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.events import EventReader
from mcp_gateway.core.surfaces.running_usage import TEXT
from mcp_gateway.core.surfaces.usage import Usage, last_usage
from mcp_gateway.core.upstream.backend import BackendResponse

_CHOICE = re.compile(rb'"choices"\s{0,8}:\s{0,8}\[\s{0,8}\{')


class Rationed:
    """In place of a backend's response, whose frames tell a running count.

    `keep` has room for so many bytes of a frame that is not whole.
    """

    def __init__(
        self,
        response: BackendResponse,
        running_hold: RunningHold,
        translation: Translation,
        bounds: UsageBounds,
        keep: Callable[[int], Awaitable[None]],
    ) -> None:
        self.status = response.status
        self.header, self.read = response.header, response.read
        self.close, self.doubt, self.discard = response.close, response.doubt, response.discard
        self._response = response
        self._running_hold = running_hold
        self._translation = translation
        self._count = _Count(bounds, running_hold.prompt_tokens)
        self._keep = keep
        self._events = EventReader()
        self._first = b""
        self._has_ended = False

    async def next_chunk(self) -> bytes:
        """Whole frames. Raises GatewayError where not even the first is covered."""
        while not self._has_ended:
            piece = await self._response.next_chunk()
            self._has_ended = not piece
            frames = await self._covered(self._events.feed(piece) if piece else self._events.end())
            if frames:
                return frames
            if self._events.tail:
                await self._keep(len(self._events.tail))
        return b""

    async def _covered(self, frames: bytes) -> bytes:
        kept = []
        for frame in split_frames(frames):
            usage = self._count.with_frame(frame)
            if usage is not None:
                if not await self._running_hold.covers(usage):
                    kept.append(self._cut())
                    break
                self._count.take(usage)
                self._first = self._first or frame
            kept.append(frame)
        return b"".join(kept)

    def _cut(self) -> bytes:
        """Have the backend make no more; what ends the stream in its words.

        Without a usage where none was told: what is billed then is decided elsewhere.
        """
        self._has_ended = True
        self._response.close()
        ended_by = self._running_hold.ended_by
        if self._count.so_far is None or ended_by is None:
            raise self._running_hold.refusal()
        usage = self._count.so_far if self._count.is_told else None
        return self._translation.cut(self._first, usage, ended_by)


class _Count:
    """What is taken of a stream, whose prompt has about so many tokens until it tells; `is_told` once it does."""

    def __init__(self, bounds: UsageBounds, prompt_tokens: int) -> None:
        self.so_far: Usage | None = None
        self.is_told = False
        self._bounds = bounds
        self._prompt_tokens = prompt_tokens
        self._tells = False

    def take(self, usage: Usage) -> None:
        """Go on from what the last frame came to."""
        self.so_far, self.is_told = usage, self.is_told or self._tells

    def with_frame(self, frame: bytes) -> Usage | None:
        """What has come with a frame that brings something; None of another, which is never kept back.

        One that tells no usage to believe counts as a token, if it has any text.
        """
        if _CHOICE.search(frame) is None:
            return None
        told = last_usage(frame)
        self._tells = told is not None and self._bounds.allow(told)
        if told is not None and self._tells:
            return told
        before = self.so_far or Usage(self._prompt_tokens, 0)
        return before._replace(completion_tokens=before.completion_tokens + (TEXT.search(frame) is not None))
