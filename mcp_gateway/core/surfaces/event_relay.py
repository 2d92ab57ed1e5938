"""Streams of named events, nearly all of which only go on with the answer: those that come together pass together.

Knows how a piece of such a stream is taken apart, and not what its events are called or tell.
"""

from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.surfaces.error_shapes import error_alone
from mcp_gateway.core.surfaces.events import MAX_FRAME_BYTES, EventReader


class EventRelay:
    """Feeds a reader, which says where events that go on stand, passes them, and reads the others."""

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._events = EventReader(max_frame_bytes)
        self._tail = self._events.tail

    @property
    def is_done(self) -> bool:
        """Whether nothing further is wanted: the backend has told the end, or an error."""
        raise NotImplementedError

    def feed(self, piece: bytes) -> bytes:
        """The whole events so far, as the client is to see them. Raises GatewayError for one without an end."""
        if (more := self._more(piece)) or self.is_done:
            return more
        told, at = [], 0
        while (begins := self._start_of_run(piece, at)) >= 0:
            told.append(self._fed(piece[at:begins]))
            at, ends = begins, self._end_of_run(piece, begins)
            if self._tail or ends == begins:
                break
            told.append(self._more(piece[begins:ends]) or self._fed(piece[begins:ends]))
            at = ends
        told.append(self._fed(piece[at:]))
        return b"".join(told)

    def feed_end(self) -> bytes:
        """The last event, where the stream ended without the blank line behind it; or an error in place of a stream."""
        error = error_alone(bytes(self._tail)) if self._tail else None
        return self._read(self._events.end() if error is None else b"data: %b\n\n" % dump_json({"error": error}))

    def _more(self, piece: bytes) -> bytes:
        """The piece, where it is nothing but whole events that go on with the answer; else nothing."""
        raise NotImplementedError

    def _start_of_run(self, piece: bytes, start: int) -> int:
        """Where the first event begins that goes on with the answer; -1 where none does."""
        raise NotImplementedError

    def _end_of_run(self, piece: bytes, start: int) -> int:
        """Where the events end that go on, or those that are whole; `start` where none is."""
        raise NotImplementedError

    def _read(self, frames: bytes) -> bytes:
        """What whole events become, in the one form of the reader of events."""
        raise NotImplementedError

    def _fed(self, piece: bytes) -> bytes:
        return self._read(self._events.feed(piece)) if piece and not self.is_done else b""


def end_of_events(piece: bytes, start: int) -> int:
    """Where the last whole event from `start` on ends; `start` where none is."""
    at = piece.rfind(b"\n\n", start)
    return at + 2 if at >= 0 else start
