"""Connecting in a browser: the reader's own key in the blocks, copied, and the first request that arrives meanwhile."""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.console.browser import LOOKS, watched_page
from tests.console.house import House, open_house

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with open_house(tmp_path_factory.mktemp("connect"), "/llm") as house:
        yield house


async def test_a_whole_key_is_put_into_the_blocks_without_being_sent(house: House) -> None:
    _, raw = await house.door.gateway.keys.create(house.account_id, name="pasted")
    async with watched_page(house.browser, house.door.url) as watched:
        page = watched.page
        await house.sign_in(watched)
        await page.goto("/llm/console/connect")
        sent: list[str] = []
        page.on("request", lambda request: sent.append(f"{request.url} {request.post_data}"))
        await page.get_by_label("The whole key").fill(raw)
        await page.locator("summary", has_text="curl").click()
        await expect(page.locator("#block-curl")).to_contain_text(f"Bearer {raw}")
        await page.locator("#key").select_option(index=1)
        await expect(page.locator("#block-curl")).to_contain_text(f"Bearer {raw}")
        await page.get_by_label("The whole key").fill("not a key")
        await expect(page.locator("#block-curl")).not_to_contain_text(raw)
        assert sent
        assert raw not in "".join(sent)
        assert await watched.faults() == []


async def test_an_open_page_says_that_the_first_request_has_arrived(house: House) -> None:
    key, raw = await house.door.gateway.keys.create(house.account_id, name="watched")
    async with watched_page(house.browser, house.door.url) as watched:
        page = watched.page
        await page.clock.install()
        await house.sign_in(watched)
        await page.goto(f"/llm/console/connect?key={key.id}")
        arrived = page.locator("#arrived")
        await expect(arrived).to_contain_text("Waiting for the first request")
        answer = await house.door.chat(raw, model="demo/echo")
        assert answer.status_code == 200
        await house.door.gateway.ledger._store.flushed()
        await page.clock.run_for(5000)
        await expect(arrived).to_contain_text("Your first request arrived")
        assert await watched.faults() == []


@pytest.mark.parametrize("look", LOOKS)
async def test_open_blocks_are_clean_in_every_look(house: House, look: str) -> None:
    async with watched_page(house.browser, house.door.url, look) as watched:
        await house.sign_in(watched)
        await watched.page.goto("/llm/console/connect?client=cursor")
        for client in ("MCP SDK, Python", "VS Code"):
            await watched.page.locator("summary", has_text=client).click()
        if folder := os.environ.get("SCREENSHOTS"):
            await watched.page.screenshot(path=f"{folder}/console-connect-open-{look}.png", full_page=True)
        assert await watched.faults() == []
