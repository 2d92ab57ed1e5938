"""Where a request may go, by who asks and for what."""

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.catalog import FREE, Model
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.parts import Parts, Route

DEMO_MODEL = "demo/echo"


def route_to(parts: Parts, caller: Caller, model: Model) -> Route:
    """Raises GatewayError `model_unavailable`."""
    pool = parts.pool
    if caller.is_test:
        name = model.backend_model if model.backend_model in pool.demo.listings else DEMO_MODEL
        return Route([pool.demo], name, FREE)
    backends = pool.candidates(model.backend_model)
    if not backends:
        raise unavailable(model)
    return Route(backends, model.backend_model, FREE if caller.is_guest else model.price)


def unavailable(model: Model) -> GatewayError:
    """No backend that is up has it."""
    return GatewayError("model_unavailable", f"No backend that is up has {model.id!r} at the moment.")
