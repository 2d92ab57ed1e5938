"""One conversation by each surface that has any: behind a backend that counts it alike, it costs the same."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.money import format_usd
from mcp_gateway.core.upstream.demo.backend import DemoBackend
from tests.captured import captured
from tests.replaying import Asked, ReplayingBackend, replayed, silence, whole
from tests.serving import open_door
from tests.stage import CREDIT_NANO, PRICED, Stage, cost_nano, staged
from tests.surfaces import SPOKEN, ChatTool

pytestmark = [pytest.mark.surfaces, pytest.mark.asyncio(loop_scope="module")]

ARGUMENTS = '{"city": "Oslo"}'
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"name": "weather", "description": "Tells the weather."}
Bodies = dict[str, dict[str, Any]]

SAID: Bodies = {
    "chat": {"messages": [{"role": "user", "content": "Was it not warm in Oslo, of all places?"}]},
    "messages": {"messages": [{"role": "user", "content": "Was it not warm in Oslo, of all places?"}]},
    "responses": {"input": "Was it not warm in Oslo, of all places?"},
}
TOLD: Bodies = {
    "chat": {"messages": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi!"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": [{"type": "text", "text": "Ünd?\n你好"}]},
    ]},
    "messages": {"system": "Be brief.", "messages": [
        {"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": [{"type": "text", "text": "Ünd?\n你好"}]},
    ]},
    "responses": {"instructions": "Be brief.", "input": [
        {"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": [{"type": "input_text", "text": "Ünd?\n你好"}]},
    ]},
}  # fmt: skip
CALLED: Bodies = {
    "chat": {
        "messages": [
            {"role": "user", "content": "Oslo?"},
            {"role": "assistant", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "Warm."},
        ],
        "tools": [{"type": "function", "function": TOOL | {"parameters": SCHEMA}}],
    },
    "messages": {
        "messages": [
            {"role": "user", "content": "Oslo?"},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "c1", "name": "weather", "input": orjson.loads(ARGUMENTS)}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "Warm."}]},
        ],
        "tools": [TOOL | {"input_schema": SCHEMA}],
    },
    "responses": {
        "input": [
            {"role": "user", "content": "Oslo?"},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": ARGUMENTS},
            {"type": "function_call_output", "call_id": "c1", "output": "Warm."},
        ],
        "tools": [{"type": "function", **TOOL, "parameters": SCHEMA}],
    },
}  # fmt: skip


CASES = pytest.mark.parametrize("bodies", [SAID, TOLD, CALLED], ids=["said", "told", "called"])


async def as_the_demo(asked: Asked) -> None:
    """The demo behind a socket: it counts a conversation alike, whichever way it comes."""
    headers = [(name.encode(), value.encode()) for name, value in asked.headers.items()]
    response = await DemoBackend().request(asked.method, asked.path, headers, asked.body)
    if not asked.json.get("stream"):
        await whole(await response.read(), response.status)(asked)
        return
    asked.start_stream()
    while event := await response.next_chunk():
        asked.send_event(event)
    asked.end_stream()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    priced = PRICED | {"backend_model": "demo/echo"}
    async with (
        ReplayingBackend("demo/echo") as backend,
        open_door(tmp_path_factory.mktemp("alike"), vllm_urls=[backend.url], models=[priced]) as door,
    ):
        backend.standing = backend.counts = as_the_demo
        yield await staged(door, backend)


@CASES
async def test_a_conversation_costs_the_same_by_every_surface_to_the_nano(stage: Stage, bodies: Bodies) -> None:
    paid = set()
    for spoken in SPOKEN:
        if spoken.surface.name not in bodies:
            continue
        for is_stream in {False, spoken.has_streams}:
            payer = await stage.credited(CREDIT_NANO)
            response = await payer.ask(spoken, is_stream=is_stream, **bodies[spoken.surface.name])
            usage, cost_usd = spoken.told(response, is_stream=is_stream)
            (record,) = await payer.records()
            await payer.is_left_with(CREDIT_NANO - record["cost_nano"])
            assert usage is not None
            assert usage[:2] == (record["prompt_tokens"], record["completion_tokens"])
            assert record["cost_nano"] == cost_nano(*usage[:2])
            paid.add((*usage[:2], cost_usd))
    assert len(paid) == 1, paid


@CASES
async def test_who_leaves_before_the_answer_pays_the_same_by_every_surface(stage: Stage, bodies: Bodies) -> None:
    """Each has its own way to have a prompt counted."""
    paid = set()
    for spoken in SPOKEN:
        if spoken.surface.name in bodies:
            payer = await stage.credited(CREDIT_NANO)
            stage.backend.answer_with(silence)
            await payer.leave_once_asked(spoken, **bodies[spoken.surface.name])
            (record,) = await payer.records()
            paid.add((record["prompt_tokens"], record["cost_nano"]))
    assert len(paid) == 1, paid
    assert paid.pop()[0] > 0


@pytest.mark.parametrize(
    ("cases", "prompt_tokens"),
    [
        (["520_responses", "526_responses_store", "540_messages"], 14),
        (["830_prompt_tokens_details", "849_messages_reasoning"], 192),
    ],
)
async def test_a_real_server_counts_one_text_alike_by_every_surface(
    stage: Stage, cases: list[str], prompt_tokens: int
) -> None:
    """What of it a cache had is told apart by messages, and billed with the rest."""
    for case in cases:
        capture = captured(case)
        (spoken,) = [one for one in SPOKEN if one.upstream == capture.path and not isinstance(one, ChatTool)]
        stage.backend.answer_with(replayed(capture))
        response = await stage.ask(spoken)
        usage, cost_usd = spoken.told(response, is_stream=False)
        assert usage is not None
        assert usage.prompt_tokens == prompt_tokens
        assert cost_usd == format_usd(cost_nano(*usage[:2]))
