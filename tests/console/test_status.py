"""The status page in a browser: an open one changes by itself, and finds the gateway again after a restart."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import expect

from mcp_gateway.core.lifecycle import Phase
from mcp_gateway.core.service_notice import TellIncident
from tests.console.browser import watched_page
from tests.console.house import House, open_house
from tests.databases import store_of

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with open_house(tmp_path_factory.mktemp("status")) as house:
        yield house


async def test_an_open_page_shows_what_is_told_and_that_it_is_over(house: House) -> None:
    async with watched_page(house.browser, house.door.url) as watched:
        page = watched.page
        await page.goto("/status")
        await expect(page.get_by_text("Live", exact=True)).to_be_visible()
        await store_of(house.door.gateway).write(TellIncident("<b>A disk</b> is full."))
        await expect(page.locator(".notice")).to_have_text("<b>A disk</b> is full.")
        await store_of(house.door.gateway).write(TellIncident(None))
        await expect(page.locator(".notice")).to_have_count(0)
        await expect(page.get_by_role("article").first).to_contain_text("over")
        assert await watched.faults() == []


async def test_a_page_says_that_it_has_lost_the_gateway_and_finds_it_again(house: House) -> None:
    lifecycle = house.door.gateway.lifecycle
    async with watched_page(house.browser, house.door.url) as watched:
        page = watched.page
        await page.goto("/status")
        await expect(page.get_by_text("Live", exact=True)).to_be_visible()
        lifecycle.begin_draining()
        await expect(page.get_by_text("Connection lost, trying again")).to_be_visible()
        lifecycle.phase = Phase.READY
        lifecycle.has_begun_draining.clear()
        await expect(page.get_by_text("Live", exact=True)).to_be_visible()
