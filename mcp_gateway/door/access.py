"""Which Host and Origin headers are let in: the guard against DNS rebinding and foreign web pages.

Source: the security section of MCP's streamable HTTP transport.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from mcp.types import INVALID_REQUEST

from mcp_gateway.core.config import Settings
from mcp_gateway.core.hosts import Hosts, is_loopback, without_port
from mcp_gateway.door.jsonrpc import Refusal

_ANY = "*"


class Access:
    """The hosts that the gateway answers for; origins on loopback, of the public address, and of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._hosts = Hosts(settings)
        public = urlsplit(settings.public_url or "")
        origins = (f"{public.scheme}://{public.netloc}", *settings.allowed_origins)
        self._origins = {origin.lower().rstrip("/") for origin in origins}

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Raises Refusal: 421 for an unknown Host, 403 for an unknown Origin."""
        if not self._hosts.admits(headers.get(b"host")):
            message = "This Host is not served here; the operator can add it to allowed_hosts."
            raise Refusal(421, INVALID_REQUEST, message)
        if (origin := headers.get(b"origin")) is not None:
            self._check_origin(origin.decode("latin-1").lower())

    def _check_origin(self, origin: str) -> None:
        if origin in self._origins or _ANY in self._origins:
            return
        if not is_loopback(without_port(origin.partition("://")[2])):
            message = "This Origin may not call; the operator can add it to allowed_origins."
            raise Refusal(403, INVALID_REQUEST, message)
