"""Text of others: what may be a name, and how any text is shown in one line of a message, a log or a terminal."""

import difflib
import re
from collections.abc import Iterable

from mcp_gateway.core.errors import GatewayError

SHOWN_CHARS = 100
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, ends of lines and paragraphs, marks that change the direction of text (Unicode's Bidi_Control),
and halves of characters: what moves a cursor, makes a second line, or shows a name as another one."""


def is_one_line(text: str) -> bool:
    """Whether a terminal, a log and a page all show the text as it is written."""
    return _INVISIBLE.search(text) is None


def one_line(text: str) -> str:
    """The text itself. Raises ValueError, in words, unless it is one line."""
    if not is_one_line(text):
        raise ValueError("must be one line without control characters or marks that change the direction of text")
    return text


def check_one_line(text: str, param: str) -> None:
    """Raises GatewayError `invalid_value` unless what `param` holds is one line."""
    try:
        one_line(text)
    except ValueError as error:
        raise GatewayError("invalid_value", f"`{param}` {error}.", param=param) from None


def shown(text: str, max_chars: int = SHOWN_CHARS) -> str:
    """The beginning of a text in one line: what would not show is written as Python would escape it."""
    cut = text if len(text) <= max_chars else text[:max_chars] + "…"
    return _INVISIBLE.sub(lambda found: found[0].encode("unicode_escape").decode(), cut)


def nearest(written: str, known: Iterable[str], *, most: int = 1, likeness: float = 0.6) -> list[str]:
    """Which names somebody may have meant, the likest first; a long text is compared by its beginning."""
    return difflib.get_close_matches(written[:SHOWN_CHARS], list(known), n=most, cutoff=likeness)
