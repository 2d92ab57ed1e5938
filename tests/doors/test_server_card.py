"""The MCP server's card: that it tells what a client finds once it is connected, and only where it has an address."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from http_api.protected_resources import ProtectedResources
from tests.serving import Door, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

PUBLIC = "https://gateway.example.com"
PATHS = ("/.well-known/mcp/server-card.json", "/v1/mcp/server-card", "/api/v1/inference/mcp/server-card")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("card"), public_url=PUBLIC) as door:
        yield door


async def card_of(door: Door, path: str = PATHS[0]) -> dict[str, Any]:
    answer = await door.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/mcp-server-card+json")
    card: dict[str, Any] = answer.json()
    return card


async def test_it_tells_what_the_server_tells_of_itself(door: Door) -> None:
    card = await card_of(door)
    params: dict[str, Any] = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }
    told = (await door.mcp("initialize", **params)).json()["result"]
    info = told["serverInfo"]
    assert card["name"] == f"com.example.gateway/{info['name']}"
    assert [card[word] for word in ("title", "version", "websiteUrl")] == [
        info[word] for word in ("title", "version", "websiteUrl")
    ]
    assert told["protocolVersion"] in card["remotes"][0]["supportedProtocolVersions"]


async def test_it_has_the_form_of_the_draft(door: Door) -> None:
    card = await card_of(door)
    assert card["$schema"] == "https://static.modelcontextprotocol.io/schemas/v1/server-card.schema.json"
    assert card["_meta"] == {"mcp-gateway/draft": "SEP-2127"}
    assert 1 <= len(card["description"]) <= 100
    assert not {"tools", "resources", "prompts"} & card.keys()


async def test_it_is_the_same_wherever_it_is_looked_for(door: Door) -> None:
    cards = [await card_of(door, path) for path in PATHS]
    assert cards == [cards[0]] * 3
    assert set(PATHS) <= (await door.get("/openapi.json")).json()["paths"].keys()


async def test_every_address_of_it_answers(door: Door) -> None:
    remotes = (await card_of(door))["remotes"]
    assert [(remote["type"], remote["url"].removeprefix(PUBLIC)) for remote in remotes] == [
        ("streamable-http", "/v1/mcp"),
        ("sse", "/v1/mcp/sse"),
        ("streamable-http", "/v1/mcp/guest"),
    ]
    for remote in remotes:
        if remote["type"] == "streamable-http":
            assert (await door.mcp("ping", path=remote["url"].removeprefix(PUBLIC))).status_code == 200
    (key,) = remotes[0]["headers"]
    assert (key["name"], key["isRequired"], key["isSecret"]) == ("Authorization", False, True)
    assert "headers" not in remotes[2]


@pytest.mark.parametrize(
    ("public_url", "name", "servers", "is_required"),
    [
        ("http://192.0.2.7:8080", "192.0.2.7/mcp-gateway", (), True),
        ("http://[2001:db8::7]", "2001.db8..7/mcp-gateway", (), True),
        ("https://localhost", "localhost/mcp-gateway", ("http://127.0.0.1:9/issuer",), False),
    ],
)
async def test_without_guests_a_key_is_needed_unless_one_can_sign_in(
    tmp_path_factory: pytest.TempPathFactory, public_url: str, name: str, servers: tuple[str, ...], is_required: bool
) -> None:
    folder = tmp_path_factory.mktemp("other")
    resources = ProtectedResources(public_url, servers, ()) if servers else None
    async with open_door(folder, public_url=public_url, resources=resources, guests={"enabled": False}) as door:
        card = await card_of(door)
    assert card["name"] == name
    assert [remote["headers"][0]["isRequired"] for remote in card["remotes"]] == [is_required] * 2
    assert ("sign in" in card["remotes"][0]["headers"][0]["description"]) is not is_required
