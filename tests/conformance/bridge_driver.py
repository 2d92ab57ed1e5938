"""A client of the suite's servers behind the bridge: it uses what they offer, and the bridge carries it.

The suite appends the URL to the command and names the scenario and the revision in the environment.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from mcp import Client, MCPError, StdioServerParameters
from mcp.client import ClientRequestContext
from mcp.types import CreateMessageResult, ElicitResult, ListRootsResult, TextContent

BRIDGE = Path(__file__).parents[2] / "bridge" / "mcp_stdio_bridge.py"
ARGUMENTS: dict[str, dict[str, Any]] = {"add_numbers": {"a": 5, "b": 3}}


async def main(url: str) -> None:
    is_modern = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION") == "2026-07-28"
    bridge = StdioServerParameters(command=sys.executable, args=[str(BRIDGE), "--transport", "http", url])
    async with Client(
        bridge,
        mode="auto" if is_modern else "legacy",
        sampling_callback=_sample,
        elicitation_callback=_elicit,
        list_roots_callback=_list_roots,
    ) as client:
        for tool in (await client.list_tools()).tools:
            await client.call_tool(tool.name, ARGUMENTS.get(tool.name, {}))
        if os.environ.get("MCP_CONFORMANCE_SCENARIO") == "http-standard-headers":
            await _use_the_rest(client)


async def _use_the_rest(client: Client) -> None:
    for resource in (await client.list_resources()).resources:
        await client.read_resource(resource.uri)
    for prompt in (await client.list_prompts()).prompts:
        await client.get_prompt(prompt.name, {argument.name: "x" for argument in prompt.arguments or ()})


async def _sample(context: ClientRequestContext, params: Any) -> CreateMessageResult:
    return CreateMessageResult(role="assistant", content=TextContent(text="yes"), model="none")


async def _elicit(context: ClientRequestContext, params: Any) -> ElicitResult:
    return ElicitResult(action="decline")


async def _list_roots(context: ClientRequestContext) -> ListRootsResult:
    return ListRootsResult(roots=[])


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1]))
    except* MCPError as errors:
        sys.exit(f"the server refused: {errors.exceptions}")
