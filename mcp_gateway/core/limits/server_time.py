"""The time by a server's clock, as far as it was heard."""

from collections.abc import Callable
from time import monotonic

_SET_BACK_S = 5.0
"""From here on a step back is one that the server's clock has made; less is an answer that took longer than others."""


class ServerTime:
    """Seconds since the Unix epoch: from `now_s` until the server was heard, and from what it said then on."""

    def __init__(self, now_s: Callable[[], float], monotonic_s: Callable[[], float] = monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._offset_s = now_s() - monotonic_s()
        self._latest_s = 0.0

    def heard(self, time_s: float) -> None:
        self._offset_s = time_s - self._monotonic_s()

    def __call__(self) -> float:
        now_s = self._monotonic_s() + self._offset_s
        if now_s < self._latest_s < now_s + _SET_BACK_S:
            return self._latest_s
        self._latest_s = now_s
        return now_s
