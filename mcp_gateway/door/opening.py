"""What is kept of a message that opens something long: a session, or a stream that listens.

Everything else that a client sends is gone once it is answered; of these the SDK keeps the parameters. So they are made
anew, of the names that are asked about and of short texts, and refer to nothing of the body, which may be of any size.
What is not of the right type stays as it is, for the SDK to refuse.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mcp.types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    PROTOCOL_VERSION_META_KEY,
    SubscriptionFilter,
)

from mcp_gateway.door.jsonrpc import Message

LISTEN = "subscriptions/listen"
_MAX_CHARS = 64
_FILTERS = tuple(field.alias or name for name, field in SubscriptionFilter.model_fields.items())
_CAPABILITIES: dict[str, tuple[str, ...]] = {
    "elicitation": ("form", "url"),
    "sampling": ("context", "tools"),
    "roots": ("listChanged",),
}
"""Those that a handler asks about, with what each may say further; no other is kept."""


def kept(message: Message) -> Message:
    """The message, less what need not be kept where it opens something."""
    params = message.params
    if message.method == "initialize" and params is not None:
        return replace(message, params=_introduction(params))
    if message.method == LISTEN and params is not None:
        return replace(message, params=_wish(params))
    return message


def _introduction(params: Mapping[str, Any]) -> dict[str, Any]:
    told = _only(params, ("protocolVersion", "capabilities", "clientInfo"))
    told = {name: _short(value) for name, value in told.items()}
    return _made_anew(told, "clientInfo", "capabilities")


def _wish(params: Mapping[str, Any]) -> dict[str, Any]:
    told = _only(params, ("_meta", "notifications"))
    if isinstance(meta := told.get("_meta"), dict):
        meta = _only(meta, (PROTOCOL_VERSION_META_KEY, CLIENT_INFO_META_KEY, CLIENT_CAPABILITIES_META_KEY))
        told["_meta"] = _made_anew(meta, CLIENT_INFO_META_KEY, CLIENT_CAPABILITIES_META_KEY)
    if isinstance(wanted := told.get("notifications"), dict):
        told["notifications"] = _only(wanted, _FILTERS)
    return told


def _made_anew(told: dict[str, Any], info: str, capabilities: str) -> dict[str, Any]:
    if isinstance(said := told.get(info), dict):
        told[info] = {name: _short(value) for name, value in _only(said, ("name", "version")).items()}
    if isinstance(can := told.get(capabilities), dict):
        told[capabilities] = {
            name: _flags(value, _CAPABILITIES[name]) for name, value in _only(can, _CAPABILITIES).items()
        }
    return told


def _flags(value: Any, names: tuple[str, ...]) -> Any:
    """What a capability says further: objects that are empty, or true and false."""
    if not isinstance(value, dict):
        return value
    return {name: {} if isinstance(flag, dict) else flag for name, flag in _only(value, names).items()}


def _only(values: Mapping[str, Any], names: Any) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}


def _short(value: Any) -> Any:
    return value[:_MAX_CHARS] if isinstance(value, str) else value
