"""Where a Valkey is, as one line of the configuration says it."""

from typing import NamedTuple
from urllib.parse import unquote, urlsplit

_PORT = 6379
_SCHEMES = {"valkey": False, "redis": False, "valkeys": True, "rediss": True}
"""Whether the connection is encrypted."""
_FORM = "must be an address such as valkey://valkey.internal:6379/0, or valkeys://user:password@valkey.internal (TLS)"


class ValkeyAddress(NamedTuple):
    """`user` and `password` are empty where none are shown."""

    host: str
    port: int
    database: int
    user: str
    password: str
    is_encrypted: bool

    def __repr__(self) -> str:
        """Without what is secret."""
        return f"{self.host}:{self.port}/{self.database}"


def valkey_address(url: str) -> ValkeyAddress:
    """Raises ValueError in words, without what is secret."""
    try:
        parts = urlsplit(url)
        port = _PORT if parts.port is None else parts.port
        database = int(parts.path.strip("/") or "0")
    except ValueError:
        raise ValueError(_FORM) from None
    if parts.scheme not in _SCHEMES or not parts.hostname or parts.query or parts.fragment or database < 0:
        raise ValueError(_FORM)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if user and not password:
        raise ValueError("has a user name and no password; a password alone is written :password@")
    return ValkeyAddress(parts.hostname, port, database, user, password, _SCHEMES[parts.scheme])
