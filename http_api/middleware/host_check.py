"""Refuses requests for hosts that are not the gateway's, while it listens on loopback alone."""

from starlette.types import Scope

from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.hosts import Hosts

_SHOWN_CHARACTERS = 100


class HostCheck:
    """421 for an unknown Host; `left_out` are the paths of the MCP door, which has a check and a form of its own."""

    def __init__(self, hosts: Hosts, left_out: frozenset[str]) -> None:
        self._hosts = hosts
        self._left_out = left_out

    def __call__(self, scope: Scope, context: RequestContext) -> None:
        """Raises GatewayError `unknown_host`."""
        host = context.sent.get(b"host")
        if host is None or scope["path"] in self._left_out or self._hosts.admits(host):
            return
        name = host[:_SHOWN_CHARACTERS].decode("latin-1")
        raise GatewayError("unknown_host", f"{name} is not served here; the operator can add it to allowed_hosts.")
