"""Which browser origins may call: the one rule behind MCP's Origin check and the CORS headers of both doors.

Source: the security section of MCP's streamable HTTP transport; the CORS protocol of the Fetch standard.
"""

from urllib.parse import urlsplit

from mcp_gateway.core.config import ANY, Settings
from mcp_gateway.core.hosts import is_loopback, without_port


class Origins:
    """The public address's own and those of the settings; for the MCP door also what is served on loopback."""

    def __init__(self, settings: Settings) -> None:
        self._named = {*settings.cors_origins, *settings.allowed_origins}
        if settings.public_url is not None:
            public = urlsplit(settings.public_url)
            self._named.add(f"{public.scheme}://{public.netloc}".lower())

    def admits(self, origin: bytes) -> bool:
        """Whether a page of this origin may call both doors and read what they answer."""
        return ANY in self._named or origin.decode("latin-1").lower() in self._named

    def admits_to_mcp(self, origin: bytes) -> bool:
        """Whether it may call the MCP door: pages on loopback are the person's own tools."""
        return self.admits(origin) or is_loopback(without_port(origin.decode("latin-1").lower().partition("://")[2]))
