"""A client on the Python SDK 1.x: opens a session as its argument tells, calls every tool, reads every resource, prints
what it saw.
"""

import asyncio
import contextlib
import json
import sys
from typing import Any

import httpx
from mcp import ClientSession, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client


async def open_streams(stack: contextlib.AsyncExitStack, told: dict[str, Any]) -> Any:
    """The read and write streams of the transport."""
    if told["transport"] == "stdio":
        command = StdioServerParameters(command=told["command"], args=told["args"], env=told["env"])
        return await stack.enter_async_context(stdio_client(command))
    if told["transport"] == "sse":
        return await stack.enter_async_context(sse_client(told["url"], headers=told["headers"]))
    http = await stack.enter_async_context(httpx.AsyncClient(headers=told["headers"], timeout=30))
    return (await stack.enter_async_context(streamable_http_client(told["url"], http_client=http)))[:2]


async def main(told: dict[str, Any]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        read, write = await open_streams(stack, told)
        session = await stack.enter_async_context(ClientSession(read, write))
        await session.initialize()
        progress: list[str | None] = []

        async def note(_progress: float, _total: float | None, message: str | None) -> None:
            progress.append(message)

        async def call(name: str, arguments: dict[str, Any], **options: Any) -> dict[str, Any]:
            result = await session.call_tool(name, arguments, **options)
            return result.model_dump(mode="json", by_alias=True)

        asked = {"messages": [{"role": "user", "content": "Hello"}]}
        seen = {
            "tools": [tool.name for tool in (await session.list_tools()).tools],
            "models": await call("list_models", {}),
            "chat": await call("chat_completion", asked | {"model": told["model"]}, progress_callback=note),
            "balance": await call("get_balance", {}),
            "refusal": await call("chat_completion", asked | {"model": "no/such"}),
            "progress": progress,
            "resources": {},
        }
        if told.get("mints"):
            seen["budget"] = await call("create_budget", {"amount_usd": "0.50", "lifetime_s": 600})
            seen["handed_down"] = await call("get_balance", {})
            seen["ended"] = await call("end_budget", {"key_id": seen["budget"]["structuredContent"]["key_id"]})
        for resource in (await session.list_resources()).resources:
            [content] = (await session.read_resource(resource.uri)).contents
            seen["resources"][resource.name] = json.loads(content.text)
    print(json.dumps(seen))


asyncio.run(main(json.loads(sys.argv[1])))
