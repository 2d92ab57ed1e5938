"""The models that callers may ask for: names, abilities, prices. Knows no request.

A catalog is built from the configuration and from what the backends list, and is replaced whole when either changes.
"""

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.config import CandidateSettings, Choice, ModelSettings, Task
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.optimization import AUTO
from mcp_gateway.core.prices import FREE, Price, dearest, in_words
from mcp_gateway.core.text import SHOWN_CHARS, nearest, shown

OutputKind = Literal["text", "embeddings", "rerank"]
_OUTPUT_OF_TASK: dict[Task | None, OutputKind] = {"embed": "embeddings", "score": "rerank"}
"""Of a model that is there for that alone; any other generates text."""
_SAMPLING_PARAMETERS = (
    "temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty",
    "stop", "seed", "max_tokens", "logit_bias",
)  # fmt: skip
_MOST_VIEWS = 1000
"""Of one catalog; what is asked for after that is made anew."""
_MOST_DISCOVERED = 2000
"""Of all backends together."""
_MAX_LOGGED_CHARS = 2000
_COMPARED_NAMES = 200
"""An unknown name is compared with the first of these, each of which takes tens of microseconds."""
_UNKNOWN_CONTEXT = 8192
"""Assumed for a model that neither the configuration nor a backend gives a context for."""
UNKNOWN_WINDOW_TOKENS = 16_000_000
"""Of a backend whose window nobody tells: more than any has, and little enough to reckon with."""


VLLM, DEMO = "vllm", "demo"
"""Sources of answers: the vLLM servers of the settings, or the demo in their place; and the demo of test keys. The
others are the providers, by their names."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A model at a source of answers: the name that it has there, and what it costs."""

    source: str
    name: str
    price: Price
    weight: int = 1
    """Its share of requests among the offers of a model, where these are chosen by weight."""

    def with_margin(self, margin: int) -> "Offer":
        """For an account that pays so many hundredths of a percent more."""
        return Offer(self.source, self.name, self.price.with_margin(margin), self.weight)


@dataclass(frozen=True, slots=True)
class Listing:
    """One row of a backend's /v1/models."""

    id: str
    owned_by: str
    max_model_len: int | None
    template_tokens: int | None = None
    """The prompt of the shortest chat, by the backend's own count: what its chat template adds to any."""


Listings = Mapping[str, Sequence[Listing]]
"""By the backends' name of the model, the row of each backend that lists it."""


@dataclass(frozen=True, slots=True)
class Model:
    """A published model."""

    id: str
    offers: tuple[Offer, ...]
    """Which may answer for it, in the order of the settings."""
    name: str
    description: str
    owned_by: str
    created_at_s: int
    context_window: int
    max_output_tokens: int
    quantization: str | None
    features: tuple[str, ...]
    input_modalities: tuple[str, ...]
    aliases: tuple[str, ...]
    """Further names by which it is asked for."""
    is_open_to_guests: bool
    task: Task | None = None
    """What it is asked for alone; None for whatever its backends serve."""
    hugging_face_id: str = ""
    openrouter_slug: str = ""
    deprecation_date: str | None = None
    """In ISO 8601."""
    datacenters: tuple[str, ...] = ()
    """Codes of countries."""
    configured_window: int = 0
    """What the settings tell; 0 where they tell none."""
    widest_window: int = 0
    """What a prompt may have where nothing holds it to `context_window`."""
    template_tokens: int | None = None
    """What the chat template adds to a prompt at most, where a backend has told."""
    is_window_known: bool = True
    """Whether the settings, or all backends that have it, tell one."""
    is_window_narrowed: bool = False
    """Whether a backend's own window is larger, so that it takes what `context_window` forbids."""
    choose: Choice = "order"
    """By what the offer is chosen that is asked first."""
    is_output_capped: bool = False
    """Whether `max_output_tokens` is less than what a backend would generate by itself."""
    price: Price = field(init=False, compare=False)
    """What it costs at most, whoever answers; callers are told this."""
    output_kind: OutputKind = field(init=False, compare=False)
    """What it makes, in OpenRouter's words."""

    def __post_init__(self) -> None:
        # worked out once: a choice among many models asks each for both
        object.__setattr__(self, "price", dearest([offer.price for offer in self.offers]))
        object.__setattr__(self, "output_kind", _OUTPUT_OF_TASK.get(self.task, "text"))

    @property
    def sampling_parameters(self) -> tuple[str, ...]:
        """Parameters that shape a text; none of what makes another thing."""
        return _SAMPLING_PARAMETERS if self.output_kind == "text" else ()

    def at(self, source: str) -> "Model | None":
        """With the offers of one source alone; None where that has none."""
        offers = tuple(offer for offer in self.offers if offer.source == source)
        return replace(self, offers=offers) if offers else None

    def is_among(self, names: Set[str]) -> bool:
        """Whether its id or an alias is one of these."""
        return not names.isdisjoint((self.id, *self.aliases))

    def with_margin(self, margin: int) -> "Model":
        """As an account has it that pays so many hundredths of a percent more."""
        return replace(self, offers=tuple(offer.with_margin(margin) for offer in self.offers))


class Catalog(Mapping[str, Model]):
    """Published models by public id, in a stable order; `unpriced` are the ids that lack a price to be published."""

    def __init__(self, models: Iterable[Model] = (), unpriced: Iterable[str] = ()) -> None:
        self._models = {model.id: model for model in models}
        self._named = {name: model for model in self._models.values() for name in (*model.aliases, model.id)}
        self._at_sources = _named_at_sources(self._models.values())
        self.unpriced = tuple(unpriced)

    def __getitem__(self, model_id: str) -> Model:
        return self._models[model_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def with_margin(self, margin: int) -> "Catalog":
        """As an account has it that pays so many hundredths of a percent more."""
        return Catalog((model.with_margin(margin) for model in self._models.values()), self.unpriced)

    def only(self, names: Set[str]) -> "Catalog":
        """The models that have an id or an alias among these."""
        return Catalog(model for model in self._models.values() if model.is_among(names))

    def named(self, name: str) -> Model | None:
        """The model of that id or alias."""
        return self._named.get(name)

    def find(self, model_id: str) -> Model:
        """The model of that id or alias. Raises GatewayError `model_not_found` with the closest names."""
        model = self._named.get(model_id) or self._at_sources.get(model_id)
        if model is None:
            compared = {name.lower(): name for name in islice(self._named, _COMPARED_NAMES)}
            close = nearest(model_id[:SHOWN_CHARS].lower(), compared, most=3, likeness=0.4)
            meant = ", ".join(compared[name] for name in close)
            hint = f" Did you mean {meant}?" if close else " GET /v1/models lists what there is."
            message = f"There is no model '{shown(model_id)}'.{hint}"
            raise GatewayError("model_not_found", message, param="model")
        return model

    def find_at(self, source: str, model_id: str) -> Model:
        """The same, as one source of answers has it, by its name there too. Raises GatewayError `model_not_found`."""
        model = self._at_sources.get(f"{source}/{model_id}") or self.find(model_id)
        at_source = model.at(source)
        if at_source is None:
            message = f"There is no model '{shown(model_id)}' of {source}. GET /v1/models?provider={source} lists them."
            raise GatewayError("model_not_found", message, param="model")
        return at_source

    def of(self, source: str) -> list[Model]:
        """What one source of answers has, as it has it."""
        return [own for model in self._models.values() if (own := model.at(source)) is not None]


def _named_at_sources(models: Collection[Model]) -> dict[str, Model]:
    """Models as one source has them, by its name before theirs: those by their names there first, of the first entry.

    The vLLM servers' names are nobody's way to ask: they have others, and `find_at`.
    """
    offered = [(model, offer) for model in models for offer in model.offers if offer.source not in (VLLM, DEMO)]
    named: dict[str, Model] = {}
    for model, offer in offered:
        named.setdefault(f"{offer.source}/{offer.name}", replace(model, offers=(offer,)))
    for model, offer in offered:
        at_source = model.at(offer.source) or model
        for name in (model.id, *model.aliases):
            named.setdefault(f"{offer.source}/{name}", at_source)
    return named


class Published:
    """The catalog in force; holders read `current` at each use, since it is replaced when backends change.

    It is told to everybody, unless `is_public` is false. `sources` are the names by which callers may ask for one.
    """

    def __init__(self, *, is_public: bool = True, sources: Sequence[str] = (VLLM,)) -> None:
        self._is_public = is_public
        self.sources = tuple(sources)
        self.current = Catalog()
        """At the prices of the settings."""
        self._views: dict[tuple[int, frozenset[str] | None], Catalog] = {}
        """As accounts see it that pay more, and keys that may ask for some models alone."""
        self._listeners: list[Callable[[], None]] = []

    def check_reader(self, caller: Caller) -> None:
        """Raises GatewayError `missing_credentials` for a guest where only holders of a key are told the models."""
        if caller.is_guest and not self._is_public:
            raise GatewayError("missing_credentials", "Send an API key: the models are told to holders of one.")

    def seen_by(self, caller: Caller | None) -> Catalog:
        """What the caller may ask for at the prices that it pays, or all at those of the settings for nobody known."""
        if caller is None or (not caller.margin and caller.models is None):
            return self.current
        return self._view(caller.margin, caller.models)

    def open_to(self, models: frozenset[str] | None) -> Catalog:
        """What a key may ask for that was made for these models, at the prices of the settings."""
        return self.current if models is None else self._view(0, models)

    def _view(self, margin: int, names: frozenset[str] | None) -> Catalog:
        view = margin, names
        seen = self._views.get(view)
        if seen is None:
            if len(self._views) >= _MOST_VIEWS:
                self._views.clear()
            seen = self._views[view] = self._seen(*view)
        return seen

    def found_at(self, source: str | None, caller: Caller, model_id: str) -> Model:
        """What a caller asks for, of one source or, for None, of whichever has it.

        Raises GatewayError `model_not_found`, or `invalid_value` for a source that there is not.
        """
        if source is None:
            return self.seen_by(caller).find(model_id)
        self.check_source(source)
        return self.seen_by(caller).find_at(source, model_id)

    def check_source(self, name: str) -> None:
        """Raises GatewayError `invalid_value`, which names the sources that there are, for another."""
        if name not in self.sources:
            there = ", ".join(self.sources)
            raise GatewayError("invalid_value", f"There is no provider '{shown(name)}': {there}.", param="provider")

    def _seen(self, margin: int, names: frozenset[str] | None) -> Catalog:
        catalog = self.current if names is None else self.current.only(names)
        return catalog.with_margin(margin) if margin else catalog

    def replace(self, catalog: Catalog) -> None:
        is_changed = list(catalog.items()) != list(self.current.items())
        self.current = catalog
        self._views.clear()
        if is_changed:
            for listener in self._listeners:
                listener()

    def on_change(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)


def build_catalog(
    entries: Sequence[ModelSettings],
    listings: Listings,
    *,
    publish_discovered: bool,
    demo: Container[str] = (),
    created_at_s: Callable[[str], int] = lambda _: 0,
) -> Catalog:
    """The catalog of configured `entries` and of what backends list (by backend name of the model).

    Without any entry everything listed is published under its own name and free; with entries only when
    `publish_discovered` says so. Once an entry has a price, one without must say that it is free: a price that was
    forgotten would be a gift. So must one of a provider in any case, and only what the `demo` has (by backend name) may
    go without.
    """
    is_sold = any(source.pricing is not None for entry in entries for source in entry.sources)
    wanted = [*entries, *(_discovered(entries, listings) if publish_discovered or not entries else ())]
    models, unpriced = [], []
    for entry in wanted:
        if not entry.free and any(_lacks_price(source, demo, is_sold=is_sold) for source in entry.sources):
            unpriced.append(entry.id)
        else:
            rows = [row for name in _backend_names(entry) for row in listings.get(name, ())]
            models.append(_model(entry, rows, created_at_s(entry.id)))
    return Catalog(models, unpriced)


def warnings_of(catalog: Catalog) -> set[str]:
    """What an operator should know, in words: of prices, and of windows, since a hold is made for the one known."""
    warnings = set()
    if catalog.unpriced:
        names = shown(", ".join(catalog.unpriced), _MAX_LOGGED_CHARS)
        warnings.add(f"models not published, having neither a price nor free = true ({len(catalog.unpriced)}): {names}")
    for model in catalog.values():
        if not model.is_window_known:
            if not model.price.is_free:
                warnings.add(f"neither the settings nor a backend tell the window of {model.id}, which has a price")
        elif model.is_window_narrowed:
            warnings.add(
                f"the window of {model.id} is {model.context_window}, and its backend's {model.widest_window}: "
                "prompts that may exceed it are counted by the backend first"
            )
    return warnings


def is_model_id(name: str) -> bool:
    """Whether a backend's name of a model can be its public one: it stands in paths and in lists of names."""
    return not any(map(str.isspace, name))


def price_line(model: Model) -> str:
    """What a model costs, for people, who think in millions of tokens."""
    return f"{model.id} costs {in_words(model.price)}"


def _backend_names(entry: ModelSettings) -> list[str]:
    """The names that it has at the vLLM servers."""
    return [source.backend_model for source in entry.sources if not source.provider]


def _lacks_price(source: CandidateSettings, demo: Container[str], *, is_sold: bool) -> bool:
    if source.pricing is not None:
        return False
    return bool(source.provider) or (is_sold and source.backend_model not in demo)


def _discovered(entries: Sequence[ModelSettings], listings: Listings) -> list[ModelSettings]:
    """Entries for what backends list and nobody configured, but for one whose name stands for any model."""
    taken = {AUTO} | {name for entry in entries for name in (entry.id, *entry.aliases, *_backend_names(entry))}
    found = [name for name in sorted(listings) if name not in taken and is_model_id(name)]
    return [ModelSettings(id=name) for name in found[:_MOST_DISCOVERED]]


def _model(entry: ModelSettings, rows: Sequence[Listing], created_at_s: int) -> Model:
    """The backends may disagree, and any of them may serve: all can do what is told, and one may do what is billed.

    A provider tells none of that, and what it generates by itself is not known: its answers always have a limit.
    """
    sources = entry.sources
    is_free = entry.free or all(source.pricing is None for source in sources)
    has_provider = any(source.provider for source in sources)
    listed = [row.max_model_len for row in rows if row.max_model_len is not None]
    context = entry.context_window or min(listed, default=_UNKNOWN_CONTEXT)
    is_known = bool(entry.context_window or (rows and len(listed) == len(rows) and not has_provider))
    templates = [row.template_tokens for row in rows if row.template_tokens is not None]
    return Model(
        id=entry.id,
        offers=tuple(_offer(source) for source in sources),
        name=entry.name or entry.id,
        description=entry.description,
        owned_by=rows[0].owned_by if rows else "gateway",
        created_at_s=created_at_s,
        context_window=context,
        max_output_tokens=min(entry.max_output_tokens or context, context, *listed),
        quantization=entry.quantization,
        features=entry.features if entry.task in (None, "generate") else (),
        input_modalities=entry.input_modalities,
        aliases=entry.aliases,
        is_open_to_guests=(is_free and not has_provider) if entry.guests is None else entry.guests,
        task=entry.task,
        hugging_face_id=entry.hugging_face_id,
        openrouter_slug=entry.openrouter_slug,
        deprecation_date=entry.deprecation_date,
        datacenters=entry.datacenters,
        configured_window=entry.context_window or 0,
        widest_window=max([context, *listed]) if is_known else UNKNOWN_WINDOW_TOKENS,
        template_tokens=None if has_provider else max(templates, default=None),
        is_window_known=is_known,
        is_window_narrowed=context < max(listed, default=0),
        choose=entry.choose,
        is_output_capped=has_provider or entry.max_output_tokens is not None or context < max(listed, default=0),
    )


def _offer(source: CandidateSettings) -> Offer:
    price = FREE if source.pricing is None else source.pricing.price
    return Offer(source.provider or VLLM, source.backend_model, price, source.weight)
