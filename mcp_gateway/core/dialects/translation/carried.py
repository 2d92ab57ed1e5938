"""What a provider wants back with its next request and Anthropic has no place for, carried by a block of its own.

A `redacted_thinking` block is text that clients keep and send back as it came: it stands before the call of a tool that
what it carries belongs to. Knows no provider.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from typing import Any

import orjson

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import parse_json

_MARK = "gateway."
"""How ours begin: no provider wrote them."""


def carrying(extra: Any) -> dict[str, Any]:
    """The block that carries it."""
    return {"type": "redacted_thinking", "data": _MARK + urlsafe_b64encode(orjson.dumps(extra)).decode()}


def carried_by(block: dict[str, Any]) -> dict[str, Any] | None:
    """What such a block carries; None where it is none of ours."""
    data = block.get("data")
    if not isinstance(data, str) or not data.startswith(_MARK):
        return None
    try:
        extra = parse_json(urlsafe_b64decode(data.removeprefix(_MARK)))
    except (Error, ValueError, GatewayError):  # its nesting
        return None
    return extra if isinstance(extra, dict) else None


def without_thoughts_of_others(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A conversation as Anthropic takes it, which refuses thoughts that it did not sign."""
    pairs = ((message, _without_thoughts(message)) for message in messages)
    return [now for was, now in pairs if now is was or now["content"]]


def _without_thoughts(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    own = content if isinstance(content, str) else [block for block in content if not _is_of_others(block)]
    return message if len(own) == len(content) else message | {"content": own}


def _is_of_others(block: dict[str, Any]) -> bool:
    kind = block["type"]
    is_carrier = kind == "redacted_thinking" and str(block.get("data")).startswith(_MARK)
    return is_carrier or (kind == "thinking" and not block.get("signature"))
