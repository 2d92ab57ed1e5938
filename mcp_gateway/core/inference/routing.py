"""Whether a request may be asked, and what it may be answered by, by who asks and for what."""

from collections.abc import Sequence

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.catalog import DEMO, Model, Offer
from mcp_gateway.core.dialects.dialect import Target
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.parts import Parts
from mcp_gateway.core.inference.terms import check
from mcp_gateway.core.prices import FREE
from mcp_gateway.core.routing.rank import Candidate, Ranking, rank
from mcp_gateway.core.sent_images import RemoteImage
from mcp_gateway.core.surfaces.surface import Ask
from mcp_gateway.core.upstream.backend import Backend

DEMO_MODEL = "demo/echo"


def offers_to(caller: Caller, model: Model, parts: Parts) -> tuple[Offer, ...]:
    """The model's offers as this caller has them: guests pay nothing, and a test key is answered by the demo."""
    if caller.is_test:
        name = model.offers[0].name
        return (Offer(DEMO, name if name in parts.pool.demo.models.listings else DEMO_MODEL, FREE),)
    if caller.is_guest:
        return tuple(Offer(offer.source, offer.name, FREE) for offer in model.offers)
    return model.offers


async def judged(parts: Parts, caller: Caller, ask: Ask, model: Model, target: Target) -> tuple[str, ...]:
    """Leave of an ask what may be sent of it, and see whether its caller may ask it; the names that were removed.

    Raises GatewayError.
    """
    ignored = target.translation.sift(ask.body)
    check(ask, model, caller, parts.settings.limits)
    if ask.prompt.images:
        await check_images(parts, caller, model, ask.prompt.images, ask.prompt.remote_images)
    return ignored


async def check_images(
    parts: Parts, caller: Caller, model: Model, images: Sequence[str], remote_images: Sequence[RemoteImage]
) -> None:
    """Those that were sent, and the addresses of those that are to be fetched. Raises GatewayError."""
    await parts.images.check(images, model_sees="image" in model.input_modalities)
    parts.images.check_addresses(remote_images, is_guest=caller.is_guest)


def ranked(offers: tuple[Offer, ...], ask: Ask, model: Model, caller: Caller, parts: Parts) -> Ranking[Backend]:
    """Who may be asked now, in what order. Raises GatewayError `model_unavailable` where nobody can."""
    ranking = rank(offers, parts.pool.sight, ask, caller.account_id)
    if not ranking:
        raise unavailable(model)
    return ranking


def who_counts(ranking: Ranking[Backend], parts: Parts) -> Candidate[Backend]:
    """Of whom a prompt's tokens are asked: the first backend that serves the best offer, whoever will answer it."""
    best = ranking[0]
    offer = best.offer
    serving = (backend for backend in parts.pool.sight[offer.source] if backend.serves(offer.name))
    return Candidate(offer, next(serving, best.backend))


def unavailable(model: Model) -> GatewayError:
    """No backend that is up has it."""
    return GatewayError("model_unavailable", f"No backend that is up has {model.id!r} at the moment.")
