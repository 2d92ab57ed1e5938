"""Which Host and Origin headers are let in: the guard against DNS rebinding and foreign web pages.

Source: the security section of MCP's streamable HTTP transport.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from mcp.types import INVALID_REQUEST

from mcp_gateway.core.config import Settings
from mcp_gateway.door.jsonrpc import Refusal

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_WILDCARDS = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - recognized, not bound
_ANY = "*"


class Access:
    """Loopback, the address listened on, the public address, and what the settings add."""

    def __init__(self, settings: Settings) -> None:
        public = urlsplit(settings.public_url or "")
        named = (public.netloc, public.hostname or "", settings.host, *settings.allowed_hosts)
        self._hosts = _LOOPBACK | {host.lower() for host in named if host not in _WILDCARDS}
        origins = (f"{public.scheme}://{public.netloc}", *settings.allowed_origins)
        self._origins = {origin.lower().rstrip("/") for origin in origins}

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Raises Refusal: 421 for an unknown Host, 403 for an unknown Origin."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if host not in self._hosts and _without_port(host) not in self._hosts and _ANY not in self._hosts:
            message = "This Host is not served here; the operator can add it to allowed_hosts."
            raise Refusal(421, INVALID_REQUEST, message)
        if (origin := headers.get(b"origin")) is not None:
            self._check_origin(origin.decode("latin-1").lower())

    def _check_origin(self, origin: str) -> None:
        if origin in self._origins or _ANY in self._origins:
            return
        if _without_port(origin.partition("://")[2]) not in _LOOPBACK:
            message = "This Origin may not call; the operator can add it to allowed_origins."
            raise Refusal(403, INVALID_REQUEST, message)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and not port.endswith("]") else host
