"""The root page, and where pages, documents and refusals tell of the operator's terms, privacy policy and support."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from http_api.program import _greeting
from mcp_gateway.core.config import Settings
from mcp_gateway.core.errors import GatewayError, internal_error
from mcp_gateway.core.policy_links import NO_LINKS, PolicyLinks
from tests.cases import each
from tests.serving import Door, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
TERMS, PRIVACY, SUPPORT = "https://example.com/terms?v=2&l=en", "https://example.com/privacy", "help@example.com"
BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    links: dict[str, Any] = {"terms_url": TERMS, "privacy_url": PRIVACY, "support_contact": SUPPORT}
    folder = tmp_path_factory.mktemp("policy")
    async with open_door(folder, **links, guests={"requests_per_minute": 1}, users={"registration": "open"}) as door:
        yield door


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def plain(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("plain"), public_stats="off") as door:
        yield door


# The root


async def test_a_browser_gets_a_page_at_the_root_and_a_program_what_it_always_got(door: Door) -> None:
    page = await door.http.get("/", headers=BROWSER)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert {"/console/", "/console/connect", "/status", "/docs"} <= set(re.findall(r'href="([^"]+)"', page.text))
    told = await door.http.get("/")
    assert told.headers["content-type"] == "application/json"
    assert told.content.startswith(b'{"name":"mcp-gateway","version":"')
    assert told.json() | {"version": ""} == {
        "name": "mcp-gateway",
        "version": "",
        "openai_api": "/v1",
        "mcp": {"streamable_http": "/v1/mcp", "sse": "/v1/mcp/sse"},
        "models": "/v1/models",
        "health": "/health",
    }
    for answer in (page, told):
        assert "Accept" in answer.headers["vary"]


@each(
    ("accept", "is_page"),
    [
        ("text/html", True),
        ("TEXT/HTML ; q=0.5, application/json;q=0.4", True),
        ("text/html;q=0.4, application/json", False),
        ("text/html;q=0, */*", False),
        ("text/html;q=much", False),
        ("application/json", False),
        ("*/*", False),
        ("", False),
    ],
)
async def test_a_page_is_for_whoever_would_rather_have_html(door: Door, accept: str, is_page: bool) -> None:
    answer = await door.http.get("/", headers={"accept": accept})
    assert answer.headers["content-type"].startswith("text/html") is is_page


async def test_what_is_not_there_is_named_nowhere(plain: Door) -> None:
    page = (await plain.http.get("/", headers=BROWSER)).text
    assert 'href="/status"' not in page
    assert "<footer>" not in page
    assert "/status" not in _greeting(plain.gateway, plain.url, "")


async def test_the_greeting_names_the_pages(door: Door) -> None:
    lines = _greeting(door.gateway, "http://gateway.test", "").splitlines()
    assert "Console:      http://gateway.test/console/" in lines
    assert "Status:       http://gateway.test/status" in lines


# Where the addresses are


@each("path", ["/", "/console/register", "/console/sign-in", "/status"])
async def test_pages_lead_there(door: Door, plain: Door, path: str) -> None:
    page = (await door.http.get(path, headers=BROWSER)).text
    assert 'href="https://example.com/terms?v=2&amp;l=en"' in page
    assert f'href="{PRIVACY}"' in page
    assert f'href="mailto:{SUPPORT}"' in page
    assert "Terms" not in (await plain.http.get(path, headers=BROWSER)).text


async def test_the_document_has_them(door: Door, plain: Door) -> None:
    info = (await door.http.get("/openapi.json")).json()["info"]
    assert (info["termsOfService"], info["x-privacy-policy"]) == (TERMS, PRIVACY)
    assert info["contact"] == {"email": SUPPORT}
    assert set((await plain.http.get("/openapi.json")).json()["info"]) == {"title", "version", "description"}


async def test_a_limit_tells_whom_to_ask(door: Door) -> None:
    asked = {"model": "demo/echo", "messages": [{"role": "user", "content": "x"}]}
    for _ in range(2):
        refused = await door.http.post("/v1/chat/completions", json=asked, headers={"x-forwarded-for": "192.0.2.78"})
    assert refused.status_code == 429
    assert error_of(refused)["message"].endswith(f" Support: {SUPPORT}")
    key = await door.key()
    missing = error_of(await door.chat(key, model="no/such"))["message"]
    assert SUPPORT not in missing


async def test_over_mcp_too(door: Door) -> None:
    call = {
        "name": "chat_completion",
        "arguments": {"model": "demo/echo", "messages": [{"role": "user", "content": "x"}]},
    }
    sent: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    headers = {"accept": "application/json, text/event-stream", "x-forwarded-for": "192.0.2.77"}
    for _ in range(2):
        answer = await door.http.post("/v1/mcp", json=sent, headers=headers)
    assert f"Support: {SUPPORT}" in answer.text, answer.text


async def test_one_sentence_is_said_once_and_by_what_was_set() -> None:
    links = PolicyLinks(TERMS, PRIVACY, "https://example.com/help")
    refusal = links.told(links.told(GatewayError("content_policy", "No.")))
    assert refusal.message == f"No. Terms: {TERMS}, support: https://example.com/help"
    assert PolicyLinks(TERMS, None, None).told(GatewayError("content_policy", "No.")).message == f"No. Terms: {TERMS}"
    assert PolicyLinks(TERMS, None, None).told(internal_error("req_1")).message == internal_error("req_1").message
    assert links.told(internal_error("req_1")).message.endswith("Support: https://example.com/help")
    assert links.told(GatewayError("not_found", "No.")).message == "No."
    assert NO_LINKS.told(GatewayError("content_policy", "No.")).message == "No."


@each(
    ("name", "value"),
    [
        ("terms_url", "javascript:alert(1)"),
        ("terms_url", "https://user@example.com/"),
        ("terms_url", f"https://example.com/{'x' * 500}"),
        ("privacy_url", "https://example.com/\n"),
        ("privacy_url", "/privacy"),
        ("support_contact", "http://example.com"),
        ("support_contact", "https://user@example.com"),
        ("support_contact", "mailto:help@example.com"),
        ("support_contact", "help@example.com\r\nX: y"),
        ("support_contact", "help"),
    ],
)
async def test_an_address_that_is_none_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="must be an"):
        Settings.model_validate({name: value})
