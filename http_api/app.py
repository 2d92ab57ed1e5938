"""Every route of the HTTP door and what each request passes on its way, on one screen."""

import re
from collections.abc import Sequence
from typing import Protocol

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from http_api.any_server import AnyServer
from http_api.billing import Billing
from http_api.chat import ChatCompletions
from http_api.condition import Judge
from http_api.health import Health, MetricsPage
from http_api.keys import Keys
from http_api.limits import Limits
from http_api.middleware.answers import Answers, Check
from http_api.middleware.authentication import Authentication
from http_api.middleware.cors import Cors
from http_api.middleware.gate import Gate
from http_api.middleware.host_check import HostCheck
from http_api.models import Models
from http_api.operations import ExactPaths, Operation, routes_of, unknown_url
from http_api.operators import Operators
from http_api.requests import Requests
from http_api.stats import Stats
from http_api.topups import TopUps
from http_api.usage import Usage
from http_api.welcome import Welcome
from mcp_gateway.core.caller import KeyScope
from mcp_gateway.core.gateway import Gateway
from mcp_gateway.core.hosts import Hosts
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.json_bounds import JsonBounds
from mcp_gateway.core.origins import Origins
from mcp_gateway.wire.bodies import BodyLimits

OPENAI, INFERENCE = PREFIXES = ("/v1", "/api/v1/inference")
_MODELS = re.compile(rf"(?:{'|'.join(PREFIXES)})/models(?:/.*)?")
"""Need no key, even where guests are switched off, unless the models are not public."""
_MODEL_HEALTH = re.compile(rf"(?:{'|'.join(PREFIXES)})/models/.+/health")
"""Needs none in any case, and looks at none."""
_WELL_KNOWN = re.compile(rf"(?:{'|'.join(PREFIXES)})?(?:/mcp(?:/sse)?)?/\.well-known/.*")
"""Where MCP clients look for an authorization server: 404 and never 401, which they would take for one."""


class McpEndpoints(Protocol):
    """The MCP door as this one sees it: three ASGI endpoints."""

    async def streamable_http(self, scope: Scope, receive: Receive, send: Send) -> None: ...
    async def sse(self, scope: Scope, receive: Receive, send: Send) -> None: ...
    async def messages(self, scope: Scope, receive: Receive, send: Send) -> None: ...


def build_app(gateway: Gateway, mcp: McpEndpoints, *, base_url: str) -> AnyServer:
    """The ASGI app of both doors over an open gateway; `base_url` is where clients reach it."""
    settings = gateway.settings
    json_bounds = JsonBounds.of(settings)
    chat = ChatCompletions(
        gateway.chat,
        gateway.repeats,
        body_limits=BodyLimits(settings, gateway.published),
        json_bounds=json_bounds,
        comment_s=settings.upstream.queue_comment_s,
    )
    models = Models(gateway.published, gateway.pool, gateway.limiter)
    keys = Keys(
        gateway.keys,
        gateway.authenticator,
        gateway.idempotency,
        gateway.limiter,
        max_body_bytes=settings.max_body_bytes,
        json_bounds=json_bounds,
    )
    limits = Limits(gateway.limiter)
    billing = Billing(gateway.ledger, gateway.statement, gateway.history, gateway.limiter, now_ms)
    topups = TopUps(gateway.payments, gateway.idempotency, gateway.limiter, settings.stripe, base_url=base_url)
    usage = Usage(gateway.history, gateway.limiter, now_ms)
    requests = Requests(gateway.history, gateway.limiter)
    judge = Judge(gateway.lifecycle, gateway.ledger, gateway.pool, gateway.published)
    stats = Stats(
        judge,
        gateway.published,
        gateway.pool,
        gateway.activity,
        settings.incident,
        now_ms,
        is_full=settings.public_stats == "full",
    )
    operators = Operators(gateway.addresses, settings.operator_token, settings.metrics_token)
    metrics = MetricsPage(
        gateway.metrics,
        gateway.lifecycle,
        gateway.ledger,
        gateway.pool,
        gateway.published,
        operators,
        needs_token=settings.metrics_token is not None,
    )
    health = Health(judge, gateway.pool, operators, gateway.version)
    welcome = Welcome(gateway.version)

    models_scope: KeyScope | None = None if settings.public_models else "inference"
    api = [
        Operation("POST", "/chat/completions", "inference", endpoint=chat),
        Operation("*", "/mcp", None, endpoint=mcp.streamable_http),
        Operation("*", "/mcp/", None, endpoint=mcp.streamable_http),
        Operation("GET", "/mcp/sse", None, endpoint=mcp.sse),
        Operation("GET", "/mcp/sse/", None, endpoint=mcp.sse),
        Operation("POST", "/mcp/messages", None, endpoint=mcp.messages),
        Operation("POST", "/mcp/messages/", None, endpoint=mcp.messages),
        Operation("GET", "/models", models_scope, models.list),
        Operation("GET", "/models/{model_id:path}/health", None, models.health),
        Operation("GET", "/models/{model_id:path}", models_scope, models.get),
        Operation("GET", "/keys", "manage", keys.list),
        Operation("POST", "/keys", "manage", keys.create),
        Operation("GET", "/keys/{key_id}", "manage", keys.get),
        Operation("PATCH", "/keys/{key_id}", "manage", keys.change),
        Operation("DELETE", "/keys/{key_id}", "manage", keys.revoke),
        Operation("GET", "/limits", "inference", limits.get),
        Operation("GET", "/billing", "inference", billing.get),
        Operation("GET", "/billing/transactions", "read", billing.transactions),
        Operation("POST", "/billing/checkout", "billing", topups.checkout),
        Operation("POST", "/billing/portal", "billing", topups.portal),
        Operation("GET", "/credits", "inference", billing.credits),
        Operation("GET", "/credits/transactions", "read", billing.credit_transactions),
        Operation("GET", "/requests", "read", requests.list),
        Operation("GET", "/requests/{request_id}", "read", requests.get),
    ]
    totals = Operation("GET", "/usage", "read", usage.get)
    log = Operation("GET", "/usage", "read", requests.list)
    signed = [Operation("POST", "/billing/webhook", None, topups.webhook)]
    public = [] if settings.public_stats == "off" else [Operation("GET", "/stats", None, stats.get)]
    root = [
        Operation("GET", "/", None, welcome.get),
        Operation("GET", "/health", None, health.get),
        Operation("GET", "/readyz", None, health.ready),
        Operation("GET", "/livez", None, health.live),
        Operation("GET", "/metrics", None, metrics.get),
    ]
    everywhere = ("", *PREFIXES)
    open_paths = frozenset(
        [operation.path for operation in root]
        + [prefix + operation.path for operation in public for prefix in everywhere]
    )
    signed_paths = frozenset(prefix + operation.path for operation in signed for prefix in PREFIXES)

    def is_open(path: str) -> bool:
        if path in open_paths or path in signed_paths:
            return True
        return _MODEL_HEALTH.fullmatch(path) is not None or _WELL_KNOWN.fullmatch(path) is not None

    def needs_no_key(path: str) -> bool:
        return settings.public_models and _MODELS.fullmatch(path) is not None

    routes = [
        *routes_of(api, PREFIXES),
        *routes_of([totals], [OPENAI]),
        *routes_of([log], [INFERENCE]),
        *routes_of(signed, PREFIXES),
        *routes_of(public, everywhere),
        *routes_of(root),
    ]
    checks: list[Check] = [
        Gate(gateway.lifecycle, open_paths),
        Authentication(gateway.authenticator, is_open, needs_no_key),
    ]
    mcp_paths = frozenset(
        prefix + operation.path for prefix in PREFIXES for operation in api if operation.path[:4] == "/mcp"
    )

    def is_mcp(path: str) -> bool:
        return path in mcp_paths or _WELL_KNOWN.fullmatch(path) is not None

    if (hosts := Hosts(settings)).are_limited:
        checks.insert(0, HostCheck(hosts, mcp_paths))
    router = Router(routes, redirect_slashes=False, default=_unknown(routes))
    answers = Answers(
        ExactPaths(router, routes),
        checks=checks,
        new_id=gateway.new_id,
        addresses=gateway.addresses,
        room=gateway.bytes_in_flight,
        limiter=gateway.limiter,
        refusals=gateway.refusals,
        limits_url=f"{base_url}/v1/limits",
    )
    return AnyServer(Cors(answers, Origins(settings), is_mcp))


def _unknown(routes: Sequence[Route]) -> ASGIApp:
    """For every path that none of the routes has."""
    known = [route.path for route in routes if not route.param_convertors]

    async def refuse(scope: Scope, _receive: Receive, _send: Send) -> None:
        raise unknown_url(scope["path"], known)

    return refuse
