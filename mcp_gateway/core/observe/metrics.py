"""Prometheus metrics of the gateway, in a registry of its own."""

import asyncio
import platform
from bisect import bisect_left
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import accumulate, product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from mcp_gateway.core.money import NANO_PER_USD
from mcp_gateway.core.observe.paces import AnswerSums
from mcp_gateway.core.record import RequestRecord, RoutingFacts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_DECISION_BUCKETS_S = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.1)
_DELIVERIES = (("operator", "account"), ("delivered", "failed", "given_up"))
_LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """One attribute a metric, but for those that every request counts in; models are labelled by public id."""

    def __init__(self, version: str = "", engine_version: str = "") -> None:
        self._registry = registry = CollectorRegistry()
        self.refresh: Callable[[], None] = lambda: None
        """Sets what is only looked up when somebody asks."""
        self.told_by_all: Callable[[bytes], Awaitable[bytes]] | None = None
        """Tells those of other worker processes beside these, where there are any."""
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self._traffic = _Traffic()
        self._by_test_keys: dict[str, AnswerSums] = {}
        registry.register(self._traffic)
        self.build_info = Gauge(
            "gateway_build_info", "1; the labels say what runs.", ("version", "python", "sqlite"), registry=registry
        )
        self.build_info.labels(version, platform.python_version(), engine_version).set(1)
        self.in_flight = Gauge("gateway_in_flight", "Answers open now.", registry=registry)
        self.bytes_in_flight = Gauge(
            "gateway_bytes_in_flight", "Bytes that requests keep in memory, small ones apart from large ones.",
            ("share",), registry=registry,
        )  # fmt: skip
        self.connections = Gauge("gateway_connections", "Connections of clients open now.", registry=registry)
        self.connections_refused = Counter(
            "gateway_connections_refused", "Connections closed as they came, by which cap: all or address.", ("cap",),
            registry=registry,
        )  # fmt: skip
        self.refusals = Counter(
            "gateway_refusals", "Requests of all kinds that were answered by an error alone.", ("code",),
            registry=registry,
        )  # fmt: skip
        self.region_refusals = Counter(
            "gateway_region_refusals", "Requests that were refused for the country that they came from.", ("country",),
            registry=registry,
        )  # fmt: skip
        self.tasks = Gauge("gateway_tasks", "Tasks of the event loop: one a request or so.", registry=registry)
        self.limits_fallback = Gauge(
            "gateway_limits_fallback",
            "1 while Valkey is away and each replica allows its share of limits; 0 always without valkey_url.",
            registry=registry,
        )
        self.elected = Gauge(
            "gateway_elected", "1 where this process does what falls due by the clock: one of all replicas.",
            registry=registry,
        )  # fmt: skip
        self.replica = Gauge(
            "gateway_replica", "Which of the servers of its database this process is; 0 for one that is alone.",
            registry=registry,
        )  # fmt: skip
        self.hears_others = Gauge(
            "gateway_hears_others",
            "0 while what other servers and commands change of keys and accounts is looked for twice a second alone.",
            registry=registry,
        )
        self.limits_replicas = Gauge(
            "gateway_limits_replicas", "Processes that limits are shared by, as last known; 0 without valkey_url.",
            registry=registry,
        )  # fmt: skip
        self.ledger_writable = Gauge(
            "gateway_ledger_writable", "0 while nothing can be billed: the database is full, locked or broken.",
            registry=registry,
        )  # fmt: skip
        self.open_holds = Gauge("gateway_open_holds", "Requests that hold money.", registry=registry)
        self.held_usd = Gauge("gateway_held_usd", "What they hold together.", registry=registry)
        self.overdrawn_usd = Gauge(
            "gateway_held_beyond_wallets_usd",
            "What of it wallets do not cover, since money was taken back from outside.",
            registry=registry,
        )
        self.oldest_hold_s = Gauge(
            "gateway_oldest_hold_seconds", "For how long the oldest of them has.", registry=registry
        )
        self.ledger_queue = Gauge("gateway_ledger_queue", "Writes that wait for the database.", registry=registry)
        self.ledger_log_bytes = Gauge(
            "gateway_ledger_log_bytes", "The database's write-ahead log on the disk.", registry=registry
        )
        self.background_loop_up = Gauge(
            "gateway_background_loop_up", "0 where a background loop has ended.", ("loop",), registry=registry
        )
        self.upstream_errors = Counter(
            "gateway_upstream_errors", "Attempts at a backend that failed, amid an answer too.", ("backend", "code"),
            registry=registry,
        )  # fmt: skip
        self.backend_up = Gauge("gateway_backend_up", "1 where the backend is up.", ("backend",), registry=registry)
        self.model_available = Gauge(
            "gateway_model_available", "0 where no backend serves the model.", ("model",), registry=registry
        )
        self.usage_missing = Counter(
            "gateway_usage_missing",
            "Answers whose backend told no usage that can be: wallet.usage_missing says what was billed.", ("backend",),
            registry=registry,
        )  # fmt: skip
        self.usage_invalid = Counter(
            "gateway_usage_invalid", "Usages, and counts of prompts, of a backend that cannot be: taken for missing.",
            ("backend",), registry=registry,
        )  # fmt: skip
        self.image_fetches = Counter(
            "gateway_image_fetches",
            "Images named by their address: fetched, unreachable, status, not_an_image, too_large, busy or cancelled.",
            ("outcome",),
            registry=registry,
        )  # fmt: skip
        self.tool_calls = Histogram(
            "gateway_mcp_tool_call_seconds", "Calls of tools of MCP servers; outcome ok or failed.",
            ("server", "outcome"), registry=registry, buckets=_LATENCY_BUCKETS_S,
        )  # fmt: skip
        self.tool_server_up = Gauge(
            "gateway_mcp_server_up", "1 where the MCP server can be reached.", ("server",), registry=registry
        )
        self.tool_server_sessions = Gauge(
            "gateway_mcp_server_sessions", "Open sessions of the MCP server: the gateway's own, and accounts'.",
            ("server",), registry=registry,
        )  # fmt: skip
        self.routing_decisions = Histogram(
            "gateway_routing_decision_seconds", "What it took to choose the models of a request for auto.",
            registry=registry, buckets=_DECISION_BUCKETS_S,
        )  # fmt: skip
        self.routed_requests = Counter(
            "gateway_routed_requests", "Requests for auto, by the model that was asked last.",
            ("model", "task", "complexity"), registry=registry,
        )  # fmt: skip
        self.routing_failures = Counter(
            "gateway_routing_failures", "Requests for auto that went to the default model, since choosing failed.",
            registry=registry,
        )  # fmt: skip
        self.payments_uncredited = Counter(
            "gateway_payments_uncredited", "Events of Stripe's about money that reached no wallet.", ("reason",),
            registry=registry,
        )  # fmt: skip
        self.auto_topups = Counter(
            "gateway_auto_topups",
            "Payments that a low balance began: succeeded, failed, or put_off, to be asked after again.",
            ("outcome",), registry=registry,
        )  # fmt: skip
        self.webhook_deliveries = Counter(
            "gateway_webhook_deliveries",
            "Tries to deliver an event to the operator or an account: delivered, failed (tried again) or given_up.",
            ("receiver", "outcome"), registry=registry,
        )  # fmt: skip
        self.oauth = Counter(
            "gateway_oauth",
            "What the authorization server did: registered or document (a client), allowed or denied (by a person), "
            "redeemed (a code), refreshed, replayed (what came twice, and ended its grant) or revoked.",
            ("what",), registry=registry,
        )  # fmt: skip
        self.unpaid_usd = Counter(
            "gateway_unpaid_usd", "What answers cost beyond their holds and what their wallets had free.", ("model",),
            registry=registry,
        )  # fmt: skip
        for counter, labels in (
            *((self.connections_refused, (cap,)) for cap in ("all", "address")),
            *((self.payments_uncredited, (reason,)) for reason in ("currency", "account", "payment", "unreadable")),
            *((self.auto_topups, (outcome,)) for outcome in ("succeeded", "failed", "put_off")),
            *((self.webhook_deliveries, deliveries) for deliveries in product(*_DELIVERIES)),
        ):
            counter.labels(*labels)  # at 0: of what is rare, the first event is else no increase that Prometheus sees

    def request_ended(
        self, record: RequestRecord, duration_s: float, first_token_s: float | None, *, is_test: bool = False
    ) -> None:
        """Count one request, under model `unknown` where it named none; no `first_token_s` where no stream began.

        One by a test key says nothing of how quick the model is.
        """
        traffic, model = self._traffic, record.model or "unknown"
        traffic.requests[record.door, record.surface, model, record.http_status] += 1
        answers = traffic.answers[model, record.surface]
        answers.durations.add(duration_s)
        if first_token_s is not None:
            answers.first_tokens.add(first_token_s)
        answers.prompt_tokens += record.prompt_tokens
        answers.completion_tokens += record.completion_tokens
        answers.revenue_nano += record.cost_nano
        if is_test:
            took = AnswerSums(1, first_token_s is not None, first_token_s or 0.0, duration_s, record.completion_tokens)
            self._by_test_keys[model] = self._by_test_keys.get(model, AnswerSums()).plus(took)

    def routed(self, model: str, facts: RoutingFacts) -> None:
        """Count one request for `auto`."""
        self.routed_requests.labels(model, facts.task, facts.complexity).inc()

    def answer_sums(self) -> Iterable[tuple[str, AnswerSums]]:
        """By model, in whichever surface it was asked for; without the demo's in the model's place, for test keys."""
        by_model: dict[str, AnswerSums] = {}
        for (model, _), answers in self._traffic.answers.items():
            by_model[model] = by_model.get(model, AnswerSums()).plus(answers.sums())
        for model, sums in self._by_test_keys.items():
            by_model[model] = by_model[model].less(sums)
        return by_model.items()

    def tool_called(self, server: str, took_s: float, *, is_ok: bool) -> None:
        """Count one call of a tool of a server, by its label."""
        self.tool_calls.labels(server, "ok" if is_ok else "failed").observe(took_s)

    def fsynced(self, duration_s: float) -> None:
        """Count one fsync of the ledger; called by one thread alone."""
        self._traffic.fsyncs += 1
        self._traffic.fsync_s += duration_s

    async def told(self) -> bytes:
        """As of now, of this process."""
        self.refresh()
        return await asyncio.to_thread(self.exposition)  # some 30 lines for each model that was asked

    def exposition(self) -> bytes:
        """The Prometheus text format; may be made in a thread, beside requests that are counted."""
        return generate_latest(self._registry)


class _Distribution:
    """A histogram of seconds."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(_LATENCY_BUCKETS_S) + 1)
        self.sum_s = 0.0

    def add(self, value_s: float) -> None:
        self.counts[bisect_left(_LATENCY_BUCKETS_S, value_s)] += 1
        self.sum_s += value_s

    def buckets(self) -> list[tuple[str, float]]:
        """The upper bound of each bucket, and how many values do not exceed it."""
        bounds = [*(str(float(bound)) for bound in _LATENCY_BUCKETS_S), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))


class _Answers:
    """Of one model in one surface."""

    __slots__ = ("completion_tokens", "durations", "first_tokens", "prompt_tokens", "revenue_nano")

    def __init__(self) -> None:
        self.durations = _Distribution()
        self.first_tokens = _Distribution()
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.revenue_nano = 0

    def sums(self) -> AnswerSums:
        return AnswerSums(
            sum(self.durations.counts),
            sum(self.first_tokens.counts),
            self.first_tokens.sum_s,
            self.durations.sum_s,
            self.completion_tokens,
        )


class _Traffic(Collector):
    """What each request counts in: plain numbers, since the library's own metrics take a lock for each of seven."""

    def __init__(self) -> None:
        self.requests: Tally[tuple[str, str, str, int]] = Tally()
        self.answers: defaultdict[tuple[str, str], _Answers] = defaultdict(_Answers)
        self.fsyncs = 0
        self.fsync_s = 0.0

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "gateway_requests",
            "Requests ended, by what the caller was told.",
            labels=("door", "surface", "model", "status"),
        )
        for (door, surface, model, status), count in list(self.requests.items()):
            requests.add_metric((door, surface, model, str(status)), count)
        labels = ("model", "surface")
        tokens = CounterMetricFamily("gateway_tokens", "Tokens of prompts and answers.", labels=(*labels, "kind"))
        revenue = CounterMetricFamily("gateway_revenue_usd", "What requests were charged.", labels=labels)
        first_tokens = HistogramMetricFamily(
            "gateway_time_to_first_token_seconds",
            "From the request's arrival to the first frame of its stream.",
            labels=labels,
        )
        durations = HistogramMetricFamily(
            "gateway_request_duration_seconds",
            "From the request's arrival to the end of its answer.",
            labels=labels,
        )
        for named, answers in list(self.answers.items()):
            tokens.add_metric((*named, "prompt"), answers.prompt_tokens)
            tokens.add_metric((*named, "completion"), answers.completion_tokens)
            revenue.add_metric(named, answers.revenue_nano / NANO_PER_USD)
            first_tokens.add_metric(named, answers.first_tokens.buckets(), answers.first_tokens.sum_s)
            durations.add_metric(named, answers.durations.buckets(), answers.durations.sum_s)
        yield from (requests, tokens, revenue, first_tokens, durations)
        told = "How long it took until what was committed was on the disk."
        yield SummaryMetricFamily("gateway_ledger_fsync_seconds", told, self.fsyncs, self.fsync_s)
