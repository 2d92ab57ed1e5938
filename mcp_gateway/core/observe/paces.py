"""How quickly models answered of late, by what was counted of their requests anyway.

Nothing is done for a request: the sums are looked at when somebody asks, and at most every few seconds.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

_LOOK_S = 5.0
_BEFORE_WEIGHS = 10
"""As many answers as what was known before counts for, beside those since."""


class AnswerSums(NamedTuple):
    """Of all requests for a model that have ended: streams that began, with the waits for it, and all else together."""

    requests: int = 0
    streams: int = 0
    first_token_s: float = 0.0
    duration_s: float = 0.0
    completion_tokens: int = 0

    def less(self, before: "AnswerSums") -> "AnswerSums":
        """Those since others."""
        return AnswerSums(
            self.requests - before.requests,
            self.streams - before.streams,
            self.first_token_s - before.first_token_s,
            self.duration_s - before.duration_s,
            self.completion_tokens - before.completion_tokens,
        )

    def plus(self, others: "AnswerSums") -> "AnswerSums":
        return self.less(AnswerSums().less(others))


class AnswerPace(NamedTuple):
    """How long a stream's first token takes, and how many tokens a second follow; None for what nobody knows."""

    first_token_s: float | None = None
    tokens_per_s: float | None = None


_UNKNOWN = AnswerPace()


class AnswerPaces:
    """By a model's public id; `sums` are since the process began."""

    def __init__(self, sums: Callable[[], Iterable[tuple[str, AnswerSums]]], now_s: Callable[[], float]) -> None:
        self._sums = sums
        self._now_s = now_s
        self._looked_at_s = -_LOOK_S
        self._seen: dict[str, AnswerSums] = {}
        self._paces: dict[str, AnswerPace] = {}

    def of(self, model_id: str) -> AnswerPace:
        return self._paces.get(model_id, _UNKNOWN)

    def look(self) -> None:
        """Take what has been counted since the last look, if that is some seconds ago."""
        now_s = self._now_s()
        if now_s - self._looked_at_s < _LOOK_S:
            return
        self._looked_at_s = now_s
        for model_id, sums in self._sums():
            before = self._seen.get(model_id, AnswerSums())
            if sums.requests > before.requests:
                since = sums.less(before)
                self._paces[model_id] = _paced(self.of(model_id), since)
                self._seen[model_id] = sums


def _paced(before: AnswerPace, since: AnswerSums) -> AnswerPace:
    made_in_s = since.duration_s - since.first_token_s
    tokens_per_s = since.completion_tokens / made_in_s if since.completion_tokens and made_in_s > 0 else None
    first_token_s = since.first_token_s / since.streams if since.streams else None
    return AnswerPace(
        _weighed(before.first_token_s, first_token_s, since.streams),
        _weighed(before.tokens_per_s, tokens_per_s, since.requests),
    )


def _weighed(before: float | None, now: float | None, count: int) -> float | None:
    if before is None or now is None:
        return before if now is None else now
    return (before * _BEFORE_WEIGHS + now * count) / (_BEFORE_WEIGHS + count)
