"""Refuses new work while the gateway drains or is under maintenance."""

from starlette.types import Scope

from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.lifecycle import Lifecycle


class Gate:
    """503 with Retry-After for everything but `open_paths`; what is already in flight goes on."""

    def __init__(self, lifecycle: Lifecycle, open_paths: frozenset[str]) -> None:
        self._lifecycle = lifecycle
        self._open_paths = open_paths

    def __call__(self, scope: Scope, context: RequestContext) -> None:
        """Raises GatewayError `draining` or `maintenance`."""
        if scope["path"] not in self._open_paths:
            self._lifecycle.check_open()
