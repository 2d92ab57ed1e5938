"""Refuses inference and sign-up to the countries that the settings name; there only where they name any."""

from starlette.types import Scope

from http_api.operations import AnyOperation
from mcp_gateway.core.context import RequestContext
from mcp_gateway.core.policy.regions import Regions


class RegionCheck:
    """403 `unsupported_region` for what is regional; MCP's messages are judged by the server, tool by tool."""

    def __init__(self, regions: Regions) -> None:
        self._regions = regions

    def __call__(self, scope: Scope, context: RequestContext, operation: AnyOperation) -> None:
        """Raises GatewayError."""
        context.region_refusal = self._regions.refusal_for(scope["client"], scope["headers"], context.address)
        if context.region_refusal is not None and operation.is_regional:
            raise context.region_refusal()
