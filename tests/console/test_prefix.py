"""The console below a path, behind a proxy that leaves the path in place."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.console.browser import watched_page
from tests.console.house import House, open_house
from tests.console.test_looks import OPEN, SIGNED_IN, address_of

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
PREFIX = "/llm/gw"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with open_house(tmp_path_factory.mktemp("console"), PREFIX) as house:
        yield house


async def test_every_page_is_whole_and_leads_to_nowhere_outside_of_the_path(house: House) -> None:
    async with watched_page(house.browser, house.door.url) as watched:
        page = watched.page
        await page.goto(f"{PREFIX}/console/")
        await page.wait_for_url("**/console/sign-in?next=%2Fconsole%2Fkeys")
        await house.sign_in(watched)
        for path in (*OPEN, *SIGNED_IN):
            await page.goto(PREFIX + await address_of(house, path))
            targets = await page.evaluate(
                "[...document.querySelectorAll('a[href], form[action], link[href], script[src]')]"
                ".map(one => one.getAttribute('href') ?? one.getAttribute('action') ?? one.getAttribute('src'))"
            )
            outside = [one for one in targets if one.startswith("/") and not one.startswith(f"{PREFIX}/")]
            assert outside == [], path
            faults = await watched.faults(by_axe=False)  # which finds in such a page what it does at the root
            assert [fault for fault in faults if "404" not in fault] == [], path
            watched.complaints.clear()


async def test_a_key_is_made_there_and_its_maker_signs_out(house: House) -> None:
    async with watched_page(house.browser, house.door.url) as watched:
        page = watched.page
        await house.sign_in(watched)
        await page.get_by_role("link", name="Create key").click()
        await page.get_by_label("Name", exact=True).fill("below a path")
        await page.get_by_role("button", name="Create key").click()
        await expect(page.locator("#raw-key")).to_contain_text("gw_live_")
        assert f"http://gateway.test{PREFIX}/v1/chat/completions" in await page.content()
        await page.get_by_role("link", name="Done").click()
        await expect(page.get_by_role("link", name="below a path")).to_be_visible()
        await page.get_by_role("button", name="Sign out").click()
        await page.wait_for_url(f"**{PREFIX}/console/sign-in")
        assert await watched.faults() == []
