"""GET /v1/models?format=openrouter: what a buyer reads of a provider, held to the rules of its schema."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator

from mcp_gateway.core.config import Settings
from tests.cases import each
from tests.replaying import ReplayingBackend
from tests.serving import FREE, PRICED, Door, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
RICH = PRICED | {
    "id": "org/big:latest",
    "name": "Big",
    "description": "A big one.",
    "max_output_tokens": 1024,
    "quantization": "FP8",
    "features": ["tools", "json_mode", "structured_outputs", "logprobs", "reasoning"],
    "input_modalities": ["text", "image"],
    "hugging_face_id": "org/Big-24B",
    "openrouter_slug": "org/big",
    "deprecation_date": "2027-06-30",
    "datacenters": ["DE", "US"],
}
EMBED = {
    "id": "e",
    "backend_model": "tiny",
    "task": "embed",
    "quantization": "awq",
    "pricing": {"prompt": "0.002"},
}
SCORE = {"id": "s", "backend_model": "tiny", "task": "score", "pricing": {"prompt": "0"}}
HALF = {"id": "h", "backend_model": "tiny", "pricing": {"prompt": "0", "completion": "0.0000007"}}
DEAR = {
    "id": "w",
    "backend_model": "tiny",
    "input_modalities": ["text", "image"],
    "pricing": {
        "prompt": "0.000001", "completion": "0.000003", "cached_prompt": "0.0000001", "cache_write": "0.00000125",
        "request": "0.00001", "image": "0.002",
        "tiers": [
            {"above_prompt_tokens": 1000, "prompt": "0.000002", "completion": "0.000006"},
            {"above_prompt_tokens": 10**6, "prompt": "0.001", "completion": "0.001"},
        ],
    },
}  # fmt: skip
ABSENT = {"id": "a", "backend_model": "absent", "free": True}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    models = [FREE, RICH, EMBED, SCORE, HALF, DEAR, ABSENT]
    async with (
        ReplayingBackend() as backend,
        open_door(tmp_path_factory.mktemp("openrouter"), vllm_urls=[backend.url], models=models) as door,
    ):
        yield door
        await door.nothing_is_left()


async def documents(door: Door, form: str = "openrouter", prefix: str = "/v1") -> dict[str, dict[str, Any]]:
    """By the model's id."""
    answer = (await door.get(f"{prefix}/models?format={form}")).json()
    assert answer.keys() == {"data"}
    return {document["id"]: document for document in answer["data"]}


# The rules of version 2.4 of the document, as far as this gateway has anything to say by them


def closed(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object of these members and no others."""
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


def listed(item: dict[str, Any], least: int = 0) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": least}


def only(*words: str) -> dict[str, Any]:
    return {"enum": list(words)}


TEXT, NUMBER, SWITCH, WHOLE = {"type": "string"}, {"type": "number"}, {"type": "boolean"}, {"type": "integer"}
POSITIVE = {"type": "integer", "minimum": 1, "maximum": 2**53 - 1}
UNIT = only("second", "pixel", "byte", "token", "character")
LIMIT = closed({"value": POSITIVE}, {"unit": UNIT})
BOUNDED = {"min": NUMBER, "max": NUMBER, "unit": UNIT}
DEFAULT = {"default": {"type": ["string", "number", "boolean"]}}
PARAMETER = {
    "oneOf": [
        closed({"type": only("range", "integer")}, BOUNDED | DEFAULT),
        closed({"type": only("boolean", "unknown")}, DEFAULT),
        closed({"type": only("enum"), "values": listed({"type": ["string", "number"]})}, DEFAULT),
        closed({"type": only("array")}, {"max_items": POSITIVE} | DEFAULT),
    ]
}
PARAMETERS = {"type": "object", "additionalProperties": PARAMETER}


def price(*kinds: str, unit: str = "token") -> dict[str, Any]:
    cost = {"type": "string", "pattern": r"^\d+(\.\d+)?$"}
    return closed({"type": only(*kinds), "unit": only(unit), "cost_usd": cost})


def chosen(*words: str) -> dict[str, Any]:
    return closed({"type": only("enum"), "values": listed(only(*words), least=1)})


FORMATS = chosen("image/png", "image/jpeg", "image/webp", "image/gif")
INPUT = {
    "oneOf": [
        closed(
            {"type": only("text")},
            {
                "supported_inputs": closed({}, {"max_context_length": LIMIT}),
                "pricing": listed(price("prompt", "cached_prompt", "cache_write"), 1),
            },
        ),
        closed(
            {"type": only("image")},
            {
                "supported_inputs": closed({}, {"sources": chosen("url", "base64"), "formats": FORMATS}),
                "pricing": listed(price("prompt", unit="image"), 1),
            },
        ),
    ]
}
OUTPUT = {
    "oneOf": [
        closed(
            {"type": only("text"), "supported_parameters": PARAMETERS},
            {"max_length": LIMIT, "streaming": SWITCH, "pricing": listed(price("completion"), 1)},
        ),
        closed({"type": only("embeddings", "rerank"), "supported_parameters": PARAMETERS}),
    ]
}
QUANTIZATIONS = ("int4", "int8", "fp4", "mxfp4", "nvfp4", "fp6", "fp8", "mxfp8", "fp16", "bf16", "fp32", None)
ABOUT = {
    "description": TEXT,
    "deprecation_date": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
    "openrouter": closed({"slug": TEXT}),
    "datacenters": listed(closed({"country_code": {"type": "string", "pattern": "^[A-Z]{2}$"}}), 1),
}
CURRENT = Draft202012Validator(
    closed(
        {
            "schema_version": only("2.4"), "id": TEXT, "name": TEXT,
            "input_modalities": listed(INPUT, 1), "output_modalities": listed(OUTPUT, 1),
        },
        ABOUT | {
            "created": WHOLE, "quantization": {"enum": list(QUANTIZATIONS)}, "hugging_face_id": TEXT,
            "is_ready": SWITCH, "is_free": SWITCH, "pricing": listed(price("request", unit="request"), 1),
        },
    )
)  # fmt: skip
SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "top_a", "frequency_penalty", "presence_penalty", "repetition_penalty",
    "stop", "seed", "max_tokens", "logit_bias",
)  # fmt: skip
PER_UNIT = {"type": "string", "pattern": r"^\d+(\.\d+)?$"}
FLAT = Draft202012Validator(
    closed(
        {
            "id": TEXT, "hugging_face_id": TEXT, "name": TEXT, "created": WHOLE,
            "input_modalities": listed(only("text", "image", "file", "audio", "video"), 1),
            "output_modalities": listed(only("text", "embeddings", "rerank"), 1),
            "quantization": {"enum": list(QUANTIZATIONS)}, "context_length": POSITIVE, "max_output_length": POSITIVE,
            "pricing": closed(
                {"prompt": PER_UNIT, "completion": PER_UNIT, "image": PER_UNIT, "request": PER_UNIT},
                {"input_cache_read": PER_UNIT},
            ),
            "supported_sampling_parameters": listed(only(*SAMPLING)),
            "supported_features": listed(
                only("tools", "json_mode", "structured_outputs", "logprobs", "web_search", "reasoning")
            ),
        },
        ABOUT | {"is_ready": SWITCH},
    )
)  # fmt: skip


@each(("form", "schema"), [("openrouter", CURRENT), ("openrouter-legacy", FLAT)])
async def test_every_model_is_told_by_the_rules_of_the_document(
    door: Door, form: str, schema: Draft202012Validator
) -> None:
    for prefix in ("/v1", "/api/v1/inference"):
        told = await documents(door, form, prefix)
        assert told.keys() == {"free/tiny", "org/big:latest", "e", "s", "h", "w", "a"}
        for document in told.values():
            schema.validate(document)


@each(
    "change",
    [
        {"schema_version": "2.3"}, {"name": 5}, {"input_modalities": []}, {"quantization": "awq"}, {"extra": 1},
        {"input_modalities": [{"type": "text", "pricing": []}]}, {"datacenters": [{"country_code": "de"}]},
        {"output_modalities": [{"type": "text"}]}, {"deprecation_date": "soon"}, {"is_free": None},
        {"input_modalities": [{"type": "text", "pricing": [{"type": "prompt", "unit": "token", "cost_usd": "1e-7"}]}]},
        {"output_modalities": [{"type": "text", "supported_parameters": {"n": {"type": "integer", "values": ["1"]}}}]},
    ],
)  # fmt: skip
async def test_a_document_that_breaks_a_rule_is_found(door: Door, change: dict[str, Any]) -> None:
    document = (await documents(door))["org/big:latest"]
    assert CURRENT.is_valid(document)
    assert not CURRENT.is_valid(document | change)


async def test_a_model_is_told_with_its_window_prices_and_abilities(door: Door) -> None:
    rich = (await documents(door))["org/big:latest"]
    text, image = rich["input_modalities"]
    assert text["supported_inputs"] == {"max_context_length": {"value": 2048, "unit": "token"}}
    assert text["pricing"] == [{"type": "prompt", "unit": "token", "cost_usd": "0.0000003"}]
    assert image["supported_inputs"]["sources"]["values"] == ["base64"]
    (output,) = rich["output_modalities"]
    assert (output["streaming"], output["max_length"]) == (True, {"value": 1024, "unit": "token"})
    assert output["pricing"] == [{"type": "completion", "unit": "token", "cost_usd": "0.0000007"}]
    parameters = output["supported_parameters"]
    assert parameters["temperature"] == {"type": "range", "min": 0, "max": 2}
    assert parameters["max_tokens"] == {"type": "integer", "min": 1, "max": 1024}
    assert {"tools", "response_format", "structured_outputs", "logprobs", "reasoning"} <= parameters.keys()
    about = ("name", "quantization", "hugging_face_id", "deprecation_date", "is_ready", "is_free")
    assert [rich[name] for name in about] == ["Big", "fp8", "org/Big-24B", "2027-06-30", True, False]
    assert (rich["openrouter"], rich["datacenters"]) == (
        {"slug": "org/big"},
        [{"country_code": "DE"}, {"country_code": "US"}],
    )


async def test_a_price_of_nothing_is_left_out_and_what_the_settings_do_not_tell_too(door: Door) -> None:
    told = await documents(door)
    half, free = told["h"], told["free/tiny"]
    assert ("pricing" in half["input_modalities"][0], "pricing" in half["output_modalities"][0]) == (False, True)
    assert (half["is_free"], free["is_free"]) == (False, True)
    assert "pricing" not in json.dumps(free)
    assert not {"description", "hugging_face_id", "deprecation_date", "openrouter", "datacenters"} & free.keys()


async def test_a_model_that_embeds_or_scores_is_told_as_that_and_has_no_price_for_its_output(door: Door) -> None:
    told = await documents(door)
    assert [told[name]["output_modalities"][0]["type"] for name in "es"] == ["embeddings", "rerank"]
    assert all("pricing" not in told[name]["output_modalities"][0] for name in "es")
    assert told["e"]["quantization"] is None
    flat = await documents(door, "openrouter-legacy")
    assert [flat[name]["output_modalities"] for name in "es"] == [["embeddings"], ["rerank"]]
    listed = {one["id"]: one for one in (await door.get("/v1/models")).json()["data"]}
    assert [listed[name]["output_modalities"] for name in "es"] == [["embeddings"], ["rerank"]]
    for told_in in (flat, listed):
        assert told_in["e"]["supported_features"] == told_in["e"]["supported_sampling_parameters"] == []
    assert "temperature" in listed["h"]["supported_sampling_parameters"]


async def test_a_model_that_nobody_serves_is_not_ready(door: Door) -> None:
    for form in ("openrouter", "openrouter-legacy"):
        told = await documents(door, form)
        assert (told["a"]["is_ready"], told["h"]["is_ready"]) == (False, True)


async def test_the_flat_form_has_prices_as_texts_of_usd_for_one_token(door: Door) -> None:
    flat = await documents(door, "openrouter-legacy")
    assert flat["org/big:latest"]["pricing"] == {
        "prompt": "0.0000003", "completion": "0.0000007", "image": "0", "request": "0"
    }  # fmt: skip
    assert (flat["org/big:latest"]["context_length"], flat["org/big:latest"]["max_output_length"]) == (2048, 1024)
    assert (flat["h"]["hugging_face_id"], flat["org/big:latest"]["hugging_face_id"]) == ("", "org/Big-24B")


@each("query", ["format=OpenRouter", "format=xml", "format=", "format=openrouter&format=openrouter"])
async def test_another_form_is_refused_by_name(door: Door, query: str) -> None:
    response = await door.get(f"/v1/models?{query}")
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_value")
    assert error_of(response)["param"] == "format"


async def test_the_lists_of_other_clients_stay_as_they_were(door: Door) -> None:
    plain = await door.get("/v1/models")
    assert (await door.get("/v1/models?limit=5&after=x")).content == plain.content
    anthropic = await door.http.get("/v1/models", headers={"anthropic-version": "2023-06-01"})
    assert "has_more" in anthropic.json()


@each(
    ("field", "value"),
    [
        ("deprecation_date", "30.6.2027"), ("deprecation_date", "20270630"), ("deprecation_date", "2027-02-30"),
        ("deprecation_date", 20270630), ("deprecation_date", ""), ("datacenters", ["de"]), ("datacenters", ["DEU"]),
        ("datacenters", ["Germany"]), ("hugging_face_id", "a\nb"), ("openrouter_slug", "a\nb"),
    ],
)  # fmt: skip
async def test_what_the_settings_tell_of_a_model_must_be_of_its_form(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        Settings.model_validate({"models": [{"id": "m", "free": True, field: value}]})


async def test_all_that_a_price_says_is_told_and_of_tiers_what_no_request_exceeds(door: Door) -> None:
    """The second tier begins above the model's window, and so is no request's."""
    document = (await documents(door))["w"]
    text, image = document["input_modalities"]
    assert {price["type"]: price["cost_usd"] for price in text["pricing"]} == {
        "prompt": "0.000002", "cached_prompt": "0.000002", "cache_write": "0.000002",
    }  # fmt: skip
    assert image["pricing"] == [{"type": "prompt", "unit": "image", "cost_usd": "0.002"}]
    assert document["output_modalities"][0]["pricing"][0]["cost_usd"] == "0.000006"
    assert document["pricing"] == [{"type": "request", "unit": "request", "cost_usd": "0.00001"}]
    assert (await documents(door, "openrouter-legacy"))["w"]["pricing"] == {
        "prompt": "0.000002", "completion": "0.000006", "image": "0.002", "request": "0.00001",
        "input_cache_read": "0.000002",
    }  # fmt: skip
