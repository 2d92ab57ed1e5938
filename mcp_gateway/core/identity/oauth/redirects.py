"""Where a browser may be sent back to: the addresses that a client has named, of https or on the reader's computer.

All pure. One pattern reads them, so that no second reading of an address can lead elsewhere.
"""

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlencode

MAX_REDIRECT_CHARS = 1000
_LOOPBACK = ("127.0.0.1", "[::1]", "localhost")
_CHARS = r"A-Za-z0-9._~!$&'()*+,;=:@/%-"
_ADDRESS = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[::1\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::(?P<port>[0-9]{1,5}))?"
    rf"(?P<rest>(?:/[{_CHARS}]*)?(?:\?[{_CHARS}?]*)?)"
)
_MOST_PORT = 65_535


def check_redirect(address: str) -> None:
    """Raises ValueError in words of what to change."""
    read = _ADDRESS.fullmatch(address) if len(address) <= MAX_REDIRECT_CHARS else None
    if read is None or not 0 < int(read["port"] or 1) <= _MOST_PORT:
        raise ValueError("must be an address such as https://app.example/callback, without user name and `#`")
    if read["scheme"] == "http" and read["host"] not in _LOOPBACK:
        raise ValueError("must be https, or http at 127.0.0.1, [::1] or localhost")


def is_among(asked: str, registered: Iterable[str]) -> bool:
    """Whether a client has named an address: to the last character, but for the port of a program's on loopback."""
    return any(asked == one or _but_for_port(asked) == _but_for_port(one) for one in registered)


def is_on_this_computer(address: str) -> bool:
    """Whether what a browser is sent there stays on its reader's computer, whatever program listens."""
    read = _ADDRESS.fullmatch(address)
    return read is not None and read["host"] in _LOOPBACK


def host_of(address: str) -> str:
    """Of an address that was checked, with a port that is not the usual one."""
    read = _ADDRESS.fullmatch(address)
    assert read is not None
    return read["host"].lower() + (f":{read['port']}" if read["port"] else "")


def with_answer(address: str, answer: Mapping[str, str | None]) -> str:
    """The address with these parameters, without those that are None."""
    given = urlencode({name: value for name, value in answer.items() if value is not None})
    return f"{address}{'&' if '?' in address else '?'}{given}"


def _but_for_port(address: str) -> tuple[str, str] | str:
    """Two are alike where only the port of a program on loopback differs (RFC 8252, 7.3)."""
    read = _ADDRESS.fullmatch(address)
    if read is None or read["scheme"] != "http" or read["host"] not in _LOOPBACK:
        return address
    return read["host"], read["rest"]
