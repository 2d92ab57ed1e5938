"""Which of a model's offers a caller lets answer, and in what order, as its request says. All pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from mcp_gateway.core.catalog import Model, Offer
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.prices import in_words
from mcp_gateway.core.surfaces.surface import Ask
from mcp_gateway.core.surfaces.wanted_route import WantedRoute
from mcp_gateway.core.text import shown

Lets = Callable[[Offer], bool]


class RoutedModel(NamedTuple):
    """A model by the name that a request asks for it by."""

    name: str
    model: Model


class RoutedOffer(NamedTuple):
    """One of the offers of such a model."""

    name: str
    model: Model
    offer: Offer


def left_of(routed: RoutedModel, wanted: WantedRoute, ask: Ask) -> tuple[list[RoutedOffer], str]:
    """The offers that every field lets answer that is read without the body, or the field that lets none of them."""
    offers: Sequence[Offer] = routed.model.offers
    for field, lets in _rules(wanted, ask):
        offers = [offer for offer in offers if lets(offer)]
        if not offers:
            return [], field
    return [RoutedOffer(*routed, offer) for offer in offers], ""


def _rules(wanted: WantedRoute, ask: Ask) -> Iterator[tuple[str, Lets]]:
    """A token is at least a byte, so that a cap holds for the tiers of any prompt as long."""
    if wanted.only:
        yield "provider.only", lambda offer: offer.source.lower() in wanted.only
    if wanted.ignore:
        yield "provider.ignore", lambda offer: offer.source.lower() not in wanted.ignore
    if wanted.order and not wanted.falls_back:
        yield "provider.order", lambda offer: offer.source.lower() in wanted.order
    if (cap := wanted.cap) is not None:
        yield "provider.max_price", lambda offer: cap.covers(offer.price, ask.prompt.text_bytes)


def refusal(routed: RoutedModel, field: str) -> GatewayError:
    """What a caller is told who lets nobody answer."""
    name, offers = shown(routed.name), routed.model.offers
    if field == "provider.max_price":
        costs = " or ".join(dict.fromkeys(in_words(offer.price) for offer in offers))
        message = f"Nobody serves '{name}' within `{field}`: it costs {costs}."
    else:
        sources = ", ".join(dict.fromkeys(offer.source for offer in offers))
        message = f"`{field}` leaves nobody of those who serve '{name}': {sources}."
    return GatewayError("model_not_found", message, param=field)


def named_first(offers: Iterable[RoutedOffer], order: Sequence[str]) -> list[RoutedOffer]:
    """Those of the sources in the order, and then all others as they stood."""
    places = {source: order.index(source) for source in order}
    return sorted(offers, key=lambda routed: places.get(routed.offer.source.lower(), len(places)))


def in_turn(offers: Iterable[RoutedOffer]) -> list[RoutedModel]:
    """The models with these offers in this order alone: what follows of one is asked as one."""
    return [
        RoutedModel(name, _of_these(model, tuple(routed.offer for routed in of_one)))
        for (name, model), of_one in groupby(offers, lambda routed: routed[:2])
    ]


def _of_these(model: Model, offers: tuple[Offer, ...]) -> Model:
    """One with a single offer is as it should be."""
    return model if len(model.offers) == 1 else replace(model, offers=offers, choose="order")
