"""No content is kept: a canary in every place that holds content turns up in no file, log line or metric."""

import asyncio
import logging
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.observe.logs import configure_logging
from tests.replaying import DONE, Answer, ReplayingBackend, chunk, death, events, silence, stream, unary, whole
from tests.serving import FREE, PRICED, Door, bearer, chat_body, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

CANARY = "canary7Kq2xVb9"
SEEING = PRICED | {"id": "seeing/tiny", "input_modalities": ["text", "image"]}
ECHOED = orjson.dumps(
    {"error": {"message": f"bad {CANARY}", "type": "BadRequestError", "param": f"messages.{CANARY}", "code": 400}}
)
IMAGE = "data:image/png;base64," + b64encode(f"{CANARY}{CANARY}".encode()).decode()


def full_of_canaries(**fields: Any) -> dict[str, Any]:
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
    return chat_body(model="seeing/tiny", messages=messages, tools=tools, **kept) | fields


ENDINGS: dict[str, tuple[Answer, dict[str, Any]]] = {
    "answered": (unary(content=CANARY), {}),
    "streamed": (events(chunk(CANARY, 9, 1, "stop"), *stream()[-2:]), {"stream": True}),
    "refused by the backend": (whole(ECHOED, 400), {}),
    "failed": (whole(ECHOED, 500), {}),
    "died": (death, {}),
    "not understood": (whole(CANARY.encode()), {}),
    "failed in its stream": (events(chunk(CANARY, 9, 1), b"data: " + ECHOED + b"\n\n", DONE), {"stream": True}),
    "a frame that is no json": (events(chunk(CANARY, 9, 1), f"data: {CANARY}\n\n".encode()), {"stream": True}),
    "of an unknown model": (unary(), {"model": CANARY}),
    "of wrong types": (unary(), {"messages": [{"role": CANARY, "content": {CANARY: CANARY}}]}),
    "with a bad number": (unary(), {"max_tokens": CANARY}),
    "with a bad part": (unary(), {"messages": [{"role": "user", "content": [{"type": CANARY}]}]}),
    "with a bad image": (unary(), {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": f"https://{CANARY}/"}}]}]}),
    "nested too deeply": (unary(), {"metadata": orjson.loads(b"[" * 240 + f'"{CANARY}"'.encode() + b"]" * 240)}),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def logged() -> Iterator[list[str]]:
    """Every line that any logger writes, with the gateway's own logging at its loudest."""
    lines: list[str] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    root, handler = logging.getLogger(), Keeping()
    before = {name: logging.getLogger(name).level for name in ("", *logging.root.manager.loggerDict)}
    configure_logging("debug")
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield lines
    root.removeHandler(handler)
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Door, ReplayingBackend, str]]:
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
    kept = [path for path in files_of(door.data_dir) if CANARY.encode() in path.read_bytes()]
    assert kept == []
    assert CANARY not in (await door.http.get("/metrics")).text
    assert CANARY not in (await door.health()).text


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_chat_leaves_none_of_its_content(
    served: tuple[Door, ReplayingBackend, str], logged: list[str], ending: str
) -> None:
    door, backend, key = served
    answer, fields = ENDINGS[ending]
    backend.answer_with(answer, answer)
    response = await door.post(orjson.dumps(full_of_canaries(**fields)), key)
    assert response.status_code != 500
    assert await door.rows("SELECT 1 FROM requests WHERE id = ?", response.headers["x-request-id"])
    await nothing_kept(door, logged, key)


async def test_what_was_asked_reached_the_backend_and_its_answer_the_client(
    served: tuple[Door, ReplayingBackend, str],
) -> None:
    door, backend, key = served
    backend.answer_with(unary(content=CANARY))
    response = await door.post(orjson.dumps(full_of_canaries()), key)
    assert CANARY in response.text
    assert backend.chats[0].body.count(CANARY.encode()) > 10
    assert IMAGE.encode() in backend.chats[0].body


async def test_a_client_that_leaves_leaves_none_of_its_content(
    served: tuple[Door, ReplayingBackend, str], logged: list[str]
) -> None:
    door, backend, key = served
    backend.answer_with(silence)
    task = asyncio.create_task(door.post(orjson.dumps(full_of_canaries()), key))
    (asked,) = await backend.chats_asked(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asked.gone()
    await nothing_kept(door, logged, key)


async def test_what_is_not_json_or_not_http_leaves_nothing(
    served: tuple[Door, ReplayingBackend, str], logged: list[str]
) -> None:
    door, _, key = served
    await door.post(f'{{"model": {CANARY}'.encode(), key)
    await door.get(f"/v1/{CANARY}?q={CANARY}", key)
    await door.get(f"/v1/models/{CANARY}", key)
    await door.http.request("PURGE", f"/v1/models?{CANARY}", headers=bearer(key) | {"x-secret": CANARY})
    await door.raw(f"{CANARY} / HTTP/1.1\r\n{CANARY}\r\n\r\n".encode())
    await nothing_kept(door, logged, key)


async def test_keys_stand_in_no_file_and_no_log_line(
    served: tuple[Door, ReplayingBackend, str], logged: list[str]
) -> None:
    door, _, key = served
    made: str = (await door.http.post("/v1/keys", json={}, headers=bearer(key))).json()["key"]
    await door.chat(made)
    await door.chat(made[:-1] + "X")
    await door.nothing_is_left()
    for raw in (key, made):
        assert not [line for line in logged if raw in line]
        assert not [path for path in files_of(door.data_dir) if raw.encode() in path.read_bytes()]


async def test_a_bug_is_logged_by_its_place_and_kind_and_never_by_its_text(
    served: tuple[Door, ReplayingBackend, str], logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    door, _, key = served

    async def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError(f"cannot serve {CANARY}")

    monkeypatch.setattr(door.gateway.pool.backends[0].origin, "request", broken)
    response = await door.post(orjson.dumps(full_of_canaries()), key)
    monkeypatch.undo()
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert response.headers["x-request-id"] in response.json()["error"]["message"]
    (line,) = door.errors
    assert "RuntimeError" in line
    assert response.headers["x-request-id"] in line
    door.errors.clear()
    await nothing_kept(door, logged, key)
