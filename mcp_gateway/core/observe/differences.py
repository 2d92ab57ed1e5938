"""What a backend had counted of itself beside what was billed of it: the difference, and the reasons with room for it.

Pure. A reason says how far apart the two may be because of it; what is beyond all of them is unexplained.
"""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise
from operator import add
from typing import Literal

from mcp_gateway.core.observe.counter_samples import CounterSample
from mcp_gateway.core.observe.uses import NONE, BilledUse, Fate, Tokens

_CLOCKS_APART_MS = 60_000
"""How far a backend's clock may be from ours."""
_ANY = Tokens(2**63, 2**63, 2**63)
_SIDES = ((False, True), (False, False), (True, True), (True, False))
"""Whether to count in what ran at the first sample and at the last one, what is likely first."""

ReasonName = Literal[
    "aborted", "cut", "estimated", "failed", "failed_over", "ran_at_the_border", "still_running",
    "backend_restarted", "restarted", "several_choices", "cached_not_told", "by_others",
]  # fmt: skip
_APART: tuple[Literal["aborted", "cut", "estimated", "failed"], ...] = ("aborted", "cut", "estimated", "failed")
"""The fates of requests of which a backend may have counted anything."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a backend may have counted up to `most` more than was billed, or less, by `least` (which is below nothing).

    `times` is of how many requests, choices or restarts; None where nobody tells.
    """

    name: ReasonName
    times: int | None
    least: Tokens = NONE
    most: Tokens = NONE

    def reaches(self, difference: Tokens) -> bool:
        """Whether it has room in the direction of any of these."""
        rooms = zip(difference.kinds, self.least.kinds, self.most.kinds, strict=True)
        return any((told > 0 and most > 0) or (told < 0 and least < 0) for told, least, most in rooms)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of one backend and model, from its first sample of a time to its last; `difference` is `counted` less `billed`.

    `models` are the public names that were billed. Where the backend counts no cached tokens, none are compared.
    """

    backend: str
    model: str
    since_ms: int
    until_ms: int
    models: tuple[str, ...]
    requests: int
    billed: Tokens
    counted: Tokens
    counts_cached: bool
    difference: Tokens
    reasons: tuple[Reason, ...]
    unexplained: Tokens


@dataclass(slots=True)
class Sum:
    """Of requests, and their tokens."""

    requests: int = 0
    prompt: int = 0
    completion: int = 0
    cached: int = 0

    def add(self, prompt: int, completion: int, cached: int, requests: int = 1) -> None:
        self.requests += requests
        self.prompt += prompt
        self.completion += completion
        self.cached += cached

    def take(self, other: "Sum") -> None:
        self.add(other.prompt, other.completion, other.cached, other.requests)

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.prompt, self.completion, self.cached)


@dataclass(slots=True)
class Sums:
    """Of requests that lie between the same samples: of all, of those that were not simply answered, by their fate, and
    of those of which no cached tokens were told.
    """

    all: Sum = field(default_factory=Sum)
    fates: defaultdict[Fate, Sum] = field(default_factory=lambda: defaultdict(Sum))
    untold: Sum = field(default_factory=Sum)
    largest_prompt: int = 0
    models: set[str] = field(default_factory=set)

    def add(self, use: BilledUse, cached: int) -> None:
        prompt, completion, fate = use.prompt_tokens, use.completion_tokens, use.fate
        self.all.add(prompt, completion, cached)
        if fate != "answered":
            self.fates[fate].add(prompt, completion, cached)
        if use.cached_tokens is None:
            self.untold.add(prompt, completion, cached)
        if prompt > self.largest_prompt:
            self.largest_prompt = prompt
        if use.model is not None:
            self.models.add(use.model)

    def take(self, *others: "Sums") -> "Sums":
        """These with all others."""
        for sums in others:
            self.all.take(sums.all)
            self.untold.take(sums.untold)
            for fate, of_fate in sums.fates.items():
                self.fates[fate].take(of_fate)
            self.largest_prompt = max(self.largest_prompt, sums.largest_prompt)
            self.models |= sums.models
        return self


class Series:
    """The samples of one backend and model, two at least, and the requests that were billed of it."""

    def __init__(self, told: Sequence[CounterSample]) -> None:
        self._told = told
        self._last_of = {sample.run_at_ms: sample for sample in told}
        """Of each run: of the gateway after a restart, or of replicas beside each other."""
        self._samples = samples = _one_at_a_time(told)
        self._read_ms = [sample.at_ms for sample in samples]
        self._asked_ms = [sample.asked_at_ms for sample in samples]
        self._counts_cached = all(sample.counters.cached_tokens is not None for sample in samples)
        self._spans: defaultdict[tuple[int, int], Sums] = defaultdict(Sums)
        """By how many samples had been taken before they began, and how many had been begun before they ended."""

    def add(self, use: BilledUse) -> None:
        """Take a request of whichever time."""
        began = bisect_left(self._read_ms, use.started_at_ms)
        ended = bisect_right(self._asked_ms, use.ended_at_ms)
        self._spans[began, ended].add(use, (use.cached_tokens or 0) if self._counts_cached else 0)

    def compare(self) -> Comparison:
        counted = self._counted()
        billed, border = self._billed(counted)
        difference = counted - billed.all.tokens
        reasons = [border, *self._reasons(billed), *self._others(billed.all.requests + (border.times or 0))]
        least = reduce(add, (reason.least for reason in reasons))
        most = reduce(add, (reason.most for reason in reasons))
        first, last = self._samples[0], self._samples[-1]
        return Comparison(
            backend=first.backend,
            model=first.model,
            since_ms=first.at_ms,
            until_ms=last.at_ms,
            models=tuple(sorted(billed.models)),
            requests=billed.all.requests,
            billed=billed.all.tokens,
            counted=counted,
            counts_cached=self._counts_cached,
            difference=difference,
            reasons=tuple(reason for reason in reasons if reason.reaches(difference)),
            unexplained=difference - _within(difference, least, most),
        )

    def _counted(self) -> Tokens:
        prompt, completion, cached = map(self._gain, ("prompt_tokens", "completion_tokens", "cached_tokens"))
        return Tokens(prompt or 0, completion or 0, (cached or 0) if self._counts_cached else 0)

    def _gain(self, name: str) -> int | None:
        """By how much a counter grew, over restarts; None where it was not always told."""
        if any(getattr(sample.counters, name) is None for sample in self._samples):
            return None
        return sum(_count(later, name) - _start(earlier, later, name) for earlier, later in self._steps)

    @property
    def _steps(self) -> Iterable[tuple[CounterSample, CounterSample]]:
        return pairwise(self._samples)

    def _billed(self, counted: Tokens) -> tuple[Sums, Reason]:
        """What was billed in that time, and the room of what ran at its ends.

        Nobody knows how much of that was counted at which side, so it is taken to the sides where the sums agree best.
        """
        within, at_first, at_last = Sums(), Sums(), Sums()
        for (began, ended), sums in self._spans.items():
            if began == 0 < ended:
                at_first.take(sums)
            elif began < ended == len(self._samples):
                at_last.take(sums)
            elif 0 < began <= ended < len(self._samples):
                within.take(sums)
        sides = [[one for one, is_in in zip((at_first, at_last), taken, strict=True) if is_in] for taken in _SIDES]
        likely = min(
            (Sums().take(within, *some) for some in sides), key=lambda one: (counted - one.all.tokens).distance
        )
        inside, border = likely.all.tokens - within.all.tokens, Sums().take(at_first, at_last).all
        return likely, Reason("ran_at_the_border", border.requests, NONE - inside, border.tokens - inside)

    def _reasons(self, billed: Sums) -> Iterator[Reason]:
        """What there is evidence of, but for the ends and others."""
        for fate in _APART:
            if ended := billed.fates[fate].requests:
                yield Reason(fate, ended, NONE - billed.fates[fate].tokens, _ANY)
        if (failed_over := self._failed_requests() - billed.fates["failed"].requests) > 0:
            yield Reason("failed_over", failed_over, most=_ANY)
        if restarts := [number for number, step in enumerate(self._steps, 1) if _is_restart(*step)]:
            yield Reason("backend_restarted", len(restarts), NONE - self._tokens_at(restarts))
        live = [last for last in self._last_of.values() if not self._has_ended(last)]
        if ended := len(self._last_of) - len(live):
            yield Reason("restarted", ended, most=_ANY)
        if (running := sum(last.ours for last in live) - self._recorded_at_last()) > 0:
            yield Reason("still_running", running, most=_ANY)
        if choices := self._gain("more_choices"):
            prompts = choices * billed.largest_prompt
            yield Reason("several_choices", choices, most=Tokens(prompts, 0, prompts))
        if self._counts_cached and billed.untold.requests:
            yield Reason("cached_not_told", billed.untold.requests, most=Tokens(cached=billed.untold.prompt))

    def _has_ended(self, last: CounterSample) -> bool:
        """Whether a run has, of which this is the last sample: another has begun since, or was read on and on."""
        later = Counter(sample.run_at_ms for sample in self._told if sample.at_ms > last.at_ms)
        return any(run_at_ms > last.at_ms or times > 1 for run_at_ms, times in later.items())

    def _others(self, requests: int) -> Iterator[Reason]:
        """Whether anybody else made it work: by what it finished beyond ours, and what it had as it was read.

        Of that the requests of other replicas are a part, where there were any.
        """
        finished = self._gain("finished_requests")
        is_alone = len(self._samples) == len(self._told)
        seen = max(sample.others for sample in self._samples) if is_alone else 0
        if finished is None or (times := max(finished - requests, seen)) > 0:
            yield Reason("by_others", None if finished is None else times, most=_ANY)

    def _recorded_at_last(self) -> int:
        """How many requests that ran as the last sample was taken have ended since."""
        last = len(self._samples)
        return sum(sums.all.requests for (began, ended), sums in self._spans.items() if began < last == ended)

    def _failed_requests(self) -> int:
        """Of ours at that backend, whichever of its models they were for."""
        since_ms = self._told[0].at_ms
        first_of = {sample.run_at_ms: sample for sample in reversed(self._told)}
        before = sum(first.failed_requests for first in first_of.values() if first.run_at_ms <= since_ms)
        return sum(last.failed_requests for last in self._last_of.values()) - before

    def _tokens_at(self, restarts: Sequence[int]) -> Tokens:
        """Of requests that ran between the last sample before a restart and the first one after."""
        ran = (
            sums.all.tokens
            for (began, ended), sums in self._spans.items()
            if any(began <= number <= ended for number in restarts)
        )
        return reduce(add, ran, NONE)


def _one_at_a_time(told: Sequence[CounterSample]) -> Sequence[CounterSample]:
    """Those of one run until it ends, then another's: what several replicas read side by side may be in any order."""
    last_of = {sample.run_at_ms: sample for sample in told}
    taken = [told[0]]
    for sample in told[1:]:
        run_at_ms = taken[-1].run_at_ms
        if sample.run_at_ms == run_at_ms or last_of[run_at_ms] is taken[-1]:
            taken.append(sample)
    return taken


def _is_restart(earlier: CounterSample, later: CounterSample) -> bool:
    return not later.counters.goes_on_from(earlier.counters)


def _start(earlier: CounterSample, later: CounterSample, name: str) -> int:
    """From where a counter grew: from 0 after a restart, but where another server took the backend's place."""
    if not _is_restart(earlier, later):
        return _count(earlier, name)
    began_at_ms = later.counters.began_at_ms
    is_anew = began_at_ms is None or began_at_ms > earlier.at_ms - _CLOCKS_APART_MS
    return 0 if is_anew else _count(later, name)


def _count(sample: CounterSample, name: str) -> int:
    return int(getattr(sample.counters, name))


def _within(difference: Tokens, least: Tokens, most: Tokens) -> Tokens:
    """The nearest to it that there is room for."""
    rooms = zip(difference.kinds, least.kinds, most.kinds, strict=True)
    return Tokens(*(max(low, min(told, high)) for told, low, high in rooms))
