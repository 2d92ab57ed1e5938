"""Whether what a backend reports of an answer can be true: nothing that cannot is billed, summed or stored."""

from typing import Any

from mcp_gateway.core.text import is_one_line
from mcp_gateway.core.upstream.frames import Usage

UNKNOWN_WINDOW_TOKENS = 16_000_000
"""Where neither the settings nor the backend tell a window: more than any has, and little enough to reckon with."""
_MAX_REASON_CHARS = 64


def credible(usage: Usage, window_tokens: int, choices: int) -> Usage | None:
    """The usage; None where it counts more than a prompt and so many answers in one window can have.

    More cached tokens than the prompt has are none that are known.
    """
    if usage.prompt_tokens > window_tokens or usage.completion_tokens > window_tokens * choices:
        return None
    if usage.cached_tokens is not None and usage.cached_tokens > usage.prompt_tokens:
        return usage._replace(cached_tokens=None)
    return usage


def read_finish_reason(value: Any) -> str | None:
    """Why an answer ended, in a word; None for what is none."""
    is_reason = isinstance(value, str) and 0 < len(value) <= _MAX_REASON_CHARS and is_one_line(value)
    return value if is_reason else None
