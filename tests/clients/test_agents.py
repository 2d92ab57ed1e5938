"""Coding agents as they are: one table of programs and cases, with the requests that each makes and what they cost."""

import json
import re
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from mcp_gateway.core.config import Settings
from tests.clients import scripts
from tests.clients.agents import ADDRESS, AGENTS, DOCUMENT, RETRIES, run_agent, settle_in
from tests.clients.installed import PROGRAMS
from tests.clients.stage import BEGUN_NANO, CASES, COST_NANO, Stage, Told, model, of_case, open_stage, provided
from tests.clients.test_docs import PARSERS

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

TRIES = 1 + RETRIES


class Seen(NamedTuple):
    """What a person sees of a case, exit status and words among what is printed, and what the gateway has recorded."""

    status: int
    words: str
    told: Told


ANSWERED = {
    "answer": Seen(0, scripts.TEXT, of_case("answer")),
    "parallel tools": Seen(0, scripts.AFTER_TOOLS, of_case("parallel tools")),
}
TABLE: dict[str, dict[str, Seen]] = {
    "Claude Code": ANSWERED
    | {
        "thinking": Seen(0, scripts.TEXT, of_case("thinking")),
        "image": Seen(0, scripts.TEXT, of_case("image")),
        "cut answer": Seen(1, "exceeded the 8192 output token maximum", Told([200] * 4, 4 * COST_NANO)),
        "broken answer": Seen(1, "Server error mid-response", Told([502] * 4, 4 * BEGUN_NANO)),
        "cancel": Seen(0, "", of_case("cancel")),
        "402": Seen(1, "402 The balance", of_case("402")),
        "429": Seen(1, "(429) · Every place", of_case("429", RETRIES)),
        "429 of a limit": Seen(1, "(429) · The limit of 0 running requests", of_case("429 of a limit")),
        "503": Seen(1, "503 The model", of_case("503", RETRIES)),
        "context overflow": Seen(1, "Prompt is too long", of_case("context overflow")),
    },
    "Codex": ANSWERED
    | {
        "thinking": Seen(0, scripts.THOUGHT, of_case("thinking")),
        "image": Seen(0, scripts.TEXT, of_case("image")),
        "cut answer": Seen(1, scripts.TEXT, of_case("cut answer")),
        "broken answer": Seen(1, "stream disconnected", Told([502] * TRIES, TRIES * BEGUN_NANO)),
        "cancel": Seen(1, "", of_case("cancel")),
        "402": Seen(1, "Quota exceeded", of_case("402")),
        "429": Seen(1, "429 Too Many Requests", of_case("429", RETRIES)),
        "429 of a limit": Seen(1, "429 Too Many Requests", of_case("429 of a limit")),
        "503": Seen(1, "503 Service Unavailable", Told([503] * TRIES * TRIES, 0)),
        "context overflow": Seen(1, "ran out of room in the model's context window", of_case("context overflow")),
    },
    "OpenCode": {
        "answer": Seen(0, scripts.TEXT, Told([200] * 2, 2 * COST_NANO)),
        "parallel tools": Seen(0, scripts.AFTER_TOOLS, Told([200] * 3, 3 * COST_NANO)),
    },
    "Continue": ANSWERED,
}
NOT_TRIED = {"OpenCode": set(CASES) - set(ANSWERED), "Continue": set(CASES) - set(ANSWERED)}
"""Programs of which docs/agents.md claims no more."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with open_stage(tmp_path_factory.mktemp("agents")) as opened:
        yield opened


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


async def test_every_case_of_each_agent_is_in_the_table_or_said_not_to_be_tried() -> None:
    assert {agent: TABLE[agent].keys() | NOT_TRIED.get(agent, set()) for agent in AGENTS} == dict.fromkeys(
        TABLE, CASES.keys()
    )


@pytest.mark.parametrize(("agent", "case"), [(agent, case) for agent in TABLE for case in TABLE[agent]])
async def test_an_agent_ends_as_it_should_and_what_is_refused_is_free(
    stage: Stage, agent: str, case: str, home: Path
) -> None:
    account_id, key = await stage.caller(CASES[case])
    variables = settle_in(agent, home, stage.door.url, key, model(CASES[case].script))
    seen = TABLE[agent][case]
    stage.backend.asked.clear()
    until = stage.backend.chats_asked(1) if case == "cancel" else None
    ended = await run_agent(agent, home, variables, image=case == "image", until=until)
    told = await stage.told_of(account_id)
    assert (ended.status, told) == (seen.status, seen.told), ended.printed
    assert seen.words in ended.printed


@pytest.mark.parametrize(
    "case", ["answer", "parallel tools", "thinking", "image", "cut answer", "402", "context overflow"]
)
async def test_claude_code_ends_alike_where_a_provider_that_knows_chats_alone_has_the_model(
    stage: Stage, case: str, home: Path
) -> None:
    account_id, key = await stage.caller(CASES[case])
    variables = settle_in("Claude Code", home, stage.door.url, key, provided(CASES[case].script))
    seen = TABLE["Claude Code"][case]
    stage.backend.asked.clear()
    ended = await run_agent("Claude Code", home, variables, image=case == "image")
    told = await stage.told_of(account_id)
    assert {asked.path for asked in stage.backend.chats} <= {"/v1/chat/completions"}
    assert (ended.status, told) == (seen.status, seen.told), ended.printed
    assert seen.words in ended.printed


async def test_what_claude_code_says_of_itself_stays_here_and_its_tools_results_come_back(
    stage: Stage, home: Path
) -> None:
    await told_tools("Claude Code", stage, home)
    first, second = [asked.json for asked in stage.asked("calls")]
    assert "x-anthropic-billing-header" not in str(first["system"])
    results = [part["content"] for part in second["messages"][-1]["content"] if part["type"] == "tool_result"]
    assert sorted(results) == ["one", "two"]


async def test_codex_is_left_the_tools_that_it_runs_itself_and_nothing_is_stored(stage: Stage, home: Path) -> None:
    await told_tools("Codex", stage, home)
    first, second = [asked.json for asked in stage.asked("calls")]
    assert ({tool["type"] for tool in first["tools"]}, first["store"]) == ({"function"}, False)
    outputs = [item["call_id"] for item in second["input"] if item["type"] == "function_call_output"]
    assert outputs == ["call_0", "call_1"]


async def told_tools(agent: str, stage: Stage, home: Path) -> None:
    """Has an agent run two tools, after which the backend knows what it was asked."""
    _, key = await stage.caller(CASES["parallel tools"])
    stage.backend.asked.clear()
    await run_agent(agent, home, settle_in(agent, home, stage.door.url, key, model("calls")))


INSTALLED_AS = {
    "Claude Code": "@anthropic-ai/claude-code",
    "Codex": "@openai/codex",
    "OpenCode": "opencode-linux-x64",
    "Continue": "@continuedev/cli",
}


async def test_the_document_names_the_versions_that_are_run_and_no_other_program_as_tried() -> None:
    package = json.loads((PROGRAMS.parent / "package.json").read_text())
    versions = package["dependencies"] | package["optionalDependencies"]
    tried = re.findall(r"^## ([^\n]+)\n\n\*Tried with[^\d]* ([\d.]*\d)", DOCUMENT, re.M)
    assert dict(tried) == {agent: versions[name] for agent, name in INSTALLED_AS.items()}


async def test_every_block_of_the_document_parses_and_leads_to_the_gateway() -> None:
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", DOCUMENT, re.M | re.S)
    for language, text in blocks:
        PARSERS.get(language, str)(text)
    addresses = set(re.findall(r"http://[^\s\"'`|*)]+", "".join(text for _, text in blocks)))
    assert addresses == {ADDRESS, f"{ADDRESS}/v1", "http://127.0.0.1:8000"}
    served = next(text for language, text in blocks if language == "toml")
    assert Settings.model_validate(tomllib.loads(served)).models[0].aliases == ("claude-your-model",)
