"""GET /health and /metrics, at the root."""

import asyncio
import hmac
from ipaddress import ip_address

from starlette.requests import Request
from starlette.responses import Response

from http_api.middleware.authentication import credential_of
from http_api.responses import json_response
from mcp_gateway.core.context import CONTEXT
from mcp_gateway.core.errors import TABLE, GatewayError
from mcp_gateway.core.lifecycle import Lifecycle, Phase
from mcp_gateway.core.observe.metrics import CONTENT_TYPE, Metrics
from mcp_gateway.core.upstream.backend import Backend
from mcp_gateway.core.upstream.pool import Pool


class Health:
    """Is the gateway serving, and which backend is up, and why not."""

    def __init__(self, lifecycle: Lifecycle, pool: Pool, version: str) -> None:
        self._lifecycle = lifecycle
        self._pool = pool
        self._version = version

    async def get(self, request: Request) -> Response:
        is_serving = self._lifecycle.phase is Phase.READY and not self._lifecycle.is_in_maintenance
        backends = [_backend_object(backend) for backend in self._pool.backends]
        headers = {} if is_serving else {"Retry-After": str(TABLE["draining"].retry_after_s)}
        body = {"status": status_of(self._lifecycle, self._pool), "version": self._version, "backends": backends}
        return json_response(body, 200 if is_serving else 503, headers)


def status_of(lifecycle: Lifecycle, pool: Pool) -> str:
    """`ok`, `degraded` while a backend does not serve; or why nothing is served: its phase, or `maintenance`."""
    if lifecycle.phase is not Phase.READY:
        return lifecycle.phase
    if lifecycle.is_in_maintenance:
        return "maintenance"
    return "ok" if all(backend.is_serving for backend in pool.backends) else "degraded"


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
    """Prometheus metrics: for loopback, or for whoever has the token."""

    def __init__(self, metrics: Metrics, lifecycle: Lifecycle, pool: Pool, token: str | None) -> None:
        self._metrics = metrics
        self._lifecycle = lifecycle
        self._pool = pool
        self._token = token

    async def get(self, request: Request) -> Response:
        self._check(request)
        self._metrics.in_flight.set(self._lifecycle.in_flight)
        self._metrics.tasks.set(len(asyncio.all_tasks()))
        for backend in self._pool.backends:
            self._metrics.backend_up.labels(backend.name).set(backend.is_serving)
        return Response(self._metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})

    def _check(self, request: Request) -> None:
        if self._token is not None:
            if not hmac.compare_digest((credential_of(request.scope[CONTEXT]) or "").encode(), self._token.encode()):
                raise GatewayError("missing_credentials", "Send the metrics token as `Authorization: Bearer ...`.")
        elif not _is_loopback(request.scope[CONTEXT].address):
            message = "Metrics are for loopback only; set `metrics_token` to read them from elsewhere."
            raise GatewayError("insufficient_permissions", message)


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
