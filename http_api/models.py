"""GET /models, /models/{id} and /models/{id}/health."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal
from urllib.parse import unquote

from pydantic import RootModel

from http_api.anthropic import VERSION
from http_api.moments import rfc_3339
from http_api.openrouter import FlatProviderModelList, ProviderFormat, ProviderModelList, provider_list
from http_api.operations import Absent, Asked, Nothing, Told
from http_api.query import AnyQuery
from http_api.routes import unknown_url
from mcp_gateway.core.caller import Caller
from mcp_gateway.core.catalog import Model, OutputKind, Published
from mcp_gateway.core.observe.model_days import ModelDay, ModelDays
from mcp_gateway.core.optimization import AUTO
from mcp_gateway.core.prices import Price, as_fields
from mcp_gateway.core.routing.auto_model import AutoModel
from mcp_gateway.core.upstream.pool import ModelStatus, Pool

ModelAsked = Asked[AnyQuery, Nothing]
_RATES = ("prompt", "completion", "input_cache_read", "input_cache_write")
_USUAL_TOKENS = 1000
"""Of a prompt and its answer, by which prices are compared."""
_FEES = ("request", "image")
"""OpenRouter's words for what a price has, in its order."""


class ModelsQuery(AnyQuery):
    """In which other form the list is wanted."""

    format: ProviderFormat | None = None
    provider: str | None = None
    """Lists what this source of answers has, at its prices."""


class TokenPrices(Told):
    """USD per token; what a cache had, or was written to one, costs what the rest does unless it is told."""

    prompt: str
    completion: str
    input_cache_read: str | Absent = None
    input_cache_write: str | Absent = None


class PriceTier(TokenPrices):
    """Of all tokens of a request whose prompt is longer."""

    above_prompt_tokens: int


class Pricing(TokenPrices):
    """In OpenRouter's words: USD per token, and for each request and image where those cost something."""

    request: str | Absent = None
    image: str | Absent = None
    tiers: list[PriceTier] | Absent = None


class ModelObject(Told):
    """OpenAI's four fields, and OpenRouter's flat provider format beside them."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    name: str
    description: str
    context_window: int
    context_length: int
    max_output_length: int
    input_modalities: list[str]
    output_modalities: list[OutputKind]
    quantization: str | None
    pricing: Pricing
    pricing_from: Pricing | Absent = None
    """The cheapest of several candidates, where they cost otherwise; `pricing` is the most that any may cost."""
    served_by: str | Absent = None
    """The source of answers that is asked first: a provider, or `vllm`. It is not told of `auto`."""
    supported_sampling_parameters: list[str]
    supported_features: list[str]
    guests: bool


class ModelList(Told):
    """All models, in OpenAI's shape, which has no pages."""

    object: Literal["list"]
    provider: str | Absent = None
    """Whose they are, where one was asked for."""
    data: list[ModelObject]


class AnthropicModel(Told):
    """A model as Anthropic's API tells of one."""

    type: Literal["model"]
    id: str
    display_name: str
    created_at: str
    max_input_tokens: int
    max_tokens: int


class AnthropicModelList(Told):
    """All models by all their names, on one page."""

    data: list[AnthropicModel]
    has_more: Literal[False]
    first_id: str | None
    last_id: str | None


class ModelAnswer(RootModel[ModelObject | AnthropicModel]):
    """In the shape of the client's API: Anthropic's where it sends `anthropic-version`."""


class ModelListAnswer(RootModel[ModelList | AnthropicModelList | ProviderModelList | FlatProviderModelList]):
    """The same of all models, or as `format` has them; OpenAI's list has each by its id alone."""


class ModelHealth(Told):
    """`loading` until every backend was asked."""

    model: str
    status: ModelStatus


class Models:
    def __init__(
        self, published: Published, auto: AutoModel, pool: Pool, days: ModelDays, *, takes_image_urls: bool
    ) -> None:
        self._published = published
        self._auto = auto
        self._pool = pool
        self._days = days
        self._takes_image_urls = takes_image_urls

    async def list(self, asked: Asked[ModelsQuery, Nothing]) -> ModelListAnswer:
        provider = asked.query.provider
        models = self._models_of(provider, asked.context.caller)
        if (form := asked.query.format) is not None:
            states = ((model, self._pool.status_of(model) == "ready") for model in models)
            return ModelListAnswer(provider_list(states, form, takes_urls=self._takes_image_urls))
        if provider is None and (auto := self._auto.seen_by(asked.context.caller)):
            models = [*models, auto]
        if VERSION in asked.context.sent:
            return ModelListAnswer(_anthropic_list(models))
        return ModelListAnswer(_listed(models, provider))

    def objects(self, caller: Caller | None) -> Sequence[ModelObject]:
        """Each model of the list as a caller has it."""
        return [model_object(model) for model in self._all(caller)]

    def told(self, caller: Caller | None) -> Sequence[tuple[ModelObject, ModelStatus, ModelDay]]:
        """The same, each with its health now and in the last day."""
        return [
            (model_object(model), self._pool.status_of(model), self._days.of(model.id)) for model in self._all(caller)
        ]

    async def get(self, asked: ModelAsked) -> ModelAnswer:
        name = _model_id(asked)
        model = self._auto.find(asked.context.caller, name)
        is_anthropic = VERSION in asked.context.sent
        return ModelAnswer(_anthropic_model(model, name) if is_anthropic else model_object(model))

    async def health(self, asked: ModelAsked) -> ModelHealth:
        """It reads no key: of `auto` it is that of the settings' pool."""
        model = self._auto.find(None, _model_id(asked))
        return ModelHealth(model=model.id, status=self._pool.status_of(model))

    def _all(self, caller: Caller | None) -> Sequence[Model]:
        auto = self._auto.seen_by(caller)
        return [*self._models_of(None, caller), *([auto] if auto else [])]

    def _models_of(self, provider: str | None, caller: Caller | None) -> Collection[Model]:
        """Without `auto`, which no provider has."""
        catalog = self._published.seen_by(caller)
        if provider is None:
            return catalog.values()
        self._published.check_source(provider)
        return catalog.of(provider)


def model_object(model: Model) -> ModelObject:
    price = model.price
    return ModelObject(
        id=model.id,
        object="model",
        created=model.created_at_s,
        owned_by=model.owned_by,
        name=model.name,
        description=model.description,
        context_window=model.context_window,
        context_length=model.context_window,
        max_output_length=model.max_output_tokens,
        input_modalities=list(model.input_modalities),
        output_modalities=[model.output_kind],
        quantization=model.quantization,
        pricing=Pricing(**as_fields(price, _RATES, _FEES)),
        **_of_its_offers(model, price),
        supported_sampling_parameters=list(model.sampling_parameters),
        supported_features=list(model.features),
        guests=model.is_open_to_guests,
    )


def _listed(models: Iterable[Model], provider: str | None) -> ModelList:
    data = [model_object(model) for model in models]
    if provider is None:
        return ModelList(object="list", data=data)
    return ModelList(object="list", provider=provider, data=data)


def _of_its_offers(model: Model, most: Price) -> dict[str, Any]:
    """No least price where all candidates cost the same."""
    told: dict[str, Any] = {} if model.id == AUTO else {"served_by": model.offers[0].source}
    prices = [offer.price for offer in model.offers]
    least = min(prices, key=lambda price: price.most_nano(_USUAL_TOKENS, _USUAL_TOKENS))
    return told if least == most else told | {"pricing_from": Pricing(**as_fields(least, _RATES, _FEES))}


def _anthropic_list(models: Iterable[Model]) -> AnthropicModelList:
    """Claude Code passes over ids that begin with neither `claude` nor `anthropic`, so aliases are told here too."""
    data = [_anthropic_model(model, name) for model in models for name in (model.id, *model.aliases)]
    first_id, last_id = (data[0].id, data[-1].id) if data else (None, None)
    return AnthropicModelList(data=data, has_more=False, first_id=first_id, last_id=last_id)


def _anthropic_model(model: Model, name: str) -> AnthropicModel:
    return AnthropicModel(
        type="model",
        id=name,
        display_name=model.name,
        created_at=rfc_3339(model.created_at_s),
        max_input_tokens=model.context_window,
        max_tokens=model.max_output_tokens,
    )


def _model_id(asked: ModelAsked) -> str:
    """An id may have slashes, which SDKs send as they are or as `%2F`. Raises GatewayError where there is none."""
    if not asked.path["model_id"].strip("/"):
        raise unknown_url(asked.scope["path"], [asked.scope["path"].rstrip("/")])
    return unquote(asked.path["model_id"])
