"""The answer to one client as server-sent events, with a comment for as long as there is nothing else to send.

Clients and proxies give up on a connection that stays silent, while a request waits for its turn or its answer makes a
pause. The head goes out with the first of all; whatever fails after that can only be told in the stream.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from starlette.types import Send

from mcp_gateway.wire import event_streams
from mcp_gateway.wire.line_ends import without_line_ends
from mcp_gateway.wire.whole_answers import Headers

_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    *event_streams.HEADERS,
]


class EventStream:
    """Sends a head, once, and frames; while entered, a comment where nothing was sent for `comment_s` (0: none).

    A timer looks every `comment_s` whether anything was sent since, so a silence lasts for less than twice as long;
    sending winds nothing. `before_head` is called when the head is due.
    """

    def __init__(
        self, send: Send, comment: Callable[[], bytes], comment_s: float, before_head: Callable[[], None]
    ) -> None:
        self._send = send
        self._comment = comment
        self._comment_s = comment_s
        self._before_head = before_head
        self._timer: asyncio.TimerHandle | None = None
        self._commenting: asyncio.Task[None] | None = None
        self._is_fresh = False
        self._is_sending = False
        self._is_commenting = False
        self.has_begun = False

    async def send(self, frames: bytes) -> None:
        """Send frames, after the head where that was not sent."""
        if not self.has_begun:
            self._before_head()
            await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            self.has_begun = True
        self._is_fresh = self._is_sending = True
        await self._send({"type": "http.response.body", "body": without_line_ends(frames), "more_body": True})
        self._is_sending = False

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})

    async def hush(self) -> None:
        """Comment no more. One that is on its way is let go first: what comes next must not overtake it."""
        if self._commenting is not None:
            if self._is_commenting:
                await asyncio.wait({self._commenting})
            self._commenting.cancel()
        if self._timer is not None:
            self._timer.cancel()

    async def __aenter__(self) -> Self:
        self._wind()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, asyncio.CancelledError):
            self._is_commenting = False  # nobody reads it any more
        await self.hush()

    def _wind(self) -> None:
        if self._comment_s:
            self._timer = asyncio.get_running_loop().call_later(self._comment_s, self._on_timer)

    def _on_timer(self) -> None:
        """Comment, unless something was sent since, or waits for a client that does not read."""
        if self._is_fresh or self._is_sending:
            self._is_fresh = False
            self._wind()
        else:
            self._commenting = asyncio.get_running_loop().create_task(self._send_comment())

    async def _send_comment(self) -> None:
        """By now frames may have been sent, and after the last of them nothing is."""
        if not (self._is_fresh or self._is_sending):
            self._is_commenting = True
            await self.send(self._comment())
            self._is_commenting = False
        self._is_fresh = False
        self._wind()
