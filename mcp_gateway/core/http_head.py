"""The head of an HTTP/1.1 message (RFC 9112, 2.1), of its lines: knows what ends them, and not what they say."""

_CR, _LF = b"\r\n"


def head_of(lines: list[bytes]) -> bytes:
    """All of it, with the empty line behind. ValueError for a line break within a line, which would begin another."""
    text = b"".join(lines)
    if _CR in text or _LF in text:
        raise ValueError("a line break in the head of a message")
    return b"\r\n".join([*lines, b"", b""])
