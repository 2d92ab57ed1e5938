"""What a model reads of a tool's result: its texts, within bounds; what is no text is named. Knows no server."""

from typing import Any

import orjson
from mcp import MCPError, types

from mcp_gateway.core.mcp_client.servers import ToolOutcome


def outcome_of(result: Any, most_bytes: int) -> ToolOutcome:
    """Of a result as the SDK read it."""
    if not isinstance(result, types.CallToolResult):
        return ToolOutcome("The tool asks for further input, which nobody can give it here.", False)
    text = "\n".join(map(_told, result.content))
    if not text and result.structured_content is not None:
        text = orjson.dumps(result.structured_content).decode()
    text = cut(text or "The tool answered without a word.", most_bytes)
    return ToolOutcome(f"The tool failed: {text}" if result.is_error else text, not result.is_error)


def outcome_of_refusal(error: MCPError, most_bytes: int) -> ToolOutcome:
    """Of what a server says in place of a result."""
    return ToolOutcome(cut(f"The tool failed: {error.error.message}", most_bytes), False)


def cut(text: str, most_bytes: int) -> str:
    """The beginning of a long text, and that it is one."""
    size_bytes = len(text.encode("utf-8", "replace"))
    if size_bytes <= most_bytes:
        return text
    beginning = text.encode("utf-8", "replace")[:most_bytes].decode("utf-8", "ignore")
    return f"{beginning}\n[Cut: the result has {size_bytes} bytes, of which these are the first {most_bytes}.]"


def _told(block: types.ContentBlock) -> str:
    if isinstance(block, types.TextContent):
        return block.text
    if isinstance(block, types.EmbeddedResource) and isinstance(block.resource, types.TextResourceContents):
        return block.resource.text
    if isinstance(block, types.ResourceLink):
        return f"[A resource: {block.name}, {block.uri}]"
    kind = getattr(block, "mime_type", None) or "of a kind that is not told"
    return f"[Something that is no text, {kind}, is not shown.]"
