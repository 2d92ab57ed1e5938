"""No content is kept: a canary in every place that holds content turns up in no file, log line or metric."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from tests.logged import everything_logged
from tests.replaying import DONE, Answer, ReplayingBackend, death, events, silence, whole
from tests.serving import FREE, PRICED, Door, bearer, open_door
from tests.surfaces import CHAT_SPOKEN, Spoken, answers, every_surface, every_way

pytestmark = [pytest.mark.surfaces, pytest.mark.asyncio(loop_scope="module")]

Served = tuple[Door, ReplayingBackend, str]
CANARY = "canary7Kq2xVb9"
SEEING = PRICED | {"id": "seeing/tiny", "input_modalities": ["text", "image"]}
ECHOED = orjson.dumps(
    {"error": {"message": f"bad {CANARY}", "type": "BadRequestError", "param": f"messages.{CANARY}", "code": 400}}
)
IMAGE = "data:image/png;base64," + b64encode(f"{CANARY}{CANARY}".encode()).decode()


def full_chat() -> dict[str, Any]:
    call = {"id": CANARY, "type": "function", "function": {"name": CANARY, "arguments": f'{{"a":"{CANARY}"}}'}}
    messages = [
        {"role": "system", "content": CANARY},
        {"role": "user", "name": CANARY, "content": [
            {"type": "text", "text": CANARY}, {"type": "image_url", "image_url": {"url": IMAGE}},
        ]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": CANARY, "content": CANARY},
    ]  # fmt: skip
    tools = [{"type": "function", "function": {"name": CANARY, "description": CANARY, "parameters": {CANARY: CANARY}}}]
    kept = {"stop": [CANARY], "user": CANARY, "metadata": {CANARY: CANARY}, "safety_identifier": CANARY}
    return {"messages": messages, "tools": tools} | kept


def full_message() -> dict[str, Any]:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": IMAGE.partition(",")[2]}}
    said: dict[str, Any] = {"type": "text", "text": CANARY}
    used = {"type": "tool_use", "id": CANARY, "name": CANARY, "input": {CANARY: CANARY}}
    messages = [
        {"role": "user", "content": [said, image]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": CANARY, "signature": CANARY}, used]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": CANARY, "content": [said]}]},
    ]
    tools = [{"name": CANARY, "description": CANARY, "input_schema": {"type": "object", CANARY: CANARY}}]
    kept = {"stop_sequences": [CANARY], "metadata": {"user_id": CANARY}}
    return {"messages": messages, "system": [said], "tools": tools} | kept


def full_response() -> dict[str, Any]:
    items = [
        {"role": "user", "content": [
            {"type": "input_text", "text": CANARY}, {"type": "input_image", "image_url": IMAGE, "detail": "auto"},
        ]},
        {"type": "reasoning", "id": CANARY, "summary": [{"type": "summary_text", "text": CANARY}]},
        {"type": "function_call", "call_id": CANARY, "name": CANARY, "arguments": f'{{"a":"{CANARY}"}}'},
        {"type": "function_call_output", "call_id": CANARY, "output": CANARY},
    ]  # fmt: skip
    tools = [{"type": "function", "name": CANARY, "description": CANARY, "parameters": {CANARY: CANARY}}]
    kept = {"user": CANARY, "metadata": {CANARY: CANARY}, "prompt_cache_key": CANARY, "safety_identifier": CANARY}
    return {"input": items, "instructions": CANARY, "tools": tools} | kept


FULL: dict[str, dict[str, Any]] = {
    "chat": full_chat(),
    "completions": {"prompt": [CANARY], "suffix": CANARY, "stop": [CANARY], "user": CANARY, "cache_salt": CANARY},
    "embeddings": {"input": [CANARY, CANARY], "user": CANARY, "cache_salt": CANARY},
    "rerank": {"query": CANARY, "documents": [CANARY, CANARY], "user": CANARY},
    "score": {"text_1": CANARY, "text_2": [CANARY, CANARY], "user": CANARY},
    "messages": full_message(),
    "responses": full_response(),
    "mcp tool": full_chat(),
}
"""A canary in each field of each surface that holds content."""

ENDINGS: dict[str, Callable[[Spoken], Answer]] = {
    "answered": lambda spoken: answers(spoken, text=CANARY),
    "refused by the backend": lambda _: whole(ECHOED, 400),
    "refused as no JSON": lambda _: whole(CANARY.encode(), 422, "text/plain"),
    "refused as Anthropic does": lambda _: whole(b'{"type":"error",%b' % ECHOED[1:], 400),
    "failed": lambda _: whole(ECHOED, 500),
    "busy": lambda _: whole(ECHOED, 503),
    "gone": lambda _: whole(ECHOED.replace(b"BadRequestError", b"NotFoundError"), 404),
    "died": lambda _: death,
    "not understood": lambda _: whole(CANARY.encode()),
    "an error with 200": lambda _: whole(ECHOED),
    "of no usage": lambda spoken: whole(spoken.whole(text=CANARY).replace(b'"usage"', b'"%b"' % CANARY.encode())),
}  # fmt: skip
IN_STREAMS: dict[str, Callable[[Spoken], Answer]] = {
    "failed in its stream": lambda spoken: events(*begun(spoken), b"data: " + ECHOED + b"\n\n", DONE),
    "ended early": lambda spoken: events(*begun(spoken)),
    "a frame that is no json": lambda spoken: events(*begun(spoken), f"data: {CANARY}\n\n".encode()),
    "an event of no kind": lambda spoken: events(*begun(spoken), f'data: {{"type":"{CANARY}"}}\n\n'.encode()),
}
REFUSED: dict[str, dict[str, Any]] = {
    "of an unknown model": {"model": CANARY},
    "of wrong types": {"stream": CANARY, "user": [CANARY], "metadata": CANARY},
    "with a bad number": {"max_tokens": CANARY, "max_output_tokens": CANARY, "dimensions": CANARY, "top_n": CANARY},
    "with a name of its own": {CANARY: CANARY},
    "nested too deeply": {"metadata": orjson.loads(b"[" * 240 + f'"{CANARY}"'.encode() + b"]" * 240)},
    "of wrong content": {
        "messages": [{"role": CANARY, "content": {CANARY: CANARY}}], "prompt": {CANARY: CANARY}, "query": [{CANARY: 1}],
        "text_1": [{CANARY: CANARY}], "input": [{"type": CANARY, "content": CANARY, CANARY: CANARY}],
    },
    "with a bad part": {
        "messages": [{"role": "user", "content": [{"type": CANARY}]}],
        "input": [{"role": "user", "content": [{"type": CANARY, "text": CANARY}]}],
    },
    "with a bad image": {
        "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": f"https://{CANARY}/"}},
            {"type": "image", "source": {"type": "url", "url": f"https://{CANARY}/"}}]}],
        "input": [{"role": "user", "content": [{"type": "input_image", "image_url": f"https://{CANARY}/"}]}],
    },
}  # fmt: skip
"""What the gateway itself refuses, at least where a surface has such a field."""


def begun(spoken: Spoken) -> list[bytes]:
    return [*spoken.opening(), spoken.token(1, text=CANARY)]


def full_body(spoken: Spoken, **fields: Any) -> dict[str, Any]:
    return spoken.body(**{"model": "seeing/tiny"} | FULL[spoken.name] | fields)


@pytest.fixture(scope="module", autouse=True)
def logged() -> Iterator[list[str]]:
    with everything_logged() as lines:
        yield lines


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path_factory.mktemp("canary"),
            vllm_urls=[backend.url],
            models=[FREE, SEEING],
            enable_vision=True,
            log_level="debug",
        ) as door,
    ):
        yield door, backend, await door.key(credit="5")


async def nothing_kept(door: Door, logged: list[str], key: str) -> None:
    await door.nothing_is_left()
    assert not [line for line in logged if CANARY in line]
    assert CANARY.encode() not in await door.kept()
    assert CANARY not in (await door.http.get("/metrics")).text
    assert CANARY not in (await door.health()).text


async def ask(door: Door, key: str, spoken: Spoken, **fields: Any) -> httpx2.Response:
    return await door.post(orjson.dumps(full_body(spoken, **fields)), key, spoken.path, **spoken.headers)


@every_way
async def test_a_request_leaves_none_of_its_content_however_it_ends(
    served: Served, logged: list[str], spoken: Spoken, is_stream: bool
) -> None:
    door, backend, key = served
    endings = ENDINGS | (IN_STREAMS if is_stream else {})
    ((before,),) = await door.rows("SELECT COUNT(*) FROM requests")
    for name, ending in endings.items():
        backend.answer_with(ending(spoken), ending(spoken))
        response = await ask(door, key, spoken, is_stream=is_stream)
        assert response.status_code != 500, name
        assert backend.chats, (name, response.text)
    await nothing_kept(door, logged, key)
    assert await door.rows("SELECT COUNT(*) FROM requests") == [(before + len(endings),)]


@every_surface
async def test_what_is_refused_leaves_none_of_its_content(served: Served, logged: list[str], spoken: Spoken) -> None:
    door, backend, key = served
    for name, fields in REFUSED.items():
        backend.answer_with(answers(spoken))
        response = await ask(door, key, spoken, **fields)
        assert response.status_code != 500, name
    await nothing_kept(door, logged, key)


@every_way
async def test_what_was_asked_reached_the_backend_and_its_answer_the_client(
    served: Served, spoken: Spoken, is_stream: bool
) -> None:
    door, backend, key = served
    backend.answer_with(answers(spoken, text=CANARY))
    response = await ask(door, key, spoken, is_stream=is_stream)
    assert CANARY in response.text
    sent = backend.chats[0].body
    assert sent.count(CANARY.encode()) >= (10 if "messages" in FULL[spoken.name] else 2)
    assert (IMAGE.partition(",")[2].encode() in sent) == ("tools" in FULL[spoken.name])


@every_way
async def test_a_client_that_leaves_leaves_none_of_its_content(
    served: Served, logged: list[str], spoken: Spoken, is_stream: bool
) -> None:
    door, backend, key = served
    backend.answer_with(silence)
    task = asyncio.create_task(ask(door, key, spoken, is_stream=is_stream))
    (asked,) = await backend.chats_asked(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asked.gone()
    await nothing_kept(door, logged, key)


COUNTED = b'{"count":3,"input_tokens":3,"tokens":[1,2,3],"token_strs":["%b"],"prompt":"%b"}' % ((CANARY.encode(),) * 2)
QUESTIONS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/messages/count_tokens", full_message()),
    ("/v1/tokenize", {"prompt": CANARY, "return_token_strs": True}),
    ("/v1/tokenize", {name: full_chat()[name] for name in ("messages", "tools")}),
    ("/v1/detokenize", {"tokens": [1, 2, 3]}),
]


@pytest.mark.parametrize("number", range(len(QUESTIONS)), ids=[path for path, _ in QUESTIONS])
async def test_a_question_leaves_none_of_its_content(served: Served, logged: list[str], number: int) -> None:
    door, backend, key = served
    path, fields = QUESTIONS[number]
    body = orjson.dumps({"model": "seeing/tiny"} | fields)
    for answer in (whole(COUNTED), whole(ECHOED, 400), whole(ECHOED, 500), whole(CANARY.encode()), death):
        backend.answer_with()
        backend.counts = answer
        response = await door.post(body, key, path)
        assert response.status_code != 500
        assert backend.counted, response.text
    backend.counts = None
    await nothing_kept(door, logged, key)


async def test_what_is_not_json_or_not_http_leaves_nothing(served: Served, logged: list[str]) -> None:
    door, _, key = served
    await door.post(f'{{"model": {CANARY}'.encode(), key)
    await door.get(f"/v1/{CANARY}?q={CANARY}", key)
    await door.get(f"/v1/models/{CANARY}", key)
    await door.http.request("PURGE", f"/v1/models?{CANARY}", headers=bearer(key) | {"x-secret": CANARY})
    await door.raw(f"{CANARY} / HTTP/1.1\r\n{CANARY}\r\n\r\n".encode())
    await nothing_kept(door, logged, key)


async def test_keys_stand_in_no_file_and_no_log_line(served: Served, logged: list[str]) -> None:
    door, _, key = served
    made: str = (await door.http.post("/v1/keys", json={}, headers=bearer(key))).json()["key"]
    await door.chat(made)
    await door.chat(made[:-1] + "X")
    for told in (made, made[:-1] + "Y"):
        await door.http.post("/v1/messages", json={}, headers={"x-api-key": told})
    await door.nothing_is_left()
    kept = await door.kept()
    for raw in (key, made[:-1]):
        assert not [line for line in logged if raw in line]
        assert raw.encode() not in kept


async def test_a_bug_is_logged_by_its_place_and_kind_and_never_by_its_text(
    served: Served, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    door, _, key = served

    async def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError(f"cannot serve {CANARY}")

    monkeypatch.setattr(door.gateway.pool.backends[0].origin, "request", broken)
    response = await ask(door, key, CHAT_SPOKEN)
    monkeypatch.undo()
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert response.headers["x-request-id"] in response.json()["error"]["message"]
    (line,) = door.errors
    assert "RuntimeError" in line
    assert response.headers["x-request-id"] in line
    door.errors.clear()
    await nothing_kept(door, logged, key)
