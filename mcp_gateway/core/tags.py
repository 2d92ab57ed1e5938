"""Short labels by which costs are told apart."""

from collections.abc import Iterable

from mcp_gateway.core.text import one_line

MAX_TAGS = 8
MAX_TAG_CHARS = 64

Tags = tuple[str, ...]


def tags_of(texts: Iterable[str]) -> Tags:
    """Each of them once, without spaces at its ends. Raises ValueError that says what a tag is."""
    tags = tuple(dict.fromkeys(one_line(text).strip() for text in texts))
    if len(tags) > MAX_TAGS or not all(0 < len(tag) <= MAX_TAG_CHARS for tag in tags):
        raise ValueError(f"takes up to {MAX_TAGS} labels of 1 to {MAX_TAG_CHARS} characters")
    return tags
