"""What keys of one scope each may do, by every operation of both doors; guests are judged by other rules."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from http_api.operations import Access
from mcp_gateway.core.caller import SCOPES, KeyScope
from tests.cases import each
from tests.doors.event_sessions import event_session
from tests.doors.mcp_host import PATHS
from tests.serving import MESSAGES, Door, bearer, chat_body, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPERATIONS: list[tuple[str, str, KeyScope | None, dict[str, Any] | None]] = [
    ("POST", "/chat/completions", "inference", chat_body(model="demo/echo")),
    ("POST", "/completions", "inference", {"model": "demo/echo", "prompt": "hi"}),
    ("POST", "/embeddings", "inference", {"model": "demo/echo", "input": "hi"}),
    ("POST", "/messages", "inference", {"model": "demo/echo", "messages": MESSAGES, "max_tokens": 16}),
    ("POST", "/messages/count_tokens", "inference", {"model": "demo/echo", "messages": MESSAGES}),
    ("POST", "/tokenize", "inference", {"model": "demo/echo", "prompt": "Hi"}),
    ("POST", "/detokenize", "inference", {"model": "demo/echo", "tokens": [65]}),
    ("POST", "/responses", "inference", {"model": "demo/echo", "input": "hi"}),
    ("POST", "/rerank", "inference", {"model": "demo/echo", "query": "hi", "documents": ["ho"]}),
    ("POST", "/score", "inference", {"model": "demo/echo", "text_1": "hi", "text_2": "ho"}),
    ("GET", "/models", None, None),
    ("GET", "/models/demo/echo", None, None),
    ("GET", "/models/demo/echo/health", None, None),
    ("GET", "/limits", "inference", None),
    ("GET", "/key", None, None),
    ("GET", "/auth/keys", "manage", None),
    ("POST", "/auth/keys", "manage", {"name": "a key"}),
    ("GET", "/generation?id=req_00000000", "read", None),
    ("POST", "/feedback", "inference", {"request_id": "req_00000000", "score": 1}),
    ("GET", "/billing", "inference", None),
    ("GET", "/credits", "inference", None),
    ("GET", "/usage", "read", None),
    ("GET", "/requests", "read", None),
    ("GET", "/requests/req_1", "read", None),
    ("GET", "/billing/transactions", "read", None),
    ("GET", "/credits/transactions", "read", None),
    ("GET", "/billing/statements/2026-01", "read", None),
    ("POST", "/billing/checkout", "billing", {"amount_usd": "5"}),
    ("POST", "/billing/portal", "billing", {}),
    ("GET", "/billing/auto-topup", "billing", None),
    ("PUT", "/billing/auto-topup", "billing", {"threshold_usd": "5", "amount_usd": "9", "max_per_day_usd": "9"}),
    ("DELETE", "/billing/auto-topup", "billing", None),
    ("GET", "/attribution", "manage", None),
    ("PUT", "/attribution", "billing", {"enabled": True}),
    ("GET", "/webhook", "manage", None),
    ("PUT", "/webhook", "billing", {"url": "https://hooks.example.com/"}),
    ("DELETE", "/webhook", "billing", None),
    ("POST", "/webhook/rotate", "billing", None),
    ("GET", "/keys", "manage", None),
    ("POST", "/keys", "manage", {}),
    ("GET", "/keys/key_1", "manage", None),
    ("PATCH", "/keys/key_1", "manage", {}),
    ("POST", "/keys/key_1/rotate", None, {"expires_old_in_s": 0}),
    ("DELETE", "/keys/key_1", "manage", None),
    ("POST", "/billing/webhook", None, {}),
    ("GET", "/stats", None, None),
]
TOOLS = {
    "list_models": {},
    "get_balance": {},
    "embeddings": {"model": "demo/echo", "input": "hello"},
    "chat_completion": {"model": "demo/echo", "messages": MESSAGES},
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    async with open_door(tmp_path_factory.mktemp("scopes")) as door:
        yield door
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def by_scope(door: Door) -> dict[KeyScope, str]:
    """A key of each scope alone."""
    return {scope: await door.key(scopes=[scope]) for scope in SCOPES}


async def ask(door: Door, method: str, path: str, key: str, body: dict[str, Any] | None) -> httpx2.Response:
    headers = bearer(key) | {"content-type": "application/json"}
    content = None if body is None else orjson.dumps(body)
    return await door.http.request(method, path, content=content, headers=headers)


@each("prefix", ["/v1", "/api/v1/inference"])
@each(("method", "path", "needed", "body"), OPERATIONS)
async def test_an_operation_is_for_keys_with_its_scope(
    door: Door,
    by_scope: dict[KeyScope, str],
    prefix: str,
    method: str,
    path: str,
    needed: KeyScope | None,
    body: Any,
) -> None:
    for scope, key in by_scope.items():
        response = await ask(door, method, prefix + path, key, body)
        if needed in (None, scope):
            assert response.status_code in (200, 201, 404, 501)
        else:
            error = response.json()["error"]  # Anthropic's have no code
            assert (response.status_code, error.get("code")) in ((403, "insufficient_scope"), (403, None))
            assert f"`{needed}`" in error["message"]


async def test_every_operation_is_walked_above(door: Door) -> None:
    """Those of MCP are walked by methods below."""
    rows = [row for row in door.operations if "/v1" in row.prefixes and "/mcp" not in row.path and row.method != "*"]
    rows = [row for row in rows if row.scope is not None or not row.is_for_people]  # which no key has a part in
    rows = [row for row in rows if row.access is not Access.ADMINISTRATOR]
    assert {(row.method, re.sub(r"\{(\w+_id|month).*?\}", "{}", row.path), row.scope) for row in rows} == {
        (method, re.sub(r"demo/echo|(key|req)_1|2026-01", "{}", path.partition("?")[0]), needed)
        for method, path, needed, _ in OPERATIONS
    }


async def test_a_head_request_needs_the_scope_of_its_get(door: Door, by_scope: dict[KeyScope, str]) -> None:
    assert (await ask(door, "HEAD", "/v1/keys", by_scope["manage"], None)).status_code == 200
    assert (await ask(door, "HEAD", "/v1/keys", by_scope["read"], None)).status_code == 403


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("tool", TOOLS)
async def test_a_tool_is_for_keys_with_its_scope(
    door: Door, by_scope: dict[KeyScope, str], path: str, tool: str
) -> None:
    for scope, key in by_scope.items():
        result = (await rpc(door, path, key, "tools/call", name=tool, arguments=TOOLS[tool]))["result"]
        assert result["isError"] is (scope != "inference")
        if scope != "inference":
            assert result["structuredContent"]["code"] == "insufficient_scope"
            assert "`inference`" in result["structuredContent"]["message"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_tool_is_for_keys_with_its_scope_in_a_session_of_events(
    door: Door, by_scope: dict[KeyScope, str], path: str
) -> None:
    for scope, key in by_scope.items():
        async with event_session(door, f"{path}/sse", bearer(key)) as session:
            assert {tool["name"] for tool in (await session.ask("tools/list"))["result"]["tools"]} <= TOOLS.keys()
            for tool, arguments in TOOLS.items():
                result = (await session.ask("tools/call", name=tool, arguments=arguments))["result"]
                assert result["isError"] is (scope != "inference"), (scope, tool)
                assert ("`inference`" in result["content"][0]["text"]) is result["isError"]


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("resources/list", {}),
        ("resources/read", {"uri": "models://catalog"}),
        ("prompts/get", {"name": "compare_models", "arguments": {"question": "1 + 1?"}}),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": "models://{id}"},
                                 "argument": {"name": "id", "value": "d"}}),
    ],
)  # fmt: skip
async def test_the_catalog_over_mcp_is_for_inference(
    door: Door, by_scope: dict[KeyScope, str], method: str, params: dict[str, Any]
) -> None:
    for scope, key in by_scope.items():
        answer = await rpc(door, PATHS[0], key, method, **params)
        if scope == "inference":
            assert "result" in answer
        else:
            assert answer["error"]["data"]["code"] == "insufficient_scope"


async def test_every_key_may_connect_and_see_which_tools_there_are(door: Door, by_scope: dict[KeyScope, str]) -> None:
    for key in by_scope.values():
        listed = await rpc(door, PATHS[0], key, "tools/list")
        assert {tool["name"] for tool in listed["result"]["tools"]} == TOOLS.keys() - {"embeddings"}  # no model embeds


async def rpc(door: Door, path: str, key: str, method: str, **params: Any) -> dict[str, Any]:
    answer: dict[str, Any] = (await door.mcp(method, key, path=path, **params)).json()
    return answer
