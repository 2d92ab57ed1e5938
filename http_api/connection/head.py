"""What a request's head must be: pure functions of what was read."""

from functools import lru_cache
from urllib.parse import unquote

from httptools import HttpParserInvalidURLError, parse_url

_SHORT_URL_BYTES = 128


def target_of(url: bytes) -> tuple[str, bytes, bytes] | None:
    """Path, raw path and query of a request's target (RFC 9112, 3.2); None for one that has none, or is not ASCII.

    Clients ask for the same few over and over; long ones, and what a query says, are not kept.
    """
    return _known_target(url) if len(url) <= _SHORT_URL_BYTES and b"?" not in url else _target(url)


def _target(url: bytes) -> tuple[str, bytes, bytes] | None:
    if not url.isascii():
        return None
    if not url.startswith(b"/") or b"?" in url or b"#" in url:
        try:
            parsed = parse_url(url)
        except HttpParserInvalidURLError:
            return None
        raw_path, query = parsed.path or b"/", parsed.query or b""
    else:
        raw_path, query = url, b""
    path = raw_path.decode("ascii")
    return (unquote(path) if "%" in path else path), raw_path, query


_known_target = lru_cache(1024)(_target)
