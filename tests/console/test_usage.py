"""Usage and requests in a browser: bars lead on and are read by the keyboard, and the list of requests holds still."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.console.browser import watched_page
from tests.console.house import House, open_house

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
LABELS = """() => {
  const bars = [...document.querySelectorAll(".chart .bar .hit")].map(one => one.getBoundingClientRect());
  const labels = [...document.querySelectorAll(".chart text")].map(one => one.getBoundingClientRect());
  const shown = labels.filter(one => one.width);
  const stray = one => one.right > innerWidth || !bars.some(bar => one.left >= bar.left - 1 && one.left < bar.right);
  return [shown.length, shown.filter(stray).length];
}"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with open_house(tmp_path_factory.mktemp("usage"), "/llm") as house:
        yield house


@pytest.mark.parametrize("look", ["desktop-light", "telephone-dark"])
@pytest.mark.parametrize("span", ["24h", "30d", "90d"])
async def test_every_label_stands_below_a_bar(house: House, look: str, span: str) -> None:
    async with watched_page(house.browser, house.door.url, look) as watched:
        await house.sign_in(watched)
        await watched.page.goto(f"/llm/console/usage?range={span}&show=requests")
        shown, stray = await watched.page.evaluate(LABELS)
        assert 1 < shown <= 6
        assert not stray
        assert await watched.faults() == []


async def test_arrow_keys_read_the_bars_and_enter_follows_one(house: House) -> None:
    async with watched_page(house.browser, house.door.url) as watched:
        page = watched.page
        await house.sign_in(watched)
        await page.goto("/llm/console/usage?range=7d&show=requests")
        await page.locator(".chart svg").focus()
        await page.keyboard.press("ArrowLeft")
        await expect(page.locator("#toast")).to_contain_text("total 3")
        await page.keyboard.press("ArrowLeft")
        await expect(page.locator("#toast")).to_contain_text("total 0")
        await page.keyboard.press("ArrowRight")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/llm/console/requests?since=*")
        await expect(page.locator("#request-table tbody tr")).to_have_count(3)
        assert await watched.faults() == []


@pytest.mark.parametrize("has_scripts", [True, False])
async def test_a_click_on_a_bar_leads_to_what_it_sums(house: House, *, has_scripts: bool) -> None:
    async with watched_page(house.browser, house.door.url, java_script_enabled=has_scripts) as watched:
        page = watched.page
        await house.sign_in(watched)
        await page.goto("/llm/console/usage?range=7d&show=requests&by=status")
        await page.locator(".chart .bar .s0").click()
        await page.wait_for_url("**/llm/console/requests?since=*")
        rows = page.locator("#request-table tbody tr")
        await expect(rows).to_have_count(2 if has_scripts else 3)


async def test_the_list_holds_still_and_says_what_is_new(house: House) -> None:
    async with watched_page(house.browser, house.door.url) as watched:
        page = watched.page
        await page.clock.install()
        await house.sign_in(watched)
        await page.goto("/llm/console/requests?status=200")
        rows = page.locator("#request-table tbody tr")
        await expect(rows).to_have_count(2)
        _, raw = await house.door.gateway.keys.create(house.account_id, name="another")
        await house.door.chat(raw, model="demo/echo")
        await page.clock.run_for(4000)
        await expect(page.locator("#newer-link")).to_have_text("1 new")
        await expect(rows).to_have_count(2)
        await page.locator("#newer-link").click()
        await expect(rows).to_have_count(3)
        assert await watched.faults() == []
