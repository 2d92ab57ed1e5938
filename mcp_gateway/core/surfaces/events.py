"""Server-sent events, however a backend writes them, in the one form that is read on: `data: …` or `: comment` alone.

Knows the line ends, the fields and the byte order mark of the format (WHATWG HTML, 9.2.5), not what an event tells.
"""

import re

import orjson

from mcp_gateway.core.errors import GatewayError

MAX_FRAME_BYTES = 2 * 1024 * 1024
_MAX_ODD_LINES = 16_384
"""Of what arrives together: they are looked at one by one, while all others wait."""
_MARK = b"\xef\xbb\xbf"
_NAMED = re.compile(rb"event: (?!error\b)[\w.]+\ndata: (\{[^\n]*\})")
_NO_DATA = re.compile(rb"data:[ \t]*\n")
_BLANK_LINES = re.compile(rb"\n{3,}")


class EventReader:
    """Takes whatever arrived and returns whole events; `tail` is what has come of one that is not whole."""

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self.tail = bytearray()
        self._max_frame_bytes = max_frame_bytes
        self._has_begun = False
        self._ended_in_cr = False

    def feed(self, piece: bytes) -> bytes:
        """The whole events so far. Raises GatewayError for one without an end."""
        if not self._has_begun:
            piece = self._without_mark(piece)
        if self._ended_in_cr or piece.find(b"\r") >= 0:
            piece = self._with_line_feeds(piece)
        if self.tail and b"\n\n" not in self.tail[-1:] + piece:
            self._keep(piece)
            return b""
        data = b"".join((self.tail, piece)) if self.tail else piece
        self.tail.clear()
        if data.endswith(b"\n\n"):
            return _in_one_form(data)
        cut = data.rfind(b"\n\n") + 2
        if cut == 1:
            cut = 0
        self._keep(data[cut:])
        return _in_one_form(data[:cut])

    def end(self) -> bytes:
        """What came last and without a blank line, where it is whole all the same; b"" for what was cut."""
        data = bytes(self.tail)
        self.tail.clear()
        event = _in_one_form(data + b"\n\n") if data.strip() else b""
        return event if _is_whole(event) else b""

    def _without_mark(self, piece: bytes) -> bytes:
        data = b"".join((self.tail, piece))
        self.tail.clear()
        if len(data) < len(_MARK) and _MARK.startswith(data):
            self.tail += data
            return b""
        self._has_begun = True
        return data.removeprefix(_MARK)

    def _with_line_feeds(self, piece: bytes) -> bytes:
        """The same with a line feed for each CR LF, which may be cut in two, and for each CR alone."""
        if not piece:
            return b""
        if self._ended_in_cr and piece.startswith(b"\n"):
            piece = piece[1:]
            self._ended_in_cr = False
            if not piece:
                return b""
        self._ended_in_cr = piece.endswith(b"\r")
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _keep(self, piece: bytes) -> None:
        self.tail += piece
        if len(self.tail) > self._max_frame_bytes:
            raise GatewayError("backend_error", "The backend sent a frame without an end.")


def _in_one_form(events: bytes) -> bytes:
    """Whole events: as they are where each is one line of data."""
    line_ends = events.count(b"\n")
    if events.startswith(b"data:") and line_ends == 2 * events.count(b"\n\ndata:") + 2:
        ends = events.count(b"}\n") + events.count(b"]\n")  # of JSON, and of [DONE]
        if 2 * ends == line_ends or _NO_DATA.search(events) is None:
            return events
    if events.find(b"\n\n\n") >= 0:  # which is found in a tenth of the time
        events = _BLANK_LINES.sub(b"\n\n", events)
    if events.count(b"\n") > _MAX_ODD_LINES:
        raise GatewayError("backend_error", "The backend's stream could not be understood.")
    return b"".join([_event(text) for text in events.split(b"\n\n") if text])


def _event(text: bytes) -> bytes:
    """One event without its other fields; a line end within its data is white space between JSON's tokens."""
    if (usual := _NAMED.fullmatch(text)) is not None:
        return b"data: %b\n\n" % usual[1]
    comments, data, is_error = [], [], False
    for line in text.split(b"\n"):
        name, _, value = line.partition(b":")
        if line.startswith(b":"):
            comments.append(line + b"\n\n")
        elif name == b"data" and (value := value.strip()):
            data.append(value)
        elif name == b"error" and value:  # llama.cpp's
            data.append(value.strip())
            is_error = True
        elif name == b"event":
            is_error = value.strip() == b"error"
    told = b" ".join(data)
    if told and is_error:
        told = _error_of(told)
    return b"".join(comments) + (b"data: %b\n\n" % told if told else b"")


def _error_of(told: bytes) -> bytes:
    """The data of an event named error, as an error that is known by its data alone."""
    try:
        parsed = orjson.loads(told)
    except orjson.JSONDecodeError:
        parsed = told.decode(errors="replace")
    return orjson.dumps({"error": parsed or "an error"})


def _is_whole(event: bytes) -> bool:
    data = event.removeprefix(b"data:").strip()
    if data == b"[DONE]":
        return True
    try:
        return bool(orjson.loads(data))
    except orjson.JSONDecodeError:
        return False
