"""Reads a request, of whichever surface, with what it says of the models and providers that are to answer it."""

from typing import Any

from mcp_gateway.core.surfaces.surface import Ask, Surface
from mcp_gateway.core.surfaces.wanted_route import ROUTE_FIELDS, route_taken_out


def read_ask(surface: Surface, body: dict[str, Any], size_bytes: int) -> Ask:
    """As the surface reads it, and routed where it says so. Raises GatewayError (400) as that does."""
    if ROUTE_FIELDS.isdisjoint(body):
        return surface.read(body, size_bytes)
    route = route_taken_out(body)
    ask = surface.read(body, size_bytes)
    ask.route = route
    return ask
