"""Whether what a backend reports of an answer can be true: nothing that cannot is billed, summed or stored.

Also what an answer says as JSON, and how one is refused that is none, or failed.
"""

from typing import Any, NamedTuple

import orjson

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.json_bounds import parse_json
from mcp_gateway.core.surfaces.surface import Body, Failure
from mcp_gateway.core.surfaces.usage import Usage
from mcp_gateway.core.text import is_one_line

_MAX_REASON_CHARS = 64


class UsageBounds(NamedTuple):
    """The most tokens that an answer can have used: of its prompt, and of all its choices together."""

    prompt_tokens: int
    output_tokens: int

    def allow(self, usage: Usage) -> bool:
        """Where one count is out of its bounds, the others are not believed either."""
        return (
            0 <= usage.prompt_tokens <= self.prompt_tokens
            and 0 <= usage.completion_tokens <= self.output_tokens
            and 0 <= (usage.cached_tokens or 0) + (usage.cache_write_tokens or 0) <= usage.prompt_tokens
        )


def read_finish_reason(value: Any) -> str | None:
    """Why an answer ended, in a word; None for what is none."""
    is_reason = isinstance(value, str) and 0 < len(value) <= _MAX_REASON_CHARS and is_one_line(value)
    return value if is_reason else None


def not_understood() -> GatewayError:
    """Refuses what is no answer of the kind that was asked for."""
    return GatewayError("backend_error", "The backend's answer could not be understood.")


def understood(text: Body) -> Any:
    """What a backend told, parsed. Raises GatewayError `backend_error` for no JSON, or for one nested too deeply."""
    try:
        return parse_json(text)
    except (orjson.JSONDecodeError, GatewayError):
        raise not_understood() from None


class FailureTold(GatewayError):
    """An answer in one piece that tells a failure, although its status is 200; what that means, the dialect says."""

    def __init__(self, failure: Failure) -> None:
        super().__init__("backend_error", "The backend failed amid the answer.")
        self.failure = failure


def failed_amid() -> GatewayError:
    """Refuses an answer that tells an error."""
    return GatewayError("backend_error", "The backend failed amid the answer.")
