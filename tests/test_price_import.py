"""`mcp-gateway prices import`: a table of prices as settings, what it cannot say, and where it is written."""

import json
import math
import sys
import tomllib
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mcp_gateway import cli
from mcp_gateway.cli.price_entries import ModelLeftOut, NotInTable, PricedModel, toml_of
from mcp_gateway.core.config import ModelSettings, load_settings
from mcp_gateway.core.prices import Price
from mcp_gateway.core.text import is_one_line
from tests.cases import each
from tests.test_command_line import data_dir, run

pytest.importorskip("genai_prices", reason="an extra: pip install 'mcp-gateway[prices]'")

from genai_prices.data import providers
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    Provider,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
    Usage,
)
from genai_prices.types import Tier as GenaiTier

from mcp_gateway.cli.price_table import PriceTable

pytestmark = pytest.mark.gateways

__all__ = ["data_dir"]

USAGE = 2
DAY = date(2026, 11, 26)
NOON = datetime.combine(DAY, time(12), UTC)
COUNTS = list(product([999, 200_000, 200_001, 300_001, 5_000_000], [0, 77], [0, 500], [0, 250]))
"""Prompt, completion, cached and written tokens."""


def table(*models: ModelInfo, id: str = "acme", pages: list[str] | None = None) -> PriceTable:
    return PriceTable([Provider(id=id, name="Acme", api_pattern="", pricing_urls=pages, models=list(models))])


def model(id: str = "m", prices: Any = None, **told: Any) -> ModelInfo:
    return ModelInfo(id=id, match=ClauseEquals(equals=id), prices=[] if prices is None else prices, **told)


def priced(**usd: Any) -> ModelPrice:
    return ModelPrice(**{name: Decimal(text) if isinstance(text, str) else text for name, text in usd.items()})


def tiered(base: str, *tiers: tuple[int, str]) -> TieredPrices:
    return TieredPrices(base=Decimal(base), tiers=[GenaiTier(start, Decimal(price)) for start, price in tiers])


def read(prices: Any, on: date = DAY, **told: Any) -> PricedModel:
    (entry,) = table(model(prices=prices, **told)).read(["acme"], on).entries
    return entry


def left_out(prices: Any, **told: Any) -> ModelLeftOut:
    (one,) = table(model(prices=prices, **told)).read(["acme"], DAY).left_out
    return one


def pricing(prices: Any, on: date = DAY) -> dict[str, Any]:
    entry = read(prices, on)
    assert entry.settings["pricing"].pop("per_million") is True
    return dict(entry.settings["pricing"])


PLAIN = {"input_mtok": "0.3", "output_mtok": "1.2"}


def costs_nano(prices: ModelPrice, counts: tuple[int, int, int, int]) -> int:
    """As the package itself works a cost out."""
    prompt, completion, cached, written = counts
    usage = Usage(input_tokens=prompt, output_tokens=completion, cache_read_tokens=cached, cache_write_tokens=written)
    cost: Decimal = prices.calc_price(usage)["total_price"]
    return math.ceil(cost * 10**9)


class WholeTable(NamedTuple):
    text: str
    models: tuple[ModelSettings, ...]
    told: dict[str, Any]


@pytest.fixture(scope="module")
def whole_table(tmp_path_factory: pytest.TempPathFactory) -> WholeTable:
    """Every model of the table that is installed, written by the command: the text, its settings, what was told."""
    file = tmp_path_factory.mktemp("prices") / "prices.toml"
    asked = [provider.id for provider in providers]
    written = run("prices", "import", *asked, "--on", "2026-11-26", "--output", str(file), "--json")
    assert written.exit_code == 0, written.output
    return WholeTable(file.read_text(), load_settings(file, {}).models, json.loads(written.stdout))


def test_every_model_of_the_table_is_a_setting_that_loads_or_is_named_with_the_reason(
    whole_table: WholeTable,
) -> None:
    loaded = [entry.id for entry in whole_table.models]
    left = [one["id"] for one in whole_table.told["not_written"]]
    assert sorted(loaded + left) == sorted(f"{one.id}/{each.id}" for one in providers for each in one.models)
    assert loaded == [one["id"] for one in whole_table.told["models"]]
    assert [id for id in left if f"# Not written: {id}: " not in whole_table.text] == []
    assert len(loaded) > 2000


def test_every_model_that_is_written_whole_costs_what_the_table_itself_says(
    whole_table: WholeTable,
) -> None:
    whole = {one["id"] for one in whole_table.told["models"] if not one["not_said"]}
    known = {f"{one.id}/{each.id}": each for one in providers for each in one.models}
    compared = [entry for entry in whole_table.models if entry.id in whole]
    assert len(compared) > 1000
    for number, entry in enumerate(compared):
        assert entry.pricing is not None
        check_costs(entry.pricing.price, known[entry.id].get_prices(NOON), COUNTS[number % 20 :: 20])


def check_costs(price: Price, prices: ModelPrice, some: Sequence[tuple[int, int, int, int]]) -> None:
    for counts in some:
        assert price.cost_nano(*counts) == costs_nano(prices, counts), (prices, counts)


@each(
    ("prices", "said"),
    [
        (priced(**PLAIN), {"prompt": "0.3", "completion": "1.2"}),
        (priced(**PLAIN, cache_read_mtok="0"), {"prompt": "0.3", "completion": "1.2", "cached_prompt": "0"}),
        (priced(**PLAIN, cache_write_mtok="0.375"), {"prompt": "0.3", "completion": "1.2", "cache_write": "0.375"}),
        (priced(**PLAIN, requests_kcount="12"), {"prompt": "0.3", "completion": "1.2", "request": "0.012"}),
        (priced(**PLAIN, requests_kcount="0.000001"), {"prompt": "0.3", "completion": "1.2", "request": "0.000000001"}),
        (priced(input_mtok="1E+2", output_mtok="0.000001"), {"prompt": "100", "completion": "0.000001"}),
        (priced(input_mtok="0", output_mtok="0"), {"prompt": "0", "completion": "0"}),
    ],
)
def test_a_price_is_the_decimal_number_of_the_table(prices: ModelPrice, said: dict[str, str]) -> None:
    assert pricing(prices) == said


def test_tiers_of_each_rate_begin_where_they_do_in_the_table() -> None:
    prices = priced(
        input_mtok=tiered("1", (200_000, "2"), (400_000, "4")),
        output_mtok=tiered("10", (300_000, "15")),
        cache_read_mtok="0.5",
    )
    assert pricing(prices)["tiers"] == [
        {"above_prompt_tokens": 200_000, "prompt": "2", "completion": "10", "cached_prompt": "0.5"},
        {"above_prompt_tokens": 300_000, "prompt": "2", "completion": "15", "cached_prompt": "0.5"},
        {"above_prompt_tokens": 400_000, "prompt": "4", "completion": "15", "cached_prompt": "0.5"},
    ]


def test_a_tier_from_the_first_token_on_is_the_price() -> None:
    said = pricing(priced(input_mtok=tiered("1", (0, "2")), output_mtok="3"))
    assert said == {"prompt": "2", "completion": "3"}


def hours(begin: time, end: time, **usd: str) -> ConditionalPrice:
    return ConditionalPrice(TimeOfDateConstraint(begin, end), prices=priced(**usd))


def since(day: date, **usd: str) -> ConditionalPrice:
    return ConditionalPrice(StartDateConstraint(day), prices=priced(**usd))


@each(
    "begins",
    [(time(1), time(4)), (time(22), time(2)), (time(0), time(0, 1)), (time(23, 30, tzinfo=UTC), time(0, tzinfo=UTC))],
)
def test_of_prices_by_the_hour_the_dearest_of_each_rate_counts(begins: tuple[time, time]) -> None:
    prices = [
        ConditionalPrice(prices=priced(input_mtok="0.15", output_mtok="1.3")),
        hours(*begins, input_mtok="0.3", output_mtok="1.2", cache_read_mtok="0.1"),
    ]
    entry = read(prices)
    said = {"per_million": True, "prompt": "0.3", "completion": "1.3", "cached_prompt": "0.15"}
    assert entry.settings["pricing"] == said  # what no cache had a price for costs what a prompt does
    assert entry.not_said == ("other prices by the hour, of which these are the dearest",)


@each(
    ("on", "prompt", "not_said"),
    [
        ("2026-01-01", "3", ("other prices from 2026-02-01",)),
        ("2026-02-01", "2", ("other prices from 2026-05-01",)),
        ("2026-04-30", "2", ("other prices from 2026-05-01",)),
        ("2027-01-01", "1", ()),
    ],
)
def test_the_prices_of_the_day_are_taken_and_a_change_to_come_is_named(
    on: str, prompt: str, not_said: tuple[str, ...]
) -> None:
    prices = [
        ConditionalPrice(prices=priced(input_mtok="3", output_mtok="9")),
        since(date(2026, 2, 1), input_mtok="2", output_mtok="9"),
        since(date(2026, 5, 1), input_mtok="1", output_mtok="9"),
    ]
    entry = read(prices, date.fromisoformat(on))
    assert (entry.settings["pricing"]["prompt"], entry.not_said) == (prompt, not_said)


@each(
    ("more", "note"),
    [
        ({"cache_write_1h_mtok": "6"}, "cache_write_1h_mtok = 6"),
        ({"input_image_mtok": "0.5"}, "input_image_mtok = 0.5"),
        ({"web_searches_kcount": "10"}, "web_searches_kcount = 10"),
        ({"audio_hours": "1"}, "audio_hours = 1"),
        ({"of_a_later_kind": "7"}, "of_a_later_kind = 7"),
        ({"cache_write_1h_mtok": tiered("6", (9, "7"))}, "cache_write_1h_mtok = 6 and more by length"),
    ],
)
def test_what_there_is_no_field_for_is_named_with_its_price(more: dict[str, Any], note: str) -> None:
    assert read(priced(**PLAIN, **more)).not_said == (note,)


def test_variants_that_ask_for_other_prices_are_named_and_those_that_repeat_the_standard_are_not() -> None:
    variants = [
        PriceVariant(when={"processing": "batch"}, prices=priced(input_mtok="0.15")),
        PriceVariant(when={"service_tier": "default"}, prices=priced(input_mtok="0.3")),
        PriceVariant(when={"service_tier": "flex", "route": "eu"}, prices=priced(output_mtok="0.6")),
    ]
    entry = read(priced(**PLAIN), price_variants=variants)
    assert entry.not_said == ("other prices for processing=batch; service_tier=flex, route=eu",)


@each(
    ("exact", "said"),
    [
        ("0.18000000000000002", "0.18"),
        ("0.0833333333333333", "0.083333"),
        ("1.0399999999999998", "1.04"),
        ("0.0000001", "0.000001"),  # never nothing for something
        ("0.00000000000000000000000000001", "0.000001"),
    ],
)
def test_a_price_finer_than_a_pico_dollar_a_token_is_rounded_and_named(exact: str, said: str) -> None:
    entry = read(priced(input_mtok=exact, output_mtok="1"))
    assert entry.settings["pricing"]["prompt"] == said
    (note,) = entry.not_said
    assert note.startswith("finer than a pico-USD a token, so it is rounded: input_mtok = ")


@each(
    ("prices", "reason"),
    [
        (None, "the table has no price"),
        (priced(), "the table has no price"),
        (priced(audio_hours="1"), "it is priced by audio_hours"),
        (priced(output_mtok="1"), "it is priced by output_mtok"),
        (priced(input_mtok="1"), "it has no price for output"),
        (priced(input_mtok="NaN", output_mtok="1"), "its input_mtok is no price that can be said"),
        (priced(input_mtok="1", output_mtok="-1"), "its output_mtok is no price that can be said"),
        (priced(input_mtok=0.1, output_mtok="1"), "its input_mtok is no price that can be said"),
        (priced(input_mtok="1", output_mtok="1", requests_kcount=tiered("1")), "requests_kcount is no price"),
        (priced(input_mtok="1000001", output_mtok="1"), "must be USD for a million tokens"),
        (priced(input_mtok="1", output_mtok="1", requests_kcount="100001"), 'must be USD, from "0" to "100"'),
    ],
)
def test_what_cannot_be_sold_by_its_price_is_left_out_with_the_reason(prices: Any, reason: str) -> None:
    assert reason in left_out(prices).reason


@each("name", ["two\nlines", "\x1b[2J", "a\u202eb", "m\n[[models]]\nid = 'x'"])
def test_a_name_that_is_no_line_of_text_becomes_no_setting_and_moves_no_cursor(name: str) -> None:
    named, called = model("m", priced(**PLAIN), name=name), model(name, priced(**PLAIN))
    read = table(named, called).read(["acme"], DAY)
    assert (len(read.entries), len(read.left_out)) == (0, 2)
    text = toml_of(read)
    assert tomllib.loads(text) == {}
    assert all(is_one_line(line) for line in text.splitlines())


@each(
    ("id", "task"),
    [
        ("text-embedding-3-small", "embed"), ("BAAI/bge-m3", "embed"), ("voyage-3.5", "embed"),
        ("rerank-2.5", "score"), ("bge-reranker-v2", "score"),
    ],
)  # fmt: skip
def test_a_model_whose_name_tells_what_it_does_needs_no_price_for_output(id: str, task: str) -> None:
    (entry,) = table(model(id, priced(input_mtok="0.1"))).read(["acme"], DAY).entries
    assert (entry.settings["task"], entry.settings["pricing"]) == (task, {"per_million": True, "prompt": "0.1"})


def test_what_the_table_remarks_stands_beside_the_entry() -> None:
    entry = read(priced(**PLAIN), deprecated=True, price_comments="Half\nprice  in \x1b[2J batches.")
    assert entry.remarks == ("Its provider calls it deprecated.", r"Half price in \x1b[2J batches.")


def test_the_text_tells_the_table_its_date_and_where_to_compare() -> None:
    prices = [ConditionalPrice(prices=priced(**PLAIN)), since(date(2026, 5, 1), **PLAIN)]
    text = toml_of(table(model(prices=prices), pages=["https://acme.example/prices"]).read(["acme"], DAY))
    head = " ".join(line.removeprefix("# ") for line in text.split("\n\n")[0].splitlines())
    assert head.startswith("Prices in force on 2026-11-26 (UTC) by the table genai-prices ")
    assert "whose newest price until then is of 2026-05-01." in head
    assert "https://acme.example/prices" in head
    assert tomllib.loads(text)["models"][0]["pricing"] == {"per_million": True, "prompt": "0.3", "completion": "1.2"}


def two_providers() -> PriceTable:
    both = [model(name, priced(**PLAIN)) for name in ("a-1", "a-2", "org/b", "a[1]")]
    return PriceTable([Provider(id=name, name=name, api_pattern="", models=both) for name in ("acme", "apex")])


@each(
    ("asked", "ids"),
    [
        (["acme"], ["acme/a-1", "acme/a-2", "acme/a[1]", "acme/org/b"]),
        (["acme/a-*", "acme/a-1"], ["acme/a-1", "acme/a-2"]),
        (["apex/org/b", "acme/a-2"], ["acme/a-2", "apex/org/b"]),
        (["acme/a-2", "apex/org/b"], ["acme/a-2", "apex/org/b"]),
        (["acme/*b"], ["acme/org/b"]),
        (["acme/a[1]"], ["acme/a[1]"]),
        (["*/a-1"], ["acme/a-1", "apex/a-1"]),
        (["a*x/a-*"], ["apex/a-1", "apex/a-2"]),
        (["ap*", "apex/a-1"], ["apex/a-1", "apex/a-2", "apex/a[1]", "apex/org/b"]),
    ],
)
def test_providers_and_models_are_chosen_by_name_in_one_order_and_each_once(asked: list[str], ids: list[str]) -> None:
    assert [entry.id for entry in two_providers().read(asked, DAY).entries] == ids


@each(
    ("asked", "said"),
    [
        ("acne", "no provider 'acne'; did you mean acme?"),
        ("", "no provider ''"),
        ("acme/a-3", "acme has no model 'a-3'; did you mean a-2 or a-1"),
        ("acme/zz*", "acme has no model 'zz*'"),
        ("zz*", "no provider 'zz*'"),
        ("*/zz", r"has no model 'zz'"),
    ],
)
def test_a_name_that_is_not_there_is_refused_with_the_nearest(asked: str, said: str) -> None:
    with pytest.raises(NotInTable, match=said.replace("*", r"\*")):
        two_providers().read([asked], DAY)


def imported(*words: str) -> str:
    result = run("prices", "import", *words)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_same_is_written_each_time_to_standard_output_or_a_file(data_dir: Path) -> None:
    words = ("anthropic", "openai/gpt-4o", "--on", "2026-11-26")
    text = imported(*words)
    assert imported(*words) == text == imported("openai/gpt-4o", "openai/gpt-4o", "anthropic", "--on", "2026-11-26")
    assert imported(*words, "--output", "prices.toml") == "wrote prices.toml\n"
    assert (data_dir / "prices.toml").read_text() == text
    assert load_settings(data_dir / "prices.toml", {}).models[-1].id == "openai/gpt-4o"


def test_a_file_that_is_there_is_written_over_only_where_that_is_said(data_dir: Path) -> None:
    (data_dir / "mine.toml").write_text("port = 1")
    words = ("prices", "import", "cohere", "--output", "mine.toml")
    refused = run(*words)
    assert (refused.exit_code, "mine.toml is there already" in refused.stderr) == (USAGE, True)
    assert (data_dir / "mine.toml").read_text() == "port = 1"
    assert run(*words, "--replace").exit_code == 0
    assert "[[models]]" in (data_dir / "mine.toml").read_text()
    unwritable = run("prices", "import", "cohere", "--output", "nowhere/prices.toml")
    assert (unwritable.exit_code, "cannot be written" in unwritable.stderr) == (USAGE, True)


def test_what_was_written_and_what_could_not_be_said_is_summed_up_beside(data_dir: Path) -> None:
    told = run("prices", "import", "anthropic", "openai/whisper-1", "--on", "2026-11-26")
    first, *notes = told.stderr.splitlines()
    assert first.startswith("genai-prices ")
    assert "prices of 2026-11-26: " in first
    assert any(note.startswith("not said of ") and "cache_write_1h_mtok" in note for note in notes)
    assert "not written, 1: it is priced by audio_hours, input_audio_hours" in notes


def test_a_model_that_is_configured_already_is_compared(data_dir: Path) -> None:
    imported("cohere", "openai/gpt-4o", "--output", "gateway.toml")
    text = (data_dir / "gateway.toml").read_text()
    (data_dir / "gateway.toml").write_text(text.replace('prompt = "2.5"\n', 'prompt = "3"\n'))
    again = run("prices", "import", "openai/gpt-4o", "cohere/command-r", "openai/gpt-4o-mini").stderr.splitlines()
    assert [line for line in again if "is configured already" in line] == [
        "cohere/command-r is configured already, at these prices",
        "openai/gpt-4o is configured already, at other prices: 3 USD for a million prompt tokens, "
        "1.25 for those that a cache had, 10 USD for a million completion tokens",
    ]


@each(
    ("words", "said"),
    [
        ((), "say whose prices"),
        (("nobody",), "no provider 'nobody'"),
        (("openai", "--on", "yesterday"), "'yesterday' is no day"),
        (("openai/gpt-4\x1b[2J",), r"gpt-4\x1b[2J"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_line(words: tuple[str, ...], said: str, data_dir: Path) -> None:
    refused = run("prices", "import", *words)
    assert (refused.exit_code, said in refused.stderr, refused.stdout) == (USAGE, True, "")


@pytest.fixture
def without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    monkeypatch.delitem(sys.modules, "mcp_gateway.cli.price_table")
    monkeypatch.delattr(cli, "price_table")


def test_without_the_package_the_command_says_how_to_install_it(without_the_package: None, data_dir: Path) -> None:
    refused = run("prices", "import", "openai")
    assert refused.exit_code == USAGE
    assert "pip install 'mcp-gateway[prices]'" in refused.stderr
