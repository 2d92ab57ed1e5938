"""What an answer costs: rates of tokens, tiers of them by a prompt's length, and fees. Knows no model.

Rates in pico-USD per token; a cost is rounded up once, to the nano-USD.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

from mcp_gateway.core.money import MILLION_TOKENS, PICO_PER_NANO, format_price, nano_of_pico

MARGIN_WHOLE = 10_000
"""Margins are told in hundredths of a percent of this."""


class Rates(NamedTuple):
    """Pico-USD per token. What a cache had of a prompt, or was written to one, costs what the rest does where None."""

    prompt_pico: int
    completion_pico: int
    cached_pico: int | None = None
    cache_write_pico: int | None = None

    @property
    def most_prompt_pico(self) -> int:
        """For a token of a prompt of which nobody knows yet what a cache has."""
        return max(self.prompt_pico, self.cached_pico or 0, self.cache_write_pico or 0)

    def prompt_cost_pico(self, tokens: int, cached_tokens: int, cache_write_tokens: int) -> int:
        cached_pico = self.prompt_pico if self.cached_pico is None else self.cached_pico
        write_pico = self.prompt_pico if self.cache_write_pico is None else self.cache_write_pico
        others = tokens - cached_tokens - cache_write_tokens
        return others * self.prompt_pico + cached_tokens * cached_pico + cache_write_tokens * write_pico


class Tier(NamedTuple):
    """The rates of a whole request whose prompt has more tokens than that."""

    above_prompt_tokens: int
    rates: Rates


@dataclass(frozen=True)
class Price:
    """Pico-USD: of tokens as Rates has them, of a request that is charged at all, and of each image in it.

    `tiers` stand by length, the shortest first. `margin` is added to all of it, in hundredths of a percent.
    """

    prompt_pico: int
    completion_pico: int
    cached_pico: int | None = None
    cache_write_pico: int | None = None
    request_pico: int = 0
    image_pico: int = 0
    tiers: tuple[Tier, ...] = ()
    margin: int = 0

    @cached_property
    def rates(self) -> Rates:
        """Of a request that no tier is for."""
        return Rates(self.prompt_pico, self.completion_pico, self.cached_pico, self.cache_write_pico)

    @cached_property
    def is_free(self) -> bool:
        of_tokens = (amount for rates in (self.rates, *(tier.rates for tier in self.tiers)) for amount in rates)
        return not any((*of_tokens, self.request_pico, self.image_pico))

    @cached_property
    def _is_plain(self) -> bool:
        """Whether a cost is two products."""
        return self == Price(self.prompt_pico, self.completion_pico)

    @cached_property
    def version(self) -> str:
        """Names exactly these prices, so that a bill can be worked out again from its record."""
        text = _version_of(self.rates)
        text += "".join(f">{tier.above_prompt_tokens}={_version_of(tier.rates)}" for tier in self.tiers)
        for name, amount in (("request", self.request_pico), ("image", self.image_pico), ("margin", self.margin)):
            if amount:
                text += f"+{name}={amount}"
        return text

    def cost_nano(
        self,
        prompt_tokens: int,
        completion_tokens: int,
        cached_tokens: int = 0,
        cache_write_tokens: int = 0,
        images: int = 0,
    ) -> int:
        """Nano-USD of so many tokens, of which the cached and the written are a part of the prompt's."""
        if self._is_plain:
            return nano_of_pico(prompt_tokens * self.prompt_pico + completion_tokens * self.completion_pico)
        if not (prompt_tokens or completion_tokens):
            return 0
        rates = self._rates_at(prompt_tokens)
        prompt_pico = rates.prompt_cost_pico(prompt_tokens, cached_tokens, cache_write_tokens)
        return self._nano(prompt_pico + completion_tokens * rates.completion_pico + self._fees_pico(images))

    def most_nano(self, prompt_tokens: int, completion_tokens: int, images: int = 0) -> int:
        """The most that so many tokens or fewer may cost, whatever a cache has of them."""
        if self._is_plain:
            return nano_of_pico(prompt_tokens * self.prompt_pico + completion_tokens * self.completion_pico)
        most = self.most_rates(prompt_tokens)
        pico = prompt_tokens * most.most_prompt_pico + completion_tokens * most.completion_pico
        return self._nano(pico + self._fees_pico(images))

    def most_rates(self, prompt_tokens: int) -> Rates:
        """What a token may cost at most, of a request whose prompt has so many or fewer."""
        if not self.tiers:
            return self.rates
        return _most_of([self.rates, *(tier.rates for tier in self.tiers if tier.above_prompt_tokens < prompt_tokens)])

    def tokens_for(self, amount_nano: int, prompt_tokens: int) -> int | None:
        """How many completion tokens an amount pays for in any case, beside a prompt of so many; None: without end."""
        pico = self.most_rates(prompt_tokens).completion_pico * (MARGIN_WHOLE + self.margin)
        return amount_nano * PICO_PER_NANO * MARGIN_WHOLE // pico if pico else None

    def with_margin(self, margin: int) -> "Price":
        """The price for an account that pays so many hundredths of a percent more."""
        return self if margin == self.margin or self.is_free else replace(self, margin=margin)

    def told(self, amount_pico: int | None, pieces: int = 1) -> str:
        """One of these amounts with the margin, for so many tokens or pieces, as a decimal string in USD."""
        pico = (amount_pico or 0) * pieces * (MARGIN_WHOLE + self.margin)
        return format_price(pico, parts=MARGIN_WHOLE)

    def _rates_at(self, prompt_tokens: int) -> Rates:
        rates = self.rates
        for tier in self.tiers:
            if prompt_tokens > tier.above_prompt_tokens:
                rates = tier.rates
        return rates

    def _fees_pico(self, images: int) -> int:
        return self.request_pico + images * self.image_pico

    def _nano(self, pico: int) -> int:
        return -(-pico * (MARGIN_WHOLE + self.margin) // (PICO_PER_NANO * MARGIN_WHOLE))


FREE = Price(0, 0)


class PriceCap(NamedTuple):
    """The most that a caller lets an answer cost: exact pico-USD of a token, a request and an image; None for any."""

    prompt: Fraction | None = None
    completion: Fraction | None = None
    request: Fraction | None = None
    image: Fraction | None = None

    def covers(self, price: Price, prompt_tokens: int) -> bool:
        """Whether a price never exceeds it, for a prompt of so many tokens or fewer."""
        rates = price.most_rates(prompt_tokens)
        amounts = (rates.prompt_pico, rates.completion_pico, price.request_pico, price.image_pico)
        return all(
            most is None or amount * (MARGIN_WHOLE + price.margin) <= most * MARGIN_WHOLE
            for amount, most in zip(amounts, self, strict=True)
        )


def dearest(prices: Sequence[Price]) -> Price:
    """A price that none of them exceeds, whatever is asked."""
    if len(prices) == 1:
        return prices[0]
    borders = sorted({tier.above_prompt_tokens for price in prices for tier in price.tiers})
    rates = _most_of([price.rates for price in prices])
    return Price(
        *rates,
        request_pico=max(price.request_pico for price in prices),
        image_pico=max(price.image_pico for price in prices),
        tiers=tuple(Tier(border, _most_of([price.most_rates(border + 1) for price in prices])) for border in borders),
        margin=max(price.margin for price in prices),
    )


def as_fields(price: Price, rate_names: Collection[str], fee_names: Collection[str], tokens: int = 1) -> dict[str, Any]:
    """For programs: rates for so many tokens and what is asked per request and image, by the names that are given.

    As decimal strings in USD, without what nothing is asked for by itself; `tiers` have rates by the same names.
    """

    def told(rates: Rates) -> dict[str, Any]:
        named = zip(rate_names, rates, strict=True)
        return {name: price.told(amount_pico, tokens) for name, amount_pico in named if amount_pico is not None}

    fees = zip(fee_names, (price.request_pico, price.image_pico), strict=True)
    fields = told(price.rates) | {name: price.told(amount_pico) for name, amount_pico in fees if amount_pico}
    if price.tiers:
        fields["tiers"] = [{"above_prompt_tokens": tier.above_prompt_tokens} | told(tier.rates) for tier in price.tiers]
    return fields


def in_words(price: Price) -> str:
    """For people, who think in millions of tokens."""
    if price.is_free:
        return "nothing"
    parts = [f"{price.told(price.prompt_pico, MILLION_TOKENS)} USD for a million prompt tokens"]
    if price.cached_pico is not None:
        parts.append(f"{price.told(price.cached_pico, MILLION_TOKENS)} for those that a cache had")
    if price.cache_write_pico is not None:
        parts.append(f"{price.told(price.cache_write_pico, MILLION_TOKENS)} for those that are written to one")
    parts.append(f"{price.told(price.completion_pico, MILLION_TOKENS)} USD for a million completion tokens")
    if price.request_pico:
        parts.append(f"{price.told(price.request_pico)} a request")
    if price.image_pico:
        parts.append(f"{price.told(price.image_pico)} an image")
    if price.tiers:
        parts.append(f"other rates for a prompt above {price.tiers[0].above_prompt_tokens} tokens")
    return ", ".join(parts)


def _most_of(rates: Sequence[Rates]) -> Rates:
    """Each amount the largest; where one of them tells no price of its own for caches, its prompt's counts."""
    return Rates(
        max(one.prompt_pico for one in rates),
        max(one.completion_pico for one in rates),
        _most_told([one.cached_pico for one in rates], rates),
        _most_told([one.cache_write_pico for one in rates], rates),
    )


def _most_told(amounts: Sequence[int | None], rates: Sequence[Rates]) -> int | None:
    if all(amount is None for amount in amounts):
        return None
    return max(one.prompt_pico if amount is None else amount for amount, one in zip(amounts, rates, strict=True))


def _version_of(rates: Rates) -> str:
    """As before there were caches to pay for, where nothing is said of them."""
    text = f"{rates.prompt_pico}/{rates.completion_pico}"
    if rates.cached_pico is not None:
        text += f"/cached={rates.cached_pico}"
    return text if rates.cache_write_pico is None else f"{text}/write={rates.cache_write_pico}"
