"""A client on the Python SDK 2.x: opens a session as its argument tells, calls every tool, prints what it saw."""

import asyncio
import contextlib
import json
import sys
from typing import Any

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client


async def target(stack: contextlib.AsyncExitStack, told: dict[str, Any]) -> Any:
    """What the client connects to."""
    if told["transport"] == "stdio":
        return StdioServerParameters(command=told["command"], args=told["args"], env=told["env"])
    if told["transport"] == "sse":
        return sse_client(told["url"], headers=told["headers"])
    http = await stack.enter_async_context(httpx2.AsyncClient(headers=told["headers"], timeout=30))
    return streamable_http_client(told["url"], http_client=http)


async def main(told: dict[str, Any]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        mode = "2026-07-28" if told["era"] == "modern" else "legacy"
        client = await stack.enter_async_context(Client(await target(stack, told), mode=mode))
        progress: list[str | None] = []

        async def note(_progress: float, _total: float | None, message: str | None) -> None:
            progress.append(message)

        async def call(name: str, arguments: dict[str, Any], **options: Any) -> dict[str, Any]:
            result = await client.call_tool(name, arguments, **options)
            return result.model_dump(mode="json", by_alias=True)

        asked = {"messages": [{"role": "user", "content": "Hello"}]}
        seen: dict[str, Any] = {
            "tools": [tool.name for tool in (await client.list_tools()).tools],
            "models": await call("list_models", {}),
            "chat": await call("chat_completion", asked | {"model": told["model"]}, progress_callback=note),
            "balance": await call("get_balance", {}),
            "refusal": await call("chat_completion", asked | {"model": "no/such"}),
            "progress": progress,
        }
        if told.get("mints"):
            seen["budget"] = await call("create_budget", {"amount_usd": "0.50", "lifetime_s": 600})
            seen["handed_down"] = await call("get_balance", {})
            seen["ended"] = await call("end_budget", {"key_id": seen["budget"]["structuredContent"]["key_id"]})
    print(json.dumps(seen))


asyncio.run(main(json.loads(sys.argv[1])))
