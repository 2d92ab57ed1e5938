"""X-Gateway-Overhead-Ms: what the gateway itself took, without the waits for backends, by a clock that a test moves."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from tests.databases import locked_out
from tests.doors.test_openapi import BODIES
from tests.patience import eventually
from tests.replaying import Answer, Asked, ReplayingBackend, death, stream, unary, whole
from tests.serving import FREE, PRICED, Clock, Door, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
HEADER = "x-gateway-overhead-ms"
FREE_OF_CHARGE = ("/auth/", "/keys", "/messages/", "/tokenize", "/detokenize", "/webhook")
SURFACES = {path: body for (_, path), body in BODIES.items() if not path.startswith(FREE_OF_CHARGE)}
NARROW = FREE | {"id": "narrow/tiny", "context_window": 20}


class Stage:
    """A door with two backends, which give whatever answer is next, and the clock that requests are timed by."""

    def __init__(self, door: Door, *backends: ReplayingBackend) -> None:
        self.door = door
        self.backends = backends
        self.clock = door.gateway.inference.parts.monotonic_s = Clock(50.0)
        for backend in door.gateway.pool.backends:
            backend.work.now_s = self.clock

    def answer_with(self, *answers: Answer) -> None:
        queue = deque(answers)
        for backend in self.backends:
            backend.queue = queue

    def after(self, seconds: float, answer: Answer) -> Answer:
        """An answer that so much time passes for."""

        async def passing(asked: Asked) -> None:
            self.clock.now_s += seconds
            await answer(asked)

        return passing


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with (
        ReplayingBackend() as first,
        ReplayingBackend() as second,
        open_door(
            tmp_path_factory.mktemp("overhead"),
            vllm_urls=[first.url, second.url],
            models=[FREE, PRICED, NARROW],
            upstream={"collect_above_tokens": 100},
        ) as door,
    ):
        yield Stage(door, first, second)
        await door.nothing_is_left()


async def test_the_wait_for_a_backend_is_not_counted(stage: Stage) -> None:
    stage.answer_with(stage.after(2.0, unary()))
    began_at_s = stage.clock.now_s
    answer = await stage.door.chat(await stage.door.key(), max_tokens=9)
    assert (answer.status_code, answer.headers[HEADER]) == (200, "0.00")
    assert stage.clock.now_s == began_at_s + 2.0


@pytest.mark.parametrize("failing", [death, whole(b'{"error": {"message": "out of memory"}}', 500)])
async def test_nor_that_for_one_that_fails(stage: Stage, failing: Answer) -> None:
    stage.answer_with(stage.after(2.0, failing), stage.after(3.0, unary()))
    answer = await stage.door.chat(await stage.door.key(), max_tokens=9)
    assert (answer.status_code, answer.headers[HEADER]) == (200, "0.00")


async def test_nor_that_for_the_count_of_a_prompt(stage: Stage) -> None:
    for backend in stage.backends:
        backend.counts = stage.after(4.0, whole(b'{"count":9}'))
    stage.answer_with(stage.after(2.0, unary()))
    began_at_s = stage.clock.now_s
    answer = await stage.door.chat(await stage.door.key(), model="narrow/tiny", max_tokens=9)
    assert (answer.status_code, answer.headers[HEADER]) == (200, "0.00")
    assert stage.clock.now_s == began_at_s + 6.0


async def test_nor_the_time_in_which_an_answer_is_made_that_is_collected(stage: Stage) -> None:
    async def slow(asked: Asked) -> None:
        asked.start_stream()
        for event in stream():
            stage.clock.now_s += 1.0
            asked.send_event(event)
        asked.end_stream()

    stage.answer_with(slow)
    answer = await stage.door.chat(await stage.door.key(), max_tokens=500)
    assert (answer.json()["object"], answer.headers[HEADER]) == ("chat.completion", "0.00")


async def test_what_the_gateway_waits_for_itself_is_counted(stage: Stage) -> None:
    stage.answer_with(stage.after(2.0, unary()))
    key = await stage.door.key(credit="1")
    body = orjson.dumps({"model": "priced/tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9})
    await stage.door.post(body, key)  # the key is known and a replica has drawn, so that nothing else is asked
    running = stage.door.gateway.inference.running
    async with locked_out(stage.door.gateway):  # what waits for it is the bill
        asking = asyncio.ensure_future(stage.door.post(body, key))
        await eventually(lambda: any(exchange._bill.status is not None for exchange in running))
        stage.clock.now_s += 0.03125
    answer = await asking
    assert (answer.status_code, answer.headers[HEADER]) == (200, "31.25")


async def test_a_stream_and_a_refusal_tell_none(stage: Stage) -> None:
    stage.answer_with()
    key = await stage.door.key()
    streamed = await stage.door.chat(key, stream=True)
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert HEADER not in streamed.headers
    refused = await stage.door.chat(key, model="nobody")
    assert error_of(refused)["code"] == "model_not_found"
    assert HEADER not in refused.headers


async def test_every_surface_tells_it(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        key = await door.key()
        for path, body in SURFACES.items():
            answer = await door.post(orjson.dumps(body), key, path if path.startswith("/v2") else f"/v1{path}")
            assert answer.status_code == 200, path
            assert 0.0 < float(answer.headers[HEADER]) < 60_000.0, path
        document = (await door.get("/openapi.json")).json()
        assert {path for path in SURFACES if HEADER not in _told_of(document, path)} == set()


def _told_of(document: dict[str, Any], path: str) -> set[str]:
    """The headers that the document tells of an answer."""
    row = document["paths"][path if path.startswith("/v2") else f"/v1{path}"]["post"]
    return {name.lower() for name in row["responses"]["200"]["headers"]}
