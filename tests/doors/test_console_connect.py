"""What to paste where: each block parses, is what the documents say, and works in the clients that are at hand."""

import asyncio
import json
import os
import re
import shlex
import sys
import tomllib
from base64 import b64decode
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import pytest_asyncio

from http_api.console.connect_blocks import BLOCKS, ConnectBlock
from tests.serving import BASE_URL, FREE, Door, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROOT = Path(__file__).parents[2]
DOCUMENTS = "".join((ROOT / "docs" / name).read_text() for name in ("clients.md", "agents.md"))
NOT_IN_DOCUMENTS = {"openai-env", "anthropic-python", "pydantic-ai", "ai-sdk"}
ODD = FREE | {"id": "odd//model:free"}
QUOTED = FREE | {"id": "it's\"odd"}
MESSAGES = [{"role": "user", "content": "Hello"}]
every_block = pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.id)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    models = [FREE | {"backend_model": "demo/echo"}, ODD, QUOTED]
    async with open_door(tmp_path_factory.mktemp("connect"), models=models) as door:
        yield door
        await door.nothing_is_left()


def parsed(block: ConnectBlock) -> Any:
    """Raises for what its language does not read."""
    if block.format == "json":
        return json.loads(block.text)
    if block.format == "toml":
        return tomllib.loads(block.text)
    if block.format == "python":
        return compile(block.text, block.id, "exec")
    return (
        [shlex.split(line) for line in block.text.replace("\\\n", " ").splitlines()] if block.format == "sh" else None
    )


def is_within(part: Any, whole: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            name in whole and is_within(value, whole[name]) for name, value in part.items()
        )
    return bool(part == whole)


def documented(language: str) -> list[str]:
    return [text for tag, text in re.findall(r"^```(\w+)\n(.*?)^```$", DOCUMENTS, re.M | re.S) if tag == language]


async def page_of(door: Door, account_id: str, query: str = "") -> str:
    return (await door.get(f"/console/connect{query}", await door.person(account_id))).text


def shown(page: str) -> dict[str, str]:
    return {name: unescape(text) for name, text in re.findall(r'<code id="block-([\w-]+)">(.*?)</code>', page, re.S)}


@every_block
async def test_it_parses_also_with_what_is_filled_in(block: ConnectBlock) -> None:
    filled = block.filled("https://example.com/llm", "gw_test_AbC-_1...", "odd//model:free")
    assert parsed(block) or block.format == "js"
    assert parsed(filled) or block.format == "js"
    assert "https://example.com/llm" in filled.text
    assert not re.search(r"127\.0\.0\.1|gw_live_|your/model", filled.text)


@every_block
async def test_it_is_what_the_documents_say(block: ConnectBlock) -> None:
    if block.id in NOT_IN_DOCUMENTS:
        return
    texts = [text.replace("demo/echo", "your/model") for text in documented(block.format)]
    if block.format == "json":
        assert any(is_within(parsed(block), json.loads(text)) for text in texts)
    elif block.format == "toml":
        assert any(is_within(parsed(block), tomllib.loads(text)) for text in texts)
    else:
        lines = [line for line in block.text.splitlines() if not line.startswith("print(model.invoke")]
        assert any(set(lines) <= set(text.splitlines()) for text in texts)


async def test_links_have_what_the_blocks_say_and_no_key(door: Door) -> None:
    account_id = await door.account()
    await door.key(account_id, is_test=True)
    page = await page_of(door, account_id)
    links = [unescape(link) for link in re.findall(r'href="((?:https://cursor|vscode:)[^"]+)"', page)]
    blocks = shown(page)
    cursor, vs_code = links
    query = parse_qs(urlsplit(cursor).query)
    assert json.loads(b64decode(query["config"][0])) == json.loads(blocks["cursor"])["mcpServers"]["gateway"]
    told = json.loads(unquote(vs_code.partition("?")[2]))
    of_block = json.loads(blocks["vs-code"])
    assert told == {"name": "gateway", **of_block["servers"]["gateway"], "inputs": of_block["inputs"]}
    assert "gw_" not in b64decode(query["config"][0]).decode() + unquote(vs_code)


async def test_a_page_is_filled_in_for_its_reader(door: Door) -> None:
    account_id = await door.account()
    live, _ = await door.gateway.keys.create(account_id, name="live")
    test, _ = await door.gateway.keys.create(account_id, name="to test", is_test=True)
    newest, _ = await door.gateway.keys.create(account_id, name="newest")
    assert f"{test.prefix}..." in shown(await page_of(door, account_id))["curl"]
    blocks = shown(await page_of(door, account_id, f"?key={live.id}&model=odd//model:free&client=zed"))
    assert set(blocks) == {block.id for block in BLOCKS}
    assert f"{live.prefix}..." in blocks["curl"]
    assert '"odd//model:free"' in blocks["curl"]
    assert all(BASE_URL in text for text in blocks.values())
    assert newest.prefix not in "".join(blocks.values())


@pytest.mark.parametrize("query", ["?key=key_other&model=$(evil)&client=none", "?model=it's%22odd"])
async def test_what_is_not_the_reader_s_is_not_filled_in(door: Door, query: str) -> None:
    account_id = await door.account()
    page = await page_of(door, account_id, query)
    assert "You have no key yet" in page
    blocks = shown(page)
    assert '"model": "free/tiny"' in blocks["curl"]
    assert "gw_live_..." in blocks["curl"]
    assert "evil" not in page


async def test_who_may_not_ask_is_offered_no_model(door: Door) -> None:
    page = (await door.get("/console/connect?model=odd//model:free", await door.person(role="viewer"))).text
    assert 'id="model"' not in page
    assert '"model": "auto"' in shown(page)["curl"]


async def test_it_says_when_the_first_request_by_a_key_has_arrived(door: Door) -> None:
    account_id = await door.account()
    key, raw = await door.gateway.keys.create(account_id)
    reader = await door.person(account_id)
    path = f"/console/connect/{key.id}"
    waiting = (await door.get(path, reader, x_part="1")).text
    assert waiting.strip().startswith('<div id="arrived"')
    assert f'data-again="{path}"' in waiting
    assert (await door.chat(raw)).status_code == 200
    await door.gateway.ledger._store.flushed()
    arrived = (await door.get(path, reader)).text
    assert "Your first request arrived" in arrived
    assert "data-again" not in arrived
    assert (await door.get(path, await door.person())).status_code == 404


# The clients themselves


@pytest.mark.program
@pytest.mark.parametrize("name", ["curl", "openai-python", "openai-env", "mcp-python"])
async def test_what_is_shown_works_as_it_stands(door: Door, name: str) -> None:
    account_id = await door.account()
    key, raw = await door.gateway.keys.create(account_id)
    text = shown(await page_of(door, account_id))[name]
    text = text.replace(BASE_URL, door.url).replace(f"{key.prefix}...", raw)
    if name == "openai-env":
        ask = f"from openai import OpenAI as O; O().chat.completions.create(model='free/tiny', messages={MESSAGES})"
        text = f'{text}{shlex.quote(sys.executable)} -c "{ask}" && echo You said: Hello'
    is_python = name.endswith("python")
    command = [sys.executable, "-c", text] if is_python else ["sh", "-c", text]
    environ = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    program = await asyncio.create_subprocess_exec(*command, env=environ, stdout=-1, stderr=-1)
    printed, trouble = await program.communicate()
    assert program.returncode == 0, trouble.decode()
    assert "You said: Hello" in printed.decode()


@pytest.mark.program
async def test_the_bridge_is_started_as_claude_desktop_is_told(door: Door) -> None:
    account_id = await door.account()
    key, raw = await door.gateway.keys.create(account_id)
    entry = json.loads(shown(await page_of(door, account_id))["claude-desktop"])["mcpServers"]["gateway"]
    arguments = [text.replace(BASE_URL, door.url) for text in entry["args"]]
    assert arguments[0] == "bridge"
    environ = {**os.environ, "GATEWAY_API_KEY": entry["env"]["GATEWAY_API_KEY"].replace(f"{key.prefix}...", raw)}
    command = [sys.executable, "-m", "mcp_gateway", "bridge", "--check", *arguments[1:]]
    program = await asyncio.create_subprocess_exec(*command, env=environ, cwd=ROOT, stdout=-1, stderr=-1)
    printed, trouble = await program.communicate()
    assert program.returncode == 0, trouble.decode()
    assert "Key    accepted" in printed.decode()
