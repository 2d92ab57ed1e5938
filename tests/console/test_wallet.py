"""Paying in a browser: to Stripe's page and back, with and without scripts, and what the policy says of it."""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.console.browser import LOOKS, watched_page
from tests.console.house import House, open_house
from tests.fake_stripe import FakeStripe, event, session, settings_of, signed

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory, shared_stripe: FakeStripe) -> AsyncIterator[House]:
    settings = settings_of(shared_stripe, auto_topup=True)
    async with open_house(tmp_path_factory.mktemp("wallet"), "/llm", stripe=settings) as house:
        yield house


@pytest.mark.parametrize("has_scripts", [True, False])
async def test_a_person_pays_at_stripe_and_waits_until_it_has_arrived(
    house: House, stripe: FakeStripe, *, has_scripts: bool
) -> None:
    stripe.has_own_pages = True
    async with watched_page(house.browser, house.door.url, java_script_enabled=has_scripts) as watched:
        page = watched.page
        await house.sign_in(watched)
        await page.goto("/llm/console/wallet")
        await page.get_by_label("$25.00").check()
        await page.get_by_role("button", name="Pay with Stripe").click()
        await page.wait_for_url(f"{stripe.url}/c/*")
        asked = stripe.asked_for("/v1/checkout/sessions")[-1]
        assert asked.form["line_items[0][price_data][unit_amount]"] == "2500"
        back = asked.form["success_url"].replace("http://gateway.test", house.door.url)
        await page.goto(back)
        await expect(page.get_by_role("status").first).to_contain_text("Waiting for Stripe")
        body = event("checkout.session.completed", session(house.account_id, 2500, payment=f"pi_browser_{has_scripts}"))
        await house.door.post(body, None, "/v1/billing/webhook", stripe_signature=signed(body))
        await page.get_by_role("link", name="Look again").click()
        await expect(page.get_by_role("status").first).to_contain_text("$25.00 has arrived")
        assert page.url == back


@pytest.mark.parametrize("look", LOOKS)
async def test_the_forms_are_clean_in_every_look(house: House, look: str) -> None:
    async with watched_page(house.browser, house.door.url, look) as watched:
        await house.sign_in(watched)
        faults = []
        for path in ("/llm/console/wallet", "/llm/console/wallet?after=txn_999999", "/llm/console/wallet/webhook"):
            await watched.page.goto(path)
            if folder := os.environ.get("SCREENSHOTS"):
                name = path.rpartition("/")[2].partition("=")[0].replace("?", "-")
                await watched.page.screenshot(path=f"{folder}/console-pay-{name}-{look}.png", full_page=True)
            faults += await watched.faults()
        assert faults == []
