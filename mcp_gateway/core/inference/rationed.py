"""A backend's stream of which no more comes than its account can pay: then it ends as if the backend had ended it.

Each frame is weighed before anybody reads it, so that what was read is what is billed. Knows no connection.
"""

from mcp_gateway.core.dialects.dialect import Translation
from mcp_gateway.core.inference.running_hold import RunningHold
from mcp_gateway.core.surfaces.chunks import split_frames
from mcp_gateway.core.surfaces.credible import UsageBounds
from mcp_gateway.core.surfaces.events import EventReader
from mcp_gateway.core.surfaces.running_usage import TEXT
from mcp_gateway.core.surfaces.usage import Usage, last_usage
from mcp_gateway.core.upstream.backend import BackendResponse

_CHOICE = b'"choices":[{'
_LOOSE_CHOICE = b'"choices": [{'
"""As servers write it that put blanks between JSON's tokens."""


class Rationed:
    """In place of a backend's response, whose frames tell a running count."""

    def __init__(
        self, response: BackendResponse, running_hold: RunningHold, translation: Translation, bounds: UsageBounds
    ) -> None:
        self.status = response.status
        self.header, self.read = response.header, response.read
        self.close, self.doubt, self.discard = response.close, response.doubt, response.discard
        self._response = response
        self._running_hold = running_hold
        self._translation = translation
        self._bounds = bounds
        self._events = EventReader()
        self._first = b""
        self._so_far: Usage | None = None
        self._has_ended = False

    async def next_chunk(self) -> bytes:
        """Whole frames. Raises GatewayError where not even the first is covered."""
        while not self._has_ended:
            piece = await self._response.next_chunk()
            self._has_ended = not piece
            frames = await self._covered(self._events.feed(piece) if piece else self._events.end())
            if frames:
                return frames
        return b""

    async def _covered(self, frames: bytes) -> bytes:
        kept = []
        for frame in split_frames(frames):
            usage = self._usage_with(frame)
            if usage is not None:
                if not await self._running_hold.covers(usage):
                    kept.append(self._cut())
                    break
                self._so_far = usage
                self._first = self._first or frame
            kept.append(frame)
        return b"".join(kept)

    def _usage_with(self, frame: bytes) -> Usage | None:
        """What has come with a frame that brings something; None of another, which is never kept back.

        One that tells no usage to believe counts as a token, if it has any text.
        """
        if frame.find(_CHOICE) < 0 and frame.find(_LOOSE_CHOICE) < 0:
            return None
        told = last_usage(frame)
        if told is not None and self._bounds.allow(told):
            return told
        before = self._so_far or Usage(self._running_hold.prompt_tokens, 0)
        return before._replace(completion_tokens=before.completion_tokens + (TEXT.search(frame) is not None))

    def _cut(self) -> bytes:
        """Have the backend make no more; what ends the stream in its words."""
        self._has_ended = True
        self._response.close()
        if self._so_far is None:
            raise self._running_hold.refusal()
        return self._translation.cut(self._first, self._so_far)
