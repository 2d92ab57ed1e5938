"""What a user said last in a conversation: the text that tells what is asked now. Reads chats, messages and responses.

All three have a list of turns, or one text in its place. A turn has a role, and one text, or parts with texts.
"""

from typing import Any

from mcp_gateway.core.routing.classifier.excerpt import clipped

_READ_TURNS = 64
"""So many from the end; what is said further back is not asked now."""
_READ_PARTS = 64


def latest_text(turns: object) -> str:
    """Empty where no user has said anything: a turn of tools' results alone is none of the user's."""
    if isinstance(turns, str):
        return turns
    if not isinstance(turns, list):
        return ""
    said = (_text_of(turn) for turn in reversed(turns[-_READ_TURNS:]))
    return next((text for text in said if text), "")


def _text_of(turn: Any) -> str:
    if not isinstance(turn, dict) or turn.get("role") != "user":
        return ""
    content = turn.get("content")
    if isinstance(content, str):
        return content
    parts = content[-_READ_PARTS:] if isinstance(content, list) else []
    texts = [part if isinstance(part, str) else part.get("text") for part in parts if isinstance(part, str | dict)]
    return "\n\n".join(clipped(text) for text in texts if isinstance(text, str) and text)
