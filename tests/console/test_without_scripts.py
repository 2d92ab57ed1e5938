"""The console where a browser runs no scripts, and where somebody uses the keyboard alone."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from tests.console.browser import watched_page
from tests.console.house import House, open_house
from tests.console.test_looks import OPEN, SIGNED_IN, address_of

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
_FOCUS = """() => {
  const one = document.activeElement;
  if (one === document.body || one.id === "main") return {name: "", is_seen: true};
  const style = getComputedStyle(one);
  return {
    name: (one.textContent.trim() || one.id || one.name || one.tagName).slice(0, 40),
    // the parts of a field for a date are marked by the browser itself
    is_seen: one.type === "datetime-local" || style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
  };
}"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with open_house(tmp_path_factory.mktemp("console")) as house:
        yield house


async def test_all_but_what_lives_works_without_scripts(house: House) -> None:
    async with watched_page(house.browser, house.door.url, java_script_enabled=False) as watched:
        page = watched.page
        await house.sign_in(watched)
        raw = await a_new_key(page, "by forms alone")
        assert (await house.door.chat(raw, model="demo/echo")).status_code == 200
        await house.door.gateway.ledger._store.flushed()

        await page.get_by_role("link", name="by forms alone").click()
        await page.get_by_label("Name", exact=True).fill("renamed")
        await page.get_by_role("button", name="Save").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("renamed")
        await page.get_by_role("button", name="Rotate").click()
        await expect(page.locator("#raw-key")).to_contain_text("gw_live_")
        await page.get_by_role("link", name="Done").click()

        await page.get_by_role("link", name="Requests", exact=True).click()
        await page.get_by_label("Status").fill("404")
        await page.get_by_role("button", name="Show").click()
        await expect(page.locator("#request-table tbody tr")).to_have_count(1)
        await page.get_by_role("link", name="Usage", exact=True).click()
        await page.locator("#range").select_option("7d")
        await page.get_by_role("button", name="Show").click()
        await expect(page.locator("dl.tiles div", has_text="Requests")).to_contain_text("4")
        await page.get_by_role("link", name="Models", exact=True).click()
        await page.locator("#text").fill("echo")
        await page.get_by_role("button", name="Show").click()
        await expect(page.locator("main")).to_contain_text("demo/echo")

        await page.get_by_role("link", name="Account", exact=True).click()
        await page.get_by_label("Theme").select_option("dark")
        await page.get_by_role("button", name="Save").first.click()
        await expect(page.locator("html")).to_have_attribute("data-theme", "dark")

        await page.get_by_role("link", name="API keys", exact=True).click()
        await page.get_by_role("link", name="renamed").click()
        await page.get_by_role("button", name="Revoke…").click()
        await page.locator("dialog[open]").get_by_role("button", name="Revoke").click()
        await page.wait_for_url("**/console/keys")
        assert (await house.door.chat(raw, model="demo/echo")).status_code == 401
        await page.get_by_role("button", name="Sign out").click()
        await page.wait_for_url("**/console/sign-in")


async def test_every_page_shows_without_scripts_what_it_is_about(house: House) -> None:
    async with watched_page(house.browser, house.door.url, java_script_enabled=False) as watched:
        page = watched.page
        for path in OPEN:
            await page.goto(path)
            await expect(page.locator("main h1").first).to_be_visible()
        await house.sign_in(watched)
        for path in SIGNED_IN:
            await page.goto(await address_of(house, path))
            await expect(page.locator("main h1").first).to_be_visible()
            assert await page.locator("[hidden]:visible").count() == 0, path


async def test_a_key_is_made_and_revoked_by_the_keyboard_alone(house: House) -> None:
    async with watched_page(house.browser, house.door.url) as watched:
        page = watched.page
        await house.sign_in(watched)
        await page.reload()
        await page.keyboard.press("Tab")
        assert await focused(page) == "Skip to content"
        await page.keyboard.press("Enter")
        await page.wait_for_url("**#main")
        await tab_to(page, "Create key")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/console/keys/new")
        await tab_to(page, "name")
        await page.keyboard.type("by the keyboard")
        await page.keyboard.press("Enter")
        await expect(page.locator("#raw-key")).to_contain_text("gw_live_")
        assert await focused(page) == "Copy"
        await tab_to(page, "Done")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("API keys")
        await tab_to(page, "by the keyboard")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/console/keys/key_*")
        await tab_to(page, "Revoke…")
        await page.keyboard.press("Enter")
        assert await focused(page) == "Keep it"
        await page.keyboard.press("Escape")
        await expect(page.locator("dialog[open]")).to_have_count(0)
        assert await focused(page) == "Revoke…"  # where the question was asked from
        await page.keyboard.press("Enter")
        await tab_to(page, "Revoke")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/console/keys")
        await expect(page.get_by_role("row", name="by the keyboard")).to_contain_text("revoked")
        assert await watched.faults() == []


async def a_new_key(page: Page, name: str) -> str:
    await page.get_by_role("link", name="Create key").click()
    await page.get_by_label("Name", exact=True).fill(name)
    await page.get_by_role("button", name="Create key").click()
    raw: str = await page.locator("#raw-key").inner_text()
    await page.get_by_role("link", name="Done").click()
    return raw


async def focused(page: Page) -> str:
    """What has the focus, which must show."""
    told: dict[str, Any] = await page.evaluate(_FOCUS)
    assert told["is_seen"], told["name"]
    name: str = told["name"]
    return name


async def tab_to(page: Page, name: str) -> None:
    """Press Tab until it has the focus, if it has not yet."""
    passed = []
    while (here := await focused(page)) != name:
        passed.append(here)
        assert len(passed) < 60, passed
        await page.keyboard.press("Tab")
