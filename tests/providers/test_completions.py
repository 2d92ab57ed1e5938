"""Completions of providers: OpenAI's form for callers, the provider's bill in the books, what it has not refused."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from mcp_gateway.core.dialects.completions_openai import CompletionsToOpenAi
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.provider_settings import presets
from mcp_gateway.core.surfaces.completions import COMPLETIONS
from tests.cases import each
from tests.providers.doubles import OUTPUT, PROMPT, TEXT, Asked, Generic, Ollama, OpenAi, Refusal
from tests.providers.kinds import sweep
from tests.providers.surface_doubles import WITH_COMPLETIONS
from tests.providers.test_candidates import choice_of
from tests.providers.test_contract import (
    chunks_of,
    cost_of,
    door_to,
    received_nothing_of_the_caller,
    tells_nothing_of_the_operator,
)
from tests.serving import Door, error_of

each_kind = sweep("kind", WITH_COMPLETIONS, ids=lambda kind: kind.__name__)
BILLED = {"prompt_tokens": PROMPT, "completion_tokens": OUTPUT, "total_tokens": PROMPT + OUTPUT}


def manner_of(kind: type[Generic]) -> Generic:
    return kind(completions=WITH_COMPLETIONS[kind]())


async def complete(door: Door, key: str, **fields: Any) -> httpx2.Response:
    body = {"model": "sold/model", "prompt": "Once"} | fields
    return await door.post(orjson.dumps(body), key, "/v1/completions")


def text_of(stream: bytes) -> str:
    return "".join(choice["text"] for chunk in chunks_of(stream) for choice in chunk["choices"])


@each_kind
class TestCompletions:
    async def test_an_answer_in_one_piece_has_openais_shape_and_the_providers_bill(
        self, kind: type[Generic], tmp_path: Path
    ) -> None:
        manner = manner_of(kind)
        async with door_to(manner, tmp_path) as (door, double, key):
            response = await complete(door, key, user="someone")
            assert response.status_code == 200, response.text
            answer, record = response.json(), await door.record(response)
            assert (answer["id"], answer["object"], answer["model"]) == (
                f"cmpl-{record['id']}", "text_completion", "sold/model",
            )  # fmt: skip
            told = {"index": 0, "text": "".join(TEXT), "logprobs": None, "finish_reason": "stop"}
            assert (answer["choices"], answer["usage"]) == ([told], BILLED)
            assert (record["cost_nano"], record["backend"]) == (cost_of(manner), manner.kind)
            assert double.asked[0].body["max_tokens"] == 16
            received_nothing_of_the_caller(double, key)
            tells_nothing_of_the_operator(response)

    @pytest.mark.parametrize("wants_usage", [True, False])
    async def test_a_stream_has_one_finish_one_end_and_a_usage_where_it_was_asked_for(
        self, kind: type[Generic], wants_usage: bool, tmp_path: Path
    ) -> None:
        manner = manner_of(kind)
        async with door_to(manner, tmp_path) as (door, double, key):
            options = {"stream_options": {"include_usage": True}} if wants_usage else {}
            response = await complete(door, key, stream=True, **options)
            chunks = chunks_of(response.content)
            finishes = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
            assert [finish for finish in finishes if finish] == ["stop"]
            assert {(chunk["model"], chunk["object"]) for chunk in chunks} == {("sold/model", "text_completion")}
            told = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
            assert [one["completion_tokens"] for one in told] == [OUTPUT] * wants_usage
            assert (await door.record(response))["cost_nano"] == cost_of(manner)
            tells_nothing_of_the_operator(response)
            double.piece_bytes = 1
            cut = await complete(door, key, stream=True, **options)
            assert text_of(cut.content) == text_of(response.content) == "".join(TEXT)
            received_nothing_of_the_caller(double, key)

    async def test_a_stream_without_a_finish_is_a_failure(self, kind: type[Generic], tmp_path: Path) -> None:
        async with door_to(manner_of(kind), tmp_path) as (door, double, key):
            double.cut_after = 1
            response = await complete(door, key, stream=True)
            assert b'"code":"backend_died"' in response.content
            assert b'finish_reason":"stop' not in response.content


async def test_several_prompts_and_the_best_of_several_are_billed_as_the_provider_does(tmp_path: Path) -> None:
    async with door_to(manner_of(OpenAi), tmp_path) as (door, _, key):
        for more, prompts, choices, told in (
            ({"prompt": ["a", "b"], "n": 2}, 2, 4, 4),
            ({"best_of": 3}, 1, 3, 1),
            ({"prompt": [[1, 2], [3]]}, 2, 2, 2),
        ):
            response = await complete(door, key, **more)
            assert len(response.json()["choices"]) == told, response.text
            record = await door.record(response)
            assert (record["prompt_tokens"], record["completion_tokens"]) == (PROMPT * prompts, OUTPUT * choices)
            if "best_of" not in more:
                streamed = await complete(door, key, stream=True, **more)
                assert (await door.record(streamed))["completion_tokens"] == OUTPUT * choices
                assert {choice["index"] for chunk in chunks_of(streamed.content) for choice in chunk["choices"]} == {
                    *range(told)
                }


async def test_log_probabilities_pass(tmp_path: Path) -> None:
    async with door_to(manner_of(OpenAi), tmp_path) as (door, double, key):
        response = await complete(door, key, logprobs=0)
        assert response.json()["choices"][0]["logprobs"]["tokens"] == list(TEXT)
        assert double.asked[0].body["logprobs"] == 0


REFUSED: list[dict[str, Any]] = [
    {"prompt": ["a", "b"]},
    {"prompt": [1, 2]},
    {"prompt": [[1], [2]]},
    {"n": 2},
    {"best_of": 2},
    {"logprobs": 0},
    {"logprobs": 3},
    {"logit_bias": {"1": 5}},
    {"echo": True},
    {"prompt_logprobs": 1},
]


async def test_what_a_provider_has_not_is_refused_before_it_is_asked(tmp_path: Path) -> None:
    async with door_to(manner_of(Ollama), tmp_path) as (door, double, key):
        for more in REFUSED:
            response = await complete(door, key, **more)
            assert (response.status_code, error_of(response)["code"]) == (400, "unsupported_parameter")
            assert error_of(response)["param"] == next(iter(more))
        assert double.asked == []


async def test_a_list_of_one_text_is_that_text_where_one_is_read_at_a_time(tmp_path: Path) -> None:
    async with door_to(manner_of(Ollama), tmp_path) as (door, double, key):
        response = await complete(door, key, prompt=["Once"], n=1, best_of=1, echo=False, top_k=3)
        assert response.status_code == 200, response.text
        assert double.asked[0].body == {"model": "m-1", "prompt": "Once", "max_tokens": 16}
        assert response.headers["x-ignored-parameters"] == "top_k"


@each(
    "body",
    [
        b"", b"[]", b"{}", b'{"choices":[]}', b'{"choices":[{"text":7,"finish_reason":"stop"}]}',
        b'{"choices":[{"text":"a"}]}', b'{"choices":[{"text":"a","finish_reason":"error"}]}',
        b'{"error":{"message":"x"}}', b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}',
    ],
)  # fmt: skip
async def test_what_is_no_answer_is_the_providers_failure(body: bytes) -> None:
    ask = COMPLETIONS.read({"model": "m", "prompt": "a"}, 20)
    with pytest.raises(GatewayError, match="backend_error"):
        await CompletionsToOpenAi(presets()["openai"]).read(body, ask)


async def test_a_server_that_is_not_to_be_asked_for_usage_is_asked_no_more_there_alone(tmp_path: Path) -> None:
    refusal = Refusal(400, b'{"error":{"message":"Unknown field: stream_options"}}')

    def refuse(body: dict[str, Any]) -> Refusal | None:
        return refusal if "stream_options" in body else None

    manner = manner_of(Generic)
    manner.others["completions"].refuse = refuse  # type: ignore[method-assign]
    async with door_to(manner, tmp_path) as (door, double, key):
        for _ in range(2):
            assert text_of((await complete(door, key, stream=True)).content) == "".join(TEXT)
        assert ["stream_options" in asked.body for asked in double.asked] == [True, False, False]
        await door.chat(key, model="sold/model", stream=True)
        assert "stream_options" in double.asked[-1].body


async def test_streams_that_are_refused_at_the_same_time_are_all_asked_again(tmp_path: Path) -> None:
    async with door_to(manner_of(Generic), tmp_path) as (door, double, key):
        refusal, both = Refusal(400, b'{"error":{"message":"Unknown field: stream_options"}}'), asyncio.Barrier(2)
        answer = double.answer

        async def after_both(asked: Asked) -> Any:
            double.refusal = refusal if "stream_options" in asked.body else None
            told = await answer(asked)
            if "stream_options" in asked.body:
                await both.wait()
            return told

        double.answer = after_both  # type: ignore[method-assign]
        streams = await asyncio.gather(*[complete(door, key, stream=True) for _ in range(2)])
        assert [text_of(stream.content) for stream in streams] == ["".join(TEXT)] * 2


async def test_words_of_a_caller_do_not_keep_a_server_from_telling_usage(tmp_path: Path) -> None:
    """Refused is what the caller said: it is refused without the question as well."""
    async with door_to(manner_of(Generic), tmp_path) as (door, double, key):
        double.refusal = Refusal(400, b'{"error":{"message":"`suffix` may not be stream_options"}}')
        assert (await complete(door, key, stream=True, suffix="stream_options")).status_code == 400
        double.refusal = None
        await complete(door, key, stream=True)
        assert "stream_options" in double.asked[-1].body


MODEL_OF_CHATS = Refusal(
    404,
    b'{"error":{"message":"This is a chat model and not supported in the v1/completions endpoint.","type":'
    b'"invalid_request_error","param":"model","code":null}}',
)


async def test_a_model_that_is_for_chats_alone_stays_there_for_them(tmp_path: Path) -> None:
    async with door_to(manner_of(Generic), tmp_path) as (door, double, key):
        for refusal in (MODEL_OF_CHATS, Refusal(404, b'{"detail":"Not Found"}'), Refusal(404, b"404 page not found")):
            double.refusal = refusal
            response = await complete(door, key)
            assert (response.status_code, error_of(response)["code"]) == (404, "unsupported_endpoint")
            double.refusal = None
            assert (await door.chat(key, model="sold/model")).status_code == 200


NO_CHAT_MODEL = Refusal(
    404,
    b'{"error":{"message":"This is not a chat model and thus not supported in the v1/chat/completions endpoint.",'
    b'"type":"invalid_request_error","param":"model","code":null}}',
)


async def test_a_model_that_is_not_for_chats_stays_there_for_what_it_is(tmp_path: Path) -> None:
    async with door_to(manner_of(Generic), tmp_path) as (door, double, key):
        double.refusal = NO_CHAT_MODEL
        for is_stream in (False, True):
            response = await door.chat(key, model="sold/model", stream=is_stream)
            assert (response.status_code, error_of(response)["code"]) == (404, "unsupported_endpoint")
        double.refusal = None
        assert (await complete(door, key)).status_code == 200


async def test_of_several_the_next_is_asked_that_serves_it(tmp_path: Path) -> None:
    manners = [manner_of(Ollama), manner_of(OpenAi)]
    async with choice_of(tmp_path, {}, {}, manners=manners) as (door, doubles):
        key = await door.key(credit="10")

        def asked() -> list[int]:
            return [len(double.asked) for double in doubles]

        assert (await complete(door, key, prompt=["a", "b"])).status_code == 200
        assert asked() == [0, 1]
        doubles[0].refusal = MODEL_OF_CHATS
        assert (await complete(door, key)).status_code == 200
        assert asked() == [1, 2]
        assert [double.asked[-1].body["model"] for double in doubles] == ["at-one", "at-two"]
