"""The catalog as OpenRouter reads it of a provider: its document of a model, and the older flat one.

A price of nothing is left out of the first, as it is asked to be, and "0" in the second. Knows no request.
"""

from collections.abc import Iterable
from typing import Any, Literal, get_args

from http_api.operations import Absent, Told
from mcp_gateway.core.catalog import SAMPLING_PARAMETERS, Model
from mcp_gateway.core.money import format_price

ProviderFormat = Literal["openrouter", "openrouter-legacy"]
Quantization = Literal["int4", "int8", "fp4", "mxfp4", "nvfp4", "fp6", "fp8", "mxfp8", "fp16", "bf16", "fp32"]
OutputKind = Literal["text", "embeddings", "rerank"]
_OUTPUT_OF_TASK: dict[str | None, OutputKind] = {"embed": "embeddings", "score": "rerank"}
"""Of a model that is there for that alone; any other generates text."""


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


class TokenPrice(Told):
    """USD per token."""

    type: Literal["prompt", "completion"]
    unit: Literal["token"]
    cost_usd: str


class SupportedInputs(Told):
    """Of text its length, of images how they are sent."""

    max_context_length: TokenLimit | Absent = None
    sources: ParameterDescriptor | Absent = None
    formats: ParameterDescriptor | Absent = None


class InputModality(Told):
    """A kind of input. Images are billed as the prompt's tokens that they become."""

    type: Literal["text", "image"]
    supported_inputs: SupportedInputs
    pricing: list[TokenPrice] | Absent = None


class OutputModality(Told):
    """What comes of a request, and the parameters that shape it."""

    type: OutputKind
    supported_parameters: dict[str, ParameterDescriptor]
    max_length: TokenLimit | Absent = None
    streaming: bool | Absent = None
    pricing: list[TokenPrice] | Absent = None


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
    models: Iterable[tuple[Model, bool]], form: ProviderFormat
) -> ProviderModelList | FlatProviderModelList:
    """The models, each with whether it is served now: what is not ready is kept from OpenRouter's users meanwhile."""
    if form == "openrouter":
        return ProviderModelList(data=[_document(model, is_ready=is_ready) for model, is_ready in models])
    return FlatProviderModelList(data=[_flat(model, is_ready=is_ready) for model, is_ready in models])


def _document(model: Model, *, is_ready: bool) -> ProviderModel:
    identity: dict[str, Any] = {"hugging_face_id": model.hugging_face_id} if model.hugging_face_id else {}
    return ProviderModel(
        schema_version="2.4",
        id=model.id,
        name=model.name,
        created=model.created_at_s,
        quantization=_quantization(model),
        input_modalities=_inputs(model),
        output_modalities=[_output(model)],
        is_ready=is_ready,
        is_free=model.price.is_free,
        **_about(model),
        **identity,
    )


def _flat(model: Model, *, is_ready: bool) -> FlatProviderModel:
    prompt, completion = format_price(model.price.prompt_pico), format_price(model.price.completion_pico)
    return FlatProviderModel(
        id=model.id,
        hugging_face_id=model.hugging_face_id,
        name=model.name,
        created=model.created_at_s,
        input_modalities=list(model.input_modalities),
        output_modalities=[_kind(model)],
        quantization=_quantization(model),
        context_length=model.context_window,
        max_output_length=model.max_output_tokens,
        pricing=FlatPricing(prompt=prompt, completion=completion, image="0", request="0"),
        supported_sampling_parameters=list(SAMPLING_PARAMETERS) if _kind(model) == "text" else [],
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


def _kind(model: Model) -> OutputKind:
    return _OUTPUT_OF_TASK.get(model.task, "text")


def _quantization(model: Model) -> Quantization | None:
    """None for what the document has no word for."""
    written = (model.quantization or "").lower()
    return next((known for known in get_args(Quantization) if known == written), None)


def _prices(kind: Literal["prompt", "completion"], price_pico: int) -> dict[str, Any]:
    if not price_pico:
        return {}
    return {"pricing": [TokenPrice(type=kind, unit="token", cost_usd=format_price(price_pico))]}


# What goes in


def _inputs(model: Model) -> list[InputModality]:
    window = SupportedInputs(max_context_length=_tokens(model.context_window))
    text = InputModality(type="text", supported_inputs=window, **_prices("prompt", model.price.prompt_pico))
    return [text, _IMAGE] if "image" in model.input_modalities else [text]


def _tokens(value: int) -> TokenLimit:
    return TokenLimit(value=value, unit="token")


def _one_of(*values: str) -> ParameterDescriptor:
    return ParameterDescriptor(type="enum", values=list(values))


_IMAGE = InputModality(
    type="image",
    supported_inputs=SupportedInputs(
        sources=_one_of("base64"), formats=_one_of("image/png", "image/jpeg", "image/webp", "image/gif")
    ),
)
"""As policy/images.py takes them: addresses are not fetched."""


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
    kind = _kind(model)
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
        **_prices("completion", model.price.completion_pico),
    )
