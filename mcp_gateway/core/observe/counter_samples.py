"""What backends had counted, by time: samples of their counters, taken whenever their metrics are read.

Knows no page of metrics and no bill; observe/reconciliation.py compares the two.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil

from mcp_gateway.core.clock import DAY_MS, HOUR_MS
from mcp_gateway.core.engine import Engine, Scan, Write
from mcp_gateway.core.token_counters import TokenCounters

logger = logging.getLogger(__name__)

_KEPT_WHOLE_MS = DAY_MS
"""Of older samples the last of each hour is kept."""


@dataclass(frozen=True, slots=True)
class CounterSample:
    """What a backend had counted of a model by its own name, as the gateway that began at `run_at_ms` read it.

    It was counted at some time from `asked_at_ms` to `at_ms`. `ours` are the requests that the gateway had there then,
    `others` those of anybody else, other replicas too; `failed_requests` are of ours there since that began.
    """

    at_ms: int
    asked_at_ms: int
    backend: str
    model: str
    run_at_ms: int
    counters: TokenCounters
    ours: int
    others: int
    failed_requests: int


@dataclass(frozen=True, slots=True)
class NoteSamples(Write[None]):
    """Samples that were taken at once."""

    samples: tuple[CounterSample, ...]


@dataclass(frozen=True, slots=True)
class ThinSamples(Write[None]):
    """Keep of each hour before `whole_from_ms` the last sample of a run and of a beginning of the counters."""

    whole_from_ms: int
    kept_from_ms: int


@dataclass(frozen=True, slots=True)
class SamplesBetween(Scan[list[CounterSample]]):
    """In order of time, `until_ms` inclusive."""

    since_ms: int
    until_ms: int


class CounterSamples:
    """Keeps what is read, so many days of it."""

    def __init__(self, store: Engine, now_ms: Callable[[], int], *, kept_days: int) -> None:
        self._store = store
        self._now_ms = now_ms
        self._run_at_ms = now_ms()
        self._kept_ms = kept_days * DAY_MS
        self._thinned_hour = 0

    def note(
        self,
        backend: str,
        counters: Mapping[str, TokenCounters],
        *,
        took_s: float,
        ours: int,
        others: int,
        failed_requests: int,
    ) -> "asyncio.Future[None] | None":
        """Keep what was read just now, which took so long, without waiting for it; None where there is nothing."""
        if not counters:
            return None
        at_ms, run_at_ms = self._now_ms(), self._run_at_ms
        asked_at_ms = at_ms - ceil(took_s * 1000)
        samples = tuple(
            CounterSample(at_ms, asked_at_ms, backend, model, run_at_ms, of_model, ours, others, failed_requests)
            for model, of_model in counters.items()
        )
        self._thin(at_ms)
        written = self._store.write(NoteSamples(samples), is_durable=False)
        written.add_done_callback(_note_failure)
        return written

    def _thin(self, at_ms: int) -> None:
        if at_ms // HOUR_MS > self._thinned_hour:
            self._thinned_hour = at_ms // HOUR_MS
            whole_from_ms = (at_ms - _KEPT_WHOLE_MS) // HOUR_MS * HOUR_MS
            thinned = self._store.write(ThinSamples(whole_from_ms, at_ms - self._kept_ms), is_durable=False)
            thinned.add_done_callback(_note_failure)


def _note_failure(written: "asyncio.Future[None]") -> None:
    """A sample that is missing makes two others stand further apart, and no more."""
    if not written.cancelled() and (error := written.exception()) is not None:
        logger.info("what a backend has counted could not be kept: %s", type(error).__name__)
