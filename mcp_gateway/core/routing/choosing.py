"""Which of a model's offers is asked first: as they stand, by weight, the cheapest, or who was the quickest of late."""

from collections.abc import Callable, Sequence
from random import Random

from mcp_gateway.core.catalog import Model, Offer
from mcp_gateway.core.surfaces.surface import Ask

_FORGET_S = 60.0
"""After this a time says nothing any more, and who had it is asked first once."""
_NEWEST_SHARE = 0.3
"""Of the latest time in the average."""
_Place = tuple[str, str, bool]
"""A source, the name that a model has there, and whether it was a stream, whose first token counts."""


class Choosing:
    """Puts offers in order, and remembers how long they took."""

    def __init__(self, random: Random, monotonic_s: Callable[[], float]) -> None:
        self._random = random
        self._monotonic_s = monotonic_s
        self._took_s: dict[_Place, tuple[float, float]] = {}
        """The average, and when it was noted last: as many as there are offers."""

    def arranged(self, offers: tuple[Offer, ...], model: Model, ask: Ask) -> tuple[Offer, ...]:
        match model.choose:
            case "weight":
                return self._by_weight(offers)
            case "price":
                return tuple(sorted(offers, key=lambda offer: _likely_cost(offer, model, ask)))
            case "latency":
                return tuple(sorted(offers, key=lambda offer: self._recent_s(offer, is_stream=ask.is_stream)))
        return offers

    def note(self, offer: Offer, took_s: float, *, is_stream: bool) -> None:
        """Take the time of an answer: to its first token, or to its end where it came in one piece."""
        now_s, place = self._monotonic_s(), (offer.source, offer.name, is_stream)
        before = self._recent_s(offer, is_stream=is_stream)
        average_s = before + _NEWEST_SHARE * (took_s - before) if before else took_s
        self._took_s[place] = average_s, now_s

    def _recent_s(self, offer: Offer, *, is_stream: bool) -> float:
        """0 where nobody knows, so that it becomes known."""
        average_s, noted_at_s = self._took_s.get((offer.source, offer.name, is_stream), (0.0, 0.0))
        return average_s if self._monotonic_s() - noted_at_s < _FORGET_S else 0.0

    def _by_weight(self, offers: Sequence[Offer]) -> tuple[Offer, ...]:
        """Drawn one after the other, each with the chance that its weight has among those that are left."""
        keys = {offer: self._random.random() ** (1 / offer.weight) for offer in offers}
        return tuple(sorted(offers, key=lambda offer: keys[offer], reverse=True))


def _likely_cost(offer: Offer, model: Model, ask: Ask) -> int:
    output_tokens = min(ask.output_limit or model.max_output_tokens, model.max_output_tokens) * ask.choices
    return offer.price.most_nano(ask.prompt.estimated_text_tokens, output_tokens, len(ask.prompt.images))
