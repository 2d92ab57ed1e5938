"""Models: what there is to ask, with prices, abilities and health; the same list as the API's."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal, get_args
from urllib.parse import urlencode

from http_api.console.forms import Form
from http_api.console.serving import Console, Shown
from http_api.exports import at_once, attachment, export
from http_api.models import ModelList, ModelObject, Models, Pricing, TokenPrices
from http_api.operations import Access, Answered, AnyOperation, Asked, Told, written
from http_api.query import AnyQuery
from mcp_gateway.core.caller import User
from mcp_gateway.core.observe.model_days import ModelDay
from mcp_gateway.core.upstream.pool import ModelStatus

MODELS_PATH = "/console/models"
_PAGE_ROWS = 50
_UNTOLD = ModelDay(None, None)
Order = Literal["name", "prompt", "completion", "context", "newest"]
_ORDER_LABELS: dict[Order, str] = {
    "name": "name",
    "prompt": "price of prompts",
    "completion": "price of answers",
    "context": "largest context",
    "newest": "newest",
}


class ModelsFilter(AnyQuery):
    """Which models are shown, and in which order; in that of the API where none is chosen. `after` is an id."""

    text: str | None = None
    ability: str | None = None
    sort: Order | None = None
    after: str | None = None


class ModelRow(Told):
    """A model in one line of a table; prices in USD per token, per request and per image, none where it is free.

    `first_token_ms` is the median of its latest streams, `uptime_percent` of 24 hours; none where they are not told.
    """

    id: str
    name: str
    status: ModelStatus
    context_window: int
    max_output_length: int
    free: bool
    prompt_usd: str | None
    completion_usd: str | None
    input_cache_read_usd: str | None
    input_cache_write_usd: str | None
    request_usd: str | None
    image_usd: str | None
    input_modalities: list[str]
    output_modalities: list[str]
    quantization: str | None
    supported_features: list[str]
    first_token_ms: int | None
    uptime_percent: float | None


@dataclass(frozen=True, slots=True)
class ShownModel:
    """A model with what the list of the API does not tell."""

    told: ModelObject
    status: ModelStatus
    day: ModelDay

    @property
    def is_free(self) -> bool:
        return is_free(self.told.pricing)

    @property
    def can_chat(self) -> bool:
        return can_chat(self.told)


class ModelPages:
    """`are_public` says whether everybody is told of the models, signed in or not, `are_days_public` how they did."""

    def __init__(self, models: Models, *, are_public: bool, are_days_public: bool) -> None:
        self._models = models
        self._are_public = are_public
        self._are_days_public = are_days_public

    def rows(self, console: Console) -> list[AnyOperation]:
        access = Access.PUBLIC if self._are_public else Access.PERSON
        row: dict[str, Any] = {"access": access, "query": ModelsFilter}
        if not self._are_public:
            row["scope"] = "inference"
        return [
            console.page(MODELS_PATH, self.list, **row),
            console.page(f"{MODELS_PATH}.csv", self.table, **row),
            console.page(f"{MODELS_PATH}.json", self.lines, **row),
        ]

    async def list(self, asked: Asked[ModelsFilter, Form]) -> Shown:
        models = self._all(asked)
        query = asked.query
        found = _found(models, query)
        page, is_more = _page(found, query.after)
        kept = {"text": query.text or "", "ability": query.ability or "", "sort": query.sort or ""}
        values = {
            "models": page,
            "found": len(found),
            "more": f"?{urlencode(kept | {'after': page[-1].told.id})}" if is_more else None,
            "filter": kept,
            "export": f"?{urlencode(kept)}",
            "abilities": sorted({ability for model in models for ability in model.told.supported_features}),
            "orders": _ORDER_LABELS.items(),
            "is_person": isinstance(asked.caller.principal, User),
        }
        return Shown("models.html", values, part="table")

    async def table(self, asked: Asked[ModelsFilter, Form]) -> Answered[bytes]:
        rows = [_row(model) for model in _found(self._all(asked), asked.query)]
        told = export("models", "csv", ModelRow, at_once(rows))
        return Answered(b"".join([piece async for piece in told.pieces]), None, told.headers, told.media_type)

    async def lines(self, asked: Asked[ModelsFilter, Form]) -> Answered[bytes]:
        """As the API's list has them."""
        data = [model.told for model in _found(self._all(asked), asked.query)]
        body = written(ModelList(object="list", data=data))
        return Answered(body, None, (attachment("models.json"),), "application/json")

    def _all(self, asked: Asked[ModelsFilter, Form]) -> Sequence[ShownModel]:
        models = [ShownModel(*told) for told in self._models.told(asked.caller)]
        if self._are_days_public or isinstance(asked.caller.principal, User):
            return models
        return [replace(model, day=_UNTOLD) for model in models]


def can_chat(model: ModelObject) -> bool:
    return "text" in model.output_modalities


def chatting_models(models: Models, asked: Asked[Any, Any]) -> list[ModelObject]:
    """Those that the reader may chat with, in the order of the API."""
    return [model for model in models.objects(asked.caller) if can_chat(model)]


def is_free(pricing: Pricing) -> bool:
    """Whether nothing is charged, whatever is asked: such a model has no price."""
    rates: list[TokenPrices] = [pricing, *(pricing.tiers or ())]
    of_tokens = (one for rate in rates for one in (rate.prompt, rate.completion, *_of_caches(rate)))
    return all(amount is None or not Decimal(amount) for amount in (*of_tokens, pricing.request, pricing.image))


def _of_caches(rates: TokenPrices) -> tuple[str | None, str | None]:
    return rates.input_cache_read, rates.input_cache_write


_KEYS: dict[Order, Callable[[ShownModel], Any]] = {
    "name": lambda model: model.told.name.casefold(),
    "prompt": lambda model: Decimal(model.told.pricing.prompt),
    "completion": lambda model: Decimal(model.told.pricing.completion),
    "context": lambda model: -model.told.context_length,
    "newest": lambda model: -model.told.created,
}
assert set(_KEYS) == set(get_args(Order))


def _found(models: Iterable[ShownModel], query: ModelsFilter) -> Sequence[ShownModel]:
    words = (query.text or "").casefold().split()
    found = [
        model
        for model in models
        if all(word in _text_of(model) for word in words)
        and (query.ability is None or query.ability in model.told.supported_features)
    ]
    return found if query.sort is None else sorted(found, key=_KEYS[query.sort])


def _text_of(model: ShownModel) -> str:
    return f"{model.told.id} {model.told.name} {model.told.description}".casefold()


def _page(found: Sequence[ShownModel], after: str | None) -> tuple[Sequence[ShownModel], bool]:
    """Those behind a model, and whether there are more; from the first on where it is gone."""
    ids = [model.told.id for model in found]
    start = ids.index(after) + 1 if after in ids else 0
    return found[start : start + _PAGE_ROWS], len(found) > start + _PAGE_ROWS


def _row(model: ShownModel) -> ModelRow:
    told, pricing = model.told, model.told.pricing
    return ModelRow(
        id=told.id,
        name=told.name,
        status=model.status,
        context_window=told.context_window,
        max_output_length=told.max_output_length,
        free=model.is_free,
        prompt_usd=None if model.is_free else pricing.prompt,
        completion_usd=None if model.is_free else pricing.completion,
        input_cache_read_usd=pricing.input_cache_read,
        input_cache_write_usd=pricing.input_cache_write,
        request_usd=pricing.request,
        image_usd=pricing.image,
        input_modalities=told.input_modalities,
        output_modalities=list(told.output_modalities),
        quantization=told.quantization,
        supported_features=told.supported_features,
        first_token_ms=model.day.first_token_ms,
        uptime_percent=model.day.up_percent,
    )
