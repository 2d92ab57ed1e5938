"""Which address an image may have: https, a public kind of name, a port that is allowed, and no credentials. All pure.

One parser decides and its parts are what is asked for, so that no second reading of an address can lead elsewhere.
"""

import re
from collections.abc import Collection
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urlsplit

MAX_URL_CHARS = 8192
_HTTPS_PORT = 443
_MAX_NAME_CHARS = 253
_NEVER = re.compile(r"[\x00-\x20\x7f\\]")
"""Blanks, control characters and backslashes, which parsers disagree about."""
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_AS_IT_IS = "!$%&'()*+,/:;=?@[]~"
"""What stays in path and query beside letters, digits and `_.-`."""


class ImageUrl(NamedTuple):
    """What is asked of whom. `host` is a name in lower case without a final dot, or an address without brackets."""

    host: str
    is_literal: bool
    port: int
    target: str

    @property
    def origin(self) -> str:
        """As a Host header says it, behind `https://`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}" if self.port == _HTTPS_PORT else f"https://{host}:{self.port}"


def read_image_url(url: str, ports: Collection[int]) -> ImageUrl:
    """Raises ValueError in words of what to change, which do not repeat the address."""
    if len(url) > MAX_URL_CHARS:
        raise ValueError(f"an image's address has at most {MAX_URL_CHARS} characters")
    try:
        parts = urlsplit("" if _NEVER.search(url) else url)
        port = _HTTPS_PORT if parts.port is None else parts.port
    except ValueError:
        raise _malformed() from None
    if parts.scheme != "https":
        raise _malformed()
    if "@" in parts.netloc:
        raise ValueError("an image's address has no user name and no password")
    if port not in ports:
        raise ValueError(f"an image's address has no port but {', '.join(map(str, sorted(ports)))}")
    host, is_literal = _read_host(parts)
    path, query = (quote(part, safe=_AS_IT_IS, errors="replace") for part in (parts.path or "/", parts.query))
    return ImageUrl(host, is_literal, port, f"{path}?{query}" if query else path)


def _read_host(parts: SplitResult) -> tuple[str, bool]:
    """The host, and whether it is an address itself. Raises ValueError.

    A name ends with letters: numbers and hexadecimal ones at its end are spellings of IPv4 addresses to some.
    """
    if not parts.netloc.isascii():  # before it is put into lower case, which makes a k of the sign for Kelvin
        raise ValueError("the host of an image's address must be written in ASCII (xn--...)")
    host = parts.hostname or ""
    if parts.netloc.startswith("["):
        behind = parts.netloc.partition("]")[2]
        if behind and not behind.startswith(":"):  # older versions of urlsplit pass over it
            raise _malformed()
        return _literal(host, IPv6Address), True
    host = host.removesuffix(".")
    labels = host.split(".")
    if labels[-1].isdecimal():
        return _literal(host, IPv4Address), True
    is_name = len(labels) > 1 and labels[-1][:1].isalpha() and len(host) <= _MAX_NAME_CHARS
    if not is_name or not all(map(_LABEL.fullmatch, labels)):
        raise _malformed()
    return host, False


def _literal(host: str, kind: type[IPv4Address | IPv6Address]) -> str:
    """In its one form, without a zone."""
    try:
        address = kind(host)
    except AddressValueError:
        raise _malformed() from None
    if getattr(address, "scope_id", None) is not None:
        raise _malformed()
    return str(address)


def _malformed() -> ValueError:
    return ValueError("an image is sent as data:image/png;base64,... or named as https://host.example/path")
