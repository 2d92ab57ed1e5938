"""What a provider wants back with its next request and Anthropic has no place for, carried by a block of its own.

A `redacted_thinking` block is text that clients keep and send back as it came: it stands before the call of a tool that
what it carries belongs to. Knows no provider.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from typing import Any

import orjson

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
        extra = orjson.loads(urlsafe_b64decode(data.removeprefix(_MARK)))
    except (Error, ValueError):
        return None
    return extra if isinstance(extra, dict) else None
