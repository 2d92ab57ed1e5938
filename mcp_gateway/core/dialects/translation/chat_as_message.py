"""A chat's answer in one piece as Anthropic's clients read one. The chat is in OpenAI's form, whoever wrote it."""

from collections.abc import Iterator
from typing import Any

import orjson

from mcp_gateway.core.dialects.translation.carried import carrying
from mcp_gateway.core.dialects.translation.words import ending_of
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import parse_json
from mcp_gateway.core.surfaces.chunks import objects_in
from mcp_gateway.core.surfaces.message_answer import message_id

REASONING = "reasoning"
"""Under which of its names a chat's reasoning is looked for."""
REFUSED = {"stop_reason": "refusal", "stop_sequence": None}
"""How a message ends whose model declines."""


def message_of(chat: dict[str, Any]) -> dict[str, Any]:
    """The message that the first choice makes, without its usage."""
    choice = chat["choices"][0]
    message = choice["message"]
    return {
        "id": message_id(chat.get("id")),
        "type": "message",
        "role": "assistant",
        "model": chat.get("model"),
        "content": [*_blocks_of(message)],
        **(REFUSED if message.get("refusal") else ending_of(choice["finish_reason"], choice.get("stop_reason"))),
    }


def _blocks_of(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if thought := message.get(REASONING):
        yield {"type": "thinking", "thinking": thought, "signature": ""}
    if text := "".join(filter(None, (message.get("content"), message.get("refusal")))):
        yield {"type": "text", "text": text}
    for call in objects_in(message.get("tool_calls")):
        if extra := call.get("extra_content"):
            yield carrying(extra)
        function = call.get("function") or {}
        arguments = input_of(function.get("arguments") or "")
        yield {"type": "tool_use", "id": call["id"], "name": function.get("name", ""), "input": arguments}


def input_of(arguments: str) -> dict[str, Any]:
    """What a tool is called with. Of what is no object nothing is lost, and nothing is taken for an input without any:
    a call that was cut must not be run as one that needs no arguments.
    """
    try:
        parsed = parse_json((arguments or "{}").encode())
    except (orjson.JSONDecodeError, GatewayError):  # its nesting
        parsed = arguments
    return parsed if isinstance(parsed, dict) else {"arguments": parsed}
