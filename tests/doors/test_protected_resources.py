"""Where an issuer gives tokens: what the MCP door says of it, to whom it refuses and to whom it lets in as a guest."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from http_api.protected_resources import ProtectedResources
from mcp_gateway.core.caller import SCOPES
from mcp_gateway.core.mcp_paths import MCP_PATHS
from tests.cases import each
from tests.serving import Door, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

ISSUER = "http://127.0.0.1:9/issuer"
"""Nobody is there: what is told of it needs nobody."""
PUBLIC = "https://gateway.example.com"
METADATA = "/.well-known/oauth-protected-resource"
WRONG = "gw_live_" + "0" * 48
EVIL = "https://evil.example"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    folder = tmp_path_factory.mktemp("door")
    resources = ProtectedResources(PUBLIC, (ISSUER,), SCOPES)
    named: dict[str, Any] = {"cors_origins": [PUBLIC], "allowed_hosts": ["other.example"]}
    async with open_door(folder, public_url=PUBLIC, resources=resources, **named) as door:
        yield door


def challenge_of(answer: httpx2.Response) -> dict[str, str]:
    """The parameters of `WWW-Authenticate`, which has one challenge."""
    scheme, _, parameters = answer.headers["www-authenticate"].partition(" ")
    assert scheme == "Bearer"
    return dict(re.findall(r'([a-z_]+)="([^"]*)"', parameters))


@each("path", MCP_PATHS)
async def test_each_address_tells_who_gives_tokens_for_it_byte_for_byte(door: Door, path: str) -> None:
    answer = await door.get(METADATA + path, host="other.example")
    assert answer.status_code == 200
    assert answer.json() == {
        "resource": PUBLIC + path,
        "authorization_servers": [ISSUER],
        "scopes_supported": ["inference", "read", "billing", "manage"],
        "bearer_methods_supported": ["header"],
        "resource_name": "MCP Gateway",
    }


async def test_the_document_without_a_path_is_that_of_the_address_which_people_are_given(door: Door) -> None:
    assert (await door.get(METADATA)).json() == (await door.get(METADATA + "/v1/mcp")).json()


@each("origin", [None, EVIL, PUBLIC, "null"])
@each("path", [METADATA, METADATA + "/v1/mcp", "/.well-known/mcp/server-card.json"])
async def test_any_page_may_read_it(door: Door, path: str, origin: str | None) -> None:
    answer = await door.get(path, WRONG, **({} if origin is None else {"origin": origin}))
    assert answer.status_code == 200
    assert answer.headers.get_list("access-control-allow-origin") == ["*"]


async def test_any_page_may_ask_with_the_headers_that_clients_send(door: Door) -> None:
    asked = {"origin": EVIL, "access-control-request-method": "GET"}
    answer = await door.http.request("OPTIONS", METADATA + "/v1/mcp", headers=asked)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, EVIL)
    assert "MCP-Protocol-Version" in answer.headers["access-control-allow-headers"]
    other = await door.http.request("OPTIONS", "/v1/models", headers=asked)
    assert "access-control-allow-origin" not in other.headers


@each(
    ("path", "told"),
    [*((path, path) for path in MCP_PATHS), ("/v1/mcp/messages", "/v1/mcp/sse"), ("/v1/mcp/messages/", "/v1/mcp/sse")],
)
async def test_who_has_no_credential_is_told_where_to_sign_in(door: Door, path: str, told: str) -> None:
    for answer in (await door.get(path), await door.post(b"{}", None, path)):
        if answer.status_code == 405:  # of a stream alone
            continue
        assert answer.status_code == 401
        assert error_of(answer)["code"] == "missing_credentials"
        where = f"{PUBLIC}{METADATA}{told}"
        assert challenge_of(answer) == {"realm": "mcp-gateway", "resource_metadata": where, "scope": "inference"}


async def test_a_wrong_credential_is_named_as_what_is_wrong(door: Door) -> None:
    answer = await door.mcp("tools/list", WRONG)
    assert answer.status_code == 401
    assert challenge_of(answer) == {
        "realm": "mcp-gateway",
        "error": "invalid_token",
        "resource_metadata": f"{PUBLIC}{METADATA}/v1/mcp",
        "scope": "inference",
    }
    assert challenge_of(await door.get("/v1/limits", WRONG)) == {"realm": "mcp-gateway", "error": "invalid_token"}


async def test_a_key_gets_in_as_ever(door: Door) -> None:
    answer = await door.mcp("tools/list", await door.key())
    assert (answer.status_code, "www-authenticate" in answer.headers) == (200, False)


async def test_a_key_without_a_scope_is_told_which_one_over_http_and_by_the_tool_over_mcp(door: Door) -> None:
    key = await door.key(scopes=frozenset({"read"}))
    answer = await door.get("/v1/limits", key)
    assert (answer.status_code, error_of(answer)["scope"]) == (403, "inference")
    assert challenge_of(answer) == {"realm": "mcp-gateway", "error": "insufficient_scope", "scope": "inference"}
    told = await door.call("list_models", key)
    assert (told.status_code, told.json()["result"]["structuredContent"]["code"]) == (200, "insufficient_scope")


@pytest.mark.parametrize("method", ["tools/call", "resources/list", "prompts/get", "completion/complete"])
async def test_a_token_that_could_have_the_scope_is_told_so_where_its_client_looks(
    door: Door, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    token = await door.person()
    caller = await door.gateway.authenticator.identify(token)
    narrow = replace(caller, scopes=frozenset({"read"}), scopes_to_ask_for=frozenset({"inference"}))
    monkeypatch.setattr(door.gateway.authenticator, "recall", lambda credential: narrow)
    answer = await door.mcp(method, token, name="list_models", arguments={})
    assert (answer.status_code, error_of(answer)["code"]) == (403, "insufficient_scope")
    assert challenge_of(answer) == {
        "realm": "mcp-gateway",
        "error": "insufficient_scope",
        "scope": "inference read",
        "resource_metadata": f"{PUBLIC}{METADATA}/v1/mcp",
    }
    for other, name in (("tools/list", "x"), ("tools/call", "no_such_tool"), ("tools/call", "create_budget")):
        assert (await door.mcp(other, token, name=name, arguments={})).status_code == 200


@pytest.mark.parametrize("path", ["/v1/mcp/guest", "/v1/mcp/guest/", "/api/v1/inference/mcp/guest"])
async def test_guests_have_an_address_that_never_asks_for_a_sign_in(door: Door, path: str) -> None:
    answer = await door.mcp("tools/list", path=path)
    assert (answer.status_code, "www-authenticate" in answer.headers) == (200, False)
    assert challenge_of(await door.mcp("tools/list", WRONG, path=path)) == {
        "realm": "mcp-gateway",
        "error": "invalid_token",
    }
    for below in (METADATA + path, path + "/.well-known/openid-configuration"):
        answer = await door.get(below)
        assert (answer.status_code, error_of(answer)["code"]) == (404, "unknown_url")


async def test_guests_chat_over_http_as_ever(door: Door) -> None:
    assert (await door.chat(model="demo/echo")).status_code == 200


async def test_the_document_of_operations_has_them(door: Door) -> None:
    paths = (await door.get("/openapi.json")).json()["paths"]
    assert {METADATA, *(METADATA + path for path in MCP_PATHS)} <= paths.keys()


async def test_what_else_clients_look_for_is_not_there(door: Door) -> None:
    for path in (
        "oauth-authorization-server",
        "openid-configuration",
        "oauth-protected-resource/v1",
        "oauth-protected",
    ):
        assert (await door.get(f"/.well-known/{path}")).status_code == 404


async def test_below_a_path_and_without_scopes_it_tells_that(tmp_path_factory: pytest.TempPathFactory) -> None:
    resources = ProtectedResources(f"{PUBLIC}/llm", (ISSUER,), ())
    async with open_door(tmp_path_factory.mktemp("below"), public_url=f"{PUBLIC}/llm", resources=resources) as door:
        told = (await door.get(f"{METADATA}/llm/v1/mcp/sse")).json()
        assert told["resource"] == f"{PUBLIC}/llm/v1/mcp/sse"
        assert "scopes_supported" not in told
        assert challenge_of(await door.mcp("tools/list")) == {
            "realm": "mcp-gateway",
            "resource_metadata": f"{PUBLIC}{METADATA}/llm/v1/mcp",
        }
