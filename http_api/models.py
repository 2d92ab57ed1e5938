"""GET /models, /models/{id} and /models/{id}/health."""

from typing import Literal
from urllib.parse import unquote

from http_api.operations import Asked, Nothing, Told
from http_api.query import AnyQuery
from http_api.routes import unknown_url
from mcp_gateway.core.catalog import SAMPLING_PARAMETERS, Model, Published
from mcp_gateway.core.money import format_price
from mcp_gateway.core.upstream.pool import ModelStatus, Pool

ModelAsked = Asked[AnyQuery, Nothing]


class Pricing(Told):
    """USD per token."""

    prompt: str
    completion: str


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
    output_modalities: list[str]
    quantization: str | None
    pricing: Pricing
    supported_sampling_parameters: list[str]
    supported_features: list[str]
    guests: bool


class ModelList(Told):
    """All models, in OpenAI's shape, which has no pages."""

    object: Literal["list"]
    data: list[ModelObject]


class ModelHealth(Told):
    """`loading` until every backend was asked."""

    model: str
    status: ModelStatus


class Models:
    def __init__(self, published: Published, pool: Pool) -> None:
        self._published = published
        self._pool = pool

    async def list(self, asked: ModelAsked) -> ModelList:
        return ModelList(object="list", data=[model_object(model) for model in self._published.current.values()])

    async def get(self, asked: ModelAsked) -> ModelObject:
        return model_object(self._published.current.find(_model_id(asked)))

    async def health(self, asked: ModelAsked) -> ModelHealth:
        model = self._published.current.find(_model_id(asked))
        return ModelHealth(model=model.id, status=self._pool.status_of(model))


def model_object(model: Model) -> ModelObject:
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
        output_modalities=["text"],
        quantization=model.quantization,
        pricing=Pricing(
            prompt=format_price(model.price.prompt_pico), completion=format_price(model.price.completion_pico)
        ),
        supported_sampling_parameters=list(SAMPLING_PARAMETERS),
        supported_features=list(model.features),
        guests=model.is_open_to_guests,
    )


def _model_id(asked: ModelAsked) -> str:
    """An id may have slashes, which SDKs send as they are or as `%2F`. Raises GatewayError where there is none."""
    if not asked.path["model_id"].strip("/"):
        raise unknown_url(asked.scope["path"], [asked.scope["path"].rstrip("/")])
    return unquote(asked.path["model_id"])
