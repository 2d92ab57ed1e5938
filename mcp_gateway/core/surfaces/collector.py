"""Reads the stream of an answer that is wanted in one piece, a lot of frames at a time: one alone costs as much.

Joins what judges a stream (FrameRelay) and what puts it together (Collected). Frames that only go on with the text are
added without the relay, to which they would tell nothing but their usage. Knows no connection and no money.
"""

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.surfaces.collected import Collected
from mcp_gateway.core.surfaces.splice import FrameRelay
from mcp_gateway.core.surfaces.surface import Failure, Seen
from mcp_gateway.core.surfaces.usage import Usage

_LOT_BYTES = 16 * 1024
_MAX_TRIES = 8
"""Frames that are read one by one for the next to be of their form; where these are not, the rest is read together."""


class Relayed:
    """What a stream amounts to that is judged by a relay and put together elsewhere, until that `is_full`."""

    def __init__(self, relay: FrameRelay) -> None:
        self._relay = relay

    @property
    def is_full(self) -> bool:
        """Whether it was cut at the largest size that is held whole."""
        raise NotImplementedError

    @property
    def has_started(self) -> bool:
        return self._relay.has_started

    @property
    def first_frame(self) -> bytes:
        return self._relay.first_frame

    def has_told(self, frames: bytes) -> bool:
        """An answer in one piece is told once it is whole."""
        return self.is_whole

    @property
    def is_done(self) -> bool:
        """Whether nothing further is wanted: the backend has told the end, or an error, or it is too much."""
        return self._relay.is_done or self.is_full

    @property
    def is_whole(self) -> bool:
        """Whether it can be delivered: every choice has finished, or was cut."""
        return self.is_full or self._relay.is_whole

    @property
    def failure(self) -> Failure | None:
        """What the backend told instead of the end."""
        return self._relay.failure


class Collector(Relayed):
    """Fed with what arrives until `is_done`, and then ended. Raises GatewayError for what was not understood."""

    def __init__(self, public_model: str, *, choices: int, max_bytes: int) -> None:
        super().__init__(FrameRelay(None, wants_usage=True, wants_continuous_usage=True, choices=choices))
        self._collected = Collected(max_bytes=max_bytes, public_model=public_model)
        self._has_one_choice = choices == 1
        self._tries = 0
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._failure: GatewayError | None = None

    def feed(self, piece: bytes) -> bytes:
        """Take what has arrived, and read it where it is not merely more of the text; b"" where that told nothing."""
        if self._failure is not None:
            raise self._failure
        self._waiting.append(piece)
        self._waiting_bytes += len(piece)
        form = self._collected.form
        is_more = form is not None and piece.startswith(form.before) and piece.endswith(b"}\n\n")
        return b"" if is_more and self._waiting_bytes < _LOT_BYTES else self._read()

    def feed_end(self) -> bytes:
        """The last frame, where the stream ended without the blank line behind it; and cut what has grown too large."""
        self.feed(b"")
        for frames in (self._relay.feed_end(), self._relay.end()):
            self._collected.feed(frames)
        if self._collected.is_full:
            self._collected.cut()
        return self._relay.first_frame

    @property
    def is_full(self) -> bool:
        return self._collected.is_full

    @property
    def held_bytes(self) -> int:
        """What is kept: about the body, and what has come of frames that were not read."""
        return self._collected.size_bytes + self._relay.held_bytes + self._waiting_bytes

    @property
    def usage(self) -> Usage | None:
        """What is told of all that has come; where it was cut, of what is kept."""
        self._look()
        return self._collected.usage if self._collected.is_full else self._relay.usage

    @property
    def seen(self) -> Seen:
        """What there is at least, where no usage tells."""
        self._look()
        return Seen(None, self._collected.text_frames)

    @property
    def has_any(self) -> bool:
        """Whether anything has come of the answer."""
        return self.usage is not None or self.seen.output_tokens > 0

    @property
    def finish_reason(self) -> str | None:
        return self._collected.finish_reason

    @property
    def latest_words(self) -> str:
        """The end of what the first choice has so far: its text, or its reasoning before there is any."""
        self._look()
        return self._collected.latest_words

    def body(self, billed: Usage) -> bytes:
        """The answer in one piece, which tells the usage that is billed."""
        return self._collected.body(billed)

    def _look(self) -> None:
        """Read what waits, for who asks meanwhile; a failure is told to who feeds."""
        try:
            self._read()
        except GatewayError as error:
            self._failure = error

    def _read(self) -> bytes:
        pieces = b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = start = 0
        while start < len(pieces) and not self.is_done:
            start = self._end_of_plain(pieces, start) or self._end_of_others(pieces, start)
        return pieces if self._relay.has_started else b""

    def _end_of_plain(self, pieces: bytes, start: int) -> int:
        """Add the frames that begin there, if they are of the last one's form; where they end, or 0."""
        form = self._collected.form
        run = form.run_at(pieces, start) if form is not None and self._has_one_choice and self._relay.is_amid else None
        if form is None or run is None:
            return 0
        if self._collected.has_added(form, run):
            self._relay.skip(run.usage, len(run.texts))
        else:
            self._collected.feed(self._relay.feed(pieces[start : run.end]))
        return run.end

    def _end_of_others(self, pieces: bytes, start: int) -> int:
        """Have the relay look at the frame that begins there, or at all where nothing speaks for a form to come."""
        self._tries = 0 if self._collected.form is not None else self._tries + 1
        end = pieces.find(b"\n\n", start) + 2 if self._has_one_choice and self._tries < _MAX_TRIES else 0
        end = end if end > 1 else len(pieces)
        self._collected.feed(self._relay.feed(pieces[start:end]))
        return end
