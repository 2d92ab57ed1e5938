"""Which of the tools that a server lists chats may be offered, and what of them is bearable. Knows no session."""

from collections.abc import Iterable

import orjson
from mcp import types

from mcp_gateway.core.config import ANY, McpServerSettings
from mcp_gateway.core.mcp_client.servers import ServedTool
from mcp_gateway.core.text import shown

_MAX_DEFINITION_BYTES = 32 * 1024
_MAX_NAME_CHARS = 128


def served_tools(server: McpServerSettings, listed: Iterable[types.Tool]) -> tuple[tuple[ServedTool, ...], int]:
    """Those that the settings let chats use, each name once, and how many more there are that cannot be offered."""
    tools: dict[str, ServedTool] = {}
    unbearable = 0
    for tool in listed:
        if ANY not in server.tools and tool.name not in server.tools:
            continue
        if tool.name in tools or not _is_bearable(tool):
            unbearable += 1
            continue
        tools[tool.name] = ServedTool(server.label, tool.name, tool.description or "", tool.input_schema)
    return tuple(tools.values()), unbearable


def _is_bearable(tool: types.Tool) -> bool:
    is_name = 0 < len(tool.name) <= _MAX_NAME_CHARS and shown(tool.name, _MAX_NAME_CHARS) == tool.name
    try:
        return is_name and len(orjson.dumps((tool.description, tool.input_schema))) <= _MAX_DEFINITION_BYTES
    except TypeError:
        return False
