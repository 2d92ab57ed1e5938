"""What both doors are made of: every object, and what each request passes on its way, on one screen."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypedDict

from starlette.types import ASGIApp

from http_api.admin.accounts import AccountsDoor
from http_api.admin.actors import actor_of
from http_api.admin.admins import AdminsDoor
from http_api.admin.audit import Audit
from http_api.admin.backends import BackendsDoor
from http_api.admin.budgets import BudgetsDoor
from http_api.admin.configuration import Configuration
from http_api.admin.keys import AccountKeysDoor
from http_api.admin.money import MoneyDoor
from http_api.admin.of_account import OfAccount
from http_api.admin.reloads import Reloads
from http_api.admin.service import ServiceDoor
from http_api.admin.table import AdminEndpoints
from http_api.admin.users import UsersDoor
from http_api.any_server import AnyServer
from http_api.attribution import AttributionDoor
from http_api.auto_topups import AutoTopUpDoor
from http_api.billing import Billing
from http_api.bodies import BodyBounds
from http_api.challenges import Challenges
from http_api.console.serving import Console
from http_api.console.table import ConsoleParts, console_of, console_operations
from http_api.current_key import CurrentKey
from http_api.feedback import Feedback
from http_api.generations import Generations
from http_api.health import Health, MetricsPage
from http_api.inference import InferenceEndpoint
from http_api.issuer_sign_in import IssuerSignIn
from http_api.key_objects import KeyObjects
from http_api.keys import Keys
from http_api.limits import Limits
from http_api.messages import TokenCounts, betas_in
from http_api.middleware.admission import Admission
from http_api.middleware.answers import Answers, Check
from http_api.middleware.authentication import Authentication
from http_api.middleware.cookies import Cookie
from http_api.middleware.cors import Cors
from http_api.middleware.gate import Gate
from http_api.middleware.host_check import HostCheck
from http_api.middleware.prefix import Below
from http_api.middleware.region_check import RegionCheck
from http_api.models import Models
from http_api.oauth import OAuthDoor
from http_api.openapi import Document, with_issuer
from http_api.operations import AnyOperation, Asked
from http_api.operators import Operators
from http_api.people import PeopleDoor
from http_api.protected_resources import ProtectedResources
from http_api.proxy import ProviderPaths, as_listing, sold_models
from http_api.reference import Reference
from http_api.requests import Requests
from http_api.responses import is_told_in_stream
from http_api.routes import Routes
from http_api.server_card import ServerCard
from http_api.statements import Statements
from http_api.stats import Stats
from http_api.status import StatusDoor
from http_api.table import Endpoints, McpEndpoints, operations_of
from http_api.tokens import TokenEndpoint
from http_api.tools import Tools
from http_api.topups import TopUps
from http_api.usage import UsageReports
from http_api.webhooks import WebhookDoor
from http_api.welcome import Welcome
from mcp_gateway.core.config import Settings
from mcp_gateway.core.gateway import Gateway
from mcp_gateway.core.hosts import Hosts, path_of
from mcp_gateway.core.identity.oidc.browser_sign_in import CALLBACK, FLOW_MS, START
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.json_bounds import JsonBounds
from mcp_gateway.core.origins import Origins
from mcp_gateway.core.payments.auto_topups import AutoTopUps
from mcp_gateway.core.payments.topup_terms import TopupTerms
from mcp_gateway.core.proxy_paths import ProxiedAs
from mcp_gateway.core.surfaces import completions, embeddings
from mcp_gateway.core.surfaces.chat import CHAT
from mcp_gateway.core.surfaces.completions import COMPLETIONS
from mcp_gateway.core.surfaces.embeddings import EMBEDDINGS
from mcp_gateway.core.surfaces.messages import MESSAGES
from mcp_gateway.core.surfaces.responses import RESPONSES
from mcp_gateway.core.surfaces.scores import RERANK, SCORE
from mcp_gateway.core.surfaces.surface import Surface
from mcp_gateway.core.surfaces.tokens import read_detokenize, read_tokenize
from mcp_gateway.wire.bodies import BodyLimits


def build_app(
    gateway: Gateway, mcp: McpEndpoints, *, base_url: str, resources: ProtectedResources | None = None
) -> AnyServer:
    """The ASGI app of both doors over an open gateway; `base_url` is where clients reach it.

    `resources` are the addresses that others than the gateway give tokens for; guests have another one then.
    """
    settings = gateway.settings
    bounds = BodyBounds.of_accounts(settings)
    console = _console_of(gateway, base_url)
    run = _endpoints(gateway, mcp, base_url, resources, console)
    described = _described(gateway, run, console, base_url=base_url)
    routes = Routes([*described, *_pages(gateway, run, console, base_url)], bounds)
    checks: list[Check] = [
        Gate(gateway.lifecycle),
        Authentication(
            gateway.authenticator, cookie_of(settings), _nowhere if resources is None else resources.resource_at
        ),
        Admission(gateway.limiter),
    ]
    if gateway.regions is not None:
        checks.insert(1, RegionCheck(gateway.regions))
    if (hosts := Hosts(settings)).are_limited:
        checks.insert(0, HostCheck(hosts))
    answers = Answers(
        routes,
        checks=checks,
        new_id=gateway.new_id,
        addresses=gateway.addresses,
        room=gateway.bytes_in_flight,
        limiter=gateway.limiter,
        refusals=gateway.refusals,
        challenges=Challenges(resources),
        limits_url=f"{base_url}/v1/limits",
        links=settings.policy_links,
    )
    app = Cors(answers, Origins(settings), routes)
    prefix = path_of(base_url)
    return AnyServer(Below(app, prefix) if prefix else app)


def _nowhere(_path: str) -> None:
    """Where nobody gives tokens, none is for any address."""


def operations_in(
    gateway: Gateway, mcp: McpEndpoints, *, base_url: str, resources: ProtectedResources | None = None
) -> list[AnyOperation]:
    """All of the API that is served under `base_url`, with the document that says so."""
    console = _console_of(gateway, base_url)
    return _described(gateway, _endpoints(gateway, mcp, base_url, resources, console), console, base_url=base_url)


def _console_of(gateway: Gateway, base_url: str) -> Console:
    settings = gateway.settings
    return console_of(
        gateway.sign_in.people,
        base_url=base_url,
        payment_pages=settings.stripe.page_origins,
        links=settings.policy_links,
    )


def _described(gateway: Gateway, run: Endpoints, console: Console, *, base_url: str) -> list[AnyOperation]:
    operations = operations_of(
        run,
        are_models_public=gateway.settings.public_models,
        are_stats_public=gateway.settings.public_stats != "off",
    )
    if gateway.oidc is not None:
        operations = [with_issuer(row) for row in operations]
    browsed = (START, CALLBACK)
    operations = [console.for_browsers(row) if row.path in browsed else row for row in operations]

    def serves_guests() -> bool:
        return gateway.settings.guests.enabled

    reference = Reference(
        lambda: document.as_object(), partial(_prefix_of, gateway), console.write_page, serves_guests=serves_guests
    )
    document = Document(
        [*operations, reference.row],
        version=gateway.version,
        base_url=base_url,
        serves_guests=serves_guests,
        links=gateway.settings.policy_links,
    )
    return [*operations, reference.row, document.row]


def pages_in(gateway: Gateway, mcp: McpEndpoints, *, base_url: str) -> list[AnyOperation]:
    """All pages of the console that are served under `base_url`."""
    console = _console_of(gateway, base_url)
    return _pages(gateway, _endpoints(gateway, mcp, base_url, None, console), console, base_url)


def _pages(gateway: Gateway, run: Endpoints, console: Console, base_url: str) -> list[AnyOperation]:
    parts = ConsoleParts(
        registration=lambda: gateway.settings.users.registration,
        first_model=lambda: next(iter(gateway.published.current), "demo/echo"),
        now_ms=now_ms,
        base_url=base_url,
        are_models_public=gateway.settings.public_models,
        is_status_public=gateway.settings.public_stats != "off",
        are_model_days_public=gateway.settings.public_stats == "full",
        lifecycle=gateway.lifecycle,
        is_shared=gateway.addresses.is_shared,
        takes_passwords=not gateway.settings.oidc.only,
        issuer_path=_start_path(gateway),
        issuer_name=gateway.settings.oidc.shown_name,
    )
    return console_operations(run, parts, console)


async def _prefix_of(gateway: Gateway, key_id: str) -> str:
    return (await gateway.keys.get(key_id)).prefix


def _endpoints(
    gateway: Gateway, mcp: McpEndpoints, base_url: str, resources: ProtectedResources | None, console: Console
) -> Endpoints:
    settings = gateway.settings
    operators = Operators(gateway.addresses, settings.operator_token, settings.metrics_token)
    bounds = _bounds_of(gateway)
    return Endpoints(
        chat=_inference_of(CHAT, gateway, may_offer_tools=True, tells_choice=True),
        completions=_inference_of(COMPLETIONS, gateway, ids_in=completions.IDS_IN),
        embeddings=_inference_of(EMBEDDINGS, gateway, ids_in=embeddings.IDS_IN),
        rerank=_inference_of(RERANK, gateway),
        score=_inference_of(SCORE, gateway),
        messages=_inference_of(MESSAGES, gateway, fields_in=betas_in),
        responses=_inference_of(RESPONSES, gateway, is_told_in_stream=is_told_in_stream),
        message_tokens=TokenCounts(gateway.inference, **bounds),
        tokenize=TokenEndpoint(read_tokenize, gateway.inference, **bounds),
        detokenize=TokenEndpoint(read_detokenize, gateway.inference, **bounds),
        proxy=_provider_paths(gateway),
        mcp=mcp,
        resources=resources,
        card=_card_of(gateway, has_sign_in=resources is not None),
        tools=Tools(gateway.tool_servers),
        people=PeopleDoor(gateway.sign_in, gateway.sign_ins, cookie_of(settings)),
        issuer_sign_in=_issuer_sign_in(gateway),
        oauth=_oauth_door(gateway),
        models=_models(gateway),
        keys=Keys(
            gateway.keys,
            gateway.mint,
            gateway.authenticator,
            gateway.idempotency,
            _key_objects(gateway),
            gateway.published,
            now_ms,
        ),
        limits=Limits(gateway.limiter, gateway.ledger),
        current_key=CurrentKey(gateway.keys, gateway.limiter, gateway.ledger, gateway.history, now_ms),
        generations=Generations(gateway.history, lambda: gateway.published.sources),
        feedback=Feedback(gateway.history, gateway.outcomes),
        billing=Billing(gateway.ledger, gateway.statement, gateway.history, now_ms),
        statements=Statements(gateway.months, now_ms),
        topups=TopUps(gateway.payments, gateway.idempotency, settings.stripe, base_url=base_url),
        auto_topups=_auto_topup_door(gateway, base_url, lambda _: gateway.auto_topups),
        webhooks=WebhookDoor(lambda _: gateway.webhooks),
        attribution=AttributionDoor(
            gateway.accounts, lambda: gateway.settings.attribution.user_headers, gateway.known_keys.catch_up
        ),
        usage=UsageReports(gateway.history, now_ms),
        requests=Requests(gateway.history),
        stats=Stats(
            gateway.judge,
            gateway.published,
            gateway.pool,
            gateway.activity,
            gateway.model_days,
            lambda: gateway.notices.incident,
            now_ms,
            is_full=settings.public_stats == "full",
        ),
        status=StatusDoor(
            gateway.board,
            gateway.notices,
            gateway.activity,
            now_ms,
            base_url=base_url,
            is_full=settings.public_stats == "full",
        ),
        health=Health(gateway.judge, gateway.pool, operators, gateway.version, gateway.replica),
        metrics=MetricsPage(
            gateway.metrics,
            gateway.lifecycle,
            gateway.ledger,
            gateway.pool,
            gateway.published,
            operators,
            needs_token=settings.metrics_token is not None,
        ),
        welcome=Welcome(
            gateway.version,
            _start_path(gateway),
            console.write_page,
            base_url=base_url,
            has_status=settings.public_stats != "off",
        ),
        admin=_admin_endpoints(gateway, base_url),
    )


def _key_objects(gateway: Gateway) -> KeyObjects:
    return KeyObjects(gateway.authenticator, gateway.ledger, gateway.history, gateway.published, now_ms)


def _card_of(gateway: Gateway, *, has_sign_in: bool) -> ServerCard | None:
    if gateway.settings.public_url is None:
        return None
    return ServerCard(
        gateway.settings.public_url,
        version=gateway.version,
        has_sign_in=has_sign_in,
        serves_guests=lambda: gateway.settings.guests.enabled,
    )


def _auto_topup_door(
    gateway: Gateway, base_url: str, auto_topups_for: Callable[[Asked[Any, Any]], AutoTopUps]
) -> AutoTopUpDoor:
    settings = gateway.settings.stripe
    is_offered = gateway.payments is not None and settings.auto_topup
    return AutoTopUpDoor(auto_topups_for, TopupTerms.of(settings, f"{base_url}/"), is_offered=is_offered)


def _admin_endpoints(gateway: Gateway, base_url: str) -> AdminEndpoints:
    return AdminEndpoints(
        configuration=Configuration(lambda: gateway.settings),
        backends=BackendsDoor(gateway.pool, gateway.published, gateway.version),
        audit=Audit(gateway.audit),
        reloads=Reloads(gateway.reload_all),
        service=ServiceDoor(gateway.notices, gateway.lifecycle, gateway.operator),
        accounts=AccountsDoor(gateway.accounts, gateway.ledger, gateway.operator),
        keys=AccountKeysDoor(
            gateway.keys, gateway.mint, gateway.idempotency, _key_objects(gateway), gateway.operator, now_ms
        ),
        users=UsersDoor(gateway.sign_in.people, gateway.operator),
        admins=AdminsDoor(gateway.operator),
        budgets=BudgetsDoor(gateway.operator, gateway.keys, gateway.ledger, gateway.idempotency, now_ms),
        money=MoneyDoor(gateway.operator, gateway.ledger, gateway.idempotency, now_ms),
        auto_topups=_auto_topup_door(gateway, base_url, lambda asked: gateway.operator(actor_of(asked)).auto_topups),
        webhooks=WebhookDoor(lambda asked: gateway.operator(actor_of(asked)).webhooks),
        of_account=OfAccount(gateway.accounts),
    )


def _models(gateway: Gateway) -> Models:
    return Models(
        gateway.published,
        gateway.auto_model,
        gateway.pool,
        gateway.model_days,
        takes_image_urls=gateway.settings.fetch_images,
    )


def _provider_paths(gateway: Gateway) -> ProviderPaths:
    """What is asked of a provider by its own paths has to reach it unchanged."""
    surfaces: dict[ProxiedAs, ASGIApp] = {
        "chat": _inference_of(CHAT, gateway, passes_unchanged=True),
        "completions": _inference_of(COMPLETIONS, gateway, ids_in=completions.IDS_IN, passes_unchanged=True),
        "embeddings": _inference_of(EMBEDDINGS, gateway, ids_in=embeddings.IDS_IN, passes_unchanged=True),
        "rerank": _inference_of(RERANK, gateway, passes_unchanged=True),
        "score": _inference_of(SCORE, gateway, passes_unchanged=True),
        "messages": _inference_of(MESSAGES, gateway, fields_in=betas_in, passes_unchanged=True),
        "responses": _inference_of(RESPONSES, gateway, passes_unchanged=True, is_told_in_stream=is_told_in_stream),
        "message_tokens": as_listing(TokenCounts(gateway.inference, **_bounds_of(gateway)), gateway.limiter),
        "models": as_listing(sold_models(_models(gateway)), gateway.limiter),
    }
    limits = BodyLimits(gateway.settings, gateway.published)
    return ProviderPaths(gateway.pool.providers, surfaces, gateway.inference, gateway.repeats, limits)


def _inference_of(surface: Surface, gateway: Gateway, **more: Any) -> InferenceEndpoint:
    settings = gateway.settings
    return InferenceEndpoint(
        surface,
        gateway.inference,
        gateway.repeats,
        **_bounds_of(gateway),
        comment_s=settings.upstream.queue_comment_s,
        **more,
    )


def _start_path(gateway: Gateway) -> str | None:
    """Where people sign in with a browser at an issuer, if they do."""
    return START if gateway.settings.oidc.has_browser else None


def _issuer_sign_in(gateway: Gateway) -> IssuerSignIn | None:
    oidc = gateway.oidc
    if oidc is None or oidc.browser is None:
        return None
    is_insecure = gateway.settings.users.insecure_cookie
    return IssuerSignIn(
        oidc.browser,
        oidc.arrivals,
        gateway.sign_in,
        gateway.sign_ins,
        cookie=cookie_of(gateway.settings),
        flow_cookie=Cookie(b"gw_sign_in", is_insecure=is_insecure, lifetime_s=FLOW_MS // 1000),
    )


def _oauth_door(gateway: Gateway) -> OAuthDoor | None:
    if gateway.oauth is None:
        return None
    return OAuthDoor(gateway.oauth, gateway.mint, max_grant_days=gateway.settings.oauth.max_grant_days, now_ms=now_ms)


def cookie_of(settings: Settings) -> Cookie:
    users = settings.users
    return Cookie(b"gw_console", is_insecure=users.insecure_cookie, lifetime_s=users.session_lifetime_s)


class _Bounds(TypedDict):
    """Of a body for a model."""

    body_limits: BodyLimits
    json_bounds: JsonBounds


def _bounds_of(gateway: Gateway) -> _Bounds:
    settings = gateway.settings
    return _Bounds(body_limits=BodyLimits(settings, gateway.published), json_bounds=JsonBounds.of(settings))
