"""The playground in a browser: an answer as it comes, stopping it, what helps where it is refused, the same as code."""

import asyncio
import os
import shlex
import sys
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.console.browser import LOOKS, Watched, watched_page
from tests.console.house import PASSWORD, House, open_house
from tests.replaying import Asked, ReplayingBackend, events, stream
from tests.serving import FREE, PRICED, bearer

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
ODD = FREE | {"id": "odd//model:free", "backend_model": "tiny"}
MARKUP = "<img src=x onerror=alert(1)> <b>bold</b>"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[House, ReplayingBackend]]:
    settings: dict[str, Any] = {"models": [FREE, PRICED, ODD]}
    async with ReplayingBackend() as backend:
        path = tmp_path_factory.mktemp("playground")
        async with open_house(path, "/llm", vllm_urls=[backend.url], **settings) as house:
            yield house, backend


async def opened(house: House, watched: Watched, model: str = "free/tiny", email: str | None = None) -> None:
    await house.sign_in(watched, email)
    await watched.page.goto(f"{house.prefix}/console/playground?model={model}")


async def ask(watched: Watched, text: str) -> None:
    await watched.page.get_by_label("Message").fill(text)
    await watched.page.get_by_role("button", name="Send").click()


async def test_an_answer_is_shown_as_text_with_its_tokens_cost_and_speed(
    stage: tuple[House, ReplayingBackend],
) -> None:
    house, backend = stage
    backend.answer_with(events(*stream()))
    async with watched_page(house.browser, house.door.url) as watched:
        await opened(house, watched, "odd//model:free")
        await watched.page.get_by_label("System").fill("Be brief.")
        await watched.page.get_by_label("Temperature").fill("0.5")
        await ask(watched, MARKUP)
        facts = watched.page.locator("#facts")
        for told in ("first token after", "tokens asked", "answered", "cost $0"):
            await expect(facts).to_contain_text(told)
        talk = watched.page.locator("#talk")
        await expect(talk).to_contain_text(MARKUP)
        assert await talk.locator("img, b").count() == 0
        sent = backend.chats[-1].json
        assert [message["role"] for message in sent["messages"]] == ["system", "user"]
        assert sent["temperature"] == 0.5
        backend.answer_with(events(*stream()))
        await ask(watched, "And then?")
        await expect(talk.locator("article")).to_have_count(4)
        await expect(watched.page.get_by_role("button", name="Stop")).to_be_hidden()
        assert [message["role"] for message in backend.chats[-1].json["messages"]] == [
            "system", "user", "assistant", "user",
        ]  # fmt: skip
        kept = await watched.page.evaluate("[localStorage.length, sessionStorage.length, history.state]")
        assert kept == [0, 0, None]
        assert MARKUP not in watched.page.url
        assert await watched.faults() == []
        await watched.page.reload()
        assert await watched.page.get_by_label("System").input_value() == ""
        assert await talk.locator("article").count() == 0


async def test_stopping_lets_go_of_the_backend(stage: tuple[House, ReplayingBackend]) -> None:
    house, backend = stage
    begun = asyncio.Event()

    async def endless(asked: Asked) -> None:
        asked.start_stream()
        for frame in stream()[:3]:
            asked.send_event(frame)
        begun.set()
        await asked.gone()

    backend.answer_with(endless)
    async with watched_page(house.browser, house.door.url) as watched:
        await opened(house, watched)
        await ask(watched, "Tell me a story without an end.")
        await begun.wait()
        await watched.page.get_by_role("button", name="Stop").click()
        await backend.chats[-1].gone()
        await expect(watched.page.locator("#facts")).to_contain_text("Stopped")
        await expect(watched.page.get_by_role("button", name="Send")).to_be_enabled()


async def test_a_refusal_is_shown_with_what_helps_and_what_was_typed_stays(
    stage: tuple[House, ReplayingBackend],
) -> None:
    house, backend = stage
    backend.answer_with()
    poor = "without-money@example.com"
    here = {"counted_as": "tests", "agent": "tests", "address": "127.0.0.1"}
    await house.door.gateway.sign_in.register(poor, PASSWORD, secret=None, **here)
    async with watched_page(house.browser, house.door.url) as watched:
        await opened(house, watched, "priced/tiny", poor)
        await ask(watched, "For money")
        trouble = watched.page.get_by_role("alert")
        await expect(trouble.get_by_role("link", name="Pay into the wallet")).to_have_attribute(
            "href", "/llm/console/wallet"
        )
        assert await watched.page.get_by_label("Message").input_value() == "For money"
        await watched.page.route(
            "**/v1/chat/completions",
            lambda route: route.fulfill(
                status=429, headers={"retry-after": "7"}, json={"error": {"message": "Too many.", "code": "requests"}}
            ),
        )
        await ask(watched, "Once more")
        await expect(trouble).to_contain_text("Too many. Try again in 7 s.")
        await expect(trouble.get_by_role("link", name="See the limits")).to_be_visible()


async def test_the_same_is_asked_by_the_code_that_it_shows(stage: tuple[House, ReplayingBackend]) -> None:
    house, backend = stage
    key = await house.door.key()
    async with watched_page(house.browser, house.door.url) as watched:
        await opened(house, watched)
        said = """It's "quoted" \\ $HOME ünï"""
        await watched.page.get_by_label("Message").fill(said)
        await watched.page.get_by_label("Seed").fill("7")
        shown = {
            name: await watched.page.locator(f"#as-{name}").text_content() or "" for name in ("curl", "python", "mcp")
        }
    assert "gw_" not in "".join(shown.values())
    here = {name: text.replace("http://gateway.test", house.door.url) for name, text in shown.items()}
    assert shlex.split(here["curl"])[0] == "curl"
    for command in (["sh", "-c", here["curl"]], [sys.executable, "-c", here["python"]]):
        backend.answer_with()
        environ = os.environ | {"GATEWAY_API_KEY": key}
        program = await asyncio.create_subprocess_exec(*command, env=environ, stdout=-1, stderr=-1)
        _, trouble = await program.communicate()
        assert program.returncode == 0, trouble
        sent = backend.chats[-1].json
        assert (sent["messages"][-1]["content"], sent["seed"]) == (said, 7)
    backend.answer_with()
    headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}
    answer = await house.door.http.post("/v1/mcp", json=orjson.loads(here["mcp"]), headers=headers | bearer(key))
    assert answer.status_code == 200
    assert backend.chats[-1].json["messages"][-1]["content"] == said


@pytest.mark.parametrize("look", LOOKS)
async def test_a_conversation_is_clean_in_every_look(stage: tuple[House, ReplayingBackend], look: str) -> None:
    house, backend = stage
    backend.answer_with(events(*stream()))
    async with watched_page(house.browser, house.door.url, look) as watched:
        await opened(house, watched)
        await ask(watched, "Say hello.")
        await expect(watched.page.locator("#facts")).to_contain_text("answered")
        await watched.page.get_by_text("The same by a program").click()
        if folder := os.environ.get("SCREENSHOTS"):
            await watched.page.screenshot(path=f"{folder}/console-playground-talk-{look}.png", full_page=True)
        assert await watched.faults() == []


async def test_a_conversation_that_is_begun_anew_while_it_is_answered_is_gone(
    stage: tuple[House, ReplayingBackend],
) -> None:
    house, backend = stage

    async def endless(asked: Asked) -> None:
        asked.start_stream()
        for frame in stream()[:3]:
            asked.send_event(frame)
        await asked.gone()

    backend.answer_with(endless, events(*stream()))
    async with watched_page(house.browser, house.door.url) as watched:
        await opened(house, watched)
        await ask(watched, "A story.")
        await expect(watched.page.locator(".said").last).to_contain_text("x")
        await watched.page.get_by_role("button", name="Begin anew").click()
        await expect(watched.page.get_by_role("button", name="Send")).to_be_enabled()
        await ask(watched, "Another.")
        await expect(watched.page.locator("#facts")).to_contain_text("answered")
        assert [message["content"] for message in backend.chats[-1].json["messages"]] == ["Another."]
