"""GET /limits: what the caller may use, and what is left of it; where every 429 points to."""

from starlette.requests import Request
from starlette.responses import Response

from http_api.responses import json_response
from mcp_gateway.core.context import CONTEXT
from mcp_gateway.core.limits.limiter import Limiter

_WINDOWS = "Minutes are clock minutes, days are UTC days. Inference counts, by whichever door it comes in."


class Limits:
    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    async def get(self, request: Request) -> Response:
        caller = request.scope[CONTEXT].caller
        self._limiter.count_listing(caller)
        standing = self._limiter.standing(caller)
        allowance = caller.allowance
        return json_response(
            {
                "object": "limits",
                "is_guest": caller.is_guest,
                "requests_per_minute": _window(allowance.requests_per_minute, standing.requests_remaining),
                "requests_per_day": _window(allowance.requests_per_day, standing.day_remaining),
                "tokens_per_minute": _window(allowance.tokens_per_minute, standing.tokens_remaining),
                "in_flight": {"limit": allowance.in_flight},
                "resets_at": standing.reset_at_s,
                "note": _WINDOWS,
            }
        )


def _window(limit: int | None, remaining: int | None) -> dict[str, int | None]:
    return {"limit": limit, "remaining": remaining}
