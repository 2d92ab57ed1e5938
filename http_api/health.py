"""GET /health, /readyz, /livez and /metrics, at the root: what watches the gateway asks these."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from http_api.condition import Condition, Judge
from http_api.operators import Operators
from http_api.responses import json_response
from mcp_gateway.core.catalog import Published
from mcp_gateway.core.errors import TABLE, GatewayError
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.lifecycle import Lifecycle
from mcp_gateway.core.observe.metrics import CONTENT_TYPE, Metrics
from mcp_gateway.core.upstream.backend import Backend
from mcp_gateway.core.upstream.pool import Pool


class Health:
    """Whether the gateway serves: in one word for anybody, with all reasons for its operator."""

    def __init__(self, judge: Judge, pool: Pool, operators: Operators, version: str) -> None:
        self._judge = judge
        self._pool = pool
        self._operators = operators
        self._version = version

    async def get(self, request: Request) -> Response:
        condition = self._judge.condition()
        scope = request.scope
        is_operator = self._operators.is_here(scope) or self._operators.has_token(scope)
        return _answer(condition, self._details(condition) if is_operator else {})

    async def ready(self, request: Request) -> Response:
        """The same verdict, for a load balancer."""
        return _answer(self._judge.condition(), {})

    async def live(self, request: Request) -> Response:
        """Nothing but that the event loop turns: what restarts a process must not do so for a backend that is down."""
        return json_response({"status": "ok"})

    def _details(self, condition: Condition) -> dict[str, Any]:
        backends = [_backend_object(backend) for backend in self._pool.backends]
        return {"version": self._version, "reasons": condition.reasons, "backends": backends}


def _answer(condition: Condition, details: dict[str, Any]) -> Response:
    is_down = condition.status == "down"
    headers = {"Retry-After": str(TABLE["draining"].retry_after_s)} if is_down else {}
    return json_response({"status": condition.status, **details}, 503 if is_down else 200, headers)


def _backend_object(backend: Backend) -> dict[str, object]:
    return {
        "name": backend.name,
        "status": backend.status,
        "reason": backend.reason,
        "models": list(backend.listings),
        "in_flight": backend.in_flight,
        "running": backend.queue.running if backend.queue else None,
        "waiting": backend.queue.waiting if backend.queue else None,
    }


class MetricsPage:
    """Prometheus metrics: for whoever has a token; for this very machine too, unless `needs_token`."""

    def __init__(
        self,
        metrics: Metrics,
        lifecycle: Lifecycle,
        ledger: Ledger,
        pool: Pool,
        published: Published,
        operators: Operators,
        *,
        needs_token: bool,
    ) -> None:
        self._metrics = metrics
        self._lifecycle = lifecycle
        self._ledger = ledger
        self._pool = pool
        self._published = published
        self._operators = operators
        self._needs_token = needs_token

    async def get(self, request: Request) -> Response:
        self._check(request)
        metrics = self._metrics
        metrics.in_flight.set(self._lifecycle.in_flight)
        metrics.tasks.set(len(asyncio.all_tasks()))
        metrics.ledger_writable.set(self._ledger.is_writable)
        open_holds, oldest_hold_s = await self._ledger.open_holds()
        metrics.open_holds.set(open_holds)
        metrics.oldest_hold_s.set(oldest_hold_s)
        queue, log_bytes = self._ledger.backlog()
        metrics.ledger_queue.set(queue)
        metrics.ledger_log_bytes.set(log_bytes)
        for name, is_running in self._lifecycle.loops.states():
            metrics.background_loop_up.labels(name).set(is_running)
        for backend in self._pool.backends:
            metrics.backend_up.labels(backend.name).set(backend.is_serving)
        metrics.model_available.clear()  # of those that are published no more
        for model in self._published.current.values():
            metrics.model_available.labels(model.id).set(self._pool.status_of(model) == "ready")
        page = await asyncio.to_thread(metrics.exposition)  # some 30 lines for each model that was asked
        return Response(page, headers={"Content-Type": CONTENT_TYPE})

    def _check(self, request: Request) -> None:
        if self._operators.has_token(request.scope):
            return
        if self._needs_token:
            raise GatewayError("missing_credentials", "Send the metrics token as `Authorization: Bearer ...`.")
        if not self._operators.is_here(request.scope):
            message = "Metrics are for loopback only; set `metrics_token` to read them from elsewhere."
            raise GatewayError("insufficient_permissions", message)
