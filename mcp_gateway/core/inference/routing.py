"""Whether a request may be asked, and where it may go, by who asks and for what."""

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.catalog import FREE, Model
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.parts import Parts, Route
from mcp_gateway.core.inference.terms import check
from mcp_gateway.core.surfaces.surface import Ask

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


async def judged(parts: Parts, caller: Caller, ask: Ask, model: Model) -> tuple[str, ...]:
    """Leave of an ask what may be sent of it, and see whether its caller may ask it; the names that were removed.

    Raises GatewayError.
    """
    ignored = parts.dialect.translations[ask.surface.name].sift(ask.body)
    check(ask, model, caller, parts.settings.limits)
    if ask.images:
        await parts.images.check(ask.images, model_sees="image" in model.input_modalities)
    return ignored


def unavailable(model: Model) -> GatewayError:
    """No backend that is up has it."""
    return GatewayError("model_unavailable", f"No backend that is up has {model.id!r} at the moment.")
