"""Refuses requests for hosts that are not the gateway's, while it listens on loopback alone."""

from starlette.types import Scope

from http_api.operations import AnyOperation
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.hosts import Hosts

_SHOWN_CHARACTERS = 100


class HostCheck:
    """421 for an unknown Host, but where the operation has a check and a form of its own."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts

    def __call__(self, scope: Scope, context: RequestContext, operation: AnyOperation) -> None:
        """Raises GatewayError `unknown_host`."""
        host = context.sent.get(b"host")
        if host is None or operation.has_own_host_check or self._hosts.admits(host):
            return
        name = host[:_SHOWN_CHARACTERS].decode("latin-1")
        raise GatewayError("unknown_host", f"{name} is not served here; the operator can add it to allowed_hosts.")
