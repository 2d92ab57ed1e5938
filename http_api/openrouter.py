"""The catalog as OpenRouter reads it of a provider: its document of a model, and the older flat one.

A price of nothing is left out of the first, as it is asked to be, and "0" in the second. Knows no request.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from http_api.operations import Absent, Told
from mcp_gateway.core.catalog import Model, OutputKind
from mcp_gateway.core.prices import Price, Rates
from mcp_gateway.core.sent_images import IMAGE_TYPES

ProviderFormat = Literal["openrouter", "openrouter-legacy"]
Quantization = Literal["int4", "int8", "fp4", "mxfp4", "nvfp4", "fp6", "fp8", "mxfp8", "fp16", "bf16", "fp32"]


class ParameterDescriptor(Told):
    """What a parameter may be."""

    type: Literal["range", "integer", "boolean", "enum", "array", "unknown"]
    min: int | Absent = None
    max: int | Absent = None
    values: list[str] | Absent = None
    max_items: int | Absent = None


class TokenLimit(Told):
    """The most tokens."""

    value: int
    unit: Literal["token"]


PriceKind = Literal["prompt", "cached_prompt", "cache_write", "completion"]


class UnitPrice(Told):
    """USD per token, or per image."""

    type: PriceKind
    unit: Literal["token", "image"]
    cost_usd: str


class RequestPrice(Told):
    """USD per request, beside its tokens."""

    type: Literal["request"]
    unit: Literal["request"]
    cost_usd: str


class SupportedInputs(Told):
    """Of text its length, of images how they are sent."""

    max_context_length: TokenLimit | Absent = None
    sources: ParameterDescriptor | Absent = None
    formats: ParameterDescriptor | Absent = None


class InputModality(Told):
    """A kind of input. Images are billed as the tokens that they become, and for themselves where they have a price."""

    type: Literal["text", "image"]
    supported_inputs: SupportedInputs
    pricing: list[UnitPrice] | Absent = None


class OutputModality(Told):
    """What comes of a request, and the parameters that shape it."""

    type: OutputKind
    supported_parameters: dict[str, ParameterDescriptor]
    max_length: TokenLimit | Absent = None
    streaming: bool | Absent = None
    pricing: list[UnitPrice] | Absent = None


class Slug(Told):
    """The name that OpenRouter lists a model by."""

    slug: str


class Datacenter(Told):
    """A country where a model runs."""

    country_code: str


class ProviderModel(Told):
    """A model, as of version 2.4 of the document."""

    schema_version: Literal["2.4"]
    id: str
    name: str
    created: int
    quantization: Quantization | None
    input_modalities: list[InputModality]
    output_modalities: list[OutputModality]
    is_ready: bool
    is_free: bool
    description: str | Absent = None
    pricing: list[RequestPrice] | Absent = None
    hugging_face_id: str | Absent = None
    deprecation_date: str | Absent = None
    openrouter: Slug | Absent = None
    datacenters: list[Datacenter] | Absent = None


class FlatPricing(Told):
    """USD per token, and per request."""

    prompt: str
    completion: str
    image: str
    request: str
    input_cache_read: str | Absent = None


class FlatProviderModel(Told):
    """The same in the flat form, which is still read."""

    id: str
    hugging_face_id: str
    name: str
    created: int
    input_modalities: list[str]
    output_modalities: list[OutputKind]
    quantization: Quantization | None
    context_length: int
    max_output_length: int
    pricing: FlatPricing
    supported_sampling_parameters: list[str]
    supported_features: list[str]
    is_ready: bool
    description: str | Absent = None
    deprecation_date: str | Absent = None
    openrouter: Slug | Absent = None
    datacenters: list[Datacenter] | Absent = None


class ProviderModelList(Told):
    """All models, each in one document."""

    data: list[ProviderModel]


class FlatProviderModelList(Told):
    """All models in the flat form."""

    data: list[FlatProviderModel]


def provider_list(
    models: Iterable[tuple[Model, bool]], form: ProviderFormat, *, takes_urls: bool
) -> ProviderModelList | FlatProviderModelList:
    """The models, each with whether it is served now: what is not ready is kept from OpenRouter's users meanwhile.

    `takes_urls` is whether images may be named by their address.
    """
    if form == "openrouter":
        return ProviderModelList(
            data=[_document(model, is_ready=is_ready, takes_urls=takes_urls) for model, is_ready in models]
        )
    return FlatProviderModelList(data=[_flat(model, is_ready=is_ready) for model, is_ready in models])


def _document(model: Model, *, is_ready: bool, takes_urls: bool) -> ProviderModel:
    own: dict[str, Any] = {"hugging_face_id": model.hugging_face_id} if model.hugging_face_id else {}
    if model.price.request_pico:
        cost_usd = model.price.told(model.price.request_pico)
        own["pricing"] = [RequestPrice(type="request", unit="request", cost_usd=cost_usd)]
    return ProviderModel(
        schema_version="2.4",
        id=model.id,
        name=model.name,
        created=model.created_at_s,
        quantization=_quantization(model),
        input_modalities=_inputs(model, takes_urls=takes_urls),
        output_modalities=[_output(model)],
        is_ready=is_ready,
        is_free=model.price.is_free,
        **_about(model),
        **own,
    )


def _flat(model: Model, *, is_ready: bool) -> FlatProviderModel:
    price, rates = model.price, _rates(model)
    cached = {} if rates.cached_pico is None else {"input_cache_read": price.told(rates.cached_pico)}
    return FlatProviderModel(
        id=model.id,
        hugging_face_id=model.hugging_face_id,
        name=model.name,
        created=model.created_at_s,
        input_modalities=list(model.input_modalities),
        output_modalities=[model.output_kind],
        quantization=_quantization(model),
        context_length=model.context_window,
        max_output_length=model.max_output_tokens,
        pricing=FlatPricing(
            prompt=price.told(rates.prompt_pico),
            completion=price.told(rates.completion_pico),
            image=price.told(price.image_pico),
            request=price.told(price.request_pico),
            **cached,
        ),
        supported_sampling_parameters=list(model.sampling_parameters),
        supported_features=list(model.features),
        is_ready=is_ready,
        **_about(model),
    )


def _about(model: Model) -> dict[str, Any]:
    """What the two forms have alike, and only where the settings tell it."""
    about: dict[str, Any] = {}
    if model.description:
        about["description"] = model.description
    if model.deprecation_date is not None:
        about["deprecation_date"] = model.deprecation_date
    if model.openrouter_slug:
        about["openrouter"] = Slug(slug=model.openrouter_slug)
    if model.datacenters:
        about["datacenters"] = [Datacenter(country_code=code) for code in model.datacenters]
    return about


def _quantization(model: Model) -> Quantization | None:
    """None for what the document has no word for."""
    written = (model.quantization or "").lower()
    return next((known for known in get_args(Quantization) if known == written), None)


def _rates(model: Model) -> Rates:
    """What no request exceeds: neither form has words for other rates above a prompt's length."""
    return model.price.most_rates(model.context_window)


def _prices(
    price: Price, amounts_pico: Mapping[PriceKind, int | None], unit: Literal["token", "image"] = "token"
) -> dict[str, Any]:
    told = [
        UnitPrice(type=kind, unit=unit, cost_usd=price.told(amount)) for kind, amount in amounts_pico.items() if amount
    ]
    return {"pricing": told} if told else {}


# What goes in


def _inputs(model: Model, *, takes_urls: bool) -> list[InputModality]:
    window = SupportedInputs(max_context_length=_tokens(model.context_window))
    rates = _rates(model)
    amounts: dict[PriceKind, int | None] = {
        "prompt": rates.prompt_pico,
        "cached_prompt": rates.cached_pico,
        "cache_write": rates.cache_write_pico,
    }
    text = InputModality(type="text", supported_inputs=window, **_prices(model.price, amounts))
    image = InputModality(
        type="image",
        supported_inputs=_images(takes_urls=takes_urls),
        **_prices(model.price, {"prompt": model.price.image_pico}, "image"),
    )
    return [text, image] if "image" in model.input_modalities else [text]


def _tokens(value: int) -> TokenLimit:
    return TokenLimit(value=value, unit="token")


def _one_of(*values: str) -> ParameterDescriptor:
    return ParameterDescriptor(type="enum", values=list(values))


def _images(*, takes_urls: bool) -> SupportedInputs:
    sources = ("base64", "url") if takes_urls else ("base64",)
    formats = _one_of(*(f"image/{kind}" for kind in IMAGE_TYPES))
    return SupportedInputs(sources=_one_of(*sources), formats=formats)


# What comes out


def _between(low: int, high: int) -> ParameterDescriptor:
    return ParameterDescriptor(type="range", min=low, max=high)


def _whole(low: int | None = None, high: int | None = None) -> ParameterDescriptor:
    bounds: dict[str, Any] = {name: bound for name, bound in (("min", low), ("max", high)) if bound is not None}
    return ParameterDescriptor(type="integer", **bounds)


_SWITCH = ParameterDescriptor(type="boolean")
_ANYTHING = ParameterDescriptor(type="unknown")
_PARAMETERS: dict[str, ParameterDescriptor] = {
    "temperature": _between(0, 2),
    "top_p": _between(0, 1),
    "top_k": _whole(-1),
    "min_p": _between(0, 1),
    "frequency_penalty": _between(-2, 2),
    "presence_penalty": _between(-2, 2),
    "repetition_penalty": _between(0, 2),
    "stop": ParameterDescriptor(type="array", max_items=4),
    "seed": _whole(),
    "logit_bias": _ANYTHING,
}
_PARAMETERS_OF_FEATURE: dict[str, dict[str, ParameterDescriptor]] = {
    "tools": {"tools": _SWITCH, "tool_choice": _ANYTHING, "parallel_tool_calls": _SWITCH},
    "json_mode": {"response_format": _SWITCH},
    "structured_outputs": {"structured_outputs": _SWITCH, "response_format": _SWITCH},
    "logprobs": {"logprobs": _SWITCH, "top_logprobs": _whole(0, 20)},
    "reasoning": {"reasoning": _SWITCH, "reasoning_effort": _one_of("none", "low", "medium", "high")},
}
_OTHER_OUTPUTS: dict[OutputKind, dict[str, ParameterDescriptor]] = {
    "embeddings": {"dimensions": _whole(1), "encoding_format": _one_of("float", "base64")},
    "rerank": {"top_n": _whole(1)},
}


def _output(model: Model) -> OutputModality:
    kind = model.output_kind
    if kind != "text":
        return OutputModality(type=kind, supported_parameters=_OTHER_OUTPUTS[kind])
    parameters = _PARAMETERS | {"max_tokens": _whole(1, model.max_output_tokens)}
    for feature in model.features:
        parameters |= _PARAMETERS_OF_FEATURE[feature]
    return OutputModality(
        type=kind,
        supported_parameters=parameters,
        max_length=_tokens(model.max_output_tokens),
        streaming=True,
        **_prices(model.price, {"completion": _rates(model).completion_pico}),
    )
