"""Ways through the console that everybody can go: with scripts switched off, and by the keyboard alone."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from tests.console.browser import watched_page
from tests.console.house import House, open_house
from tests.console.test_looks import OPEN, SIGNED_IN, address_of

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
LINKS = {
    "terms_url": "https://example.com/terms",
    "privacy_url": "https://example.com/privacy",
    "support_contact": "help@example.com",
}
_FEW_SECTIONS = """() => {
  const rest = name => [...document.querySelectorAll(".reference section")].filter(one => one.matches(name));
  const few = [...rest(":has(pre)").slice(0, 5), ...rest(":not(:has(pre))").slice(0, 5)];
  for (const one of document.querySelectorAll(".reference section")) if (!few.includes(one)) one.remove();
}"""
_FOCUSED = """() => {
  const one = document.activeElement, style = getComputedStyle(one), box = one.getBoundingClientRect();
  return {
    name: one.textContent.trim(), id: one.id, isWhole: one === document.body || one.id === "main",
    outline: style.outlineStyle, width: parseFloat(style.outlineWidth),
    isSeen: box.width > 0 && box.bottom > 0 && box.top < innerHeight,
    isMenu: !!one.closest("header.top"), isMain: !!one.closest("main"), isOpenDialog: !!one.closest("dialog[open]"),
  };
}"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with open_house(tmp_path_factory.mktemp("console"), **LINKS) as house:
        yield house


async def test_all_of_it_works_with_scripts_switched_off(house: House) -> None:
    async with watched_page(house.browser, house.door.url, java_script_enabled=False) as watched:
        page = watched.page
        await page.goto("/")
        await page.get_by_role("link", name="Console").click()
        await page.wait_for_url("**/console/sign-in?**")
        await house.sign_in(watched)
        await _make_change_rotate_and_revoke_a_key(page, house)
        await _filter(page)
        await page.goto("/console/wallet")
        await expect(page.get_by_role("heading", name="Ledger")).to_be_visible()
        await expect(page.get_by_text("$26", exact=False).first).to_be_visible()
        await page.goto("/console/account")
        await page.get_by_label("Theme").select_option("dark")
        await page.locator("form[action$='/theme'] button").click()
        await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        await page.goto("/status")
        await expect(page.get_by_role("heading", name="Components")).to_be_visible()
        await page.goto(f"/console/admin/accounts/{house.account_id}")
        await page.get_by_label("Name", exact=True).fill("without scripts")
        await page.get_by_role("button", name="Save").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("without scripts")
        await page.get_by_role("button", name="Sign out").click()
        await page.wait_for_url("**/console/sign-in")
        assert [one for one in watched.complaints if not re.match(r"failed: \S+\.js csp ", one)] == []


async def _make_change_rotate_and_revoke_a_key(page: Page, house: House) -> None:
    await page.get_by_role("link", name="Create key").click()
    await page.get_by_label("Name", exact=True).fill("plain")
    await page.get_by_role("button", name="Create key").click()
    await expect(page.locator("#raw-key")).to_contain_text("gw_live_")
    raw: str = await page.locator("#raw-key").inner_text()
    assert (await house.door.chat(raw, model="demo/echo")).status_code == 200
    await house.door.gateway.ledger._store.flushed()
    await page.get_by_role("link", name="Done").click()
    await page.get_by_role("link", name="plain", exact=True).click()
    await page.get_by_label("Name", exact=True).fill("plainer")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("status").first).to_contain_text("Changed")
    await expect(page.get_by_role("heading", level=1)).to_have_text("plainer")
    await page.get_by_role("button", name="Rotate").click()
    await expect(page.locator("#raw-key")).to_contain_text("gw_live_")
    assert (await house.door.chat(raw, model="demo/echo")).status_code == 401
    raw = await page.locator("#raw-key").inner_text()
    await page.get_by_role("link", name="Done").click()
    await page.get_by_role("link", name="plainer", exact=True).click()
    await page.get_by_role("button", name="Revoke…").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_be_visible()
    await dialog.get_by_role("button", name="Keep it").click()
    await expect(dialog).to_be_hidden()
    assert (await house.door.chat(raw, model="demo/echo")).status_code == 200
    await house.door.gateway.ledger._store.flushed()
    await page.get_by_role("button", name="Revoke…").click()
    await dialog.get_by_role("button", name="Revoke").click()
    await page.wait_for_url("**/console/keys")
    assert (await house.door.chat(raw, model="demo/echo")).status_code == 401
    await page.get_by_label("Show").select_option("revoked")
    await page.get_by_role("button", name="Show").click()
    await expect(page.locator("tbody tr")).to_have_count(1)
    await expect(page.get_by_role("link", name="plainer")).to_be_visible()


async def _filter(page: Page) -> None:
    await page.goto("/console/requests")
    await page.get_by_label("Status").fill("404")
    await page.get_by_role("button", name="Show").click()
    await page.wait_for_url("**status=404**")
    await expect(page.locator("tbody tr")).to_have_count(1)
    await page.goto("/console/usage")
    await page.locator("#range").select_option("7d")
    await page.locator("#by").select_option("key")
    await page.get_by_role("button", name="Show").click()
    await page.wait_for_url("**by=key**")
    await expect(page.locator(".legend")).to_contain_text("the laptop")
    await expect(page.locator("dl.tiles div", has_text="Requests")).to_contain_text("5")
    await page.goto("/console/models")
    await page.locator("#text").fill("echo")
    await page.get_by_role("button", name="Show").click()
    await page.wait_for_url("**text=echo**")
    await expect(page.locator("main")).to_contain_text("demo/echo")
    await expect(page.locator("main")).not_to_contain_text("demo/paced")


async def test_every_page_shows_what_it_is_about_with_scripts_switched_off(house: House) -> None:
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


async def test_a_page_is_walked_by_the_keyboard_alone(house: House) -> None:
    async with watched_page(house.browser, house.door.url) as watched:
        page = watched.page
        await house.sign_in(watched)
        await page.get_by_role("link", name="the laptop").click()
        await expect(page.get_by_role("heading", name="Change")).to_be_visible()
        stops: list[dict[str, Any]] = []
        for _ in range(80):
            await page.keyboard.press("Tab")
            stops.append(await page.evaluate(_FOCUSED))
            if stops[-1]["name"] == "Revoke…":
                break
        assert stops[0]["name"] == "Skip to content"
        assert stops[-1]["name"] == "Revoke…", [stop["name"] for stop in stops]
        assert all(stop["outline"] != "none" and stop["width"] >= 2 and stop["isSeen"] for stop in stops), stops
        begins = next(at for at, stop in enumerate(stops) if stop["isMain"])
        assert all(stop["isMain"] for stop in stops[begins:]), "the menu comes first, and is left once"
        order = [stop["name"] for stop in stops]
        assert order.index("Save") < order.index("Rotate") < order.index("Revoke…")
        await page.keyboard.press("Enter")
        inside = await page.evaluate(_FOCUSED)
        assert (inside["name"], inside["isOpenDialog"]) == ("Keep it", True)
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog")).to_be_hidden()
        assert (await page.evaluate(_FOCUSED))["name"] == "Revoke…"
        await page.goto("/console/keys")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await page.keyboard.press("Tab")
        assert (await page.evaluate(_FOCUSED))["name"] == "Create key", "the menu was skipped"


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


async def focused(page: Page) -> str:
    """What has the focus, which must show, but for the part of the page that a link leads to."""
    told = await page.evaluate(_FOCUSED)
    assert told["isWhole"] or (told["outline"] != "none" and told["width"] >= 2), told
    name: str = told["name"] or told["id"]
    return name


async def tab_to(page: Page, name: str) -> None:
    """Press Tab until it has the focus, if it has not yet."""
    passed = []
    while (here := await focused(page)) != name:
        passed.append(here)
        assert len(passed) < 60, passed
        await page.keyboard.press("Tab")


async def test_times_are_told_in_the_reader_s_own_zone_too(house: House) -> None:
    async with watched_page(house.browser, house.door.url, timezone_id="Asia/Kolkata") as watched:
        await house.sign_in(watched)
        for path in ("/console/keys", "/console/requests", "/status"):
            await watched.page.goto(path)
            times = watched.page.locator("time")
            await expect(times.first).to_have_attribute("title", re.compile(r"\(your time\)$"))
            titled = watched.page.locator("time[title]")
            assert await times.count() == await titled.count() > 0


@pytest.mark.parametrize("look", ["desktop-light", "telephone-dark"])
async def test_the_reference_and_the_root_are_clean(house: House, look: str) -> None:
    """Of the reference as many parts as show each kind: the page is so long that axe would take minutes for it."""
    async with watched_page(house.browser, house.door.url, look) as watched:
        for path in ("/", "/docs"):
            await watched.page.goto(path)
            if path == "/docs":
                assert await watched.page.locator(".reference section h3").count() > 100
                await watched.page.evaluate(_FEW_SECTIONS)
            assert await watched.faults() == [], path
