"""Countries from which models may not be asked, through both doors."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.cases import each
from tests.country_file import write_countries
from tests.serving import MESSAGES, Door, bearer, chat_body, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
BLOCKED, FREE = {"cf-ipcountry": "KP"}, {"cf-ipcountry": "DE"}
CHAT = chat_body(model="demo/echo")
INFERENCE = [
    ("/v1/chat/completions", CHAT),
    ("/api/v1/inference/chat/completions", CHAT | {"stream": True}),
    ("/v1/messages", CHAT | {"max_tokens": 5}),
    ("/v1/responses", {"model": "demo/echo", "input": "a"}),
    ("/v1/completions", {"model": "demo/echo", "prompt": "a"}),
    ("/v1/embeddings", {"model": "demo/echo", "input": "a"}),
    ("/v1/tokenize", {"model": "demo/echo", "prompt": "a"}),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    policy = {"blocked_countries": ["KP"], "country_header": "CF-IPCountry"}
    async with open_door(tmp_path_factory.mktemp("regions"), policy=policy, users={"registration": "open"}) as door:
        yield door
        await door.nothing_is_left()


@each(("path", "body"), INFERENCE)
async def test_inference_is_refused_where_the_country_is(door: Door, path: str, body: dict[str, object]) -> None:
    for key in (await door.key(credit="1"), None):
        response = await door.http.post(path, json=body, headers=bearer(key) | BLOCKED)
        assert response.status_code == 403
        assert response.json()["error"]["type"] in ("unsupported_region", "permission_error")
        assert (await door.http.post(path, json=body, headers=bearer(key) | FREE)).status_code == 200


async def test_nobody_signs_up_from_there(door: Door) -> None:
    person = {"email": "who@example.com", "password": "a password of length"}
    response = await door.http.post("/auth/register", json=person, headers=BLOCKED)
    assert (response.status_code, error_of(response)["code"]) == (403, "unsupported_region")
    assert (await door.http.post("/auth/register", json=person, headers=FREE)).status_code == 201


async def test_what_is_no_inference_is_answered_everywhere(door: Door) -> None:
    key = await door.key()
    for path in ("/v1/models", "/v1/limits", "/v1/billing", "/health", "/openapi.json"):
        assert (await door.http.get(path, headers=bearer(key) | BLOCKED)).status_code == 200


async def test_a_tool_that_asks_a_model_is_refused_and_others_are_not(door: Door) -> None:
    key = await door.key()
    before = await refused_of(door, "KP")
    for name, arguments, is_refused in (
        ("chat_completion", {"model": "demo/echo", "messages": MESSAGES}, True),
        ("embeddings", {"model": "demo/echo", "input": "a"}, True),
        ("list_models", {}, False),
        ("get_balance", {}, False),
    ):
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
        accept = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}
        for country, is_from_there in ((BLOCKED, True), (FREE, False)):
            answer = await door.http.post("/v1/mcp", json=message, headers=bearer(key) | accept | country)
            told = answer.json()["result"]
            assert told["isError"] is (is_refused and is_from_there), name
            if told["isError"]:
                assert told["structuredContent"]["code"] == "unsupported_region"
    assert await refused_of(door, "KP") == before + 2


async def test_refusals_are_counted_by_country_and_no_address_is_kept(door: Door) -> None:
    before = await refused_of(door, "KP")
    address = {"x-forwarded-for": "192.0.2.77"}
    response = await door.http.post("/v1/chat/completions", json=CHAT, headers=address | BLOCKED)
    assert error_of(response)["code"] == "unsupported_region"
    assert "KP" not in response.text
    assert await refused_of(door, "KP") == before + 1
    assert "192.0.2.77" not in (await door.http.get("/metrics")).text
    assert await door.rows("SELECT 1 FROM requests WHERE error_code = 'unsupported_region'") == []


async def test_a_body_is_not_read_for_a_country_that_is_refused(door: Door) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncf-ipcountry: KP\r\ncontent-length: 9000000\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(head)
    assert (await reader.readline()).startswith(b"HTTP/1.1 403 ")  # and then waits for a body that it would pass over
    writer.close()
    await writer.wait_closed()


async def test_the_document_tells_of_the_refusal_where_it_may_come(door: Door) -> None:
    paths = (await door.http.get("/openapi.json")).json()["paths"]
    for path, _ in INFERENCE:
        assert "unsupported_region" in paths[path]["post"]["responses"]["403"]["description"]
    assert "unsupported_region" not in str(paths["/v1/limits"])


async def test_a_country_is_looked_up_by_the_client_s_address(tmp_path: Path) -> None:
    write_countries(tmp_path / "countries", {"192.0.2.0/24": {"country": {"iso_code": "KP"}}})
    policy = {"blocked_countries": ["KP", "XX"], "country_database": tmp_path / "countries"}
    async with open_door(tmp_path / "data", policy=policy) as door:
        for address, status in (("192.0.2.7", 403), ("198.51.100.1", 403), ("192.0.3.1", 403)):
            headers = {"x-forwarded-for": address, "cf-ipcountry": "DE"}
            assert (await door.http.post("/v1/chat/completions", json=CHAT, headers=headers)).status_code == status
        assert await refused_of(door, "XX") == 2
        assert await refused_of(door, "KP") == 1


async def refused_of(door: Door, country: str) -> float:
    page = (await door.http.get("/metrics")).text
    lines = [
        line for line in page.splitlines() if line.startswith(f'gateway_region_refusals_total{{country="{country}"')
    ]
    return float(lines[0].rpartition(" ")[2]) if lines else 0.0
