"""Which Host and Origin headers are let in: the guard against DNS rebinding and foreign web pages.

Source: the security section of MCP's streamable HTTP transport.
"""

from collections.abc import Mapping

from mcp.types import INVALID_REQUEST

from mcp_gateway.core.config import Settings
from mcp_gateway.core.hosts import Hosts
from mcp_gateway.core.origins import Origins
from mcp_gateway.mcp_door.jsonrpc import Refusal


class HostsAndOrigins:
    """The hosts that the gateway answers for, and the origins that may call it."""

    def __init__(self, settings: Settings) -> None:
        self._hosts = Hosts(settings)
        self._origins = Origins(settings)

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Raises Refusal: 421 for an unknown Host, 403 for an unknown Origin."""
        if not self._hosts.admits(headers.get(b"host")):
            message = "This Host is not served here; the operator can add it to allowed_hosts."
            raise Refusal(421, INVALID_REQUEST, message, reason="unknown_host")
        if (origin := headers.get(b"origin")) is not None and not self._origins.admits_to_mcp(origin):
            message = "This Origin may not call; the operator can add it to cors_origins."
            raise Refusal(403, INVALID_REQUEST, message, reason="unknown_origin")
