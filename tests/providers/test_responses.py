"""Responses of providers that have them: nothing is stored, state is refused, billed is what the last event tells."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from mcp_gateway.core.dialects.responses_openai import ResponsesToOpenAi
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.provider_settings import presets
from mcp_gateway.core.surfaces.responses import RESPONSES
from tests.cases import each
from tests.providers.doubles import OUTPUT, PROMPT, TEXT, Double, Generic, Groq, Mistral, Ollama, OpenAi, Refusal
from tests.providers.kinds import sweep
from tests.providers.surface_doubles import WITH_RESPONSES, Responses
from tests.providers.test_candidates import choice_of
from tests.providers.test_contract import (
    cost_of,
    door_to,
    received_nothing_of_the_caller,
    tells_nothing_of_the_operator,
)
from tests.serving import Door, error_of

each_kind = sweep("kind", WITH_RESPONSES, ids=lambda kind: kind.__name__)
FUNCTION = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
QUOTA = {"type": "insufficient_quota", "code": "insufficient_quota", "message": "You exceeded your quota."}


def manner_of(kind: type[Generic]) -> Generic:
    manner = kind(responses=WITH_RESPONSES[kind]())
    if kind is Generic:
        manner.row = lambda: {"responses_path": "/responses"}  # type: ignore[method-assign]
    return manner


@asynccontextmanager
async def responding(kind: type[Generic], data_dir: Path) -> AsyncIterator[tuple[Door, Double, str]]:
    async with door_to(manner_of(kind), data_dir) as (door, double, key):
        yield door, double, key


async def respond(door: Door, key: str, **fields: Any) -> httpx2.Response:
    return await door.post(orjson.dumps({"model": "sold/model", "input": "Hi"} | fields), key, "/v1/responses")


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """Each with its name, which is its type; numbered without a gap."""
    events = []
    for frame in stream.split(b"\n\n"):
        if frame.startswith(b"event: "):
            name, data = frame.removeprefix(b"event: ").split(b"\ndata: ")
            events.append(orjson.loads(data))
            assert events[-1]["type"] == name.decode()
    assert [event["sequence_number"] for event in events] == [*range(len(events))]
    return events


@each_kind
class TestResponses:
    async def test_an_answer_in_one_piece_has_openais_shape_and_the_providers_bill(
        self, kind: type[Generic], tmp_path: Path
    ) -> None:
        async with responding(kind, tmp_path) as (door, double, key):
            response = await respond(door, key, store=True, metadata={"a": "b"}, prompt_cache_key="x")
            assert response.status_code == 200, response.text
            answer, record = response.json(), await door.record(response)
            assert (answer["id"], answer["model"], answer["store"]) == (f"resp_{record['id']}", "sold/model", False)
            assert answer["output"][-1]["content"][0]["text"] == "".join(TEXT)
            assert (answer["usage"]["input_tokens"], answer["usage"]["output_tokens"]) == (PROMPT, OUTPUT)
            assert answer["usage"]["output_tokens_details"] == {"reasoning_tokens": 3}
            assert (record["cost_nano"], record["backend"]) == (cost_of(double.manner), double.manner.kind)
            assert response.headers["x-ignored-parameters"].startswith("store, metadata, prompt_cache_key")
            received_nothing_of_the_caller(double, key)
            tells_nothing_of_the_operator(response)

    async def test_a_stream_tells_one_end_whichever_way_it_comes(self, kind: type[Generic], tmp_path: Path) -> None:
        async with responding(kind, tmp_path) as (door, double, key):
            response = await respond(door, key, stream=True)
            events = events_of(response.content)
            kinds = [event["type"].removeprefix("response.") for event in events]
            assert (kinds[0], kinds[-1], kinds.count("completed")) == ("created", "completed", 1)
            record = await door.record(response)
            named = {(event["response"]["id"], event["response"]["model"]) for event in events if "response" in event}
            assert named == {(f"resp_{record['id']}", "sold/model")}
            text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
            assert text == "".join(TEXT)
            assert events[-1]["response"]["usage"]["output_tokens"] == OUTPUT
            assert record["cost_nano"] == cost_of(double.manner)
            tells_nothing_of_the_operator(response)
            double.piece_bytes = 1
            cut = events_of((await respond(door, key, stream=True)).content)
            assert [event["type"] for event in cut] == [event["type"] for event in events]

    async def test_a_call_of_a_tool_passes(self, kind: type[Generic], tmp_path: Path) -> None:
        async with responding(kind, tmp_path) as (door, double, key):
            response = await respond(door, key, tools=[FUNCTION, {"type": "web_search"}], stream=True)
            last = events_of(response.content)[-1]["response"]["output"][-1]
            assert (last["name"], last["arguments"]) == ("weather", '{"city":"Paris"}')
            assert (await door.record(response))["finish_reason"] == "tool_calls"
            assert double.asked[0].body["tools"] == [FUNCTION]
            turn = [{"role": "user", "content": "Hi"}, last, {"type": "function_call_output", "call_id": "call_1"}]
            turn[-1]["output"] = "rain"
            assert (await respond(door, key, input=turn)).status_code == 200
            assert double.asked[1].body["input"] == turn

    async def test_a_stream_without_its_last_event_is_a_failure(self, kind: type[Generic], tmp_path: Path) -> None:
        async with responding(kind, tmp_path) as (door, double, key):
            double.cut_after = 6
            events = events_of((await respond(door, key, stream=True)).content)
            assert events[-1]["type"] == "response.failed"


async def test_reasoning_that_is_encrypted_comes_and_goes_back_as_it_was(tmp_path: Path) -> None:
    async with responding(OpenAi, tmp_path) as (door, double, key):
        answer = (await respond(door, key, include=["reasoning.encrypted_content"])).json()
        thought = answer["output"][0]
        assert thought["encrypted_content"] == "gAAAA"
        assert (
            await respond(door, key, input=[{"role": "user", "content": "Hi"}, *answer["output"]])
        ).status_code == 200
        assert double.asked[1].body["input"][1] == thought


STATE: list[dict[str, Any]] = [
    {"previous_response_id": "resp_1"},
    {"conversation": "conv_1"},
    {"prompt": {"id": "pmpt_1"}},
    {"background": True},
    {"input": [{"type": "item_reference", "id": "msg_1"}]},
    {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}]},
]


async def test_what_another_may_have_left_at_the_provider_cannot_be_named(tmp_path: Path) -> None:
    async with responding(OpenAi, tmp_path) as (door, double, key):
        for more in STATE:
            response = await respond(door, key, **more)
            assert (response.status_code, error_of(response)["code"]) == (400, "unsupported_parameter"), more
        assert double.asked == []
        assert (await door.get("/v1/responses/resp_upstream", key)).status_code == 404


async def test_what_a_provider_has_not_is_left_out_or_refused_by_its_row(tmp_path: Path) -> None:
    async with responding(Groq, tmp_path) as (door, double, key):
        response = await respond(door, key, include=["reasoning.encrypted_content"], truncation="disabled", top_k=3)
        assert response.headers["x-ignored-parameters"] == "top_k, include"
        assert double.asked[0].body.keys() == {"model", "input", "max_output_tokens"}
        assert error_of(await respond(door, key, truncation="auto"))["param"] == "truncation"
    async with responding(Ollama, tmp_path / "ollama") as (door, double, key):
        refused = await respond(door, key, tools=[FUNCTION], tool_choice="required")
        assert (refused.status_code, error_of(refused)["param"]) == (400, "tool_choice")
        assert double.asked == []


async def test_an_answer_that_meets_its_limit_is_incomplete_and_billed_so(tmp_path: Path) -> None:
    async with responding(OpenAi, tmp_path) as (door, _, key):
        for is_stream in (False, True):
            response = await respond(door, key, max_output_tokens=5, stream=is_stream)
            told = events_of(response.content)[-1]["response"] if is_stream else response.json()
            assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
            record = await door.record(response)
            assert (record["completion_tokens"], record["finish_reason"]) == (5, "length")


@each("is_first", [True, False])
async def test_an_empty_account_that_a_stream_tells_of_is_the_operators(is_first: bool, tmp_path: Path) -> None:
    """As an event named error, and then as the response that failed."""
    manners = [manner_of(OpenAi), manner_of(OpenAi)]
    spoken = manners[0].others["responses"]
    assert isinstance(spoken, Responses)
    begun = spoken.stream({"store": False, "service_tier": "default"})[:2]
    failed = spoken.event(3, "response.failed", response=spoken.response({}, "failed", error=QUOTA))
    pair = [spoken.event(2, "error", error=QUOTA), failed]
    spoken.stream = lambda body: [*begun, *(pair if is_first else pair[1:])]  # type: ignore[method-assign]
    async with choice_of(tmp_path / str(is_first), {}, {}, manners=manners) as (door, doubles):
        response = await respond(door, await door.key(credit="10"), stream=True)
        assert events_of(response.content)[-1]["type"] == "response.completed"
        assert [len(double.asked) for double in doubles] == [1, 1]
        ((code,),) = await door.rows("SELECT code FROM failed_attempts")
        assert code == "provider_money"


async def test_an_empty_account_that_an_answer_tells_of_is_the_operators(tmp_path: Path) -> None:
    """With the status of an answer."""
    manners = [manner_of(OpenAi), manner_of(OpenAi)]
    spoken = manners[0].others["responses"]
    assert isinstance(spoken, Responses)
    failed = orjson.dumps(spoken.response({}, "failed", error=QUOTA))
    spoken.unary = lambda body: failed  # type: ignore[method-assign]
    async with choice_of(tmp_path, {}, {}, manners=manners) as (door, doubles):
        assert (await respond(door, await door.key(credit="10"))).status_code == 200
        assert [len(double.asked) for double in doubles] == [1, 1]
        ((code,),) = await door.rows("SELECT code FROM failed_attempts")
        assert code == "provider_money"


async def test_a_failure_amid_the_answer_ends_it_in_the_callers_words(tmp_path: Path) -> None:
    async with responding(OpenAi, tmp_path) as (door, double, key):
        double.cut_after = 5
        double.amid = b'event: error\ndata: {"type":"error","error":{"message":"of org-9aXkQ2operator"}}\n\n'
        response = await respond(door, key, stream=True)
        last = events_of(response.content)[-1]
        assert (last["type"], last["response"]["error"]["code"]) == ("response.failed", "server_error")
        tells_nothing_of_the_operator(response)


async def test_a_model_whose_provider_has_none_is_404_and_the_next_candidate_is_asked(tmp_path: Path) -> None:
    async with door_to(Mistral(), tmp_path) as (door, _, key):
        refused = await respond(door, key)
        assert (refused.status_code, error_of(refused)["code"]) == (404, "unsupported_endpoint")
    manners = [Mistral(), manner_of(OpenAi)]
    async with choice_of(tmp_path / "two", {}, {}, manners=manners) as (door, doubles):
        key = await door.key(credit="10")
        assert (await respond(door, key)).status_code == 200
        doubles[1].refusal = Refusal(404, b'{"error":{"message":"no such path","type":"invalid_request_error"}}')
        assert (await respond(door, key)).status_code == 404
        assert [len(double.asked) for double in doubles] == [0, 2]


@each(
    "body",
    [
        b"", b"[]", b"{}", b'{"output":null}', b'{"error":{"message":"x"}}', b'{"output":[],"status":"failed"}',
        b'{"output":[],"error":{"code":"server_error","message":"x"}}',
    ],
)  # fmt: skip
async def test_what_is_no_response_is_the_providers_failure(body: bytes) -> None:
    ask = RESPONSES.read({"model": "m", "input": "a"}, 20)
    with pytest.raises(GatewayError, match="backend_error"):
        await ResponsesToOpenAi(presets()["openai"]).read(body, ask)
