"""A message in one piece as the answer to a chat. It has been read, so that it has blocks and a reason for its end."""

from collections.abc import Mapping, Sequence
from typing import Any

from mcp_gateway.core.dialects.translation.thoughts import details_of
from mcp_gateway.core.dialects.translation.words import finish_reason_of
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.surfaces.usage import Usage


def chat_of(message: Mapping[str, Any], reasoning_names: Sequence[str]) -> dict[str, Any]:
    """The choices that the message makes. Raises LookupError, TypeError or AttributeError for blocks that are none."""
    reason = finish_reason_of(message["stop_reason"])
    return {"choices": [{"index": 0, "message": _said(message, reasoning_names), "finish_reason": reason}]}


def chat_usage_of(usage: Usage, details: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """A message's usage in OpenAI's words, with its details."""
    thinking_tokens = details.get("output_tokens_details", {}).get("thinking_tokens")
    if thinking_tokens is None:
        return usage.as_object()
    reasoning_tokens = min(max(thinking_tokens, 0), usage.completion_tokens)
    return usage.as_object() | {"completion_tokens_details": {"reasoning_tokens": reasoning_tokens}}


def refusal_in(message: Mapping[str, Any]) -> str | None:
    """In what words a model declined to answer, where it did and told any."""
    details = message.get("stop_details")
    explanation = details.get("explanation") if isinstance(details, dict) else None
    is_refusal = message.get("stop_reason") == "refusal"
    return explanation if is_refusal and isinstance(explanation, str) and explanation else None


def _said(message: Mapping[str, Any], reasoning_names: Sequence[str]) -> dict[str, Any]:
    blocks = message["content"]
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    said: dict[str, Any] = {"role": "assistant", "content": text or None}
    if thought := "".join(block["thinking"] for block in blocks if block["type"] == "thinking"):
        said |= dict.fromkeys(reasoning_names, thought)
    if details := details_of(blocks):
        said["reasoning_details"] = details
    if calls := [_call(block) for block in blocks if block["type"] == "tool_use"]:
        said["tool_calls"] = calls
    if (refusal := refusal_in(message)) is not None:
        said["refusal"] = refusal
    return said


def _call(block: dict[str, Any]) -> dict[str, Any]:
    function = {"name": block["name"], "arguments": dump_json(block.get("input") or {}).decode()}
    return {"id": block["id"], "type": "function", "function": function}
