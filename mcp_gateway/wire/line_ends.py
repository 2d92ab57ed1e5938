"""Frames that are one line for every reader: Unicode's line ends leave as JSON escapes. Knows bytes, and no message."""

_ESCAPES = ((b"\xe2\x80\xa8", rb"\u2028"), (b"\xe2\x80\xa9", rb"\u2029"), (b"\xc2\x85", rb"\u0085"))
"""JSON allows these three as they are, and many readers of lines end a line at them. The control characters that end
lines too are escaped in any JSON.
"""


def without_line_ends(frames: bytes) -> bytes:
    """The same JSON, within frames or by itself: what is not ASCII stands in its strings alone."""
    if not frames.isascii():
        for raw, escape in _ESCAPES:
            frames = frames.replace(raw, escape)
    return frames
