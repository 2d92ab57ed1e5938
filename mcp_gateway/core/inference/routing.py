"""Whether a request may be asked, and what it may be answered by, by who asks and for what."""

from asyncio import sleep
from collections.abc import Iterable, Sequence
from math import ceil
from typing import Any

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.catalog import DEMO, Model, Offer
from mcp_gateway.core.dialects.dialect import Target, Targets
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.inference.parts import Parts
from mcp_gateway.core.inference.terms import check
from mcp_gateway.core.json_bounds import dump_json, parse_exactly
from mcp_gateway.core.prices import FREE
from mcp_gateway.core.routing.rank import Candidate, Ranking, Sight, rank
from mcp_gateway.core.sent_images import RemoteImage
from mcp_gateway.core.surfaces.surface import Ask
from mcp_gateway.core.upstream.backend import Backend

DEMO_MODEL = "demo/echo"
Lacking = tuple[str, ...] | GatewayError
"""The names that would not be sent of an ask, or the refusal of what may not be left out."""
_TURN_BYTES = 32 * 1024
"""From here on a body may take a millisecond to sift."""


def offers_to(caller: Caller, model: Model, parts: Parts) -> tuple[Offer, ...]:
    """The model's offers as this caller has them: guests pay nothing, and a test key is answered by the demo."""
    if caller.is_test:
        name = model.offers[0].name
        return (Offer(DEMO, name if name in parts.pool.demo.models.listings else DEMO_MODEL, FREE),)
    if caller.is_guest:
        return tuple(Offer(offer.source, offer.name, FREE, offer.weight) for offer in model.offers)
    return model.offers


async def judged(
    parts: Parts, caller: Caller, ask: Ask, model: Model, target: Target, *, is_mixed: bool = False
) -> tuple[str, ...]:
    """Leave of an ask what may be sent of it, and see whether its caller may ask it; the names that were removed.

    One that may go to places of several dialects stays as its surface read it: each attempt sifts what it sends.

    Raises GatewayError.
    """
    ignored = target.translation.sift(copied(ask.body) if is_mixed else ask.body)
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


def ranked(
    offers: tuple[Offer, ...], ask: Ask, model: Model, caller: Caller, sight: Sight[Backend]
) -> Ranking[Backend]:
    """Who may be asked now, in what order.

    Raises GatewayError where nobody can: `model_unavailable`, or what the first of those says that rest.
    """
    ranking = rank(offers, sight, ask, caller.account_id)
    if not ranking:
        raise resting(offers, sight) or unavailable(model)
    return ranking


def resting(offers: Sequence[Offer], sight: Sight[Backend]) -> GatewayError | None:
    """What is told of the provider that may be asked again the soonest; None where none rests."""
    asked = [(backend, offer.name) for offer in offers for backend in sight[offer.source]]
    rests = [(backend.models.rest_of(name, backend.work.now_s()), backend.work.now_s()) for backend, name in asked]
    left = [(rest.until_s - now_s, rest.code) for rest, now_s in rests if rest is not None]
    if not left:
        return None
    left_s, code = min(left)
    message = "The model is not available at the moment; try again later."
    return GatewayError(code, message, retry_after_s=max(1, ceil(left_s)))


def copied(body: dict[str, Any]) -> dict[str, Any]:
    """The same body, of which nothing is shared."""
    again: dict[str, Any] = parse_exactly(dump_json(body))
    return again


async def left_out(offers: Iterable[Offer], ask: Ask, targets: Targets) -> dict[str, Lacking]:
    """By source; the ask stays as it is. Each source's dialect sifts once, with turns for others where that is long."""
    raw, found = dump_json(ask.body), dict[str, Lacking]()
    for source, offer in {offer.source: offer for offer in offers}.items():
        found[source] = _left_out(raw, offer, ask, targets)
        if len(raw) > _TURN_BYTES:
            await sleep(0)
    return found


def _left_out(raw: bytes, offer: Offer, ask: Ask, targets: Targets) -> Lacking:
    try:
        return targets.translation(offer, ask.surface).sift(parse_exactly(raw))
    except GatewayError as refusal:
        return GatewayError(refusal.code, refusal.message, param=refusal.param)  # without what its traceback holds


async def takers(offers: tuple[Offer, ...], ask: Ask, targets: Targets) -> tuple[Offer, ...]:
    """Those of several offers that serve the surface, and whose dialect takes the ask as it is.

    Raises GatewayError with the first's refusal where there is none.
    """
    serving = tuple(offer for offer in offers if targets.serves(offer, ask.surface)) or offers
    if len({offer.source for offer in serving}) == 1:
        return serving
    refused = _refusals_in(await left_out(serving, ask, targets))
    taking = tuple(offer for offer in serving if offer.source not in refused)
    if not taking:
        raise refused.pop(serving[0].source)  # by no name, which would keep what its traceback holds
    return taking


def _refusals_in(told: dict[str, Lacking]) -> dict[str, GatewayError]:
    return {source: one for source, one in told.items() if isinstance(one, GatewayError)}


def without_dearest(ranking: Ranking[Backend], prompt_tokens: int) -> Ranking[Backend]:
    """The candidates less those that would cost the most for such a prompt and its answer; none where all are alike."""
    costs = [one.offer.price.most_nano(prompt_tokens, prompt_tokens) for one in ranking]
    return [one for one, cost in zip(ranking, costs, strict=True) if cost < max(costs)]


def who_counts(ranking: Ranking[Backend]) -> Candidate[Backend]:
    """Of whom a prompt's tokens are asked: the first that serves the best offer, whoever will answer it."""
    offer = ranking[0].offer
    serving = (one for one in ranking if one.offer is offer and one.backend.serves(offer.name))
    return next(serving, ranking[0])


def unavailable(model: Model) -> GatewayError:
    """No backend that is up has it."""
    return GatewayError("model_unavailable", f"No backend that is up has {model.id!r} at the moment.")
