"""Requests under names that are not the gateway's, as a page sends them that has its own name resolve to loopback."""

import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from tests.cases import each
from tests.serving import Door, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
SETTINGS: dict[str, Any] = {"public_url": "https://gw.example.com", "allowed_hosts": ["also.example.com"]}
PATHS = [
    "/",
    "/health",
    "/metrics",
    "/stats",
    "/v1/stats",
    "/v1/models",
    "/v1/models/a/health",
    "/v1/limits",
    "/nothing",
]
POSTS = ["/v1/chat/completions", "/api/v1/inference/chat/completions", "/v1/keys", "/v1/billing/webhook"]
MCP = ["/v1/mcp", "/v1/mcp/", "/api/v1/inference/mcp", "/v1/mcp/sse", "/v1/mcp/messages/"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("hosts"), **SETTINGS) as door:
        yield door


async def asked(door: Door, host: str, path: str, method: str = "GET") -> tuple[int, bytes]:
    lines = f"{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    head, _, body = (await door.raw(lines.encode())).partition(b"\r\n\r\n")
    assert re.search(rb"\r\nx-request-id: req_", head)
    return int(head[9:12]), body


@each("path", PATHS)
@each("host", ["evil.example.com", "localhost.evil.example.com:8080", "10.0.0.9"])
async def test_nothing_is_answered_under_a_foreign_name(door: Door, path: str, host: str) -> None:
    status, body = await asked(door, host, path)
    error = orjson.loads(body)["error"]
    assert (status, error["code"], error["type"]) == (421, "unknown_host", "invalid_request")
    assert host in error["message"]
    assert "allowed_hosts" in error["message"]


@each("path", POSTS)
async def test_nothing_is_done_under_a_foreign_name(door: Door, path: str) -> None:
    assert (await asked(door, "evil.example.com", path, "POST"))[0] == 421


@each("path", MCP)
async def test_the_mcp_door_refuses_a_foreign_name_in_its_own_form(door: Door, path: str) -> None:
    status, body = await asked(door, "evil.example.com", path, "GET" if path.endswith("sse") else "POST")
    assert status == 421
    assert orjson.loads(body)["jsonrpc"] == "2.0"


@each("path", ["/", "/v1/models"])
@each("host", ["localhost", "127.0.0.1:8080", "[::1]:1", "gw.example.com", "Also.Example.com:443", "gateway:8080"])
async def test_its_own_names_are_answered(door: Door, path: str, host: str) -> None:
    assert (await asked(door, host, path))[0] == 200


async def test_of_a_whole_url_the_host_in_it_counts(door: Door) -> None:
    assert (await asked(door, "localhost", "http://evil.example.com/v1/models"))[0] == 421
    assert (await asked(door, "evil.example.com", "http://localhost/v1/models"))[0] == 200


async def test_a_refusal_counts_against_nobody(door: Door) -> None:
    key = await door.key()
    before = (await door.get("/v1/limits", key)).json()
    lines = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: evil.io\r\nauthorization: Bearer {key}\r\n"
        "connection: close\r\n\r\n"
    )
    assert b" 421 " in await door.raw(lines.encode())
    assert (await door.get("/v1/limits", key)).json() == before


async def test_the_log_says_once_what_to_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with open_door(tmp_path) as door:
        for number in range(5):
            assert (await asked(door, f"evil-{number}.example.com", "/"))[0] == 421
    said = [record for record in caplog.records if "allowed_hosts" in record.getMessage()]
    assert [record.levelno for record in said] == [logging.WARNING]
    assert "evil" not in caplog.text


@pytest.mark.parametrize("settings", [{"allowed_hosts": ["*"]}, {"host": "0.0.0.0"}], ids=["any host", "not loopback"])
async def test_any_name_may_be_let_in(tmp_path: Path, settings: dict[str, Any]) -> None:
    async with open_door(tmp_path, **settings) as door:
        assert (await asked(door, "whatever.example.com", "/v1/models"))[0] == 200
