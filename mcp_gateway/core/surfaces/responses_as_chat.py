"""The conversation that a Responses request tells, as the chat that a model is shown of it."""

from collections.abc import Iterator
from typing import Any

from mcp_gateway.core.json_bounds import dump_json

_TEXT_PARTS = frozenset({"input_text", "output_text", "text", "reasoning_text", "summary_text"})
_ANSWERS = ("function_call_output", "custom_tool_call_output")


def messages_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages, the instructions first; reasoning of earlier turns is not shown again."""
    instructions = body.get("instructions")
    told = [{"role": "system", "content": instructions}] if isinstance(instructions, str) and instructions else []
    given = body.get("input")
    if isinstance(given, str):
        return [*told, {"role": "user", "content": given}]
    items = given if isinstance(given, list) else []
    return told + [message for item in items if isinstance(item, dict) for message in _messages_in(item)]


def functions_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The functions that may be called; a custom tool is one that takes a text."""
    tools = body.get("tools")
    return [_function(tool) for tool in (tools if isinstance(tools, list) else ()) if isinstance(tool, dict)]


def _messages_in(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    kind = item.get("type", "message")
    if kind == "message":
        yield {"role": item.get("role"), "content": _content_of(item.get("content"))}
    elif kind == "function_call":
        yield _call(item, item.get("arguments"))
    elif kind == "custom_tool_call":
        yield _call(item, dump_json({"input": item.get("input")}).decode())
    elif kind in _ANSWERS:
        yield {"role": "tool", "tool_call_id": item.get("call_id"), "content": _content_of(item.get("output"))}


def _call(item: dict[str, Any], arguments: object) -> dict[str, Any]:
    function = {"name": item.get("name"), "arguments": arguments}
    call = {"id": item.get("call_id"), "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _content_of(content: object) -> object:
    if not isinstance(content, list):
        return content
    return [_part_of(part) for part in content if isinstance(part, dict)]


def _part_of(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") == "input_image":
        return {"type": "image_url", "image_url": {"url": part.get("image_url")}}
    text = part.get("text") if part.get("type") in _TEXT_PARTS else part.get("refusal")
    return {"type": "text", "text": text if isinstance(text, str) else ""}


def _function(tool: dict[str, Any]) -> dict[str, Any]:
    named = {name: tool[name] for name in ("name", "description", "parameters") if tool.get(name) is not None}
    if tool.get("type") == "custom":
        named["parameters"] = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
    return {"type": "function", "function": named}
