"""Every page of the console in every look: what a browser, its policy and axe complain of, and pictures of it all."""

import os
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio

from http_api.app import pages_in
from tests.console.browser import LOOKS, Watched, watched_page
from tests.console.house import House, open_house

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
SCREENSHOTS = os.environ.get("SCREENSHOTS")
OPEN = ["/console/sign-in", "/console/register", "/console/password?token=x", "/console/nowhere", "/console/models"]
OPEN += ["/status", "/", "/docs"]
SIGNED_IN = [
    "/console/keys",
    "/console/keys/new",
    "/console/keys/KEY",
    "/console/usage?range=24h&show=requests&by=status&model=demo/echo",
    "/console/requests",
    "/console/requests/REQUEST",
    "/console/playground",
    "/console/connect",
    "/console/connect/KEY",
    "/console/admin/accounts",
    "/console/admin/accounts/ACCOUNT",
    "/console/admin/accounts/ACCOUNT/usage?range=24h&show=requests",
    "/console/admin/accounts/ACCOUNT/requests",
    "/console/admin/accounts/ACCOUNT/requests/REQUEST",
    "/console/admin/accounts/ACCOUNT/wallet",
    "/console/admin/accounts/ACCOUNT/wallet/webhook",
    "/console/admin/accounts/ACCOUNT/wallet/statements/MONTH",
    "/console/admin/accounts/ACCOUNT/budgets",
    "/console/admin/audit",
    "/console/admin/overview",
    "/console/admin/overview/drain",
    "/console/admin/prices",
    "/console/admin/configuration",
    "/console/admin/admins",
    "/console/admin/users",
    "/console/admin/users/USER",
    "/console/admin/keys",
    "/console/admin/keys/new",
    "/console/admin/keys/KEY",
    "/console/wallet",
    "/console/wallet?after=txn_0",
    "/console/wallet/webhook",
    "/console/wallet/statements/MONTH",
    "/console/account",
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with open_house(tmp_path_factory.mktemp("console")) as house:
        yield house


@pytest.mark.parametrize("look", LOOKS)
async def test_every_page_is_clean_in_every_look(house: House, look: str) -> None:
    async with watched_page(house.browser, house.door.url, look) as watched:
        faults = []
        for path in OPEN:
            await watched.page.goto(path)
            faults += await seen(watched, path, look)
        await house.sign_in(watched)
        for path in SIGNED_IN:
            here = await address_of(house, path)
            await watched.page.goto(here)
            faults += await seen(watched, path, look)
        assert faults == []


async def test_every_page_is_looked_at(house: House) -> None:
    """All that is read by GET, but where another is led to."""
    rows = pages_in(house.door.gateway, house.door.mcp_door, base_url=house.door.url)
    pages = {row.path for row in rows if row.method == "GET" and "static" not in row.path}
    pages -= {"/console", "/console/", "/console/admin"}
    pages -= {path for path in pages if path.endswith((".csv", ".json", ".jsonl", "/ledger", "/live", "/export"))}
    looked_at = {path.partition("?")[0] for path in (*OPEN, *SIGNED_IN)}
    names = {"{month}": "MONTH", "{account_id}": "ACCOUNT", "{key_id}": "KEY", "{request_id}": "REQUEST"}
    names["{user_id}"] = "USER"
    assert {re.sub(r"{\w+}", lambda name: names[name[0]], path) for path in pages} <= looked_at


async def seen(watched: Watched, path: str, look: str) -> list[str]:
    if SCREENSHOTS:
        name = path.partition("?")[0].strip("/").replace("/", "-")
        is_whole = path != "/docs"  # no picture holds all of it
        await watched.page.screenshot(path=Path(SCREENSHOTS) / f"{name}-{look}.png", full_page=is_whole)
    found = [f"{path}: {fault}" for fault in await watched.faults()]
    watched.complaints.clear()
    return [fault for fault in found if not (path.endswith("nowhere") and "404" in fault)]


async def address_of(house: House, path: str) -> str:
    """A page's path with what there is in place of what it names."""
    named = path.replace("KEY", await a_key(house)).replace("ACCOUNT", house.account_id)
    if "USER" in path:
        named = named.replace("USER", (await house.door.gateway.sign_in.people.named(house.email)).id)
    return named.replace("MONTH", f"{datetime.now(UTC):%Y-%m}").replace("REQUEST", house.request_id)


async def a_key(house: House) -> str:
    page = await house.door.gateway.keys.page(house.account_id, before_id=None, limit=10)
    return page[-1].id
