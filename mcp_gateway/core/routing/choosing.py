"""Which of a model's offers is asked first: as they stand, by weight, the cheapest, or who was the quickest of late."""

from collections.abc import Callable, Iterable, Sequence
from math import inf
from random import Random
from typing import NamedTuple

from mcp_gateway.core.catalog import Model, Offer
from mcp_gateway.core.routing.preferences import RoutedOffer
from mcp_gateway.core.surfaces.surface import Ask
from mcp_gateway.core.surfaces.wanted_route import Sort

_FORGET_S = 60.0
"""After this a time says nothing any more, and who had it is asked first once."""
_NEWEST_SHARE = 0.3
"""Of the latest time in the average."""
_Place = tuple[str, str, bool]
"""A source, the name that a model has there, and whether it was a stream, whose first token counts."""


class _Pace(NamedTuple):
    """How quickly one answered of late, on the average, and when that was noted last."""

    took_s: float
    tokens_per_s: float
    noted_at_s: float


class Choosing:
    """Puts offers in order, and remembers how quickly they answered."""

    def __init__(self, random: Random, monotonic_s: Callable[[], float]) -> None:
        self._random = random
        self._monotonic_s = monotonic_s
        self._paces: dict[_Place, _Pace] = {}
        """As many as there are offers."""

    def arranged(self, offers: tuple[Offer, ...], model: Model, ask: Ask) -> tuple[Offer, ...]:
        """As the model's settings say."""
        match model.choose:
            case "order":
                return offers
            case "weight":
                return self._by_weight(offers)
        routed = [RoutedOffer(model.id, model, offer) for offer in offers]
        return tuple(one.offer for one in self.sorted_by(model.choose, routed, ask))

    def sorted_by(self, by: Sort, offers: Iterable[RoutedOffer], ask: Ask) -> list[RoutedOffer]:
        """The cheapest for the request first, or the quickest; in the order as they stand, where they are alike."""
        match by:
            case "price":
                return sorted(offers, key=lambda one: _likely_cost(one.offer, one.model, ask))
            case "latency":
                return sorted(offers, key=lambda one: self._took_s(one.offer, is_stream=ask.is_stream))
        return sorted(offers, key=lambda one: -self._tokens_per_s(one.offer, is_stream=ask.is_stream))

    def note(self, offer: Offer, took_s: float, *, is_stream: bool, tokens_per_s: float = 0.0) -> None:
        """Take the time of an answer, to its first token, or to its end where it came in one piece, and its pace."""
        place, before = (offer.source, offer.name, is_stream), self._recent(offer, is_stream=is_stream)
        if before is not None:
            took_s = before.took_s + _NEWEST_SHARE * (took_s - before.took_s)
            tokens_per_s = before.tokens_per_s + _NEWEST_SHARE * (tokens_per_s - before.tokens_per_s)
        self._paces[place] = _Pace(took_s, tokens_per_s, self._monotonic_s())

    def _took_s(self, offer: Offer, *, is_stream: bool) -> float:
        """0 where nobody knows, so that it becomes known."""
        pace = self._recent(offer, is_stream=is_stream)
        return 0.0 if pace is None else pace.took_s

    def _tokens_per_s(self, offer: Offer, *, is_stream: bool) -> float:
        pace = self._recent(offer, is_stream=is_stream)
        return inf if pace is None else pace.tokens_per_s

    def _recent(self, offer: Offer, *, is_stream: bool) -> _Pace | None:
        pace = self._paces.get((offer.source, offer.name, is_stream))
        return None if pace is None or self._monotonic_s() - pace.noted_at_s >= _FORGET_S else pace

    def _by_weight(self, offers: Sequence[Offer]) -> tuple[Offer, ...]:
        """Drawn one after the other, each with the chance that its weight has among those that are left."""
        keys = {offer: self._random.random() ** (1 / offer.weight) for offer in offers}
        return tuple(sorted(offers, key=lambda offer: keys[offer], reverse=True))


def _likely_cost(offer: Offer, model: Model, ask: Ask) -> int:
    output_tokens = min(ask.output_limit or model.max_output_tokens, model.max_output_tokens) * ask.choices
    return offer.price.most_nano(ask.prompt.estimated_text_tokens, output_tokens, len(ask.prompt.images))
