"""A double of a vLLM before 0.32: it refuses what exceeds its window, has older gauges, and lists no window."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio

from tests.doors.test_output_limits import WINDOW, WORDS, as_before_0_32
from tests.replaying import DONE, Answer, Asked, ReplayingBackend, events, stream, whole
from tests.serving import FREE, PRICED, Door, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

_GAUGES = b"""\
# HELP vllm:num_requests_running Number of requests currently running on GPU.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="tiny"} 3.0
vllm:num_requests_swapped{model_name="tiny"} 0.0
vllm:num_requests_waiting{model_name="tiny"} 2.0
vllm:gpu_cache_usage_perc{model_name="tiny"} 0.5
"""


class OldBackend(ReplayingBackend):
    """Answers about itself as old servers do."""

    def _answer_to(self, asked: Asked) -> Answer:
        if asked.path == "/v1/models":
            rows = [{"id": name, "object": "model", "created": 1, "owned_by": "vllm"} for name in self.models]
            return whole(orjson.dumps({"object": "list", "data": rows}))
        if asked.path == "/metrics":
            return whole(_GAUGES, content_type="text/plain")
        return super()._answer_to(asked)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def old(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Door, OldBackend]]:
    folder, models = tmp_path_factory.mktemp("old"), [FREE, PRICED]
    async with OldBackend() as backend, open_door(folder, vllm_urls=[backend.url], models=models) as door:
        yield door, backend
        await door.nothing_is_left()


async def stream_or_refusal(asked: Asked) -> None:
    await (events(*stream()) if asked.json.get("stream") else as_before_0_32(WORDS[0]))(asked)


@pytest.mark.parametrize("fields", [{}, {"max_tokens": None}, {"max_tokens": 100}, {"max_tokens": WINDOW}])
@pytest.mark.parametrize("model", [FREE["id"], PRICED["id"]])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_an_old_server_answers_whatever_limit_the_caller_names(
    old: tuple[Door, OldBackend], model: str, fields: dict[str, Any], is_stream: bool
) -> None:
    door, backend = old
    backend.standing = stream_or_refusal
    account = await door.account("1")
    answer = await door.chat(await door.key(account), model=model, stream=is_stream, **fields)
    assert answer.status_code == 200
    assert answer.content.endswith(DONE) == is_stream
    spent_nano = 10 * 300 + 4 * 700 if model == PRICED["id"] else 0
    assert await door.balance_nano(account) == 10**9 - spent_nano


async def test_an_old_server_s_queue_is_read(old: tuple[Door, OldBackend]) -> None:
    (backend,) = old[0].gateway.pool.backends
    assert backend.work.queue is not None
    assert (backend.work.queue.running, backend.work.queue.waiting) == (3, 2)
    assert (await old[0].get("/v1/models", await old[0].key())).status_code == 200
