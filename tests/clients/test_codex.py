"""Codex, headless, with a model behind `POST /v1/responses`: it runs tools, and asks but once for what is final."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.captured import captured
from tests.clients.installed import INSTALLED, PATIENCE_S
from tests.replaying import ReplayingBackend, events, replayed
from tests.serving import Door, open_door

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

NOBODY = "http://127.0.0.1:9"
"""Where all goes that is not for the gateway."""
CONFIG = """
model = "priced/tiny"
model_provider = "gateway"
[model_providers.gateway]
name = "gateway"
base_url = "{url}/v1"
env_key = "GATEWAY_API_KEY"
wire_api = "responses"
"""
PRICED = {
    "id": "priced/tiny",
    "backend_model": "tiny",
    "context_window": 200_000,
    "pricing": {"prompt": "0.0000003", "completion": "0.0000007"},
}
COST_NANO = 10 * 300 + 5 * 700
RESPONSE: dict[str, Any] = {
    "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "tiny", "output": [],
    "usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
}  # fmt: skip
TEXT = {
    "type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
    "content": [{"type": "output_text", "text": "Hello from the double.", "annotations": []}],
}  # fmt: skip


@dataclass
class Stage:
    door: Door
    backend: ReplayingBackend

    async def key(self, credit: str) -> str:
        return await self.door.key(await self.door.account(credit))

    async def recorded(self) -> list[tuple[Any, ...]]:
        await self.door.nothing_is_left()
        return await self.door.rows("SELECT http_status, cost_nano FROM requests ORDER BY started_at_ms")


@pytest_asyncio.fixture(loop_scope="module")
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with (
        ReplayingBackend(max_model_len=200_000) as backend,
        open_door(tmp_path / "data", vllm_urls=[backend.url], models=[PRICED]) as door,
    ):
        yield Stage(door, backend)


def program() -> Path:
    (found,) = INSTALLED.glob("node_modules/@openai/codex-*/vendor/*/bin/codex")
    return found


async def codex(stage: Stage, home: Path, key: str, prompt: str = "Say hello") -> tuple[str, str]:
    """What it prints as its answer, and what it tells besides."""
    (home / ".codex").mkdir(parents=True)
    (home / ".codex" / "config.toml").write_text(CONFIG.format(url=stage.door.url))
    running = await asyncio.create_subprocess_exec(
        program(), "exec", "--skip-git-repo-check", prompt, cwd=home, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={"HOME": str(home), "PATH": os.environ["PATH"], "GATEWAY_API_KEY": key, "HTTP_PROXY": NOBODY,
             "HTTPS_PROXY": NOBODY, "NO_PROXY": "127.0.0.1"},
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_S):
        told, rest = await running.communicate()
    return told.decode(), rest.decode()


def streamed(*items: dict[str, Any]) -> list[bytes]:
    """The events of an answer with these items."""
    told: list[dict[str, Any]] = [{"type": "response.created", "response": RESPONSE | {"status": "in_progress"}}]
    for index, item in enumerate(items):
        told.append({"type": "response.output_item.added", "output_index": index, "item": item})
        told.append({"type": "response.output_item.done", "output_index": index, "item": item})
    told.append({"type": "response.completed", "response": RESPONSE | {"output": list(items)}})
    return [
        b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json.dumps(event | {"sequence_number": number}).encode())
        for number, event in enumerate(told)
    ]


def call(number: int) -> dict[str, Any]:
    arguments = json.dumps({"cmd": f"echo {number}"})
    return {"type": "function_call", "id": f"fc_{number}", "call_id": f"call_{number}", "name": "exec_command",
            "arguments": arguments, "status": "completed"}  # fmt: skip


async def test_it_answers_in_one_request(stage: Stage, tmp_path: Path) -> None:
    stage.backend.answer_with(events(*streamed(TEXT)))
    told, _ = await codex(stage, tmp_path / "home", await stage.key("1"))
    assert told == "Hello from the double.\n"
    (asked,) = stage.backend.chats
    assert {tool["type"] for tool in asked.json["tools"]} == {"function"}
    assert asked.json["store"] is False
    assert await stage.recorded() == [(200, COST_NANO)]


async def test_it_runs_two_tools_at_once_and_goes_on(stage: Stage, tmp_path: Path) -> None:
    stage.backend.answer_with(events(*streamed(call(1), call(2))), events(*streamed(TEXT)))
    told, _ = await codex(stage, tmp_path / "home", await stage.key("1"))
    assert told == "Hello from the double.\n"
    items = stage.backend.chats[-1].json["input"]
    assert [item["call_id"] for item in items if item["type"] == "function_call_output"] == ["call_1", "call_2"]
    assert await stage.recorded() == [(200, COST_NANO)] * 2


async def test_an_empty_wallet_is_asked_once_and_costs_nothing(stage: Stage, tmp_path: Path) -> None:
    _, rest = await codex(stage, tmp_path / "home", await stage.key("0"))
    assert "Quota exceeded" in rest
    assert await stage.recorded() == [(402, 0)]


async def test_a_prompt_that_is_too_long_is_asked_once_and_costs_nothing(stage: Stage, tmp_path: Path) -> None:
    stage.backend.answer_with(replayed(captured("528_responses_too_long")))
    _, rest = await codex(stage, tmp_path / "home", await stage.key("1"))
    assert "context window" in rest
    assert await stage.recorded() == [(400, 0)]


async def test_an_answer_that_is_cut_is_shown_as_far_as_it_came(stage: Stage, tmp_path: Path) -> None:
    cut = RESPONSE | {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": [TEXT]}
    last = (
        b"event: response.completed\ndata: %b\n\n"
        % json.dumps({"type": "response.completed", "response": cut}).encode()
    )
    stage.backend.answer_with(events(*streamed(TEXT)[:-1], last))
    told, rest = await codex(stage, tmp_path / "home", await stage.key("1"))
    assert "Hello from the double." in told + rest
    assert await stage.recorded() == [(200, COST_NANO)]
