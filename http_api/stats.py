"""GET /stats: the public status page's payload. No account's data; made anew every few seconds at most."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from http_api.operations import Absent, Answered, Asked, Nothing, Told, written
from http_api.query import AnyQuery
from mcp_gateway.core.catalog import Model, Published
from mcp_gateway.core.condition import Judge, Status
from mcp_gateway.core.observe.activity import Activity, Slot, quantile
from mcp_gateway.core.observe.model_days import ModelDays
from mcp_gateway.core.upstream.pool import ModelStatus, Pool

_FRESH_MS = 5000
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


class ModelState(Told):
    """One model on the status page, with the median first token of its latest streams and its uptime in 24 hours.

    Null for what nobody knows.
    """

    id: str
    status: ModelStatus
    first_token_ms: int | None
    uptime_percent: float | None


class Quantiles(Told):
    """In milliseconds; null where nothing was counted."""

    p50: int | None
    p90: int | None
    p99: int | None


class LastDay(Told):
    """What all callers together asked in the last 24 hours."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    latency_ms: Quantiles
    first_token_ms: Quantiles


class StatsObject(Told):
    """The status page; `incident` is the operator's text, null without one, `updated_at` in Unix seconds."""

    object: Literal["stats"]
    status: Status
    incident: str | None
    models: list[ModelState] | Absent = None
    last_day: LastDay | Absent = None
    updated_at: int


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
        model_days: ModelDays,
        incident: Callable[[], str | None],
        now_ms: Callable[[], int],
        *,
        is_full: bool = True,
    ) -> None:
        self._judge = judge
        self._published = published
        self._pool = pool
        self._activity = activity
        self._model_days = model_days
        self._incident = incident
        self._now_ms = now_ms
        self._is_full = is_full
        self._made_at_ms = 0
        self._body = b""

    async def get(self, asked: Asked[AnyQuery, Nothing]) -> Answered[StatsObject]:
        now_ms = self._now_ms()
        if not 0 <= now_ms - self._made_at_ms < _FRESH_MS:
            self._made_at_ms, self._body = now_ms, written(self._object(now_ms))
        return Answered(self._body, headers=((b"cache-control", b"public, max-age=%d" % (_FRESH_MS // 1000)),))

    def _object(self, now_ms: int) -> StatsObject:
        return StatsObject(
            object="stats",
            status=self._judge.condition().status,
            incident=self._incident(),
            **(self._details() if self._is_full else {}),
            updated_at=now_ms // 1000,
        )

    def _details(self) -> dict[str, Any]:
        models = self._published.current.values()
        return {
            "models": [self._state(model) for model in models],
            "last_day": _last_day(self._activity.last_day()),
        }

    def _state(self, model: Model) -> ModelState:
        first_token_ms, uptime_percent = self._model_days.of(model.id)
        return ModelState(
            id=model.id,
            status=self._pool.status_of(model),
            first_token_ms=first_token_ms,
            uptime_percent=uptime_percent,
        )


def _last_day(day: Slot) -> LastDay:
    return LastDay(
        requests=day.requests,
        prompt_tokens=day.prompt_tokens,
        completion_tokens=day.completion_tokens,
        total_tokens=day.prompt_tokens + day.completion_tokens,
        latency_ms=_quantiles(day.latencies_ms),
        first_token_ms=_quantiles(day.first_tokens_ms),
    )


def _quantiles(counts: Mapping[int, int]) -> Quantiles:
    return Quantiles(**{name: quantile(counts, share) for name, share in _QUANTILES.items()})
