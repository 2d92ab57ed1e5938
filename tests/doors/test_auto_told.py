"""How a caller is told which model was chosen for `auto`: in headers, in a stream's first event, and over MCP."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.optimization import RoutingDefaults
from mcp_gateway.core.prompt_tasks import TASKS
from tests.cases import each
from tests.patience import eventually
from tests.replaying import ReplayingBackend, contents, events, held, stream, whole
from tests.serving import Door, bearer, error_of, open_door
from tests.surfaces import Messages, Responses, Spoken, answers

pytestmark = pytest.mark.asyncio(loop_scope="module")
OPENAI, INFERENCE = BASES = ("/v1", "/api/v1/inference")
CODE: Any = [{"role": "user", "content": "Write a Python function that reverses a linked list in place."}]
MODELS: list[dict[str, Any]] = [
    {"id": "dear", "backend_model": "tiny", "pricing": {"prompt": "0.000003", "completion": "0.000012"}},
    {"id": "cheap", "backend_model": "tiny", "pricing": {"prompt": "0.0000001", "completion": "0.0000002"}},
    {"id": "open", "backend_model": "tiny", "free": True, "guests": True},
]
EVENT = {
    "object", "task", "complexity", "confidence", "model", "routing_time_ms", "id", "created", "choices",
}  # fmt: skip


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def staged(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Door, ReplayingBackend]]:
    async with (
        ReplayingBackend() as backend,
        open_door(tmp_path_factory.mktemp("auto_told"), vllm_urls=[backend.url], models=MODELS) as door,
    ):
        yield door, backend


@pytest.fixture
def door(staged: tuple[Door, ReplayingBackend]) -> Door:
    return staged[0]


@pytest.fixture
def behind(staged: tuple[Door, ReplayingBackend]) -> ReplayingBackend:
    staged[1].answer_with()
    return staged[1]


async def key_of(door: Door, **rights: Any) -> str:
    return await door.key(credit="1", **rights)


async def asked(door: Door, key: str | None, base: str, path: str = "/chat/completions", **fields: Any) -> Any:
    body = {"model": "auto", "messages": CODE} | fields
    answer = await door.post(orjson.dumps(body), key, base + path)
    assert answer.status_code == 200, answer.text
    return answer


async def told_by(door: Door, key: str | None, base: str, **fields: Any) -> list[dict[str, Any]]:
    return contents([(await asked(door, key, base, stream=True, **fields)).content])


def headers_in(answer: httpx2.Response) -> dict[str, str]:
    return {
        name.removeprefix("x-routing-"): value
        for name, value in answer.headers.items()
        if name.startswith("x-routing-")
    }


# Headers


@each(("base", "task"), [(OPENAI, "code"), (INFERENCE, "code_generation")])
@each("is_stream", [False, True])
async def test_headers_tell_the_choice_in_the_words_of_the_base_path(
    door: Door, behind: ReplayingBackend, base: str, task: str, is_stream: bool
) -> None:
    if is_stream:
        behind.answer_with(events(*stream()))
    answer = await asked(door, await key_of(door), base, stream=is_stream, routing={"optimize": "cost"})
    told = headers_in(answer)
    assert told.keys() == {"model", "task", "complexity", "confidence", "time-ms"}
    assert (told["model"], told["task"]) == ("open", task)
    assert told["complexity"] in ("simple", "medium", "complex")
    assert 0 <= float(told["confidence"]) <= 1
    assert float(told["time-ms"]) > 0


@each("fields", [{}, {"routing": {"event": True}}])
async def test_a_request_that_names_its_model_is_told_nothing_of_a_choice(door: Door, fields: dict[str, Any]) -> None:
    for base in BASES:
        for is_stream in (False, True):
            answer = await asked(door, await key_of(door), base, model="cheap", stream=is_stream, **fields)
            assert headers_in(answer) == {}
            assert answer.headers.get("x-ignored-parameters") == ((fields and "routing") or None)
            assert b'"routing"' not in answer.content


async def test_a_model_that_is_asked_where_all_of_auto_fail_is_the_one_that_is_told(
    door: Door, behind: ReplayingBackend
) -> None:
    refused = whole(b'{"error": {"message": "no", "type": "InternalServerError", "code": 500}}', 500)
    behind.answer_with(refused, events(*stream()))
    fields: dict[str, Any] = {"models": ["auto", "cheap"], "routing": {"model_pool": ["dear"], "event": True}}
    answer = await asked(door, await key_of(door), OPENAI, stream=True, **fields)
    event, *chunks = contents([answer.content])
    assert event["model"] == headers_in(answer)["model"] == "cheap"
    assert {chunk["model"] for chunk in chunks} == {"cheap"}


# The event


@each(
    ("base", "key_tells", "wanted", "is_told"),
    [
        (OPENAI, False, None, False),
        (OPENAI, False, True, True),
        (OPENAI, True, None, True),
        (OPENAI, True, False, False),
        (INFERENCE, False, None, True),
        (INFERENCE, False, False, False),
        (INFERENCE, True, False, False),
        (INFERENCE, True, None, True),
    ],
)
async def test_a_stream_begins_with_the_choice_where_request_key_or_base_path_say_so(
    door: Door, behind: ReplayingBackend, base: str, key_tells: bool, wanted: bool | None, is_told: bool
) -> None:
    behind.answer_with(events(*stream()))
    key = await key_of(door, routing=RoutingDefaults(tells_event=key_tells))
    fields = {} if wanted is None else {"routing": {"event": wanted}}
    told = await told_by(door, key, base, **fields)
    assert [chunk["object"] == "routing" for chunk in told] == [is_told] + [False] * (len(told) - 1)
    assert all("routing" not in asked.json for asked in behind.chats)


async def test_the_event_is_what_a_chunk_is_to_who_does_not_know_it(door: Door, behind: ReplayingBackend) -> None:
    behind.answer_with(events(*stream()))
    answer = await asked(door, await key_of(door), INFERENCE, stream=True, routing={"model_pool": ["cheap"]})
    event, *chunks = contents([answer.content])
    assert event.keys() == EVENT
    assert (event["created"], event["choices"]) == (0, [])
    assert event["id"] == f"chatcmpl-{answer.headers['x-request-id']}"
    told = headers_in(answer)
    assert (event["model"], event["task"], event["complexity"]) == ("cheap", "code_generation", told["complexity"])
    assert event["confidence"] == pytest.approx(float(told["confidence"]), abs=0.001)
    assert event["routing_time_ms"] == pytest.approx(float(told["time-ms"]), abs=0.001)
    assert {chunk["model"] for chunk in chunks} == {"cheap"}
    assert answer.content.endswith(b"data: [DONE]\n\n")


@each("task", TASKS)
async def test_each_task_has_its_own_name_but_code_has_another_under_the_other_base_path(
    door: Door, behind: ReplayingBackend, task: str
) -> None:
    other = {"code": "code_generation"}.get(task, task)
    for base, name in ((OPENAI, task), (INFERENCE, other)):
        behind.answer_with(events(*stream()))
        told = await told_by(door, await key_of(door), base, routing={"task": other, "event": True})
        assert told[0]["task"] == name


@each("spoken", [Messages(), Responses()])
async def test_messages_and_responses_tell_it_in_headers_alone(
    door: Door, behind: ReplayingBackend, spoken: Spoken
) -> None:
    for base in BASES:
        behind.answer_with(answers(spoken))
        body = spoken.body(is_stream=True, model="auto", routing={"event": True})
        answer = await door.post(orjson.dumps(body), await key_of(door), base + spoken.path.removeprefix(OPENAI))
        assert answer.status_code == 200, answer.text
        assert headers_in(answer)["model"]
        assert b"routing" not in answer.content


async def test_comments_may_come_before_it_and_no_event_does(tmp_path: Path) -> None:
    may_answer = asyncio.Event()
    body = orjson.dumps({"model": "auto", "messages": CODE, "stream": True})
    async with (
        ReplayingBackend() as backend,
        open_door(tmp_path, vllm_urls=[backend.url], models=MODELS, upstream={"queue_comment_s": 0.01}) as door,
    ):
        backend.answer_with(held(may_answer, events(*stream())))
        headers = bearer(await key_of(door)) | {"content-type": "application/json"}
        async with door.http.stream("POST", f"{INFERENCE}/chat/completions", content=body, headers=headers) as answer:
            lines = aiter(answer.aiter_lines())
            assert (await anext(lines)).startswith(":")
            may_answer.set()
            data = [line.removeprefix("data: ") async for line in lines if line.startswith("data: ")]
        assert orjson.loads(data[0])["object"] == "routing"
        assert data[-1] == "[DONE]"


async def test_a_stream_that_is_refused_before_its_head_has_no_event(door: Door, behind: ReplayingBackend) -> None:
    behind.answer_with(*[whole(b'{"error": {"message": "no", "type": "BadRequestError", "code": 400}}', 400)] * 3)
    body = orjson.dumps({"model": "auto", "messages": CODE, "stream": True})
    answer = await door.post(body, await key_of(door), f"{INFERENCE}/chat/completions")
    assert answer.status_code == 400
    assert error_of(answer)["message"]


# The SDK


@each("base", BASES)
async def test_the_sdk_s_loops_pass_over_the_event(door: Door, behind: ReplayingBackend, base: str) -> None:
    behind.answer_with(events(*stream()))
    async with door.openai(await key_of(door), base) as client:
        pieces = await client.chat.completions.create(
            model="auto", messages=CODE, stream=True, extra_body={"routing": {"event": True}}
        )
        seen = [piece async for piece in pieces]
    assert (seen[0].object, seen[0].choices) == ("routing", [])
    assert "".join(piece.choices[0].delta.content or "" for piece in seen if piece.choices) == "xxxx"


@each("base", BASES)
@each("is_asked", [True, None])
async def test_the_sdk_s_stream_helper_adds_up_the_answer(
    door: Door, behind: ReplayingBackend, base: str, is_asked: bool | None
) -> None:
    behind.answer_with(events(*stream()))
    routing = {"optimize": "cost"} | ({} if is_asked is None else {"event": is_asked})
    async with door.openai(await key_of(door), base) as client:
        helper = client.chat.completions.stream(
            model="auto", messages=CODE, extra_body={"routing": routing}, stream_options={"include_usage": True}
        )
        async with helper as said:
            kinds = [event.type async for event in said]
            final = await said.get_final_completion()
    assert kinds.count("content.delta") >= 4
    assert final.choices[0].message.content == "xxxx"
    assert final.choices[0].finish_reason == "stop"
    assert final.object == "chat.completion"
    assert final.usage is not None
    assert final.usage.total_tokens == 14


async def test_the_sdk_reads_an_answer_in_one_piece_as_ever(door: Door) -> None:
    for base in BASES:
        async with door.openai(await key_of(door), base) as client:
            raw = await client.chat.completions.with_raw_response.create(model="auto", messages=CODE)
        assert raw.parse().model == raw.headers["x-routing-model"]


async def test_a_refusal_is_the_sdk_s_own_exception(door: Door) -> None:
    async with door.openai(await key_of(door), INFERENCE) as client:
        with pytest.raises(openai.BadRequestError) as raised:
            await client.chat.completions.create(
                model="auto", messages=CODE, stream=True, extra_body={"routing": {"optimize": "dearest"}}
            )
    assert raised.value.code == "invalid_value"
    assert raised.value.param == "routing.optimize"


# MCP


async def result_of(door: Door, key: str | None, **arguments: Any) -> dict[str, Any]:
    answer = await door.call("chat_completion", key, **{"model": "auto", "messages": CODE} | arguments)
    result: dict[str, Any] = answer.json()["result"]
    return result


async def test_chat_completion_tells_the_choice_and_who_came_next(door: Door) -> None:
    told = (await result_of(door, await key_of(door), routing={"optimize": "cost"}))["structuredContent"]
    routing = told["routing"]
    assert routing.keys() == {"model", "task", "complexity", "confidence", "alternatives"}
    assert (routing["model"], routing["task"], told["model"]) == ("open", "code", "open")
    assert sorted(routing["alternatives"]) == ["cheap", "dear"]
    named = (await result_of(door, await key_of(door), model="cheap"))["structuredContent"]
    assert "routing" not in named


@each(
    "routing",
    [
        {"model_pool": ["cheap"], "optimize": "quality", "task": "translation", "max_price_per_million": 1},
        {"model_pool": ["cheap"], "optimize": "", "task": "translate", "max_price_per_million": ""},
        '{"model_pool": ["cheap"], "task": "translation", "max_price_per_million": "0.5"}',
        {"model_pool": ["cheap"], "task": "translation", "optimize": None, "event": True},
    ],
)
async def test_routing_is_taken_as_hosts_and_models_send_it(door: Door, routing: Any) -> None:
    result = await result_of(door, await key_of(door), routing=routing)
    told = result["structuredContent"]
    assert not result["isError"], told
    assert (told["routing"]["model"], told["routing"]["task"]) == ("cheap", "translation")
    assert told["routing"]["alternatives"] == []


@each(
    ("routing", "param"),
    [
        ({"optimize": "cheap"}, "routing.optimize"),
        ({"task": "juggling"}, "routing.task"),
        ({"model_pool": [5]}, "routing.model_pool[0]"),
        ({"max_price_per_million": "much"}, "routing.max_price_per_million"),
    ],
)
async def test_what_routing_cannot_be_is_refused_by_its_name(door: Door, routing: Any, param: str) -> None:
    result = await result_of(door, await key_of(door), routing=routing)
    assert result["isError"]
    assert f"`{param}`" in result["structuredContent"]["message"]


async def test_a_guest_is_served_by_what_is_open_to_guests_and_told_of_nobody_else(door: Door) -> None:
    short: Any = [{"role": "user", "content": "Hi"}]
    told = (await result_of(door, None, messages=short, max_tokens=5))["structuredContent"]
    assert (told["routing"]["model"], told["routing"]["alternatives"]) == ("open", [])
    answer = await asked(door, None, INFERENCE, messages=short, max_tokens=5)
    assert headers_in(answer)["model"] == "open"
    await eventually(lambda: not door.gateway.limiter.in_flight)
