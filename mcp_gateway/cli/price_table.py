"""The table of the package `genai-prices`, as entries of our settings: what its models cost on a day.

Knows the shapes of the package, which it alone imports, and what of them a price of ours can say. What it cannot say
is named and never guessed.
"""

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import genai_prices
from genai_prices.data import providers
from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, Provider, StartDateConstraint, TieredPrices
from genai_prices.types import TimeOfDateConstraint as Hours
from pydantic import ValidationError

from mcp_gateway.cli.price_entries import ImportedPrices, ModelLeftOut, NotInTable, PricedModel
from mcp_gateway.core.config import RATES, ModelSettings
from mcp_gateway.core.money import MILLION_TOKENS
from mcp_gateway.core.prices import Price, Rates, Tier, as_fields, dearest
from mcp_gateway.core.text import nearest, shown

_RATE_KEYS = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")
"""The table's names for our rates, in their order: USD for a million tokens."""
_FEE_KEY = "requests_kcount"
"""USD for a thousand requests."""
_PICO_EXPONENTS = {**dict.fromkeys(_RATE_KEYS, 6), _FEE_KEY: 9}
"""What takes each of these to pico-USD, for a token or a request, as a power of ten."""
_FEES = ("request", "image")
_SCORES = ("rerank",)
_EMBEDS = ("embed", "bge-", "gte-", "voyage-")
"""In the id of a model that neither the table nor anybody else says the task of."""
_MAX_LINE_CHARS = 1000


class CannotSay(Exception):
    """Our settings have no words for what a model costs; the text is why."""


class PriceTable:
    """What `providers` ask."""

    def __init__(self, providers: Sequence[Provider] = providers) -> None:
        self._providers = {provider.id: provider for provider in providers}

    def in_words(self) -> str:
        """The providers, with how many models each has."""
        return ", ".join(f"{name} ({len(provider.models)})" for name, provider in self._providers.items())

    def read(self, asked: Sequence[str], on: date) -> ImportedPrices:
        """What is asked for, each PROVIDER or PROVIDER/MODEL. Raises NotInTable."""
        chosen = sorted({found for one in asked for found in self._found(one)})
        models = {(name, model.id): model for name, provider in self._providers.items() for model in provider.models}
        read = [_read(name, models[name, model], on) for name, model in chosen]
        pages = (self._providers[name].pricing_urls or () for name in dict.fromkeys(name for name, _ in chosen))
        return ImportedPrices(
            table=f"genai-prices {genai_prices.__version__}",
            on=on,
            newest=self._newest(on),
            pages=tuple(shown(page) for of_one in pages for page in of_one),
            entries=tuple(one for one in read if isinstance(one, PricedModel)),
            left_out=tuple(one for one in read if isinstance(one, ModelLeftOut)),
        )

    def _found(self, asked: str) -> list[tuple[str, str]]:
        """Provider and model, by the table's names."""
        name, _, model = asked.partition("/")
        if not (names := _matching(self._providers, name)):
            raise NotInTable(f"the table has no provider '{shown(name)}'{_meant(name, self._providers)}")
        ids = {one: [of_one.id for of_one in self._providers[one].models] for one in names}
        found = [(one, found) for one in names for found in _matching(ids[one], model or "*")]
        if not found:
            likely = _meant(model, (one for of_one in ids.values() for one in of_one))
            raise NotInTable(f"{shown(name)} has no model '{shown(model)}'{likely}")
        return found

    def _newest(self, on: date) -> date | None:
        """The latest day, until this one, from which there is some price: the table tells no date of its own."""
        models = (model for provider in self._providers.values() for model in provider.models)
        starts = (_start_of(condition) for model in models for condition in _listed(model))
        return max((day for day in starts if day is not None and day <= on), default=None)


def _matching(names: Iterable[str], asked: str) -> list[str]:
    """The name itself, or else those that it is a pattern of."""
    known = list(names)
    return [asked] if asked in known else fnmatch.filter(known, asked)


def _meant(written: str, known: Iterable[str]) -> str:
    likely = nearest(written, known, most=3)
    return f"; did you mean {' or '.join(likely)}?" if likely else ""


def _read(provider_id: str, model: ModelInfo, on: date) -> PricedModel | ModelLeftOut:
    """What a model costs on a day, as our settings say it."""
    public_id = f"{provider_id}/{model.id}"
    try:
        in_force, task = _in_force(model, on), _task(model.id)
        price = dearest([_price(prices, generates=task is None) for prices in in_force])
        settings = _settings(model, public_id, price, task)
        ModelSettings.model_validate(settings)
    except CannotSay as fault:
        return ModelLeftOut(shown(public_id), _line(str(fault)))
    except ValidationError as fault:
        faults = (error["msg"] for error in fault.errors(include_input=False))
        return ModelLeftOut(shown(public_id), _line("; ".join(faults)))
    notes, remarks = _not_said(model, in_force, on), _remarks(model)
    return PricedModel(settings, tuple(map(_line, notes)), tuple(map(_line, remarks)))


def _line(text: str) -> str:
    return shown(" ".join(text.split()), _MAX_LINE_CHARS)


def _listed(model: ModelInfo) -> list[ConditionalPrice]:
    """Its prices with the days or hours of each; of those in force the last counts."""
    prices = model.prices
    return [ConditionalPrice(prices=prices)] if isinstance(prices, ModelPrice) else prices


def _start_of(condition: ConditionalPrice) -> date | None:
    return condition.constraint.start_date if isinstance(condition.constraint, StartDateConstraint) else None


def _in_force(model: ModelInfo, on: date) -> list[ModelPrice]:
    """The prices of a day, which may change by the hour, each once."""
    conditions = _listed(model)
    if not conditions:
        raise CannotSay("the table has no price")
    hours = [condition.constraint for condition in conditions if isinstance(condition.constraint, Hours)]
    borders = {time(), *(_by_utc(at) for one in hours for at in (one.start_time, one.end_time))}
    found: list[ModelPrice] = []
    for at in sorted(borders):
        prices = model.get_prices(datetime.combine(on, at, UTC))
        if prices not in found:
            found.append(prices)
    return found


def _by_utc(at: time) -> time:
    """As the package reads it: without an offset by UTC."""
    return datetime.combine(date(2000, 1, 2), at, at.tzinfo or UTC).astimezone(UTC).time()


def _given(prices: ModelPrice) -> Mapping[str, Any]:
    return {key: value for key, value in vars(prices).items() if value is not None and not key.startswith("_")}


def _price(prices: ModelPrice, *, generates: bool) -> Price:
    given = _given(prices)
    if not given:
        raise CannotSay("the table has no price")
    if "input_mtok" not in given:
        raise CannotSay(f"it is priced by {', '.join(sorted(given))}")
    if generates and "output_mtok" not in given:  # what it makes may not be given away because the table is silent
        raise CannotSay("it has no price for output, and its name does not tell that it embeds or scores")
    starts = sorted({tier.start for key in _RATE_KEYS for tier in _tiers(given.get(key)) if tier.start > 0})
    return Price(
        *_rates_at(given, 1),
        request_pico=_fee_pico(given),
        tiers=tuple(Tier(start, _rates_at(given, start + 1)) for start in starts),
    )


def _tiers(value: object) -> Iterable[Any]:
    return value.tiers if isinstance(value, TieredPrices) else ()


def _rates_at(given: Mapping[str, Any], prompt_tokens: int) -> Rates:
    prompt, completion, cached, write = (_rate_pico(given, key, prompt_tokens) for key in _RATE_KEYS)
    return Rates(prompt or 0, completion or 0, cached, write)


def _rate_pico(given: Mapping[str, Any], key: str, prompt_tokens: int) -> int | None:
    """For a token of a request whose prompt has so many."""
    amounts = [tier.price for tier in _tiers(given.get(key)) if prompt_tokens > tier.start]
    amount = amounts[-1] if amounts else _base(given.get(key))
    return None if amount is None else _whole(_pico(key, amount))


def _fee_pico(given: Mapping[str, Any]) -> int:
    fee = given.get(_FEE_KEY)
    return 0 if fee is None else _whole(_pico(_FEE_KEY, fee))


def _base(value: Any) -> Any:
    return value.base if isinstance(value, TieredPrices) else value


def _pico(key: str, amount: object) -> Decimal:
    if not isinstance(amount, Decimal) or not amount.is_finite() or amount < 0:
        raise CannotSay(f"its {key} is no price that can be said")
    return amount.scaleb(_PICO_EXPONENTS[key])


def _whole(pico: Decimal) -> int:
    """The nearest amount that can be said, and never nothing for something."""
    nearest = int(pico.to_integral_value(ROUND_HALF_EVEN))
    return nearest or int(pico > 0)


def _settings(model: ModelInfo, public_id: str, price: Price, task: str | None) -> dict[str, Any]:
    named = {"name": (model.name or "").strip(), "context_window": model.context_window, "task": task}
    pricing = {"per_million": True, **as_fields(price, RATES, _FEES, MILLION_TOKENS)}
    if task is not None and pricing["completion"] == "0":
        del pricing["completion"]
    told = {name: value for name, value in named.items() if value}
    return {"id": public_id, "backend_model": model.id, **told, "pricing": pricing}


def _task(model_id: str) -> str | None:
    name = model_id.lower()
    if any(mark in name for mark in _SCORES):
        return "score"
    return "embed" if any(mark in name for mark in _EMBEDS) else None


def _not_said(model: ModelInfo, in_force: Sequence[ModelPrice], on: date) -> Iterator[str]:
    """What the entry does not say, in the table's own names."""
    if len(in_force) > 1:
        yield "other prices by the hour, of which these are the dearest"
    yield from _units_without_a_field(in_force)
    for key, given in [(key, _given(prices)) for prices in in_force for key in _PICO_EXPONENTS]:
        if not _is_exact(key, given):
            yield f"finer than a pico-USD a token, so it is rounded: {key} = {_told(given[key])}"
    if variants := [one for one in model.price_variants or () if _differs(one.prices, in_force)]:
        whens = (", ".join(f"{name}={value}" for name, value in one.when.items()) for one in variants)
        yield f"other prices for {'; '.join(dict.fromkeys(whens))}"
    if later := [day for day in map(_start_of, _listed(model)) if day is not None and day > on]:
        yield f"other prices from {min(later).isoformat()}"


def _units_without_a_field(in_force: Sequence[ModelPrice]) -> Iterator[str]:
    for key in dict.fromkeys(key for prices in in_force for key in _given(prices)):
        if key not in _PICO_EXPONENTS:
            amounts = dict.fromkeys(_told(_given(prices)[key]) for prices in in_force if key in _given(prices))
            yield f"{key} = {' or '.join(amounts)}"


def _differs(variant: ModelPrice, in_force: Sequence[ModelPrice]) -> bool:
    """Whether it asks for anything other than the standard prices: some variants only repeat these."""
    return any(not _given(variant).items() <= _given(prices).items() for prices in in_force)


def _told(value: object) -> str:
    return f"{value.base} and more by length" if isinstance(value, TieredPrices) else str(value)


def _is_exact(key: str, given: Mapping[str, Any]) -> bool:
    amounts = [_base(given.get(key)), *(tier.price for tier in _tiers(given.get(key)))]
    return all(amount is None or _pico(key, amount) % 1 == 0 for amount in amounts)


def _remarks(model: ModelInfo) -> Iterator[str]:
    if model.deprecated:
        yield "Its provider calls it deprecated."
    if model.price_comments:
        yield model.price_comments
