"""POST /v1/embeddings: every form of input, paid by the prompt's tokens alone; what a model is there for."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from tests.captured import captured
from tests.cases import each
from tests.replaying import Asked, ReplayingBackend, replayed, silence, whole
from tests.serving import FREE, Door, error_of, open_door
from tests.stage import staged
from tests.surfaces import Embeddings

pytestmark = [pytest.mark.gateways, pytest.mark.asyncio(loop_scope="module")]

PATH = "/v1/embeddings"
EMBED: dict[str, Any] = {
    "id": "embed/tiny",
    "backend_model": "tiny",
    "context_window": 2048,
    "task": "embed",
    "pricing": {"prompt": "0.0000003"},
}
CHAT = {"id": "chat/tiny", "backend_model": "tiny", "task": "generate", "free": True}
Stage = tuple[Door, ReplayingBackend]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with (
        ReplayingBackend() as backend,
        open_door(tmp_path_factory.mktemp("embeddings"), vllm_urls=[backend.url], models=[FREE, EMBED, CHAT]) as door,
    ):
        yield door, backend
        await door.nothing_is_left()


def body_of(**fields: Any) -> bytes:
    return orjson.dumps({"model": "embed/tiny", "input": "hello world"} | fields)


def cost_nano(prompt_tokens: int) -> int:
    return prompt_tokens * 300


async def paid(door: Door, response: httpx2.Response) -> tuple[int, int, int]:
    record = await door.record(response)
    return record["prompt_tokens"], record["completion_tokens"], record["cost_nano"]


@each(
    "case",
    [
        "951_embed", "952_embed_list", "953_embed_tokens", "954_embed_token_lists", "955_embed_base64",
        "964_embed_user", "966_embed_chat", "969_embed_stream",
    ],
)  # fmt: skip
async def test_every_form_is_answered_as_the_backend_does_and_paid_by_its_prompt(stage: Stage, case: str) -> None:
    door, backend = stage
    capture = captured(case)
    account_id = await door.account("1")
    backend.answer_with(replayed(capture))
    asked = orjson.loads(capture.request_body) | {"model": "embed/tiny"}
    response = await door.post(orjson.dumps(asked), await door.key(account_id), PATH)
    told = orjson.loads(capture.body)
    assert response.json() == told | {"model": "embed/tiny"}
    tokens = told["usage"]["prompt_tokens"]
    assert await paid(door, response) == (tokens, 0, cost_nano(tokens))
    assert await door.balance_nano(account_id) == 10**9 - cost_nano(tokens)
    sent = backend.asked_at(PATH)[0].json
    assert "stream" not in sent
    assert "max_tokens" not in sent


@each(
    ("fields", "code", "param"),
    [
        ({"input": ""}, "missing_parameter", "input"),
        ({"input": []}, "missing_parameter", "input"),
        ({"input": 5}, "invalid_type", "input"),
        ({"input": ["a", None]}, "invalid_type", "input[1]"),
        ({"input": [1, "a"]}, "invalid_type", "input[1]"),
        ({"input": [1.5, 1]}, "invalid_type", "input[0]"),
        ({"input": [1] * 2049 + [1.5]}, "invalid_type", "input[2049]"),
        ({"input": ["a"] * 2049 + [None]}, "invalid_type", "input[2049]"),
        ({"input": [{}] * 2049}, "invalid_type", "input[0]"),
        ({"input": ["a"] * 2049}, "invalid_value", "input"),
        ({"input": [[1]] * 2049}, "invalid_value", "input"),
        ({"encoding_format": "bytes"}, "invalid_value", "encoding_format"),
        ({"dimensions": 0}, "invalid_value", "dimensions"),
        ({"dimensions": "many"}, "invalid_type", "dimensions"),
        ({"messages": [{"role": "user", "content": "a"}]}, "invalid_value", "messages"),
        ({"input": None, "messages": [{"role": "user", "content": [{}]}]}, "invalid_type", "messages[0].content"),
        ({"image_url": "http://10.0.0.1/"}, "unsupported_parameter", "image_url"),
    ],
)
async def test_what_cannot_be_asked_is_refused_by_name_and_costs_nothing(
    stage: Stage, fields: dict[str, Any], code: str, param: str
) -> None:
    door, backend = stage
    backend.answer_with()
    response = await door.post(body_of(**fields), await door.key(credit="1"), PATH)
    assert (response.status_code, error_of(response)["code"], error_of(response)["param"]) == (400, code, param)
    assert backend.asked_at(PATH) == []


@each(("fields", "quoted"), [({}, None), ({"input": [1, 2, 3]}, 3), ({"input": [[1], [2, 3, 4]]}, 4)])
async def test_the_hold_is_for_the_prompt_alone(stage: Stage, fields: dict[str, Any], quoted: int | None) -> None:
    door, backend = stage
    tokens = quoted or len(body_of()) + 10  # and the shortest chat, by the backend's count
    enough = await door.account(f"0.{cost_nano(tokens):09}")
    less = await door.account(f"0.{cost_nano(tokens) - 1:09}")
    backend.answer_with(replayed(captured("951_embed")))
    assert (await door.post(body_of(**fields), await door.key(less), PATH)).status_code == 402
    assert backend.asked_at(PATH) == []
    assert (await door.post(body_of(**fields), await door.key(enough), PATH)).status_code == 200


@each(("told", "tokens"), [(b"{}", 10), (b'{"prompt_tokens":999999999,"total_tokens":999999999}', 10), (b"null", 10)])
async def test_an_answer_without_a_usage_to_believe_is_counted(stage: Stage, told: bytes, tokens: int) -> None:
    door, backend = stage
    backend.answer_with(whole(b'{"object":"list","model":"tiny","data":[],"usage":%b}' % told))
    response = await door.post(body_of(), await door.key(credit="1"), PATH)
    assert response.json()["usage"]["prompt_tokens"] == tokens
    assert await paid(door, response) == (tokens, 0, cost_nano(tokens))


async def test_a_long_answer_is_read_for_its_usage(stage: Stage) -> None:
    door, backend = stage
    rows = [{"index": index, "object": "embedding", "embedding": [0.25] * 1000} for index in range(100)]
    answer: dict[str, Any] = {"id": "embd-1", "object": "list", "model": "tiny", "data": rows}
    answer["usage"] = {"prompt_tokens": 200, "total_tokens": 200}
    backend.answer_with(whole(orjson.dumps(answer)))
    response = await door.post(body_of(input=["a"] * 100), await door.key(credit="1"), PATH)
    assert response.json() == answer | {"model": "embed/tiny"}
    assert await paid(door, response) == (200, 0, cost_nano(200))


async def test_who_leaves_pays_the_prompt_and_nothing_for_ids_of_which_no_count_tells_what_is_cut(stage: Stage) -> None:
    door, backend = stage
    asked: list[tuple[dict[str, Any], int]] = [
        ({"input": "hello"}, 10),
        ({"input": [1, 2, 3]}, 3),
        ({"input": ["a", "b"]}, 10),
        ({"input": [1, 2, 3], "truncate_prompt_tokens": 2}, 0),
    ]
    for fields, tokens in asked:
        leaver = await staged(door, backend)
        backend.answer_with(silence)
        await leaver.leave_once_asked(Embeddings(), model="embed/tiny", **fields)
        await leaver.is_left_with(10**9 - cost_nano(tokens))


async def test_a_model_is_asked_for_nothing_that_it_is_not_there_for(stage: Stage) -> None:
    door, backend = stage
    backend.answer_with()
    key = await door.key(credit="1")
    messages = [{"role": "user", "content": "hi"}]
    asked = [
        (PATH, {"model": "chat/tiny", "input": "a"}),
        ("/v1/chat/completions", {"model": "embed/tiny", "messages": messages}),
        ("/v1/completions", {"model": "embed/tiny", "prompt": "a"}),
    ]
    for path, body in asked:
        error = error_of(await door.post(orjson.dumps(body), key, path))
        assert (error["code"], error["param"]) == ("invalid_value", "model")
    assert [one for one in backend.asked if one.path != "/metrics"] == []


@each("given", ["a", ["a", "b"], [1, 2], [[1], [2, 3]]])
async def test_the_demo_has_the_same_vector_for_the_same_text(stage: Stage, given: Any) -> None:
    door, _ = stage
    key = await door.key(is_test=True)
    floats = (await door.post(body_of(input=given, dimensions=4), key, PATH)).json()
    packed = (await door.post(body_of(input=given, dimensions=4, encoding_format="base64"), key, PATH)).json()
    assert [len(row["embedding"]) for row in floats["data"]] == [4] * len(packed["data"])
    assert len(base64.b64decode(packed["data"][0]["embedding"])) == 16
    assert floats["usage"] == packed["usage"]


async def test_the_sdk_embeds(stage: Stage) -> None:
    door, backend = stage
    backend.answer_with(replayed(captured("955_embed_base64")))
    client = door.openai(await door.key(credit="1"))
    told = await client.embeddings.create(model="embed/tiny", input=["hello world"])
    assert told.model == "embed/tiny"
    assert isinstance(told.data[0].embedding[0], float)
    await client.close()


IDS = b"[" + b",".join(b"%d" % (number % 150_000) for number in range(300_000)) + b"]"
"""More than JSON may hold values, in less than a body may have."""


async def test_token_ids_are_no_values_of_json_and_go_out_as_they_came(stage: Stage) -> None:
    door, backend = stage
    key = await door.key(credit="1")
    spaced = IDS.replace(b",", b" ,\n", 7)
    for ids, number in ((IDS, 1), (spaced, 1), (b"[%b,[7]]" % IDS, 2)):
        backend.answer_with(replayed(captured("953_embed_tokens")))
        response = await door.post(b'{"model":"embed/tiny","user":"u","input":%b}' % ids, key, PATH)
        assert response.status_code == 200, response.text
        (asked,) = backend.chats
        assert ids in asked.body
        assert number == (2 if ids.startswith(b"[[") else 1)


async def test_ids_that_one_backend_failed_with_go_to_the_next_as_they_came(tmp_path: Path) -> None:
    async with (
        ReplayingBackend() as first,
        ReplayingBackend() as second,
        open_door(tmp_path, vllm_urls=[first.url, second.url], models=[EMBED]) as door,
    ):
        answers = iter([whole(b"no", 500), replayed(captured("953_embed_tokens"))])

        async def one_of(asked: Asked) -> None:
            await next(answers)(asked)

        first.answer_with(one_of)
        second.answer_with(one_of)
        response = await door.post(b'{"model":"embed/tiny","input":%b}' % IDS, await door.key(credit="1"), PATH)
        assert response.status_code == 200, response.text
        assert [asked.body.count(IDS) for asked in (*first.chats, *second.chats)] == [1, 1]
        await door.nothing_is_left()


@each(
    ("ids", "code", "param"),
    [
        (IDS[:-1] + b",-1]", "invalid_value", "input"),
        (IDS[:-1] + b",1.5]", "invalid_type", "input"),
        (IDS[:-1] + b",2147483648]", "invalid_value", "input"),
        (IDS[:-1] + b',"x"]', "invalid_json", None),
        (b"[" + b"[1]," * 2_048 + IDS + b"]", "invalid_value", "input"),
    ],
)
async def test_ids_that_are_none_are_refused_and_no_backend_asked(
    stage: Stage, ids: bytes, code: str, param: str | None
) -> None:
    door, backend = stage
    backend.answer_with()
    error = error_of(await door.post(b'{"model":"embed/tiny","input":%b}' % ids, await door.key(credit="1"), PATH))
    assert (error["code"], error["param"]) == (code, param)
    assert backend.chats == []


async def test_what_is_sent_beside_ids_has_the_bounds_of_all_json(stage: Stage) -> None:
    door, _ = stage
    lists = b"[" + b"[]," * 300_000 + b"[]]"
    body = b'{"model":"embed/tiny","user":%b,"input":%b}' % (lists, IDS)
    assert error_of(await door.post(body, await door.key(), PATH))["code"] == "invalid_json"
