"""What a browser needs to let a page call either door: answers to its preflights, and leave to read what comes back."""

import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.identity.own_limits import OwnLimits
from tests.cases import each
from tests.doors.mcp_host import JSON, chat, initialize
from tests.serving import Door, bearer, chat_body, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE, ALSO, LOOPBACK, EVIL = (
    "https://app.example.com",
    "https://also.example.com",
    "http://localhost:6274",
    "https://evil.example.com",
)
SETTINGS: dict[str, Any] = {"cors_origins": [PAGE], "allowed_origins": [ALSO], "guests": {"enabled": False}}
MCP = ["/v1/mcp", "/v1/mcp/", "/v1/mcp/sse", "/v1/mcp/messages/", "/api/v1/inference/mcp", "/v1/mcp/.well-known/x"]
HTTP = ["/v1/chat/completions", "/api/v1/inference/models", "/v1/keys/key_1", "/v1/stats", "/health", "/nothing"]
READABLE = frozenset({"cache-control", "content-language", "content-length", "content-type", "expires", "pragma"})
"""By any page (the Fetch standard's safelist); what frames the answer is no page's business."""
FRAMING = frozenset({
    "connection", "date", "transfer-encoding", "vary", "x-accel-buffering", "last-modified", "x-content-type-options",
})  # fmt: skip
"""For proxies and browsers, and nothing to scripts."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("cors"), **SETTINGS) as door:
        yield door


async def preflight(door: Door, path: str, origin: str, method: str = "POST", headers: str | None = None) -> Any:
    sent = {"origin": origin, "access-control-request-method": method}
    return await door.http.options(
        path, headers=sent | ({"access-control-request-headers": headers} if headers else {})
    )


def listed(headers: Mapping[str, str], name: str) -> set[str]:
    return {value.strip().lower() for value in headers.get(f"access-control-{name}", "").split(",")}


def is_silent(answer: httpx2.Response) -> bool:
    return not any(name.startswith("access-control-") for name in answer.headers)


@each("path", MCP + HTTP)
@each("origin", [PAGE, ALSO])
@each("method", ["GET", "POST", "PATCH", "DELETE"])
async def test_a_preflight_is_answered_without_a_key(door: Door, path: str, origin: str, method: str) -> None:
    answer = await preflight(door, path, origin, method, "authorization,x-stainless-os,mcp-session-id")
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-length" not in answer.headers
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["vary"] == "Origin"
    assert method.lower() in listed(answer.headers, "allow-methods")
    assert {"authorization", "x-stainless-os", "mcp-session-id"} <= listed(answer.headers, "allow-headers")
    assert "access-control-allow-credentials" not in answer.headers


async def test_a_page_on_loopback_is_let_into_the_mcp_door_alone(door: Door) -> None:
    for path in MCP:
        assert (await preflight(door, path, LOOPBACK)).headers["access-control-allow-origin"] == LOOPBACK
    for path in HTTP:
        assert is_silent(await preflight(door, path, LOOPBACK))
        assert is_silent(await door.get(path, await door.key(), origin=LOOPBACK))


@each("path", MCP + HTTP)
@each("origin", [EVIL, "null", "https://app.example.com.evil.io", ""])
async def test_others_are_told_nothing(door: Door, path: str, origin: str) -> None:
    assert is_silent(await preflight(door, path, origin))
    assert is_silent(await door.get(path, await door.key(), origin=origin))


async def test_who_is_no_page_is_told_nothing(door: Door) -> None:
    key = await door.key()
    for answer in (
        await door.get("/v1/models", key),
        await door.chat(key, model="demo/echo"),
        await door.get("/v1/keys"),
    ):
        assert is_silent(answer)
        assert "vary" not in answer.headers


async def test_options_that_is_no_preflight_is_answered_as_ever_and_may_be_read(door: Door) -> None:
    answer = await door.http.options("/v1/models", headers=bearer(await door.key()) | {"origin": PAGE})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, PAGE)
    assert "last-event-id" in listed((await preflight(door, "/v1/mcp", PAGE)).headers, "allow-headers")


async def answers(door: Door) -> dict[str, httpx2.Response]:
    """Of each kind that a page may meet."""
    key, poor = await door.key(credit="1"), await door.key(limits=OwnLimits(1, 1, None, None))
    once = {"idempotency_key": "a-key-that-is-made-once", "origin": PAGE}
    key_body = orjson.dumps({"name": "made by a page"})
    opened = await door.post(orjson.dumps(initialize()), key, "/v1/mcp", origin=PAGE, **JSON_ACCEPT)
    session = {"mcp_session_id": opened.headers["mcp-session-id"], "origin": PAGE, **JSON_ACCEPT}
    chats = {"origin": PAGE, "x_client_request_id": "mine"}
    return {
        "a list": await door.get("/v1/models", key, origin=PAGE),
        "a chat": await door.post(orjson.dumps(chat_body(model="demo/echo", unknown=1)), key, **chats),
        "a stream": await door.post(orjson.dumps(chat_body(model="demo/echo", stream=True)), key, **chats),
        "within a limit": await door.post(orjson.dumps(chat_body(model="demo/echo")), poor, **chats),
        "beyond a limit": await door.post(orjson.dumps(chat_body(model="demo/echo")), poor, **chats),
        "a wrong key": await door.get("/v1/models", "gw_live_wrong", origin=PAGE),
        "no key": await door.http.get("/v1/limits", headers={"origin": PAGE}),
        "no such model": await door.post(orjson.dumps(chat_body(model="nope")), key, origin=PAGE),
        "no such path": await door.get("/v1/nothing", key, origin=PAGE),
        "no such method": await door.get("/v1/chat/completions", key, origin=PAGE),
        "a key": await door.post(key_body, key, "/v1/keys", **once),
        "the same key again": await door.post(key_body, key, "/v1/keys", **once),
        "a session": opened,
        "a tool": await door.post(orjson.dumps(chat()), key, "/v1/mcp", **session),
        "a wrong key of MCP": await door.post(orjson.dumps(chat()), "gw_live_wrong", "/v1/mcp", **session),
        "no session": await door.post(orjson.dumps(chat()), key, "/v1/mcp", **session | {"mcp_session_id": "nope"}),
        "no message": await door.post(b"{", key, "/v1/mcp", **session),
    }


JSON_ACCEPT = {"accept": JSON["Accept"]}


async def test_every_answer_may_be_read_with_all_that_its_headers_say(door: Door) -> None:
    kinds = await answers(door)
    statuses = {kind: answer.status_code for kind, answer in kinds.items()}
    assert statuses["beyond a limit"] == 429
    assert statuses["no message"] == 400
    assert [statuses[kind] for kind in ("a wrong key", "no key", "a wrong key of MCP")] == [401] * 3
    seen = set()
    for kind, answer in kinds.items():
        assert answer.headers["access-control-allow-origin"] == PAGE, kind
        told = {name for name in answer.headers if not name.startswith("access-control-")}
        assert told - READABLE - FRAMING <= listed(answer.headers, "expose-headers"), kind
        seen |= told
    named = {"mcp-session-id", "x-cost-usd", "x-ignored-parameters", "retry-after", "idempotent-replayed", "allow"}
    assert named | {"www-authenticate", "x-ratelimit-remaining-requests", "x-client-request-id"} <= seen


async def test_every_header_that_the_doors_set_is_exposed() -> None:
    """Found in the source: those of answers that no test here provokes."""
    root = Path(__file__).parents[2]
    text = "".join(
        path.read_text() for room in ("http_api", "mcp_gateway/mcp_door") for path in (root / room).rglob("*.py")
    )
    cors = (root / "http_api" / "middleware" / "cors.py").read_text().lower()
    told = set(re.findall(r'\(b"((?:x-|idempotent-|retry-)[a-z-]+)", ', text)) - FRAMING
    assert {"x-request-id", "x-max-tokens-clamped", "x-should-retry"} <= told
    assert [name for name in sorted(told) if name not in cors] == []


async def test_a_page_is_no_operator_though_its_browser_is_on_this_machine(door: Door) -> None:
    assert "backends" in (await door.http.get("/health")).json()
    assert "backends" not in (await door.http.get("/health", headers={"origin": PAGE})).json()
    assert (await door.http.get("/metrics")).status_code == 200
    assert (await door.http.get("/metrics", headers={"origin": PAGE})).status_code == 403


async def test_any_page_can_be_let_in(tmp_path: Path) -> None:
    async with open_door(tmp_path, cors_origins=["*"]) as door:
        for origin in (EVIL, "null", "chrome-extension://abc"):
            assert (await door.get("/v1/models", origin=origin)).headers["access-control-allow-origin"] == origin
            answer = await door.post(orjson.dumps(chat()), None, "/v1/mcp", origin=origin, **JSON_ACCEPT)
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)


async def test_a_refusal_of_what_drains_may_be_read(tmp_path: Path) -> None:
    async with open_door(tmp_path, cors_origins=[PAGE], maintenance=True) as door:
        assert (await preflight(door, "/v1/chat/completions", PAGE)).status_code == 204
        answer = await door.get("/v1/models", origin=PAGE)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (503, PAGE)
        assert "retry-after" in listed(answer.headers, "expose-headers")
