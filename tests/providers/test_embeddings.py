"""Embeddings of providers: vectors pass as they came, the prompt alone is billed, and nobody learns whose account."""

from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from mcp_gateway.core.dialects.embeddings_openai import EmbeddingsToOpenAi
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.provider_settings import presets
from mcp_gateway.core.surfaces.embeddings import EMBEDDINGS
from mcp_gateway.core.surfaces.surface import Ask
from tests.cases import each
from tests.providers.doubles import PROMPT, Cohere, Generic, Google, Mistral, OpenAi, Refusal
from tests.providers.kinds import sweep
from tests.providers.surface_doubles import BASE64, VECTOR, WITH_EMBEDDINGS
from tests.providers.test_candidates import choice_of
from tests.providers.test_contract import door_to, received_nothing_of_the_caller, tells_nothing_of_the_operator
from tests.serving import Door, error_of
from tests.turns import turns_during

each_kind = sweep("kind", WITH_EMBEDDINGS, ids=lambda kind: kind.__name__)
COST_NANO = -(-PROMPT * 500_000 // 1000)
TO_OPENAI = EmbeddingsToOpenAi(presets()["openai"])


def manner_of(kind: type[Generic]) -> Generic:
    return kind(embeddings=WITH_EMBEDDINGS[kind]())


async def embed(door: Door, key: str, **fields: Any) -> httpx2.Response:
    return await door.post(orjson.dumps({"model": "sold/model", "input": "a"} | fields), key, "/v1/embeddings")


def asked(**fields: Any) -> Ask:
    return EMBEDDINGS.read({"model": "public/name", "input": "a"} | fields, 60)


@each_kind
async def test_vectors_come_in_openais_form_at_the_price_of_the_prompt(kind: type[Generic], tmp_path: Path) -> None:
    async with door_to(manner_of(kind), tmp_path, task="embed") as (door, double, key):
        response = await embed(door, key, input=["a", "b"], encoding_format="float", user="someone")
        assert response.status_code == 200, response.text
        told, is_told = response.json(), kind is not Google
        assert (told["object"], told["model"]) == ("list", "sold/model")
        assert [(one["index"], tuple(one["embedding"])) for one in told["data"]] == [(0, VECTOR), (1, VECTOR)]
        assert told.keys() == {"object", "data", "model", "usage"}
        record = await door.record(response)
        if is_told:
            assert told["usage"] == {"prompt_tokens": PROMPT, "total_tokens": PROMPT}
            assert (record["cost_nano"], record["backend"]) == (COST_NANO, double.manner.kind)
        received_nothing_of_the_caller(double, key)
        tells_nothing_of_the_operator(response)


@each_kind
async def test_base64_is_asked_for_where_a_caller_does(kind: type[Generic], tmp_path: Path) -> None:
    """As OpenAI's SDK for Python does by itself, which reads numbers as well."""
    async with door_to(manner_of(kind), tmp_path) as (door, double, key):
        response = await embed(door, key, encoding_format="base64")
        assert response.json()["data"][0]["embedding"] == (list(VECTOR) if kind is Google else BASE64)
        assert double.asked[0].body["encoding_format"] == "base64"


async def test_what_tells_no_usage_is_billed_by_policy(tmp_path: Path) -> None:
    async with door_to(manner_of(Google), tmp_path) as (door, _, key):
        response = await embed(door, key, input="a" * 300)
        record = await door.record(response)
        assert response.json()["usage"]["prompt_tokens"] == record["prompt_tokens"] > 0
        ((policy,),) = await door.rows("SELECT policy FROM missing_usages WHERE id = ?", record["id"])
        assert policy == "estimate"


async def test_a_number_of_dimensions_has_the_name_that_a_provider_has_for_it(tmp_path: Path) -> None:
    async with door_to(manner_of(Mistral), tmp_path) as (door, double, key):
        assert (await embed(door, key, dimensions=3)).status_code == 200
        assert double.asked[0].body == {"model": "m-1", "input": "a", "output_dimension": 3}


REFUSED: list[dict[str, Any]] = [
    {"dimensions": 3},
    {"input": ["a"] * 97},
    {"input": [1, 2]},
    {"input": [[1, 2], [3]]},
    {"input": [[1] * 9000]},
    {"messages": [{"role": "user", "content": "a"}], "input": None},
]


async def test_what_a_provider_has_not_is_refused_before_it_is_asked(tmp_path: Path) -> None:
    async with door_to(manner_of(Cohere), tmp_path) as (door, double, key):
        for more in REFUSED:
            response = await embed(door, key, **more)
            assert (response.status_code, error_of(response)["code"]) == (400, "unsupported_parameter")
            assert error_of(response)["param"] == next(iter(more))
        assert double.asked == []


async def test_token_ids_go_to_who_reads_them(tmp_path: Path) -> None:
    manners = [manner_of(Cohere), manner_of(OpenAi)]
    async with choice_of(tmp_path, {}, {}, manners=manners) as (door, doubles):
        key = await door.key(credit="10")
        for ids in ([1, 2, 3], [[1] * 9000, [2]]):
            assert (await embed(door, key, input=ids)).status_code == 200
            assert doubles[1].asked[-1].body["input"] == ids
        assert doubles[0].asked == []
        assert (await embed(door, key, input=["a"] * 96)).status_code == 200
        assert len(doubles[0].asked) == 1


async def test_a_refusal_names_the_field_that_was_too_long(tmp_path: Path) -> None:
    async with door_to(manner_of(OpenAi), tmp_path) as (door, double, key):
        message = b"This model's maximum context length is 8192 tokens, however you requested 9000 tokens."
        double.refusal = Refusal(400, b'{"error":{"message":"%b","type":"invalid_request_error"}}' % message)
        response = await embed(door, key)
        assert (error_of(response)["code"], error_of(response)["param"]) == ("context_length_exceeded", "input")


VECTORS = orjson.dumps([{"object": "embedding", "index": 0, "embedding": [0.1] * 60_000}])
LONG_TEXT = orjson.dumps([{"object": "embedding", "index": 0, "embedding": "A" * 250_000}] * 3)


@each("data", [b'[{"embedding":[-0.006929283495992422]}]', VECTORS, LONG_TEXT])
@each("kind", [bytes, bytearray])
@each("before", [b"", b'"id":"x","object":"list",', b'\n  "object": "list",\n  '])
async def test_vectors_pass_to_the_byte(data: bytes, kind: type[bytes], before: bytes) -> None:
    body = b'{%b"data": %b, "model": "m-1", "meta": {"a": [1]}, "usage": {"prompt_tokens": 7, "total_tokens": 7}}'
    whole = await TO_OPENAI.read(kind(body % (before, data)), asked())
    tail = b',"model":"public/name","usage":{"prompt_tokens":7,"total_tokens":7}}'
    assert bytes(whole.body) == b'{"object":"list","data":' + data + tail
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.is_usage_exact) == (7, True)


@each(
    "body",
    [
        b"", b"{}", b"[]", b"null", b'{"data":[]}', b'{"data":null,"object":"list"}', b'{"data":[{"embedding":[1',
        b'{"data":[{"embedding":[1]}]', b'{"data":[{"embedding":[1]}],"error":{"message":"x"}}', b"<html>",
        b'{"error":{"message":"x"}}', b'{"success":false,"errors":[{"code":1}]}', b'["data":[{}]]',
        b'["x",{"data":[{}]}]', b'[{"data":[{}],"error":{"message":"x"}}]',
        b'{"data":[{"embedding":[1]}],"more":"' + b"x" * 70_000 + b'"}', b"x" * 70_000,
    ],
)  # fmt: skip
async def test_what_are_no_vectors_is_the_providers_failure(body: bytes) -> None:
    with pytest.raises(GatewayError, match="backend_error"):
        await TO_OPENAI.read(body, asked())


@each(
    ("usage", "tokens"),
    [
        (b'{"prompt_tokens":7,"total_tokens":7}', 7), (b'{"total_tokens":7}', 7), (b'{"prompt_tokens":7}', 7),
        (b'{"prompt_tokens":5,"total_tokens":7}', 7), (b'{"prompt_tokens":"7","total_tokens":7.0}', 7),
        (b'{"prompt_tokens":0,"total_tokens":0}', None), (b'{"total_tokens":-7}', None), (b"null", None),
        (b'{"total_tokens":true}', None), (b'{"prompt_tokens":null,"total_tokens":null}', None), (b"[7]", None),
    ],
)  # fmt: skip
async def test_a_prompt_is_what_a_usage_tells_of_it_or_of_all(usage: bytes, tokens: int | None) -> None:
    body = b'{"data":[{"embedding":[1]}],"usage":%b}' % usage
    whole = await TO_OPENAI.read(body, asked())
    assert (None if whole.usage is None else whole.usage.prompt_tokens) == tokens
    assert whole.is_usage_exact is (tokens is not None)
    assert (b'"usage"' in whole.body) is (tokens is not None)


@each("vector", [[0.1] * 3072, "A" * 16_384, [1]])
async def test_others_have_turns_while_a_long_answer_is_looked_through(vector: Any) -> None:
    one = orjson.dumps({"object": "embedding", "index": 0, "embedding": vector})
    listed = b",".join([one] * (3 * 2**20 // len(one)))
    body = bytearray(b'{"data":[%b],"usage":{"total_tokens":7}}' % listed)
    assert await turns_during(TO_OPENAI.read(body, asked())) >= 2


async def test_the_tool_over_mcp_has_them_too(tmp_path: Path) -> None:
    async with door_to(manner_of(Mistral), tmp_path, task="embed") as (door, double, key):
        told = (await door.call("embeddings", key, model="sold/model", input=["a", "b"])).json()["result"]
        assert not told.get("isError"), told
        assert [tuple(one) for one in told["structuredContent"]["embeddings"]] == [VECTOR, VECTOR]
        assert double.asked[0].body.keys() <= {"model", "input", "encoding_format"}
