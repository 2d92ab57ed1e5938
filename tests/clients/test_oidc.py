"""The certified `oidc-provider` and the gateway: who signs in there is known here."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

import httpx2
import jwt
import pytest
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientMetadata, OAuthToken

from mcp_gateway.core.identity.oidc.browser_sign_in import CALLBACK, START
from tests.client_memory import ClientMemory
from tests.clients.oidc_provider import (
    CLIENT_ID,
    CLIENT_SECRET,
    SCOPES,
    Browser,
    OidcProvider,
    new_key,
    served_oidc_provider,
)
from tests.patience import PATIENCE_S
from tests.serving import Door, error_of, open_door

pytestmark = [pytest.mark.slow, pytest.mark.asyncio]

RESOURCE = "http://gateway.test/v1"
NOBODY = "http://127.0.0.1:1/back"
"""Where browsers are sent back to: nobody serves there, so that what is brought back is read from the address."""
NEWEST, OLDER = new_key("2"), new_key("1")
Era = Literal["2026-07-28", "legacy"]
ERAS: tuple[Era, ...] = ("2026-07-28", "legacy")


@pytest.fixture
def provider() -> Iterator[OidcProvider]:
    with served_oidc_provider(NOBODY, keys=[OLDER]) as provider:
        yield provider


@contextlib.asynccontextmanager
async def opened(folder: Path, provider: OidcProvider) -> AsyncIterator[Door]:
    """A gateway at the address that its tokens are for."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        oidc = {"issuer": provider.issuer, "creates_users": True}
        async with open_door(folder, listener=listener, public_url=url, oidc=oidc) as door:
            yield door
            await door.nothing_is_left()


@contextlib.asynccontextmanager
async def opened_to_browsers(
    folder: Path, **oidc: Any
) -> AsyncIterator[tuple[Door, OidcProvider, contextlib.ExitStack]]:
    """A gateway that is a client of a provider, and what ends the provider."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as away:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        provider = away.enter_context(served_oidc_provider(url + CALLBACK, keys=[OLDER]))
        client = {"client_id": CLIENT_ID, "client_secret_env": "OIDC_SECRET"}
        settings: dict[str, Any] = {
            "public_url": url,
            "oidc": {"issuer": provider.issuer, "creates_users": True} | client | oidc,
            "environ": {"OIDC_SECRET": CLIENT_SECRET},
            "users": {"insecure_cookie": True},
        }
        async with open_door(folder, listener=listener, **settings) as door:
            yield door, provider, away
            await door.nothing_is_left()


class SignedIn:
    """An MCP client that was told our address, and whose person, of this name, says yes to whatever it asks for.

    `asked_for` are the scopes of each sign-in; `seen` what its requests were answered.
    """

    def __init__(self, url: str, provider: OidcProvider, name: str) -> None:
        self.url, self.kept = url, ClientMemory()
        self.asked_for: list[str] = []
        self.seen: list[tuple[str, str, int]] = []
        self._issuer, self._name, self._back = provider.issuer, name, ""
        described = OAuthClientMetadata.model_validate(
            {
                "client_name": "A client",
                "redirect_uris": [NOBODY],
                "token_endpoint_auth_method": "none",
                "application_type": "native",
            }
        )
        self._auth = OAuthClientProvider(url, described, self.kept, self._sign_in, self._come_back)

    @contextlib.asynccontextmanager
    async def session(self, era: Era) -> AsyncIterator[Client]:
        hooks: dict[str, Any] = {"response": [self._note]}
        async with (
            httpx2.AsyncClient(auth=self._auth, event_hooks=hooks, timeout=PATIENCE_S) as http,
            Client(streamable_http_client(self.url, http_client=http), mode=era) as client,
        ):
            yield client

    def keep(self, token: str, scope: str) -> None:
        """As if it had got this token before."""
        self.kept.tokens = OAuthToken(access_token=token, scope=scope)

    @property
    def token(self) -> str:
        assert self.kept.tokens is not None
        return self.kept.tokens.access_token

    async def _note(self, response: httpx2.Response) -> None:
        self.seen.append((response.request.method, response.request.url.path, response.status_code))

    async def _sign_in(self, address: str) -> None:
        self.asked_for.append(dict(parse_qsl(urlsplit(address).query))["scope"])
        self._back = await asyncio.to_thread(self._led_back, address)

    def _led_back(self, address: str) -> str:
        browser = Browser(self._issuer)
        with browser.http:
            return browser.sign_in(address, self._name).headers["location"]

    async def _come_back(self) -> AuthorizationCodeResult:
        brought = dict(parse_qsl(urlsplit(self._back).query))
        return AuthorizationCodeResult(code=brought["code"], state=brought["state"], iss=brought.get("iss"))


async def get(door: Door, token: str, path: str = "/v1/models") -> int:
    return (await door.get(path, token)).status_code


async def test_a_program_gets_a_token_that_is_signed_by_the_first_of_the_published_keys() -> None:
    with httpx2.Client(timeout=PATIENCE_S) as http, served_oidc_provider(NOBODY, keys=[NEWEST, OLDER]) as provider:
        token = provider.access_token(http, RESOURCE)
        published = jwt.PyJWKSet.from_dict(http.get(f"{provider.issuer}/jwks").json())
    assert jwt.get_unverified_header(token)["typ"] == "at+jwt"
    claims = jwt.decode(token, published["2"], audience=RESOURCE, issuer=provider.issuer)
    assert claims["scope"] == "inference read billing manage"


async def test_a_program_s_token_opens_what_a_key_opens_and_nothing_if_it_is_for_another(
    tmp_path: Path, provider: OidcProvider
) -> None:
    async with opened(tmp_path, provider) as door:
        with httpx2.Client(timeout=PATIENCE_S) as http:
            token = provider.access_token(http, f"{door.url}/v1")
            elsewhere = provider.access_token(http, "https://elsewhere.test/v1")
            narrow = provider.access_token(http, f"{door.url}/v1", scope="read")
        assert await get(door, token) == 200
        assert (await door.chat(token, model="demo/echo")).json()["choices"][0]["message"]["content"]
        called = await door.call("get_balance", token)
        assert called.json()["result"]["structuredContent"]["balance_usd"] == "0.00"
        refused = await door.get("/v1/keys", elsewhere)
        assert (refused.status_code, error_of(refused)["code"]) == (401, "invalid_api_key")
        assert await get(door, narrow, "/v1/usage") == 200
        refused = await door.chat(narrow, model="demo/echo")
        assert (refused.status_code, error_of(refused)["code"]) == (403, "insufficient_scope")


async def test_keys_change_as_the_issuer_changes_them_and_are_known_while_it_is_away(tmp_path: Path) -> None:
    with httpx2.Client(timeout=PATIENCE_S) as http, contextlib.ExitStack() as away:
        provider = away.enter_context(served_oidc_provider(NOBODY, keys=[OLDER]))
        async with opened(tmp_path, provider) as door:
            assert door.gateway.oidc is not None
            ours = f"{door.url}/v1"
            first, unshown = provider.access_token(http, ours), provider.access_token(http, ours)
            assert await get(door, first) == 200
            away.close()
            assert not await door.gateway.oidc.issuer.read()
            assert [await get(door, token) for token in (first, unshown)] == [200, 200]

            with served_oidc_provider(NOBODY, keys=[NEWEST, OLDER], port=provider.port):
                later = provider.access_token(http, ours)
                assert [await get(door, token) for token in (later, first)] == [200, 200]
            with served_oidc_provider(NOBODY, keys=[NEWEST], port=provider.port):
                assert await door.gateway.oidc.issuer.read()
                assert [await get(door, token, "/v1/keys") for token in (later, first, unshown)] == [200, 401, 401]


async def test_a_person_signs_in_with_a_browser_comes_back_and_is_the_same_again(tmp_path: Path) -> None:
    async with opened_to_browsers(tmp_path) as (door, provider, away):
        browser, start = Browser(provider.issuer), f"{door.url}{START}?next=/auth/me"
        with browser.http:
            first = await asyncio.to_thread(browser.sign_in, start, "ada")
            assert str(first.url) == f"{door.url}/auth/me"
            told = first.json()
            assert (told["email"], told["role"], told["signed_in_by"]) == ("ada@example.org", "owner", "issuer")
            again = (await asyncio.to_thread(browser.sign_in, start, "nobody is asked")).json()
            assert (again["id"], again["session_id"] != told["session_id"]) == (told["id"], True)
            page = await asyncio.to_thread(browser.sign_in, f"{door.url}{START}", "ada")
            assert (page.status_code, page.url.path) == (200, "/console/keys")

            away.close()
            back = f"{door.url}{CALLBACK}"
            with served_oidc_provider(back, keys=[NEWEST], port=provider.port):
                other = (await asyncio.to_thread(browser.sign_in, start, "ben")).json()
        assert (other["email"], other["id"] == told["id"]) == ("ben@example.org", False)
        assert await door.rows("SELECT subject FROM identities ORDER BY subject") == [("ada",), ("ben",)]


async def test_a_person_who_does_not_consent_at_the_provider_is_not_let_in(tmp_path: Path) -> None:
    async with opened_to_browsers(tmp_path) as (door, provider, _):
        browser = Browser(provider.issuer)
        with browser.http:
            refused = await asyncio.to_thread(browser.cancel, f"{door.url}{START}")
        assert (refused.status_code, error_of(refused)["code"]) == (400, "sign_in_failed")
        assert error_of(refused)["message"].startswith("The issuer did not let you in, or you refused. Begin again at ")
        assert await door.rows("SELECT count(*) FROM users") == [(0,)]


@pytest.mark.parametrize("era", ERAS)
async def test_an_mcp_client_that_knows_our_address_alone_signs_its_person_in(
    tmp_path: Path, provider: OidcProvider, era: Era
) -> None:
    async with opened(tmp_path, provider) as door:
        client = SignedIn(f"{door.url}/v1/mcp", provider, "grace")
        async with client.session(era) as session:
            tools = await session.list_tools()
            told = await session.call_tool("get_balance", {})
        assert "chat_completion" in {tool.name for tool in tools.tools}
        assert told.structured_content is not None
        assert (told.structured_content["balance_usd"], told.structured_content["is_guest"]) == ("0.00", False)
        assert [path for _, path, status in client.seen if status == 401] == ["/v1/mcp"]
        claims = jwt.decode(client.token, options={"verify_signature": False})
        assert (claims["sub"], claims["aud"], claims["scope"]) == ("grace", client.url, "inference")
        assert await door.rows("SELECT issuer, subject FROM identities") == [(provider.issuer, "grace")]


@pytest.mark.parametrize("era", ERAS)
async def test_an_mcp_client_whose_token_lacks_a_scope_asks_its_person_for_it(
    tmp_path: Path, provider: OidcProvider, era: Era
) -> None:
    async with opened(tmp_path, provider) as door:
        client = SignedIn(f"{door.url}/v1/mcp", provider, "gateway")
        with httpx2.Client(timeout=PATIENCE_S) as http:
            client.keep(provider.access_token(http, client.url, scope="read"), "read")
        async with client.session(era) as session:
            told = await session.call_tool("list_models", {})
        assert told.is_error is False
        assert [set(scope.split()) & set(SCOPES) for scope in client.asked_for] == [{"inference", "read"}]
        assert [path for _, path, status in client.seen if status == 403] == ["/v1/mcp"]
        claims = jwt.decode(client.token, options={"verify_signature": False})
        assert set(claims["scope"].split()) == {"inference", "read"}
        assert await door.rows("SELECT count(*) FROM users") == [(1,)]
