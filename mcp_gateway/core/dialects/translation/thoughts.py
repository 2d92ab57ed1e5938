"""Thoughts of a model with what signs them, as blocks of a message and as the `reasoning_details` of a chat.

A next turn needs them as they came. Clients send the list back, some of them with a piece for each chunk.
"""

from collections.abc import Iterator
from typing import Any

from mcp_gateway.core.surfaces.chunks import objects_in

_FORMAT = "anthropic-claude-v1"
"""Whose they are: nobody else can read them."""
_TEXT, _HIDDEN = "reasoning.text", "reasoning.encrypted"


def detail_of(block: dict[str, Any], index: int) -> dict[str, Any] | None:
    """What stands for a block of thinking; None for one that nobody signed, which cannot come back."""
    about = {"format": _FORMAT, "index": index}
    if block["type"] == "redacted_thinking":
        return {"type": _HIDDEN, "data": block.get("data", "")} | about
    if not block.get("signature"):
        return None
    return {"type": _TEXT, "text": block.get("thinking", ""), "signature": block["signature"]} | about


def details_of(blocks: Any) -> list[dict[str, Any]]:
    """The same of all blocks of an answer."""
    thoughts = [block for block in objects_in(blocks) if block.get("type") in ("thinking", "redacted_thinking")]
    details = (detail_of(block, index) for index, block in enumerate(thoughts))
    return [detail for detail in details if detail is not None]


def blocks_of(details: Any) -> Iterator[dict[str, Any]]:
    """The blocks that such a list stands for."""
    for entry in _merged(objects_in(details)):
        if entry.get("format", _FORMAT) != _FORMAT:
            continue
        if entry["type"] == _HIDDEN and isinstance(entry.get("data"), str):
            yield {"type": "redacted_thinking", "data": entry["data"]}
        elif entry["type"] == _TEXT and isinstance(entry.get("signature"), str) and entry["signature"]:
            yield {"type": "thinking", "thinking": entry["text"], "signature": entry["signature"]}


def _merged(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One for each block, by its index, whose text is all of its pieces'."""
    whole: dict[Any, dict[str, Any]] = {}
    texts: dict[Any, list[str]] = {}
    for number, entry in enumerate(entries):
        kind, index = str(entry.get("type")), entry.get("index")
        key = (kind, index if isinstance(index, int) else f"{number}")
        kept = whole.setdefault(key, {"type": kind})
        kept |= {name: value for name, value in entry.items() if name not in ("type", "text") and value is not None}
        if isinstance(text := entry.get("text"), str):
            texts.setdefault(key, []).append(text)
    return [kept | {"text": "".join(texts.get(key, ()))} for key, kept in whole.items()]
