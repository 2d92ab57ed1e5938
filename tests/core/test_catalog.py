"""Models and costs: pure."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.core.catalog import (
    UNKNOWN_WINDOW_TOKENS,
    Catalog,
    Listing,
    Model,
    Published,
    build_catalog,
    price_line,
    warnings_of,
)
from mcp_gateway.core.config import ModelSettings, PricingSettings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.prices import Price
from tests.cases import each

PRICED = {"id": "pub/priced", "pricing": PricingSettings(prompt="0.000001", completion="0.000002")}
ZERO = {"id": "pub/zero", "pricing": PricingSettings(prompt="0", completion="0")}
LISTED = {"org/tiny": [Listing("org/tiny", "vllm", 2048)], "org/other": [Listing("org/other", "vllm", None)]}
PRICES = st.integers(0, 10**7)


def entry(**fields: object) -> ModelSettings:
    return ModelSettings.model_validate({"id": "pub/tiny", "backend_model": "org/tiny"} | fields)


def only(catalog: Catalog) -> Model:
    (model,) = catalog.values()
    return model


def test_without_entries_all_that_is_listed_is_published_under_its_own_name_for_free() -> None:
    catalog = build_catalog([], LISTED, publish_discovered=False)
    assert list(catalog) == ["org/other", "org/tiny"]
    assert all(model.price.is_free and model.is_open_to_guests for model in catalog.values())


def test_an_alias_finds_its_model_is_no_model_and_goes_before_what_a_backend_lists() -> None:
    catalog = build_catalog([entry(aliases=["gpt-4o-mini", "org/other"])], LISTED, publish_discovered=True)
    assert list(catalog) == ["pub/tiny"]
    assert {catalog.find(name).id for name in ("pub/tiny", "gpt-4o-mini", "org/other")} == {"pub/tiny"}
    with pytest.raises(GatewayError) as refused:
        catalog.find("gpt-4o-min")
    assert "gpt-4o-mini" in refused.value.message


def test_what_a_backend_calls_auto_is_published_under_no_name_but_a_configured_one() -> None:
    listed = {"auto": [Listing("auto", "vllm", 2048)], "other": [Listing("other", "vllm", 2048)]}
    assert list(build_catalog([], listed, publish_discovered=False)) == ["other"]
    named = build_catalog([entry(backend_model="auto")], listed, publish_discovered=True)
    assert list(named) == ["pub/tiny", "other"]


def test_with_entries_only_those_are_published_unless_asked_for() -> None:
    assert list(build_catalog([entry()], LISTED, publish_discovered=False)) == ["pub/tiny"]
    assert list(build_catalog([entry()], LISTED, publish_discovered=True)) == ["pub/tiny", "org/other"]


@each(
    ("fields", "listed", "context", "output"),
    [
        ({}, 2048, 2048, 2048),
        ({}, None, 8192, 8192),
        ({"context_window": 4096}, 2048, 4096, 2048),
        ({"context_window": 1024}, 2048, 1024, 1024),
        ({"context_window": 1024, "max_output_tokens": 100}, 2048, 1024, 100),
        ({"max_output_tokens": 9999}, 2048, 2048, 2048),
    ],
)
def test_context_and_output_come_from_the_entry_within_what_the_backend_can(
    fields: dict[str, int], listed: int | None, context: int, output: int
) -> None:
    listings = {"org/tiny": [Listing("org/tiny", "vllm", listed)]}
    model = only(build_catalog([entry(**fields)], listings, publish_discovered=False))
    assert (model.context_window, model.max_output_tokens) == (context, output)


def fleet(*windows: int | None, templates: tuple[int | None, ...] = ()) -> dict[str, list[Listing]]:
    """The rows of one model at several backends."""
    told = [*templates, *[None] * len(windows)]
    return {"org/tiny": [Listing("org/tiny", "vllm", window, told[at]) for at, window in enumerate(windows)]}


@each(
    ("configured", "listed", "context", "output", "widest", "is_known", "is_narrowed"),
    [
        (None, (2048, 8192), 2048, 2048, 8192, True, True),
        (None, (8192, 2048), 2048, 2048, 8192, True, True),
        (None, (2048, 2048), 2048, 2048, 2048, True, False),
        (4096, (2048, 8192), 4096, 2048, 8192, True, True),
        (1024, (2048, 8192), 1024, 1024, 8192, True, True),
        (8192, (2048, 8192), 8192, 2048, 8192, True, False),
        (9000, (2048, 8192), 9000, 2048, 9000, True, False),
        (4096, (None, 8192), 4096, 4096, 8192, True, True),
        (4096, (None,), 4096, 4096, 4096, True, False),
        (None, (None, 8192), 8192, 8192, UNKNOWN_WINDOW_TOKENS, False, False),
        (None, (None, None), 8192, 8192, UNKNOWN_WINDOW_TOKENS, False, False),
        (None, (), 8192, 8192, UNKNOWN_WINDOW_TOKENS, False, False),
        (4096, (), 4096, 4096, 4096, True, False),
    ],
)
def test_where_backends_disagree_all_can_do_what_is_told_and_the_widest_bounds_what_is_held(
    configured: int | None,
    listed: tuple[int | None, ...],
    context: int,
    output: int,
    widest: int,
    is_known: bool,
    is_narrowed: bool,
) -> None:
    fields = {} if configured is None else {"context_window": configured}
    model = only(build_catalog([entry(**fields)], fleet(*listed), publish_discovered=False))
    assert (model.context_window, model.max_output_tokens, model.widest_window) == (context, output, widest)
    assert (model.is_window_known, model.is_window_narrowed) == (is_known, is_narrowed)


@each("is_priced", [True, False])
@each(
    ("fields", "listed", "warned"),
    [
        ({"context_window": 4096}, (8192,), "its backend's 8192"),
        ({"context_window": 4096}, (2048, 8192), "its backend's 8192"),
        ({}, (2048, 8192), "its backend's 8192"),
        ({"context_window": 4096}, (4096, 2048), None),
        ({"context_window": 4096}, (), None),
        ({}, (2048,), None),
        ({}, (None,), "tell the window"),
        ({}, (None, 2048), "tell the window"),
        ({}, (), "tell the window"),
    ],
)
def test_a_window_below_a_backends_or_unknown_for_a_priced_model_is_a_warning(
    fields: dict[str, Any], listed: tuple[int | None, ...], warned: str | None, is_priced: bool
) -> None:
    pricing = {"pricing": PRICED["pricing"]} if is_priced else {}
    catalog = build_catalog([entry(**fields, **pricing)], fleet(*listed), publish_discovered=False)
    told = "".join(warnings_of(catalog))
    if warned is None or (warned == "tell the window" and not is_priced):
        assert told == ""
    else:
        assert warned in told


def test_a_model_is_open_to_guests_when_free_unless_it_says_otherwise() -> None:
    pricing = PricingSettings(prompt="0.000001", completion="0")
    cases: list[tuple[dict[str, object], bool]] = [
        ({}, True),
        ({"pricing": pricing}, False),
        ({"pricing": PricingSettings(prompt="0", completion="0")}, False),
        ({"free": True}, True),
        ({"free": True, "guests": False}, False),
        ({"guests": False}, False),
        ({"pricing": pricing, "guests": True}, True),
    ]
    for fields, is_open in cases:
        assert only(build_catalog([entry(**fields)], LISTED, publish_discovered=False)).is_open_to_guests is is_open


@each(
    ("others", "is_published"),
    [
        ([], True),
        ([{"id": "pub/other"}, {"id": "pub/free", "free": True}], True),
        ([PRICED], False),
        ([ZERO], False),
        ([{"id": "pub/free", "free": True}, PRICED], False),
    ],
)
@each("is_first", [True, False])
def test_a_model_without_a_price_is_published_until_another_has_one(
    others: list[dict[str, object]], is_published: bool, is_first: bool
) -> None:
    entries = [entry(**fields) for fields in others]
    entries.insert(0 if is_first else len(entries), entry())
    catalog = build_catalog(entries, LISTED, publish_discovered=False)
    assert ("pub/tiny" in catalog) == is_published
    assert catalog.unpriced == (() if is_published else ("pub/tiny",))
    told = [line for line in warnings_of(catalog) if "not published" in line]
    assert told == (
        [] if is_published else ["models not published, having neither a price nor free = true (1): pub/tiny"]
    )


def test_one_that_says_it_is_free_is_published_beside_priced_ones() -> None:
    catalog = build_catalog([entry(free=True), entry(**PRICED)], LISTED, publish_discovered=False)
    assert (list(catalog), catalog.unpriced) == (["pub/tiny", "pub/priced"], ())
    assert catalog["pub/tiny"].price.is_free


def test_what_is_discovered_has_no_price_either() -> None:
    catalog = build_catalog([entry(**PRICED)], LISTED, publish_discovered=True)
    assert (list(catalog), catalog.unpriced) == (["pub/priced"], ("org/other",))


def test_the_demo_needs_no_price() -> None:
    entries = [
        entry(**PRICED),
        entry(id="mine", backend_model="demo/echo"),
        entry(id="another", backend_model="no/demo"),
    ]
    listings = {name: [Listing(name, "demo", 2048)] for name in ("demo/echo", "demo/slow")}
    catalog = build_catalog(entries, listings, publish_discovered=True, demo=listings)
    assert (list(catalog), catalog.unpriced) == (["pub/priced", "mine", "demo/slow"], ("another",))
    assert catalog["mine"].is_open_to_guests


def test_a_price_list_tells_prices_for_a_million_tokens() -> None:
    prices = {"prompt": "0.05", "completion": "10", "per_million": True}
    catalog = build_catalog([entry(pricing=prices), entry(id="free", free=True)], LISTED, publish_discovered=False)
    assert [price_line(model) for model in catalog.values()] == [
        "pub/tiny costs 0.05 USD for a million prompt tokens, 10 USD for a million completion tokens",
        "free costs nothing",
    ]


def test_an_unknown_model_is_refused_with_the_closest_names() -> None:
    catalog = build_catalog([entry(), entry(id="pub/big")], LISTED, publish_discovered=False)
    with pytest.raises(GatewayError) as raised:
        catalog.find("pub/tinny")
    assert "pub/tiny" in raised.value.message
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")


def test_of_very_many_models_that_backends_list_the_first_are_published() -> None:
    listings = {name: [Listing(name, "vllm", 2048)] for name in (f"org/model-{number:04}" for number in range(3000))}
    assert list(build_catalog([entry()], listings, publish_discovered=True))[-1] == "org/model-1999"


def test_of_very_many_models_an_unknown_name_is_compared_with_the_first() -> None:
    listings = {name: [Listing(name, "vllm", 2048)] for name in (f"org/model-{number:04}" for number in range(2000))}
    catalog = build_catalog([], listings, publish_discovered=True)
    with pytest.raises(GatewayError, match="model_not_found") as raised:
        catalog.find("org/model-1999x")
    assert "org/model-01" in raised.value.message
    assert "org/model-1999," not in raised.value.message


def test_listeners_hear_of_a_catalog_that_differs_and_of_no_other() -> None:
    published, heard = Published(), []
    published.on_change(lambda: heard.append(len(published.current)))
    for _ in range(2):
        published.replace(build_catalog([], LISTED, publish_discovered=False))
    published.replace(build_catalog([entry()], LISTED, publish_discovered=False))
    assert heard == [2, 1]


@given(PRICES, PRICES, st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_cost_is_rounded_up_once(prompt_pico: int, completion_pico: int, prompt: int, completion: int) -> None:
    exact_pico = prompt * prompt_pico + completion * completion_pico
    cost = Price(prompt_pico, completion_pico).cost_nano(prompt, completion)
    assert 0 <= cost * 1000 - exact_pico < 1000


def test_a_model_is_created_when_it_is_told_to_have_been() -> None:
    ages = {"pub/tiny": 1000, "org/other": 2000}
    catalog = build_catalog([entry()], LISTED, publish_discovered=True, created_at_s=ages.__getitem__)
    assert {name: model.created_at_s for name, model in catalog.items()} == ages
