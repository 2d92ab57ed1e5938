"""Reads a request, of whichever surface, with what it says of the models and providers that are to answer it."""

from typing import Any

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.optimization import AUTO
from mcp_gateway.core.surfaces.surface import Ask, Surface
from mcp_gateway.core.surfaces.wanted_route import ROUTE_FIELDS, WantedModel, WantedRoute, route_taken_out
from mcp_gateway.core.surfaces.wanted_routing import NOTHING_WANTED, ROUTING, WantedRouting, routing_taken_out

_ROUTED = ROUTE_FIELDS | {ROUTING}


def read_ask(surface: Surface, body: dict[str, Any], size_bytes: int) -> Ask:
    """As the surface reads it, and routed where it says so. Raises GatewayError (400) as that does."""
    if _ROUTED.isdisjoint(body) and body.get("model") != AUTO:
        return surface.read(body, size_bytes)
    routing = routing_taken_out(body)
    route = route_taken_out(body)
    ask = surface.read(body, size_bytes)
    if route is None and (routing is not None or ask.model == AUTO):
        route = WantedRoute((WantedModel(ask.model, "model"),))
    ask.route = route
    if route is not None:
        _have_chosen(ask, route, routing)
    return ask


def _have_chosen(ask: Ask, route: WantedRoute, routing: WantedRouting | None) -> None:
    """Say by what a model is to be chosen, where `auto` is asked for; where it is not, that changes nothing."""
    chosen = next((wanted for wanted in route.models if wanted.name == AUTO), None)
    if chosen is None:
        ask.route = route if routing is None else route._replace(unused=(*route.unused, ROUTING))
    elif ask.surface.is_conversation:
        ask.route = route._replace(routing=routing or NOTHING_WANTED)
    else:
        raise not_chosen(chosen.param)


def not_chosen(param: str) -> GatewayError:
    """Of what asks for `auto` where there is no prompt that a model could be chosen by."""
    return GatewayError("invalid_value", f"`{AUTO}` is for chats, messages and responses: name a model.", param=param)
