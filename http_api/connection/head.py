"""What a request's head must be (RFC 9112, RFC 9110), and what to say of one that is not: pure functions of its bytes.

A path is told decoded but for `%2F` and `%25`: an encoded slash separates nothing, so that it leads to no other route,
and nothing is decoded twice. Whoever takes a model's id from a path decodes these two. Control characters are refused.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv6Address
from typing import NamedTuple
from urllib.parse import unquote

from mcp_gateway.core.errors import GatewayError

Headers = list[tuple[bytes, bytes]]
METHODS = frozenset({
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT", b"QUERY",
})  # fmt: skip
"""HTTP's own (RFC 9110, 9.3), PATCH, and QUERY, which OpenAPI knows since 3.2.

What a path does not have is 405; further ones, which the parser knows, are 501.
"""
_SHORT_BYTES = 128
"""What clients send over and over is remembered up to this length."""
_REQUEST_LINE_WORDS = 3
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VERSIONS = (b"HTTP/1.1", b"HTTP/1.0")
_VERSION = re.compile(rb"(?:HTTP|RTSP|ICE)/\d\.\d")
_TLS_RECORD = b"\x16\x03"
_HTTP_2_PREFACE = b"PRI * HTTP/2"
_HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|[0-9A-Za-z\-._~!$&'()*+,;=%]+)(?::\d*)?")
_LENGTH = b"content-length"
_LENGTH_BEGINS = b"\r\n%b:" % _LENGTH
_MOST_LENGTH_DIGITS = 15
"""Of more the parser finds out whether they are too many."""
_MOST_KNOWN_BYTES, _MOST_KNOWN_HEADERS = 4096, 40
"""Of a head that stays known while its connection is idle: 13 KB at most."""
_QUERY = ord("?")
"""`in` takes a number at once; bytes it tries to make a number of first, which takes ten times as long."""
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f][0-9A-Fa-f])")
_KEPT_ESCAPE = re.compile(r"%(?=2[fF5])")
_CONTROL_BYTE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class RequestLine(NamedTuple):
    """What is asked; `authority` only where the target is a whole URL, and takes the place of Host then."""

    method: str
    path: str
    raw_path: bytes
    query: bytes
    is_1_1: bool
    authority: bytes | None


class KnownHead(NamedTuple):
    """A head that has been parsed and read, in two parts: before the number of its Content-Length, and behind it."""

    before: bytes
    behind: bytes
    asked: RequestLine
    headers: tuple[tuple[bytes, bytes], ...]
    length_at: int
    """Which of the headers has the length."""
    is_kept_alive: bool

    def length_in(self, raw: bytes) -> bytes | None:
        """The length that a head tells which is this one but for that; None of any other."""
        if not (raw.startswith(self.before) and raw.endswith(self.behind)):
            return None
        length = raw[len(self.before) : len(raw) - len(self.behind)]
        return length if length.isdigit() and len(length) <= _MOST_LENGTH_DIGITS else None

    def with_length(self, length: bytes) -> tuple[Headers, dict[bytes, bytes]]:
        """The headers, and each one's first value, of the head that has this length; for its request alone."""
        headers = [*self.headers]
        headers[self.length_at] = (_LENGTH, length)
        return headers, _first_values(headers)


def known_head(
    raw: bytes, asked: RequestLine, headers: Headers, sent: Mapping[bytes, bytes], *, is_kept_alive: bool
) -> KnownHead | None:
    """Of what `read_head` has read of it.

    None where no length says where its body ends, or its host is in its first line, and of one that is large.
    """
    length = sent.get(_LENGTH)
    if length is None or b"transfer-encoding" in sent or asked.authority is not None:
        return None
    if len(raw) > _MOST_KNOWN_BYTES or len(headers) > _MOST_KNOWN_HEADERS:
        return None
    if (begins_at := raw.lower().find(_LENGTH_BEGINS)) < 0:
        return None
    # no value has a line in it that begins so, and white space alone stands before the number
    start = raw.index(length, begins_at + len(_LENGTH_BEGINS))
    before, behind = raw[:start], raw[start + len(length) :]
    at = headers.index((_LENGTH, length))
    return KnownHead(before, behind, asked, tuple(headers), at, is_kept_alive)


def read_head(raw: bytes, headers: Headers) -> tuple[RequestLine, dict[bytes, bytes], int | None]:
    """The request line, each header's first value, and the bytes of the body, None for one in chunks.

    `raw` is a head that the parser takes, whole, and `headers` are those that it found. Raises GatewayError.
    """
    line = _line_of(raw)
    asked = _known_line(line) if len(line) <= _SHORT_BYTES and _QUERY not in line else _read_line(line)
    sent = _first_values(headers)
    length_bytes: int | None = int(sent.get(_LENGTH, 0))
    if b"transfer-encoding" in sent:
        _check_coding(headers, asked)
        length_bytes = None
    host = sent.get(b"host")
    if host is None or len(sent) != len(headers) or len(host) > _SHORT_BYTES or not _is_known_host(host):
        _check_host(headers, asked)
    if asked.authority is not None:  # what Host says is not looked at then (RFC 9112, 3.2.2)
        sent[b"host"] = asked.authority
        headers[:] = [(b"host", asked.authority), *(header for header in headers if header[0] != b"host")]
    return asked, sent, length_bytes


def _first_values(headers: Headers) -> dict[bytes, bytes]:
    return dict(reversed(headers))


def is_of_head(raw: bytes) -> bool:
    """Whether the method is HEAD, whose answer has no body."""
    return _line_of(raw).startswith(b"HEAD ")


def without_upgrade(raw: bytes, headers: Headers) -> bytes:
    """A head without its offer of another protocol; Java's HttpClient offers HTTP/2 with whatever it sends."""
    lines = [b"%b: %b\r\n" % header for header in headers if header[0] != b"upgrade"]
    return b"%b\r\n%b\r\n" % (_line_of(raw), b"".join(lines))


def fault_of(raw: bytes) -> GatewayError:
    """What to say of a head, or the beginning of one, that the parser gave up on."""
    line = _line_of(raw)
    method, space, _ = line.partition(b" ")
    if line.startswith(_TLS_RECORD):
        return not_understood("This port speaks HTTP in the clear: use http://, or the proxy that speaks TLS for it.")
    if line.startswith(_HTTP_2_PREFACE):
        return _unsupported_version("This is HTTP/1.1 alone, not HTTP/2: have the client speak HTTP/1.1.")
    if _TOKEN.fullmatch(method) and method not in METHODS and (space or b"\r\n" not in raw):
        return _unknown_method()
    version = line.rpartition(b" ")[2]
    if _VERSION.fullmatch(version) and version not in _VERSIONS:
        return _unsupported_version()
    if _codings_of(raw) not in ([], [b"chunked"]):
        return _unsupported_coding()
    return not_understood("This is not HTTP that can be understood.")


def not_understood(message: str) -> GatewayError:
    return GatewayError("invalid_json", message)


def _unknown_method() -> GatewayError:
    return GatewayError("unknown_method", "The request's method is not one of HTTP/1.1.")


def _unsupported_version(message: str = "Only HTTP/1.1 and HTTP/1.0 are spoken here.") -> GatewayError:
    return GatewayError("unsupported_version", message)


def _unsupported_coding() -> GatewayError:
    return GatewayError(
        "unsupported_transfer_coding", "No transfer coding but chunked, and that once, is decoded here."
    )


def _line_of(raw: bytes) -> bytes:
    """The request line, or as much of it as is there; empty lines before it do not count (RFC 9112, 2.2)."""
    end = raw.find(b"\r\n")
    return raw[:end] if end > 0 else raw.lstrip(b"\r\n").partition(b"\r\n")[0]


def _codings_of(raw: bytes) -> list[bytes]:
    """The transfer codings of a head that the parser gave up on; none where another fault is in the way."""
    lines = raw.lstrip(b"\r\n").split(b"\r\n")[1:-1]
    fields = [line.partition(b":") for line in lines if line]
    values = [value.strip().lower() for name, _, value in fields if name.lower() == b"transfer-encoding"]
    is_folded = any(line.startswith((b" ", b"\t")) for line in lines)
    return [] if is_folded or any(map(_CONTROL_BYTE.search, values)) else values


def _check_coding(headers: Headers, asked: RequestLine) -> None:
    """Chunked alone, once: what is coded otherwise has an end that cannot be told (RFC 9112, 6.1 and 6.3)."""
    if not asked.is_1_1:
        raise not_understood("HTTP/1.0 has no Transfer-Encoding.")
    if [value.lower() for name, value in headers if name == b"transfer-encoding"] != [b"chunked"]:
        raise _unsupported_coding()


def _check_host(headers: Headers, asked: RequestLine) -> None:
    """One Host, well-formed; HTTP/1.0 knew none (RFC 9112, 3.2)."""
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1:
        raise not_understood("The request has more than one Host header.")
    if hosts and not _is_host(hosts[0]):
        raise not_understood("The request's Host header is not a host with or without a port.")
    if not hosts and asked.is_1_1:
        raise not_understood("The request has no Host header.")


def _read_line(line: bytes) -> RequestLine:
    """A path, or a whole http(s) URL (RFC 9112, 3.2), without control characters.

    The parser takes further methods, RTSP's and ICE's versions, and targets of any form.
    """
    words = [word for word in line.split(b" ") if word]
    if len(words) != _REQUEST_LINE_WORDS or words[0] not in METHODS or words[2] not in _VERSIONS:
        raise fault_of(line + b"\r\n")
    method, url, version = words
    authority, (raw_path, _, query) = None, url.partition(b"#")[0].partition(b"?")
    if not url.startswith(b"/"):
        authority, raw_path = _authority_and_path(raw_path) if url != b"*" or method != b"OPTIONS" else (None, b"*")
    path = _decoded(raw_path.decode("latin-1"))
    if not raw_path or not url.isascii() or method == b"CONNECT" or _CONTROL.search(path):
        raise not_understood("The request's address is not one that can be understood.")
    return RequestLine(method.decode(), path, raw_path, query, version == b"HTTP/1.1", authority)


def _authority_and_path(url: bytes) -> tuple[bytes | None, bytes]:
    """Of a whole URL without its query; no path where it is none of http or https."""
    scheme, _, rest = url.partition(b"://")
    authority, _, path = rest.partition(b"/")
    is_url = scheme.lower() in (b"http", b"https") and _is_host(authority)
    return (authority, b"/" + path) if is_url else (None, b"")


def _decoded(path: str) -> str:
    return unquote(_KEPT_ESCAPE.sub("%25", path)) if "%" in path else path


def _is_host(value: bytes) -> bool:
    """Whether it is a host with or without a port (RFC 9110, 7.2; RFC 3986, 3.2)."""
    found = _HOST.fullmatch(value)
    if found is None or _BAD_ESCAPE.search(value):
        return False
    return found[1] is None or _is_ipv6(found[1].decode())


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


_known_line = lru_cache(1024)(_read_line)
_is_known_host = lru_cache(1024)(_is_host)
