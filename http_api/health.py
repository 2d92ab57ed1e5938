"""GET /health, /readyz, /livez and /metrics, at the root: what watches the gateway asks these."""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.types import Scope

from http_api.operations import Absent, Answered, Asked, Nothing, Told
from http_api.operators import Operators
from http_api.query import AnyQuery
from mcp_gateway.core.catalog import Published
from mcp_gateway.core.condition import Condition, Judge, Status
from mcp_gateway.core.errors import TABLE, GatewayError
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.lifecycle import Lifecycle
from mcp_gateway.core.money import NANO_PER_USD
from mcp_gateway.core.observe.metrics import Metrics
from mcp_gateway.core.upstream.backend import Backend
from mcp_gateway.core.upstream.pool import Pool
from mcp_gateway.wire.whole_answers import retry_after

Probe = Asked[AnyQuery, Nothing]


class BackendObject(Told):
    """One backend for the operator: its state and why, what it has, and what runs and waits there."""

    name: str
    status: str
    reason: str | None
    models: list[str]
    in_flight: int
    running: int | None
    waiting: int | None


class HealthObject(Told):
    """One word for anybody; for the operator the reasons, the worst first, each backend, and which of several it is."""

    status: Status
    version: str | Absent = None
    replica: int | Absent = None
    reasons: list[str] | Absent = None
    backends: list[BackendObject] | Absent = None


class Health:
    """Whether the gateway serves: in one word for anybody, with all reasons for its operator."""

    def __init__(
        self, judge: Judge, pool: Pool, operators: Operators, version: str, replica: Callable[[], int | None]
    ) -> None:
        self._judge = judge
        self._pool = pool
        self._operators = operators
        self._version = version
        self._replica = replica

    async def get(self, asked: Probe) -> Answered[HealthObject]:
        condition = self._judge.condition()
        is_operator = self._operators.is_here(asked.scope) or self._operators.has_token(asked.scope)
        return _answer(condition, self._details(condition) if is_operator else {})

    async def ready(self, asked: Probe) -> Answered[HealthObject]:
        """The same verdict, for a load balancer."""
        return _answer(self._judge.condition(), {})

    async def live(self, asked: Probe) -> HealthObject:
        """Nothing but that the event loop turns: what restarts a process must not do so for a backend that is down."""
        return HealthObject(status="ok")

    def _details(self, condition: Condition) -> dict[str, Any]:
        backends = [backend_object(backend) for backend in self._pool.backends]
        which = {} if (replica := self._replica()) is None else {"replica": replica}
        return {"version": self._version, **which, "reasons": condition.reasons, "backends": backends}


def _answer(condition: Condition, details: dict[str, Any]) -> Answered[HealthObject]:
    told = HealthObject(status=condition.status, **details)
    if condition.status != "down":
        return Answered(told)
    return Answered(told, 503, retry_after(TABLE["draining"].retry_after_s))


def backend_object(backend: Backend) -> BackendObject:
    return BackendObject(
        name=backend.name,
        status=backend.status,
        reason=backend.reason,
        models=list(backend.models.listings),
        in_flight=backend.work.in_flight,
        running=backend.work.queue.running if backend.work.queue else None,
        waiting=backend.work.queue.waiting if backend.work.queue else None,
    )


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
        metrics.refresh = self._refresh
        self._lifecycle = lifecycle
        self._ledger = ledger
        self._pool = pool
        self._published = published
        self._operators = operators
        self._needs_token = needs_token

    async def get(self, asked: Probe) -> bytes:
        self._check(asked.scope)
        own = await self._metrics.told()
        return own if self._metrics.told_by_all is None else await self._metrics.told_by_all(own)

    def _refresh(self) -> None:
        metrics = self._metrics
        metrics.in_flight.set(self._lifecycle.in_flight)
        metrics.tasks.set(len(asyncio.all_tasks()))
        metrics.ledger_writable.set(self._ledger.is_writable)
        held = self._ledger.held_now()
        metrics.open_holds.set(held.requests)
        metrics.held_usd.set(held.amount_nano / NANO_PER_USD)
        metrics.overdrawn_usd.set(held.overdrawn_nano / NANO_PER_USD)
        metrics.oldest_hold_s.set(held.oldest_s)
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

    def _check(self, scope: Scope) -> None:
        if self._operators.has_token(scope):
            return
        if self._needs_token:
            raise GatewayError("missing_credentials", "Send the metrics token as `Authorization: Bearer ...`.")
        if not self._operators.is_here(scope):
            message = "Metrics are for loopback only; set `metrics_token` to read them from elsewhere."
            raise GatewayError("insufficient_permissions", message)
