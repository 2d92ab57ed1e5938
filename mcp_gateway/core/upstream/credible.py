"""Whether what a backend reports of an answer can be true: nothing that cannot is billed, summed or stored."""

from typing import Any

from mcp_gateway.core.text import is_one_line
from mcp_gateway.core.upstream.usage import Usage

UNKNOWN_WINDOW_TOKENS = 16_000_000
"""Where neither the settings nor the backend tell a window: more than any has, and little enough to reckon with."""
_MAX_REASON_CHARS = 64


def credible(usage: Usage, prompt_limit_tokens: int, output_limit_tokens: int) -> Usage | None:
    """The usage; None where a count is out of its bounds: such a backend's other counts are not believed either."""
    is_within = (
        0 <= usage.prompt_tokens <= prompt_limit_tokens
        and 0 <= usage.completion_tokens <= output_limit_tokens
        and 0 <= (usage.cached_tokens or 0) <= usage.prompt_tokens
    )
    return usage if is_within else None


def read_finish_reason(value: Any) -> str | None:
    """Why an answer ended, in a word; None for what is none."""
    is_reason = isinstance(value, str) and 0 < len(value) <= _MAX_REASON_CHARS and is_one_line(value)
    return value if is_reason else None
