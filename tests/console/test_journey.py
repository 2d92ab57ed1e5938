"""The way of a new user, from the first page to the last: nothing is known beforehand but the address."""

import asyncio
import csv
import os
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from tests.console.browser import watched_page
from tests.console.house import PASSWORD, House, open_house
from tests.fake_stripe import FakeStripe, event, session, settings_of, signed
from tests.serving import PRICED

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
NEWCOMER = "grace@example.com"
MODELS = [{"id": "demo/echo", "backend_model": "demo/echo", "free": True}, PRICED | {"backend_model": "demo/echo"}]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory, shared_stripe: FakeStripe) -> AsyncIterator[House]:
    stripe = settings_of(shared_stripe)
    async with open_house(tmp_path_factory.mktemp("journey"), stripe=stripe, models=MODELS) as house:
        yield house


async def test_a_newcomer_registers_pays_calls_and_sees_what_it_cost(
    house: House, stripe: FakeStripe, tmp_path: Path
) -> None:
    stripe.has_own_pages = True
    async with watched_page(house.browser, house.door.url, accept_downloads=True) as watched:
        page = watched.page
        await page.goto("/console/")
        await page.get_by_role("link", name="Register", exact=True).click()
        await page.get_by_label("E-mail").fill(NEWCOMER)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Register").click()
        await page.wait_for_url("**/console/keys")

        await page.get_by_role("link", name="Create key").click()
        await page.get_by_label("Name", exact=True).fill("my first key")
        await page.get_by_role("button", name="Create key").click()
        raw = await page.locator("#raw-key").inner_text()
        await page.get_by_role("link", name="Done").click()

        await pay(page, house, stripe)
        await page.get_by_role("link", name="Connect", exact=True).click()
        await page.get_by_label("The whole key").fill(raw)
        for block in ("openai-python", "mcp-python"):
            text = await page.locator(f"#block-{block}").text_content()
            assert text is not None
            assert raw in text
            assert "You said: Hello" in await printed_by(text.replace("http://gateway.test", house.door.url))
        answer = await house.door.chat(raw, model=PRICED["id"])
        assert answer.status_code == 200
        await house.door.gateway.ledger._store.flushed()

        await page.get_by_role("link", name="Requests", exact=True).click()
        await expect(page.locator("#request-table tbody tr")).to_have_count(3)
        await page.get_by_role("link", name="Usage", exact=True).click()
        cost = await page.locator("dl.tiles div", has_text="Cost").locator("data").get_attribute("value")
        assert cost is not None
        assert 25 - Decimal(cost) == Decimal((await house.door.get("/v1/credits", raw)).json()["balance_usd"]) < 25
        async with page.expect_download() as download:
            await page.get_by_role("link", name="CSV", exact=True).click()
        file = tmp_path / "usage.csv"
        await (await download.value).save_as(file)
        rows = list(csv.DictReader(file.read_text().splitlines()))
        assert sum(Decimal(row["cost_usd"]) for row in rows) == Decimal(cost)

        await page.get_by_role("link", name="API keys", exact=True).click()
        await page.get_by_role("link", name="my first key").click()
        await page.get_by_role("button", name="Revoke…").click()
        await page.locator("dialog[open]").get_by_role("button", name="Revoke").click()
        await page.wait_for_url("**/console/keys")
        assert (await house.door.chat(raw, model="demo/echo")).status_code == 401
        assert [fault for fault in await watched.faults() if stripe.url not in fault] == []


async def pay(page: Page, house: House, stripe: FakeStripe) -> None:
    """25 USD on Stripe's page, and Stripe's event."""
    await page.get_by_role("link", name="Wallet", exact=True).click()
    await page.get_by_label("$25.00").check()
    await page.get_by_role("button", name="Pay with Stripe").click()
    await page.wait_for_url(f"{stripe.url}/c/*")
    asked = stripe.asked_for("/v1/checkout/sessions")[-1]
    body = event("checkout.session.completed", session(asked.form["client_reference_id"], 2500, payment="pi_journey"))
    await house.door.post(body, None, "/v1/billing/webhook", stripe_signature=signed(body))
    await page.goto(asked.form["success_url"].replace("http://gateway.test", house.door.url))
    await expect(page.get_by_role("status").first).to_contain_text("$25.00 has arrived")


async def printed_by(program: str) -> str:
    environ = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, env=environ, stdout=-1, stderr=-1)
    printed, trouble = await process.communicate()
    assert process.returncode == 0, trouble.decode()
    return printed.decode()
