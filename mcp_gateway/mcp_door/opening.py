"""What is kept of a message that opens something long: a session, or a stream that listens.

Everything else that a client sends is gone once it is answered; of these the SDK keeps the parameters. So they are made
anew, of the names that are asked about and of short texts, and refer to nothing of the body, which may be of any size.
What is not of the right type stays so, for the SDK to refuse.
"""

from dataclasses import replace
from typing import Any

from mcp.types import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY, PROTOCOL_VERSION_META_KEY

from mcp_gateway.mcp_door.jsonrpc import Message

LISTEN = "subscriptions/listen"
_MAX_CHARS = 64

_SCALAR, _LIST = "scalar", "list"
Parts = dict[str, Any] | str
"""What an object is made of, by name; or what is no object."""
_EMPTY: dict[str, Any] = {}
_INFO = {"name": _SCALAR, "version": _SCALAR}
_CAPABILITIES = {
    "elicitation": {"form": _EMPTY, "url": _EMPTY},
    "sampling": {"context": _EMPTY, "tools": _EMPTY},
    "roots": {"listChanged": _SCALAR},
}
"""Those that a handler asks about, with what each may say further."""
_ENVELOPE = {
    PROTOCOL_VERSION_META_KEY: _SCALAR,
    CLIENT_INFO_META_KEY: _INFO,
    CLIENT_CAPABILITIES_META_KEY: _CAPABILITIES,
}
_FILTER = {
    "toolsListChanged": _SCALAR,
    "promptsListChanged": _SCALAR,
    "resourcesListChanged": _SCALAR,
    "resourceSubscriptions": _LIST,
}
"""The list is bounded where it is taken."""
_PARTS: dict[str, Parts] = {
    "initialize": {
        "_meta": _ENVELOPE,
        "protocolVersion": _SCALAR,
        "capabilities": _CAPABILITIES,
        "clientInfo": _INFO,
    },
    LISTEN: {"_meta": _ENVELOPE, "notifications": _FILTER},
}


def kept(message: Message) -> Message:
    """The message, less what need not be kept where it opens something."""
    parts = _PARTS.get(message.method or "")
    if parts is None or message.params is None:
        return message
    return replace(message, params=_made_anew(message.params, parts))


def _made_anew(value: Any, parts: Parts) -> Any:
    """An object of the parts that are named, each made anew; what is none, in small."""
    if isinstance(parts, dict) and isinstance(value, dict):
        return {name: _made_anew(value[name], part) for name, part in parts.items() if name in value}
    return value if parts == _LIST and isinstance(value, list) else _small(value)


def _small(value: Any) -> Any:
    """Short texts, numbers; what is larger than it should be becomes an empty list, which is of no right type."""
    if isinstance(value, str):
        return value[:_MAX_CHARS]
    return [] if isinstance(value, dict | list) else value
