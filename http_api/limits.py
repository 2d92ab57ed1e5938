"""GET /limits: what the caller may use, and what is left of it; where every 429 points to."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from http_api.responses import json_response
from mcp_gateway.core.caller import Quota
from mcp_gateway.core.context import CONTEXT
from mcp_gateway.core.limits.limiter import Left, Limiter

_NOTE = (
    "Minutes are clock minutes, days are UTC days. Inference counts, by whichever door it comes in. "
    "What is shared (by all keys of an account, by the guests of a network) bounds all of them together."
)


class Limits:
    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    async def get(self, request: Request) -> Response:
        caller = request.scope[CONTEXT].caller
        self._limiter.count_listing(caller)
        own, *shared = self._limiter.counted_by(caller)
        return json_response(
            {
                "object": "limits",
                "is_guest": caller.is_guest,
                **self._of(own),
                **{quota.whose: self._of(quota) for quota in shared},
                "resets_at": self._limiter.standing(caller).minute_ends_at_s,
                "note": _NOTE,
            }
        )

    def _of(self, quota: Quota) -> dict[str, Any]:
        standing, limits = self._limiter.standing_by([quota]), quota.allowance
        return {
            "requests_per_minute": _window(standing.minute),
            "requests_per_day": _window(standing.day),
            "tokens_per_minute": _window(standing.tokens),
            "in_flight": {"limit": limits.in_flight},
        }


def _window(left: Left | None) -> dict[str, int | None]:
    return {"limit": None, "remaining": None} if left is None else {"limit": left.limit, "remaining": left.remaining}
