"""GET /stats: the public status page's payload. No account's data; made anew every few seconds at most."""

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from http_api.condition import Judge
from mcp_gateway.core.catalog import Published
from mcp_gateway.core.observe.activity import Activity, quantile
from mcp_gateway.core.upstream.pool import Pool

_FRESH_MS = 5000
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


class Stats:
    """`incident` is the operator's text for the page, None for none; unless `is_full`, nothing is told of models and
    traffic.
    """

    def __init__(
        self,
        judge: Judge,
        published: Published,
        pool: Pool,
        activity: Activity,
        incident: str | None,
        now_ms: Callable[[], int],
        *,
        is_full: bool = True,
    ) -> None:
        self._judge = judge
        self._published = published
        self._pool = pool
        self._activity = activity
        self._incident = incident
        self._now_ms = now_ms
        self._is_full = is_full
        self._made_at_ms = 0
        self._body = b""

    async def get(self, request: Request) -> Response:
        now_ms = self._now_ms()
        if not 0 <= now_ms - self._made_at_ms < _FRESH_MS:
            self._made_at_ms, self._body = now_ms, orjson.dumps(self._object(now_ms))
        headers = {"Cache-Control": f"public, max-age={_FRESH_MS // 1000}"}
        return Response(self._body, headers=headers, media_type="application/json")

    def _object(self, now_ms: int) -> dict[str, Any]:
        return {
            "object": "stats",
            "status": self._judge.condition().status,
            "incident": self._incident,
            **(self._details() if self._is_full else {}),
            "updated_at": now_ms // 1000,
        }

    def _details(self) -> dict[str, Any]:
        day = self._activity.last_day()
        models = self._published.current.values()
        return {
            "models": [{"id": model.id, "status": self._pool.status_of(model)} for model in models],
            "last_day": {
                "requests": day.requests,
                "prompt_tokens": day.prompt_tokens,
                "completion_tokens": day.completion_tokens,
                "total_tokens": day.prompt_tokens + day.completion_tokens,
                "latency_ms": _quantiles(day.latencies_ms),
                "first_token_ms": _quantiles(day.first_tokens_ms),
            },
        }


def _quantiles(counts: Mapping[int, int]) -> dict[str, int | None]:
    return {name: quantile(counts, share) for name, share in _QUANTILES.items()}
