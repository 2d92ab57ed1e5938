"""What a conversation needs of a model beyond text, by the fields of its request; of chats, messages and responses."""

from typing import Any

from mcp_gateway.core.config import Feature
from mcp_gateway.core.surfaces.surface import Ask

_OF_FORMAT: dict[Any, Feature] = {"json_object": "json_mode", "json_schema": "structured_outputs"}
_FORMAT_WITHIN = {"text": "format", "output_config": "format"}
"""By the field that has it in responses and messages, its name there; in chats it is a field of its own."""


def needs_of(ask: Ask) -> frozenset[Feature]:
    body = ask.body
    found: set[Feature] = set()
    if body.get("tools") or ask.wanted_tools is not None:
        found.add("tools")
    if (feature := _OF_FORMAT.get(_format_in(body))) is not None:
        found.add(feature)
    if body.get("logprobs") or body.get("top_logprobs"):
        found.add("logprobs")
    return frozenset(found)


def _format_in(body: dict[str, Any]) -> str | None:
    """The type of the format that an answer is to have; unchecked, since its surface has read it."""
    wanted = body.get("response_format") or body.get("output_format")
    for name, within in _FORMAT_WITHIN.items():
        if wanted is None and isinstance(body.get(name), dict):
            wanted = body[name].get(within)
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    return kind if isinstance(kind, str) else None
