"""GET /usage: an account's requests, tokens and cost in a window of time, by UTC day, model or key."""

from collections.abc import Callable
from typing import Any

from pydantic import model_validator
from starlette.requests import Request
from starlette.responses import Response

from http_api.holders import key_holder
from http_api.query import Moment, Query, read_query, whole_day
from http_api.responses import json_response
from mcp_gateway.core.clock import DAY_MS
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.limits.limiter import Limiter
from mcp_gateway.core.money import format_usd
from mcp_gateway.core.observe.history import Group, History, Totals

DEFAULT_WINDOW_MS = 30 * DAY_MS


class UsageQuery(Query):
    """`since` is inclusive, `until` exclusive; by default the 30 days until now. A date until itself is that day."""

    _whole_day = model_validator(mode="before")(whole_day)
    since: Moment | None = None
    until: Moment | None = None
    group_by: Group = "day"


class Usage:
    def __init__(self, history: History, limiter: Limiter, now_ms: Callable[[], int]) -> None:
        self._history = history
        self._limiter = limiter
        self._now_ms = now_ms

    async def get(self, request: Request) -> Response:
        caller = key_holder(request, self._limiter)
        asked = read_query(request, UsageQuery)
        until_ms = self._now_ms() if asked.until is None else asked.until
        since_ms = max(0, until_ms - DEFAULT_WINDOW_MS) if asked.since is None else asked.since
        if since_ms > until_ms:
            raise GatewayError("invalid_value", "`since` must not be later than `until`.", param="since")
        groups = await self._history.totals(caller.account_id, since_ms, until_ms, asked.group_by)
        return json_response(
            {
                "object": "list",
                "data": [{asked.group_by: name, **totals_object(totals)} for name, totals in groups.items()],
                "next_cursor": None,
                "since": since_ms // 1000,
                "until": until_ms // 1000,
                "group_by": asked.group_by,
                "totals": totals_object(sum(groups.values(), Totals())),
            }
        )


def totals_object(totals: Totals) -> dict[str, Any]:
    """As JSON; the cost is a decimal string."""
    return {
        "requests": totals.requests,
        "prompt_tokens": totals.prompt_tokens,
        "completion_tokens": totals.completion_tokens,
        "total_tokens": totals.prompt_tokens + totals.completion_tokens,
        "cached_tokens": totals.cached_tokens,
        "cost_usd": format_usd(totals.cost_nano),
    }
