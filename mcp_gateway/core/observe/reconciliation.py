"""Whether what was billed agrees with what the backends had counted: for each of them and their models, over a time."""

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass

from mcp_gateway.core.catalog import DEMO
from mcp_gateway.core.clock import HOUR_MS
from mcp_gateway.core.engine import Engine
from mcp_gateway.core.ids import first_id_at
from mcp_gateway.core.observe.counter_samples import CounterSample, SamplesBetween
from mcp_gateway.core.observe.differences import Comparison, Series, Sum
from mcp_gateway.core.observe.uses import BilledUse, Tokens, UsesBetween

Place = tuple[str, str]
"""A backend, and its own name for a model."""


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
        all_series = _series_of(samples)
        models: defaultdict[str, set[str]] = defaultdict(set)
        for backend, model in all_series:
            models[backend].add(model)
        uncompared: defaultdict[tuple[str, str | None], Sum] = defaultdict(Sum)
        if samples:
            async for use in self._uses(samples[0].at_ms, until_ms):
                name = _model_of(use, models[use.backend], backend_models)
                if name is not None:
                    all_series[use.backend, name].add(use)
                elif use.backend != DEMO:
                    tokens = Tokens(use.prompt_tokens, use.completion_tokens, use.cached_tokens or 0)
                    uncompared[use.backend, use.model].add(tokens)
        comparisons = [all_series[place].compare() for place in sorted(all_series)]
        rest = sorted(uncompared.items(), key=lambda one: (one[0][0], one[0][1] or ""))
        return Reconciliation(
            tuple(comparisons), tuple(Uncompared(*names, sums.requests, sums.tokens) for names, sums in rest)
        )

    async def _uses(self, first_ms: int, until_ms: int) -> AsyncIterator[BilledUse]:
        """What may have run then, an hour at a time."""
        from_ms = max(0, first_ms - self._longest_ms)
        while from_ms <= until_ms:
            before_ms = min(from_ms + HOUR_MS, until_ms + 1)
            for use in await self._store.read(UsesBetween(first_id_at("req", from_ms), first_id_at("req", before_ms))):
                yield use
            from_ms = before_ms


def _series_of(samples: Iterable[CounterSample]) -> dict[Place, Series]:
    found: defaultdict[Place, list[CounterSample]] = defaultdict(list)
    for sample in samples:
        found[sample.backend, sample.model].append(sample)
    return {place: Series(of_place) for place, of_place in found.items() if len(of_place) > 1}


def _model_of(use: BilledUse, counted: Collection[str], backend_models: Mapping[str, str]) -> str | None:
    """Under which name it was counted: of a server with one model under that, whatever else it may be called."""
    if len(counted) == 1:
        return next(iter(counted))
    public = use.model or ""
    return next((name for name in (backend_models.get(public), public) if name in counted), None)
