"""One connection to Valkey: what is asked in a turn of the event loop leaves in one write, and is answered in order.

    made --> asked and answered --+--> ended: it broke off, refused something, or was silent for too long
                                  +--> ended: closed by us, once what was written has left

An end is final; all that waits for an answer learns of it at once. Knows nothing of what is asked.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

import hiredis

_MOST_WAITING = 20_000
_MOST_UNSENT_BYTES = 4 * 1024 * 1024
_GRACE_S = 0.001
"""For answers that lie in the socket when our own process was late: timers run before sockets are read."""

Command = bytes | tuple[str | bytes | int | float, ...]
"""As it is sent, or its parts."""
OnLost = Callable[[bytes], None]
_Waiting = tuple[float, bytes, "asyncio.Future[object] | None", OnLost | None]
"""Since when, the command, and who is told the answer, or that there is none."""


class ValkeyDown(Exception):
    """Valkey is away, refuses what is asked, or has not answered in time."""


class Link(asyncio.Protocol):
    """Made by an event loop's `create_connection`."""

    _transport: asyncio.Transport | None = None
    _watch: asyncio.TimerHandle | None = None
    _is_flush_due = False
    _is_full = False
    _asked_at_s = 0.0
    """When this turn of the loop began to ask."""
    is_over = False

    def __init__(self, answer_s: float) -> None:
        """`answer_s` is how long an answer may take before the connection is taken for dead."""
        self._loop = asyncio.get_running_loop()
        self._answer_s = answer_s
        self._reader = hiredis.Reader()
        self._waiting: deque[_Waiting] = deque()
        self._unsent: list[bytes] = []
        self.ended: asyncio.Future[str] = self._loop.create_future()
        """Why."""

    # What is asked

    def ask(self, command: Command) -> "asyncio.Future[object]":
        """The answer. Raises ValkeyDown, as the future does where none comes."""
        future: asyncio.Future[object] = self._loop.create_future()
        self._send(command, future, None)
        return future

    def tell(self, command: Command, on_lost: OnLost | None = None) -> None:
        """Send what needs no answer; `on_lost` is told it where it may not have arrived. Raises ValkeyDown."""
        self._send(command, None, on_lost)

    def close(self) -> None:
        """End it, once what was written has left."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self, why: str) -> None:
        """End it at once."""
        if not self.is_over:
            self._end(why)
            if self._transport is not None:
                self._transport.abort()

    def _send(self, command: Command, future: "asyncio.Future[object] | None", on_lost: OnLost | None) -> None:
        if self._is_full or self.is_over or len(self._waiting) >= _MOST_WAITING:
            raise ValkeyDown("it does not take any more")
        sent = command if isinstance(command, bytes) else hiredis.pack_command(command)  # type: ignore[arg-type]
        if not self._is_flush_due:
            self._is_flush_due = True
            self._asked_at_s = self._loop.time()
            self._loop.call_soon(self._flush)
            if self._watch is None:
                self._watch = self._loop.call_later(self._answer_s, self._look)
        self._waiting.append((self._asked_at_s, sent, future, on_lost))
        self._unsent.append(sent)

    def _flush(self) -> None:
        self._is_flush_due = False
        unsent, self._unsent = self._unsent, []
        if unsent and self._transport is not None:
            self._transport.write(b"".join(unsent))

    # How long it takes

    def _look(self) -> None:
        """At who has waited for the longest, once it may be too long."""
        self._watch = self._loop.call_later(_GRACE_S, self._look_again)

    def _look_again(self) -> None:
        self._watch = None
        if not self._waiting or self.is_over:
            return
        left_s = self._waiting[0][0] + self._answer_s - self._loop.time()
        if left_s <= 0:
            self.abort(f"it has not answered for {self._answer_s} s")
        else:
            self._watch = self._loop.call_later(left_s, self._look)

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_MOST_UNSENT_BYTES)

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self._waiting
        try:
            reader.feed(data)
            while (answer := reader.gets()) is not False:
                asked = waiting.popleft()
                if isinstance(answer, Exception):
                    return self._refused(str(answer), asked)
                future = asked[2]
                if future is not None and not future.done():
                    future.set_result(answer)
        except (hiredis.ProtocolError, IndexError):
            self.abort("what it answers is not understood")

    def connection_lost(self, error: Exception | None) -> None:
        self._end("the connection has ended" if error is None else str(error))

    def _refused(self, why: str, asked: _Waiting) -> None:
        """A script that is unknown, a server that may not write: nothing that passes by itself on this connection."""
        self.abort(why)
        _lose(why, asked)

    def _end(self, why: str) -> None:
        if self.is_over:
            return
        self.is_over = True
        self.ended.set_result(why)
        if self._watch is not None:
            self._watch.cancel()
        waiting, self._waiting = self._waiting, deque()
        for asked in waiting:
            _lose(why, asked)


def _lose(why: str, asked: _Waiting) -> None:
    _, command, future, on_lost = asked
    if future is not None and not future.done():
        future.set_exception(ValkeyDown(why))
        future.exception()  # whoever waits sees it; where nobody does any more, nothing is logged
    if on_lost is not None:
        on_lost(command)
