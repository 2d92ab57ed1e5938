"""What a client finds that looks for an authorization server where there are only keys: 401 and 404, in words."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.cases import each
from tests.serving import Door, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

WRONG = "gw_live_" + "0" * 48
PROBED = [
    "/.well-known/oauth-protected-resource",
    "/.well-known/oauth-protected-resource/v1/mcp",
    "/.well-known/oauth-authorization-server",
    "/.well-known/oauth-authorization-server/v1/mcp",
    "/.well-known/openid-configuration",
    "/v1/mcp/.well-known/openid-configuration",
    "/v1/mcp/sse/.well-known/openid-configuration",
    "/v1/.well-known/oauth-authorization-server",
    "/api/v1/inference/mcp/.well-known/openid-configuration",
    "/.well-known/anything/health",
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("door"), guests={"enabled": False}, public_models=False) as door:
        yield door


@each("path", ["/v1/mcp", "/v1/mcp/", "/v1/mcp/sse", "/v1/mcp/messages/", "/api/v1/inference/mcp"])
@each("key", [None, WRONG])
async def test_who_has_no_valid_key_is_told_to_send_one_as_a_bearer(door: Door, path: str, key: str | None) -> None:
    for answer in (await door.get(path, key), await door.post(b"{}", key, path)):
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert "resource_metadata" not in answer.headers["www-authenticate"]
        assert error_of(answer)["type"] == "invalid_auth"


@each("path", PROBED)
@each("key", [None, WRONG])
async def test_there_is_no_authorization_server_to_be_found(door: Door, path: str, key: str | None) -> None:
    answer = await door.get(path, key)
    assert answer.status_code == 404
    assert error_of(answer)["code"] == "unknown_url"
    assert "www-authenticate" not in answer.headers


async def test_a_model_cannot_be_named_to_look_like_such_a_place(door: Door) -> None:
    assert (await door.get("/v1/models/.well-known/x")).status_code == 401


async def test_there_is_no_card_of_a_server_that_does_not_know_its_address(door: Door) -> None:
    assert (await door.get("/.well-known/mcp/server-card.json")).status_code == 404


async def test_the_address_for_guests_asks_for_a_key_where_there_are_none(door: Door) -> None:
    answer = await door.mcp("tools/list", path="/v1/mcp/guest")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="mcp-gateway"')
