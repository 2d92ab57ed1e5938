"""The SDK's MCP client, which knows an address alone: its person signs in and lets it in by Chromium, and it asks."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

import httpx2
import orjson
import pytest
import pytest_asyncio
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientMetadata
from playwright.async_api import expect

from tests.client_memory import ClientMemory
from tests.console.browser import LOOKS, Watched, watched_page
from tests.console.house import PASSWORD, House, open_house
from tests.listening import streams
from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

DOCUMENT = "https://client.example/oauth/client.json"
Era = Literal["2026-07-28", "legacy"]
ERAS: tuple[Era, ...] = ("2026-07-28", "legacy")
SCREENSHOTS = os.environ.get("SCREENSHOTS")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        oauth = {"enabled": True, "registrations_per_minute": 100}
        folder = tmp_path_factory.mktemp("authorize")
        async with open_house(folder, listener=listener, public_url=url, oauth=oauth) as house:
            yield house


class Back:
    """A program's own small server on loopback, to which a browser brings what came of its question."""

    def __init__(self) -> None:
        self.brought: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self.address = ""

    @classmethod
    @contextlib.asynccontextmanager
    async def served(cls) -> AsyncIterator["Back"]:
        back = cls()
        async with streams(back._answer) as port:
            back.address = f"http://127.0.0.1:{port}/callback"
            yield back

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        target = head.split(b" ")[1].decode()
        if target.startswith("/callback") and not self.brought.done():
            self.brought.set_result(dict(parse_qsl(urlsplit(target).query)))
        body = b"<title>Done</title>You may close this page."
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        writer.write(body)
        await writer.drain()


def described(back: Back) -> OAuthClientMetadata:
    told = {"client_name": "A desktop client", "redirect_uris": [back.address], "token_endpoint_auth_method": "none"}
    return OAuthClientMetadata.model_validate(told | {"application_type": "native"})


async def let_in(watched: Watched, house: House, address: str, decision: str = "Allow") -> None:
    """As a person does, who signs in first."""
    page = watched.page
    await page.goto(address)
    if "/console/sign-in" in page.url:
        await page.get_by_label("E-mail").fill(house.email)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("A program on this computer")
    await expect(page.locator(".claimed")).to_have_text("A desktop client")
    await page.get_by_role("button", name=decision).click()


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("way", ["registration", "document"])
async def test_a_client_that_knows_the_address_alone_is_let_in_by_a_browser_and_calls_a_tool(
    house: House, era: Era, way: str
) -> None:
    door, kept = house.door, ClientMemory()
    async with Back.served() as back, watched_page(house.browser, house.door.url) as watched:

        async def fetch(_url: str, _asked_by: str) -> bytes:
            return orjson.dumps(described(back).model_dump(mode="json", exclude_none=True) | {"client_id": DOCUMENT})

        assert door.gateway.oauth is not None
        door.gateway.oauth.fetch = fetch
        door.gateway.oauth._documents.clear()

        async def led_there(address: str) -> None:
            await let_in(watched, house, address)

        async def come_back() -> AuthorizationCodeResult:
            brought = await asyncio.wait_for(back.brought, PATIENCE_S)
            return AuthorizationCodeResult(code=brought["code"], state=brought["state"], iss=brought["iss"])

        url = f"{door.url}/v1/mcp"
        more: dict[str, Any] = {"client_metadata_url": DOCUMENT} if way == "document" else {}
        auth = OAuthClientProvider(url, described(back), kept, led_there, come_back, **more)
        async with (
            httpx2.AsyncClient(auth=auth, timeout=PATIENCE_S) as http,
            Client(streamable_http_client(url, http_client=http), mode=era) as client,
        ):
            tools = await client.list_tools()
            told = await client.call_tool("chat_completion", {
                "model": "demo/echo", "messages": [{"role": "user", "content": "Hello"}],
            })  # fmt: skip
        assert "chat_completion" in {tool.name for tool in tools.tools}
        assert told.is_error is False
        assert kept.tokens is not None
        assert kept.client is not None
        assert (kept.client.client_id == DOCUMENT) is (way == "document")
        await expect(watched.page).to_have_title("Done")
        own = [one for one in watched.complaints if back.address.removesuffix("callback") not in one]
        assert own == []


async def test_who_is_denied_is_told_so_and_the_person_sees_whom_they_let_in(house: House) -> None:
    async with Back.served() as back, watched_page(house.browser, house.door.url) as watched:
        told = {"redirect_uris": [back.address], "client_name": "A desktop client"}
        client_id = (await house.door.http.post("/oauth/register", json=told)).json()["client_id"]
        await let_in(watched, house, address_of(house, client_id, back.address), "Deny")
        brought = await asyncio.wait_for(back.brought, PATIENCE_S)
        assert (brought["error"], brought["iss"], brought["state"]) == ("access_denied", house.door.url, "x")


@pytest.mark.parametrize("look", LOOKS)
async def test_the_question_and_what_came_of_it_can_be_read_by_everybody(house: House, look: str) -> None:
    back = "https://assistant.example/oauth/callback"
    told = {"redirect_uris": [back], "client_name": "A most trusted assistant, <b>honestly</b>"}
    client_id = (await house.door.http.post("/oauth/register", json=told)).json()["client_id"]
    async with watched_page(house.browser, house.door.url, look) as watched:
        page = watched.page
        await house.sign_in(watched)
        await page.goto(address_of(house, client_id, back))
        await expect(page.get_by_role("heading", level=1)).to_have_text("assistant.example")
        large, small = [
            await page.locator(one).evaluate("one => parseFloat(getComputedStyle(one).fontSize)")
            for one in ("h1", ".claimed")
        ]
        assert large > small
        faults = await seen(watched, f"authorize-{look}")
        await page.get_by_label("At most, in USD").fill("much")
        await page.get_by_role("button", name="Allow").click()
        await expect(page.locator("#budget_usd-error")).to_be_visible()
        assert await page.get_by_label("At most, in USD").input_value() == "much"
        watched.complaints.clear()  # a refusal is one to the browser
        faults += await seen(watched, f"authorize-again-{look}")
        await page.goto("/oauth/authorize?client_id=nobody&redirect_uri=https://evil.example/")
        await expect(page.get_by_role("heading", level=1)).to_be_visible()
        watched.complaints.clear()
        faults += await seen(watched, f"authorize-unknown-{look}")
    assert faults == []


async def seen(watched: Watched, name: str) -> list[str]:
    if SCREENSHOTS:
        await watched.page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png", full_page=True)
    return await watched.faults()


def address_of(house: House, client_id: str, back: str) -> str:
    asked = {
        "response_type": "code", "client_id": client_id, "redirect_uri": back, "state": "x",
        "code_challenge": "x" * 43, "code_challenge_method": "S256", "resource": f"{house.door.url}/v1/mcp",
    }  # fmt: skip
    return str(httpx2.URL(f"{house.door.url}/oauth/authorize", params=asked))
