"""Prometheus metrics of the gateway, in a registry of its own."""

from dataclasses import dataclass
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


@dataclass(frozen=True, slots=True)
class _OfModel:
    duration_seconds: Histogram
    first_token_seconds: Histogram
    prompt_tokens: Counter
    completion_tokens: Counter


class Metrics:
    """One attribute a metric; models are labelled by public id, or `unknown` where a request named none of them."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self.requests = Counter(
            "gateway_requests", "Requests ended, by what the caller was told.", ("route", "model", "status"),
            registry=registry,
        )  # fmt: skip
        self.tokens = Counter("gateway_tokens", "Tokens of prompts and answers.", ("model", "kind"), registry=registry)
        self.first_token_seconds = Histogram(
            "gateway_time_to_first_token_seconds", "From the request's arrival to the first frame of its stream.",
            ("model",), buckets=_LATENCY_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.duration_seconds = Histogram(
            "gateway_request_duration_seconds", "From the request's arrival to the end of its answer.",
            ("model",), buckets=_LATENCY_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.in_flight = Gauge("gateway_in_flight", "Answers open now.", registry=registry)
        self.tasks = Gauge("gateway_tasks", "Tasks of the event loop: one a request or so.", registry=registry)
        self.upstream_errors = Counter(
            "gateway_upstream_errors", "Attempts at a backend that failed.", ("backend", "code"), registry=registry
        )
        self.backend_up = Gauge("gateway_backend_up", "1 where the backend is up.", ("backend",), registry=registry)
        self.usage_missing = Counter(
            "gateway_usage_missing", "Answers whose backend told no usage, so that nothing was billed.", ("backend",),
            registry=registry,
        )  # fmt: skip
        self.usage_beyond_hold = Counter(
            "gateway_usage_beyond_hold", "Answers that cost more than was held, billed at the hold.", ("model",),
            registry=registry,
        )  # fmt: skip

        self._requests_of = cache(self.requests.labels)  # finding a label's child costs more than counting with it
        self._of_model = cache(self._children_of)

    def request_ended(
        self,
        *,
        route: str,
        model: str,
        status: int,
        duration_s: float,
        first_token_s: float | None,
        prompt_tokens: int,
        completion_tokens: int,
    ) -> None:
        """Count one request; `first_token_s` is None where no stream began."""
        self._requests_of(route, model, status).inc()
        children = self._of_model(model)
        children.duration_seconds.observe(duration_s)
        if first_token_s is not None:
            children.first_token_seconds.observe(first_token_s)
        if prompt_tokens or completion_tokens:
            children.prompt_tokens.inc(prompt_tokens)
            children.completion_tokens.inc(completion_tokens)

    def _children_of(self, model: str) -> "_OfModel":
        return _OfModel(
            self.duration_seconds.labels(model),
            self.first_token_seconds.labels(model),
            self.tokens.labels(model, "prompt"),
            self.tokens.labels(model, "completion"),
        )

    def exposition(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self._registry)
