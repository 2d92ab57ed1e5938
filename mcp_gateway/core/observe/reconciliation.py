"""Whether what was billed agrees with what the backends had counted: for each of them and their models, over a time."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mcp_gateway.core.catalog import DEMO
from mcp_gateway.core.clock import HOUR_MS
from mcp_gateway.core.engine import Engine
from mcp_gateway.core.ids import first_id_at
from mcp_gateway.core.observe.counter_samples import CounterSample, SamplesBetween
from mcp_gateway.core.observe.differences import Comparison, Series, Sum
from mcp_gateway.core.observe.uses import BilledUse, Tokens, UsesBetween


@dataclass(frozen=True, slots=True)
class Uncompared:
    """What was billed of a model at a backend that told no counters of it."""

    backend: str
    model: str | None
    requests: int
    billed: Tokens


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """All that can be said of a time."""

    comparisons: tuple[Comparison, ...]
    uncompared: tuple[Uncompared, ...]

    @property
    def is_explained(self) -> bool:
        """Whether every difference has its reasons."""
        return not any(one.unexplained.distance for one in self.comparisons)


class Reconciler:
    """Reads samples and the log. `longest_ms` is the longest that a request takes."""

    def __init__(self, store: Engine, longest_ms: int) -> None:
        self._store = store
        self._longest_ms = longest_ms

    async def reconcile(self, since_ms: int, until_ms: int, backend_models: Mapping[str, str]) -> Reconciliation:
        """Of the samples between two moments, both included; `backend_models` are backends' names by public ones."""
        samples = await self._store.read(SamplesBetween(since_ms, until_ms))
        tally = _Tally(samples, backend_models)
        from_ms = max(0, samples[0].at_ms - self._longest_ms) if samples else until_ms + 1
        while from_ms <= until_ms:  # an hour at a time, since there may be any number of requests
            before_ms = min(from_ms + HOUR_MS, until_ms + 1)
            uses = await self._store.read(UsesBetween(first_id_at("req", from_ms), first_id_at("req", before_ms)))
            tally.add(uses)
            from_ms = before_ms
        return tally.compare()


class _Tally:
    """Sorts what was billed to the samples of where it was counted."""

    def __init__(self, samples: Iterable[CounterSample], backend_models: Mapping[str, str]) -> None:
        self._backend_models = backend_models
        self._series: defaultdict[str, dict[str, Series]] = defaultdict(dict)
        """By backend, and its own name for a model."""
        self._uncompared: defaultdict[tuple[str, str | None], Sum] = defaultdict(Sum)
        found: defaultdict[tuple[str, str], list[CounterSample]] = defaultdict(list)
        for sample in samples:
            found[sample.backend, sample.model].append(sample)
        for (backend, model), of_place in found.items():
            if len(of_place) > 1:
                self._series[backend][model] = Series(of_place)

    def add(self, uses: Iterable[BilledUse]) -> None:
        for use in uses:
            if (series := self._series_of(use)) is not None:
                series.add(use)
            elif use.backend != DEMO:
                uncompared = self._uncompared[use.backend, use.model]
                uncompared.add(use.prompt_tokens, use.completion_tokens, use.cached_tokens or 0)

    def compare(self) -> Reconciliation:
        comparisons = [
            series[model].compare() for _, series in sorted(self._series.items()) for model in sorted(series)
        ]
        rest = sorted(self._uncompared.items(), key=lambda one: (one[0][0], one[0][1] or ""))
        left = [Uncompared(backend, model, sums.requests, sums.tokens) for (backend, model), sums in rest]
        return Reconciliation(tuple(comparisons), tuple(left))

    def _series_of(self, use: BilledUse) -> Series | None:
        """Of a server with one model under that, whatever it was asked for by; otherwise by its name for it."""
        series = self._series[use.backend]
        if len(series) == 1:
            return next(iter(series.values()))
        public = use.model or ""
        return series.get(self._backend_models.get(public, public)) or series.get(public)
