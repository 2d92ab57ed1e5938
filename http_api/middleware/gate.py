"""Refuses new work while the gateway drains or is under maintenance."""

from starlette.types import Scope

from http_api.operations import AnyOperation
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.lifecycle import Lifecycle


class Gate:
    """503 with Retry-After for whatever is not always answered; what is already in flight goes on."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    def __call__(self, scope: Scope, context: RequestContext, operation: AnyOperation) -> None:
        """Raises GatewayError `draining` or `maintenance`."""
        if not operation.is_always_answered:
            self._lifecycle.check_open()
