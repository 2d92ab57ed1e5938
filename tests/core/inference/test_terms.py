"""Quotes and terms: pure."""

from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.core.catalog import build_catalog
from mcp_gateway.core.config import WalletSettings
from mcp_gateway.core.inference.terms import affordable_tokens
from mcp_gateway.core.prices import FREE, Price
from mcp_gateway.core.surfaces.chat import CHAT
from mcp_gateway.core.surfaces.surface import AnswerSize, Ask, PromptSize
from tests.cases import each
from tests.core.test_catalog import LISTED, entry, fleet, only
from tests.core.test_prices import WHOLE_PRICES
from tests.quoting import quote_of

WALLET = WalletSettings()


def request(
    text_bytes: int = 100, max_tokens: int | None = 50, choices: int = 1, messages: int = 1, images: int = 0
) -> Ask:
    return Ask(
        surface=CHAT,
        body={},
        model="m",
        prompt=PromptSize(text_bytes, messages, images=("x",) * images),
        output_limit=max_tokens,
        choices=choices,
        answer_size=AnswerSize(16, "max_tokens"),
    )


@each(
    ("templates", "margin"),
    [((12,), 12), ((0,), 0), ((700, 5), 700), ((None, 30), 30), ((None, None), 64 * 4), ((), 64 * 4)],
)
def test_a_quote_adds_the_template_as_backends_count_it_and_else_an_assumption_for_each_message(
    templates: tuple[int | None, ...], margin: int
) -> None:
    listings = fleet(*[100_000] * max(1, len(templates)), templates=templates)
    model = only(build_catalog([entry()], listings, publish_discovered=False))
    assert quote_of(model, Price(1000, 0), request(messages=3), WALLET).prompt_nano == 100 + margin
    assert quote_of(model, Price(1000, 0), request(messages=3, images=2), WALLET).prompt_nano == 100 + margin + 2 * 4096


@each(
    ("configured", "listed", "counted", "images", "prompt"),
    [
        (1000, 4000, None, 0, 4000),
        (1000, 4000, 900, 0, 1000),
        (1000, 4000, 900, 1, 4000),
        (1000, 1000, None, 0, 1000),
        (1000, 1000, 900, 1, 1000),
        (1000, 500, None, 0, 1000),
        (None, None, None, 0, 5064 + 64),
    ],
)
def test_a_quote_s_prompt_is_bounded_by_the_window_that_may_serve_it(
    configured: int | None, listed: int | None, counted: int | None, images: int, prompt: int
) -> None:
    fields = {} if configured is None else {"context_window": configured}
    model = only(build_catalog([entry(**fields)], fleet(listed), publish_discovered=False))
    asked = request(text_bytes=5000, images=images)
    assert quote_of(model, Price(1000, 0), asked, WALLET, counted).prompt_nano == prompt


def test_a_quote_bounds_the_prompt_by_bytes_margins_and_images_within_the_context() -> None:
    model = only(build_catalog([entry(context_window=100_000)], {}, publish_discovered=False))
    price = Price(1000, 10_000)
    assert quote_of(model, price, request(), WALLET).prompt_nano == 100 + 64 * 2
    assert quote_of(model, price, request(messages=3, images=2), WALLET).prompt_nano == 100 + 64 * 4 + 4096 * 2
    assert quote_of(model, price, request(text_bytes=10**7), WALLET).prompt_nano == 100_000


def test_a_quote_s_most_is_max_tokens_of_each_choice_and_its_least_what_is_useful() -> None:
    model = only(build_catalog([entry(context_window=100_000)], {}, publish_discovered=False))
    worst = quote_of(model, Price(1000, 10_000), request(max_tokens=50, choices=3), WALLET)
    assert worst.maximum_nano - worst.prompt_nano == 50 * 3 * 10
    assert worst.minimum_nano - worst.prompt_nano == 16 * 3 * 10
    short = quote_of(model, Price(1000, 10_000), request(max_tokens=5), WALLET)
    assert short.minimum_nano == short.maximum_nano


def test_a_free_quote_is_free() -> None:
    model = only(build_catalog([entry()], LISTED, publish_discovered=False))
    assert quote_of(model, FREE, request(), WALLET).maximum_nano == 0


@given(WHOLE_PRICES, st.integers(0, 10**6), st.integers(1, 10**5), st.integers(1, 8), st.floats(0, 1))
def test_what_a_smaller_hold_affords_never_costs_more_than_the_hold(
    price: Price, text_bytes: int, max_tokens: int, choices: int, share: float
) -> None:
    model = only(build_catalog([entry(context_window=10**6)], {}, publish_discovered=False))
    worst = quote_of(model, price, request(text_bytes, max_tokens, choices), WALLET)
    assert worst.prompt_nano <= worst.minimum_nano <= worst.maximum_nano
    held_nano = worst.minimum_nano + int((worst.maximum_nano - worst.minimum_nano) * share)
    prompt = min(text_bytes + 128, 10**6)
    tokens = min(max_tokens, affordable_tokens(held_nano, worst, choices))
    assert tokens >= 1
    if tokens > 1:
        assert price.cost_nano(prompt, tokens * choices) <= held_nano
    if held_nano == worst.maximum_nano:
        assert tokens >= max_tokens - 1000 // max(1, price.most_rates(prompt).completion_pico * choices) - 1
