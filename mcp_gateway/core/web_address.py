"""Addresses in the settings: what is one, and who can read what is sent there."""

import contextlib
from ipaddress import ip_address
from urllib.parse import urlsplit


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
