"""What an answer costs: pure."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.core.prices import FREE, Price, PriceCap, Rates, Tier, dearest, in_words
from tests.cases import each

PICO = st.integers(0, 10**10)
CACHES = st.none() | PICO
RATES = st.builds(Rates, PICO, PICO, CACHES, CACHES)
TIERS = st.dictionaries(st.integers(1, 10**6), RATES, max_size=3).map(
    lambda rates: tuple(Tier(border, rates[border]) for border in sorted(rates))
)
WHOLE_PRICES = st.builds(Price, PICO, PICO, CACHES, CACHES, PICO, PICO, TIERS, st.integers(0, 100_000))
TOKENS = st.integers(0, 10**6)


@st.composite
def prompts(draw: st.DrawFn) -> tuple[int, int, int]:
    """Tokens of a prompt, and how many of them a cache had and how many were written to one."""
    tokens = draw(TOKENS)
    cached = draw(st.integers(0, tokens))
    return tokens, cached, draw(st.integers(0, tokens - cached))


LONG = Tier(200, Rates(2000, 6000, 500))


@each(
    ("price", "used", "cost_nano"),
    [
        (Price(1000, 3000), (100, 10), 130),
        (Price(1000, 3000), (100, 10, 40, 20, 5), 130),
        (Price(1000, 3000, 100), (100, 10, 40), 60 + 4 + 30),
        (Price(1000, 3000, 0), (100, 10, 100), 30),
        (Price(1000, 3000, 100, 1250), (100, 10, 40, 20), 40 + 4 + 25 + 30),
        (Price(1000, 3000, None, 1250), (100, 10, 40, 20), 80 + 25 + 30),
        (Price(1000, 3000, request_pico=7000), (100, 10), 137),
        (Price(1000, 3000, request_pico=7000), (0, 0), 0),
        (Price(1000, 3000, image_pico=9000), (100, 10, 0, 0, 2), 148),
        (Price(1000, 3000, tiers=(LONG,)), (200, 10), 230),
        (Price(1000, 3000, tiers=(LONG,)), (201, 10, 100), 202 + 50 + 60),
        (Price(1000, 3000, tiers=(LONG, Tier(300, Rates(1, 1)))), (301, 10), 1),
        (Price(1000, 3000, margin=2000), (100, 10), 156),
        (Price(1000, 3000, margin=1), (100, 10), 131),
        (Price(1000, 3000, request_pico=7000, margin=2000), (100, 10), 165),
        (Price(1, 0), (1, 0), 1),
        (FREE, (100, 10, 50, 0, 4), 0),
    ],
)
def test_a_cost_is_of_each_kind_of_token_of_the_tier_that_the_prompt_is_in_and_of_the_fees(
    price: Price, used: tuple[int, ...], cost_nano: int
) -> None:
    assert price.cost_nano(*used) == cost_nano


@given(WHOLE_PRICES, prompts(), TOKENS, st.integers(0, 8), st.integers(0, 10**6))
def test_nothing_costs_more_than_the_most_whatever_a_cache_has_of_it(
    price: Price, prompt: tuple[int, int, int], completion: int, images: int, more: int
) -> None:
    tokens, cached, written = prompt
    most_nano = price.most_nano(tokens + more, completion, images)
    assert price.cost_nano(tokens, completion, cached, written, images) <= most_nano


@given(WHOLE_PRICES, TOKENS, st.integers(0, 10**12))
def test_an_amount_pays_for_the_tokens_that_it_is_said_to_and_for_no_more(
    price: Price, prompt: int, amount_nano: int
) -> None:
    tokens = price.tokens_for(amount_nano, prompt)
    if tokens is None:
        assert price.most_rates(prompt).completion_pico == 0
        return
    before_nano = price.most_nano(prompt, 0)
    assert price.most_nano(prompt, tokens) <= before_nano + amount_nano
    assert price.most_nano(prompt, tokens + 1) >= before_nano + amount_nano - 1


@given(st.lists(WHOLE_PRICES, min_size=1, max_size=3), prompts(), TOKENS, st.integers(0, 8))
def test_nothing_exceeds_the_dearest(
    prices: list[Price], prompt: tuple[int, int, int], completion: int, images: int
) -> None:
    most_nano = dearest(prices).most_nano(prompt[0], completion, images)
    for price in prices:
        assert price.cost_nano(prompt[0], completion, *prompt[1:], images) <= most_nano


@given(st.lists(WHOLE_PRICES, min_size=2, max_size=20, unique=True))
def test_a_version_names_exactly_one_price(prices: list[Price]) -> None:
    assert len({price.version for price in prices}) == len(prices)


@each(
    ("price", "version"),
    [
        (Price(300_000, 700_000), "300000/700000"),
        (
            Price(3, 7, 1, 4, 5, 6, (Tier(9, Rates(6, 14, 2)),), 2000),
            "3/7/cached=1/write=4>9=6/14/cached=2+request=5+image=6+margin=2000",
        ),
    ],
)
def test_a_version_can_be_read(price: Price, version: str) -> None:
    assert price.version == version


def test_a_margin_is_put_on_whatever_costs_something() -> None:
    assert Price(1000, 3000).with_margin(2000) == Price(1000, 3000, margin=2000)
    assert FREE.with_margin(2000) is FREE
    price = Price(1000, 3000)
    assert price.with_margin(0) is price


@each(
    ("margin", "told"), [(0, "0.000000301"), (2000, "0.0000003612"), (1, "0.0000003010301"), (100_000, "0.000003311")]
)
def test_an_amount_is_told_exactly_with_its_margin(margin: int, told: str) -> None:
    assert Price(301_000, 0, margin=margin).told(301_000) == told


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "0.3 USD for a million prompt tokens, 0.7 USD for a million completion tokens"),
        (
            {"cached_pico": 30_000, "cache_write_pico": 400_000, "request_pico": 10**9, "image_pico": 2 * 10**9},
            "0.3 USD for a million prompt tokens, 0.03 for those that a cache had, "
            "0.4 for those that are written to one, 0.7 USD for a million completion tokens, "
            "0.001 a request, 0.002 an image",
        ),
        (
            {"tiers": (Tier(200_000, Rates(1, 1)),), "margin": 10_000},
            "0.6 USD for a million prompt tokens, 1.4 USD for a million completion tokens, "
            "other rates for a prompt above 200000 tokens",
        ),
    ],
)
def test_people_are_told_prices_for_millions(fields: dict[str, Any], words: str) -> None:
    assert in_words(Price(300_000, 700_000, **fields)) == words
    assert in_words(FREE) == "nothing"


@given(WHOLE_PRICES, TOKENS)
def test_a_cap_covers_what_a_price_may_be_and_nothing_above(price: Price, tokens: int) -> None:
    """Of a prompt of as many tokens or fewer, with the margin."""
    margin, most = Fraction(10_000 + price.margin, 10_000), price.most_rates(tokens)
    amounts = (most.prompt_pico, most.completion_pico, price.request_pico, price.image_pico)
    exact = PriceCap(*(amount * margin for amount in amounts))
    assert exact.covers(price, tokens)
    assert PriceCap().covers(price, tokens)
    for name in PriceCap._fields:
        amount = getattr(exact, name)
        assert PriceCap(**{name: amount}).covers(price, tokens)
        assert not PriceCap(**{name: amount - Fraction(1, 10**6)}).covers(price, tokens)


def test_a_cap_holds_for_the_tier_of_a_long_prompt() -> None:
    price, cap = Price(1000, 3000, tiers=(LONG,)), PriceCap(prompt=Fraction(1500))
    assert cap.covers(price, 200)
    assert not cap.covers(price, 201)
