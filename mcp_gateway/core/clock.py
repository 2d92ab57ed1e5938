"""The wall clock as limits and grants go by it: it never goes back, and believes a leap only at a second look."""

import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_S = 86_400
DAY_MS = DAY_S * 1000
"""The epoch began at midnight UTC, so that a whole number of these is a midnight too."""
_LEAP_S = DAY_S
"""A step forward of more than this may be a mistake, which would end every grant and limit that it passes."""
_SECOND_LOOK_S = 60.0
_LOOK_S = 1.0
"""How often the wall clock is looked at; in between time passes by the other one, since each request asks often."""


class SteadyClock:
    """The time since the Unix epoch, told by its methods: to call one costs less than to call an object.

    A wall clock that is set back is followed at its pace, from where it was; one that is set forward, within a second.
    One that leaps forward by more than a day is believed once it has stood there for a minute.
    """

    def __init__(
        self, wall_s: Callable[[], float] = time.time, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall_s = wall_s
        self._monotonic_s = monotonic_s
        self._offset_s = wall_s() - monotonic_s()
        self._next_look_s = monotonic_s() + _LOOK_S
        self._doubted_since_s: float | None = None

    def now_s(self) -> float:
        """In seconds."""
        monotonic_s = self._monotonic_s()
        if monotonic_s >= self._next_look_s:
            self._look(monotonic_s)
        return monotonic_s + self._offset_s

    def now_ms(self) -> int:
        """In whole milliseconds."""
        return int(self.now_s() * 1000)

    def _look(self, monotonic_s: float) -> None:
        """Follow a wall clock that is ahead."""
        self._next_look_s = monotonic_s + _LOOK_S
        ahead_s = self._wall_s() - monotonic_s - self._offset_s
        if ahead_s <= _LEAP_S:
            self._doubted_since_s = None
        elif not self._is_believed(monotonic_s, ahead_s):
            return
        if ahead_s > 0:
            self._offset_s += ahead_s

    def _is_believed(self, monotonic_s: float, ahead_s: float) -> bool:
        if self._doubted_since_s is None:
            self._doubted_since_s = monotonic_s
            logger.warning("the clock leapt forward by %d s: limits and grants follow in a minute", ahead_s)
        if monotonic_s - self._doubted_since_s < _SECOND_LOOK_S:
            return False
        self._doubted_since_s = None
        return True
