"""Seeing to users, keys and budgets in a browser, below a path: links once, questions before what cannot be undone."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Route, expect

from tests.console.browser import LOOKS, watched_page
from tests.console.house import PASSWORD, House, open_house

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
USERS = "/llm/console/admin/users"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with open_house(tmp_path_factory.mktemp("admin"), "/llm") as house:
        yield house


async def test_who_is_invited_registers_by_the_link_and_is_deleted_after_a_question(house: House) -> None:
    async with (
        watched_page(house.browser, house.door.url) as watched,
        watched_page(house.browser, house.door.url) as guest,
    ):
        page = watched.page
        await house.sign_in(watched)
        await page.goto(f"{USERS}?account_id={house.account_id}")
        await page.get_by_label("E-mail of whom you invite").fill("eve@example.com")
        await page.get_by_role("button", name="Make a link").click()
        link = await page.locator("#link").inner_text()
        assert link.startswith("http://gateway.test/llm/console/register?token=gw_invite_")
        await guest.page.goto(link.replace("http://gateway.test", house.door.url))
        await guest.page.get_by_label("E-mail").fill("eve@example.com")
        await guest.page.get_by_label("Password").fill(PASSWORD)
        await guest.page.get_by_role("button", name="Register").click()
        await guest.page.wait_for_url("**/console/keys")
        await page.get_by_role("link", name="Done").click()
        await page.get_by_label("E-mail", exact=True).fill("eve@example.com")
        await page.get_by_role("button", name="Show").click()
        await expect(page.get_by_role("row")).to_have_count(2)
        await page.get_by_role("link", name="eve@example.com").click()
        await page.get_by_role("button", name="Delete…").press("Enter")
        await expect(page.get_by_role("button", name="Keep the user")).to_be_focused()
        assert await watched.faults() == []
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("button", name="Delete…")).to_be_focused()
        await page.get_by_role("button", name="Delete…").press("Enter")
        await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        await page.wait_for_url(f"**{USERS}")
        await expect(page.get_by_role("link", name="eve@example.com")).to_have_count(0)
        await guest.page.goto("/llm/console/keys")
        assert "/console/sign-in" in guest.page.url


async def test_a_form_that_is_clicked_twice_is_sent_once(house: House) -> None:
    async with watched_page(house.browser, house.door.url) as watched:
        page = watched.page
        await house.sign_in(watched)
        await page.goto(USERS)
        await page.get_by_label("E-mail of the user").fill("twice@example.com")
        sent, may_go_on = list[str](), asyncio.Event()

        async def hold(route: Route) -> None:
            sent.append(route.request.method)
            await may_go_on.wait()
            await route.continue_()

        await page.route(f"**{USERS}", hold)
        button = page.get_by_role("button", name="Make the user")
        await button.scroll_into_view_if_needed()
        box = await button.bounding_box()
        assert box is not None
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        async with page.expect_request(f"**{USERS}"):
            await page.mouse.click(*middle)
        await page.mouse.click(*middle)
        may_go_on.set()
        await expect(page.locator("#link")).to_contain_text("/llm/console/password?token=gw_reset_")
        assert sent == ["POST"]


@pytest.mark.parametrize("look", LOOKS)
async def test_budgets_are_made_and_ended_in_every_look(house: House, look: str) -> None:
    async with watched_page(house.browser, house.door.url, look) as watched:
        page = watched.page
        await house.sign_in(watched)
        await page.goto(f"/llm/console/admin/accounts/{house.account_id}/budgets")
        before = await page.get_by_role("row").count()
        await page.get_by_label("At most, in USD").fill("3")
        await page.get_by_role("button", name="Make it").click()
        await expect(page.get_by_role("row")).to_have_count(before + 1)
        end = page.get_by_role("button", name="End the budget of $3.00")
        await end.click()
        await expect(page.get_by_role("button", name="Keep it")).to_be_focused()
        assert await watched.faults() == []
        await page.get_by_role("button", name="End it").click()
        await expect(page.get_by_role("row")).to_have_count(before)
