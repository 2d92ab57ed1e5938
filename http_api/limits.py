"""GET /limits: what the caller may use, and what is left of it; where every 429 points to."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from http_api.responses import json_response
from mcp_gateway.core.caller import Quota
from mcp_gateway.core.context import CONTEXT
from mcp_gateway.core.limits.limiter import Limiter, Standing

_NOTE = (
    "Minutes are clock minutes, days are UTC days. Inference counts, by whichever door it comes in. "
    "What is shared (by a key and those that it made, by all keys of an account, by the guests of a network) "
    "bounds all of them together."
)


class Limits:
    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    async def get(self, request: Request) -> Response:
        caller = request.scope[CONTEXT].caller
        self._limiter.count_listing(caller)
        (own, standing), *shared = self._limiter.standings(caller)
        makers = [_object(quota, left) for quota, left in shared if quota.whose == "maker"]
        return json_response(
            {
                "object": "limits",
                "is_guest": caller.is_guest,
                **_object(own, standing),
                **({"makers": makers} if makers else {}),
                **{quota.whose: _object(quota, left) for quota, left in shared if quota.whose != "maker"},
                "resets_at": standing.minute_ends_at_s,
                "note": _NOTE,
            }
        )


def _object(quota: Quota, standing: Standing) -> dict[str, Any]:
    return {
        "requests_per_minute": _window(standing.minute_limit, standing.minute_remaining),
        "requests_per_day": _window(standing.day_limit, standing.day_remaining),
        "tokens_per_minute": _window(standing.tokens_limit, standing.tokens_remaining),
        "in_flight": {"limit": quota.allowance.in_flight},
    }


def _window(limit: int | None, remaining: int | None) -> dict[str, int | None]:
    return {"limit": limit, "remaining": remaining}
