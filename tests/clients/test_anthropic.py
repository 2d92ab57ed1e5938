"""Anthropic's Python SDK, and its own Claude Code without a person before it, as clients of Messages."""

import asyncio
import os
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.clients.installed import INSTALLED, PATIENCE_S
from tests.core.surfaces.test_message_events import START, ending, event
from tests.replaying import Answer, ReplayingBackend, events
from tests.serving import PRICED, Door, open_door

pytestmark = pytest.mark.slow

CLAUDE = INSTALLED / "node_modules" / "@anthropic-ai" / "claude-code-linux-x64" / "claude"
WINDOW = 200_000
PROMPT_TOKENS = 15_000
BEGUN = START.replace(b'"input_tokens":14', b'"input_tokens":%d' % PROMPT_TOKENS)
QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1", "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_TELEMETRY": "1",
}  # fmt: skip


def block(index: int, begins: dict[str, Any], *deltas: dict[str, Any]) -> list[bytes]:
    started = event("content_block_start", index=index, content_block=begins)
    further = [event("content_block_delta", index=index, delta=delta) for delta in deltas]
    return [started, *further, event("content_block_stop", index=index)]


def call(index: int, command: str) -> list[bytes]:
    use = {"type": "tool_use", "id": f"toolu_{index}", "name": "Bash", "input": {}}
    given = orjson.dumps({"command": command, "description": "say"}).decode()
    return block(index, use, {"type": "input_json_delta", "partial_json": given})


def answer(reason: str, output_tokens: int, *blocks: bytes) -> Answer:
    end = ending(reason, input_tokens=PROMPT_TOKENS, output_tokens=output_tokens)
    return events(BEGUN, *blocks, end, event("message_stop"))


THINKS = block(0, {"type": "thinking", "thinking": ""}, {"type": "thinking_delta", "thinking": "I think."})
CALLS = answer("tool_use", 25, *THINKS, *call(1, "echo one"), *call(2, "echo two"))
SAYS = answer("end_turn", 3, *block(0, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Done well."}))


async def claude(door: Door, key: str, model: str, home: Path) -> tuple[int | None, str]:
    """How it ended, and what it printed; whatever it would ask elsewhere, it asks a closed port."""
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9") | {"NO_PROXY": "127.0.0.1,localhost"}
    models = {"ANTHROPIC_MODEL": model, "ANTHROPIC_DEFAULT_HAIKU_MODEL": model}
    address = {"ANTHROPIC_BASE_URL": door.url, "ANTHROPIC_AUTH_TOKEN": key, "HOME": str(home)}
    program = await asyncio.create_subprocess_exec(
        CLAUDE, "-p", "Use the tools now", "--allowedTools", "Bash(echo:*)",
        env={"PATH": os.environ["PATH"]} | nowhere | models | address | QUIET, cwd=home,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_S):
        printed, _ = await program.communicate()
    return program.returncode, printed.decode()


async def test_claude_code_works_with_a_model_by_its_alias_and_each_turn_is_billed(tmp_path: Path) -> None:
    models = [PRICED | {"context_window": WINDOW, "aliases": ["claude-tiny"]}]
    async with (
        ReplayingBackend(max_model_len=WINDOW) as backend,
        open_door(tmp_path, vllm_urls=[backend.url], models=models) as door,
    ):
        backend.answer_with(CALLS, SAYS)
        account = await door.account("1")
        status, printed = await claude(door, await door.key(account), "claude-tiny", tmp_path)
        assert status == 0, printed
        assert "Done well." in printed
        first, second = [asked.json for asked in backend.chats]
        assert "x-anthropic-billing-header" not in str(first["system"])
        results = [part["content"] for part in second["messages"][-1]["content"] if part["type"] == "tool_result"]
        assert sorted(results) == ["one", "two"]
        rows = await door.rows(
            "SELECT model, prompt_tokens, completion_tokens FROM requests ORDER BY completion_tokens"
        )
        assert rows == [("priced/tiny", PROMPT_TOKENS, 3), ("priced/tiny", PROMPT_TOKENS, 25)]
        status, printed = await claude(door, await door.key(await door.account()), "claude-tiny", tmp_path)
        assert (status, "402" in printed) == (1, True)
        refused = await door.rows("SELECT cost_nano FROM requests WHERE http_status = 402")
        assert refused == [(0,)], "one request, and nothing billed"
        await door.nothing_is_left()
