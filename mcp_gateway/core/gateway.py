"""The composition root: opens everything in order, closes it in reverse; constructs what no reload makes again."""

import asyncio
import contextlib
import logging
import os
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from mcp_gateway import __version__
from mcp_gateway.core.audit.auditing import Auditing
from mcp_gateway.core.audit.log import Actor, AuditLog
from mcp_gateway.core.bytes_in_flight import BytesInFlight
from mcp_gateway.core.catalog import (
    DEMO,
    VLLM,
    Published,
    price_line,
)
from mcp_gateway.core.clock import DAY_MS, SteadyClock
from mcp_gateway.core.condition import Judge
from mcp_gateway.core.config import Settings
from mcp_gateway.core.dialects.dialect import Targets
from mcp_gateway.core.dialects.vllm import Vllm
from mcp_gateway.core.engine import Engine
from mcp_gateway.core.hosts import base_url_of
from mcp_gateway.core.idempotency import Idempotency, Repeats
from mcp_gateway.core.identity.access_tokens import AccessTokens
from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.identity.address import AddressReader, counted_as, site_of
from mcp_gateway.core.identity.admin_keys import AdminKeys
from mcp_gateway.core.identity.authenticator import Authenticator
from mcp_gateway.core.identity.key_ring import KeyRing
from mcp_gateway.core.identity.known_keys import KnownKeys
from mcp_gateway.core.identity.oauth.server import OAuthServer
from mcp_gateway.core.identity.oidc.oidc import Oidc, client_secret_of, oidc_of
from mcp_gateway.core.identity.passwords import Passwords
from mcp_gateway.core.identity.people import People
from mcp_gateway.core.identity.sessions import KnownSessions, SessionLifetimes, UserSessions
from mcp_gateway.core.identity.sign_in import SignIn
from mcp_gateway.core.ids import new_id, now_ms
from mcp_gateway.core.image_fetching.documents import DocumentFetcher
from mcp_gateway.core.image_fetching.fetcher import ImageFetcher
from mcp_gateway.core.image_fetching.resolver import Resolver
from mcp_gateway.core.inference.auto_router import AutoRouter
from mcp_gateway.core.inference.exchange import Inference
from mcp_gateway.core.inference.parts import Parts
from mcp_gateway.core.ledger.archive import LedgerArchive
from mcp_gateway.core.ledger.by_hand import Cashier
from mcp_gateway.core.ledger.checkpoint import verify_since_checkpoint
from mcp_gateway.core.ledger.closing import Closing
from mcp_gateway.core.ledger.leases import Leases
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.ledger.months import Months
from mcp_gateway.core.ledger.orders import Orderer, Orders, ReplicasThere, RunningServer
from mcp_gateway.core.ledger.pending import PendingFile
from mcp_gateway.core.ledger.shared import SharedLedger
from mcp_gateway.core.ledger.statement import Statement
from mcp_gateway.core.lifecycle import Lifecycle, Phase
from mcp_gateway.core.limiting import limiting
from mcp_gateway.core.limits.by_address import ByAddress
from mcp_gateway.core.limits.day_counts import DayCounts
from mcp_gateway.core.limits.limiter import Limiter
from mcp_gateway.core.limits.sign_ins import SignIns
from mcp_gateway.core.mcp_client.servers import ToolServers
from mcp_gateway.core.mcp_paths import MCP_PATH, MCP_PATHS
from mcp_gateway.core.minting import Mint
from mcp_gateway.core.money import parse_usd
from mcp_gateway.core.observe.activity import Activity
from mcp_gateway.core.observe.counter_samples import CounterSamples
from mcp_gateway.core.observe.daily_sums import DailySums
from mcp_gateway.core.observe.failures import Failures
from mcp_gateway.core.observe.history import History
from mcp_gateway.core.observe.hourly_sums import HourlySums
from mcp_gateway.core.observe.metrics import Metrics
from mcp_gateway.core.observe.model_ages import ModelAges
from mcp_gateway.core.observe.model_days import ModelDays
from mcp_gateway.core.observe.reconciliation import Reconciler
from mcp_gateway.core.observe.records import Records
from mcp_gateway.core.observe.refusals import Refusals
from mcp_gateway.core.observe.retention import Retention
from mcp_gateway.core.observe.status_board import StatusBoard
from mcp_gateway.core.payments.auto_payments import AutoPayments
from mcp_gateway.core.payments.auto_topups import AutoTopUps
from mcp_gateway.core.payments.checkout import Till
from mcp_gateway.core.payments.payments import Payments
from mcp_gateway.core.payments.topup_terms import TopupTerms
from mcp_gateway.core.policy.images import Blocklist, ImagePolicy, read_blocklist
from mcp_gateway.core.policy.regions import Database, Regions, read_country_database
from mcp_gateway.core.policy.watched_file import WatchedFile
from mcp_gateway.core.private import make_folder
from mcp_gateway.core.provider_keys import read_keys
from mcp_gateway.core.reloadable import Reloaded
from mcp_gateway.core.reloading import (
    Configured,
    Publishing,
    Reloading,
    dialects_of,
    most_keys,
    notice_in,
    priors_of,
    sources_of,
)
from mcp_gateway.core.replicas import Replicas
from mcp_gateway.core.routing.auto_model import AutoModel
from mcp_gateway.core.routing.outcome_book import OutcomeBook
from mcp_gateway.core.service_notice import ServiceNotices
from mcp_gateway.core.sharing import sharing
from mcp_gateway.core.store.database import GatewayDatabase, OpenDatabase
from mcp_gateway.core.store.opening import database_in
from mcp_gateway.core.upstream.backend import Backend
from mcp_gateway.core.upstream.budget import RetryBudget
from mcp_gateway.core.upstream.configured import Upstreams, measured_in
from mcp_gateway.core.upstream.demo import DemoBackend
from mcp_gateway.core.upstream.pool import Pool
from mcp_gateway.core.upstream.served_models import ServedModels
from mcp_gateway.core.webhooks.deliveries import Deliveries
from mcp_gateway.core.webhooks.sending import Sender
from mcp_gateway.core.webhooks.webhooks import Webhooks

logger = logging.getLogger(__name__)

_LOOKUPS_OF_A_WEBHOOK = 2
"""Of one account at once: the system may still be at one that was given up."""
_LOOKUPS_OF_A_CLIENT = 2
"""The same for one address from which descriptions of clients are asked for."""
T = TypeVar("T")
_NOBODY_NAMED = Actor("shell", "unknown", "unknown")


@dataclass(slots=True)
class Gateway:
    """The open parts, for the doors to build on."""

    inference: Inference
    version: str
    new_id: Callable[[str], str]
    lifecycle: Lifecycle
    metrics: Metrics
    activity: Activity
    refusals: Refusals
    history: History
    published: Published
    auto_model: AutoModel
    pool: Pool
    limiter: Limiter
    bytes_in_flight: BytesInFlight
    ledger: Ledger
    statement: Statement
    months: Months
    payments: Payments | None
    auto_topups: AutoTopUps
    idempotency: Idempotency
    repeats: Repeats
    keys: KeyRing
    mint: Mint
    known_keys: KnownKeys
    known_sessions: KnownSessions
    sign_in: SignIn
    sign_ins: SignIns
    authenticator: Authenticator
    oidc: Oidc | None
    """None where nobody is let in by an issuer."""
    oauth: OAuthServer | None
    """None where the gateway gives no tokens of its own for the MCP door."""
    addresses: AddressReader
    regions: Regions | None
    """None where no country is refused."""
    blocklist: WatchedFile[frozenset[str]] | None
    tool_servers: ToolServers
    outcomes: OutcomeBook
    accounts: Accounts
    audit: AuditLog
    webhooks: Webhooks
    notices: ServiceNotices
    judge: Judge
    board: StatusBoard
    replicas: Replicas | None
    """None where this process is alone."""
    replica: Callable[[], int | None]
    """Which of them it is, as the database numbers them: another one after it was taken for dead."""
    model_days: ModelDays
    operator: Callable[[Actor], "OperatorDesk"]
    reload: Callable[[Actor], Awaitable[Reloaded]]
    """Read the configuration again. Raises GatewayError `invalid_value` for one that cannot be used."""
    reload_all: Callable[[Actor], Awaitable[Reloaded]]
    """The same, and have all other replicas do so, too. Raises `conflict` where one of these did not."""

    @property
    def settings(self) -> Settings:
        """In force, which may be others after a reload."""
        return self.inference.parts.settings


@dataclass(frozen=True, slots=True)
class OperatorDesk:
    """What an administrator works on over HTTP: the same as the command line's, within the server.

    `store` notes whatever it writes as theirs, as the others do; `heard` has the server take up what was changed.
    """

    store: Engine
    accounts: Accounts
    keys: KeyRing
    people: People
    sessions: UserSessions
    admin_keys: AdminKeys
    cashier: Cashier
    webhooks: Webhooks
    auto_topups: AutoTopUps
    leases: Leases
    heard: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Desk:
    """What the command line works on, beside a running server or without one."""

    accounts: Accounts
    keys: KeyRing
    people: People
    admin_keys: AdminKeys
    ledger: Ledger
    archive: LedgerArchive
    cashier: Cashier
    statement: Statement
    months: Months
    history: History
    hourly_sums: HourlySums
    reconciler: Reconciler
    server: RunningServer
    outcomes: OutcomeBook
    audit: AuditLog
    webhooks: Webhooks
    auto_topups: AutoTopUps


@contextlib.asynccontextmanager
async def open_desk(settings: Settings, by: Actor = _NOBODY_NAMED) -> AsyncIterator[Desk]:
    """The database alone; a command has it checked first. Changes are noted as `by` who makes them.

    Raises ServedByOlder, too, where its schema is behind and a server uses it.
    """
    make_folder(settings.data_dir)
    database = database_in(*settings.database_place)
    database.upgrade_unless_served()
    async with _opened(database, settings, now_ms) as opened:
        store = Auditing(opened, by)
        accounts = Accounts(store, new_id=new_id, now_ms=now_ms)
        ledger = _ledger(store, settings)
        leases = Leases(store, ledger)
        server = RunningServer(store, ledger, leases, database.alone, by, now_ms=now_ms)
        yield Desk(
            accounts,
            _keys(store, settings),
            _people(store, settings),
            _admin_keys(store),
            ledger,
            LedgerArchive(store, _closing(store, settings, now_ms)),
            Cashier(store, server.decide, new_reference=partial(new_id, "cli")),
            Statement(store),
            Months(store),
            History(store),
            HourlySums(store),
            Reconciler(store, int(_longest_hold_s(settings) * 1000)),
            server,
            _outcomes(store, settings),
            AuditLog(store),
            _webhooks(store, settings),
            AutoTopUps(store, now_ms=now_ms),
        )


@contextlib.asynccontextmanager
async def open_gateway(
    settings: Settings,
    *,
    now_s: Callable[[], float] | None = None,
    environ: Mapping[str, str] = os.environ,
    load: Callable[[], Settings] | None = None,
) -> AsyncIterator[Gateway]:
    """Everything a door needs, opened; ready to serve on entry, drained and closed on exit.

    `now_s` is the clock that limits go by; otherwise they, and grants, go by a steady one. What the settings name of
    the environment is looked up in `environ`. `load` reads the configuration again. Raises ConfigError.
    """
    provider_keys = read_keys(settings.providers, environ)
    client_secret = client_secret_of(settings.oidc, environ)
    clock = SteadyClock()
    tool_servers = _tool_servers(settings, environ)
    async with contextlib.AsyncExitStack() as stack:
        make_folder(settings.data_dir)
        database = database_in(*settings.database_place)
        stack.enter_context(database.sole_server())  # first, so that nothing is migrated beneath another server
        metrics = Metrics(__version__, engine_version=database.engine_version)
        database.check()
        store = await stack.enter_async_context(
            _opened(database, settings, clock.now_ms, metrics.fsynced, is_server=True)
        )
        metrics.elected.set_function(lambda: store.is_elected)
        metrics.hears_others.set_function(lambda: store.hears_others)
        metrics.replica.set_function(lambda: store.replica or 0)
        pending = PendingFile(settings.data_dir, await store.identity())
        stack.push_async_callback(_close, store, pending)
        lifecycle = Lifecycle()
        notices = ServiceNotices(store, lifecycle, notice_in(settings))
        await notices.begin()
        activity = Activity(now_ms)
        refusals = Refusals(lambda code: metrics.refusals.labels(code).inc(), counted_as)
        await activity.restore(store)
        records = Records(store)
        ledger = _server_ledger(store, settings)
        leases = Leases(store, ledger)
        await verify_since_checkpoint(store)
        await _catch_up(ledger, pending)
        keys = _keys(store, settings)
        known_keys = KnownKeys(keys, now_ms=now_ms)
        await known_keys.begin()
        tokens = AccessTokens(
            store,
            issuer=settings.public_url or "mcp-gateway",
            lifetime_ms=settings.users.token_lifetime_s * 1000,
            new_id=new_id,
            now_ms=now_ms,
        )
        sessions = _sessions(store, settings)
        known_sessions = KnownSessions(sessions, tokens, now_ms=now_ms)
        known_keys.on_change(known_sessions.catch_up)
        oidc = oidc_of(settings, store, client_secret, new_id=new_id, now_ms=now_ms)
        if oidc is not None:
            stack.push_async_callback(oidc.aclose)
            known_keys.on_change(oidc.tokens.catch_up)
        passwords = Passwords()
        stack.callback(passwords.close)
        outcomes = _outcomes(store, settings)
        await outcomes.begin()
        addresses = AddressReader(settings.trusted_proxies)
        blocklist = _watched(settings.image_blocklist_file, read_blocklist)
        countries = _watched(settings.policy.country_database, read_country_database)
        shared = await sharing(settings, store)
        limits = await limiting(settings, clock.now_s, now_s, metrics)
        limiter = limits.limiter
        known_keys.go_by(limiter.last_minute)
        limiter.restore_day(await _used_today(records, keys))
        day_counts = DayCounts(store, limiter)
        await day_counts.restore()
        stack.callback(day_counts.write)
        published = Published(is_public=settings.public_models, sources=sources_of(settings))
        ages = ModelAges(store, time.time)
        await ages.restore()
        samples = CounterSamples(store, now_ms, kept_days=settings.upstream.counters_kept_days)
        upstreams = Upstreams.made(settings, provider_keys)
        publishing = Publishing(published, ages, settings)
        pool = _pool(settings, publishing, samples, upstreams)
        stack.push_async_callback(pool.aclose)
        dialect = Vllm(settings.upstream.pass_fields, settings.upstream.pass_template_kwargs)
        targets = Targets({VLLM: dialect, DEMO: dialect, **dialects_of(settings)})
        auto_router = AutoRouter(settings.routing, published, pool, metrics, outcomes, targets)
        inference = limits.inference(
            Parts(
                settings=settings,
                published=published,
                pool=pool,
                auto_router=auto_router,
                ledger=ledger,
                records=records,
                images=_image_policy(settings, blocklist),
                image_fetcher=_image_fetcher(settings, metrics),
                targets=targets,
                metrics=metrics,
                failures=Failures(
                    lambda backend, code: metrics.upstream_errors.labels(backend, code).inc(),
                    asyncio.get_running_loop().call_later,
                ),
                activity=activity,
                lifecycle=lifecycle,
            ),
            tool_servers,
        )
        stack.callback(inference.refused.write)
        authenticator = Authenticator(
            known_keys,
            settings.guests,
            settings.limits,
            _admin_keys(store),
            known_sessions,
            None if oidc is None else oidc.tokens,
        )
        reloading = Reloading(
            load or (lambda: settings),
            environ,
            store,
            upstreams,
            publishing,
            Configured(inference.parts, published, pool, authenticator, keys, outcomes, notices),
        )
        orders = Orders(
            store,
            ledger,
            leases,
            partial(_written_by, store),
            reloading.ordered,
            now_ms=now_ms,
            replica=lambda: store.replica,
        )
        till = stack.enter_context(_till(settings))
        auto_payments = None if till is None else _auto_payments(store, till, settings, metrics)
        if auto_payments is not None:
            await auto_payments.begin(are_offered=settings.stripe.auto_topup)
        deliveries = _deliveries(store, settings, metrics)
        await deliveries.begin(settings.webhooks.url)
        judge = Judge(lifecycle, ledger, pool, published, limits.is_alone)
        closing = _closing(store, settings, clock.now_ms)
        retention = Retention(store, clock.now_ms, requests_keep_days=settings.requests_keep_days)
        daily_sums = DailySums(store, clock.now_ms)
        board = StatusBoard(store, judge.components, clock.now_ms)
        await board.restore()
        gateway = Gateway(
            version=__version__,
            new_id=new_id,
            lifecycle=lifecycle,
            metrics=metrics,
            activity=activity,
            refusals=refusals,
            history=History(store),
            published=published,
            auto_model=AutoModel(published, settings.routing.model_pool),
            pool=pool,
            limiter=limiter,
            bytes_in_flight=_bytes_in_flight(settings, addresses, metrics),
            ledger=ledger,
            statement=Statement(store),
            months=Months(store),
            payments=None if till is None else _payments(store, till, metrics),
            auto_topups=AutoTopUps(store, now_ms=now_ms),
            idempotency=Idempotency(store, now_ms=now_ms, is_replica=store.replica is not None),
            repeats=Repeats(store, now_ms=clock.now_ms, is_replica=store.replica is not None),
            keys=keys,
            mint=Mint(keys, ledger, leases, published, new_id),
            known_keys=known_keys,
            known_sessions=known_sessions,
            sign_in=SignIn(
                _people(store, settings),
                passwords,
                sessions,
                tokens,
                registration=settings.users.registration,
                heard=known_keys.catch_up,
            ),
            sign_ins=SignIns(now_s or clock.now_s),
            authenticator=authenticator,
            oidc=oidc,
            oauth=_oauth_server(store, keys, settings, metrics, now_s or clock.now_s),
            addresses=addresses,
            regions=_regions(settings, addresses, countries, metrics),
            blocklist=blocklist,
            inference=inference,
            tool_servers=tool_servers,
            outcomes=outcomes,
            accounts=Accounts(store, new_id=new_id, now_ms=now_ms),
            audit=AuditLog(store),
            operator=partial(_operator_desk, store, settings, keys, known_keys, ledger),
            reload=reloading.reload,
            reload_all=partial(_reload_all, store, reloading),
            webhooks=_webhooks(store, settings),
            notices=notices,
            judge=judge,
            board=board,
            replicas=shared.replicas,
            replica=lambda: store.replica,
            model_days=ModelDays(activity, board),
        )
        _watch_tool_servers(tool_servers, metrics)
        for warning in settings.warnings:
            logger.warning(warning)
        known_keys.on_close(inference.close_key)
        known_sessions.on_close(inference.close_key)
        if oidc is not None:
            oidc.tokens.on_end(lambda holder, error: inference.close_key(holder.user.user_id, error))
        known_keys.on_secret_end(inference.close_secret)
        keys.on_change(lambda key: leases.give_back_of(key.account_id))
        await pool.begin(settings.upstream.start_wait_s)
        _log_prices(settings, published)
        await stack.enter_async_context(
            lifecycle.loops.running(
                discovery=pool.watch,
                day_counts=day_counts.watch,
                keys=known_keys.watch,
                leases=leases.watch,
                grants=ledger.watch_grants,
                holds=ledger.watch_holds,
                notices=notices.watch,
                **({"allotments": ledger.watch_allotments} if isinstance(ledger, SharedLedger) else {}),
                **({"activity": partial(activity.watch, store)} if store.replica is not None else {}),
                orders=orders.watch,
                outcomes=outcomes.watch,
                refusals=refusals.watch,
                refused_requests=inference.refused.watch,
                retention=retention.watch,
                daily_sums=daily_sums.watch,
                closing=closing.watch,
                user_sessions=known_sessions.watch,
                webhooks=deliveries.watch,
                **({"status_board": board.watch} if settings.public_stats != "off" else {}),
                **limits.loops,
                **shared.loops,
                **({"auto_payments": auto_payments.watch} if auto_payments else {}),
                **({"issuer": oidc.issuer.watch} if oidc is not None else {}),
                **({"mcp_servers": tool_servers.watch} if tool_servers else {}),
                **({"image_blocklist": blocklist.watch} if blocklist else {}),
                **({"country_database": countries.watch} if countries else {}),
            )
        )
        lifecycle.phase = Phase.READY
        yield gateway
        lifecycle.begin_draining()
        await lifecycle.wait_until_idle(settings.drain_timeout_s)


@contextlib.asynccontextmanager
async def _opened(
    database: GatewayDatabase,
    settings: Settings,
    now_ms: Callable[[], int],
    fsynced: Callable[[float], None] | None = None,
    *,
    is_server: bool = False,
) -> AsyncIterator[OpenDatabase]:
    timeout_s = settings.limits.report_timeout_s
    store = await database.open(now_ms=now_ms, report_timeout_s=timeout_s, fsynced=fsynced, is_server=is_server)
    try:
        yield store
    finally:
        await store.close()


def _operator_desk(
    opened: Engine, settings: Settings, keys: KeyRing, known_keys: KnownKeys, ledger: Ledger, by: Actor
) -> OperatorDesk:
    store = Auditing(opened, by)
    return OperatorDesk(
        store,
        Accounts(store, new_id=new_id, now_ms=now_ms),
        keys.written_by(store),
        _people(store, settings),
        _sessions(store, settings),
        _admin_keys(store),
        Cashier(store, store.write, new_reference=partial(new_id, "adm")),
        _webhooks(store, settings),
        AutoTopUps(store, now_ms=now_ms),
        Leases(store, ledger),
        known_keys.catch_up,
    )


async def _reload_all(store: OpenDatabase, reloading: Reloading, by: Actor) -> Reloaded:
    told = await reloading.reload(by)
    if store.replica is None:
        return told
    others = [one for one in await store.read(ReplicasThere()) if one != store.replica]
    of_others = await Orderer(store, now_ms=now_ms).reload_of(by, others)
    return Reloaded(**{name: list(dict.fromkeys(own + of_others[name])) for name, own in told.as_object().items()})


def _written_by(store: Engine, by: Sequence[Any]) -> Engine:
    return Auditing(store, Actor(*by))


def _people(store: Engine, settings: Settings) -> People:
    only_issuer = settings.oidc.shown_name if settings.oidc.only else None
    return People(store, new_id=new_id, now_ms=now_ms, only_issuer=only_issuer)


def _ledger(store: Engine, settings: Settings) -> Ledger:
    return Ledger(store, **_ledger_options(settings))


def _server_ledger(store: OpenDatabase, settings: Settings) -> Ledger:
    """One that decides alone, or for its part beside other replicas."""
    if store.replica is None:
        return _ledger(store, settings)
    return SharedLedger(store, lambda: store.replica, lambda: store.hears_others, **_ledger_options(settings))


def _ledger_options(settings: Settings) -> dict[str, Any]:
    return {
        "minimum_balance_nano": parse_usd(settings.wallet.minimum_balance_usd),
        "hold_wait_s": settings.wallet.hold_wait_s,
        "settle_wait_s": settings.wallet.settle_wait_s,
        "longest_hold_s": _longest_hold_s(settings),
        "topup_url": settings.topup_url,
    }


def _closing(store: Engine, settings: Settings, now_ms: Callable[[], int]) -> Closing:
    return Closing(store, now_ms, longest_hold_ms=int(_longest_hold_s(settings) * 1000))


def _longest_hold_s(settings: Settings) -> float:
    """More than any request takes."""
    return 2 * settings.upstream.total_timeout_s + settings.wallet.settle_wait_s


async def _catch_up(ledger: Ledger, pending: PendingFile) -> None:
    """Write what an earlier process had to leave in a file, and set the room for another one aside."""
    if entries := pending.read():
        await ledger.catch_up(entries, pending.left_by)
        logger.info("wrote %d settlements and records of an earlier run", len(entries))
        pending.remove()
    pending.set_aside()


async def _close(store: OpenDatabase, pending: PendingFile) -> None:
    replica = store.replica
    pending.write(await store.close(), replica)


@contextlib.contextmanager
def _till(settings: Settings) -> Iterator[Till | None]:
    """None where Stripe is not configured."""
    chosen = settings.stripe
    if chosen.secret_key is None or chosen.webhook_secret is None:
        yield None
        return
    from mcp_gateway.core.payments.stripe_api import StripeApi  # noqa: PLC0415 - Stripe's SDK takes 0.1 s to import

    secrets = chosen.secret_key.get_secret_value(), chosen.webhook_secret.get_secret_value()
    with contextlib.closing(StripeApi(*secrets, base_url=chosen.api_base, timeout_s=chosen.timeout_s)) as stripe:
        yield stripe


def _payments(store: Engine, till: Till, metrics: Metrics) -> Payments:
    return Payments(
        store,
        till,
        now_ms=now_ms,
        on_uncredited=lambda reason: metrics.payments_uncredited.labels(reason).inc(),
    )


def _auto_payments(store: Engine, till: Till, settings: Settings, metrics: Metrics) -> AutoPayments:
    return AutoPayments(
        store,
        till,
        TopupTerms.of(settings.stripe, f"{base_url_of(settings, settings.host, settings.port)}/"),
        now_ms=store.now_ms,
        random=Random(),  # noqa: S311 - spreads tries; keeps no secret
        count=lambda outcome: metrics.auto_topups.labels(outcome).inc(),
    )


async def _used_today(records: Records, keys: KeyRing) -> Mapping[str, int]:
    """Today's requests by key, those of the keys that it made included, and by account."""
    used = await records.requests_today(now_ms() // DAY_MS * DAY_MS)
    counts = Counter(used)
    for made_id, maker_id in await keys.makers_among(used):
        counts[maker_id] += used[made_id]
    return counts


def _keys(store: Engine, settings: Settings) -> KeyRing:
    return KeyRing(store, new_id=new_id, now_ms=now_ms, most=most_keys(settings))


def _sessions(store: Engine, settings: Settings) -> UserSessions:
    users = settings.users
    lifetimes = SessionLifetimes(users.session_idle_s * 1000, users.session_lifetime_s * 1000, users.sessions_per_user)
    return UserSessions(store, new_id=new_id, now_ms=now_ms, lifetimes=lifetimes)


def _webhooks(store: Engine, settings: Settings) -> Webhooks:
    return Webhooks(store, now_ms=now_ms, ports=settings.webhooks.ports)


def _oauth_server(
    store: Engine, keys: KeyRing, settings: Settings, metrics: Metrics, now_s: Callable[[], float]
) -> OAuthServer | None:
    chosen, public_url = settings.oauth, settings.public_url
    if not chosen.enabled or public_url is None:
        return None

    def checking(by_address: ByAddress) -> Callable[[str], None]:
        def check(address: str) -> None:
            counted = counted_as(address)
            by_address.count(counted, site_of(counted))

        return check

    return OAuthServer(
        store,
        keys,
        issuer=public_url,
        resources=[public_url + path for path in (MCP_PATH, *MCP_PATHS)],
        fetch=DocumentFetcher(resolve=Resolver(_LOOKUPS_OF_A_CLIENT)),
        check_documents=checking(ByAddress("descriptions of clients", chosen.documents_per_minute, now_s)),
        check_registrations=checking(ByAddress("registrations of clients", chosen.registrations_per_minute, now_s)),
        most_unused=chosen.max_unused_clients,
        new_id=new_id,
        now_ms=now_ms,
        count=lambda what: metrics.oauth.labels(what).inc(),
    )


def _deliveries(store: Engine, settings: Settings, metrics: Metrics) -> Deliveries:
    chosen = settings.webhooks
    return Deliveries(
        store,
        Sender(resolve=Resolver(_LOOKUPS_OF_A_WEBHOOK), ports=chosen.ports, timeout_s=chosen.timeout_s),
        operator_secrets=[] if chosen.secret is None else [chosen.secret.get_secret_value()],
        now_ms=store.now_ms,
        random=Random(),  # noqa: S311 - spreads tries; keeps no secret
        count=lambda receiver, outcome: metrics.webhook_deliveries.labels(receiver, outcome).inc(),
    )


def _admin_keys(store: Engine) -> AdminKeys:
    return AdminKeys(store, new_id=new_id, now_ms=now_ms)


def _outcomes(store: Engine, settings: Settings) -> OutcomeBook:
    return OutcomeBook(store, priors_of(settings), settings.routing.feedback)


def _bytes_in_flight(settings: Settings, addresses: AddressReader, metrics: Metrics) -> BytesInFlight:
    def own(address: str) -> str | None:
        return None if addresses.is_shared(address) else counted_as(address)

    room = BytesInFlight(settings.max_in_flight_bytes, counted_as=own)
    metrics.bytes_in_flight.labels("small").set_function(lambda: room.small.used_bytes)
    metrics.bytes_in_flight.labels("large").set_function(lambda: room.large.used_bytes)
    return room


def _watched(path: Path | None, read: Callable[[Path], T]) -> WatchedFile[T] | None:
    return None if path is None else WatchedFile(path, read)


def _image_policy(settings: Settings, blocklist: WatchedFile[frozenset[str]] | None) -> ImagePolicy:
    fetching = settings.image_fetch if settings.fetch_images else None
    return ImagePolicy(settings.enable_vision, frozenset() if blocklist is None else Blocklist(blocklist), fetching)


def _regions(
    settings: Settings, addresses: AddressReader, countries: Database | None, metrics: Metrics
) -> Regions | None:
    if not settings.policy.blocked_countries:
        return None
    return Regions(settings.policy, addresses, countries, lambda country: metrics.region_refusals.labels(country).inc())


def _image_fetcher(settings: Settings, metrics: Metrics) -> ImageFetcher | None:
    """None where none is fetched: to read the system's authorities takes 20 ms."""
    if not settings.fetch_images:
        return None
    return ImageFetcher(
        settings.image_fetch,
        resolve=Resolver(settings.image_fetch.max_at_once_per_account),
        count=lambda outcome: metrics.image_fetches.labels(outcome).inc(),
        ssl_context=ssl.create_default_context(),
    )


def _pool(settings: Settings, publishing: Publishing, samples: CounterSamples, made: Upstreams) -> Pool:
    demo = Backend("demo", DemoBackend(), models=ServedModels(measured_in(settings)))
    if not made.backends:
        whose = " for models without a provider" if made.providers else ""
        logger.warning("no backend is configured: the demo backend answers%s (set GATEWAY_VLLM_URLS)", whose)

    def keep_counters(backend: Backend, took_s: float) -> None:
        samples.note(
            backend.name,
            backend.counters,
            took_s=took_s,
            ours=backend.work.in_flight,
            others=backend.work.sent_by_others,
            failed_requests=backend.failed_requests,
        )

    return Pool(
        made.backends.values() or [demo],
        demo,
        interval_s=settings.upstream.discovery_interval_s,
        timeout_s=settings.upstream.discovery_timeout_s,
        on_change=publishing,
        on_metrics=keep_counters,
        retries=RetryBudget(settings.upstream.retry_share),
        random=Random(),  # noqa: S311 - spreads load; keeps no secret
        providers=made.providers,
    )


def _log_prices(settings: Settings, published: Published) -> None:
    """Of the models that are configured; what is only discovered is free."""
    for entry in settings.models:
        if (model := published.current.get(entry.id)) is not None:
            logger.info(price_line(model))


def _tool_servers(settings: Settings, environ: Mapping[str, str]) -> ToolServers:
    if not settings.mcp_servers:
        return ToolServers(are_exposed=settings.mcp.expose_tools)
    from mcp_gateway.core.mcp_client.reach import reach_of  # noqa: PLC0415 - the SDK takes 1 s to import
    from mcp_gateway.core.mcp_client.watched import WatchedServer  # noqa: PLC0415 - the same

    random = Random()  # noqa: S311 - spreads load; keeps no secret
    reaches = [reach_of(server, environ) for server in settings.mcp_servers]
    watched = [WatchedServer(reach, settings.mcp, random) for reach in reaches]
    return ToolServers(watched, are_exposed=settings.mcp.expose_tools)


def _watch_tool_servers(servers: ToolServers, metrics: Metrics) -> None:
    for server in servers:
        metrics.tool_server_up.labels(server.label).set_function(partial(getattr, server, "is_reached"))
        metrics.tool_server_sessions.labels(server.label).set_function(partial(getattr, server, "sessions"))
