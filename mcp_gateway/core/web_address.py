"""Addresses: what is one, who can read what is sent there, and where a browser may be led."""

import contextlib
from ipaddress import ip_address
from urllib.parse import urlsplit

_MOST_PATH_CHARS = 6000


def is_web_address(text: str) -> bool:
    try:
        url = urlsplit(text)
        is_address = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        is_address = False
    return is_address and text.isascii() and text.isprintable() and " " not in text


def is_private(url: str) -> bool:
    """Whether nobody on the way can read what is sent there."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    with contextlib.suppress(ValueError):
        return parts.scheme == "https" or ip_address(host).is_loopback
    return host == "localhost"


def local_path(wanted: str, otherwise: str) -> str:
    """Where a browser goes on after its person has signed in: a path of this gateway's, whatever was asked for.

    A browser takes `//host` and `/\\host` for other hosts, and drops tabs and line ends on the way.
    """
    is_local = wanted.startswith("/") and not wanted.startswith("//") and "\\" not in wanted
    is_plain = wanted.isascii() and wanted.isprintable() and len(wanted) <= _MOST_PATH_CHARS
    return wanted if is_local and is_plain else otherwise
