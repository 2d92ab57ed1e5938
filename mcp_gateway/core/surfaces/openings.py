"""What stays the same at a conversation's start, as bytes: so much of it as tells one prefix cache from another."""

from typing import Any

READ_CHARS = 4096
READ_TEXTS = 64
"""So much of each text, so many messages, and so many parts of each; what differs only later shares its home."""


def opening_bytes(text: object) -> bytes:
    """The beginning of a text; nothing of what is none."""
    return text[:READ_CHARS].encode("utf-8", "replace") if isinstance(text, str) else b""


def opening_of_content(content: Any) -> bytes:
    """The beginnings of a message's texts, which may be one text, or parts of which some have one."""
    parts = content[:READ_TEXTS] if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return b"\0".join(opening_bytes(text) for text in texts if isinstance(text, str))
